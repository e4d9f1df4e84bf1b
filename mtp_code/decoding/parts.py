"""Where a round's time goes: trunk, head 1, other heads, unembedding, acceptance, host."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from mtp_code.decoding.bandwidth import wait_for
from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance
from mtp_code.model.mtp import MTPModel, Reading

PARTS: Final = ("trunk", "head 1", "other heads", "unembedding", "acceptance", "host")
"""`unembedding` is the norm before it too, of drafts and of what verifies them. `acceptance` is the
rest of a round: positions and masks, choosing tokens, which drafts stand, what is written down.
`host` is the rest of a step: what the engine does around its rounds."""


class PartClock:
    """Time by part; each moment belongs to one, so that the parts add up to the steps.

    On a CPU it counts the process' CPU time. On a GPU it counts seconds, and waits for the device
    wherever a part begins or ends: its rounds are slower than others, and cannot be captured.
    """

    def __init__(self, device: torch.device, advance: Advance = advance) -> None:
        """
        Args:
            advance: what is watched.
        """
        self._device, self._advance = device, advance
        self._clock = time.perf_counter if device.type == "cuda" else time.process_time
        self._open: list[str] = []
        self._in_round = self._reads_prompts = False
        self._since_s = 0.0
        self._step_s = dict.fromkeys(PARTS, 0.0)
        self._spent_s = dict.fromkeys(PARTS, 0.0)
        self._num_steps = 0

    def advance(self, model: MTPModel, drafter: Drafter, state: DecodeState, plan: Plan) -> Outcome:
        """A round as ever, by the clock: for `Engine(advance=…)`."""
        self._in_round = True
        with self._part("acceptance"):
            outcome = self._advance(model, _Timed(drafter, self._part), state, plan)
        self._in_round = False
        return outcome

    @contextmanager
    def watching(self, model: MTPModel) -> Iterator[None]:
        """Has the model's parts tell the clock when they begin and end."""
        unembeddings = [model.norm, model.unembedding, *model.later_unembeddings]
        names: dict[nn.Module, Callable[[Any], str]] = {
            model.trunk: lambda _: "trunk",
            model.trunk.rotary: lambda _: "trunk",
            model.mtp_heads: lambda offset: "head 1" if offset == 1 else "other heads",
            **{module: lambda _: "unembedding" for module in unembeddings},
        }
        handles = []
        try:
            for module, name in names.items():
                handles.append(module.register_forward_pre_hook(self._enters(name)))
                handles.append(module.register_forward_hook(lambda *_: self._leave()))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of an engine; one that also reads a prompt does not count."""
        self._step_s, self._reads_prompts = dict.fromkeys(PARTS, 0.0), False
        with self._part("host"):
            yield
        if not self._reads_prompts:
            self._num_steps += 1
            for part, spent_s in self._step_s.items():
                self._spent_s[part] += spent_s

    def per_step_s(self) -> dict[str, float] | None:
        """Seconds of a mean step; None if there was none."""
        if not self._num_steps:
            return None
        return {part: spent_s / self._num_steps for part, spent_s in self._spent_s.items()}

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def _enters(self, name: Callable[[Any], str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._reads_prompts |= not self._in_round
            self._enter(name(args[0]))

        return enter

    def _enter(self, name: str) -> None:
        self._spend()
        self._open.append(name)

    def _leave(self) -> None:
        self._spend()
        self._open.pop()

    def _spend(self) -> None:
        """The time since the last border belongs to the part that is open."""
        wait_for(self._device)
        now_s = self._clock()
        if self._open:
            self._step_s[self._open[-1]] += now_s - self._since_s
        self._since_s = now_s


class _Timed(Drafter):
    """A drafter by the clock."""

    def __init__(self, drafter: Drafter, part: Callable[[str], Any]) -> None:
        self._drafter, self._part = drafter, part

    def draft(self, reading: Reading, num_drafts: int, num_ranks: int = 1) -> Tensor:
        with self._part("other heads"):
            return self._drafter.draft(reading, num_drafts, num_ranks)
