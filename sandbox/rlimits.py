"""Resource limits that the kernel keeps for every process by itself."""

import contextlib
import os
import struct
from typing import Final

from sandbox import libc
from sandbox.limits import MIB, Limits

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import resource

_STACK_BYTES: Final = 64 * MIB
# Of timers and queued signals a user has so many in all.
_MAX_PENDING_SIGNALS: Final = 256
_SPARE_PROCESSES: Final = 1  # the zygote counts among the processes of its namespace
_OUT_OF_REACH_S: Final = 10**9


def limit_room(limits: Limits) -> None:
    """Limits that hold for a room and everything in it."""
    # Not 0, which binds none but files: where the host pipes cores to a program, the kernel skips a
    # core at 1 alone (do_coredump). A file wants more than one byte, so there is none either way.
    _limit(resource.RLIMIT_CORE, 1)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_RTPRIO, 0)
    _limit(resource.RLIMIT_SIGPENDING, _MAX_PENDING_SIGNALS)
    # Deep recursion through C functions is honest; the usual 8 MiB ends it in a segmentation fault.
    # Programs may ask for more, as many do that recurse: its room is the address space's anyway.
    least, _ = _both(resource.RLIMIT_STACK, _STACK_BYTES)
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (least, most))
    _limit(resource.RLIMIT_FSIZE, limits.tmp_bytes)


def sample_limits(limits: Limits, *, shares_processes: bool = False) -> list[libc.Prepared]:
    """Calls that limit one program, made by who shares the limits of this process.

    The zygote alone ends it at ``cpu_s``. The kernel's own limit is held against time counted in
    ticks, which runs far ahead of what was used where a program is awake at the ticks only, and
    kills as the host would: a program could choose to look like one that somebody else killed, and
    be run again. So it is put out of reach.

    Where a sample ``shares_processes`` with all else that the user runs, they cannot be counted
    apart: then it may use half of what the user may, so that the user is never locked out.
    """
    wanted = {
        resource.RLIMIT_CPU: _OUT_OF_REACH_S,
        resource.RLIMIT_NOFILE: limits.max_open_files,
        resource.RLIMIT_AS: limits.memory_bytes,
    }
    allowed, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if not shares_processes:
        wanted[resource.RLIMIT_NPROC] = limits.max_processes + _SPARE_PROCESSES
    elif allowed != resource.RLIM_INFINITY:
        wanted[resource.RLIMIT_NPROC] = allowed // 2
    return [
        libc.prepare("setrlimit", kind, struct.pack("@2N", *_both(kind, value)))
        for kind, value in wanted.items()
    ]


def may_have_ended(wall_s: float) -> bool:
    """Whether a program that ran for so long may have met the limit of CPU time that this process
    has itself, and all that it starts (``ulimit -t``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    return hard != resource.RLIM_INFINITY and wall_s * (os.cpu_count() or 1) >= hard


def _limit(kind: int, value: int) -> None:
    """Set both limits, or keep the hard one where it is lower already."""
    resource.setrlimit(kind, _both(kind, value))


def _both(kind: int, value: int) -> tuple[int, int]:
    _, hard = resource.getrlimit(kind)
    least = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return least, least
