"""Run hostile Python programs, and judge them by checks that they cannot reach."""

from typing import TYPE_CHECKING, Any

from sandbox.api import call, examine, run
from sandbox.errors import SandboxUnavailable
from sandbox.examination import Answer, Checks, Examination, Heard, Opaque
from sandbox.execution import Ending, Execution
from sandbox.incubation import Incubators
from sandbox.limits import Limits
from sandbox.outcome import Outcome
from sandbox.pool import Pool
from sandbox.probe import Mechanism, Probe, probe, require
from sandbox.profile import ContainerOptions, Profile
from sandbox.program import Program
from sandbox.tier import Tier

if TYPE_CHECKING:
    from sandbox.async_pool import AsyncPool

__all__ = [
    "Answer",
    "AsyncPool",
    "Checks",
    "ContainerOptions",
    "Ending",
    "Examination",
    "Execution",
    "Heard",
    "Incubators",
    "Limits",
    "Mechanism",
    "Opaque",
    "Outcome",
    "Pool",
    "Probe",
    "Profile",
    "Program",
    "SandboxUnavailable",
    "Tier",
    "call",
    "examine",
    "probe",
    "require",
    "run",
]


def __getattr__(name: str) -> Any:
    """The form that few need, since asyncio takes as long to import as all the rest."""
    if name == "AsyncPool":
        from sandbox.async_pool import AsyncPool

        return AsyncPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
