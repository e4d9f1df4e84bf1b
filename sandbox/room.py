"""The harness's side of a room: start it, hand it samples, read its reports."""

import contextlib
import errno
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Final

from sandbox import messages
from sandbox.cgroup import Group
from sandbox.errors import SandboxUnavailable
from sandbox.incubation import Incubator
from sandbox.limits import Limits
from sandbox.plan import Plan

_PROBE: Final = "run `python -m sandbox probe` for the reason"
_START_TIMEOUT_S: Final = 60.0
_END_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Report:
    """What a zygote says about a sample that ended."""

    job: int
    cause: str | None  # "cpu", "wall" or "stopped" where the zygote ended it
    status: int  # as from os.wait
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int

    @classmethod
    def read(cls, message: dict[str, Any]) -> "Report":
        """Raises:
        RoomLost: no zygote says that.
        """
        match message:
            case {
                "job": int(job),
                "cause": str() | None as cause,
                "status": int(status),
                "cpu_s": int() | float() as cpu_s,
                "wall_s": int() | float() as wall_s,
                "peak_memory_bytes": int(peak_memory_bytes),
            }:
                return cls(job, cause, status, cpu_s, wall_s, peak_memory_bytes)
        raise RoomLost


class RoomLost(Exception):  # noqa: N818 - an event rather than an error: the room is replaced
    """The room ended without a report."""


class Room:
    """One contained process tree that runs one sample at a time, or the desks of all checks."""

    def __init__(self, plan: Plan, incubator: Incubator, group: Group | None = None) -> None:
        """Start the room; `wait_until_ready` waits for it, so that several start side by side.

        ``steps_held`` grows by the name of each step of containment that holds. ``group`` bounds
        memory and processes of the whole tree; the room owns it.

        Raises:
            SandboxUnavailable: not on Linux, or the interpreter cannot be started.
        """
        self.steps_held: list[str] = []
        self.plan = plan
        self.is_at_work = False
        self.started_s = 0.0  # when the sample at work was handed over
        self._group = group
        self._num_oom_kills = 0
        self._cpu_before_s: float | None = None
        self._is_ready = False
        try:
            self.process, self.control = incubator.fork_room(plan)
        except SandboxUnavailable:
            self._close_group()
            raise
        try:
            if group is not None:
                group.add(self.process.pid)
                if self.process.wait(0):  # then its number may have been another's
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            messages.send(self.control, {"begin": True})  # in its group, that is
        except OSError as error:
            self.close()
            raise SandboxUnavailable(
                f"a room could not begin ({error.strerror})", _PROBE
            ) from error

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
        chosen = self.plan.profile.interpreter
        of_which = "" if chosen is None else f" of {chosen}"
        raise SandboxUnavailable(f"a room{of_which} ended before it was ready", _PROBE)

    def start(self, job: int, role: str, limits: Limits, descriptors: dict[str, int]) -> None:
        """Hand over a sample; see `sandbox.zygote` for the roles and their descriptors.

        Raises:
            RoomLost: the room has ended.
        """
        if self._group is not None and self.plan.profile.processes:
            self._cpu_before_s = self._group.cpu_s()
        self.send({"job": job, "role": role, "limits": limits.as_dict()}, descriptors)
        self.is_at_work = True
        self.started_s = time.monotonic()

    def stop(self, job: int) -> None:
        """End the sample, if it still runs; its report comes all the same."""
        with contextlib.suppress(RoomLost):
            self.send({"stop": job})

    def allow(self, job: int, more_s: float, cause: str) -> None:
        """Answer a sample that is late: it may take so much longer, or ends, for that cause."""
        with contextlib.suppress(RoomLost):
            self.send({"more": job, "s": more_s, "cause": cause})

    def send(self, content: dict[str, Any], descriptors: dict[str, int] | None = None) -> None:
        """Raises:
        RoomLost: the room has ended.
        """
        try:
            messages.send(self.control, content, descriptors)
        except OSError as error:
            raise RoomLost from error

    def receive(self) -> Report | dict[str, Any]:
        """What made `control` readable: a report, or another message.

        Raises:
            RoomLost: the room has ended.
            SandboxUnavailable: the sample could not be contained, and did not run.
        """
        match self._receive():
            case {"unavailable": [str(reason), str(remedy)]}:
                raise SandboxUnavailable(reason, remedy)
            case {"cause": _} as report:
                self.is_at_work = False
                read = Report.read(report)
                return replace(read, cpu_s=max(read.cpu_s, self.cpu_s() or 0.0))
            case message:
                return message

    def cpu_s(self) -> float | None:
        """CPU time since the sample was handed over, of whatever ran here since, if several
        processes may: those too that nobody waited for. None where only processes can tell."""
        if self._cpu_before_s is None or self._group is None:
            return None
        now_s = self._group.cpu_s()
        return None if now_s is None else now_s - self._cpu_before_s

    def has_run_out_of_memory(self) -> bool:
        """Whether the kernel ended something in the room for that since this was asked last."""
        if self._group is None:
            return False
        before, self._num_oom_kills = self._num_oom_kills, self._group.num_oom_kills()
        return self._num_oom_kills > before

    def close(self) -> None:
        """End the room and everything in it."""
        self.is_at_work = False
        self.control.close()
        # The zygote ends its sample and itself; then its first process has nobody left to wait for.
        self.process.end(_END_TIMEOUT_S)
        self._close_group()

    def _close_group(self) -> None:
        if self._group is not None:
            self._group.close()

    def _receive(self) -> dict[str, Any]:
        try:
            message = messages.receive_report(self.control)
        except ValueError as error:
            raise RoomLost from error
        if message is None:
            raise RoomLost
        return message
