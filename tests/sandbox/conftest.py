"""A pool for all tests, and the same programs outside of it: every test of isolation needs both."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from sandbox import Checks, Examination, Execution, Limits, Pool, cgroup

LIMITS = Limits(cpu_s=1, wall_s=10, tmp_bytes=4 << 20, tmp_files=256, max_processes=16)

Outside = Callable[[str], "subprocess.CompletedProcess[str]"]
Inside = Callable[[str], Execution]
Examine = Callable[[str, str], Examination]


@pytest.fixture(scope="session")
def pool(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(LIMITS, 2) as made:
        yield made


@pytest.fixture
def inside(pool: Pool) -> Inside:
    return lambda program: next(pool.run_all([program]))


@pytest.fixture
def outside() -> Outside:
    """The control: the same interpreter, uncontained."""
    return lambda program: subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def examine(pool: Pool) -> Examine:
    return lambda program, checks: next(pool.examine_all([(program, Checks(checks))]))


@pytest.fixture
def cgroups() -> Iterator[cgroup.Cgroups]:
    found = cgroup.find_cgroups()
    if isinstance(found, cgroup.Unavailable):
        pytest.skip(f"{found.reason}; {found.remedy}")
    with found:
        yield found
