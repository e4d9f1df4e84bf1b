import gc
import os
import signal

import hypothesis
import pytest

import sandbox
from tests import workers

# Before torch is imported: no test uses a GPU by accident. TEST_CUDA_DEVICES=0 lends it one.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("TEST_CUDA_DEVICES", "")
# The same for what tests start: a test worker a core leaves no core for threads that wait spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# In the background of a shell it is ignored, and in all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A deadline of wall-clock time would hold the machine to it, not what is tested.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    workers.are_forked()


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
