"""Numbers of the system calls that the sandbox makes and libc has no function for, by machine."""

import os
from typing import Final

from sandbox.errors import SandboxUnavailable

ARCHITECTURES: Final = ("x86_64", "aarch64")

# name: its number on each of ARCHITECTURES
NUMBERS: Final[dict[str, tuple[int, int]]] = {
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
}


def architecture() -> str:
    """The machine's name in ARCHITECTURES.

    Raises:
        SandboxUnavailable: it is another one, for which there is no filter.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise SandboxUnavailable(
            f"no system call filter for the architecture {machine!r}",
            "run on x86_64 or aarch64 (64-bit ARM)",
        )
    return machine


def number(name: str, machine: str | None = None) -> int:
    """A system call's number on ``machine`` (default: this one)."""
    return NUMBERS[name][ARCHITECTURES.index(machine or architecture())]
