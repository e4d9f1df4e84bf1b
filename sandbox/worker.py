"""A worker: one or two rooms that together run one program at a time."""

import logging
import time
from typing import Any, Final

from sandbox.jobs import Job
from sandbox.limits import Limits
from sandbox.room import Report, Room, RoomLost

_log = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 2
# A zygote ends its samples itself; one that is this late has gone astray.
_GRACE_S: Final = 10.0


class Worker:
    def __init__(self, limits: Limits, *, contained: bool) -> None:
        self.rooms: list[Room] = []
        self.job: Job[Any] | None = None
        self.late_at_s = 0.0
        self._limits = limits
        self._contained = contained
        self._reports: dict[int, Report] = {}  # by the room's index

    def start_rooms(self, num_rooms: int) -> None:
        """Start rooms until there are so many; `wait_until_ready` before the first job.

        Raises:
            SandboxUnavailable: containment cannot hold.
        """
        while len(self.rooms) < num_rooms:
            self.rooms.append(Room(self._limits, contained=self._contained))

    def wait_until_ready(self) -> None:
        """Raises:
        SandboxUnavailable: containment does not hold.
        """
        for room in self.rooms:
            room.wait_until_ready()

    def begin(self, job: Job[Any]) -> None:
        """Start a job; it counts as lost, not as failed, if a room turns out to have ended."""
        self.job = job
        self.late_at_s = time.monotonic() + job.limits.wall_limit_s + _GRACE_S
        job.num_attempts += 1
        try:
            job.start(self.rooms)
        except RoomLost:
            self.late_at_s = 0.0

    def at_work(self) -> list[Room]:
        """The rooms that have yet to report."""
        if self.job is None:
            return []
        return [
            room
            for index, room in enumerate(self.rooms[: self.job.num_rooms])
            if index not in self._reports
        ]

    def attend(self, room: Room) -> Job[Any] | None:
        """Read a room's report; the job if that was the last, or if the job or room was lost."""
        assert self.job is not None
        index = self.rooms.index(room)
        try:
            self._reports[index] = room.report()
        except RoomLost:
            return self.replace()
        self.job.stop_others(index, self.rooms)
        if len(self._reports) < self.job.num_rooms:
            return None
        reports = [self._reports[number] for number in range(self.job.num_rooms)]
        if self.job.is_lost(reports):
            _log.warning("a sample was killed from outside")
            return self._lose()
        self.job.finish(reports)
        return self._release()

    def replace(self) -> Job[Any]:
        """Start anew, and return the job: to be done again, or given up."""
        assert self.job is not None
        _log.warning("a sandbox worker was lost and is replaced")
        num_rooms = len(self.rooms)
        self.close()
        self.start_rooms(num_rooms)
        self.wait_until_ready()
        return self._lose()

    def abandon(self) -> None:
        """End the job at work, if any; the rooms are free for the next."""
        try:
            for room in self.at_work():
                room.stop(self.job.number)  # type: ignore[union-attr]
                room.control.settimeout(_GRACE_S)
                room.report()
                room.control.settimeout(None)
        except (RoomLost, TimeoutError):
            self.replace()
        if self.job is not None:
            self._release()

    def close(self) -> None:
        for room in self.rooms:
            room.close()
        self.rooms.clear()

    def _lose(self) -> Job[Any]:
        assert self.job is not None
        if self.job.num_attempts >= _MAX_ATTEMPTS:
            self.job.give_up()
        return self._release()

    def _release(self) -> Job[Any]:
        assert self.job is not None
        job, self.job = self.job, None
        self._reports.clear()
        job.close()
        return job
