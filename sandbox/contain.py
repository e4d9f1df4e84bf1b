"""Containment, step by step. Each step raises SandboxUnavailable or OSError if it cannot hold."""

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from sandbox import capabilities, namespaces, rlimits, rootfs, seccomp, syscalls
from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits

CONTROL: Final = 0  # the descriptor through which the harness speaks to the room
_PROC: Final = 1  # the host's /proc, until the room has no more use for it


def contain_room(limits: Limits, on_held: Callable[[str], None]) -> None:
    """Contain this process and all that it forks. Only the child that goes on inside returns.

    ``on_held`` is told the name of each step as soon as it holds.
    """
    for name, step in ROOM_STEPS:
        step(limits)
        on_held(name)


def contain_sample(limits: Limits) -> None:
    """What a forked sample gives up beyond what its room never had."""
    for step in SAMPLE_STEPS:
        step(limits)


def _leave_descriptors(limits: Limits) -> None:
    """Keep the control socket and, for the steps to come, the host's /proc."""
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    os.dup2(proc, _PROC)
    os.closerange(_PROC + 1, os.sysconf("SC_OPEN_MAX"))


def _enter_namespaces(limits: Limits) -> None:
    namespaces.enter_outer(_PROC)


def _hide_files(limits: Limits) -> None:
    try:
        rootfs.hide_host(limits)
    except PermissionError as refusal:
        raise namespaces.explain(refusal, _PROC) from refusal


def _go_first(limits: Limits) -> None:
    """Let the kernel pick a sample, not the harness, where the machine runs out of memory."""
    with open("self/oom_score_adj", "w", opener=partial(os.open, dir_fd=_PROC)) as file:
        file.write("1000")


def _become_nobody(limits: Limits) -> None:
    namespaces.become_nobody(_PROC)


def _let_go_of_the_host(limits: Limits) -> None:
    """Descriptors 1 and 2 become /dev/null; with _PROC goes the last way back to the host."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _give_up_capabilities(limits: Limits) -> None:
    capabilities.keep_only(capabilities.CAP_SYS_ADMIN)  # over nothing but pid namespaces
    capabilities.forbid_new_privileges()


def _limit_resources(limits: Limits) -> None:
    rlimits.limit_room(limits)


def _filter_syscalls(limits: Limits) -> None:
    seccomp.install(seccomp.room_filter(syscalls.architecture()))
    try:
        socket.socket(socket.AF_UNIX).close()
    except PermissionError:
        return
    raise SandboxUnavailable("the system call filter does not filter", "report this")


ROOM_STEPS: Final[tuple[tuple[str, Callable[[Limits], None]], ...]] = (
    ("no inherited descriptors", _leave_descriptors),
    ("namespaces: mounts, network, ipc, host name, cgroups", _enter_namespaces),
    ("only interpreter and libraries to read, only /tmp to write", _hide_files),
    ("first to go when memory runs out", _go_first),
    ("an unprivileged user and a process tree of its own", _become_nobody),
    ("no way back to the host", _let_go_of_the_host),
    ("no capabilities, no new privileges", _give_up_capabilities),
    ("resource limits", _limit_resources),
    ("system call filter", _filter_syscalls),
)


def _leave_session(limits: Limits) -> None:
    os.setsid()  # or kill(0, 9) would reach the zygote


def _limit_sample(limits: Limits) -> None:
    rlimits.limit_sample(limits)


def _drop_capabilities(limits: Limits) -> None:
    capabilities.drop_all()


def _refuse_processes(limits: Limits) -> None:
    seccomp.install(seccomp.sample_filter(syscalls.architecture()))


SAMPLE_STEPS: Final[tuple[Callable[[Limits], None], ...]] = (
    _leave_session,
    _limit_sample,
    _drop_capabilities,
    _refuse_processes,
)
