import inspect
import os
import re
import select
import subprocess
import sys
import tempfile

import pytest

from sandbox import Limits, Pool, SandboxUnavailable
from sandbox.tier import Tier
from tests.sandbox.escape import host
from tests.sandbox.escape.attack import with_prelude

LIMITS = Limits(cpu_s=1, wall_s=10, tmp_bytes=4 << 20, tmp_files=256, max_processes=16)
# Without namespaces it is Landlock or the filter that says no, whatever the act.
DENIED = "Permission denied|Operation not permitted"
HAS_TIERS = "tier" in inspect.signature(Pool).parameters

# What every sample must find, whatever ran before it.
PRISTINE = """
import os
assert os.listdir() == [], os.listdir()
open("new", "w").write("x" * 1000)
"""


@pytest.fixture(autouse=True)
def contained(needs_sandbox):
    """Every test here is about what containment holds."""


@pytest.fixture(scope="session")
def secrets_of_the_harness(tmp_path_factory):
    """What a careless sandbox would pass on, there before any room is started."""
    os.environ[host.ENVIRONMENT] = "the crown jewels"
    path = tmp_path_factory.mktemp("harness") / "secret"
    path.write_text("the crown jewels")
    with path.open() as file:
        os.set_inheritable(file.fileno(), True)
        yield
    del os.environ[host.ENVIRONMENT]


@pytest.fixture(scope="session")
def pool(needs_sandbox, secrets_of_the_harness):
    with Pool(LIMITS, 2) as made:
        yield made


@pytest.fixture(scope="session")
def alone(needs_sandbox, secrets_of_the_harness):
    """One worker: what a sample leaves, the next one finds."""
    with Pool(Limits(cpu_s=2), 1) as made:
        yield made


@pytest.fixture(
    scope="session",
    params=[Tier.FULL, *([Tier.RESTRICTED] if HAS_TIERS else [])],
    ids=lambda tier: tier.value,
)
def tier(request):
    return request.param


@pytest.fixture(scope="session")
def pool_of_tier(tier, needs_sandbox, secrets_of_the_harness):
    try:
        with Pool(LIMITS, 2, **({"tier": tier} if HAS_TIERS else {})) as made:
            yield made
    except SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="session")
def controls():
    """Exit code and output of what was tried outside already, by program."""
    return {}


def run_outside(program, folder="/", *, timeout_s=60):
    """The control: the same interpreter, uncontained, with all that a child may inherit.

    Its exit code and output.
    """
    # Into a file: a daemon would keep a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            close_fds=False,
            start_new_session=True,
        )
        # Told when it ends: subprocess's own waiting with a limit looks every 50 ms.
        ended = os.pidfd_open(process.pid)
        try:
            if not select.select([ended], [], [], timeout_s)[0]:
                process.kill()
                raise subprocess.TimeoutExpired(process.args, timeout_s)
        finally:
            os.close(ended)
            process.wait()
        output.seek(0)
        return process.returncode, output.read()


@pytest.fixture
def bait_for(tmp_path):
    """Makes the bait for a program, and clears it away."""
    laid = []

    def lay(program):
        tmp_path.parent.chmod(0o755)
        laid.append(host.Bait(tmp_path, program))
        return laid[0]

    yield lay
    for bait in laid:
        bait.clear_away()


@pytest.fixture
def attempt(pool_of_tier, tier, controls, bait_for, caplog):
    """Tries an attack outside, then inside, then looks at the host; see this folder's page."""

    def run(attack):
        if tier is not Tier.FULL and attack.full_only:
            pytest.skip(attack.full_only)
        below = host.descendants(os.getpid())
        bait = bait_for(attack.program)
        if attack.program not in controls:
            program = with_prelude(bait.as_code() + attack.program)
            with host.orphans_adopted():
                controls[attack.program] = run_outside(program, bait.known["folder"])
                host.end_all_but(below)
            bait.renew()
        works_outside, said_outside = controls[attack.program]

        with host.orphans_adopted():
            program = with_prelude(bait.as_code() + attack.program)
            execution = next(pool_of_tier.run_all([program]))
            touched = bait.touched()
            bait.clear_away()
            grew = lambda: len(host.descendants(os.getpid())) > len(below)  # noqa: E731
            assert host.wait_until(lambda: not grew()), "it left a process"
        told = f"{execution.ending.value} {execution.signal}\n{execution.output_tail}"
        assert execution.exit_code != 0, "it got what it wanted"
        refusal = attack.fails_with if tier is Tier.FULL else f"{attack.fails_with}|{DENIED}"
        assert re.search(refusal, told), told
        assert touched == []
        assert caplog.records == [], "it cost a worker"
        for following in pool_of_tier.run_all([PRISTINE] * 2):
            assert following.exit_code == 0, following.output_tail
        if works_outside != 0:
            assert attack.rarely_works, said_outside
            pytest.skip(f"held, but without a control: {said_outside.strip().splitlines()[-1:]}")

    return run
