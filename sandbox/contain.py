"""Containment, step by step. Each step raises SandboxUnavailable or OSError if it cannot hold.

Without namespaces (`Tier.RESTRICTED`) a program runs among all that its user runs, behind two walls
instead of many: Landlock decides what it opens, the filter what else it does. Of a full room's
promises these are weaker:

- No file of the host is read, listed, written, moved, or changed in mode, owner or times. But
  whether a path is there, its size, owner and times, and where a link leads can be asked; so can a
  working folder be chosen. Names of installed packages can be listed, if they lie inside the
  standard library's folder.
- Nothing can be done to another process; but whether one of a given number is there, its CPU time,
  priority, session and processors can be asked. /proc cannot be opened.
- What is written is bounded file by file, neither in sum nor in number: a program can fill the disk
  that its folder is on. The folder is emptied after it.
- Mode and times of its own files cannot be changed either: shutil.copy fails, copyfile does not.
- Threads are bounded by their stacks' share of the address space. Native code that makes threads
  without stacks of their own gets half of what its user may have; a cgroup, where there is one,
  bounds both as it should.
- New processes are always refused, since nothing would keep them together.
- Run by root, programs are nobody, like all else that runs as nobody on the machine; the
  interpreter must be one that everybody may read.
"""

import functools
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from sandbox import (
    capabilities,
    landlock,
    libc,
    namespaces,
    rlimits,
    rootfs,
    seccomp,
    shown,
    syscalls,
)
from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits
from sandbox.plan import Plan
from sandbox.tier import Tier

CONTROL: Final = 0  # the descriptor through which the harness speaks to the room
_PROC: Final = 1  # the host's /proc, until the room has no more use for it
_SCORE: Final = 3  # how soon the kernel picks the zygote where memory runs out
_THIS: Final = 4  # the zygote, as a pidfd

# Between all that runs on the machine and a sample, which goes first.
_ZYGOTES_SCORE: Final = 900
_SAMPLES_SCORE: Final = 1000


class Step(NamedTuple):
    """A step of a room. One ``is_second_layer`` if all that it refuses is refused already."""

    name: str
    take: Callable[[Plan], None]
    is_second_layer: bool = False


def contain_room(plan: Plan, on_held: Callable[[str], None]) -> None:
    """Contain this process and all that it forks. Only the child that goes on inside returns.

    ``on_held`` is told the name of each step as soon as it holds. A second layer is left out where
    the kernel does not have it; everything else holds or raises.

    Raises:
        SandboxUnavailable: a step cannot hold.
        OSError: the same, for a reason that nobody foresaw.
        ValueError: ``plan.tier`` is none that a room can be contained by.
    """
    if plan.tier not in ROOM_STEPS:
        raise ValueError(f"no room is contained by the tier {plan.tier.value!r}")
    for step in ROOM_STEPS[plan.tier]:
        try:
            step.take(plan)
        except landlock.NotThere:
            if not (step.is_second_layer or plan.in_container):
                raise
        else:
            on_held(step.name)


def fork_sample(plan: Plan, fork: Callable[[], int]) -> int:
    """Fork; the child is to be contained by `contain_sample`. Returns as ``fork`` does.

    Where there are namespaces, the child is the init of a process namespace of its own, so that
    killing it takes along all that it started. Where there are none, it dies with its parent.
    """
    zygote, own_score, entering = _before_forks(plan.tier)
    os.pwrite(_SCORE, b"%d" % _SAMPLES_SCORE, 0)  # a child takes after its parent
    pid = None
    try:
        libc.run(entering)
        pid = fork()
    finally:
        if pid != 0:
            os.pwrite(_SCORE, own_score, 0)
    if pid == 0:
        os.closerange(_SCORE, _THIS + 1)
        if not entering:
            namespaces.die_with(zygote)
    return pid


@functools.cache
def _before_forks(tier: Tier) -> tuple[int, bytes, tuple[libc.Prepared, ...]]:
    """What stays the same from fork to fork: own number, own score, and calls to make before."""
    entering = () if tier is Tier.RESTRICTED else namespaces.entering_pid_namespaces(_THIS)
    return os.getpid(), os.pread(_SCORE, 8, 0), entering


def sample_steps(plan: Plan, limits: Limits) -> tuple[libc.Prepared, ...]:
    """What a forked sample is to give up beyond what its room never had; for `contain_sample`.

    It is prepared by who forks: all that a child does itself costs it copies of pages.
    """
    steps = [libc.prepare("setsid")]  # or kill(0, 9) would reach the zygote
    is_restricted = plan.tier is Tier.RESTRICTED
    steps += rlimits.sample_limits(limits, shares_processes=is_restricted)
    if not is_restricted:
        machine, processes = syscalls.architecture(), plan.profile.processes
        steps.append(capabilities.drop_all())
        steps.append(seccomp.installing(seccomp.sample_filter(machine, processes=processes)))
    return tuple(steps)


def contain_sample(plan: Plan, steps: tuple[libc.Prepared, ...]) -> None:
    """Contain this process, which was just forked.

    Raises:
        OSError: a step cannot hold.
    """
    libc.run(steps)
    if plan.tier is Tier.RESTRICTED:
        seccomp.install(seccomp.restricted_filter(syscalls.architecture(), os.getpid()))


def _leave_descriptors(plan: Plan) -> None:
    """Keep the control socket and, for the steps to come, the host's /proc."""
    seccomp.read_filters(syscalls.architecture())  # while their files are in sight
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    os.dup2(proc, _PROC)
    os.closerange(_PROC + 1, os.sysconf("SC_OPEN_MAX"))


def _enter_namespaces(plan: Plan) -> None:
    namespaces.enter_outer(_PROC)


def _hide_files(plan: Plan) -> None:
    try:
        rootfs.hide_host(plan)
    except PermissionError as refusal:
        raise namespaces.explain(refusal, _PROC) from refusal


def _go_first(plan: Plan) -> None:
    """Let the kernel pick a room, not the harness, where the machine runs out of memory."""
    with open("self/oom_score_adj", "r+", opener=partial(os.open, dir_fd=_PROC)) as file:
        own = int(file.read())
        file.seek(0)
        # Not less than it is: that is up to the administrator.
        file.write(str(max(own, _ZYGOTES_SCORE)))


def _become_nobody(plan: Plan) -> None:
    namespaces.become_nobody(_PROC)
    _close_up()


def _leave_root(plan: Plan) -> None:
    """Go on as an ordinary user, as whom all that is shown must be readable."""
    if plan.profile.processes:
        raise SandboxUnavailable(
            "new processes cannot be kept together without a process namespace",
            "allow them in the full tier only",
        )
    if plan.workspace is None and not plan.for_checks:
        raise SandboxUnavailable("no folder was made for what programs write", "report this")
    paths = shown.paths(plan)  # while all of the host can be seen
    try:
        if os.geteuid() == 0 and plan.workspace is not None:
            os.chown(plan.workspace, namespaces.NOBODY, namespaces.NOBODY)
        namespaces.leave_root()
    except OSError as refusal:
        raise SandboxUnavailable(
            f"root cannot become an ordinary user here ({refusal})", "run as one"
        ) from refusal
    for path in paths.values():
        if not os.access(path, os.R_OK):
            raise SandboxUnavailable(
                f"an unprivileged user may not read {path}",
                "use an interpreter that everybody may read, or do not run as root",
            )
    _close_up()


def _close_up() -> None:
    """Keep nobody else's hands on this process, and one of its own on what is asked for later."""
    score = os.open("self/oom_score_adj", os.O_RDWR, dir_fd=_PROC)
    os.dup2(score, _SCORE)
    os.dup2(os.pidfd_open(os.getpid()), _THIS)
    namespaces.forbid_tracing()
    namespaces.die_with_parent()  # a change of user ends what was said of that before


def _let_go_of_the_host(plan: Plan) -> None:
    """Descriptors 1 and 2 become /dev/null; with _PROC goes the last way back to the host."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.closerange(_THIS + 1, os.sysconf("SC_OPEN_MAX"))


def _give_up_capabilities(plan: Plan) -> None:
    if plan.tier is Tier.RESTRICTED:
        libc.run([capabilities.drop_all()])
    else:
        capabilities.keep_only(capabilities.CAP_SYS_ADMIN)  # over nothing but pid namespaces
    capabilities.forbid_new_privileges()


def _hide_files_again(plan: Plan) -> None:
    landlock.restrict(shown.rights_in_room(plan))


def _hide_files_by_landlock(plan: Plan) -> None:
    landlock.restrict(shown.rights_on_host(plan), least_abi=landlock.TRUNCATE_SINCE)


def _limit_resources(plan: Plan) -> None:
    rlimits.limit_room(plan.limits)


def _filter_syscalls(plan: Plan) -> None:
    machine = syscalls.architecture()
    seccomp.install(seccomp.room_filter(machine, processes=plan.profile.processes))
    try:
        socket.socket(socket.AF_UNIX).close()
    except PermissionError:
        return
    raise SandboxUnavailable("the system call filter does not filter", "report this")


ROOM_STEPS: Final = {
    Tier.FULL: (
        Step("no inherited descriptors", _leave_descriptors),
        Step("namespaces: mounts, network, ipc, host name, cgroups", _enter_namespaces),
        Step("only interpreter and libraries to read, only /tmp to write", _hide_files),
        Step("first to go when memory runs out", _go_first),
        Step("an unprivileged user and a process tree of its own", _become_nobody),
        Step("no way back to the host", _let_go_of_the_host),
        Step("no capabilities, no new privileges", _give_up_capabilities),
        Step("Landlock: the same files, once more", _hide_files_again, is_second_layer=True),
        Step("resource limits", _limit_resources),
        Step("system call filter", _filter_syscalls),
    ),
    Tier.RESTRICTED: (
        Step("no inherited descriptors", _leave_descriptors),
        Step("first to go when memory runs out", _go_first),
        Step("an unprivileged user", _leave_root),
        Step("no way back to the host's /proc", _let_go_of_the_host),
        Step("no capabilities, no new privileges", _give_up_capabilities),
        Step(
            "Landlock: only interpreter and libraries to read, only one folder to write",
            _hide_files_by_landlock,
        ),
        Step("resource limits", _limit_resources),
        Step("system call filter", _filter_syscalls),
    ),
}
