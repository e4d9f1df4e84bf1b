"""Pages of memory that every sample writes to: fork(2) is to copy them at once.

After a fork a page is shared until parent or child writes to it; only then it is copied, which
takes a trap in each. Whatever a program does, its interpreter writes to some three hundred of them,
since it counts references beside what they refer to. Memory that a device may be writing to is
copied by the fork itself (Linux 5.9 and newer), without a trap in either, for less than half the
time. So these pages are registered as buffers of an io_uring, of which no other use is made.

Nobody but the zygote has that ring: its samples close their copy of the descriptor before they run
anything, have no mapping of it, and may not make any of the calls that could use one, which the
room's filter refuses to the zygote too. What they write to are copies of their own, as ever.

It is for speed only. Where the kernel offers no io_uring, or locks less memory for this user, the
remaining pages are copied when they are written to.
"""

import ctypes
import io
import os
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from sandbox import libc, namespaces, syscalls

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# Of an entry of /proc/PID/pagemap: there, of a file, no other process's.
_PRESENT: Final = 1 << 63
_OF_A_FILE: Final = 1 << 61
_EXCLUSIVE: Final = 1 << 56
_KIND: Final = _PRESENT | _OF_A_FILE | _EXCLUSIVE

_PARAMETERS_BYTES: Final = 120  # struct io_uring_params
_REGISTER_BUFFERS: Final = 0

_found: list[int] = []


def find(trials: Iterable[Callable[[], None]]) -> None:
    """Find the pages that all of the trials write to, for `pin` in what this process forks.

    Each trial is made in a forked child. Nothing is found where that or /proc cannot be had.
    """
    try:
        written = [_written_by(trial) for trial in trials]
    except OSError:
        return
    _found[:] = sorted(set.intersection(*written))


def pin(at: int | None = None) -> int:
    """Have the pages that were found copied by each fork of this process, until it ends; how many
    these are. The descriptor that this takes is ``at``, if given.
    """
    if not _found:
        return 0
    try:
        parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
        ring = libc.call("syscall", syscalls.number("io_uring_setup"), 1, parameters)
    except OSError:
        return 0  # not in this kernel, or not for this user
    if at not in (None, ring):
        ring, spare = os.dup2(ring, at), ring
        os.close(spare)
    addresses = _found
    while addresses:
        buffers = b"".join(struct.pack("@2N", start, size) for start, size in _runs(addresses))
        count = len(buffers) // struct.calcsize("@2N")
        call = syscalls.number("io_uring_register")
        try:
            libc.call("syscall", call, ring, _REGISTER_BUFFERS, buffers, count)
        except OSError:
            addresses = addresses[: len(addresses) // 2]  # this user may lock less
        else:
            break
    return len(addresses)


def _written_by(trial: Callable[[], None]) -> set[int]:
    """Addresses of the pages that a child wrote to in a trial."""
    this = os.getpid()
    child = libc.fork()
    if child == 0:
        try:
            namespaces.die_with(this)
            trial()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "a trial did not come to its end"
    try:
        return _own_pages(child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _own_pages(pid: int) -> set[int]:
    """Addresses where a forked child has pages of its own, and this process one that it had from
    it: what one of the two wrote to."""
    pages: set[int] = set()
    with _pagemap("self") as ours, _pagemap(str(pid)) as theirs:
        for start, end in _writable_areas():
            place, count = start // _PAGE_BYTES, (end - start) // _PAGE_BYTES
            entries = zip(_read(ours, place, count), _read(theirs, place, count), strict=True)
            pages.update(
                start + number * _PAGE_BYTES
                for number, (our, their) in enumerate(entries)
                if their & _KIND == _PRESENT | _EXCLUSIVE and our & _PRESENT
            )
    return pages


def _pagemap(process: str) -> io.FileIO:
    return io.FileIO(f"/proc/{process}/pagemap")


def _read(pagemap: io.FileIO, place: int, count: int) -> memoryview:
    """The entries of so many pages."""
    return memoryview(os.pread(pagemap.fileno(), 8 * count, 8 * place)).cast("Q")


def _writable_areas() -> Iterator[tuple[int, int]]:
    """Where areas of this process's private memory that may be written begin and end."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        area, rights, *_ = line.split()
        if rights.startswith("rw") and rights.endswith("p"):
            start, end = area.split("-")
            yield int(start, 16), int(end, 16)


def _runs(addresses: Iterable[int]) -> list[tuple[int, int]]:
    """Start and size of each run of pages, in bytes; addresses come in their order."""
    runs: list[tuple[int, int]] = []
    for address in addresses:
        if runs and sum(runs[-1]) == address:
            runs[-1] = (runs[-1][0], runs[-1][1] + _PAGE_BYTES)
        else:
            runs.append((address, _PAGE_BYTES))
    return runs
