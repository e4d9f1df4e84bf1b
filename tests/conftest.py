import pytest

import sandbox


@pytest.fixture(scope="session")
def needs_sandbox() -> None:
    """Skip, with the sandbox's own reason, where this machine cannot contain programs.

    Found out once a session: a sandbox that is refused later on is a failure.
    """
    try:
        sandbox.require()
    except sandbox.SandboxUnavailable as unavailable:
        pytest.skip(str(unavailable))
