"""One program at a time; a Pool is faster for many."""

from sandbox import wire
from sandbox.engine import Engine
from sandbox.examination import Answer, Checks, Examination
from sandbox.execution import Execution
from sandbox.jobs import CallJob
from sandbox.limits import Limits
from sandbox.pool import AnyProgram, Pool, Setting
from sandbox.profile import Profile
from sandbox.tier import Tier


def run(
    program: AnyProgram,
    limits: Limits | None = None,
    *,
    profile: Profile = Profile(),  # noqa: B008 - frozen
    tier: Tier = Tier.FULL,
    unsafe_no_sandbox: bool = False,
) -> Execution:
    """Run a whole program.

    Raises:
        SandboxUnavailable: the machine cannot contain it; see `Pool`.
    """
    with Pool(limits, 1, profile=profile, tier=tier, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
        return next(pool.run_all([program]))


def examine(
    program: str,
    checks: Checks,
    limits: Limits | None = None,
    *,
    profile: Profile = Profile(),  # noqa: B008 - frozen
    tier: Tier = Tier.FULL,
    unsafe_no_sandbox: bool = False,
) -> Examination:
    """Run a program and call it from checks in another process, which alone decides the outcome.

    Raises:
        SandboxUnavailable: the machine cannot contain it; see `Pool`.
    """
    with Pool(limits, 1, profile=profile, tier=tier, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
        return next(pool.examine_all([(program, checks)]))


def call(
    program: str,
    function: str,
    *arguments: object,
    limits: Limits | None = None,
    profile: Profile = Profile(),  # noqa: B008 - frozen
    tier: Tier = Tier.FULL,
    unsafe_no_sandbox: bool = False,
) -> Answer:
    """Run a program, call a function of it with plain data, and hand over what it answers.

    The value is built in this process, out of exact builtin types; compare it by `==`, and mind
    that the program chose it, sizes included (up to 8 MB as it travels).

    Raises:
        ValueError: an argument is no plain data, is nested too deep, or is a time with a zone that
            is more than an offset, or the arguments are too large.
        SandboxUnavailable: the machine cannot contain it; see `Pool`.
    """
    setting = Setting(limits, profile, tier, unsafe_no_sandbox)
    job = CallJob(0, setting.limits, setting.tier, program, function, arguments)
    try:
        wire.frame(job.encoded_arguments())
    except wire.Unsendable as error:
        raise ValueError(f"call() cannot hand over its arguments: {error}") from None
    engine = Engine(setting.limits, 1, profile, setting.tier)
    try:
        engine.submit(job)
        while job.result is None:
            engine.step()
    finally:
        engine.close()
    return job.result
