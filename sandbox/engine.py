"""Workers side by side, driven by events, without threads."""

import logging
import math
import os
import platform
import selectors
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sandbox import cgroup, packages
from sandbox.container import Containers, ContainerWorker
from sandbox.desks import ChecksRoom
from sandbox.errors import SandboxUnavailable
from sandbox.incubation import Incubators
from sandbox.jobs import Job
from sandbox.limits import MIB, Limits
from sandbox.plan import Plan
from sandbox.profile import Profile
from sandbox.room import Room
from sandbox.tier import Tier
from sandbox.worker import Worker

_log = logging.getLogger(__name__)

# Beyond a program's own memory and files: zygote, output, answers, and what the kernel keeps.
_ROOM_BYTES: Final = 128 * MIB
_ROOM_PROCESSES: Final = 4
# A worker may have a shared desk and one for untidy checks, with an init each.
_DESKS_PROCESSES: Final = 4


class Engine:
    """Runs jobs on workers. Owns every process, group, folder and container that it takes for that.

    In a container made for this engine, ``workspace`` is the folder that programs may write.
    ``incubators`` are its own unless given.

    Raises:
        SandboxUnavailable: the machine cannot contain programs.
    """

    def __init__(
        self,
        limits: Limits,
        num_workers: int | None,
        profile: Profile,
        tier: Tier,
        *,
        workspace: str | None = None,
        incubators: Incubators | None = None,
    ) -> None:
        are_rooms_here = tier is not Tier.CONTAINER
        if are_rooms_here and platform.system() != "Linux":
            raise SandboxUnavailable(
                f"{platform.system()} has no namespaces",
                "run this in a Linux virtual machine or container",
            )
        # A worker waits while its room and the harness change turns: hence more than processors.
        self.num_workers = num_workers or math.ceil(1.5 * _num_processors())
        self.tier = tier
        self._plan = Plan(
            limits,
            tier,
            profile,
            packages=packages.find(profile.imports) if are_rooms_here else (),
            in_container=workspace is not None,
        )
        self._workspace = workspace
        self._has_own_incubators = incubators is None
        self._incubators = incubators or Incubators(profile.interpreter)
        if are_rooms_here:
            self._incubators.of_programs.begin()  # to warm up while there is other work to do
        self._selector = selectors.DefaultSelector()
        # Over, or to be done again: each leaves a worker free.
        self._returned: deque[Job[Any]] = deque()
        has_groups = are_rooms_here and tier is not Tier.NONE
        self._cgroups = cgroup.find_cgroups() if has_groups else None
        self._folders: list[tempfile.TemporaryDirectory[str]] = []
        self._checks_room = ChecksRoom(self._new_checks_room, self._selector)
        self._containers = Containers(limits, profile)
        self._workers: list[Worker | ContainerWorker] = []
        try:
            for _ in range(self.num_workers):
                self._workers.append(self._new_worker())
            for worker in self._workers:
                worker.room.wait_until_ready()
        except BaseException:
            self.close()
            raise

    @property
    def num_free(self) -> int:
        """Workers without work."""
        return sum(worker.job is None for worker in self._workers) - len(self._returned)

    @property
    def numbers_at_work(self) -> set[int]:
        """Of the jobs that were submitted and are not over; `step` failed one that is missing."""
        jobs = [*self._returned, *(worker.job for worker in self._workers)]
        return {job.number for job in jobs if job is not None}

    @property
    def steps_held(self) -> list[str]:
        """Steps of containment that hold for what programs run in."""
        return self._workers[0].room.steps_held

    def fileno(self) -> int:
        """Readable when `step` has something to do."""
        return self._selector.fileno()

    @property
    def late_at_s(self) -> float:
        """When `step` has something to do at the latest, on the monotonic clock."""
        if self._returned:
            return time.monotonic()
        busy = (worker.late_at_s for worker in self._workers if worker.job is not None)
        return min(busy, default=math.inf)

    def submit(self, job: Job[Any]) -> None:
        """Start a job on a free worker; there must be one."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        assert worker is not None, "no worker is free"
        lost = worker.begin(job)
        if lost is not None:
            self._returned.append(lost)

    def step(self, timeout_s: float | None = None) -> list[Job[Any]]:
        """Wait for something to happen; the jobs that have their result now.

        Where it raises, one job failed or a worker is broken; the next call returns the others.
        """
        if not self._returned:
            self._wait(timeout_s)
        for job in [job for job in self._returned if job.result is None]:
            self._returned.remove(job)
            self.submit(job)
        done = [job for job in self._returned if job.result is not None]
        self._returned = deque(job for job in self._returned if job.result is None)
        return done

    def _wait(self, timeout_s: float | None) -> None:
        """Put what is over, or to be done again, where `step` finds it."""
        late_s = max(0.0, self.late_at_s - time.monotonic())
        wait_s = min(late_s, math.inf if timeout_s is None else timeout_s)
        for key, _ in self._selector.select(None if math.isinf(wait_s) else wait_s):
            if key.fileobj.fileno() < 0:  # type: ignore[union-attr]
                continue  # closed by what came before it
            self._keep(key.data())
        now_s = time.monotonic()
        for worker in [w for w in self._workers if w.job is not None and w.late_at_s <= now_s]:
            self._keep(worker.on_late())

    def _keep(self, job: Job[Any] | None) -> None:
        if job is not None:
            self._returned.append(job)

    def abandon(self) -> None:
        """End all jobs at work."""
        self._returned.clear()
        for worker in self._workers:
            worker.abandon()

    def close(self) -> None:
        """End every process that was started, and remove what was made."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._checks_room.close()
        if self._has_own_incubators:
            self._incubators.close()
        self._containers.close()
        self._selector.close()
        for folder in self._folders:
            folder.cleanup()
        self._folders.clear()
        if isinstance(self._cgroups, cgroup.Cgroups):
            self._cgroups.close()

    def _new_worker(self) -> Worker | ContainerWorker:
        if self.tier is Tier.CONTAINER:
            return ContainerWorker(self._containers, self._selector)
        return Worker(self._new_room, self._checks_room, self._selector)

    def _new_room(self) -> Room:
        plan = self._plan
        if plan.tier is Tier.RESTRICTED:
            plan = replace(plan, workspace=self._workspace or self._new_folder())
        return Room(plan, self._incubators.of_programs, self._new_group(1))

    def _new_checks_room(self) -> Room:
        profile = replace(self._plan.profile, processes=False)
        # The kernel counts a desk's threads together with all others': they have the same user.
        num_processes = self.num_workers * (self._plan.limits.max_processes + _DESKS_PROCESSES)
        limits = replace(self._plan.limits, max_processes=num_processes)
        plan = replace(self._plan, for_checks=True, profile=profile, limits=limits)
        return Room(plan, self._incubators.of_checks, self._new_group(self.num_workers))

    def _new_group(self, num_samples: int) -> cgroup.Group | None:
        if not isinstance(self._cgroups, cgroup.Cgroups):
            return None
        limits = self._plan.limits
        memory_bytes = limits.memory_bytes + limits.tmp_bytes + 2 * limits.output_bytes
        return self._cgroups.new_group(
            _ROOM_BYTES + num_samples * memory_bytes,
            _ROOM_PROCESSES + num_samples * (limits.max_processes + _DESKS_PROCESSES),
        )

    def _new_folder(self) -> str:
        folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        self._folders.append(folder)
        return str(Path(folder.name).resolve())


def _num_processors() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
