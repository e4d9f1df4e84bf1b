"""One round for all rows of a batch: draft → verify → commit → roll back.

A pure function over static tensors that never asks the device for a number, so that a GPU may
replay it and the host may look at the outcome later.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.sampling import choose_tokens
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.verify import count_accepted
from mtp_code.model.mtp import MTPModel


@dataclass(frozen=True)
class Plan:
    """What the host knows of a round before it runs.

    Attributes:
        num_drafts: k, for each row.
        window: positions up to a row's last that its heads have not read yet, at the most.
        end: one behind the last slot that is looked at.
        start: every row's length, where they agree, or None.
        num_logprobs: alternatives whose log-probabilities are wanted; None wants none at all.
    """

    num_drafts: int
    window: int
    end: int
    start: int | None = None
    is_greedy: bool = True
    is_cut: bool = False
    num_logprobs: int | None = None


class Logprobs(NamedTuple):
    """Of each place of a round: of its token, and of the likeliest ones."""

    chosen_BT: Tensor
    top_BTm: Tensor
    top_tokens_BTm: Tensor


class Outcome(NamedTuple):
    """What a round committed: of each row the first `accepted` + 1 targets.

    `is_drafted_B` is 0 where a row had no position to draft from.
    """

    targets_BT: Tensor
    accepted_B: Tensor
    is_drafted_B: Tensor
    logprobs: Logprobs | None


class Advance(Protocol):
    """A round, as `advance` is one."""

    def __call__(
        self, model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan
    ) -> Outcome: ...


def advance(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
    """Advances every row by the drafts that stand and one token more."""
    lengths_B, num_drafts = state.cache.lengths_B, plan.num_drafts
    # draft
    last_B1 = state.tokens_BC.gather(1, lengths_B[:, None])
    tokens_BT, drafts_Bk = last_B1, last_B1[:, :0]
    if num_drafts:
        drafts_Bk = draft(model, drafter, state, plan)
        tokens_BT = torch.cat((last_B1, drafts_Bk.clamp(min=0)), dim=1)
    # verify
    span = state.span(0, num_drafts + 1, plan.end, plan.start)
    reading = model.read(tokens_BT, model.trunk.attend_span(state.cache, span))
    logits_BTV = reading.logits(1)
    positions_BT = lengths_B[:, None] + torch.arange(1, num_drafts + 2, device=lengths_B.device)
    targets_BT = choose_tokens(
        logits_BTV,
        state.sampling(plan.is_greedy, plan.is_cut),
        state.uniforms_BC.gather(1, positions_BT),
    )
    accepted_B = count_accepted(drafts_Bk, targets_BT)
    # commit; what lies behind the committed length is rolled back with it
    is_drafted_B = lengths_B > 0
    state.keep(span, reading.hidden_BTD)
    state.tokens_BC.scatter_(1, positions_BT, targets_BT)
    lengths_B.add_(torch.minimum(accepted_B + 1, state.limits_B - lengths_B))
    return Outcome(
        targets_BT,
        accepted_B,
        is_drafted_B,
        None
        if plan.num_logprobs is None
        else logprobs_of(logits_BTV, targets_BT, plan.num_logprobs),
    )


def draft(model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Tensor:
    """What the heads expect behind each row's newest token, (B, k); −1 where it is its first."""
    span = state.span(-plan.window, plan.window, plan.end, plan.start)
    reading = state.read_again(model, span, num_ahead=plan.num_drafts)
    drafts_Bk = drafter.draft(reading, plan.num_drafts)
    return torch.where(state.cache.lengths_B[:, None] > 0, drafts_Bk, -1)


def logprobs_of(logits_BTV: Tensor, targets_BT: Tensor, num_top: int) -> Logprobs:
    """The model's own: before temperature, top-k and top-p."""
    logprobs_BTV = logits_BTV.float().log_softmax(dim=-1)
    chosen_BT = logprobs_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return Logprobs(chosen_BT, *logprobs_BTV.topk(num_top, dim=-1))
