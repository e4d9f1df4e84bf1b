"""Calls into libc for what Python's os module does not offer (on 3.11)."""

import ctypes
import os
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

# Not on Windows, where the package can be imported only to say so. Nothing here blocks, so nobody
# else needs the interpreter's lock meanwhile.
_LIBC: Final = ctypes.PyDLL(None, use_errno=True) if hasattr(os, "fork") else None

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
# For unshare(2): refused to a process that has several threads, else nothing.
CLONE_THREAD: Final = 0x00010000

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None


class Prepared(NamedTuple):
    """A call with its arguments as libc takes them."""

    function: Any
    arguments: tuple[Any, ...]


def prepare(function: str, *arguments: Argument) -> Prepared:
    """A call of libc's ``function`` for `run`.

    Integers are passed as unsigned long, None as NULL, structures by reference.
    """
    return Prepared(getattr(_LIBC, function), tuple(map(_converted, arguments)))


def _converted(argument: Argument) -> Any:
    if isinstance(argument, int):
        return ctypes.c_ulong(argument)
    return ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else argument


def run(calls: Iterable[Prepared]) -> int:
    """Make the calls one after another; the answer of the last.

    Raises:
        OSError: one returned -1, and none after it was made; with errno.
    """
    result = 0
    for function, arguments in calls:
        result = function(*arguments)
        if result == -1:
            code = ctypes.get_errno()
            raise OSError(code, f"{function.__name__}: {os.strerror(code)}")
    return result


def call(function: str, *arguments: Argument) -> int:
    """Answer of libc's ``function``, its arguments as those of `prepare`.

    Raises:
        OSError: it returned -1; with errno.
    """
    return run([prepare(function, *arguments)])


def fork() -> int:
    """As os.fork(), without what Python does for the child of a process of many threads.

    That is to make locks anew and to run what was registered by os.register_at_fork(). It costs a
    child twice what the fork does: some 200 pages of memory are copied for it.
    """
    return call("fork")


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), with the unused arguments zero, as some options demand."""
    return call("prctl", option, *arguments, *(0,) * (4 - len(arguments)))
