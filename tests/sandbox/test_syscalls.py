import ctypes
import ctypes.util

import pytest

from sandbox import SandboxUnavailable, syscalls

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_numbers_are_those_that_libseccomp_knows(machine):
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not on this machine")
    resolve = library.seccomp_syscall_resolve_name_arch
    for name in syscalls.NUMBERS:
        # Negative where the architecture lacks the call.
        known = resolve(ctypes.c_uint32(AUDIT[machine]), name.encode())
        assert syscalls.number(name, machine) == (known if known >= 0 else None), name


def test_another_architecture_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        syscalls.architecture()
