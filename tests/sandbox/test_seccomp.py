"""The filters, decided by a slow interpreter of classic BPF, for machines at hand or not."""

import struct

import pytest

from sandbox import seccomp, syscalls

EPERM, ENOSYS = seccomp.REFUSE, seccomp.NOT_THERE
CLONE_THREAD = 0x10000
THREAD_FLAGS = 0x3D0F00  # what glibc passes for a new thread


def decide(program, machine, number, *arguments):
    """What the kernel would do about a call."""
    architecture = seccomp._AUDIT_ARCHITECTURE[machine]
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
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


def combined(machine, number, *arguments):
    """What becomes of a sample's call: the stricter of the two filters wins."""
    decisions = {
        decide(program(machine), machine, number, *arguments)
        for program in (seccomp.room_filter, seccomp.sample_filter)
    }
    for strict in (seccomp.KILL, EPERM, ENOSYS):
        if strict in decisions:
            return strict
    return seccomp.ALLOW


def test_a_sample_may_call_what_is_listed_and_nothing_else(machine):
    special = {"clone", "clone3", "fcntl", "ioctl", "prctl", "socketpair"}
    refused = {*seccomp.ZYGOTE_ONLY, *seccomp.SETUP_ONLY}
    allowed = {
        syscalls.number(name, machine) for name in syscalls.NUMBERS if name not in special | refused
    }
    conditional = {syscalls.number(name, machine) for name in special}
    for number in range(600):
        if number not in conditional:
            expected = seccomp.ALLOW if number in allowed else EPERM
            assert combined(machine, number) == expected, number


def test_the_zygote_may_make_processes_but_no_mounts(machine):
    program = seccomp.room_filter(machine)
    for name in ("clone", "unshare", "setns", "seccomp", "capset", "pidfd_open"):
        assert decide(program, machine, syscalls.number(name, machine)) == seccomp.ALLOW
    for name in seccomp.SETUP_ONLY:
        assert decide(program, machine, syscalls.number(name, machine)) == EPERM


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (THREAD_FLAGS,), seccomp.ALLOW),
        ("clone", (17,), EPERM),
        ("clone", (THREAD_FLAGS | 0x10000000,), EPERM),
        ("clone", (THREAD_FLAGS | 0x00000080,), EPERM),
        ("clone3", (), ENOSYS),
        ("socketpair", (1, 1), seccomp.ALLOW),
        ("socketpair", (1, 1 | 0o2000000), seccomp.ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (16, 1), EPERM),
        ("fcntl", (3, 4), seccomp.ALLOW),
        ("fcntl", (3, 1024), EPERM),
        ("fcntl", (3, 8), EPERM),
        ("fcntl", (3, 5), EPERM),
        ("fcntl", (3, 6), EPERM),
        ("fcntl", (3, 7), EPERM),
        ("ioctl", (0, 0x5401), seccomp.ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("ioctl", (0, 0x5401 | 1 << 40), seccomp.ALLOW),  # the kernel drops the upper half too
        ("prctl", (15,), seccomp.ALLOW),
        ("prctl", (38,), EPERM),
        ("prctl", (22,), EPERM),
    ],
)
def test_arguments_decide(name, arguments, expected, machine):
    assert combined(machine, syscalls.number(name, machine), *arguments) == expected


def test_foreign_calls_end_the_process(machine):
    other = next(name for name in syscalls.ARCHITECTURES if name != machine)
    for program in (seccomp.room_filter(machine), seccomp.sample_filter(machine)):
        assert decide(program, other, 0) == seccomp.KILL
        assert decide(program, machine, 0x40000000) == seccomp.KILL
        assert decide(program, machine, 0xFFFFFFFF) == seccomp.KILL
