"""What checks found, apart from what it is told with, which rooms have no use for."""

from enum import Enum


class Outcome(Enum):
    """What the checks found. Only HELD means that every one of them was run and held."""

    HELD = "held"
    FAILED = "failed"  # an assertion of the checks did not hold
    RAISED = "raised"  # the program raised, or its answer was nothing that the checks could use
    SYNTAX_ERROR = "syntax error"
    UNDEFINED = "undefined"  # the program lacks a name that the checks use
    ENDED = "ended"  # it ended, or met a limit, before its checks were through: see its execution
    CHECKS_BROKEN = "checks broken"  # the fault is the checks' own
