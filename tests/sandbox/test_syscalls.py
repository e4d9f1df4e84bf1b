from types import SimpleNamespace

import pytest

from sandbox import SandboxUnavailable, syscalls
from sandbox.filters import generate
from tests.sandbox.numbers import NUMBERS


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_numbers_are_those_that_libseccomp_knows(machine):
    at = syscalls.ARCHITECTURES.index(machine)
    try:
        for table in (syscalls.NUMBERS, NUMBERS):
            for name, numbers in table.items():
                assert numbers[at] == generate.number(name, machine), name
    except OSError:
        pytest.skip("libseccomp is not on this machine")


def test_another_architecture_is_refused(monkeypatch):
    there = SimpleNamespace(machine="riscv64")
    monkeypatch.setattr("os.uname", lambda: there)
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        syscalls.architecture()
