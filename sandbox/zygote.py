"""Inside a room: a warm interpreter that forks a child for every sample and sees it to its end.

It runs no program itself, keeps nothing of one, and has one thread. The harness speaks to it in
JSON over one socket of sequenced packets; a job brings descriptors along: what to run, where to
write output, where to leave a note, and (for a program with checks) the stream between the two.
"""

import contextlib
import gc
import importlib
import json
import math
import os
import secrets
import select
import shutil
import signal
import site
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from sandbox import candidate, checker, contain, namespaces
from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits

_MAX_MESSAGE_BYTES: Final = 1 << 16
_MAX_DESCRIPTORS: Final = 4

# What programs import most: a first import costs a sample more than all the rest of its run.
_WARM: Final = """
abc array ast asyncio base64 bisect calendar cmath collections.abc contextlib copy csv dataclasses
datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers
operator os queue random re secrets statistics string struct sys tempfile textwrap threading time
traceback types typing unicodedata unittest uuid
""".split()  # noqa: SIM905
_WARM_PROGRAM: Final = '''
from typing import List, Optional
import math
class Node:
    def __init__(self, value: int = 0, **rest: object) -> None:
        self.value, self.rest = value, {**rest}
def work(numbers: List[float], limit: Optional[int] = None) -> bool:
    """Exercise the parser, the compiler and the interpreter once."""
    try:
        for index, number in enumerate(numbers):
            if index != limit and abs(number - 1.5) < 0.25 or not number % 2:
                return any(x for x in [y ** 2 for y in numbers] if x)
        while limit: limit -= 1
        with open("/dev/null") as file: file.read()
        raise ValueError(f"{numbers!r:>10} {sorted({'a': 1}.items(), key=lambda pair: pair[1])}")
    except (ValueError, TypeError) as error:
        return isinstance(error, ValueError)
    finally:
        limit = None
assert work([1, 3], 2) and Node(1, a=2).value == 1 and math.sqrt(4) == 2.0
'''


def main(limits_json: str, contained: str) -> NoReturn:
    """Body of a room's process. ``contained`` is "yes" or "no"."""
    control = socket.socket(fileno=contain.CONTROL)
    limits = Limits(**json.loads(limits_json))
    workspace = Path("/tmp")
    with _or_say_why(control):
        if contained == "yes":
            contain.contain_room(limits, lambda step: _send(control, {"held": step}))
        else:
            workspace = Path(tempfile.mkdtemp(prefix="sandbox-none-"))
    try:
        _serve(control, workspace, contained=contained == "yes")
    except BrokenPipeError:
        pass  # the harness is gone
    finally:
        if contained == "no":
            shutil.rmtree(workspace, ignore_errors=True)
    os._exit(0)


@contextlib.contextmanager
def _or_say_why(control: socket.socket) -> Iterator[None]:
    """Tell the harness where containment does not hold, and end this process."""
    try:
        yield
    except SandboxUnavailable as unavailable:
        _send(control, {"unavailable": [unavailable.reason, unavailable.remedy]})
        os._exit(1)
    except OSError as error:
        _send(control, {"unavailable": [f"a step of containment failed: {error}", "report this"]})
        os._exit(1)


def _serve(control: socket.socket, workspace: Path, *, contained: bool) -> None:
    """Run jobs until the harness is gone. ``workspace`` is the folder that samples may write."""
    _warm_up()
    os.chdir(workspace)
    os.environ.clear()
    os.environ.update(HOME=str(workspace), TMPDIR=str(workspace), LANG="C.UTF-8", PATH="")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    _send(control, {"ready": True})
    while (job := _receive(control)) is not None:
        message, descriptors = job
        if "job" not in message:
            continue  # a stop that came after its sample's end
        report = _run_sample(control, message, descriptors, contained)
        _empty(workspace)  # before the report: what it may cost is then charged to this job
        _send(control, report)


def _warm_up() -> None:
    """Import, parse and run what samples will; then keep the collector off what all share."""
    for name in _WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    site.setquit()  # exit() and quit(), which -S leaves out
    exec(compile(_WARM_PROGRAM, "warm.py", "exec"), {"__name__": "warm"})
    # What is imported stays; programs need not find it, nor is it there to be imported again.
    for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def _run_sample(
    control: socket.socket, job: dict[str, Any], descriptors: list[int], contained: bool
) -> dict[str, Any]:
    """Fork, wait until the sample ends or must, and say what it took."""
    limits = Limits(**job["limits"])
    started_s = time.monotonic()
    pid = namespaces.fork_into_pid_namespace() if contained else os.fork()
    if pid == 0:
        with _or_say_why(control):
            contain.contain_sample(limits) if contained else os.setsid()
        _become_sample(job["role"], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    cause = _wait(control, pid, job["job"], limits, started_s)
    _, status, usage = os.wait4(pid, 0)
    if cause == "stopped" and os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        cause = None  # it was ending by itself already
    return {
        "job": job["job"],
        "cause": cause,
        "status": status,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - started_s,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def _wait(
    control: socket.socket, pid: int, number: int, limits: Limits, started_s: float
) -> str | None:
    """Wait for the sample's end, or bring it about; what for, or None if it ended by itself."""
    ended = os.pidfd_open(pid)
    try:
        while True:
            wall_left_s = started_s + limits.wall_limit_s - time.monotonic()
            cpu_left_s = limits.cpu_s - _cpu_s(pid)
            if cpu_left_s <= 0 or wall_left_s <= 0:
                os.kill(pid, signal.SIGKILL)
                return "cpu" if cpu_left_s <= 0 else "wall"
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(control, select.POLLIN)
            # One thread cannot use up its time sooner than this; many can, and RLIMIT_CPU is there.
            events = dict(poll.poll(math.ceil(1000 * min(wall_left_s, cpu_left_s))))
            if ended in events:
                return None
            if events:
                received = _receive(control)
                if received is None or received[0].get("stop") == number:
                    os.kill(pid, signal.SIGKILL)
                    return "stopped"
    finally:
        os.close(ended)


def _cpu_s(pid: int) -> float:
    """CPU time of a child so far, from its clock (clock_getcpuclockid(3), which Python lacks)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has just ended
        return 0.0


def _become_sample(role: str, descriptors: list[int]) -> NoReturn:
    code = 1
    try:
        orders, note, *stream = _arrange(descriptors)
        task = json.loads(os.pread(orders, os.fstat(orders).st_size, 0))
        os.close(orders)
        if role == "program":
            code = candidate.run_program(task["source"], note)
        elif role == "candidate":
            os.close(note)
            candidate.serve(task["source"], socket.socket(fileno=stream[0]))
        else:
            channel = socket.socket(fileno=stream[0])
            checker.run_checks(task["source"], tuple(task["names"]), channel, note)
            code = 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _arrange(descriptors: list[int]) -> list[int]:
    """Standard streams first, then orders, note and (if any) stream; nothing else stays open."""
    orders, output, *rest = descriptors
    null = os.open(os.devnull, os.O_RDONLY)
    wanted = [null, output, output, orders, *rest]
    # By way of numbers that none of them has yet: a target may be another one's source.
    high = [os.dup(descriptor) for descriptor in wanted]
    for target, source in enumerate(high):
        os.dup2(source, target)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))
    return list(range(3, len(wanted)))


def _empty(workspace: Path) -> None:
    """Leave nothing for the next sample, or end with an error: the worker is replaced then.

    Folders are brought to the top before they are emptied: nested as deep as a sample may nest
    them, they are beyond recursion, open descriptors and the length of a path.
    """
    workspace.chmod(0o700)
    folders = [workspace]
    for folder in folders:
        for entry in [*os.scandir(folder)]:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(0o700)
                folders.append(path.rename(workspace / secrets.token_hex(16)))
            else:
                path.unlink()
        if folder is not workspace:
            folder.rmdir()
    os.utime(workspace, (0, 0))


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode("ascii"))


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors; None when the harness is gone."""
    try:
        data, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS)
    except ConnectionResetError:
        return None
    return (json.loads(data), descriptors) if data else None
