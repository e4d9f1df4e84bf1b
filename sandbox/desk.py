"""A process in the checks' room that examines one program's answers after another.

It never executes a program. It keeps compiled checks from one program to the next, and puts back
what checks change of the interpreter. How long it lives is for the harness to say, since checks
that run here can say anything in its place (`sandbox.desks`).
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
    """Do what the harness asks for until it is gone.

    An order names what to "do" (look; record, replay, in turns, live; count and count live), the
    number of the "checks", and how much CPU time they may take: this process ends where they take
    more. Where they are to run "if tidy" only, it looks at them first. The reply says whether this
    desk is "spoilt", in a way that takes no hostile checks.
    """
    checks: dict[int, _Given] = {}
    requests: dict[int, bytes] = {}  # by the number of the checks that make them
    state = _State()
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
        is_spoilt = state.is_spoilt()
        send(control, {**reply, "order": order.content["order"], "spoilt": is_spoilt})
    os._exit(0)


_DIVERGED: Final[dict[str, Any]] = {"diverged": True}
_OTHER_ANSWERS: Final = "other answers than when it was run before"
_OTHERWISE: Final = checker.as_finding(
    Outcome.RAISED, f"{checker.OUT_OF_PROTOCOL}: {_OTHER_ANSWERS}", None
)


class _Given(NamedTuple):
    """Checks as they came."""

    source: str
    names: tuple[str, ...]
    counts: bool


def _checks(order: Message, known: dict[int, _Given]) -> _Given:
    """The checks of that number, which come with the first order only."""
    number = order.content["checks"]
    if "source" in order.descriptors:
        descriptor = order.descriptors["source"]
        source, names, counts = wire.parse(_content(descriptor))
        known[number] = _Given(source, tuple(names), counts)
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
    if "if tidy" in order.content and not tidiness.is_tidy(source, names):
        yield {"tidy": False}
        return
    match order.content["do"]:
        case "look":
            yield {"tidy": True}
        case "record":
            recorded = recording.record(source, names)
            if recorded is None:
                yield {"tidy": True, "recorded": False}
                return
            _write(descriptors["requests"], recorded.requests)
            yield {"tidy": True, "recorded": True, "turns": recorded.turns}
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
                if "heard" not in order.content:
                    yield from _examine_and_count(given, stream)
                    return
                again = Again(stream, *order.content["heard"])
                for reply in _examine_and_count(given, again):
                    has_held = reply.get("outcome") == Outcome.HELD.value
                    told = _OTHERWISE if has_held and again.is_short else reply
                    yield {**told, "heard": again.heard()}
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
    given: _Given, stream: "socket.socket | Again | InTurns"
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


class Again:
    """A Stream of another, to a program that was run before: whatever it is asked, what it says has
    to begin with what it said then, of which the length and sha256 are known. It may have seen more
    then than it will see now before it answers the same.
    """

    def __init__(self, stream: wire.Stream, num_bytes: int, sha256: str) -> None:
        import hashlib  # a library comes with it, and few checks are live

        self._stream = stream
        self._num_left, self._sha256 = num_bytes, sha256
        self._num_heard, self._digest = 0, hashlib.sha256()

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)

    def recv(self, size: int) -> bytes:
        """
        Raises:
            wire.ProtocolError: it says something else.
        """
        part = self._stream.recv(min(size, self._num_left or size))
        self._digest.update(part)
        self._num_heard += len(part)
        if self._num_left:
            self._num_left -= len(part)
            if not self._num_left and self._digest.hexdigest() != self._sha256:
                raise wire.ProtocolError(_OTHER_ANSWERS)
        return part

    @property
    def is_short(self) -> bool:
        """Whether it has not said all that it said then."""
        return self._num_left > 0

    def heard(self) -> tuple[int, str]:
        return self._num_heard, self._digest.hexdigest()


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
