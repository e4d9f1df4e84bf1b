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
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import checker, counting, recording, tidiness, wire
from sandbox.messages import Message, receive, send
from sandbox.outcome import Outcome

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import resource

_MAX_JOBS: Final = 1000
_MAX_GROWTH_BYTES: Final = 64 << 20
_RECURSION_LIMIT: Final = 1000
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
        reply = _do(order, given, _requests(order, requests))
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        order.close()
        num_jobs += 1
        is_last = num_jobs >= _MAX_JOBS or state.is_spoilt() or not given.leave_no_trace()
        send(control, {**reply, "order": order.content["order"], "last": is_last})
        if is_last:
            break
    os._exit(0)


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


def _do(order: Message, given: _Given, requests: bytes) -> dict[str, Any]:
    source, names = given.source, given.names
    descriptors = order.descriptors
    match order.content["do"]:
        case "record":
            recorded = recording.record(source, names)
            if recorded is None:
                return {"recorded": False}
            _write(descriptors["requests"], recorded.requests)
            return {"recorded": True, "turns": recorded.turns}
        case "replay":
            replay = Replay(requests, descriptors["answers"])
            finding = checker.examine(source, names, replay)
            return {"diverged": True} if replay.is_diverged else _told(given, finding)
        case "in turns":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                talk = InTurns(stream, requests, order.content["turns"])
                finding = checker.examine(source, names, talk)
            return {"diverged": True} if talk.is_diverged else _told(given, finding)
        case "live":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                return _told(given, checker.examine(source, names, stream))
        case "count":
            replay = Replay(requests, descriptors["answers"], go_on=True)
            counts = counting.count(source, names, replay)
            return {"diverged": True} if replay.is_diverged else {"counts": counts}
        case "count live":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                return {"counts": counting.count(source, names, stream)}
    raise AssertionError(f"unknown order {order.content['do']!r}")


def _told(given: _Given, finding: tuple[Outcome, str, str | None]) -> dict[str, Any]:
    """What was found, and what there is to be counted where assertions are and do not all hold."""
    told: dict[str, Any] = checker.as_finding(*finding)
    if given.counts and finding[0] is not Outcome.HELD:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError):
            *_, num_asserts, may_hold = counting.compile_counting(given.source, given.names)
            told |= {"asserts": num_asserts, "may_hold": may_hold}
    return told


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
