"""System call filters: an allow-list for a room, and a short list of refusals for each sample.

What they say stands in filters/generate.py, which made the bytes that are read here. They are
classic BPF over ``struct seccomp_data``; see seccomp(2).
"""

import ctypes
import errno
import functools
import struct
from pathlib import Path
from typing import Final

from sandbox import libc, syscalls
from sandbox.errors import SandboxUnavailable

ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
REFUSE: Final = 0x00050000 | errno.EPERM
NOT_THERE: Final = 0x00050000 | errno.ENOSYS
NOT_SUPPORTED: Final = 0x00050000 | errno.ENOTSUP

# Stands in a filter's bytes for the number of the process that it will be put on. No process has
# this one: the kernel's highest is 2**22.
PLACE_OF_PID: Final = 0x5A5A5A5A

_INSTRUCTION: Final = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand
_SECCOMP_SET_MODE_FILTER: Final = 1


class _Program(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@functools.cache
def room_filter(machine: str, *, processes: bool = False) -> bytes:
    """Filter that allows what honest programs and the zygote need, and refuses everything else."""
    return _read("room-with-processes" if processes else "room", machine)


@functools.cache
def sample_filter(machine: str, *, processes: bool = False) -> bytes:
    """Filter that refuses new processes (unless ``processes``), namespaces and filters; threads
    stay allowed."""
    return _read("sample-with-processes" if processes else "sample", machine)


def restricted_filter(machine: str, pid: int) -> bytes:
    """Filter of a sample without namespaces: what `sample_filter` refuses, and all that changes a
    file's metadata, or another process than the one of that number."""
    template, places = _restricted_template(machine)
    patched = bytearray(template)
    for place in places:
        struct.pack_into("=I", patched, place, pid)
    return bytes(patched)


def installing(program: bytes) -> libc.Prepared:
    """A call that puts a filter on the process that makes it and its children to come, for good."""
    filter_ = _Program(len(program) // _INSTRUCTION.size, program)
    number = syscalls.number("seccomp")
    return libc.prepare("syscall", number, _SECCOMP_SET_MODE_FILTER, 0, filter_)


def install(program: bytes) -> None:
    """Put a filter on this process and its children to come, for good.

    Raises:
        SandboxUnavailable: the kernel takes no filters.
    """
    try:
        libc.run([installing(program)])
    except OSError as refusal:
        raise SandboxUnavailable(
            f"the kernel takes no system call filter ({refusal})",
            "a kernel with CONFIG_SECCOMP_FILTER is needed",
        ) from refusal


def read_filters(machine: str) -> None:
    """Read all that may be asked for later, when the files are out of sight."""
    for processes in (False, True):
        room_filter(machine, processes=processes)
        sample_filter(machine, processes=processes)
    _restricted_template(machine)


def _read(name: str, machine: str) -> bytes:
    return Path(__file__).with_name("filters").joinpath(f"{name}.{machine}.bpf").read_bytes()


@functools.cache
def _restricted_template(machine: str) -> tuple[bytes, list[int]]:
    """The bytes, and where in them the operands lie that stand for a process."""
    template = _read("sample-restricted", machine)
    operands = (operand for *_, operand in _INSTRUCTION.iter_unpack(template))
    places = [
        index * _INSTRUCTION.size + _INSTRUCTION.size - 4
        for index, operand in enumerate(operands)
        if operand == PLACE_OF_PID
    ]
    return template, places
