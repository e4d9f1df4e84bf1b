"""Namespaces: an own view of users, mounts, network, ipc, host name, cgroups and processes."""

import errno
import os
import select
import signal
from typing import Final

from sandbox import libc
from sandbox.errors import SandboxUnavailable

# Who the room is on the host when root starts it. Root mapped to root would go on reading root's
# files and would be exempt from RLIMIT_NPROC.
NOBODY: Final = 65534
# Who everybody is inside, and where: a new namespace begins with a copy of the host's name.
INSIDE: Final = 1000
_HOST_NAME: Final = b"sandbox"

_OUTER: Final = (
    libc.CLONE_NEWNS
    | libc.CLONE_NEWNET
    | libc.CLONE_NEWIPC
    | libc.CLONE_NEWUTS
    | libc.CLONE_NEWCGROUP
)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4


def enter_outer(proc: int) -> None:
    """Move this process into namespaces of its own; root needs no user namespace for that yet.

    ``proc`` is an open descriptor of the host's /proc.

    Raises:
        SandboxUnavailable: the kernel or its policy refuses.
    """
    as_root = os.geteuid() == 0
    if as_root and not _knows(NOBODY, proc):
        raise SandboxUnavailable(
            "root of a user namespace without other users cannot become one of them",
            "run as an ordinary user, outside of that namespace",
        )
    try:
        if as_root:
            libc.call("unshare", _OUTER)
        else:
            _enter_user_namespace(_OUTER, proc)
        for function in ("sethostname", "setdomainname"):
            libc.call(function, _HOST_NAME, len(_HOST_NAME))
    except OSError as refusal:
        raise explain(refusal, proc) from refusal


def become_nobody(proc: int) -> None:
    """Leave root, then enter a user namespace that owns nothing but processes.

    The capabilities it gives reach neither the mounts nor the network of the room. Its child, which
    alone returns from here, is the init of a new pid namespace; this process ends.

    Raises:
        SandboxUnavailable: the kernel or its policy refuses.
    """
    try:
        leave_root()
        _enter_user_namespace(libc.CLONE_NEWPID, proc)
    except OSError as refusal:
        raise explain(refusal, proc) from refusal
    _continue_as_child()


def leave_root() -> None:
    """Become NOBODY, if this process is root's.

    Raises:
        OSError: this user namespace has no such user.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # A change of user makes /proc/self root's own, and what is in it unwritable.
        allow_tracing()


def forbid_tracing() -> None:
    """Nobody else of the same user may trace this process, or what it forks."""
    libc.prctl(_PR_SET_DUMPABLE, 0)


def allow_tracing() -> None:
    """Take that back for this process, to whom what is in its /proc/self then belongs again."""
    libc.prctl(_PR_SET_DUMPABLE, 1)


def die_with_parent() -> None:
    """Be killed when the process ends that forked or adopted this one."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Be killed when ``parent``, which forked this process, ends; or now, if it has."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def entering_pid_namespaces(this: int) -> tuple[libc.Prepared, ...]:
    """Calls after which the next child is the init of a pid namespace of its own.

    Killing an init takes everything in its namespace with it. ``this`` is a pidfd of this process:
    a second namespace can only be asked for from one's own, so it steps back into that first.
    """
    flags = libc.CLONE_NEWPID
    return libc.prepare("setns", this, flags), libc.prepare("unshare", flags)


def _enter_user_namespace(others: int, proc: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    libc.call("unshare", libc.CLONE_NEWUSER | others)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE} {uid} 1"),
        ("gid_map", f"{INSIDE} {gid} 1"),
    ):
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _continue_as_child() -> None:
    """Fork and return in the child once this process has ended: its parent adopts the child."""
    this = os.pidfd_open(os.getpid())
    if os.fork():
        os._exit(0)
    select.select([this], [], [])  # readable once it has ended, and its child was adopted
    os.close(this)


def explain(refusal: OSError, proc: int) -> SandboxUnavailable:
    """A refusal in words, with the remedy that fits what this machine says about itself.

    It may come late: AppArmor grants a user namespace, and then nothing that it is for.
    """
    if _setting(proc, "sys/user/max_user_namespaces") == "0":
        return SandboxUnavailable(
            "user namespaces are switched off",
            "sudo sysctl user.max_user_namespaces=15000",
        )
    if _setting(proc, "sys/kernel/unprivileged_userns_clone") == "0":
        return SandboxUnavailable(
            "user namespaces are for root only on this machine",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        )
    if _setting(proc, "sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return SandboxUnavailable(
            "AppArmor keeps ordinary users from user namespaces (Ubuntu 23.10 and later)",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
            "or give the interpreter a profile with `userns,`",
        )
    if refusal.errno == errno.ENOSPC:
        return SandboxUnavailable(
            "no user namespace is left (user.max_user_namespaces, or 32 of them nested)",
            "raise user.max_user_namespaces, or use fewer workers",
        )
    return SandboxUnavailable(
        f"the kernel or a container's policy refuses namespaces or mounts ({refusal})",
        "in Docker or Podman run with --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined, or with --privileged",
    )


def _knows(user: int, proc: int) -> bool:
    """Whether this user namespace has a user of that number."""
    ranges = (
        map(int, line.split()) for line in (_setting(proc, "self/uid_map") or "").splitlines()
    )
    return any(first <= user < first + count for first, _, count in ranges)


def _setting(proc: int, path: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=proc)
    except OSError:
        return None
    with os.fdopen(descriptor) as file:
        return file.read().strip()
