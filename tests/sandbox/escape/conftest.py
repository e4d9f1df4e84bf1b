import pytest


@pytest.fixture(autouse=True)
def contained(needs_sandbox: None) -> None:
    """Every test here is about what containment holds."""
