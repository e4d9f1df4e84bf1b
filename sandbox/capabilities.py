"""Linux capabilities: none but the one that makes a pid namespace, and none at all for a sample."""

import struct
from typing import Final

from sandbox import libc

CAP_SYS_ADMIN: Final = 21

_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock: uid 0 means nothing here.
_SECUREBITS: Final = 0b11_00_11_11


def keep_only(kept: int) -> None:
    """Drop every capability but ``kept`` from every set, for good.

    Raises:
        OSError: the kernel refused.
    """
    libc.prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    capability = 0
    while _exists(capability):
        if capability != kept:
            libc.prctl(_PR_CAPBSET_DROP, capability)
        capability += 1
    libc.run([_set(1 << kept)])


def drop_all() -> libc.Prepared:
    """A call that drops every capability of the thread that makes it; `forbid_new_privileges` keeps
    them from coming back."""
    return _set(0)


def forbid_new_privileges() -> None:
    """No exec gives privileges any more; the kernel wants this before it takes a filter."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _exists(capability: int) -> bool:
    try:
        libc.prctl(_PR_CAPBSET_READ, capability)
    except OSError:
        return False
    return True


def _set(bits: int) -> libc.Prepared:
    """A call that makes ``bits`` the effective and permitted sets, and empties the inheritable."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    return libc.prepare("capset", header, struct.pack("=6I", low, low, 0, high, high, 0))
