"""Runs rounds one after the other without a look of the host: directly, or captured on a GPU."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple, Protocol

import torch

from mtp_code.decoding.draft import Drafter
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Advance, Outcome, Plan, advance
from mtp_code.decoding.tree import TreeTensors, tensors_of
from mtp_code.model.mtp import MTPModel

_MOST_GRAPHS: Final = 64
"""Kept at once; the one that was made first makes way."""
_SMALLEST_END: Final = 256


class Shapes(Enum):
    """How many rows and slots a round has, of which some may be idle."""

    TIGHT = "as many as are needed"
    BUCKETS = "a power of two"
    """So that few graphs are captured."""
    FIXED = "all"

    def rows(self, num_live: int, num_rows: int) -> int:
        match self:
            case Shapes.TIGHT:
                return num_live
            case Shapes.BUCKETS:
                return min(_power_of_two(num_live), num_rows)
            case Shapes.FIXED:
                return num_rows

    def end(self, end: int, capacity: int) -> int:
        """One behind the last slot that is looked at."""
        match self:
            case Shapes.TIGHT:
                return min(end, capacity)
            case Shapes.BUCKETS:
                return min(max(_power_of_two(end), _SMALLEST_END), capacity)
            case Shapes.FIXED:
                return capacity


class Ran(NamedTuple):
    """What rounds committed, which holds until the next run.

    `recording_s` is what taking them down took, where that had to be done first.
    """

    outcomes: list[Outcome]
    recording_s: float = 0.0


class Runner(Protocol):
    def run(self, state: DecodeState, plan: Plan, num_rounds: int) -> Ran:
        """Runs so many rounds.

        A plan for several rounds does for each of them: its window and its end do, and it does
        not rely on where rows start.
        """

    def forget(self) -> bool:
        """Gives up the memory of what is only kept for speed; whether there was anything."""


class Direct:
    """Kernel by kernel."""

    def __init__(self, model: MTPModel, drafter: Drafter, advance: Advance = advance) -> None:
        self._model, self._drafter, self._advance = model, drafter, advance

    def run(self, state: DecodeState, plan: Plan, num_rounds: int) -> Ran:
        return Ran(
            [self._advance(self._model, self._drafter, state, plan) for _ in range(num_rounds)]
        )

    def forget(self) -> bool:
        return False


Rounds = Callable[[], list[Outcome]]
Recorded = tuple[Callable[[], object], list[Outcome]]
"""What runs the rounds again, and where it leaves their outcomes."""
Record = Callable[[Rounds], Recorded]
"""Takes rounds down."""


class _Kept(NamedTuple):
    """A recording, and what it reads that nobody else is sure to keep."""

    recorded: Recorded
    tree: TreeTensors | None


class Graphed:
    """The same, recorded once for each shape, and from then on one call of the host.

    Has not run on a GPU yet.
    """

    def __init__(self, direct: Direct, recorder: Callable[[], Record] | None = None) -> None:
        """
        Args:
            recorder: makes what takes rounds down; by default as CUDA graphs, in memory that they
                share.
        """
        self._direct, self._recorder = direct, recorder or captures
        self._record = self._recorder()
        self._recorded: dict[tuple[int, Plan, int], _Kept] = {}

    def run(self, state: DecodeState, plan: Plan, num_rounds: int) -> Ran:
        key = (state.num_rows, plan, num_rounds)
        recording_s = 0.0
        if key not in self._recorded:
            begun_s = time.perf_counter()
            if len(self._recorded) == _MOST_GRAPHS:
                del self._recorded[next(iter(self._recorded))]
            # Recording may run the rounds, which must leave no trace; what they write behind each
            # row's length is none.
            kept = [tensor.clone() for tensor in (state.cache.lengths_B, state.tokens_BC)]
            tree = None if plan.tree is None else tensors_of(plan.tree, state.tokens_BC.device)
            recorded = self._record(lambda: self._direct.run(state, plan, num_rounds).outcomes)
            state.cache.lengths_B.copy_(kept[0])
            state.tokens_BC.copy_(kept[1])
            self._recorded[key] = _Kept(recorded, tree)
            recording_s = time.perf_counter() - begun_s
        replay, outcomes = self._recorded[key].recorded
        replay()
        return Ran(outcomes, recording_s)

    def forget(self) -> bool:
        had_any = bool(self._recorded)
        self._recorded.clear()
        # torch refuses to record into a pool whose graphs are all gone while anything lives there
        # still, as the workspace of a library's may.
        self._record = self._recorder()
        return had_any


def captures() -> Record:
    """Takes rounds down as CUDA graphs, behind a run that has kernels chosen and workspaces made.

    One pool of memory does for all of them: they run one at a time, and what one leaves is read
    before the next runs.
    """
    pool = torch.cuda.graph_pool_handle()

    def captured(rounds: Rounds) -> Recorded:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                rounds()
        finally:
            current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):
                outcomes = rounds()
        finally:  # one that fails may leave its own stream in place
            torch.cuda.set_stream(current)
        return graph.replay, outcomes

    return captured


def _power_of_two(count: int) -> int:
    """The least that is no smaller."""
    return 1 << (count - 1).bit_length()
