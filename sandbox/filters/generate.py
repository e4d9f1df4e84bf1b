"""What each system call filter allows, and how libseccomp turns that into the bytes beside this.

For development only: ``python -m sandbox.filters.generate`` writes the files anew, and needs
libseccomp 2.5 or newer. tests/sandbox/test_seccomp.py makes them again and compares.

A room's filter is an allow-list. Every sample inherits it and adds one of its own, which takes away
what only the zygote needs: that one is short, since it is paid for with every sample. A refused
call fails with EPERM, which an honest program can handle; a call of a foreign architecture (32-bit,
x32) ends the process. clone3 answers ENOSYS, because its flags are out of a filter's reach and libc
then falls back to clone. Extended attributes answer ENOTSUP, as on many a file system: what copies
files then goes on without.
"""

import ctypes
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sandbox import seccomp, syscalls

_FILES: Final = """
access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fdatasync fstat fstatfs fsync ftruncate getcwd getdents
getdents64 link linkat lseek lstat mkdir mkdirat newfstatat open openat pread64 preadv preadv2
pwrite64 pwritev pwritev2 read readlink readlinkat readv rename renameat renameat2 rmdir sendfile
stat statfs statx symlink symlinkat truncate umask unlink unlinkat utime utimensat utimes write
writev
"""
_MEMORY: Final = "brk mincore mprotect mremap msync munmap"
_WAITING: Final = """
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pause pipe
pipe2 poll ppoll pselect6 select
"""
_TIME: Final = """
alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times
"""
_SIGNALS: Final = """
kill restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend
rt_sigtimedwait sigaltstack signalfd4 tgkill tkill
"""
_THREADS: Final = """
arch_prctl futex getcpu getpriority gettid membarrier rseq sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getparam sched_getscheduler sched_yield
set_robust_list set_tid_address setpriority
"""
_PROCESSES: Final = """
capget exit exit_group getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getrandom
getresgid getresuid getrlimit getrusage getsid getuid prlimit64 setpgid setrlimit setsid sysinfo
uname wait4 waitid
"""
# Of a stream that is there already: nothing here makes or finds one.
_STREAMS: Final = """
getpeername getsockname getsockopt recvfrom recvmsg sendmsg sendto shutdown
"""
_HONEST: Final = " ".join(
    (_FILES, _MEMORY, _WAITING, _TIME, _SIGNALS, _THREADS, _PROCESSES, _STREAMS)
).split()

# What the zygote does between two samples, and what makes a process.
_ZYGOTE_ONLY: Final = "capset pidfd_open seccomp setns unshare".split()  # noqa: SIM905
_FORKS: Final = ["fork", "vfork"]
# With it descriptors are sent, of which a user may have so many under way in all.
_SEND_DESCRIPTORS: Final = ["sendmsg"]
_EXEC: Final = ["execve", "execveat"]
_ATTRIBUTES: Final = """
fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr
lsetxattr removexattr setxattr
""".split()  # noqa: SIM905
# Landlock does not govern these, so where it is all there is, nobody may.
_METADATA: Final = "chmod fchmod fchmodat utime utimensat utimes".split()  # noqa: SIM905

# dup, get and set flags, a pipe's size, seals; not leases, signals or notification. No record locks
# either: on the interpreter's files, which all rooms share, they tell one sample of another. Nor is
# a pipe made larger: a user has so much of that in all, other samples included.
_FCNTL: Final = (0, 1, 2, 3, 4, 1030, 1032, 1033, 1034)
# TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_IOCTL: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# All but those that have the kernel look for pages that are the same elsewhere (and say that it
# found one, by the time that a write takes), or put pages out of memory, or stand for faults of it.
_MADVISE: Final = (0, 1, 2, 3, 4, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25)
# Pages of a pool that the whole machine has.
_MAP_HUGETLB: Final = 0x40000
# Past a lower limit of its own the kernel would end a sample as only the harness does.
_RLIMIT_CPU: Final = 0
# Lowered to 0 it would let cores through again; see sandbox/rlimits.py.
_RLIMIT_CORE: Final = 4
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16
_AF_UNIX: Final = 1
_SOCK_STREAM: Final = 1
_SOCK_TYPE_MASK: Final = 0xF
_CLONE_THREAD: Final = 0x00010000
# Time, mounts, cgroups, host name, ipc, users, processes, network.
_CLONE_NEW: Final = (0x80, 1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30)


class Test(NamedTuple):
    """A condition on one argument of a call, as libseccomp's ``struct scmp_arg_cmp``."""

    argument: int
    operation: int
    first: int
    second: int = 0


@dataclass(frozen=True)
class Rule:
    """What becomes of a call of that name if all tests hold."""

    action: int
    name: str
    tests: tuple[Test, ...] = ()


@dataclass(frozen=True)
class Filter:
    """``default`` is what becomes of a call that no rule speaks of."""

    default: int
    rules: tuple[Rule, ...]


def _differs(argument: int, value: int) -> Test:
    return Test(argument, 1, value)


def _is_below(argument: int, value: int) -> Test:
    return Test(argument, 2, value)


def _is_above(argument: int, value: int) -> Test:
    return Test(argument, 6, value)


def _is(argument: int, value: int, mask: int = 0xFFFFFFFF) -> Test:
    """The kernel reads no more than the lower half of any argument tested here."""
    return Test(argument, 7, mask, value)


def _allow(names: Iterable[str]) -> list[Rule]:
    return [Rule(seccomp.ALLOW, name) for name in names]


def _refuse(names: Iterable[str]) -> list[Rule]:
    return [Rule(seccomp.REFUSE, name) for name in names]


def _keep_limit(resource: int) -> list[Rule]:
    """Of prlimit64 a change is what brings a new limit along; without, it only reads."""
    return [
        Rule(seccomp.REFUSE, "setrlimit", (_is(0, resource),)),
        Rule(seccomp.REFUSE, "prlimit64", (_is(1, resource), _differs(2, 0))),
    ]


_ROOM: Final = (
    *_allow([*_HONEST, *_ZYGOTE_ONLY, *_FORKS, "clone", "prctl"]),
    Rule(seccomp.NOT_THERE, "clone3"),
    *(Rule(seccomp.NOT_SUPPORTED, name) for name in _ATTRIBUTES),
    *(Rule(seccomp.ALLOW, "fcntl", (_is(1, command),)) for command in _FCNTL),
    *(Rule(seccomp.ALLOW, "ioctl", (_is(1, command),)) for command in _IOCTL),
    *(Rule(seccomp.ALLOW, "madvise", (_is(2, advice),)) for advice in _MADVISE),
    Rule(seccomp.ALLOW, "mmap", (_is(3, 0, _MAP_HUGETLB),)),
    # A datagram pair could send to any unix socket by address; a connected stream cannot.
    Rule(
        seccomp.ALLOW,
        "socketpair",
        (_is(0, _AF_UNIX), _is(1, _SOCK_STREAM, _SOCK_TYPE_MASK)),
    ),
)
_SAMPLE_WITH_PROCESSES: Final = (
    *_refuse([*_ZYGOTE_ONLY, *_SEND_DESCRIPTORS]),
    *_keep_limit(_RLIMIT_CPU),
    *(Rule(seccomp.REFUSE, "clone", (_is(0, flag, flag),)) for flag in _CLONE_NEW),
    Rule(seccomp.REFUSE, "prctl", (_is_below(0, _PR_SET_NAME),)),
    Rule(seccomp.REFUSE, "prctl", (_is_above(0, _PR_GET_NAME),)),
)
_SAMPLE: Final = (
    *_SAMPLE_WITH_PROCESSES,
    *_refuse(_FORKS),
    Rule(seccomp.REFUSE, "clone", (_is(0, 0, _CLONE_THREAD),)),
)
# No namespace keeps the user's other processes apart: so none but the sample's own may be meant.
_SAMPLE_RESTRICTED: Final = (
    *_SAMPLE,
    *_refuse(_METADATA),
    *(
        Rule(seccomp.REFUSE, name, (_differs(0, seccomp.PLACE_OF_PID),))
        for name in ("kill", "tgkill", "tkill")
    ),
    *(
        Rule(seccomp.REFUSE, name, (_differs(argument, 0),))
        for name, argument in (("prlimit64", 0), ("setpriority", 0), ("setpriority", 1))
    ),
)

FILTERS: Final = {
    "room": Filter(seccomp.REFUSE, _ROOM),
    "room-with-processes": Filter(seccomp.REFUSE, (*_ROOM, *_allow(_EXEC))),
    "sample": Filter(seccomp.ALLOW, _SAMPLE),
    "sample-with-processes": Filter(
        # Elsewhere nothing can be dumped: it takes a new program to undo that.
        seccomp.ALLOW,
        (*_SAMPLE_WITH_PROCESSES, *_keep_limit(_RLIMIT_CORE)),
    ),
    "sample-restricted": Filter(seccomp.ALLOW, _SAMPLE_RESTRICTED),
}

_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ON_FOREIGN_CALLS: Final = 2  # SCMP_FLTATR_ACT_BADARCH
_OPTIMIZE: Final = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE: Final = 2
_UNKNOWN_CALL: Final = -1  # __NR_SCMP_ERROR


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def compile_filter(wanted: Filter, machine: str) -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter.

    Raises:
        OSError: libseccomp is not on this machine, or refuses.
    """
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(wanted.default)))
    try:
        native = ctypes.c_uint32(library.seccomp_arch_native())
        architecture = ctypes.c_uint32(_AUDIT_ARCHITECTURE[machine])
        if native.value != architecture.value:
            _check(library.seccomp_arch_add(context, architecture))
            _check(library.seccomp_arch_remove(context, native))
        for attribute, value in ((_ON_FOREIGN_CALLS, seccomp.KILL), (_OPTIMIZE, _BINARY_TREE)):
            _check(library.seccomp_attr_set(context, attribute, ctypes.c_uint32(value)))
        for rule in wanted.rules:
            if number(rule.name, machine) is None:
                continue
            # By the number that this machine's own architecture has for it, real or not.
            native_number = library.seccomp_syscall_resolve_name(rule.name.encode())
            tests = (_Comparison * len(rule.tests))(*(_Comparison(*test) for test in rule.tests))
            _check(
                library.seccomp_rule_add_exact_array(
                    context, ctypes.c_uint32(rule.action), native_number, len(rule.tests), tests
                )
            )
        with tempfile.TemporaryFile() as file:
            _check(library.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def number(name: str, machine: str) -> int | None:
    """A call's number on a machine by libseccomp, None where that one never had it.

    Raises:
        OSError: libseccomp is not on this machine.
        ValueError: libseccomp has never heard of the call.
    """
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    found: int = resolve(ctypes.c_uint32(_AUDIT_ARCHITECTURE[machine]), name.encode())
    if found == _UNKNOWN_CALL:
        raise ValueError(f"libseccomp knows no system call {name!r}")
    return found if found >= 0 else None


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, "libseccomp refuses")


def main() -> None:
    folder = Path(__file__).parent
    for name, wanted in FILTERS.items():
        for machine in syscalls.ARCHITECTURES:
            (folder / f"{name}.{machine}.bpf").write_bytes(compile_filter(wanted, machine))


if __name__ == "__main__":
    main()
