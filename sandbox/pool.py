"""Programs in, executions and examinations out, many at a time."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

from sandbox.engine import Engine
from sandbox.examination import Checks, Examination
from sandbox.execution import Execution
from sandbox.incubation import Incubators
from sandbox.jobs import BesideJob, ExamineJob, Job, RunJob
from sandbox.limits import Limits
from sandbox.profile import Profile
from sandbox.program import Program
from sandbox.tier import Tier

_log = logging.getLogger(__name__)

_RESULTS_HELD_PER_WORKER: Final = 32

Result = TypeVar("Result", Execution, Examination)
AnyProgram = str | Program


class Setting:
    """What a pool's programs run under, and the jobs made of them."""

    def __init__(
        self, limits: Limits | None, profile: Profile, tier: Tier, unsafe_no_sandbox: bool
    ) -> None:
        if tier is Tier.NONE and not unsafe_no_sandbox:
            raise ValueError("Tier.NONE has to be asked for by unsafe_no_sandbox=True")
        if unsafe_no_sandbox:
            _log.warning("NO SANDBOX: programs run with all the rights of this user")
        self.limits = limits or Limits()
        self.profile = profile
        self.tier = Tier.NONE if unsafe_no_sandbox else tier
        self._numbers = itertools.count()

    def run_job(self, program: AnyProgram, limits: Limits | None = None) -> RunJob:
        if isinstance(program, str):
            program = Program(program)
        return RunJob(next(self._numbers), self._checked(limits), self.tier, program)

    def examine_job(
        self, source: str, checks: Checks, limits: Limits | None = None
    ) -> Job[Examination]:
        kind = BesideJob if checks.beside else ExamineJob
        return kind(next(self._numbers), self._checked(limits), self.tier, source, checks)

    def _checked(self, limits: Limits | None) -> Limits:
        if limits is None:
            return self.limits
        fixed = self.limits.tmp_bytes, self.limits.tmp_files
        if (limits.tmp_bytes, limits.tmp_files) != fixed:
            raise ValueError("Limits.tmp_bytes and tmp_files are the pool's; make another pool")
        return limits


class Pool:
    """Workers that each run one program at a time in a room of their own.

    Use it as a context manager: leaving it ends every process it started. It has no threads: work
    is handed out while a result is being waited for. ``incubators`` may be shared with other pools
    of the same interpreter, and begun ahead.

    Raises:
        SandboxUnavailable: the machine cannot hold ``tier``; ``unsafe_no_sandbox`` runs programs
            unprotected instead, which each execution records as its isolation.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        num_workers: int | None = None,
        *,
        profile: Profile = Profile(),  # noqa: B008 - frozen
        tier: Tier = Tier.FULL,
        unsafe_no_sandbox: bool = False,
        incubators: Incubators | None = None,
    ) -> None:
        self._setting = Setting(limits, profile, tier, unsafe_no_sandbox)
        self._is_busy = self._is_closed = False
        self._engine = Engine(
            self._setting.limits,
            num_workers,
            profile,
            self._setting.tier,
            incubators=incubators,
        )

    @property
    def limits(self) -> Limits:
        return self._setting.limits

    @property
    def num_workers(self) -> int:
        return self._engine.num_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and whatever they run; there is no work after that."""
        self._is_closed = True
        self._engine.close()

    def run_all(
        self, programs: Iterable[AnyProgram | tuple[AnyProgram, Limits]]
    ) -> Iterator[Execution]:
        """Run whole programs; executions in the order of the programs."""
        return (execution for _, execution in self._work(self._runs(programs), in_order=True))

    def run_as_completed(
        self, programs: Iterable[AnyProgram | tuple[AnyProgram, Limits]]
    ) -> Iterator[tuple[int, Execution]]:
        """Run whole programs; each position and execution as it comes."""
        return self._work(self._runs(programs), in_order=False)

    def examine_all(
        self, pairs: Iterable[tuple[str, Checks] | tuple[str, Checks, Limits]]
    ) -> Iterator[Examination]:
        """Examine programs by their checks; examinations in the order of the programs."""
        jobs = self._examinations(pairs)
        return (examination for _, examination in self._work(jobs, in_order=True))

    def examine_as_completed(
        self, pairs: Iterable[tuple[str, Checks] | tuple[str, Checks, Limits]]
    ) -> Iterator[tuple[int, Examination]]:
        """Examine programs by their checks; each position and examination as it comes."""
        return self._work(self._examinations(pairs), in_order=False)

    def _runs(
        self, programs: Iterable[AnyProgram | tuple[AnyProgram, Limits]]
    ) -> Iterator[Job[Execution]]:
        for program in programs:
            given = program if isinstance(program, tuple) else (program,)
            yield self._setting.run_job(*given)

    def _examinations(
        self, pairs: Iterable[tuple[str, Checks] | tuple[str, Checks, Limits]]
    ) -> Iterator[Job[Examination]]:
        for pair in pairs:
            yield self._setting.examine_job(*pair)

    def _work(self, jobs: Iterator[Job[Result]], *, in_order: bool) -> Iterator[tuple[int, Result]]:
        if self._is_busy:
            raise ValueError("this pool is at work already; finish that iteration or make another")
        self._is_busy = True
        try:
            yield from self._deliver(enumerate(jobs), in_order=in_order)
        finally:
            self._engine.abandon()
            self._is_busy = False

    def _deliver(
        self, jobs: Iterator[tuple[int, Job[Result]]], *, in_order: bool
    ) -> Iterator[tuple[int, Result]]:
        """Hand out jobs, collect results; takes no more jobs ahead than may be held back."""
        positions: dict[int, int] = {}  # of the jobs at work, by number
        held: dict[int, Result] = {}
        num_taken = num_delivered = 0
        while True:
            if self._is_closed:
                raise ValueError("this pool is closed; make another")
            while self._engine.num_free > 0:
                if num_taken - num_delivered >= _RESULTS_HELD_PER_WORKER * self.num_workers:
                    break
                following = next(jobs, None)
                if following is None:
                    break
                position, job = following
                positions[job.number] = position
                num_taken += 1
                self._engine.submit(job)
            if not positions:
                return
            for job in self._engine.step():
                assert job.result is not None
                held[positions.pop(job.number)] = job.result
            for position in sorted(held):
                if in_order and position != num_delivered:
                    break
                num_delivered += 1
                yield position, held.pop(position)
