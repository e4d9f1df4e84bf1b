"""One program's way through a worker: what its room and desk are handed, and what comes of it.

A job is told of each report and reply, and says when it is over by setting its `result`. It waits
for nothing itself.
"""

import base64
import os
import signal
import socket
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final, Generic, Protocol, TypeVar

from sandbox import rlimits, scratch, wire
from sandbox.checker import OUT_OF_PROTOCOL
from sandbox.counting import COUNTED
from sandbox.desks import ChecksRoom, Desk, DeskLost, KnownChecks
from sandbox.examination import Answer, Checks, Examination, Heard, Opaque
from sandbox.execution import Ending, Execution
from sandbox.limits import Limits
from sandbox.outcome import Outcome
from sandbox.program import Program
from sandbox.room import Report, Room
from sandbox.scratch import Note, Output, Scratch, orders
from sandbox.tier import Tier

Scratch_co = TypeVar("Scratch_co", bound=Scratch)
Result_co = TypeVar("Result_co", Execution, Examination, Answer, covariant=True)

_TIMED_OUT: Final = {"cpu": Ending.TIMED_OUT_CPU, "wall": Ending.TIMED_OUT_WALL}
# Answered by unknowns, checks may not come to an end.
_RECORDING_S: Final = 2.0
_MAX_COUNT: Final = 1 << 31
_OUTCOMES: Final = frozenset(outcome.value for outcome in Outcome)
_LIMITS_MET: Final = (
    Ending.OUT_OF_MEMORY,
    Ending.TOO_MUCH_OUTPUT,
    Ending.TOO_MANY_PROCESSES,
    Ending.BLOCKED,
)


class Place(Protocol):
    """Where a job is done: a worker."""

    room: Room

    @property
    def checks_room(self) -> ChecksRoom: ...
    def desk(self, checks: KnownChecks) -> Desk: ...
    def renew_room(self) -> None: ...


class Job(Generic[Result_co]):
    """A program to be run; `result` is None until it was."""

    def __init__(self, number: int, limits: Limits, tier: Tier) -> None:
        self.number = number
        self.limits = limits
        self.num_attempts = 0
        self.result: Result_co | None = None
        self._tier = tier
        self._scratches: list[Scratch] = []

    def begin(self, place: Place) -> None:
        """Hand over what there is to do first.

        Raises:
            RoomLost, DeskLost: it turns out that one has ended.
        """
        raise NotImplementedError

    def on_report(self, place: Place, report: Report, *, out_of_memory: bool) -> None:
        """The sample has ended; ``out_of_memory`` says that the kernel ended something for that.

        Raises:
            RoomLost, DeskLost: as above.
        """
        raise NotImplementedError

    def on_reply(self, place: Place, reply: dict[str, Any]) -> None:
        """The desk is done. Raises as above."""
        raise NotImplementedError

    def on_desk_lost(self, place: Place, lost: DeskLost) -> None:
        """The desk ended over its order."""
        raise NotImplementedError

    def keep_finding(self) -> None:
        """Set `result` if what was lost, the sample or its worker, matters no more."""

    def give_up(self) -> None:
        """Set `result` for a program that was lost each time, alone or with its worker."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what was shared with the samples."""
        for shared in self._scratches:
            shared.close()
        self._scratches.clear()

    def _own(self, shared: Scratch_co) -> Scratch_co:
        """What is to be closed with this job, whatever becomes of it."""
        self._scratches.append(shared)
        return shared

    def _share(self, **scratches: Scratch | None) -> dict[str, int]:
        """Descriptors by name, of what there is; all of it is this job's own from now on."""
        given = {name: shared for name, shared in scratches.items() if shared is not None}
        self._scratches += [each for each in given.values() if each not in self._scratches]
        return {name: shared.descriptor for name, shared in given.items()}

    def _execution(
        self, report: Report, output: Output, raised: Any, *, out_of_memory: bool
    ) -> Execution:
        code = os.waitstatus_to_exitcode(report.status)
        ending = self._ending(report, code, output, raised, out_of_memory)
        return Execution(
            ending=ending,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 and ending is not Ending.STOPPED else None,
            cpu_s=report.cpu_s,
            wall_s=report.wall_s,
            peak_memory_bytes=report.peak_memory_bytes,
            output_head=output.head(),
            output_tail=output.tail(),
            isolation=self._tier.value,
        )

    def _ending(
        self, report: Report, code: int, output: Output, raised: Any, out_of_memory: bool
    ) -> Ending:
        """``raised`` is the kind of an error that the program did not catch, by its own account: it
        can only make one failure look like another."""
        if report.cause in _TIMED_OUT:
            return _TIMED_OUT[report.cause]
        if code == -signal.SIGKILL and self._has_used_its_time(report):
            return Ending.TIMED_OUT_CPU
        if raised == "MemoryError" or (out_of_memory and code != 0):
            return Ending.OUT_OF_MEMORY
        if output.is_too_much:
            return Ending.TOO_MUCH_OUTPUT
        if raised == "EAGAIN":
            return Ending.TOO_MANY_PROCESSES
        if raised == "EPERM" or code == -signal.SIGSYS:
            return Ending.BLOCKED
        if report.cause == "stopped":
            return Ending.STOPPED
        return Ending.EXITED if code >= 0 else Ending.SIGNALLED

    def _crashed(self) -> Execution:
        return Execution(Ending.CRASHED, None, None, 0.0, 0.0, 0, "", "", self._tier.value)

    def _is_lost(self, report: Report, out_of_memory: bool) -> bool:
        """Whether the sample was killed neither by us nor by a limit: by the host, out of memory.

        No sample can do that itself: an init cannot kill itself, the kernel's own limit of CPU time
        is out of reach, and memory beyond its limit is refused rather than punished, or punished by
        a cgroup that counts it.
        """
        return (
            self._tier is Tier.FULL
            and report.cause is None
            and os.waitstatus_to_exitcode(report.status) == -signal.SIGKILL
            and not self._has_used_its_time(report)
            and not out_of_memory
        )

    def _has_used_its_time(self, report: Report) -> bool:
        return report.cpu_s >= self.limits.cpu_s or rlimits.may_have_ended(report.wall_s)


class LostJob(Exception):  # noqa: N818 - an event: the job is done again
    """The host killed the job's sample or desk."""


class RunJob(Job[Execution]):
    """A whole program."""

    def __init__(self, number: int, limits: Limits, tier: Tier, program: Program) -> None:
        super().__init__(number, limits, tier)
        self.program = program

    def begin(self, place: Place) -> None:
        program = self.program
        self._output, self._note = self._own(Output(self.limits)), self._own(Note())
        self._stdout = self._own(Output(self.limits)) if program.keeps_output else None
        files = [
            [name, base64.b64encode(content).decode("ascii")]
            for name, content in program.files.items()
        ]
        shared = self._share(
            orders=orders(program.source, files, program.argv),
            stdin=Scratch.holding("stdin", program.stdin) if program.stdin else None,
            output=self._output,
            stdout=self._stdout,
            note=self._note,
        )
        place.room.start(self.number, "program", self.limits, shared)

    def on_report(self, place: Place, report: Report, *, out_of_memory: bool) -> None:
        if self._is_lost(report, out_of_memory):
            raise LostJob
        raised = self._note.content().get("raised")
        execution = self._execution(report, self._output, raised, out_of_memory=out_of_memory)
        if self._stdout is not None:
            execution = replace(execution, stdout=self._stdout.content())
            if execution.ending is Ending.EXITED and self._stdout.is_too_much:
                execution = replace(execution, ending=Ending.TOO_MUCH_OUTPUT)
        self.result = execution

    def give_up(self) -> None:
        self.result = self._crashed()


class BesideJob(Job[Examination]):
    """A program and its checks in one process."""

    def __init__(
        self, number: int, limits: Limits, tier: Tier, source: str, checks: Checks
    ) -> None:
        super().__init__(number, limits, tier)
        self.source = source
        self.checks = checks

    def begin(self, place: Place) -> None:
        self._output, self._note = self._own(Output(self.limits)), self._own(Note())
        checks = self.checks
        task = orders(self.source, checks.source, checks.names)
        shared = self._share(orders=task, output=self._output, note=self._note)
        place.room.start(self.number, "beside", self.limits, shared)

    def on_report(self, place: Place, report: Report, *, out_of_memory: bool) -> None:
        if self._is_lost(report, out_of_memory):
            raise LostJob
        found = _finding(self._note.content())
        exited = report.cause is None and os.waitstatus_to_exitcode(report.status) == 0
        outcome, detail, raised = found if found and exited else (Outcome.ENDED, "", "")
        execution = self._execution(report, self._output, raised, out_of_memory=out_of_memory)
        if outcome is Outcome.RAISED and execution.ending in _LIMITS_MET:
            outcome = Outcome.ENDED
        self.result = Examination(outcome, detail, execution, is_weak=True)

    def give_up(self) -> None:
        self.result = Examination(Outcome.ENDED, _LOST_TWICE, self._crashed(), is_weak=True)


_SHA256_CHARS: Final = 64
# Of which no second run can be found to say the same.
NOT_KNOWN: Final = Heard(1, "")
_LOST_TWICE: Final = "it was killed from outside or its worker died, twice"


class _Phase(Enum):
    """Of an examination: what is being waited for."""

    LOOK = auto()  # a desk looks whether the checks are tidy
    RECORD = auto()  # the desk notes the calls that the checks make
    ANSWER = auto()  # the program answers them all
    REPLAY = auto()  # the desk runs the checks on the answers
    LIVE = auto()  # program and desk, with each other
    TURNS = auto()  # the same, with calls that are known beforehand
    ASTRAY = auto()  # the program, which was asked what its checks do not ask, is being ended
    COUNT = auto()  # the desk counts the checks that hold for the answers
    COUNT_ON = auto()  # the same, and the program answers what else they ask
    COUNT_LIVE = auto()  # program and desk once more, to count


class ExamineJob(Job[Examination]):
    """A program in the worker's room, its checks at the worker's desk.

    The calls that the checks make are recorded once. The program then answers all of them in one
    go, and the desk runs the checks on the answers. Where the calls depend on answers, or some have
    to wait for answers, the two talk over a stream. Whatever is counted after that changes nothing
    of what was found.
    """

    def __init__(
        self, number: int, limits: Limits, tier: Tier, source: str, checks: Checks
    ) -> None:
        super().__init__(number, limits, tier)
        self.source = source
        self.checks = checks
        self._known: KnownChecks | None = None
        self._phase = _Phase.LOOK
        self._heard: Heard | None = None
        self._examined: Examination | None = None  # and its assertions are being counted

    def begin(self, place: Place) -> None:
        self._report: Report | None = None
        self._found: tuple[Outcome, str, str] | None = None
        self._checks_cause: Ending | None = None
        self._out_of_memory = False
        self._examined = None
        self._num_asserts = 0  # in the checks' text, of which one may hold
        self._may_hold = self._is_counting = False
        self._counts: tuple[int, int] | None = None
        self._heard = None
        if self._known is None:
            self._known = place.checks_room.know(self.checks)
        self._begin_running(place)

    def _begin_running(self, place: Place) -> None:
        assert self._known is not None
        if self._known.are_live and self._known.are_tidy is None:
            self._phase = _Phase.LOOK
            place.desk(self._known).ask("look", self._known, self.limits.cpu_s, {})
        elif self._known.are_live:
            self._begin_live(place)
        elif self._known.requests is None:
            self._begin_recording(place)
        else:
            self._begin_answers(place, self._known.requests)

    def _begin_answers(self, place: Place, requests: bytes) -> None:
        assert self._known is not None
        self._known.num_replayed += 1
        if self._known.turns:
            self._begin_live(place, _Phase.TURNS)
        else:
            self._begin_recorded(place, requests)

    def _begin_recording(self, place: Place) -> None:
        assert self._known is not None
        self._phase = _Phase.RECORD
        self._requests = self._own(Scratch("requests", None))
        descriptors = {"requests": self._requests.descriptor}
        cpu_s = min(self.limits.cpu_s, _RECORDING_S)
        place.desk(self._known).ask("record", self._known, cpu_s, descriptors)

    def _begin_recorded(self, place: Place, requests: bytes) -> None:
        self._phase = _Phase.ANSWER
        self._answers = self._own(scratch.answers())
        self._output = self._own(Output(self.limits))
        shared = self._share(
            orders=orders(self.source),
            output=self._output,
            requests=Scratch.holding("requests", requests),
            answers=self._answers,
        )
        role = "counted" if self.checks.counts else "recorded"
        place.room.start(self.number, role, self.limits, shared)

    def _begin_live(self, place: Place, phase: _Phase = _Phase.LIVE) -> None:
        assert self._known is not None
        self._phase = phase
        self._report = None  # if it was run before, that does not count
        self._output = self._own(Output(self.limits))
        shared = self._share(orders=orders(self.source), output=self._output)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            descriptors = {"stream": ours.fileno()}
            place.desk(self._known).ask(_LIVE[phase], self._known, self.limits.cpu_s, descriptors)
            shared["stream"] = theirs.fileno()
            place.room.start(self.number, "live", self.limits, shared)

    def _begin_anew(self, place: Place, phase: _Phase = _Phase.LIVE) -> None:
        """Run the program once more: where its first run, which may have seen all calls, can have
        left nothing, not even the number of files that it made."""
        place.renew_room()
        self._begin_live(place, phase)

    def on_report(self, place: Place, report: Report, *, out_of_memory: bool) -> None:
        assert self._known is not None
        if self._is_lost(report, out_of_memory):
            if not self._is_decided:
                raise LostJob
            report = replace(report, cause="stopped")  # it was about to be
        self._report, self._out_of_memory = report, out_of_memory
        if self._phase is _Phase.ANSWER:
            assert self._known.requests is not None
            self._phase = _Phase.REPLAY
            descriptors = {"answers": self._answers.descriptor}
            place.desk(self._known).ask("replay", self._known, self.limits.cpu_s, descriptors)
        elif self._phase is _Phase.ASTRAY:
            self._begin_anew(place)
        elif self._phase is _Phase.COUNT_ON and self._is_counting:
            pass  # it has ended, and the desk will say what it had counted by then
        elif self._phase is _Phase.COUNT_LIVE:
            if not self._is_counting:
                self.result = self._examined
        elif self._found is not None:
            self._finish(place)

    def on_reply(self, place: Place, reply: dict[str, Any]) -> None:
        assert self._known is not None
        if self._known.are_tidy is None:
            self._known.are_tidy = reply.get("tidy") is True
        match self._phase, reply:
            case (_Phase.LOOK, _) | (_Phase.RECORD, {"tidy": False}):
                self._begin_running(place)
            case _Phase.RECORD, {"recorded": True, "turns": [*turns]}:
                # A copy: what samples are given is made anew for each, or one could mark it.
                self._known.requests = self._requests.read(0, self._requests.size)
                self._known.turns = tuple(turns)
                self._begin_answers(place, self._known.requests)
            case _Phase.RECORD, _:
                self._known.are_live = True
                self._begin_running(place)
            case ((_Phase.REPLAY | _Phase.TURNS), {"diverged": True}):
                self._known.has_diverged()
                if self._report is not None:
                    self._begin_anew(place)
                else:
                    self._phase = _Phase.ASTRAY
                    place.room.stop(self.number)
            case _Phase.COUNT, {"diverged": True}:
                self._begin_anew(place, _Phase.COUNT_LIVE)
            case _Phase.COUNT_ON, _:
                self._may_hold = reply.get("diverged") is True  # to be found out apart
                self._counts = counts_told(reply)
                self._conclude(place, self._found)
            case ((_Phase.COUNT | _Phase.COUNT_LIVE), _):
                self._have_counted(place, counts_told(reply))
            case _:
                self._num_asserts, self._may_hold = _asserts_told(reply)
                found = _finding(reply) or _ENDED_EARLY
                self._heard = heard_told(reply)
                if reply.get("more") is True:
                    self._phase, self._found, self._is_counting = _Phase.COUNT_ON, found, True
                else:
                    self._conclude(place, found)

    def on_desk_lost(self, place: Place, lost: DeskLost) -> None:
        if lost.was_killed and not self._is_decided:
            raise LostJob
        assert self._known is not None
        if self._phase is _Phase.LOOK:  # to read them is too much already
            self._known.are_tidy = False
            self._begin_running(place)
            return
        if self._phase is _Phase.RECORD:
            self._known.are_live = True
            self._begin_running(place)
            return
        if self._phase is _Phase.COUNT_ON:
            self._may_hold = False
            self._conclude(place, self._found)
        elif self._examined is not None:
            self._have_counted(place, None)
        elif lost.ran_out_of_time:
            is_wall = lost.by_us
            self._checks_cause = Ending.TIMED_OUT_WALL if is_wall else Ending.TIMED_OUT_CPU
            detail = "its answers kept the checks busy beyond their limit"
            self._conclude(place, (Outcome.ENDED, detail, ""))
        else:
            self._conclude(place, _ENDED_EARLY)

    def _conclude(self, place: Place, found: tuple[Outcome, str, str] | None) -> None:
        self._found, self._is_counting = found, False
        if self._phase is not _Phase.REPLAY and self._report is None:
            place.room.stop(self.number)  # which would go on waiting for calls
        else:
            self._finish(place)

    def _finish(self, place: Place) -> None:
        assert self._report is not None
        assert self._found is not None
        outcome, detail, raised = self._found
        report, out_of_memory = self._report, self._out_of_memory
        may_have_gone_on = self._phase in (_Phase.REPLAY, _Phase.COUNT_ON)
        if may_have_gone_on and outcome in COUNTED and not detail.startswith(OUT_OF_PROTOCOL):
            # It had answered all that was held against it. How it fared with calls behind that,
            # which it was asked in one go or to be counted, is no matter.
            report, out_of_memory = replace(report, cause="stopped", status=0), False
        execution = self._execution(report, self._output, raised, out_of_memory=out_of_memory)
        if may_have_gone_on and outcome is not Outcome.ENDED:
            execution = _stopped(execution)
        if self._checks_cause is not None and execution.ending in (Ending.STOPPED, Ending.EXITED):
            # It answered, but in such a way that the checks could not get through.
            execution = replace(execution, ending=self._checks_cause)
        if outcome is Outcome.RAISED and execution.ending in _LIMITS_MET:
            outcome = Outcome.ENDED
        if execution.ending in _TIMED_OUT.values() and detail.startswith(OUT_OF_PROTOCOL):
            outcome = Outcome.ENDED  # in the middle of an answer
        if outcome is Outcome.ENDED and execution.ending is Ending.STOPPED:
            outcome = Outcome.RAISED  # alive, but it had cut itself off from its checks
        examination = Examination(outcome, detail, execution, heard=self._heard_by(outcome))
        if outcome in COUNTED and self._num_asserts:
            counts = self._counts or (0, self._num_asserts)
            examination = replace(examination, counts=counts)
            if self._may_hold and self._counts is None:
                self._examined = examination
                self._begin_counting(place)
                return
        self.result = examination

    def _begin_counting(self, place: Place) -> None:
        assert self._known is not None
        self._is_counting = True
        if self._phase is _Phase.REPLAY:
            self._phase = _Phase.COUNT
            descriptors = {"answers": self._answers.descriptor}
            place.desk(self._known).ask("count", self._known, self.limits.cpu_s, descriptors)
        else:
            self._begin_anew(place, _Phase.COUNT_LIVE)

    def _have_counted(self, place: Place, counts: tuple[int, int] | None) -> None:
        assert self._examined is not None
        self._is_counting = False
        if counts is not None:
            self._examined = replace(self._examined, counts=counts)
        if place.room.is_at_work:
            place.room.stop(self.number)
        else:
            self.result = self._examined

    @property
    def _is_decided(self) -> bool:
        """Whether the desk has said what came of it, and not that the program is gone: whatever
        becomes of either after that, no second run may find something else."""
        has_outcome = self._found is not None and self._found[0] is not Outcome.ENDED
        return has_outcome or self._examined is not None

    def keep_finding(self) -> None:
        if self._is_decided and self._examined is None:
            assert self._found is not None
            outcome, detail, _ = self._found
            # Its room is gone, and with it what the program used.
            execution = replace(self._crashed(), ending=Ending.STOPPED)
            self._examined = Examination(outcome, detail, execution)
        self.result = self._examined

    def give_up(self) -> None:
        outcome = Outcome.ENDED
        heard = self._heard_by(outcome)
        self.result = Examination(outcome, _LOST_TWICE, self._crashed(), heard=heard)

    def _heard_by(self, outcome: Outcome) -> Heard | None:
        if outcome is not Outcome.ENDED or self._phase is not _Phase.LIVE or self.checks.are_live:
            return None
        return self._heard or NOT_KNOWN

    def release(self, checks_room: ChecksRoom) -> None:
        if self._known is not None:
            checks_room.release(self._known)
            self._known = None


_LIVE: Final = {
    _Phase.LIVE: "live",
    _Phase.TURNS: "in turns",
    _Phase.COUNT_LIVE: "count live",
}


def _stopped(execution: Execution) -> Execution:
    """A program that answered all that it was asked ends by itself: the same as being stopped."""
    if execution.ending not in (Ending.EXITED, Ending.STOPPED) or execution.exit_code != 0:
        return execution
    return replace(execution, ending=Ending.STOPPED, exit_code=None)


def _finding(content: dict[str, Any]) -> tuple[Outcome, str, str] | None:
    """Outcome, detail and kind of error, if that is what it says."""
    match content:
        case {"outcome": str(value), "detail": str(detail), "raised": str(raised)}:
            if value in _OUTCOMES:
                return Outcome(value), one_line(detail), raised
    return None


def counts_told(content: dict[str, Any]) -> tuple[int, int] | None:
    """The assertions that held, and all, if that is what it says."""
    match content:
        case {"counts": [int(held), int(met)]} if 0 <= held <= met and 0 < met < _MAX_COUNT:
            return held, met
    return None


def heard_told(content: dict[str, Any]) -> Heard | None:
    match content:
        case {"heard": [int(num_bytes), str(sha256)]} if num_bytes >= 0:
            return Heard(num_bytes, sha256[:_SHA256_CHARS])
    return None


def _asserts_told(content: dict[str, Any]) -> tuple[int, bool]:
    match content:
        case {"asserts": int(number), "may_hold": bool(may_hold)} if 0 < number < _MAX_COUNT:
            return number, may_hold
    return 0, False


# An answer may have been too much for the checks' process.
_ENDED_EARLY: Final = (Outcome.RAISED, "the checks' process ended before they did", "")


def one_line(text: str) -> str:
    """Text of a program's choice, fit for a line of a file or a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())


class CallJob(Job[Answer]):
    """One call of a program's function, answered to the harness itself."""

    def __init__(
        self,
        number: int,
        limits: Limits,
        tier: Tier,
        source: str,
        function: str,
        arguments: tuple[object, ...],
    ) -> None:
        super().__init__(number, limits, tier)
        self.source = source
        self.function = function
        self.arguments = arguments

    def begin(self, place: Place) -> None:
        places = [*range(len(self.arguments))]
        requests = wire.frame(["names", [self.function]])
        requests += wire.frame(["call", 0, self.encoded_arguments(), places, []])
        self._output, self._answers = self._own(Output(self.limits)), self._own(scratch.answers())
        shared = self._share(
            orders=orders(self.source),
            output=self._output,
            requests=Scratch.holding("requests", requests),
            answers=self._answers,
        )
        place.room.start(self.number, "recorded", self.limits, shared)

    def encoded_arguments(self) -> wire.Json:
        """Raises:
        ValueError: one is no plain data.
        """
        return wire.encode(self.arguments, _refuse)

    def on_report(self, place: Place, report: Report, *, out_of_memory: bool) -> None:
        if self._is_lost(report, out_of_memory):
            raise LostJob
        value, raised, kind = self._read()
        execution = self._execution(report, self._output, kind, out_of_memory=out_of_memory)
        self.result = Answer(value, raised, execution if raised else _stopped(execution))

    def _read(self) -> tuple[object, str, str]:
        """Value, what was raised if anything, and its kind."""
        stream = wire.Files(self._answers.descriptor, self._answers.descriptor)
        ended = None, "it ended before it answered", ""
        try:
            match wire.receive(stream):
                case None:
                    return ended
                case ["broken", str(), str(kind), str(detail)]:
                    return None, one_line(detail[:1000]), kind
            match wire.receive(stream):
                case None:
                    return ended
                case ["value", ["dict"]]:
                    return None, f"the program does not define {self.function}", "NameError"
            match wire.receive(stream):
                case None:
                    return ended
                case ["raised", [*_], str(), str(kind), str(detail), *_]:
                    return None, one_line(detail[:1000]), kind
                case ["raised own", _, _, [*_], str(), str(kind), str(detail), *_]:
                    return None, one_line(detail[:1000]), kind
                case ["value", data, *_]:
                    return wire.decode(data, lambda _, label: Opaque(label[:100])), "", ""
        except wire.ProtocolError as error:
            return None, f"it answered out of protocol: {error}", ""
        return None, "it answered out of protocol", ""

    def give_up(self) -> None:
        self.result = Answer(None, _LOST_TWICE, self._crashed())


def _refuse(value: object) -> wire.Json:
    raise ValueError(f"call() hands over plain data only, not a {type(value).__name__}")
