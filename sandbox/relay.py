"""In a container: an engine with one worker, which answers the harness over standard streams.

It runs no program itself. What keeps a program from it, and from its streams, is the room inside:
one with namespaces where the container may make them, else one without. Where the kernel has no
Landlock either, the container's own walls must do: then there must be nothing in it to write but
the one folder that is emptied after each program. What is enforced is told when it is ready.
"""

import contextlib
import os
import platform
import re
import select
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from sandbox import frames, incubator, namespaces
from sandbox.contain import ROOM_STEPS
from sandbox.engine import Engine
from sandbox.errors import SandboxUnavailable
from sandbox.execution import Ending
from sandbox.jobs import Job, RunJob
from sandbox.limits import Limits
from sandbox.profile import Profile
from sandbox.program import Program
from sandbox.tier import Tier

assert incubator  # imported so that its compiled form is there for the rooms before it is sealed

_MAX_ORDER_BYTES: Final = (1 << 32) - 1
_TRIAL: Final = -1  # no job of the harness has this number
# File systems that are the kernel's own, or hold no content.
_NO_CONTENT: Final = frozenset(("proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"))
_MAX_LOOKED_AT: Final = 10_000

# What only a room stands in the way of where everything has the same user.
_ATTEMPTS: Final = """
import os
relay, folder = {relay}, {folder!r}
def is_refused(act):
    try:
        act()
    except OSError:
        return True
    return False
try:
    others = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
except OSError:
    others = [relay]
for pid in {{*others}} - {{os.getpid()}}:
    assert is_refused(lambda: os.kill(pid, 0)), pid
    assert is_refused(lambda: open(f"/proc/{{pid}}/mem", "rb")), pid
    assert is_refused(lambda: os.readlink(f"/proc/{{pid}}/exe")), pid
assert is_refused(lambda: os.chmod(folder, 0o700))
assert is_refused(lambda: open(f"{{folder}}/new", "x"))
assert is_refused(lambda: open(f"{{folder}}/relay.py", "r+"))
"""


def main(package: str, workspace: str) -> NoReturn:
    """Body of a container's first process: read and answer until the harness is gone.

    ``package`` is the folder that this code lies in, ``workspace`` one that programs may write.
    """
    namespaces.forbid_tracing()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process has no default
    _seal(Path(package))
    # Whatever else writes to standard output is not to be read as a message.
    stream = _Stream(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        engine = _open_engine(stream.receive(), package, workspace)
    except SandboxUnavailable as unavailable:
        stream.send({"unavailable": [unavailable.reason, unavailable.remedy]})
        sys.exit(0)
    try:
        inside = f"the {engine.tier.value} tier, by Python {platform.python_version()}"
        stream.send({"ready": [inside, *engine.steps_held]})
        _serve(stream, engine)
    except ConnectionError:
        pass  # the harness is gone
    finally:
        engine.close()
    sys.exit(0)


def _seal(package: Path) -> None:
    """Let nothing of this code be changed, as far as it is ours to say so."""
    for path in [*package.rglob("*"), package]:
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o555 if path.is_dir() else 0o444)


class _Stream:
    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self._sink = sink
        self._reader = frames.Reader(_MAX_ORDER_BYTES)

    def send(self, content: dict[str, Any]) -> None:
        """Raises:
        ConnectionError: the harness is gone.
        """
        data = memoryview(frames.frame(content))
        while data:
            data = data[os.write(self._sink, data) :]

    def read(self) -> list[dict[str, Any]]:
        """The messages that are complete. Raises as `send` does."""
        data = os.read(self.source, 1 << 20)
        if not data:
            raise ConnectionError
        return self._reader.feed(data)

    def receive(self) -> dict[str, Any]:
        """The first message; there is no second one before it was answered."""
        while not (messages := self.read()):
            pass
        return messages[0]


def _open_engine(begin: dict[str, Any], package: str, workspace: str) -> Engine:
    """An engine with the strongest tier that can be had here.

    Raises:
        SandboxUnavailable: none can.
    """
    limits = Limits(**begin["limits"])
    processes, imports = begin["profile"]["processes"], tuple(begin["profile"]["imports"])
    profile = Profile(processes=processes, imports=imports)
    workspace = _own_folder(workspace)
    refusals = []
    for tier in (Tier.FULL, Tier.RESTRICTED):
        engine = None
        try:
            engine = Engine(limits, 1, profile, tier, workspace=workspace)
            _require_that_it_holds(engine, tier, package, workspace)
        except SandboxUnavailable as refusal:
            if engine is not None:
                engine.close()
            refusals.append(refusal)
        else:
            return engine
    full, restricted = refusals
    told = f"not full: {full.reason}; not restricted: {restricted.reason}"
    raise SandboxUnavailable(told, restricted.remedy)


def _own_folder(workspace: str) -> str:
    """The workspace, if it is empty and this user's own; else a folder in it. It will be emptied
    time and again."""
    folder = Path(workspace)
    if folder.stat().st_uid == os.geteuid() and not any(folder.iterdir()):
        return workspace
    return tempfile.mkdtemp(dir=workspace)


def _require_that_it_holds(engine: Engine, tier: Tier, package: str, workspace: str) -> None:
    """Raises:
    SandboxUnavailable: a program could reach what it must not.
    """
    needed = {step.name for step in ROOM_STEPS[tier] if not step.is_second_layer}
    if not needed <= {*engine.steps_held}:
        _require_walls(workspace)
    attempts = Program(_ATTEMPTS.format(relay=os.getpid(), folder=package))
    trial = RunJob(_TRIAL, Limits(), tier, attempts)
    engine.submit(trial)
    while trial.result is None:
        engine.step()
    if trial.result.ending is not Ending.EXITED or trial.result.exit_code != 0:
        said = " ".join(trial.result.output_tail.split())
        raise SandboxUnavailable(f"programs are not kept from their judge ({said})", "report this")


def _require_walls(workspace: str) -> None:
    """Raises:
    SandboxUnavailable: there is something else to write than the workspace.
    """
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        # See proc(5): the fields before the hyphen vary in number.
        place, _, source = line.partition(" - ")
        point, options = place.split()[4:6]
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if "rw" not in options.split(",") or point == workspace:
            continue
        if source.split()[0] not in _NO_CONTENT and (found := _writable(Path(point))):
            raise SandboxUnavailable(
                f"without Landlock, programs may be able to write {found}",
                "a kernel with Landlock (Linux 6.2 or newer) is needed, "
                "or docker, and an image without volumes",
            )


def _writable(point: Path) -> Path | None:
    """What can be written there, or may be, since there is so much to look at."""
    paths = [point]
    for path in paths:
        if len(paths) > _MAX_LOOKED_AT or _can_write(path):
            return path
        with contextlib.suppress(OSError):
            if not path.is_symlink():
                paths += path.iterdir()
    return None


def _can_write(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:  # nor can it be reached
        return False
    return (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and os.access(path, os.W_OK)


def _serve(stream: _Stream, engine: Engine) -> None:
    """Raises:
    ConnectionError: the harness is gone.
    """
    job: Job[Any] | None = None
    said_at_s = 0.0
    poll = select.poll()
    poll.register(stream.source, select.POLLIN)
    poll.register(engine.fileno(), select.POLLIN)
    while True:
        due_s = min(engine.late_at_s, time.monotonic() + frames.PULSE_S)
        ready = dict(poll.poll(1000 * max(0.0, due_s - time.monotonic())))
        for message in stream.read() if stream.source in ready else ():
            if "stop" in message:
                engine.abandon()
                job = None
            else:
                job = frames.job_of(message, engine.tier)
                engine.submit(job)
                said_at_s = time.monotonic()
        for done in engine.step(0.0):
            stream.send(frames.result_of(done))
            job = None
        if job is not None and time.monotonic() - said_at_s >= frames.PULSE_S:
            stream.send({"job": job.number, "pulse": True})
            said_at_s = time.monotonic()
