"""The filters, decided by a slow interpreter of classic BPF, for machines at hand or not."""

import ctypes
import functools
import struct
from pathlib import Path

import pytest

from sandbox import seccomp, syscalls
from sandbox.filters import generate
from tests.sandbox.numbers import NUMBERS

ALLOW, EPERM, ENOSYS, KILL = seccomp.ALLOW, seccomp.REFUSE, seccomp.NOT_THERE, seccomp.KILL
ENOTSUP = seccomp.NOT_SUPPORTED
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003}
THREAD_FLAGS = 0x3D0F00  # what glibc passes for a new thread
PID = 4242

# How they are combined on a sample: the room's filter, then its own.
SAMPLES = {
    "sample": lambda machine: (seccomp.room_filter(machine), seccomp.sample_filter(machine)),
    "with processes": lambda machine: (
        seccomp.room_filter(machine, processes=True),
        seccomp.sample_filter(machine, processes=True),
    ),
    "restricted": lambda machine: (
        seccomp.room_filter(machine),
        seccomp.restricted_filter(machine, PID),
    ),
}
# Whose arguments decide.
CONDITIONAL = {
    *("clone", "clone3", "fcntl", "ioctl", "madvise", "mmap", "prctl", "prlimit64", "setrlimit"),
    "socketpair",
}
CONDITIONAL_IF_RESTRICTED = {"kill", "setpriority", "tgkill", "tkill"}
ZYGOTE_ONLY = {"capset", "pidfd_open", "seccomp", "sendmsg", "setns", "unshare"}
FORKS = {"fork", "vfork"}
EXEC = {"execve", "execveat"}
ATTRIBUTES = {
    f"{prefix}{verb}xattr" for verb in ("get", "set", "list", "remove") for prefix in ("", "f", "l")
}
METADATA = {"chmod", "fchmod", "fchmodat", "utime", "utimensat", "utimes"}


@functools.cache
def instructions_of(program):
    return list(struct.iter_unpack("=HBBI", program))


def decide(program, machine, number, *arguments):
    """What the kernel would do about a call."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, AUDIT_ARCHITECTURE[machine], 0, *padded)
    instructions = instructions_of(program)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x05:
                at += operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x25:
                at += if_true if accumulator > operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"an instruction the filters do not use: {code:#x}")


@pytest.fixture(params=syscalls.ARCHITECTURES)
def machine(request):
    return request.param


@pytest.fixture(params=SAMPLES)
def sample(request):
    return request.param


def number(name, machine):
    return NUMBERS[name][syscalls.ARCHITECTURES.index(machine)]


def combined(sample, machine, number, *arguments):
    """What becomes of a sample's call: the strictest of the filters wins."""
    programs = SAMPLES[sample](machine)
    decisions = {decide(program, machine, number, *arguments) for program in programs}
    return next(strict for strict in (KILL, EPERM, ENOSYS, ENOTSUP, ALLOW) if strict in decisions)


@pytest.mark.parametrize("name", generate.FILTERS)
def test_the_filters_are_those_that_libseccomp_makes(name, machine):
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not on this machine")
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    version = tuple(library.seccomp_version().contents)
    if version[:2] != (2, 5):
        pytest.skip(f"the filters were made with libseccomp 2.5, not {version}")
    shipped = Path(generate.__file__).with_name(f"{name}.{machine}.bpf").read_bytes()
    assert generate.compile_filter(generate.FILTERS[name], machine) == shipped


def test_a_sample_may_call_what_is_listed_and_nothing_else(sample, machine):
    listed = {rule.name for rule in generate.FILTERS["room"].rules}
    refused = (
        ZYGOTE_ONLY
        | {
            "sample": FORKS,
            "with processes": set(),
            "restricted": FORKS | METADATA,
        }[sample]
    )
    if sample == "with processes":
        listed |= EXEC
    conditional = CONDITIONAL | (CONDITIONAL_IF_RESTRICTED if sample == "restricted" else set())
    allowed = {number(name, machine) for name in listed - refused}
    undecided = {number(name, machine) for name in conditional}
    unsupported = {number(name, machine) for name in ATTRIBUTES}
    allowed -= unsupported
    for called in range(600):
        if called not in undecided:
            expected = ENOTSUP if called in unsupported else EPERM
            expected = ALLOW if called in allowed else expected
            assert combined(sample, machine, called) == expected, called


@pytest.mark.parametrize(
    "name",
    """
    bpf chown fchmodat2 fchown fchownat flock futimesat inotify_init1 io_uring_setup ioprio_set
    keyctl landlock_restrict_self lchown memfd_create mount mount_setattr perf_event_open
    pidfd_open pidfd_send_signal pivot_root process_madvise process_vm_readv ptrace
    rt_sigqueueinfo rt_tgsigqueueinfo sched_setaffinity seccomp setns shmget socket unshare
    userfaultfd
    """.split(),  # noqa: SIM905
)
def test_no_sample_may_ever_call(name, sample, machine):
    called = number(name, machine)
    assert called is None or combined(sample, machine, called) == EPERM


def test_the_zygote_may_make_processes_but_no_mounts(machine):
    for processes in (False, True):
        program = seccomp.room_filter(machine, processes=processes)
        for name in ("clone", "unshare", "setns", "seccomp", "capset", "pidfd_open", "fchmodat"):
            assert decide(program, machine, number(name, machine)) == ALLOW
        for name in ("mount", "mount_setattr", "pivot_root"):
            assert decide(program, machine, number(name, machine)) == EPERM


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (THREAD_FLAGS,), ALLOW),
        ("clone", (THREAD_FLAGS | 0x10000000,), EPERM),
        ("clone", (THREAD_FLAGS | 0x00000080,), EPERM),
        ("clone", (THREAD_FLAGS | 0x00000080 | 1 << 40,), EPERM),
        ("clone3", (), ENOSYS),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 1 | 0o2000000), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (16, 1), EPERM),
        ("fcntl", (3, 4), ALLOW),
        ("fcntl", (3, 1024), EPERM),
        ("fcntl", (3, 1031), EPERM),
        ("fcntl", (3, 1032), ALLOW),
        ("fcntl", (3, 8), EPERM),
        ("fcntl", (3, 5), EPERM),
        ("fcntl", (3, 6), EPERM),
        ("fcntl", (3, 7), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 0x5401 | 1 << 40), ALLOW),  # the kernel drops the upper half too
        ("madvise", (0, 4096, 4), ALLOW),
        ("madvise", (0, 4096, 14), ALLOW),
        ("madvise", (0, 4096, 12), EPERM),
        ("madvise", (0, 4096, 12 | 1 << 32), EPERM),  # the kernel drops the upper half
        ("madvise", (0, 4096, 21), EPERM),
        ("madvise", (0, 4096, 100), EPERM),
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 3, 0x22 | 0x40000), EPERM),
        ("mmap", (0, 4096, 3, 0x22 | 0x40000 | 21 << 26), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (16,), ALLOW),
        ("prctl", (14,), EPERM),
        ("prctl", (17,), EPERM),
        ("prctl", (38,), EPERM),
        ("prctl", (22,), EPERM),
        ("prctl", (0,), EPERM),
        ("prctl", (0x59616D61,), EPERM),
        ("setrlimit", (0,), EPERM),
        ("setrlimit", (1 << 32,), EPERM),  # the kernel drops the upper half
        ("setrlimit", (7,), ALLOW),
        ("prlimit64", (0, 0, 0x1000), EPERM),
        ("prlimit64", (0, 0, 1 << 32), EPERM),  # of an address it drops nothing
        ("prlimit64", (0, 1 << 32, 0x1000), EPERM),
        ("prlimit64", (0, 0, 0, 0x1000), ALLOW),
        ("prlimit64", (0, 7, 0x1000), ALLOW),
    ],
)
def test_arguments_decide(name, arguments, expected, sample, machine):
    assert combined(sample, machine, number(name, machine), *arguments) == expected


def test_where_a_program_can_be_dumped_its_limit_of_cores_stays(sample, machine):
    expected = EPERM if sample == "with processes" else ALLOW
    assert combined(sample, machine, number("setrlimit", machine), 4) == expected
    assert combined(sample, machine, number("prlimit64", machine), 0, 4, 0x1000) == expected
    assert combined(sample, machine, number("prlimit64", machine), 0, 4) == ALLOW


@pytest.mark.parametrize("bit", [7, 17, 25, 26, 27, 28, 29, 30])
def test_no_process_comes_with_a_namespace(bit, sample, machine):
    called = number("clone", machine)
    for flags in (17, THREAD_FLAGS, 0x4100 | 17):
        assert combined(sample, machine, called, flags | 1 << bit) == EPERM


def test_only_the_profile_with_processes_has_them(sample, machine):
    expected = ALLOW if sample == "with processes" else EPERM
    for flags in (17, 0x4000 | 0x100 | 17, 0):
        assert combined(sample, machine, number("clone", machine), flags) == expected
    for name in ("execve", "execveat", "fork", "vfork"):
        if (called := number(name, machine)) is not None:
            assert combined(sample, machine, called) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("kill", (PID, 15), ALLOW),
        ("kill", (PID + 1, 15), EPERM),
        ("kill", (0, 15), EPERM),
        ("kill", (1, 15), EPERM),
        ("kill", (0xFFFFFFFF, 15), EPERM),
        ("kill", (0xFFFFFFFFFFFFFFFF, 15), EPERM),
        ("kill", (2**32 - PID, 15), EPERM),
        ("kill", (seccomp.PLACE_OF_PID, 15), EPERM),
        ("tgkill", (PID, PID + 5, 15), ALLOW),
        ("tgkill", (PID + 1, PID + 1, 15), EPERM),
        ("tgkill", (0xFFFFFFFF, PID, 15), EPERM),
        ("tkill", (PID, 15), ALLOW),
        ("tkill", (PID + 1, 15), EPERM),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (PID + 1, 7), EPERM),
        ("prlimit64", (1, 7), EPERM),
        ("setpriority", (0, 0, 5), ALLOW),
        ("setpriority", (0, PID + 1, 5), EPERM),
        ("setpriority", (1, 0, 5), EPERM),
        ("setpriority", (2, 0, 5), EPERM),
    ],
)
def test_without_namespaces_a_sample_reaches_itself_alone(name, arguments, expected, machine):
    called = number(name, machine)
    assert combined("restricted", machine, called, *arguments) == expected
    assert combined("sample", machine, called, *arguments) == ALLOW  # there others are out of sight


def test_every_place_of_a_process_is_filled_in(machine):
    for pid in (1, PID, 2**22):
        program = seccomp.restricted_filter(machine, pid)
        operands = [operand for *_, operand in struct.iter_unpack("=HBBI", program)]
        assert seccomp.PLACE_OF_PID not in operands
        for name in ("kill", "tgkill", "tkill"):
            called = number(name, machine)
            assert decide(program, machine, called, pid) == ALLOW
            assert decide(program, machine, called, pid + 1) == EPERM


def test_foreign_calls_end_the_process(sample, machine):
    for program in SAMPLES[sample](machine):
        for other in AUDIT_ARCHITECTURE.keys() - {machine}:
            assert decide(program, other, 0) == KILL


def test_x32_calls_end_the_process(sample):
    for program in SAMPLES[sample]("x86_64"):
        for called in (0x40000000, 0x40000000 + 39, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE):
            assert decide(program, "x86_64", called) == KILL
