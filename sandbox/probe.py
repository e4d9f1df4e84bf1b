"""What this machine enforces, found out by trying."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandbox import cgroup, landlock
from sandbox.contain import ROOM_STEPS
from sandbox.engine import Engine
from sandbox.errors import SandboxUnavailable
from sandbox.execution import Ending, Execution
from sandbox.incubation import Incubator
from sandbox.limits import Limits
from sandbox.plan import Plan
from sandbox.pool import Pool
from sandbox.profile import Profile
from sandbox.room import Room
from sandbox.tier import Tier

_NOT_TRIED: Final = "not tried: an earlier step did not hold"
_TASK: Final = Path("/proc/thread-self")
_TRIED: Final = (Tier.FULL, Tier.RESTRICTED, Tier.CONTAINER)

_REFUSED: Final = """
try: {}
except PermissionError: pass
else: raise SystemExit("allowed")
"""
# What a sample gives up beyond its room, each with a program that ends so where that holds.
_SAMPLES: Final[dict[Tier, tuple[tuple[str, str, Ending], ...]]] = {
    Tier.FULL: (
        ("a process tree of its own", "import os; assert os.getpid() == 1", Ending.EXITED),
        ("no new processes", "import os; os.fork()", Ending.BLOCKED),
        ("no network", "import socket; socket.socket()", Ending.BLOCKED),
    ),
    Tier.RESTRICTED: (
        ("no signal to others", "import os; os.kill(os.getppid(), 0)", Ending.BLOCKED),
        ("no change of metadata", "import os; os.utime('.')", Ending.BLOCKED),
        ("no file of the host", _REFUSED.format("open('/etc/passwd')"), Ending.EXITED),
        ("no new processes", "import os; os.fork()", Ending.BLOCKED),
        ("no network", "import socket; socket.socket()", Ending.BLOCKED),
    ),
    Tier.CONTAINER: (
        ("no new processes", "import os; os.fork()", Ending.BLOCKED),
        ("no network", "import socket; socket.socket()", Ending.BLOCKED),
    ),
}
_LIMITS: Final = (
    ("CPU limit", "while True: pass", Ending.TIMED_OUT_CPU),
    ("wall clock limit", "import time; time.sleep(60)", Ending.TIMED_OUT_WALL),
    ("memory limit", "bytearray(1 << 40)", Ending.OUT_OF_MEMORY),
)


@dataclass(frozen=True)
class Mechanism:
    """``remedy`` says why a mechanism is not enforced and what to do; else it is empty.

    Without one that is not ``is_needed`` programs are run all the same; its remedy then says what
    is weaker for it.
    """

    name: str
    is_enforced: bool
    remedy: str = ""
    is_needed: bool = True


@dataclass(frozen=True)
class Probe:
    """What was tried of ``tier``, and whether each of ``tiers`` can be had: its remedy is empty
    where it can. ``isolation`` is what an Execution on this machine is marked with."""

    tier: Tier
    mechanisms: tuple[Mechanism, ...]
    tiers: tuple[tuple[Tier, str], ...]

    @property
    def holds(self) -> bool:
        """Whether programs will be run on this machine."""
        return all(mechanism.is_enforced for mechanism in self.mechanisms if mechanism.is_needed)

    @property
    def isolation(self) -> str | None:
        return self.tier.value if self.holds else None

    def __str__(self) -> str:
        """A line for each mechanism, one for each tier, then the tier that programs get."""
        lines = [
            (mechanism.name, "holds" if mechanism.is_enforced else mechanism.remedy)
            for mechanism in self.mechanisms
        ]
        lines += [(f"tier {tier.value}", remedy or "can be had") for tier, remedy in self.tiers]
        width = max(len(name) for name, _ in lines)
        told = [f"{name:{width}}  {text}" for name, text in lines]
        isolation = self.isolation or f"{self.tier.value} cannot be had, so nothing will be run"
        return "\n".join([*told, f"isolation: {isolation}"])


def require(tier: Tier = Tier.FULL) -> None:
    """Find out beforehand whether programs can be contained; takes a quarter of a second.

    Raises:
        SandboxUnavailable: they cannot.
    """
    with Pool(num_workers=1, tier=tier):
        pass


def probe(tier: Tier = Tier.FULL) -> Probe:
    """Try every step of containment on this machine; takes a second or two.

    Raises:
        ValueError: nothing is enforced by this tier.
    """
    if tier not in _TRIED:
        raise ValueError(f"there is nothing to try of the tier {tier.value!r}")
    steps = _probe_container() if tier is Tier.CONTAINER else _probe_room(tier)
    holds = all(step.is_enforced for step in steps if step.is_needed)
    mechanisms = [*steps, *_probe_sample(tier, holds)]
    if tier is not Tier.CONTAINER:  # whose engine sees to the one, and whose relay to the other
        mechanisms += [_probe_cgroups(), _probe_waiting()]
    tiers = [(other, _missing(other)) for other in _TRIED]
    tiers.append((Tier.NONE, "only by unsafe_no_sandbox: programs then have all your rights"))
    return Probe(tier, tuple(mechanisms), tuple(tiers))


def _probe_room(tier: Tier) -> list[Mechanism]:
    refusal = None
    held: list[str] = []
    try:
        with _room(tier) as room:
            held = room.steps_held
            room.wait_until_ready()
    except SandboxUnavailable as unavailable:
        refusal = unavailable
    steps = [step.name for step in ROOM_STEPS[tier]]
    mechanisms = []
    for name, _, is_second_layer in ROOM_STEPS[tier]:
        if name in held:
            mechanisms.append(Mechanism(name, is_enforced=True))
        elif is_second_layer and held and steps.index(name) < steps.index(held[-1]):
            missing = landlock.why_missing()
            told = f"not there: {missing}; the first layer holds alone"
            mechanisms.append(Mechanism(name, is_enforced=False, remedy=told, is_needed=False))
        else:
            told = f"DOES NOT HOLD: {refusal.reason}; {refusal.remedy}" if refusal else _NOT_TRIED
            mechanisms.append(Mechanism(name, is_enforced=False, remedy=told))
            refusal = None
    return mechanisms


@contextmanager
def _room(tier: Tier) -> Iterator[Room]:
    plan = Plan(Limits(), tier)
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        if tier is Tier.RESTRICTED:
            plan = replace(plan, workspace=str(Path(folder).resolve()))
        with closing(Incubator()) as incubator, closing(Room(plan, incubator)) as room:
            yield room


def _probe_container() -> list[Mechanism]:
    name = "a container that ends with its harness"
    try:
        held = _steps_in_container()
    except SandboxUnavailable as refusal:
        told = f"DOES NOT HOLD: {refusal.reason}; {refusal.remedy}"
        return [Mechanism(name, is_enforced=False, remedy=told)]
    inside = (Mechanism(f"inside: {step}", is_enforced=True) for step in held)
    return [Mechanism(name, is_enforced=True), *inside]


def _steps_in_container() -> list[str]:
    """Raises:
    SandboxUnavailable: no container can be had, or none that contains.
    """
    engine = Engine(Limits(), 1, Profile(), Tier.CONTAINER)
    try:
        return engine.steps_held
    finally:
        engine.close()


def _probe_sample(tier: Tier, room_holds: bool) -> list[Mechanism]:
    samples = _SAMPLES[tier] + _LIMITS
    if not room_holds:
        return [Mechanism(name, is_enforced=False, remedy=_NOT_TRIED) for name, *_ in samples]
    with Pool(Limits(cpu_s=0.2, wall_s=1.0), 1, tier=tier) as pool:
        executions = list(pool.run_all(program for _, program, _ in samples))
    return [
        Mechanism(name, is_enforced=True)
        if execution.ending is ending and (ending is not Ending.EXITED or execution.exit_code == 0)
        else Mechanism(name, is_enforced=False, remedy=_unexpected(execution))
        for (name, _, ending), execution in zip(samples, executions, strict=True)
    ]


def _unexpected(execution: Execution) -> str:
    return f"DOES NOT HOLD: its test ended otherwise ({execution.ending.value}); please report this"


def _probe_cgroups() -> Mechanism:
    name = "memory and processes of a whole program, counted together"
    found = cgroup.find_cgroups()
    if isinstance(found, cgroup.Cgroups):
        found.close()
        return Mechanism(name, is_enforced=True)
    told = (
        f"not there: {found.reason}; memory is bounded for each process only, and files, pipes and "
        f"socket buffers come on top (some 200 MB); {found.remedy}"
    )
    return Mechanism(name, is_enforced=False, remedy=told, is_needed=False)


def _probe_waiting() -> Mechanism:
    name = "waiting for a processor is not charged"
    if (_TASK / "schedstat").exists() and (_TASK / "children").exists():
        return Mechanism(name, is_enforced=True)
    told = (
        "not there: this kernel does not say how long a program waits (CONFIG_SCHED_INFO, "
        "CONFIG_PROC_CHILDREN); on a busy machine raise Limits.wall_s, or use fewer workers"
    )
    return Mechanism(name, is_enforced=False, remedy=told, is_needed=False)


def _missing(tier: Tier) -> str:
    """Why that tier cannot be had, and the remedy; empty if it can."""
    try:
        if tier is Tier.CONTAINER:
            _steps_in_container()
        else:
            with _room(tier) as room:
                room.wait_until_ready()
    except SandboxUnavailable as unavailable:
        return f"cannot be had: {unavailable.reason}; {unavailable.remedy}"
    return ""
