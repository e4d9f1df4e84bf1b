"""The multi-token objective: one head's loss and backward at a time.

Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2 (the loss, equation 2; the order of
forward and backward, figure 2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtp_code.model.heads.base import Heads
from mtp_code.model.layers import Attending
from mtp_code.model.mtp import MTPModel, Reading
from mtp_code.training.config import ObjectiveConfig
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.losses.chunked import (
    IGNORED,
    Labels,
    Target,
    chunked_backward,
    chunked_loss,
    compute_dtype,
)
from mtp_code.training.losses.distillation import Teacher
from mtp_code.training.losses.token_order import TokenOrder

Figures = dict[str, Tensor]
"""A step's losses in nats, each a mean over the labels of the whole step, by the name they are
logged under; offsets that were left out, or have no label in the step, are NaN. Micro-batches add
up."""


PLAIN = ObjectiveConfig()


def labels_for(offset: int, tokens_BS: Tensor, documents_BS: Tensor, num_positions: int) -> Tensor:
    """The tokens at `offset` ahead of each of the first T positions, as (B, T).

    A token of another document is no label (`IGNORED`), and padding (document −1) never is.
    """
    ahead = slice(offset, offset + num_positions)
    same = documents_BS[:, ahead] == documents_BS[:, :num_positions]
    known = same & (documents_BS[:, ahead] >= 0)
    return tokens_BS[:, ahead].masked_fill(~known, IGNORED)


def backward_by_head(
    model: MTPModel,
    tokens_BS: Tensor,
    documents_BS: Tensor,
    num_labels_K: Tensor,
    mask_documents: bool,
    objective: ObjectiveConfig = PLAIN,
    weights: Sequence[float] | None = None,
) -> Figures:
    """Adds the gradients of the weighted sum of all offsets' mean losses.

    One trunk forward; then head by head forward, loss and backward into the gradient of the
    states that the head reads; then one trunk backward. So no two heads' activations or logits
    are held at once. Equal to the naive sum to rounding.

    Where heads read each other, a forward without a graph comes first and keeps only the states
    between heads. Then the heads run again, last one first: when a head's turn comes, all that
    read it have left their gradient at its states.

    Args:
        tokens_BS: rows of T + n tokens, so that no label is lost at a row's end.
        documents_BS: the document of each token; negative is padding.
        num_labels_K: labels of each offset in the whole optimizer step, of which this may be one
            micro-batch: the losses are sums over this micro-batch ÷ these numbers. On the CPU,
            so that nothing waits for a GPU.
        mask_documents: attention stays within each document.
        weights: of each offset; None is 1 for each. Offsets behind the last one above 0 are left
            out.
    """
    weights = weights or (1.0,) * model.num_mtp_heads
    num_active = max(offset for offset, weight in enumerate(weights, 1) if weight > 0)
    losses = _Losses(model, tokens_BS, documents_BS, num_labels_K, objective, weights)
    read = _read(model, tokens_BS, documents_BS, mask_documents)
    walk = _Walk(model.mtp_heads, read, model.mtp_heads.backward_order(range(1, num_active + 1)))
    if 1 in walk.boundaries:
        losses.teach_by(walk.boundaries[1])

    for offset in walk.order:
        above = walk.boundaries.pop(offset, None)
        _backward_head(
            walk.states(offset),
            None if above is None else above.grad,
            offset,
            losses if offset <= num_active else None,
        )
    walk.backward_trunk()
    return losses.figures()


@torch.no_grad()
def losses_by_offset(
    model: MTPModel, tokens_BS: Tensor, documents_BS: Tensor, mask_documents: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss (nats) and number of labels of each offset, both (K,)."""
    read = _read(model, tokens_BS, documents_BS, mask_documents)
    reading = Reading(model, tokens_BS, read.hidden_BTD, read.attending)
    sums, counts = [], []
    for offset in range(1, model.num_mtp_heads + 1):
        labels_N = labels_for(offset, tokens_BS, documents_BS, read.hidden_BTD.shape[1]).flatten()
        normed_ND = model.norm(reading.states(offset)).flatten(0, 1)
        weight_VD = model.unembedding_for(offset).weight
        logits_bytes = PLAIN.logits_bytes(labels_N.device.type)
        sums.append(chunked_loss(normed_ND, weight_VD, Labels(labels_N), logits_bytes))
        counts.append((labels_N != IGNORED).sum())
    return torch.stack(sums), torch.stack(counts)


def count_labels(num_offsets: int, tokens_BS: Tensor, documents_BS: Tensor) -> Tensor:
    """Labels that a batch holds for each offset, (K,)."""
    num_positions = tokens_BS.shape[1] - num_offsets
    return torch.stack(
        [
            (labels_for(offset, tokens_BS, documents_BS, num_positions) != IGNORED).sum()
            for offset in range(1, num_offsets + 1)
        ]
    )


class _Read(NamedTuple):
    """The trunk's states at all positions but the last n, whose labels would be cut off.

    `embedded_BSD` is there for heads that read tokens: one look-up for the trunk and all of them,
    as the gradient of each would be a matrix of the embedding's size.
    """

    hidden_BTD: Tensor
    attending: Attending
    embedded_BSD: Tensor | None


def _read(model: MTPModel, tokens_BS: Tensor, documents_BS: Tensor, mask_documents: bool) -> _Read:
    num_positions = tokens_BS.shape[1] - model.num_mtp_heads
    inputs_BT = tokens_BS[:, :num_positions]
    documents_BT = documents_BS[:, :num_positions] if mask_documents else None
    attending = model.trunk.attend(inputs_BT, documents_BT)
    if not model.mtp_heads.reads_tokens:
        return _Read(model.trunk(inputs_BT, attending), attending, None)
    embedded_BSD = model.trunk.embedding(tokens_BS)
    hidden_BTD = model.trunk.from_embedded(embedded_BSD[:, :num_positions], attending)
    return _Read(hidden_BTD, attending, embedded_BSD)


class _Walk:
    """The heads in the order of their backward, each with a graph of its own.

    Attributes:
        order: offsets, each before the one that it reads.
        boundaries: the states that heads read, by their offset (0 is the trunk): where one graph
            ends and the gradients of those that read them add up.
    """

    def __init__(self, heads: Heads, read: _Read, order: list[int]) -> None:
        self._heads, self._read, self.order = heads, read, order
        self._embedded_BSD = None if read.embedded_BSD is None else _boundary(read.embedded_BSD)
        self.boundaries = {0: _boundary(read.hidden_BTD)}
        with torch.no_grad():
            for offset in reversed(order):
                if any(heads.reads(other) == offset for other in order):
                    self.boundaries[offset] = _boundary(self.states(offset))

    def states(self, offset: int) -> Tensor:
        """Runs one head on the states that it reads."""
        below_BTD, ahead_BTD = self.boundaries[self._heads.reads(offset)], None
        if self._embedded_BSD is not None:
            ahead_BTD = self._embedded_BSD[:, offset - 1 : offset - 1 + below_BTD.shape[1]]
        return self._heads(offset, below_BTD, self._read.attending, ahead_BTD)  # type: ignore[no-any-return]

    def backward_trunk(self) -> None:
        pairs = [(self._read.hidden_BTD, self.boundaries[0].grad)]
        if self._read.embedded_BSD is not None and self._embedded_BSD is not None:
            pairs.append((self._read.embedded_BSD, self._embedded_BSD.grad))
        wanted = [(end, grad) for end, grad in pairs if end.requires_grad and grad is not None]
        if wanted:
            ends, gradients = zip(*wanted, strict=True)
            torch.autograd.backward(ends, gradients)


def _boundary(states_BTD: Tensor) -> Tensor:
    """The same states, where gradients stop and add up."""
    return states_BTD.detach().requires_grad_()


def _backward_head(
    states_BTD: Tensor, above_grad_BTD: Tensor | None, offset: int, losses: "_Losses | None"
) -> None:
    """One head's backward, from its own losses and from the head that reads its states."""
    ends, gradients = [], []
    if above_grad_BTD is not None:
        ends, gradients = [states_BTD], [above_grad_BTD]
    if losses is not None:
        normed_BTD = losses.norm(states_BTD)
        ends.append(normed_BTD)
        gradients.append(losses.gradient(offset, normed_BTD.detach()))
    torch.autograd.backward(ends, gradients)


class _Losses:
    """The losses of one micro-batch, head by head, and their gradients by the heads' states."""

    def __init__(
        self,
        model: MTPModel,
        tokens_BS: Tensor,
        documents_BS: Tensor,
        num_labels_K: Tensor,
        objective: ObjectiveConfig,
        weights: Sequence[float],
    ) -> None:
        self._model, self._objective, self._weights = model, objective, weights
        self._tokens_BS, self._documents_BS = tokens_BS, documents_BS
        self._num_positions = tokens_BS.shape[1] - model.num_mtp_heads
        self._num_labels: list[int] = num_labels_K.tolist()
        self._backend = load_backend(objective.loss, tokens_BS.device)
        self._logits_bytes = objective.logits_bytes(tokens_BS.device.type)
        self._teacher_BTD: Tensor | None = None
        self._by_offset: dict[int, Tensor] = {}
        self._divergence_by_offset: dict[int, Tensor] = {}
        self._token_order: Tensor | None = None

    def norm(self, states_BTD: Tensor) -> Tensor:
        return self._model.norm(states_BTD)  # type: ignore[no-any-return]

    @torch.no_grad()
    def teach_by(self, states_BTD: Tensor) -> None:
        """Takes head 1's states, where later heads learn from it and come before it."""
        if self._objective.distillation is not None:
            self._teacher_BTD = self.norm(states_BTD)

    def gradient(self, offset: int, normed_BTD: Tensor) -> Tensor:
        """Computes all losses of one head; returns their gradient by its normed states."""
        labels_BT = labels_for(offset, self._tokens_BS, self._documents_BS, self._num_positions)
        weight_VD = self._model.unembedding_for(offset).weight
        count, weight = max(1, self._num_labels[offset - 1]), self._weights[offset - 1]
        states_ND = normed_BTD.flatten(0, 1)
        loss, grad_ND = self._backend(
            states_ND,
            weight_VD,
            _gradient_of(weight_VD),
            labels_BT.flatten(),
            weight / count,
            self._logits_bytes,
        )
        self._by_offset[offset] = loss / count
        distillation, token_order = self._objective.distillation, self._objective.token_order
        if distillation is not None and offset == 1:
            self._teacher_BTD = normed_BTD
            self._divergence_by_offset[1] = torch.zeros_like(loss)  # from itself
        elif distillation is not None:
            assert self._teacher_BTD is not None
            teacher_VD = self._model.unembedding.weight
            known_BT, dtype = labels_BT != IGNORED, compute_dtype(states_ND)
            teacher = Teacher(offset, self._teacher_BTD, teacher_VD, known_BT, dtype)
            share = distillation.weight * weight
            self._divergence_by_offset[offset] = self._add(
                teacher, states_ND, grad_ND, weight_VD, share, count
            )
        if token_order is not None and offset == 1:
            ranking = TokenOrder(
                token_order.window, self._tokens_BS, self._documents_BS, self._num_positions
            )
            unembedding = self._model.token_order_unembedding
            assert unembedding is not None
            self._token_order = self._add(
                ranking, states_ND, grad_ND, unembedding.weight, token_order.weight, count
            )
        return grad_ND.view_as(normed_BTD)

    def figures(self) -> Figures:
        figures = {
            "loss": self._weighted_sum(self._by_offset),
            "loss_by_offset": self._stacked(self._by_offset),
        }
        if (distillation := self._objective.distillation) is not None:
            figures["distillation_by_offset"] = self._stacked(self._divergence_by_offset)
            divergence = self._weighted_sum(self._divergence_by_offset)
            figures["loss"] += distillation.weight * divergence
        if (token_order := self._objective.token_order) is not None:
            assert self._token_order is not None
            figures["token_order"] = self._token_order
            figures["loss"] += token_order.weight * self._token_order
        return figures

    def _add(
        self,
        target: Target,
        states_ND: Tensor,
        grad_ND: Tensor,
        weight_VD: Tensor,
        weight: float,
        count: int,
    ) -> Tensor:
        """Adds a further loss's gradients; returns the loss ÷ count."""
        loss, more_ND = chunked_backward(
            states_ND,
            weight_VD,
            _gradient_of(weight_VD),
            target,
            weight / count,
            self._logits_bytes,
        )
        grad_ND += more_ND
        return loss / count

    def _weighted_sum(self, by_offset: dict[int, Tensor]) -> Tensor:
        """Over the offsets that were computed: one that came out as NaN makes it NaN."""
        terms = [self._weights[offset - 1] * loss for offset, loss in by_offset.items()]
        return torch.stack(terms).sum()

    def _stacked(self, by_offset: dict[int, Tensor]) -> Tensor:
        """(K,), NaN where nothing was computed or no label is there in the whole step."""
        absent = torch.full_like(self._by_offset[1], torch.nan)  # filled where it lies: no waiting
        return torch.stack(
            [
                by_offset.get(offset, absent) if num_labels else absent
                for offset, num_labels in enumerate(self._num_labels, 1)
            ]
        )


def _gradient_of(weight: Tensor) -> Tensor | None:
    """Where a weight's gradient adds up; None if it is not trained."""
    if not weight.requires_grad:
        return None
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
