"""A room and one sample in it without a pool: for tests of what contains, and of nothing else."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import sandbox
from sandbox.plan import Plan

# The sample's standard output and error are the control socket, which the harness reads to its end.
# As in sandbox/room.py, the first process adopts what the room leaves behind, and ends after it.
_BOOT = """
import ctypes, os, sys, types
os.read(0, 1)  # begin
prctl = ctypes.CDLL(None).prctl
prctl(36, 1, 0, 0, 0)
first = os.getpid()
if os.fork():
    os.closerange(0, 1024)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            os._exit(0)
prctl(1, 9, 0, 0, 0)
if os.getppid() != first:
    os._exit(1)
package = types.ModuleType("sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["sandbox"] = package
import json, os, traceback
from sandbox import contain, shown
from sandbox.errors import SandboxUnavailable
from sandbox.plan import Plan
plan = Plan.from_json(sys.argv[2])
exec(sys.argv[4])
def say(**message):
    os.write(contain.CONTROL, json.dumps(message).encode() + b"\\n")
try:
    contain.contain_room(plan, lambda step: say(held=step))
except SandboxUnavailable as unavailable:
    say(unavailable=[unavailable.reason, unavailable.remedy])
    os._exit(1)
except BaseException:
    say(unavailable=[traceback.format_exc(), ""])
    os._exit(1)
sys.path += shown.package_path(plan)
os.chdir(plan.workspace or "/tmp" if not plan.for_checks else "/")
os.environ.update(PATH="/usr/bin:/bin", HOME=os.getcwd(), TMPDIR=os.getcwd())
steps = contain.sample_steps(plan, plan.limits)
pid = contain.fork_sample(plan, os.fork)
if pid == 0:
    contain.contain_sample(plan, steps)
    os.dup2(contain.CONTROL, 1)
    os.dup2(contain.CONTROL, 2)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    code = 1
    try:
        exec(sys.argv[3], {"__name__": "__main__"})
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else exit_.code is not None
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
_, status = os.waitpid(pid, 0)
say(status=os.waitstatus_to_exitcode(status))
os._exit(0)
"""


class Ran:
    """What came of it: steps held, the sample's exit code or signal, its output, or a refusal."""

    def __init__(self, text: str) -> None:
        self.held: list[str] = []
        self.unavailable: tuple[str, str] | None = None
        self.exit_code: int | None = None
        output = []
        for line in text.splitlines():
            try:
                message = json.loads(line)
                assert isinstance(message, dict)
            except (ValueError, AssertionError):
                output.append(line)
                continue
            if "held" in message:
                self.held.append(message["held"])
            elif "unavailable" in message:
                self.unavailable = tuple(message["unavailable"])
            elif "status" in message:
                self.exit_code = message["status"]
        self.output = "\n".join(output)

    def __str__(self) -> str:
        return f"exit code {self.exit_code}, refused: {self.unavailable}\n{self.output}"


def run_in_room(
    plan: Plan,
    program: str,
    *,
    interpreter: str | None = None,
    beforehand: str = "",
    on_start: Callable[[int], object] = lambda pid: None,
) -> Ran:
    """Contain as ``plan`` says and run ``program``; ``beforehand`` runs before containment, and
    ``on_start`` is given the number of the room's first process."""
    ours, theirs = socket.socketpair()
    folder = str(Path(sandbox.__file__).parent)
    chosen = interpreter or sys._base_executable  # type: ignore[attr-defined]
    command = [chosen, "-I", "-S", "-c", _BOOT, folder, plan.as_json(), program, beforehand]
    with ours:
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        on_start(process.pid)
        ours.sendall(b"\n")
        ours.settimeout(60)
        received = b"".join(iter(lambda: ours.recv(1 << 16), b""))
        process.wait(60)
    return Ran(received.decode("utf-8", "replace"))


def interpreter_for_all() -> str | None:
    """An interpreter that an ordinary user may run too; None where this one's folder is private."""
    for path in (sys._base_executable, "/usr/bin/python3"):  # type: ignore[attr-defined]
        resolved = Path(path).resolve()
        if resolved.exists() and all(
            parent.stat().st_mode & 0o005 == 0o005 for parent in resolved.parents
        ):
            asked = "import sys; sys.exit(sys.version_info < (3, 11))"
            if subprocess.run([path, "-I", "-S", "-c", asked], check=False).returncode == 0:
                return str(path)
    return None
