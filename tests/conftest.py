import gc
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import hypothesis
import pytest

import sandbox
from mtp_code.cli import judging
from tests import workers

# Before torch is imported: no test uses a GPU by accident. TEST_CUDA_DEVICES=0 lends it one.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("TEST_CUDA_DEVICES", "")
# The same for what tests start: a test worker a core leaves no core for threads that wait spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# In the background of a shell it is ignored, and in all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A deadline of wall-clock time would hold the machine to it, not what is tested.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)
hypothesis.settings.register_profile("thorough", deadline=None)
hypothesis.settings.load_profile("quick")

# Begun first, in this order: a worker that gets a long one last would end alone.
LONGEST = (
    "mtp_code/training/test_distributed.py",
    "sandbox/test_container.py",
    "sandbox/test_pool.py",
    "cli/test_trained_bench.py",
    "mtp_code/training/test_memory.py",
    "sandbox/test_desk.py",
    "evals/test_bench_sandbox.py",
    "evals/test_bench_judge.py",
    "mtp_code/serving/test_process.py",
    "test_gate_command.py",
    "cli/test_interop.py",
    "mtp_code/training/test_loop.py",
    "mtp_code/test_recipes.py",
    "evals/test_references.py",
    "sandbox/escape/test_resources.py",
    "cli/test_decode_benches.py",
    "cli/test_devices.py",
    "mtp_code/data/test_prepare.py",
    "mtp_code/decoding/test_speculative.py",
    "mtp_code/decoding/test_synthetic.py",
    "evals/test_judge.py",
    "sandbox/test_restricted.py",
    "end_to_end/test_road.py",
    "test_cli.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    workers.are_forked()


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("-m"):  # as make test-all has it
        hypothesis.settings.load_profile("thorough")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """What stays for the whole session costs no garbage collection a look, be it a test's own."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def needs_sandbox() -> None:
    """Skip, with the sandbox's own reason, where this machine cannot contain programs.

    Found out once a session: a sandbox that is refused later on is a failure.
    """
    try:
        sandbox.require()
    except sandbox.SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="session")
def warm_incubators() -> Iterator[sandbox.Incubators]:
    with closing(sandbox.Incubators()) as kept:
        yield kept


@pytest.fixture(scope="module")
def shared_incubators(warm_incubators: sandbox.Incubators) -> Iterator[None]:
    """Pools share two incubators, as they may, in place of warming up two of their own each.

    Not for tests of what pools start, what they leave, or what of the harness they take along.
    """

    class Shared(sandbox.Incubators):
        def __init__(self, interpreter: str | None = None) -> None:
            super().__init__(interpreter)
            self.is_shared = interpreter is None
            if self.is_shared:
                self.of_programs = warm_incubators.of_programs
                self.of_checks = warm_incubators.of_checks

        def close(self) -> None:
            if not self.is_shared:
                super().close()

    with patch("sandbox.engine.Incubators", Shared), patch.object(judging, "Incubators", Shared):
        yield
