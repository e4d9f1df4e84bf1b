"""One program at a time; a Pool is faster for many."""

from sandbox.examination import Checks, Examination
from sandbox.execution import Execution
from sandbox.limits import Limits
from sandbox.pool import Pool


def run(
    program: str, limits: Limits | None = None, *, unsafe_no_sandbox: bool = False
) -> Execution:
    """Run a whole program.

    Raises:
        SandboxUnavailable: the machine cannot contain it; see `Pool`.
    """
    with Pool(limits, 1, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
        return next(pool.run_all([program]))


def examine(
    program: str,
    checks: Checks,
    limits: Limits | None = None,
    *,
    unsafe_no_sandbox: bool = False,
) -> Examination:
    """Run a program and call it from checks in another process, which alone decides the outcome.

    Raises:
        SandboxUnavailable: the machine cannot contain it; see `Pool`.
    """
    with Pool(limits, 1, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
        return next(pool.examine_all([(program, checks)]))
