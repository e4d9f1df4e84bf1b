"""The harness's side of an incubator: start it, have it fork rooms."""

import contextlib
import os
import platform
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from sandbox import messages
from sandbox.errors import SandboxUnavailable
from sandbox.plan import Plan

# The package is one of the same name without its __init__, which would import the harness.
_BOOT: Final = """
import sys, types
package = types.ModuleType("sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["sandbox"] = package
from sandbox import incubator
incubator.main(for_checks=sys.argv[2] == "checks")
"""
# All functions of libraries are linked at once: what is linked when it is first called is linked in
# each sample anew. All threads share one heap: glibc would reserve 64 MiB of addresses for each
# one's own, and a program's limit on memory counts addresses.
_ENVIRONMENT: Final = {"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1", "MALLOC_ARENA_MAX": "1"}
_HERE: Final = str(Path(__file__).parent)
_START_TIMEOUT_S: Final = 60.0
_END_TIMEOUT_S: Final = 5.0


class RoomProcess:
    """A room's first process, held by a descriptor: its number may become another one's."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, within that time."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))

    def kill(self) -> None:
        if self._descriptor < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def end(self, timeout_s: float) -> None:
        """Wait for its end, for so long, then bring it about."""
        if self._descriptor < 0:
            return  # it was ended before
        if not self.wait(timeout_s):
            self.kill()
            self.wait()
        os.close(self._descriptor)
        self._descriptor = -1


class Incubator:
    """Starts with the first room that it is asked for, and anew where it was lost.

    Rooms live on without it; `close` it after them.
    """

    def __init__(self, interpreter: str | None = None, *, for_checks: bool = False) -> None:
        # The base interpreter: what a virtual environment adds is not for the room.
        self._interpreter: str = interpreter or sys._base_executable  # type: ignore[attr-defined]
        self._is_chosen = interpreter is not None
        self._for_checks = for_checks
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def begin(self) -> None:
        """Start it ahead of the first room.

        Raises:
            SandboxUnavailable: not on Linux, or the interpreter cannot be started.
        """
        if self._control is None:
            self._start()

    def fork_room(self, plan: Plan) -> tuple[RoomProcess, socket.socket]:
        """The first process of a room, which goes on once it receives a message, and the socket
        that the room is spoken to through.

        Raises:
            SandboxUnavailable: not on Linux, the interpreter cannot be started, or no process can.
        """
        assert plan.for_checks == self._for_checks  # or checks would hash by a seed that is known
        if self._control is not None:
            with contextlib.suppress(OSError):
                if (room := self._ask(self._control, plan)) is not None:
                    return room
            self.close()  # it was lost since
        try:
            room = self._ask(self._start(), plan)
        except OSError:
            room = None
        if room is None:
            self.close()
            raise self._unavailable()
        return room

    def close(self) -> None:
        """Let it end, once its rooms have."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> socket.socket:
        if platform.system() != "Linux":
            raise SandboxUnavailable(
                f"{platform.system()} has no namespaces",
                "run this in a Linux virtual machine or container",
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        purpose = "checks" if self._for_checks else "programs"
        try:
            self._process = subprocess.Popen(
                [self._interpreter, *self._flags(), "-c", _BOOT, _HERE, purpose],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the harness
            )
        except OSError as error:
            ours.close()
            raise SandboxUnavailable(
                f"cannot start {self._interpreter} ({error.strerror})",
                "use an interpreter that this user may execute",
            ) from error
        finally:
            theirs.close()
        ours.settimeout(_START_TIMEOUT_S)
        self._control = ours
        return ours

    def _flags(self) -> tuple[str, ...]:
        """Isolated from environment, user and working folder (-I), without packages (-S).

        Programs get -I less its -E, so that the fixed hash seed is taken: the order of a set of
        texts, and with it a verdict, is then the same each time. Checks hash what programs answer:
        no seed that a program knows.
        """
        return ("-I", "-S") if self._for_checks else ("-s", "-P", "-S")

    def _ask(
        self, incubator: socket.socket, plan: Plan
    ) -> tuple[RoomProcess, socket.socket] | None:
        """None where it has ended.

        Raises:
            SandboxUnavailable: it says that it cannot.
            OSError: it has ended, or does not answer.
        """
        # A pair of its own for each attempt: a room that was forked, but not told of, then ends.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        room = None
        try:
            with theirs:
                content = {"plan": plan.as_json()}
                messages.send(incubator, content, {"control": theirs.fileno()})
            match messages.receive(incubator):
                case messages.Message({"pid": pid}, {"process": descriptor}):
                    room = RoomProcess(pid, descriptor), ours
                case messages.Message({"unavailable": [reason, remedy]}):
                    raise SandboxUnavailable(reason, remedy)
            return room
        finally:
            if room is None:
                ours.close()

    def _unavailable(self) -> SandboxUnavailable:
        if self._is_chosen:
            return SandboxUnavailable(
                f"{self._interpreter} runs no room", "name an interpreter of Python 3.11 or newer"
            )
        return SandboxUnavailable(
            f"{self._interpreter} ended before it could run anything",
            "try it: it must be a Python that this user may run",
        )


class Incubators:
    """Those of programs and of checks, which several pools of one interpreter may share.

    Warming up takes an interpreter a tenth of a second; `begin` has it done ahead, while there is
    other work. Close them after the pools.
    """

    def __init__(self, interpreter: str | None = None) -> None:
        self.of_programs = Incubator(interpreter)
        self.of_checks = Incubator(interpreter, for_checks=True)

    def begin(self) -> None:
        """Raises:
        SandboxUnavailable: not on Linux, or the interpreter cannot be started.
        """
        self.of_programs.begin()
        self.of_checks.begin()

    def close(self) -> None:
        """Let them end, once their rooms have."""
        self.of_programs.close()
        self.of_checks.close()
