"""One round for all rows of a batch: draft → verify → commit → roll back.

A pure function over static tensors that never asks the device for a number, so that a GPU may
replay it and the host may look at the outcome later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.sampling import choose_tokens
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.tree import Tree, TreeTensors, follow, tensors_of
from mtp_code.decoding.verify import count_accepted
from mtp_code.model.cache import Branches
from mtp_code.model.mtp import MTPModel


@dataclass(frozen=True)
class Plan:
    """What the host knows of a round before it runs.

    Attributes:
        num_drafts: k, for each row: the most that a row may accept.
        window: positions up to a row's last that its heads have not read yet, at the most.
        end: one behind the last slot that is looked at.
        start: every row's length, where they agree, or None.
        num_logprobs: alternatives whose log-probabilities are wanted; None wants none at all.
        tree: how the drafts branch; None is one line of k.
        width: tokens that a forward verifies of each row, if more than these drafts need: with
            always as many, a token's logits are the same to the bit however many were drafted.
    """

    num_drafts: int
    window: int
    end: int
    start: int | None = None
    is_greedy: bool = True
    is_cut: bool = False
    num_logprobs: int | None = None
    tree: Tree | None = None
    width: int = 0


class Logprobs(NamedTuple):
    """Of each place of a round: of its token, and of the likeliest ones."""

    chosen_BT: Tensor
    top_BTm: Tensor
    top_tokens_BTm: Tensor


class Outcome(NamedTuple):
    """What a round committed: of each row the first `accepted` + 1 targets.

    `is_drafted_B` is 0 where a row had no position to draft from. `ranks_Bk` is there for trees:
    up to the first offset that did not stand, the place of the right token among the drafts for
    its offset; one behind the last where it was none of them.
    """

    targets_BT: Tensor
    accepted_B: Tensor
    is_drafted_B: Tensor
    ranks_Bk: Tensor | None
    logprobs: Logprobs | None


class Advance(Protocol):
    """A round, as `advance` is one."""

    def __call__(
        self, model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan
    ) -> Outcome: ...


def advance(
    model: MTPModel,
    drafter: Drafter,
    state: DecodeState,
    plan: Plan,
    count: Callable[[Tensor, Tensor], Tensor] = count_accepted,
    walk: Callable[[TreeTensors, int, Tensor, Tensor], tuple[Tensor, Tensor]] = follow,
) -> Outcome:
    """Advances every row by the drafts that stand and one token more.

    Args:
        count: how many drafts of a line stand; another one is for measurements.
        walk: which nodes of a tree do; likewise.
    """
    lengths_B, num_drafts = state.cache.lengths_B, plan.num_drafts
    # draft
    last_B1 = state.newest(plan.start)
    tokens_BT, drafts_Bkr = last_B1, last_B1[:, :0, None]
    if num_drafts:
        drafts_Bkr = draft(model, drafter, state, plan)
        tokens_BT = torch.cat((last_B1, _in_order(drafts_Bkr, plan.tree).clamp(min=0)), dim=1)
    # verify
    branches = None
    if plan.tree is not None:
        nodes = tensors_of(plan.tree, lengths_B.device)
        branches = Branches(nodes.depths_N, nodes.sees_NN)
    read_BT = tokens_BT
    if plan.width > tokens_BT.shape[1]:
        read_BT = F.pad(tokens_BT, (0, plan.width - tokens_BT.shape[1]))
    span = state.span(0, read_BT.shape[1], plan.end, plan.start, branches)
    reading = model.read(read_BT, model.trunk.attend_span(state.cache, span))
    logits_BTV = reading.logits(1)
    if read_BT is not tokens_BT:
        logits_BTV = logits_BTV[:, : tokens_BT.shape[1]]
    uniforms_BT = None
    if not plan.is_greedy:
        depths_T = torch.arange(tokens_BT.shape[1], device=lengths_B.device)
        if branches is not None:
            depths_T = branches.depths_T
        uniforms_BT = state.uniforms_BC.gather(1, lengths_B[:, None] + depths_T + 1)
    sampling = state.sampling(plan.is_greedy, plan.is_cut)
    targets_BT = choose_tokens(logits_BTV, sampling, uniforms_BT)
    hidden_BTD, ranks_Bk = reading.hidden_BTD, None
    if plan.tree is not None:
        # What stands moves to where it would have been read without the rest of the tree.
        path_BT, accepted_B = walk(nodes, num_drafts, tokens_BT, targets_BT)
        steps_T = torch.arange(num_drafts + 1, device=lengths_B.device)
        state.cache.gather(lengths_B[:, None] + path_BT, lengths_B[:, None] + steps_T)
        targets_BT = targets_BT.gather(1, path_BT)
        ranks_Bk = _ranks(drafts_Bkr, targets_BT)
        hidden_BTD, logits_BTV = (x[state.cache.rows_B1, path_BT] for x in (hidden_BTD, logits_BTV))
        span = state.span(0, num_drafts + 1, plan.end, plan.start)
    elif num_drafts:
        accepted_B = count(drafts_Bkr[..., 0], targets_BT)
    else:
        accepted_B = torch.zeros_like(lengths_B)
    # commit and roll back
    is_drafted_B = lengths_B > 0
    state.keep(span, hidden_BTD)
    state.commit(targets_BT, accepted_B, plan.start)
    return Outcome(
        targets_BT,
        accepted_B,
        is_drafted_B,
        ranks_Bk,
        None
        if plan.num_logprobs is None
        else logprobs_of(logits_BTV, targets_BT, plan.num_logprobs),
    )


def draft(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Tensor:
    """What the heads expect behind each row's newest token, likeliest first, (B, k, ranks).

    −1 where it is the row's first.
    """
    # Where rows are in line, a single token looks at all slots up to the end: not behind itself,
    # where drafts lie that did not stand.
    end = plan.end if plan.start is None else plan.start
    span = state.span(-plan.window, plan.window, end, plan.start)
    reading = state.read_again(model, span, num_ahead=plan.num_drafts)
    num_ranks = 1 if plan.tree is None else plan.tree.num_ranks
    drafts_Bkr = drafter.draft(reading, plan.num_drafts, num_ranks)
    return torch.where(state.cache.lengths_B[:, None, None] > 0, drafts_Bkr, -1)


def _in_order(drafts_Bkr: Tensor, tree: Tree | None) -> Tensor:
    """The drafts as they are verified, behind the newest token."""
    if tree is None:
        return drafts_Bkr[..., 0]
    slots_N = tensors_of(tree, drafts_Bkr.device).slots_N
    return drafts_Bkr.flatten(1)[:, slots_N[1:]]


def _ranks(drafts_Bkr: Tensor, targets_BT: Tensor) -> Tensor:
    is_it_Bkr = drafts_Bkr == targets_BT[:, : drafts_Bkr.shape[1], None]
    none_Bk1 = torch.ones_like(is_it_Bkr[..., :1])
    return torch.cat((is_it_Bkr, none_Bk1), dim=-1).int().argmax(dim=-1)


def logprobs_of(logits_BTV: Tensor, targets_BT: Tensor, num_top: int) -> Logprobs:
    """The model's own: before temperature, top-k and top-p."""
    logprobs_BTV = logits_BTV.float().log_softmax(dim=-1)
    chosen_BT = logprobs_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return Logprobs(chosen_BT, *logprobs_BTV.topk(num_top, dim=-1))
