"""Inside a room: a warm interpreter that forks a child for every sample and sees it to its end.

It runs no program itself, keeps nothing of one, and has one thread. The harness speaks to it in
JSON over one socket of sequenced packets; a job brings descriptors along, by name: what to run,
where to write output, where to leave a note, where its calls come from. In the room where checks
run it forks desks instead (`sandbox.desk`), which the harness speaks to by itself.
"""

import functools
import gc
import importlib
import math
import os
import random
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import (
    beside,
    candidate,
    contain,
    desk,
    libc,
    namespaces,
    shown,
    wire,
)
from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits
from sandbox.messages import Message, receive, send
from sandbox.plan import Plan
from sandbox.tier import Tier

_MAX_DESCRIPTORS: Final = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 0
# What random.seed() comes to, as os.fork() has it done, without the way there.
_reseed: Final = super(random.Random, random.seed.__self__).seed  # type: ignore[attr-defined]
_DESKS_CONTROL: Final = 3  # after the standard streams, which are nobody's
# How long the harness may take to say whether a sample that was waiting had to wait for others. It
# answers between two results, so whoever uses it may be at work on one.
_ANSWER_S: Final = 600.0
_NUM_PROCESSORS: Final = os.cpu_count() or 1  # asked before /sys is gone
_LEAST_LOOK_S: Final = 0.005

# Threads of a numerical library would be there when the zygote forks, and missing in its samples.
_ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def main(control: socket.socket, plan: Plan) -> NoReturn:
    """Body of a room's process, forked from an incubator that is warm."""
    workspace = Path(plan.workspace or "/tmp")
    try:
        if plan.tier is not Tier.NONE:
            contain.contain_room(plan, lambda step: send(control, {"held": step}))
        elif plan.workspace is None:
            import tempfile  # compression libraries come with it, for every fork to map

            workspace = Path(tempfile.mkdtemp(prefix="sandbox-none-"))
        _settle_in(plan, workspace)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing runs
        _say_why(control, error)
    try:
        send(control, {"ready": True})
        if plan.for_checks:
            _serve_desks(control, plan)
        else:
            _serve_samples(control, plan, str(workspace))
    except BrokenPipeError:
        pass  # the harness is gone
    finally:
        if plan.tier is Tier.NONE:
            import shutil

            shutil.rmtree(workspace, ignore_errors=True)
    os._exit(0)


def _say_why(control: socket.socket, error: Exception) -> NoReturn:
    """Tell the harness that containment does not hold, and end this process."""
    if not isinstance(error, SandboxUnavailable):
        error = SandboxUnavailable(f"a step of containment failed: {error}", "report this")
    send(control, {"unavailable": [error.reason, error.remedy]})
    os._exit(1)


def _settle_in(plan: Plan, workspace: Path) -> None:
    """Find the folder and the environment that programs are to find, and the packages they may.

    Raises:
        SandboxUnavailable: a module that the profile names cannot be imported, or starts threads.
    """
    os.chdir("/" if plan.for_checks else workspace)
    path = "/usr/bin:/bin" if plan.profile.processes else ""
    os.environ.clear()
    os.environ.update(HOME=str(workspace), TMPDIR=str(workspace), LANG="C.UTF-8", PATH=path)
    _import_packages(plan)
    gc.collect()
    gc.freeze()


def _import_packages(plan: Plan) -> None:
    if not plan.profile.imports:
        return
    os.environ.update(_ONE_THREAD)
    sys.path += shown.package_path(plan)
    for name in plan.profile.imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SandboxUnavailable(
                f"cannot import {name} in the room ({error})",
                "install it where this runs, or leave it out of Profile.imports",
            ) from error
    try:
        libc.call("unshare", libc.CLONE_THREAD)  # refused to a process that has several
    except OSError as error:
        raise SandboxUnavailable(
            f"{', '.join(plan.profile.imports)} started threads, which no fork takes along",
            "leave out of Profile.imports what starts them on import",
        ) from error


def _serve_samples(control: socket.socket, plan: Plan, workspace: str) -> None:
    """Run samples until the harness is gone. ``workspace`` is the folder that they may write.

    Little is done between two samples, and most of it in C: after a fork each page that this
    process touches is copied for it, as for the sample.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    given: object = None  # the limits that `steps` enforce
    while (message := receive(control)) is not None:
        if "job" not in message.content:
            continue  # a stop that came after its sample's end
        if message.content["limits"] != given:
            given = message.content["limits"]
            limits = Limits(**message.content["limits"])
            steps, wall_limit_s = _steps(plan, limits), limits.wall_limit_s
        report = _run_sample(control, poll, plan, message, limits.cpu_s, wall_limit_s, steps)
        _empty(workspace)  # before the report: what it may cost is then charged to this job
        send(control, report)


def _run_sample(
    control: socket.socket,
    poll: select.poll,
    plan: Plan,
    job: Message,
    cpu_limit_s: float,
    wall_limit_s: float,
    steps: tuple[libc.Prepared, ...],
) -> dict[str, Any]:
    """Fork, wait until the sample ends or must, and say what it took."""
    places = _places(**job.descriptors)
    started_s = time.monotonic()
    pid = _fork(plan)
    if pid == 0:
        _contain(control, plan, places.to_spare, steps)
        _become_sample(job.content["role"], places)
    job.close()
    # The CPU time of several processes is seen by the harness only: it is asked early.
    soonest_s = cpu_limit_s / _NUM_PROCESSORS
    ask_at_s = started_s + (soonest_s if plan.profile.processes else wall_limit_s)
    cause = _wait(control, poll, pid, job.content["job"], cpu_limit_s, ask_at_s)
    _, status, usage = os.wait4(pid, 0)
    if cause == "stopped" and os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        cause = None  # it was ending by itself already
    return {
        "job": job.content["job"],
        "cause": cause,
        "status": status,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - started_s,
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }


def _steps(plan: Plan, limits: Limits) -> tuple[libc.Prepared, ...]:
    if plan.tier is Tier.NONE:
        return (libc.prepare("setsid"),)
    return contain.sample_steps(plan, limits)


def _fork(plan: Plan) -> int:
    # Packages may have asked for something to be done (os.register_at_fork).
    fork = os.fork if plan.profile.imports else libc.fork
    pid = fork() if plan.tier is Tier.NONE else contain.fork_sample(plan, fork)
    if pid == 0:
        _reseed()
    return pid


def _contain(control: socket.socket, plan: Plan, *calls: tuple[libc.Prepared, ...]) -> None:
    """Make calls in their order, the last of which are the steps of containment."""
    try:
        for each in calls[:-1]:
            libc.run(each)
        contain.contain_sample(plan, calls[-1])
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing runs
        _say_why(control, error)


def _wait(
    control: socket.socket,
    poll: select.poll,
    pid: int,
    number: int,
    cpu_s: float,
    ask_at_s: float,
) -> str | None:
    """Wait for the sample's end, or bring it about; what for, or None if it ended by itself.

    ``poll`` looks at ``control`` already.

    At the wall clock's limit the harness, which alone sees the machine, is asked whether the sample
    had to wait for others, and how much longer it may take for that.
    """
    wall_end_s, cpu_left_s = ask_at_s, cpu_s
    is_asked = False
    ended = os.pidfd_open(pid)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            wall_left_s = wall_end_s - time.monotonic()
            if cpu_left_s <= 0 or (wall_left_s <= 0 and is_asked):
                os.kill(pid, signal.SIGKILL)
                return "cpu" if cpu_left_s <= 0 else "wall"
            if wall_left_s <= 0:
                send(control, {"late": number})
                is_asked, wall_end_s, wall_left_s = True, wall_end_s + _ANSWER_S, _ANSWER_S
            # Threads on all processors cannot use up its time much sooner than this.
            look_s = max(cpu_left_s / _NUM_PROCESSORS, _LEAST_LOOK_S)
            events = dict(poll.poll(math.ceil(1000 * min(wall_left_s, look_s))))
            if ended in events:
                return None
            cpu_left_s = cpu_s - _cpu_s(pid)
            if not events:
                continue
            received = receive(control)
            if received is None or received.content.get("stop") == number:
                os.kill(pid, signal.SIGKILL)
                return "stopped"
            if received.content.get("more") == number:
                is_asked = False
                wall_end_s = time.monotonic() + received.content["s"]
                if received.content["s"] <= 0:
                    os.kill(pid, signal.SIGKILL)
                    return str(received.content["cause"])
    finally:
        poll.unregister(ended)
        os.close(ended)


def _cpu_s(pid: int) -> float:
    """CPU time of a child so far, from its clock (clock_getcpuclockid(3), which Python lacks)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has just ended
        return 0.0


def _become_sample(role: str, places: "_Places") -> NoReturn:
    code = 1
    try:
        libc.run(places.from_spare)
        os.closerange(places.num_taken, _MAX_DESCRIPTORS)
        descriptors = places.numbers
        orders = descriptors["orders"]
        source, *more = wire.parse(os.pread(orders, os.fstat(orders).st_size, 0))
        os.close(orders)
        match role:
            case "program":
                files, argv = more
                note = descriptors["note"]
                code = candidate.run_program(source, note, files=dict(files), argv=argv)
            case "live":
                candidate.serve(source, socket.socket(fileno=descriptors["stream"]))
            case "recorded" | "counted":
                calls = wire.Files(descriptors["requests"], descriptors["answers"])
                candidate.answer_recorded(source, calls, goes_on=role == "counted")
                code = 0
            case "beside":
                checks, names = more
                beside.run(source, checks, names, descriptors["note"])
                code = 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class _Places(NamedTuple):
    """How a sample's descriptors get to where it expects them: by way of numbers that nothing has,
    since a place may be where another one comes from."""

    to_spare: tuple[libc.Prepared, ...]
    from_spare: tuple[libc.Prepared, ...]
    numbers: dict[str, int]
    num_taken: int


@functools.lru_cache(maxsize=64)
def _places(**given: int) -> _Places:
    """Standard streams first, then the others; nothing else is to stay open.

    Standard input is empty and standard output goes where standard error does, unless given.
    """
    rest = [name for name in given if name not in ("stdin", "stdout", "output")]
    sources = [given.get("stdin"), given.get("stdout", given["output"]), given["output"]]
    sources += [given[name] for name in rest]
    spare = max(given.values()) + 1
    to_spare, from_spare = [], []
    for place, source in enumerate(sources):
        if source is None:
            # Opened anew each time: who has it may change its flags. It gets the lowest number.
            from_spare += [
                libc.prepare("close", place),
                libc.prepare("open", os.devnull.encode(), os.O_RDONLY),
            ]
        else:
            to_spare.append(libc.prepare("dup2", source, spare + place))
            from_spare.append(libc.prepare("dup2", spare + place, place))
    numbers = {name: number for number, name in enumerate(rest, 3)}
    return _Places(tuple(to_spare), tuple(from_spare), numbers, len(sources))


def _serve_desks(control: socket.socket, plan: Plan) -> None:
    """Fork desks and see them to their ends, until the harness is gone."""
    steps = _steps(plan, plan.limits)  # a desk keeps the time of checks itself
    numbers: dict[int, tuple[int, int]] = {}  # desk's number and process by its descriptor
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                number, pid = numbers.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                _, status = os.waitpid(pid, 0)
                send(control, {"ended": number, "status": status})
                continue
            message = receive(control)
            if message is None:
                return
            if "desk" in message.content:
                pid = _fork(plan)
                if pid == 0:
                    _become_desk(control, plan, steps, message.descriptors["desk"])
                message.close()
                descriptor = os.pidfd_open(pid)
                poll.register(descriptor, select.POLLIN)
                numbers[descriptor] = message.content["desk"], pid
            for number, pid in numbers.values():
                if number == message.content.get("end"):
                    os.kill(pid, signal.SIGKILL)


def _become_desk(
    control: socket.socket, plan: Plan, steps: tuple[libc.Prepared, ...], descriptor: int
) -> NoReturn:
    """The desk is a child of its namespace's init, for no timer's signal ends an init."""
    code = 1
    try:
        if pid := os.fork():
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))
            code = desk.exit_code(os.waitpid(pid, 0)[1])
        else:
            namespaces.die_with_parent()
            _contain(control, plan, steps)
            null = os.open(os.devnull, os.O_RDWR)
            high = os.dup(descriptor)
            for number in range(_DESKS_CONTROL):
                os.dup2(null, number)
            os.dup2(high, _DESKS_CONTROL)
            os.closerange(_DESKS_CONTROL + 1, os.sysconf("SC_OPEN_MAX"))
            desk.serve(socket.socket(fileno=_DESKS_CONTROL))
    finally:
        os._exit(code)


def _empty(workspace: str) -> None:
    """Leave nothing for the next sample, or end with an error: the worker is replaced then."""
    os.chmod(workspace, 0o700)  # noqa: PTH101 - a path costs more than all the rest
    if os.listdir(workspace):  # noqa: PTH208
        _remove_all(Path(workspace))
    os.utime(workspace, (0, 0))


def remove(workspace: str) -> None:
    """Remove the folder, when nothing runs there any more.

    Raises:
        OSError: it was removed already, or is not this user's.
    """
    _empty(workspace)
    os.rmdir(workspace)  # noqa: PTH106


def _remove_all(workspace: Path) -> None:
    """Empty a folder. Those in it are brought to its top before they are emptied: nested as deep as
    a sample may nest them, they are beyond recursion, open descriptors and the length of a path."""
    folders = [workspace]
    for folder in folders:
        for entry in [*os.scandir(folder)]:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(0o700)
                folders.append(path.rename(workspace / os.urandom(16).hex()))
            else:
                path.unlink()
        if folder is not workspace:
            folder.rmdir()
