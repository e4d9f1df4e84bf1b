"""Drafts that branch: which combinations of the heads' likeliest tokens one forward verifies."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

MAX_NODES = 32
"""Of a tree, the newest token at its root included."""

MAX_RANKS = 8
"""Tokens of each head that a tree may hold."""


@dataclass(frozen=True)
class Tree:
    """Nodes in order of depth; node 0 is the newest token, which stands already.

    A node of depth d holds a token of offset d + 1: the one that the head of this offset ranks
    at `ranks[node]` (0 is the likeliest). Which tokens lie on the way to it makes no difference to
    a head that does not read them, so a tree is a part of the product of all heads' lists.

    Source: tree attention, Miao et al. 2023 (SpecInfer), arXiv 2305.09781, section 4; of heads'
    products, Cai et al. 2024 (Medusa), arXiv 2401.10774, section 2.1.2.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: no tree: too many nodes, a node before its parent, or a token twice.
        """
        nodes = list(zip(self.parents, self.ranks, strict=True))
        if not 2 <= len(nodes) <= MAX_NODES or nodes[0] != (0, 0):
            raise ValueError(f"a tree has 2..{MAX_NODES} nodes, of which 0 is its own parent")
        if any(not 0 <= parent < node for node, (parent, _) in enumerate(nodes[1:], 1)):
            raise ValueError("a node's parent must come before it")
        if len(set(nodes[1:])) < len(nodes) - 1 or not all(0 <= r < MAX_RANKS for r in self.ranks):
            raise ValueError(f"siblings must have ranks of their own, in 0..{MAX_RANKS - 1}")
        if list(self.depths) != sorted(self.depths):
            raise ValueError("nodes must come in order of depth")

    @cached_property
    def depths(self) -> tuple[int, ...]:
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @property
    def num_nodes(self) -> int:
        return len(self.parents)

    @property
    def num_drafts(self) -> int:
        """How deep it is: tokens that a round may accept."""
        return self.depths[-1]

    @property
    def num_ranks(self) -> int:
        return max(self.ranks) + 1

    def expected_tokens(self, rates: Sequence[Sequence[float]]) -> float:
        """Tokens a round: the root's successor, and each node as often as it stands.

        Args:
            rates: of each depth from 1 on, how often the token at each rank is the right one.
        """
        stands = [1.0]
        for node in range(1, self.num_nodes):
            rate = rates[self.depths[node] - 1][self.ranks[node]]
            stands.append(stands[self.parents[node]] * rate)
        return sum(stands)

    @classmethod
    def product(cls, widths: Sequence[int]) -> "Tree":
        """All combinations of each head's `widths` likeliest tokens.

        Raises:
            ValueError: these are too many.
        """
        parents, ranks, level = [0], [0], [0]
        for width in widths:
            nodes = [(parent, rank) for parent in level for rank in range(width)]
            level = list(range(len(parents), len(parents) + len(nodes)))
            parents += [parent for parent, _ in nodes]
            ranks += [rank for _, rank in nodes]
        return cls(tuple(parents), tuple(ranks))

    @classmethod
    def best(cls, rates: Sequence[Sequence[float]], num_nodes: int) -> "Tree":
        """The tree of so many nodes that is expected to accept the most.

        Since a node stands no more often than its parent, and as often as its rank's rate says,
        the nodes that stand most often are a tree: taken one by one, each time the likeliest.

        Args:
            rates: as for `expected_tokens`, falling along the ranks.
        """
        taken: list[tuple[int, ...]] = [()]  # the ranks on the way to each node
        waiting: list[tuple[float, tuple[int, ...]]] = []

        def offer(path: tuple[int, ...]) -> None:
            stands = math.prod(rates[depth][rank] for depth, rank in enumerate(path))
            heapq.heappush(waiting, (-stands, path))

        offer((0,))
        while waiting and len(taken) < num_nodes:
            _, path = heapq.heappop(waiting)
            taken.append(path)
            if path[-1] + 1 < min(MAX_RANKS, len(rates[len(path) - 1])):
                offer((*path[:-1], path[-1] + 1))
            if len(path) < len(rates):
                offer((*path, 0))
        taken.sort(key=lambda path: (len(path), path))
        place = {path: node for node, path in enumerate(taken)}
        return cls(
            tuple(place[path[:-1]] if path else 0 for path in taken),
            tuple(path[-1] if path else 0 for path in taken),
        )


class TreeTensors(NamedTuple):
    """A tree on a device; N nodes, k drafts deep.

    Attributes:
        slots_N: of each node but the root, its token's place in the (k, ranks) lists of drafts,
            flattened; the root's is 0.
        sees_NN: whether a node has another on its way from the root, or is it.
        is_at_kN: of each depth from 1 on, the nodes there.
    """

    parents_N: Tensor
    depths_N: Tensor
    slots_N: Tensor
    sees_NN: Tensor
    is_at_kN: Tensor


@lru_cache(maxsize=64)
def tensors_of(tree: Tree, device: torch.device) -> TreeTensors:
    """Those of the trees asked for last are kept; who needs them for longer must hold them."""
    sees_NN = torch.eye(tree.num_nodes, dtype=torch.bool)
    for node in range(1, tree.num_nodes):
        sees_NN[node] |= sees_NN[tree.parents[node]]
    depths_N = torch.tensor(tree.depths)
    slots_N = (depths_N - 1).clamp(min=0) * tree.num_ranks + torch.tensor(tree.ranks)
    is_at_kN = depths_N == torch.arange(1, tree.num_drafts + 1)[:, None]
    parents_N = torch.tensor(tree.parents)
    return TreeTensors(
        *(one.to(device) for one in (parents_N, depths_N, slots_N, sees_NN, is_at_kN))
    )


def follow(
    tensors: TreeTensors, num_drafts: int, tokens_BN: Tensor, targets_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """The node that stands at each depth, (B, k + 1), and how many drafts stand, (B,).

    Behind the last that stands, it is that one again. A node stands if its parent does and it
    holds what plain decoding writes behind that; siblings hold other tokens, so at most one does.
    """
    agrees_BN = tokens_BN == targets_BN[:, tensors.parents_N]
    nodes_B = torch.zeros_like(tokens_BN[:, 0])
    path, accepted_B = [nodes_B], torch.zeros_like(nodes_B)
    for depth in range(num_drafts):
        is_child_BN = tensors.is_at_kN[depth] & (tensors.parents_N == nodes_B[:, None])
        stands_BN = is_child_BN & agrees_BN & (accepted_B == depth)[:, None]
        has_B = stands_BN.any(dim=1)
        nodes_B = torch.where(has_B, stands_BN.int().argmax(dim=1), nodes_B)
        accepted_B = accepted_B + has_B
        path.append(nodes_B)
    return torch.stack(path, dim=1), accepted_B
