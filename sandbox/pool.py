"""Workers side by side: programs in, executions and examinations out."""

import itertools
import logging
import math
import os
import selectors
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sandbox.examination import Checks, Examination
from sandbox.execution import Execution
from sandbox.jobs import ExamineJob, Job, RunJob
from sandbox.limits import Limits
from sandbox.worker import Worker

_log = logging.getLogger(__name__)

_RESULTS_HELD_PER_WORKER: Final = 32

Result = TypeVar("Result", Execution, Examination)


class Pool:
    """Workers that each run one program at a time in a room of their own.

    Use it as a context manager: leaving it ends every process it started. It has no threads: work
    is handed out while a result is being waited for.

    Raises:
        SandboxUnavailable: the machine cannot contain programs; ``unsafe_no_sandbox`` runs them
            unprotected instead, which each execution records as its isolation.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        num_workers: int | None = None,
        *,
        unsafe_no_sandbox: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        # A worker waits while its rooms and the harness change turns: hence more than processors.
        self.num_workers = num_workers or math.ceil(1.5 * len(os.sched_getaffinity(0)))
        self._isolation = "none" if unsafe_no_sandbox else "full"
        if unsafe_no_sandbox:
            _log.warning("NO SANDBOX: programs run with all the rights of this user")
        self._numbers = itertools.count()
        self._is_busy = False
        self._workers = [
            Worker(self.limits, contained=not unsafe_no_sandbox) for _ in range(self.num_workers)
        ]
        self._open_rooms(1)

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
        """End all workers and whatever they run."""
        for worker in self._workers:
            worker.close()
            worker.abandon()

    def run_all(self, programs: Iterable[str | tuple[str, Limits]]) -> Iterator[Execution]:
        """Run whole programs; executions in the order of the programs."""
        return (execution for _, execution in self._work(self._runs(programs), in_order=True))

    def run_as_completed(
        self, programs: Iterable[str | tuple[str, Limits]]
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

    def _runs(self, programs: Iterable[str | tuple[str, Limits]]) -> Iterator[RunJob]:
        for program in programs:
            source, limits = (program, self.limits) if isinstance(program, str) else program
            yield RunJob(next(self._numbers), self._checked(limits), self._isolation, source)

    def _examinations(
        self, pairs: Iterable[tuple[str, Checks] | tuple[str, Checks, Limits]]
    ) -> Iterator[ExamineJob]:
        for source, checks, *rest in pairs:
            limits = self._checked(rest[0] if rest else self.limits)
            yield ExamineJob(next(self._numbers), limits, self._isolation, source, checks)

    def _checked(self, limits: Limits) -> Limits:
        fixed = self.limits.tmp_bytes, self.limits.tmp_files
        if (limits.tmp_bytes, limits.tmp_files) != fixed:
            raise ValueError("Limits.tmp_bytes and tmp_files are the pool's; make another pool")
        return limits

    def _open_rooms(self, num_rooms: int) -> None:
        """Give each worker so many rooms; they start side by side."""
        try:
            for worker in self._workers:
                worker.start_rooms(num_rooms)
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _work(self, jobs: Iterator[Job[Result]], *, in_order: bool) -> Iterator[tuple[int, Result]]:
        if self._is_busy:
            raise ValueError("this pool is at work already; finish that iteration or make another")
        self._is_busy = True
        try:
            yield from self._deliver(enumerate(jobs), in_order=in_order)
        finally:
            for worker in self._workers:
                worker.abandon()
            self._is_busy = False

    def _deliver(
        self, jobs: Iterator[tuple[int, Job[Result]]], *, in_order: bool
    ) -> Iterator[tuple[int, Result]]:
        """Hand out jobs, collect results; takes no more jobs ahead than may be held back."""
        again: deque[tuple[int, Job[Result]]] = deque()
        positions: dict[int, int] = {}  # of the jobs at work, by number
        held: dict[int, Result] = {}
        num_taken = num_delivered = 0
        while True:
            for worker in self._workers:
                if worker.job is not None:
                    continue
                room_left = num_taken - num_delivered < _RESULTS_HELD_PER_WORKER * self.num_workers
                following = again.popleft() if again else next(jobs, None) if room_left else None
                if following is None:
                    continue
                position, job = following
                num_taken = max(num_taken, position + 1)
                positions[job.number] = position
                self._begin(worker, job)
            if not positions:
                return
            for job in self._wait():
                position = positions.pop(job.number)
                if job.result is None:
                    again.append((position, job))
                else:
                    held[position] = job.result
            for position in sorted(held):
                if in_order and position != num_delivered:
                    break
                num_delivered += 1
                yield position, held.pop(position)

    def _begin(self, worker: Worker, job: Job[Any]) -> None:
        if job.num_rooms > len(worker.rooms):
            self._open_rooms(job.num_rooms)
        worker.begin(job)

    def _wait(self) -> list[Job[Any]]:
        """Wait until something happens; jobs that have a result, or are to be done again."""
        done = []
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                for room in worker.at_work():
                    selector.register(room.control, selectors.EVENT_READ, (worker, room))
            late_s = min(worker.late_at_s for worker in self._workers if worker.job is not None)
            events = selector.select(max(0.0, late_s - time.monotonic()))
        for key, _ in events:
            worker, room = key.data
            if room in worker.at_work() and (job := worker.attend(room)) is not None:
                done.append(job)
        now_s = time.monotonic()
        late = [w for w in self._workers if w.job is not None and w.late_at_s <= now_s]
        return done + [worker.replace() for worker in late]
