"""The same where new processes are allowed: they stay few and inside, and end with their sample."""

import os
import time
from dataclasses import replace

import pytest

from sandbox import Checks, Ending, Outcome, Pool, Profile
from tests.sandbox.escape import host
from tests.sandbox.escape.attack import PRELUDE
from tests.sandbox.escape.conftest import LIMITS, run_outside


@pytest.fixture(scope="module")
def pool(needs_sandbox, secrets_of_the_harness):
    """With a CPU limit under which an interpreter can be started on a busy machine."""
    with Pool(replace(LIMITS, cpu_s=2), 1, profile=Profile(processes=True)) as made:
        yield made


@pytest.fixture
def inside(pool):
    return lambda program: next(pool.run_all([PRELUDE + program]))


# Each ends with exit code 0 if the child that it starts got what it wanted.
CHILDS_ACTS = {
    "reads a file": "open('/etc/passwd')",
    "lists processes": "os.listdir('/proc/1')",
    "connects": "socket.socket().connect(('127.0.0.1', 9))",
    "makes a socket": "socket.socket(1)",
    "writes elsewhere": "open('/usr/bin/new', 'w')",
    "makes a namespace": "call('unshare', 0x10000000)",
    "makes a namespace by clone": "syscall(56, 220, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0)",
    "mounts": "call('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)",
    "traces its parent": "call('ptrace', 0x4206, os.getppid(), None, None)",
    "makes itself dumpable": "call('prctl', 4, 1, 0, 0, 0)",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
    "becomes root": "os.setuid(0)",
    "makes a file in memory": "os.memfd_create('x')",
    "uses io_uring": "syscall(425, 425, 8, ctypes.create_string_buffer(120))",
}


@pytest.mark.parametrize("how", ["forked", "executed"])
@pytest.mark.parametrize("act", CHILDS_ACTS.values(), ids=CHILDS_ACTS.keys())
def test_a_child_is_contained_as_its_parent_is(act, how, inside):
    if how == "executed":
        program = f"""
import subprocess
program = {PRELUDE + act!r}
sys.exit(subprocess.run([sys.executable, "-I", "-S", "-c", program]).returncode)
"""
    else:
        program = f"""
pid = os.fork()
if pid == 0:
    try: {act}
    except BaseException as error: print(error, flush=True); os._exit(1)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    execution = inside(program)
    assert execution.exit_code == 1, execution
    told = ("No such file", "not permitted", "Read-only", "Permission denied", "not allowed")
    assert any(each in execution.output_tail for each in told), execution.output_tail


def test_control_a_child_can_do_what_it_may(inside):
    execution = inside("""
import multiprocessing, subprocess
def double(x): return 2 * x
assert subprocess.run(["/bin/sh", "-c", "echo $((6 * 7))"], capture_output=True).stdout == b"42\\n"
ran = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True)
assert ran.stdout == b"42\\n"
with multiprocessing.get_context("fork").Pool(2) as workers:
    assert workers.map(double, [1, 2, 3]) == [2, 4, 6]
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, b"x")
    os._exit(3)
assert os.read(read, 1) == b"x" and os.waitstatus_to_exitcode(os.wait()[1]) == 3
""")
    assert execution.exit_code == 0, execution.output_tail


def test_no_setuid_program_gives_rights(inside):
    execution = inside("""
import glob, stat, subprocess
setuid = [path for path in glob.glob("/usr/bin/*") + glob.glob("/bin/*")
          if os.path.exists(path) and os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID)]
assert all(os.statvfs(path).f_flag & os.ST_NOSUID for path in setuid)
print("Uid", os.getuid())
for path in setuid:
    if path.endswith("/su"): subprocess.run([path, "-c", "id"], stdin=subprocess.DEVNULL)
""")
    assert execution.exit_code == 0, execution.output_tail
    assert "uid=0" not in execution.output_tail


DAEMON = """
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        while True: time.sleep(0.01); open("alive", "w")
    os._exit(0)
"""


@pytest.mark.parametrize("end", ["pass", "os._exit(3)", "ctypes.string_at(0)", "while True: pass"])
def test_nothing_goes_on_after_its_sample(end, pool):
    limits = replace(pool.limits, cpu_s=0.5)
    before = len(host.descendants(os.getpid()))
    look = "import os, time\ntime.sleep(0.1)\nassert os.listdir() == []"
    started_s = time.monotonic()
    _, following = pool.run_all([(f"{PRELUDE}{DAEMON}{end}", limits), look])
    assert following.exit_code == 0, following.output_tail
    assert time.monotonic() - started_s < 30
    assert host.wait_until(lambda: len(host.descendants(os.getpid())) <= before)


def test_a_child_that_holds_the_output_keeps_nobody_waiting(inside):
    started_s = time.monotonic()
    execution = inside("os.fork() == 0 and time.sleep(60)\nprint('parent')")
    assert execution.output_tail == "parent\n"
    assert time.monotonic() - started_s < 30


BOMBS = {
    "forks": "while True: os.fork()",
    "forks and goes on": "while True:\n    try: os.fork()\n    except OSError: pass",
    "forks and leaves": "while True:\n    if os.fork(): os._exit(0)",
    "forks and waits": "while True:\n    if os.fork(): os.wait()",
    "runs itself": """
import subprocess
while True: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9)"])
""",
    "runs a shell": "os.system('b() { b | b & }; b; wait')",
    "zombies": "while True:\n    if os.fork() == 0: os._exit(0)",
    "threads in children": """
def spin():
    while True: pass
while True:
    if os.fork() == 0:
        for _ in range(9): threading.Thread(target=spin).start()
""",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_over_in_time_and_small_meanwhile(bomb, pool):
    limits = replace(pool.limits, cpu_s=0.3, wall_s=1)
    before = len(host.descendants(os.getpid()))
    started_s = time.monotonic()
    _, following = pool.run_all([(PRELUDE + bomb, limits), "print('next')"])
    assert time.monotonic() - started_s < 30
    assert following.output_tail == "next\n"
    assert host.wait_until(lambda: len(host.descendants(os.getpid())) <= before)


def test_a_fork_bomb_is_judged_at_once(pool):
    for _ in range(3):
        started_s = time.monotonic()
        execution = next(pool.run_all([PRELUDE + BOMBS["forks"]]))
        assert execution.ending is Ending.TOO_MANY_PROCESSES
        if time.monotonic() - started_s < 2:
            return  # a busy machine may be slower, though not every time
    raise AssertionError("it took longer")


def test_processes_are_counted(inside):
    execution = inside("""
number = 0
try:
    while True:
        if os.fork() == 0: time.sleep(10); os._exit(0)
        number += 1
except BlockingIOError:
    print(number)
""")
    assert 1 <= int(execution.output_tail) <= LIMITS.max_processes


def test_signals_to_everybody_reach_only_its_own(inside, pool, caplog):
    for target in ("0", "-1", "1", "-os.getpgrp()"):
        inside(f"""
for _ in range(3): os.fork() or time.sleep(5)
for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    try: os.kill({target}, number)
    except OSError: pass
""")
        assert next(pool.run_all(["print('next')"])).output_tail == "next\n"
    assert caplog.records == []


@pytest.mark.parametrize(
    "program",
    [
        "if os.fork() == 0:\n    while True: pass\nos.wait()",
        "while True:\n    if os.fork() == 0:\n        while time.process_time() < 0.1: pass\n"
        "        os._exit(0)\n    os.wait()",
        "import subprocess\nsubprocess.run([sys.executable, '-c', 'while True: pass'])",
    ],
    ids=["a child", "one after another", "a program"],
)
def test_the_cpu_time_of_children_counts(program, pool):
    limits = replace(pool.limits, cpu_s=0.5, wall_s=60)
    started_s = time.monotonic()
    execution = next(pool.run_all([(PRELUDE + program, limits)]))
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert time.monotonic() - started_s < 30


def test_the_memory_of_children_counts(pool):
    # Each takes half of what one may.
    program = f"""
for _ in range(8):
    if os.fork() == 0:
        held = bytearray({LIMITS.memory_bytes // 2})
        for at in range(0, len(held), 4096): held[at] = 1
        time.sleep(3)
        os._exit(0)
for _ in range(8): assert os.wait()[1] == 0
"""
    if pool._engine._workers[0].room._group is None:
        pytest.skip("no cgroup can be had here")
    execution = next(pool.run_all([PRELUDE + program]))
    assert execution.exit_code != 0


def test_checks_beside_processes_are_not_fooled(pool):
    program = """
import os
def square(x):
    if os.fork(): os._exit(0)  # the child goes on
    return None
"""
    checks = Checks("assert square(2) == 4")
    forged, right = pool.examine_all([(program, checks), ("def square(x): return 4", checks)])
    assert forged.outcome is not Outcome.HELD
    assert right.outcome is Outcome.HELD


def test_a_child_answers_no_call_twice(pool):
    program = """
import os
def f(x):
    os.fork()  # both go on, and both answer
    return x
"""
    checks = Checks("assert [f(1), f(2), f(3)] == [1, 2, 4]")
    assert next(pool.examine_all([(program, checks)])).outcome is not Outcome.HELD


def test_without_the_profile_there_are_none(needs_sandbox):
    program = "import os; os.fork() or os._exit(0); os.wait()"
    assert run_outside(program)[0] == 0
    with Pool(LIMITS, 1, profile=Profile()) as pool:
        assert next(pool.run_all([program])).ending is Ending.BLOCKED
