"""One program's way through a worker: what its rooms are handed, and what their reports mean."""

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, Generic, TypeVar

from sandbox.examination import Checks, Examination, Outcome
from sandbox.execution import Ending, Execution
from sandbox.limits import Limits
from sandbox.room import Note, Output, Report, Room, Scratch, orders

Result_co = TypeVar("Result_co", Execution, Examination, covariant=True)

_TIMED_OUT: Final = {"cpu": Ending.TIMED_OUT_CPU, "wall": Ending.TIMED_OUT_WALL}
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)
_LIMITS_MET: Final = (Ending.OUT_OF_MEMORY, Ending.TOO_MUCH_OUTPUT, Ending.BLOCKED)


class Job(Generic[Result_co]):
    """A program to be run; `result` is None until it was."""

    num_rooms: ClassVar[int]
    result: Result_co | None = None

    def __init__(self, number: int, limits: Limits, isolation: str) -> None:
        self.number = number
        self.limits = limits
        self.num_attempts = 0
        self._isolation = isolation
        self._scratches: list[Scratch] = []

    def start(self, rooms: Sequence[Room]) -> None:
        """Hand the samples over to the rooms.

        Raises:
            RoomLost: one of them has ended.
        """
        raise NotImplementedError

    def stop_others(self, reported: int, rooms: Sequence[Room]) -> None:
        """End the samples that are of no more use once room ``reported`` has reported."""

    def is_lost(self, reports: Sequence[Report]) -> bool:
        """Whether a sample was killed neither by us nor by a limit: by the host, out of memory.

        No sample can do that itself: an init cannot kill itself, and memory beyond its limit is
        refused rather than punished.
        """
        return any(
            report.cause is None
            and os.waitstatus_to_exitcode(report.status) == -signal.SIGKILL
            and report.cpu_s < self.limits.cpu_s
            for report in reports
        )

    def finish(self, reports: Sequence[Report]) -> None:
        """Set `result` from the rooms' reports."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Set `result` for a program that was lost each time, alone or with its worker."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what was shared with the samples."""
        for scratch in self._scratches:
            scratch.close()
        self._scratches.clear()

    def _share(self, *scratches: Scratch) -> list[int]:
        self._scratches += scratches
        return [scratch.descriptor for scratch in scratches]

    def _crashed(self) -> Execution:
        return Execution(Ending.CRASHED, None, None, 0.0, 0.0, 0, "", "", self._isolation)


class RunJob(Job[Execution]):
    """A whole program."""

    num_rooms = 1

    def __init__(self, number: int, limits: Limits, isolation: str, source: str) -> None:
        super().__init__(number, limits, isolation)
        self._source = source

    def start(self, rooms: Sequence[Room]) -> None:
        self._output, self._note = Output(self.limits), Note()
        shared = self._share(orders(source=self._source), self._output, self._note)
        rooms[0].start(self.number, "program", self.limits, shared)

    def finish(self, reports: Sequence[Report]) -> None:
        raised = self._note.content().get("raised")
        self.result = _execution(reports[0], self.limits, self._output, raised, self._isolation)

    def give_up(self) -> None:
        self.result = self._crashed()


class ExamineJob(Job[Examination]):
    """A program in the first room, its checks in the second, and a stream between the two."""

    num_rooms = 2

    def __init__(
        self, number: int, limits: Limits, isolation: str, source: str, checks: Checks
    ) -> None:
        super().__init__(number, limits, isolation)
        self._source = source
        self._checks = checks

    def start(self, rooms: Sequence[Room]) -> None:
        self._output, self._note = Output(self.limits), Note()
        program = self._share(orders(source=self._source), self._output, Note())
        checks = orders(source=self._checks.source, names=self._checks.names)
        checking = self._share(checks, Output(self.limits), self._note)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            rooms[0].start(self.number, "candidate", self.limits, [*program, theirs.fileno()])
            rooms[1].start(self.number, "checker", self.limits, [*checking, ours.fileno()])

    def stop_others(self, reported: int, rooms: Sequence[Room]) -> None:
        if reported == 1:
            rooms[0].stop(self.number)  # which would go on waiting for calls

    def finish(self, reports: Sequence[Report]) -> None:
        program, checking = reports
        outcome, detail, raised = self._found(checking)
        execution = _execution(program, self.limits, self._output, raised, self._isolation)
        if checking.cause in _TIMED_OUT and program.cause == "stopped":
            # It answered, but in such a way that the checks could not get through.
            execution = replace(execution, ending=_TIMED_OUT[checking.cause])
        if outcome is Outcome.RAISED and execution.ending in _LIMITS_MET:
            outcome = Outcome.ENDED
        if outcome is Outcome.ENDED and execution.ending is Ending.STOPPED:
            outcome = Outcome.RAISED  # alive, but it had cut itself off from its checks
        self.result = Examination(outcome, detail, execution)

    def give_up(self) -> None:
        detail = "it was killed from outside or its worker died, twice"
        self.result = Examination(Outcome.ENDED, detail, self._crashed())

    def _found(self, checking: Report) -> tuple[Outcome, str, str]:
        """What the checks' process says, if it lived to say it."""
        match self._note.content():
            case {"outcome": str(value), "detail": str(detail), "raised": str(raised)}:
                if value in _OUTCOMES and os.waitstatus_to_exitcode(checking.status) == 0:
                    return Outcome(value), _one_line(detail), raised
        if checking.cause in _TIMED_OUT:
            return Outcome.ENDED, "its answers kept the checks busy beyond their limit", ""
        # An answer may have been too much for it.
        return Outcome.RAISED, "the checks' process ended before they did", ""


def _one_line(text: str) -> str:
    """Text of a program's choice, fit for a line of a file or a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


def _execution(
    report: Report, limits: Limits, output: Output, raised: Any, isolation: str
) -> Execution:
    code = os.waitstatus_to_exitcode(report.status)
    return Execution(
        ending=_ending(report, code, limits, output, raised),
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        cpu_s=report.cpu_s,
        wall_s=report.wall_s,
        peak_memory_bytes=report.peak_memory_bytes,
        output_head=output.head(),
        output_tail=output.tail(),
        isolation=isolation,
    )


def _ending(report: Report, code: int, limits: Limits, output: Output, raised: Any) -> Ending:
    """``raised`` is the kind of an error that the program did not catch, by its own account: it can
    only make one failure look like another."""
    if report.cause in _TIMED_OUT:
        return _TIMED_OUT[report.cause]
    if code == -signal.SIGKILL and report.cpu_s >= limits.cpu_s:
        return Ending.TIMED_OUT_CPU  # RLIMIT_CPU was faster
    if raised == "MemoryError":
        return Ending.OUT_OF_MEMORY
    if output.is_too_much:
        return Ending.TOO_MUCH_OUTPUT
    if raised == "EPERM" or code == -signal.SIGSYS:
        return Ending.BLOCKED
    if report.cause == "stopped":
        return Ending.STOPPED
    return Ending.EXITED if code >= 0 else Ending.SIGNALLED
