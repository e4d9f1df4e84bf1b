"""Programs that want to start, end, stop, slow down or change processes."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import Ending, Pool
from tests.sandbox.escape import host
from tests.sandbox.escape.attack import REFUSED, Attack, catalogue
from tests.sandbox.escape.conftest import LIMITS, run_outside

NOBODY_THERE = "No such process"
STOPPED = "EPERM|Operation not permitted|No such process"  # a namespace hides, a filter refuses

CLONE = """
SIGCHLD = 17
pid = syscall(56, 220, SIGCHLD, 0, 0, 0, 0)
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
"""
# libc falls back to clone where there is no clone3; so threads work, and this does not.
CLONE3 = """
arguments = struct.pack("=8Q", 0, 0, 0, 0, 17, 0, 0, 0)  # exit signal SIGCHLD
pid = syscall(435, 435, arguments, len(arguments))
if pid == 0: os._exit(0)
os.waitpid(pid, 0)
"""
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.2)
        open(bait.folder + "/alive", "w")
    os._exit(0)
"""
QUEUED = """
info = ctypes.create_string_buffer(struct.pack("=iii", 0, 0, -1).ljust(128, b"\\0"), 128)
syscall(129, 138, bait.victim, 0, info)  # rt_sigqueueinfo
"""
BY_DESCRIPTOR = """
signal.pidfd_send_signal(os.pidfd_open(bait.victim), signal.SIGTERM)
"""
OTHER_LIMITS = """
resource.prlimit(bait.victim, resource.RLIMIT_CPU, (1, 1))
"""
SCRIBBLE = """
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(b"x", 1)
here, there = Vector(ctypes.addressof(buffer), 1), Vector(bait.victim_secret_at + 32, 1)
call("process_vm_writev", bait.victim, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
"""
MOVED = """
nodes = struct.pack("=Q", 1)
syscall(256, 238, bait.victim, 64, nodes, nodes)  # migrate_pages
"""
FIRST_TO_STAY = """
with open("/proc/self/oom_score_adj", "w") as file: file.write("500")
"""
SCHEDULED = """
attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, 19, 0, 0, 0, 0)
syscall(314, 274, bait.victim, attributes, 0)  # sched_setattr
"""
BORN_AGAIN = """
import subprocess
subprocess.run([sys.executable, "-c", ""], check=True)
"""
ROOT_AGAIN = """
os.setresuid(0, 0, 0)
"""

STARTS = [
    Attack("forks", "os.fork() or os._exit(0); os.wait()", "blocked"),
    Attack("runs a program", BORN_AGAIN, "blocked"),
    Attack("spawns", "os.posix_spawn(sys.executable, ['x', '-c', ''], {}); os.wait()", "blocked"),
    Attack("becomes a program", "os.execv(sys.executable, [sys.executable, '-c', ''])", "blocked"),
    Attack(
        "uses multiprocessing",
        "import multiprocessing as m\n"
        "p = m.get_context('fork').Process(); p.start(); p.join(); assert p.exitcode == 0",
        "blocked",
    ),
    Attack("forks by clone", CLONE, "blocked"),
    Attack("forks by clone3", CLONE3, "Function not implemented"),
    Attack("leaves a daemon", DAEMON, "blocked"),
    Attack("opens a shell", "assert os.system('exit 0') == 0", "AssertionError|blocked"),
    Attack("opens a terminal", "os.openpty()", "No such file|blocked", rarely_works=True),
]
NUMBERS = "the user's processes can be told by their numbers, and asked for what they are"

REACHES_OTHERS = [
    Attack("sees a process", "os.kill(bait.victim, 0)", STOPPED),
    Attack("sees the harness", "os.kill(bait.harness, 0)", STOPPED),
    Attack("sees a session", "os.getsid(bait.victim)", STOPPED, full_only=NUMBERS),
    Attack("sees a group", "os.getpgid(bait.victim)", STOPPED, full_only=NUMBERS),
    Attack("sees a policy", "os.sched_getscheduler(bait.victim)", STOPPED, full_only=NUMBERS),
    Attack("sees a priority", "os.getpriority(0, bait.victim)", STOPPED, full_only=NUMBERS),
    Attack("sees processors", "os.sched_getaffinity(bait.victim)", STOPPED, full_only=NUMBERS),
    Attack(
        "sees CPU time",
        "time.clock_gettime((~bait.victim << 3) | 2)",
        "Invalid argument",
        full_only=NUMBERS,
    ),
    Attack("reads limits", "resource.prlimit(bait.victim, resource.RLIMIT_AS)", STOPPED, True),
    Attack("ends a process", "os.kill(bait.victim, signal.SIGKILL)", STOPPED),
    Attack("stops a process", "os.kill(bait.victim, signal.SIGSTOP)", STOPPED),
    Attack("ends a group", "os.killpg(bait.victim, signal.SIGKILL)", STOPPED),
    Attack("ends a thread", "syscall(200, 130, bait.victim, 9)", STOPPED),
    Attack("ends a thread of a process", "syscall(234, 131, bait.victim, bait.victim, 9)", STOPPED),
    Attack("queues a signal", QUEUED, STOPPED),
    Attack("signals by descriptor", BY_DESCRIPTOR, STOPPED),
    Attack("limits a process", OTHER_LIMITS, STOPPED, rarely_works=True),
    Attack("slows down a process", "os.setpriority(os.PRIO_PROCESS, bait.victim, 19)", STOPPED),
    Attack("slows down a group", "os.setpriority(os.PRIO_PGRP, bait.victim, 19)", STOPPED),
    Attack(
        "moves a process", "os.sched_setaffinity(bait.victim, os.sched_getaffinity(0))", STOPPED
    ),
    Attack("schedules a process", SCHEDULED, STOPPED),
    Attack("slows down a process's disk", "syscall(251, 30, 1, bait.victim, 3 << 13)", STOPPED),
    Attack("writes another one's memory", SCRIBBLE, STOPPED, rarely_works=True),
    Attack("moves another one's memory", MOVED, STOPPED, rarely_works=True),
]
RISES = [
    Attack("becomes root", "os.setuid(0)", rarely_works=True),
    Attack("becomes root again", ROOT_AGAIN, rarely_works=True),
    Attack("joins a group", "os.setgroups([0])", rarely_works=True),
    Attack("rises in priority", "os.nice(-1)", "EPERM|not permitted|Permission", rarely_works=True),
    Attack(
        "becomes real-time",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        rarely_works=True,
    ),
    Attack("takes capabilities", "call('capset', b'\\x22\\5\\x08 \\0\\0\\0\\0', bytes(24))"),
    Attack("can be dumped", "call('prctl', 4, 1, 0, 0, 0)"),
    Attack("hears of its parent's end", "call('prctl', 1, 9, 0, 0, 0)"),
    Attack("adopts orphans", "call('prctl', 36, 1, 0, 0, 0)"),
    Attack("is spared when memory is short", FIRST_TO_STAY, "No such file", rarely_works=True),
    Attack("frees all its processors", "os.sched_setaffinity(0, range(1024))", REFUSED),
    *(
        Attack(
            f"raises its limit of {kind}",
            f"resource.setrlimit(resource.RLIMIT_{kind}, (resource.RLIM_INFINITY,) * 2)",
            "not allowed to raise maximum limit|not permitted",
            rarely_works=True,
        )
        for kind in ("AS", "CPU", "FSIZE", "NPROC", "CORE")  # STACK is within AS
    ),
]


@catalogue(STARTS)
def test_it_starts_processes_outside_only(attack, attempt):
    attempt(attack)


@catalogue(REACHES_OTHERS)
def test_it_reaches_processes_outside_only(attack, attempt):
    attempt(attack)


@catalogue(RISES)
def test_it_rises_outside_only(attack, attempt):
    attempt(attack)


def test_a_daemon_lives_on_outside_only(inside, bait_for):
    # Outside it does what it was left for only once its program has ended.
    bait = bait_for("")
    alive = Path(str(bait.known["folder"]), "alive")
    program = f"import os, time\nbait = type('', (), {bait.known!r})\n{DAEMON}"
    below = host.descendants(os.getpid())
    with host.orphans_adopted():
        assert run_outside(program)[0] == 0
        assert host.wait_until(alive.exists)
        host.end_all_but(below)
    alive.unlink()
    assert inside(program).exit_code != 0
    assert not host.wait_until(alive.exists, timeout_s=0.5)


def test_threads_that_nobody_waits_for_end_with_their_sample(pool):
    program = """
import threading, time
def write():
    while True: open("late", "w").close(); time.sleep(0.001)
for _ in range(4): threading.Thread(target=write, daemon=True).start()
"""
    look = "import os, time; time.sleep(0.05); assert os.listdir() == []"
    for _ in range(3):
        first, *following = pool.run_all([program, look, look])
        assert first.exit_code == 0
        assert [execution.exit_code for execution in following] == [0, 0]


@pytest.mark.parametrize(
    "target", ["0", "-1", "1", "os.getppid()", "-os.getpgrp()", "-os.getsid(0)"]
)
def test_signals_end_nobody_else(target, pool, caplog):
    program = f"""
import os, signal
for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
    try: os.kill({target}, number)
    except OSError: pass
"""
    executions = list(pool.run_all([program, "print('next')", "print('next')"]))
    assert [execution.output_tail for execution in executions[1:]] == ["next\n"] * 2
    assert caplog.records == []  # no worker was replaced


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True: os.fork()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: raise",
        "import subprocess, sys\nwhile True: subprocess.Popen([sys.executable, '-c', ''])",
        "import multiprocessing\nwhile True: multiprocessing.get_context('fork').Process().start()",
    ],
    ids=["forks", "forks and sees", "runs programs", "multiprocessing"],
)
def test_a_fork_bomb_is_over_at_once(program, pool):
    for _ in range(3):
        started_s = time.monotonic()
        execution = next(pool.run_all([program]))
        assert execution.ending is Ending.BLOCKED
        if time.monotonic() - started_s < 2:
            return  # a busy machine may be slower, though not every time
    raise AssertionError("it took longer")


def test_a_fork_bomb_that_swallows_every_error_is_over_in_time(pool):
    program = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    limits = replace(LIMITS, cpu_s=0.2)
    started_s = time.monotonic()
    execution = next(pool.run_all([(program, limits)]))
    assert time.monotonic() - started_s < 30
    assert execution.ending is Ending.TIMED_OUT_CPU


def test_threads_are_bounded_by_their_number_and_by_nothing_before(inside):
    """Their stacks and heaps reserve addresses, which a limit on memory counts."""
    program = """
import threading
stop = threading.Event()
started = 0
try:
    for _ in range(100):
        threading.Thread(target=stop.wait, daemon=True).start()
        started += 1
except RuntimeError as error:
    print(error)
stop.set()
print(started)
"""
    assert run_outside(program)[0] == 0
    *said, started = inside(program).output_tail.splitlines()
    assert said == ["can't start new thread"]
    assert LIMITS.max_processes - 4 <= int(started) < LIMITS.max_processes


def test_a_thread_bomb_is_over_in_time(pool):
    program = """
import threading, time
def split():
    while True:
        try: threading.Thread(target=split).start()
        except RuntimeError: time.sleep(0.001)
split()
"""
    limits = replace(LIMITS, cpu_s=0.3, wall_s=2)
    started_s = time.monotonic()
    execution = next(pool.run_all([(program, limits)]))
    assert time.monotonic() - started_s < 30
    assert execution.ending in (Ending.TIMED_OUT_CPU, Ending.TIMED_OUT_WALL)


def test_a_thread_with_a_namespace_or_without_a_group_is_refused(inside):
    program = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
clone = {"x86_64": 56, "aarch64": 220}[__import__("platform").machine()]
for flags in (0x10000000 | 17, 0x20000000 | 17, 0x10000 | 0x10000000, 17, 0x4000 | 0x100 | 17):
    assert libc.syscall(clone, flags, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM
"""
    execution = inside(program)
    assert execution.exit_code == 0, execution.output_tail


def test_the_sample_is_no_ones_root(inside):
    execution = inside("""
import os
assert 0 not in (os.getuid(), os.geteuid(), os.getgid(), os.getegid())
for act in (lambda: os.setuid(0), lambda: os.chown("/tmp", 0, 0), lambda: os.nice(-1)):
    try: act()
    except PermissionError: continue
    raise SystemExit("allowed")
""")
    assert execution.exit_code == 0, execution.output_tail


def test_a_room_of_root_is_nobody_on_the_host():
    with Pool(LIMITS, 1) as pool:
        (worker,) = pool._engine._workers
        assert next(pool.run_all(["pass"])).exit_code == 0
        first = worker.room.process.pid
        zygotes = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        assert zygotes
        for zygote in zygotes:
            status = Path(f"/proc/{zygote}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert "0" not in fields["Uid"].split()
            assert fields["NoNewPrivs"] == "1"
            assert fields["Seccomp"] == "2"
            assert int(fields["CapEff"], 16) in (0, 1 << 21)
