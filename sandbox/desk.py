"""A process in the checks' room that examines one program's answers after another.

It never executes a program. It keeps compiled checks from one program to the next, and puts back
what checks change of the interpreter; after some hundred programs, or when it has grown, it ends
and another takes its place.
"""

import builtins
import contextlib
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import checker, counting, recording, tidiness, wire
from sandbox.messages import Message, receive, send
from sandbox.outcome import Outcome

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import resource

_MAX_JOBS: Final = 1000
_MAX_GROWTH_BYTES: Final = 64 << 20
_RECURSION_LIMIT: Final = 1000
_MAX_TAPE_BYTES: Final = 4 << 20
# Several requests must fit into a socket: this side is not to wait for the program to take them
# while the program waits for its answers to be taken.
_MAX_SENT_BYTES: Final = 1 << 14


# An init says by its exit code which signal ended the desk.
_SIGNALLED: Final = 128


def exit_code(status: int) -> int:
    """What the desk's init exits with when the desk ended so (as from os.wait)."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code


def ending_signal(status: int) -> int | None:
    """The signal that ended the desk, from the status of its init; None for none."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return -code
    return code - _SIGNALLED if code > _SIGNALLED else None


def serve(control: socket.socket) -> NoReturn:
    """Do what the harness asks for until it is gone, or this desk has had its day.

    An order names what to "do" (record, replay, in turns, live; count and count live), the number
    of the "checks", and how much CPU time they may take: this process ends where they take more.
    """
    checks: dict[int, _Given] = {}
    requests: dict[int, bytes] = {}  # by the number of the checks that make them
    state = _State()
    num_jobs = 0
    while (order := receive(control)) is not None:
        signal.setitimer(signal.ITIMER_PROF, order.content["cpu_s"])
        state.restore()
        given = _checks(order, checks)
        reply: dict[str, Any] = {}
        for reply in _do(order, given, _requests(order, requests)):
            if "more" in reply:
                send(control, {**reply, "order": order.content["order"]})
                signal.setitimer(signal.ITIMER_PROF, order.content["cpu_s"])
                state.restore()
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        order.close()
        num_jobs += 1
        is_last = num_jobs >= _MAX_JOBS or state.is_spoilt() or not given.leave_no_trace()
        send(control, {**reply, "order": order.content["order"], "last": is_last})
        if is_last:
            break
    os._exit(0)


_DIVERGED: Final[dict[str, Any]] = {"diverged": True}


class _Given(NamedTuple):
    """Checks as they came; `are_tidy` is their author's word, see `sandbox.Checks`."""

    source: str
    names: tuple[str, ...]
    are_tidy: bool
    counts: bool

    def leave_no_trace(self) -> bool:
        return self.are_tidy or tidiness.is_tidy(self.source, self.names)


def _checks(order: Message, known: dict[int, _Given]) -> _Given:
    """The checks of that number, which come with the first order only."""
    number = order.content["checks"]
    if "source" in order.descriptors:
        descriptor = order.descriptors["source"]
        source, names, are_tidy, counts = wire.parse(_content(descriptor))
        known[number] = _Given(source, tuple(names), are_tidy, counts)
    return known[number]


def _requests(order: Message, known: dict[int, bytes]) -> bytes:
    """What was recorded of these checks, which comes with the first order to use it; or nothing."""
    number = order.content["checks"]
    if "recorded" in order.descriptors:
        known[number] = _content(order.descriptors["recorded"])
    return known.get(number, b"")


def _do(order: Message, given: _Given, requests: bytes) -> Iterator[dict[str, Any]]:
    """What was found; where it says that there is "more", what was counted after that."""
    source, names = given.source, given.names
    descriptors = order.descriptors
    match order.content["do"]:
        case "record":
            recorded = recording.record(source, names)
            if recorded is None:
                yield {"recorded": False}
                return
            _write(descriptors["requests"], recorded.requests)
            yield {"recorded": True, "turns": recorded.turns}
        case "replay":
            replay = Replay(requests, descriptors["answers"])
            finding = checker.examine(source, names, replay)
            yield _DIVERGED if replay.is_diverged else _told(given, finding)
        case "in turns":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                talk = InTurns(stream, requests, order.content["turns"])
                yield from _examine_and_count(given, talk)
        case "live":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                yield from _examine_and_count(given, stream)
        case "count":
            replay = Replay(requests, descriptors["answers"], go_on=True)
            counts = counting.count(source, names, replay)
            yield _DIVERGED if replay.is_diverged else {"counts": counts}
        case "count live":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                yield {"counts": counting.count(source, names, stream)}
        case unknown:
            raise AssertionError(f"unknown order {unknown!r}")


def _examine_and_count(
    given: _Given, stream: "socket.socket | InTurns"
) -> Iterator[dict[str, Any]]:
    """Examine a program that is there, and let it answer what is asked to count."""
    tape = Tape(stream)
    finding = checker.examine(given.source, given.names, tape if given.counts else stream)
    if isinstance(stream, InTurns) and stream.is_diverged:
        yield _DIVERGED
        return
    told = _told(given, finding)
    if finding[0] not in counting.COUNTED or not told.get("may_hold"):
        yield told
        return
    yield {**told, "more": True}
    tape.rewind()
    counts = counting.count(given.source, given.names, tape)
    is_diverged = tape.is_diverged or (isinstance(stream, InTurns) and stream.is_diverged)
    yield _DIVERGED if is_diverged else {"counts": counts}


def _told(given: _Given, finding: tuple[Outcome, str, str | None]) -> dict[str, Any]:
    """What was found, and what there is to be counted where not all assertions hold."""
    told: dict[str, Any] = checker.as_finding(*finding)
    if given.counts and finding[0] is not Outcome.HELD:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            *_, num_asserts, may_hold = counting.compile_counting(given.source, given.names)
            told |= {"asserts": num_asserts, "may_hold": may_hold}
    return told


class Tape:
    """A Stream of another that can be played once more: what was asked then has the same answers,
    and what is asked beyond goes on to the program.

    Once `is_diverged`, something else was asked, or there was too much to hold.
    """

    def __init__(self, stream: wire.Stream) -> None:
        self._stream = stream
        self._asked, self._heard = bytearray(), bytearray()
        self._asked_at = self._heard_at = 0
        self._is_full = self.is_diverged = False

    def rewind(self) -> None:
        self._asked_at = self._heard_at = 0
        self.is_diverged = self._is_full

    def sendall(self, data: bytes) -> None:
        if self._asked_at < len(self._asked) or self.is_diverged:
            if self.is_diverged or not self._asked.startswith(data, self._asked_at):
                self.is_diverged = True
                raise BrokenPipeError
        else:
            self._stream.sendall(data)
            self._asked += self._room_for(data)
        self._asked_at += len(data)

    def recv(self, size: int) -> bytes:
        if self._heard_at < len(self._heard):
            part = bytes(self._heard[self._heard_at : self._heard_at + size])
        else:
            part = self._stream.recv(size)
            self._heard += self._room_for(part)
        self._heard_at += len(part)
        return part

    def _room_for(self, data: bytes) -> bytes:
        self._is_full |= len(self._asked) + len(self._heard) > _MAX_TAPE_BYTES
        return b"" if self._is_full else data


class Replay:
    """A Stream to a program that has answered already: its requests were known beforehand.

    Once `is_diverged`, the checks asked something else, or more than was answered for; then what
    they found means nothing. Checks that ``go_on`` after an error have its later answers too.
    """

    def __init__(self, requests: bytes, answers: int, *, go_on: bool = False) -> None:
        self._requests, self._answers = requests, answers
        self._goes_on = go_on
        self._asked = self._heard = 0
        self._ahead = b""  # of the answers, from what was heard on
        self.is_diverged = False

    def sendall(self, data: bytes) -> None:
        if not self._requests.startswith(data, self._asked):
            self.is_diverged = True
            raise BrokenPipeError
        self._asked += len(data)

    def recv(self, size: int) -> bytes:
        if len(self._ahead) < size:
            end = self._heard + len(self._ahead)
            self._ahead += os.pread(self._answers, max(size, wire.READ_AHEAD_BYTES), end)
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        if part == wire.CUT and not self._goes_on:
            self.is_diverged = True
            return b""
        self._heard += len(part)
        if part == wire.CUT:
            self._goes_on = False  # a second one ends them for good
            return self.recv(size)
        return part


class InTurns:
    """A Stream to a program that is sent several requests at once, for these are known beforehand.

    A request at an offset in ``turns`` is sent when the checks come to it: then the answers to all
    before it are here, and the program cannot change them any more. Once `is_diverged`, the checks
    asked something else than was sent; then what they found means nothing.
    """

    def __init__(self, stream: wire.Stream, requests: bytes, turns: Sequence[int]) -> None:
        self._stream, self._requests = wire.ReadAhead(stream), requests
        self._ends = iter([*turns, len(requests)])
        self._asked = self._sent = self._end = 0
        self.is_diverged = False

    def sendall(self, data: bytes) -> None:
        if not self._requests.startswith(data, self._asked):
            self.is_diverged = True
            raise BrokenPipeError
        start, self._asked = self._asked, self._asked + len(data)
        if start == self._sent:
            if start == self._end:
                self._end = next(self._ends)
            self._sent = self._end if self._end - start <= _MAX_SENT_BYTES else self._asked
            self._stream.sendall(self._requests[start : self._sent])

    def recv(self, size: int) -> bytes:
        return self._stream.recv(size)


class _State:
    """What checks may change that the next ones would find changed."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._peak_bytes = _peak_bytes()
        self._num_threads = threading.active_count()

    def restore(self) -> None:
        """Also makes checks that draw at random draw the same each time."""
        random.seed(0)
        sys.setrecursionlimit(_RECURSION_LIMIT)
        if vars(builtins) != self._builtins:
            vars(builtins).clear()
            vars(builtins).update(self._builtins)

    def is_spoilt(self) -> bool:
        return (
            threading.active_count() != self._num_threads
            or _peak_bytes() - self._peak_bytes > _MAX_GROWTH_BYTES
        )


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
