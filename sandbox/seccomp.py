"""System call filters: an allow-list for the room, and a shorter list of refusals for a sample.

A refused call fails with EPERM, which an honest program can handle; a call of a foreign
architecture (32-bit, x32) ends the process. clone3 answers ENOSYS, because its flags are out of a
filter's reach and libc then falls back to clone. The room's filter is inherited by every sample;
the sample's takes away what only the zygote needs: new processes, namespaces and filters.

Filters are classic BPF over ``struct seccomp_data``; see seccomp(2).
"""

import ctypes
import errno
import functools
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from sandbox import libc, syscalls
from sandbox.errors import SandboxUnavailable

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_JUMP_ABOVE: Final = 0x25
_AND: Final = 0x54
_RETURN: Final = 0x06

_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
REFUSE: Final = 0x00050000 | errno.EPERM
NOT_THERE: Final = 0x00050000 | errno.ENOSYS

_AUDIT_ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000
_SECCOMP_SET_MODE_FILTER: Final = 1

_CLONE_THREAD: Final = 0x00010000
_CLONE_NEW_NAMESPACE: Final = 0x7E020080
_SOCK_TYPE_MASK: Final = 0xF
_SOCK_STREAM: Final = 1
_AF_UNIX: Final = 1
_PR_SET_NAME: Final = 15
_PR_GET_NAME: Final = 16

# Only these commands, by the call's second argument.
# dup, get and set flags, pipe sizes, seals; not leases, signals or notification. No record locks
# either: on the interpreter's files, which all rooms share, they tell one sample of another.
_FCNTL: Final = (0, 1, 2, 3, 4, 1030, 1031, 1032, 1033, 1034)
# TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_IOCTL: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

# What the zygote does between two samples, and what makes a process.
ZYGOTE_ONLY: Final = ("capset", "fork", "pidfd_open", "seccomp", "setns", "unshare", "vfork")
# Before there is a filter.
SETUP_ONLY: Final = ("mount_setattr", "pivot_root")
# Those with a condition on their arguments.
_CONDITIONAL: Final = ("clone", "clone3", "fcntl", "ioctl", "prctl", "socketpair")


@functools.cache
def room_filter(machine: str) -> bytes:
    """Filter that allows what honest programs and the zygote need, and refuses everything else."""
    allowed = [
        number
        for name in syscalls.NUMBERS
        if name not in SETUP_ONLY + _CONDITIONAL
        and (number := syscalls.number(name, machine)) is not None
    ]
    return _assemble(
        _check_architecture(machine)
        + _when(machine, "clone3", [(_RETURN, 0, 0, NOT_THERE)])
        + _when(machine, "fcntl", _argument_in(1, _FCNTL))
        + _when(machine, "ioctl", _argument_in(1, _IOCTL))
        + _when(machine, "socketpair", _only_unix_streams())
        + _allow_ranges([*allowed, *_numbers(machine, ("clone", "prctl"))])
    )


@functools.cache
def sample_filter(machine: str) -> bytes:
    """Filter that refuses new processes, namespaces and filters; threads stay allowed."""
    return _assemble(
        _check_architecture(machine)
        + _when(machine, "clone", _only_threads())
        + _when(machine, "prctl", _argument_in(0, (_PR_SET_NAME, _PR_GET_NAME)))
        + [
            instruction
            for number in _numbers(machine, ZYGOTE_ONLY)
            for instruction in ((_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, REFUSE))
        ]
        + [(_RETURN, 0, 0, ALLOW)]
    )


def install(program: bytes) -> None:
    """Put a filter on this process and its children to come, for good.

    Raises:
        SandboxUnavailable: the kernel takes no filters.
    """
    number = syscalls.number("seccomp")
    assert number is not None
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the count, padded to a pointer's alignment, then the address.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    try:
        libc.call("syscall", number, _SECCOMP_SET_MODE_FILTER, 0, header)
    except OSError as refusal:
        raise SandboxUnavailable(
            f"the kernel takes no system call filter ({refusal})",
            "a kernel with CONFIG_SECCOMP_FILTER is needed",
        ) from refusal


def _check_architecture(machine: str) -> list[Instruction]:
    """End the process on a foreign call; leave the call's number in the accumulator."""
    return [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, KILL),
    ]


def _when(machine: str, name: str, then: Sequence[Instruction]) -> list[Instruction]:
    """Run ``then``, which must return, if this is the call of that name."""
    number = syscalls.number(name, machine)
    return [] if number is None else [(_JUMP_EQUAL, 0, len(then), number), *then]


def _argument_in(position: int, values: Sequence[int]) -> list[Instruction]:
    """Allow if an argument's low half, all that the kernel reads of it, is one of ``values``."""
    tests = [(_JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_load_argument(position), *tests, (_RETURN, 0, 0, REFUSE), (_RETURN, 0, 0, ALLOW)]


def _only_unix_streams() -> list[Instruction]:
    """A datagram pair could send to any unix socket by address; a connected stream cannot."""
    return [
        _load_argument(0),
        (_JUMP_EQUAL, 0, 3, _AF_UNIX),
        _load_argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_JUMP_EQUAL, 1, 0, _SOCK_STREAM),
        (_RETURN, 0, 0, REFUSE),
        (_RETURN, 0, 0, ALLOW),
    ]


def _only_threads() -> list[Instruction]:
    return [
        _load_argument(0),
        (_AND, 0, 0, _CLONE_THREAD | _CLONE_NEW_NAMESPACE),
        (_JUMP_EQUAL, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, REFUSE),
        (_RETURN, 0, 0, ALLOW),
    ]


def _allow_ranges(numbers: Iterable[int]) -> list[Instruction]:
    """Allow these numbers and refuse all others, by walking the ranges they form in order."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    tests: list[Instruction] = []
    num_tests = 2 * len(ranges)
    for low, high in ranges:
        # From the first of the two, this far on lies the refusal; from the second, the leave.
        ahead = num_tests - len(tests) - 1
        tests += [(_JUMP_AT_LEAST, 0, ahead, low), (_JUMP_ABOVE, 0, ahead, high)]
    return [*tests, (_RETURN, 0, 0, REFUSE), (_RETURN, 0, 0, ALLOW)]


def _load_argument(position: int) -> Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * position)


def _numbers(machine: str, names: Iterable[str]) -> list[int]:
    return [n for name in names if (n := syscalls.number(name, machine)) is not None]


def _assemble(instructions: Iterable[Instruction]) -> bytes:
    """The filter as the kernel takes it: an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
