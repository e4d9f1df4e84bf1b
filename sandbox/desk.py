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
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import checker, recording, tidiness, wire
from sandbox.messages import Message, receive, send

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import resource

_MAX_JOBS: Final = 1000
_MAX_GROWTH_BYTES: Final = 64 << 20
_RECURSION_LIMIT: Final = 1000


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

    An order names what to "do" (record, replay, live), the number of the "checks", and how much
    CPU time they may take: this process ends where they take more.
    """
    checks: dict[int, _Given] = {}
    state = _State()
    num_jobs = 0
    while (order := receive(control)) is not None:
        signal.setitimer(signal.ITIMER_PROF, order.content["cpu_s"])
        state.restore()
        given = _checks(order, checks)
        reply = _do(order, given.source, given.names)
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

    def leave_no_trace(self) -> bool:
        return self.are_tidy or tidiness.is_tidy(self.source, self.names)


def _checks(order: Message, known: dict[int, _Given]) -> _Given:
    """The checks of that number, which come with the first order only."""
    number = order.content["checks"]
    if "source" in order.descriptors:
        descriptor = order.descriptors["source"]
        source, names, are_tidy = wire.parse(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        known[number] = _Given(source, tuple(names), are_tidy)
    return known[number]


def _do(order: Message, source: str, names: tuple[str, ...]) -> dict[str, Any]:
    descriptors = order.descriptors
    match order.content["do"]:
        case "record":
            requests = recording.record(source, names)
            if requests is not None:
                _write(descriptors["requests"], requests)
            return {"recorded": requests is not None}
        case "replay":
            replay = Replay(descriptors["requests"], descriptors["answers"])
            finding = checker.examine(source, names, replay)
            return {"diverged": True} if replay.is_diverged else checker.as_finding(*finding)
        case "live":
            with socket.socket(fileno=descriptors.pop("stream")) as stream:
                return checker.as_finding(*checker.examine(source, names, stream))
    raise AssertionError(f"unknown order {order.content['do']!r}")


class Replay:
    """A Stream to a program that has answered already: its requests were known beforehand.

    Once `is_diverged`, the checks asked something else, or more than was answered for; then what
    they found means nothing.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._asked = self._heard = 0
        self.is_diverged = False

    def sendall(self, data: bytes) -> None:
        if os.pread(self._requests, len(data), self._asked) != data:
            self.is_diverged = True
            raise BrokenPipeError
        self._asked += len(data)

    def recv(self, size: int) -> bytes:
        part = os.pread(self._answers, size, self._heard)
        if part == wire.CUT:
            self.is_diverged = True
            return b""
        self._heard += len(part)
        return part


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


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
