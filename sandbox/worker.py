"""A worker: a room that runs one program at a time, with a desk while there is to judge."""

import logging
import os
import selectors
import time
from collections.abc import Callable
from typing import Any, Final

from sandbox.desks import ChecksRoom, Desk, DeskLost, KnownChecks
from sandbox.jobs import ExamineJob, Job, LostJob
from sandbox.room import Report, Room, RoomLost
from sandbox.usage import usage

_log = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 2
# A zygote ends its samples itself; one that is this late has gone astray.
_GRACE_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.1
_NUM_PROCESSORS: Final = os.cpu_count() or 1
# However busy the machine is.
_MAX_EXTENSION: Final = 20


class Worker:
    """Its sockets are registered with a selector, with a callback each that takes no argument and
    returns a job that is over, or to be done again."""

    def __init__(
        self,
        new_room: Callable[[], Room],
        checks_room: ChecksRoom,
        selector: selectors.BaseSelector,
    ) -> None:
        self.job: Job[Any] | None = None
        self.checks_room = checks_room
        self._new_room = new_room
        self._selector = selector
        self._desk: Desk | None = None
        self._late_at_s = 0.0
        self._open_room()

    def desk(self, checks: KnownChecks) -> Desk:
        """A desk for these checks, which is this worker's own until it has replied."""
        if self._desk is not None and not self._desk.serves(checks):
            self._give_back_desk()
        if self._desk is None:
            self._desk = self.checks_room.take_desk(checks, self._on_desk)
        self._be_patient()
        return self._desk

    def begin(self, job: Job[Any]) -> Job[Any] | None:
        """Start a job; the job, where it turns out that this worker lost its room or desk."""
        self.job = job
        job.num_attempts += 1
        self._be_patient()
        return self._attempt(lambda: job.begin(self))

    @property
    def late_at_s(self) -> float:
        """When something must have happened."""
        return self._late_at_s

    def on_late(self) -> Job[Any] | None:
        """Nothing happened: end what is astray."""
        if not self.room.is_at_work and self._desk is not None and self._desk.is_at_work:
            self._desk.end()
            self._late_at_s = time.monotonic() + _GRACE_S
            return None
        return self._replace_room()

    def renew_room(self) -> None:
        """Another room takes the place of this one.

        Raises:
            SandboxUnavailable: containment does not hold.
        """
        self._close_room()
        self._open_room()
        self.room.wait_until_ready()

    def abandon(self) -> None:
        """End the job at work, if any; the worker is free for the next."""
        if self.job is not None:
            self._settle()
            self._release()

    def close(self) -> None:
        self._close_desk()
        self._close_room()
        if self.job is not None:
            self._release()

    def _on_room(self) -> Job[Any] | None:
        if self.job is None:  # the room ended while idle
            return self._replace_room()
        try:
            message = self.room.receive()
        except RoomLost:
            return self._replace_room()
        job = self.job
        if isinstance(message, Report):
            self._be_patient()
            # One of several processes may have been ended and the sample gone on.
            may_be = message.status != 0 or self.room.plan.profile.processes
            out_of_memory = may_be and self.room.has_run_out_of_memory()
            return self._attempt(lambda: job.on_report(self, message, out_of_memory=out_of_memory))
        if message.get("late") == job.number:
            self._extend(job)
        return None

    def _on_desk(self) -> Job[Any] | None:
        assert self._desk is not None
        try:
            reply = self._desk.reply()
        except DeskLost as lost:
            self._close_desk()
            if self.job is None:
                return None
            job, loss = self.job, lost
            return self._attempt(lambda: job.on_desk_lost(self, loss))
        if self._desk.is_spent and not self._desk.is_at_work:
            self._close_desk()
        if self.job is None:
            return None
        self._be_patient()
        job = self.job
        done = self._attempt(lambda: job.on_reply(self, reply))
        if self._desk is not None and not self._desk.is_at_work:
            self._give_back_desk()
        return done

    def _attempt(self, act: Callable[[], None]) -> Job[Any] | None:
        """Do the next step of the job; the job, if it is over or lost."""
        assert self.job is not None
        try:
            act()
        except RoomLost:
            return self._replace_room()
        except LostJob:
            _log.warning("a sample was killed from outside")
            return self._start_over()
        except DeskLost:
            self._close_desk()
            return self._start_over()
        except BaseException:
            self._settle()
            self._release()
            raise
        return None if self.job.result is None else self._release()

    def _extend(self, job: Job[Any]) -> None:
        """Answer a sample that asks for more time: waiting for others is not charged to it."""
        plan, limits = self.room.plan, job.limits
        used = usage(self.room.process.pid, generations=2)
        cpu_left_s = limits.cpu_s - max(used.cpu_s, self.room.cpu_s() or 0.0)
        took_s = time.monotonic() - self.room.started_s
        more_s = limits.wall_limit_s - took_s + used.run_delay_s
        if self._desk is not None and self._desk.is_at_work:
            more_s += limits.wall_limit_s  # live: it may be its checks that take their time
        if took_s > _MAX_EXTENSION * limits.wall_limit_s:
            more_s = 0.0
        cause = "wall"
        if plan.profile.processes and more_s > cpu_left_s / _NUM_PROCESSORS:
            # The zygote sees the CPU time of one process only.
            cause, more_s = "cpu", max(_LOOK_AGAIN_S, cpu_left_s / _NUM_PROCESSORS)
            if cpu_left_s <= 0:
                more_s = 0.0
        self.room.allow(job.number, more_s, cause)
        self._late_at_s = time.monotonic() + max(0.0, more_s) + _GRACE_S

    def _be_patient(self) -> None:
        assert self.job is not None
        self._late_at_s = time.monotonic() + self.job.limits.wall_limit_s + _GRACE_S

    def _start_over(self) -> Job[Any]:
        """The job, to be done again or given up; in another room, whatever it was that was lost: a
        program that is run again is not to find what its first run left."""
        self._settle()
        self.renew_room()
        return self._lose()

    def _lose(self) -> Job[Any]:
        assert self.job is not None
        self._settle()
        self.job.keep_finding()
        if self.job.result is None and self.job.num_attempts >= _MAX_ATTEMPTS:
            self.job.give_up()
        return self._release()

    def _settle(self) -> None:
        """End what is still under way for the job."""
        assert self.job is not None
        if self._desk is not None and self._desk.is_at_work:
            self._desk.end()
            self._close_desk()
        if not self.room.is_at_work:
            return
        try:
            self.room.stop(self.job.number)
            self.room.control.settimeout(_GRACE_S)
            while not isinstance(self.room.receive(), Report):
                pass
            self.room.control.settimeout(None)
        except (RoomLost, TimeoutError):
            self.renew_room()

    def _replace_room(self) -> Job[Any] | None:
        """Start anew; the job, if there is one: to be done again, or given up."""
        _log.warning("a sandbox worker was lost and is replaced")
        self.renew_room()
        return None if self.job is None else self._lose()

    def _open_room(self) -> None:
        self.room = self._new_room()
        self._selector.register(self.room.control, selectors.EVENT_READ, self._on_room)

    def _close_room(self) -> None:
        self._selector.unregister(self.room.control)
        self.room.close()

    def _give_back_desk(self) -> None:
        assert self._desk is not None
        self.checks_room.give_back(self._desk)
        self._desk = None

    def _close_desk(self) -> None:
        if self._desk is not None:
            self._desk.close()
            self._desk = None

    def _release(self) -> Job[Any]:
        assert self.job is not None
        assert not self.room.is_at_work, "a job that is over has no sample left"
        job, self.job = self.job, None
        job.close()
        if isinstance(job, ExamineJob):
            job.release(self.checks_room)
        return job
