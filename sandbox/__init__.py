"""Run hostile Python programs, and judge them by checks that they cannot reach."""

from sandbox.api import examine, run
from sandbox.errors import SandboxUnavailable
from sandbox.examination import Checks, Examination, Outcome
from sandbox.execution import Ending, Execution
from sandbox.limits import Limits
from sandbox.pool import Pool
from sandbox.probe import Mechanism, Probe, probe, require

__all__ = [
    "Checks",
    "Ending",
    "Examination",
    "Execution",
    "Limits",
    "Mechanism",
    "Outcome",
    "Pool",
    "Probe",
    "SandboxUnavailable",
    "examine",
    "probe",
    "require",
    "run",
]
