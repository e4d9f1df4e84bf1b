"""The harness's side of a room: start it, hand it jobs, read its reports."""

import contextlib
import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits

# A package of the same name without its __init__, which would import the harness into the room.
_BOOT: Final = """
import sys, types
package = types.ModuleType("sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["sandbox"] = package
from sandbox import zygote
zygote.main(*sys.argv[2:])
"""
_START_TIMEOUT_S: Final = 60.0
_END_TIMEOUT_S: Final = 5.0
_MAX_REPORT_BYTES: Final = 1 << 16
_NOTE_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 4096
_SPARE_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Report:
    """What a zygote says about a sample that ended."""

    job: int
    cause: str | None  # "cpu", "wall" or "stopped" where the zygote ended it
    status: int  # as from os.wait
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int


class RoomLost(Exception):  # noqa: N818 - an event rather than an error: the room is replaced
    """The room ended without a report."""


class Room:
    """One contained process tree that runs one sample at a time."""

    def __init__(self, limits: Limits, *, contained: bool) -> None:
        """Start the room; `wait_until_ready` waits for it, so that several start side by side.

        ``steps_held`` grows by the name of each step of containment that holds.

        Raises:
            SandboxUnavailable: not on Linux, or the interpreter cannot be started.
        """
        if platform.system() != "Linux":
            raise SandboxUnavailable(
                f"{platform.system()} has no namespaces",
                "run this in a Linux virtual machine or container",
            )
        self.steps_held: list[str] = []
        self._contained = contained
        self._is_ready = False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The base interpreter: what a virtual environment adds is not for the room.
        interpreter: str = sys._base_executable  # type: ignore[attr-defined]
        arguments = [str(Path(__file__).parent), json.dumps(limits.as_dict())]
        try:
            self._process = subprocess.Popen(
                [interpreter, "-I", "-S", "-c", _BOOT, *arguments, "yes" if contained else "no"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the harness
            )
        except OSError as error:
            self.control.close()
            raise SandboxUnavailable(
                f"cannot start {interpreter} ({error.strerror})",
                "use an interpreter that this user may execute",
            ) from error
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Raises:
        SandboxUnavailable: containment does not hold, or the room did not start.
        """
        if self._is_ready:
            return
        self.control.settimeout(_START_TIMEOUT_S)
        try:
            while "held" in (message := self._receive()):
                self.steps_held.append(message["held"])
        except (TimeoutError, RoomLost):
            message = {}
        self.control.settimeout(None)
        match message:
            case {"ready": True}:
                self._is_ready = True
                return
            case {"unavailable": [str(reason), str(remedy)]}:
                self.close()
                raise SandboxUnavailable(reason, remedy)
        self.close()
        raise SandboxUnavailable(
            "a room ended before it was ready", "run `python -m sandbox probe` for the reason"
        )

    def start(self, job: int, role: str, limits: Limits, descriptors: list[int]) -> None:
        """Hand over a sample; see `sandbox.zygote` for the roles and the descriptors' order.

        Raises:
            RoomLost: the room has ended.
        """
        message = {"job": job, "role": role, "limits": limits.as_dict()}
        try:
            socket.send_fds(self.control, [json.dumps(message).encode("ascii")], descriptors)
        except OSError as error:
            raise RoomLost from error

    def stop(self, job: int) -> None:
        """End the sample, if it still runs; its report comes all the same."""
        with contextlib.suppress(OSError):
            self.control.send(json.dumps({"stop": job}).encode("ascii"))

    def report(self) -> Report:
        """The report that made `control` readable.

        Raises:
            RoomLost: the room has ended.
            SandboxUnavailable: the sample could not be contained, and did not run.
        """
        match self._receive():
            case {"unavailable": [str(reason), str(remedy)]}:
                raise SandboxUnavailable(reason, remedy)
            case message:
                return Report(**message)

    def close(self) -> None:
        """End the room and everything in it."""
        self.control.close()
        if not self._contained:
            # Nothing but the zygote can end its sample, and remove its folder.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_TIMEOUT_S)
        self._process.kill()
        self._process.wait()

    def _receive(self) -> dict[str, Any]:
        try:
            data = self.control.recv(_MAX_REPORT_BYTES)
            message = json.loads(data)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise RoomLost from error
        if not isinstance(message, dict):
            raise RoomLost
        return message


class Scratch:
    """Anonymous memory of fixed size that the harness shares with one sample."""

    def __init__(self, name: str, size: int, content: bytes = b"") -> None:
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.pwrite(self.descriptor, content, 0)
        os.ftruncate(self.descriptor, size)
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        self.size = size

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self.descriptor, max(0, end - start), start)

    def close(self) -> None:
        os.close(self.descriptor)


class Output(Scratch):
    """Where a sample's standard output and error go: they share one position, which is its end."""

    def __init__(self, limits: Limits) -> None:
        # A write that would cross the end is refused, whole or from some page on: hence the spare.
        super().__init__("output", limits.output_bytes + _SPARE_BYTES)
        self._limit = limits.output_bytes

    @property
    def end(self) -> int:
        """How much was written, as far as the sample left the position alone."""
        return min(max(0, os.lseek(self.descriptor, 0, os.SEEK_CUR)), self.size)

    @property
    def is_too_much(self) -> bool:
        return self.end > self._limit

    def head(self) -> str:
        return self.read(0, min(self.end, _TAIL_BYTES)).decode("utf-8", "replace")

    def tail(self) -> str:
        return self.read(max(0, self.end - _TAIL_BYTES), self.end).decode("utf-8", "replace")


class Note(Scratch):
    """Where a sample's last words go: a JSON object, padded with zeros."""

    def __init__(self) -> None:
        super().__init__("note", _NOTE_BYTES)

    def content(self) -> dict[str, Any]:
        """The object, or an empty one where there is none."""
        try:
            content = json.loads(self.read(0, self.size).rstrip(b"\0"))
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def orders(**content: Any) -> Scratch:
    """What a sample is to run."""
    text = json.dumps(content).encode("ascii")
    return Scratch("orders", len(text), text)
