"""What an attack is."""

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

REFUSED = "Operation not permitted"
ABSENT = "No such file or directory"
READ_ONLY = "Read-only file system"

MODULES = (
    "array", "ctypes", "errno", "fcntl", "mmap", "os", "resource", "signal", "socket", "struct",
    "sys", "threading", "time",
)  # fmt: skip
# `call` and `syscall` raise as Python's own functions do.
CALLS = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)

def call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def syscall(x86_64, aarch64, *arguments):
    number = x86_64 if {platform.machine() == "x86_64"} else aarch64
    return call("syscall", number, *arguments)
"""
# What attacks need not say each time.
PRELUDE = f"import {', '.join(MODULES)}\nfrom types import SimpleNamespace\n{CALLS}"


def with_prelude(program: str) -> str:
    """A program behind as much of the prelude as it mentions: imports cost more than most acts."""
    modules = [name for name in MODULES if re.search(rf"\b{name}\b", program)]
    imports = f"import {', '.join(modules)}\n" if modules else ""
    calls = CALLS if re.search(r"\b(libc|call|syscall)\b", program) else ""
    return f"{imports}from types import SimpleNamespace\n{calls}{program}"


@dataclass(frozen=True)
class Attack:
    """``program`` ends with exit code 0 if it got what it wanted.

    ``fails_with`` is a pattern of what it must say inside, in its output or as its ending.
    ``rarely_works`` is for acts that not every machine or user can do: where the control fails, the
    test is skipped once all the rest has held. ``full_only`` says why a tier without namespaces
    lets it pass. ``does_not_hold_yet`` marks what is known to get through.
    """

    name: str
    program: str
    fails_with: str = REFUSED
    rarely_works: bool = False
    full_only: str = ""
    does_not_hold_yet: str = ""


def catalogue(attacks: Iterable[Attack]) -> pytest.MarkDecorator:
    """Parameters of a test: the attacks by their names."""
    return pytest.mark.parametrize(
        "attack",
        [pytest.param(attack, id=attack.name, marks=_marks(attack)) for attack in attacks],
    )


def _marks(attack: Attack) -> list[Any]:
    if not attack.does_not_hold_yet:
        return []
    # Strict: it fails as soon as it holds, so that the mark goes.
    return [pytest.mark.xfail(strict=True, raises=AssertionError, reason=attack.does_not_hold_yet)]
