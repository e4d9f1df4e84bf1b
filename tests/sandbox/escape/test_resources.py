"""Programs that want to use more than their share."""

import os
import time
from dataclasses import replace

import pytest

from sandbox import Ending
from tests.sandbox.escape.attack import PRELUDE, Attack, catalogue
from tests.sandbox.escape.conftest import LIMITS, run_outside

# What is over these bounds inside is still little for the machine that the control runs on.
MEMORY = "bytearray(600 << 20)"
MAPPED = "mmap.mmap(-1, 600 << 20)"
SHARED = "mmap.mmap(-1, 600 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)"
FROM_A_DEVICE = "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 600 << 20, flags=mmap.MAP_PRIVATE)"
STACKS = """
threading.stack_size(128 << 20)
stop = threading.Event()
for _ in range(10): threading.Thread(target=stop.wait, daemon=True).start()
stop.set()
"""
BIG_FILE = """
with open("big", "wb") as file:
    for _ in range(8): file.write(bytes(1 << 20))
"""
BIG_FILES = """
for index in range(8):
    with open(f"{index}", "wb") as file: file.write(bytes(1 << 20))
"""
ALLOCATED = "os.posix_fallocate(os.open('big', os.O_CREAT | os.O_RDWR), 0, 8 << 20)"
HOLES = "os.truncate(os.open('holes', os.O_CREAT | os.O_RDWR), 1 << 30)"
MAPPED_FILE = """
# Pages of a file that has holes: there is room for it until they are touched.
names = [f"holes{index}" for index in range(8)]
for name in names:
    file = os.open(name, os.O_CREAT | os.O_RDWR)
    os.truncate(file, 1 << 20)
    mmap.mmap(file, 1 << 20)[:] = b"x" * (1 << 20)
"""
FILES = "for index in range(300): os.mkdir(f'{index}')"
LINKS = "open('file', 'w')\nfor index in range(300): os.link('file', f'{index}')"
SYMBOLIC = "for index in range(300): os.symlink('file', f'{index}')"
OPEN_FILES = """
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(300)]
"""
SOCKETS = OPEN_FILES.replace('os.open("/dev/null", os.O_RDONLY)', "socket.socketpair()")
PIPES = OPEN_FILES.replace('os.open("/dev/null", os.O_RDONLY)', "os.pipe()")
# Descriptors under way in a socket count for no process.
UNDER_WAY = """
def below():
    near, far = socket.socketpair()
    files = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 10)
    for _ in range(60): near.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    return near, far
below()
"""
SIGNALS = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
for _ in range(5000): syscall(200, 130, threading.get_native_id(), signal.SIGRTMIN)  # tkill
"""
TIMERS = """
timer = ctypes.c_void_p()
for _ in range(5000): call("timer_create", 0, None, ctypes.byref(timer))
"""
LARGE_PIPE = "fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 19)"
NO_QUOTA = "a folder of the host's has no bounds but those of each file"

ATTACKS = [
    Attack("takes memory", MEMORY, "out of memory"),
    Attack("maps memory", MAPPED, "Cannot allocate memory|out of memory"),
    Attack("maps shared memory", SHARED, "Cannot allocate memory|out of memory"),
    Attack("maps a device", FROM_A_DEVICE, "Cannot allocate memory|out of memory"),
    Attack("takes memory for stacks", STACKS, "can't start new thread"),
    Attack("writes a large file", BIG_FILE, "File too large|No space left"),
    Attack("writes many files", BIG_FILES, "No space left", full_only=NO_QUOTA),
    Attack("has a large file made", ALLOCATED, "File too large|No space left"),
    Attack("makes a file of holes", HOLES, "File too large"),
    Attack(
        "fills holes by mapping them",
        MAPPED_FILE,
        "signalled 7|No space left",
        full_only=NO_QUOTA,
    ),
    Attack("makes many folders", FILES, "No space left", full_only=NO_QUOTA),
    Attack("makes many links", LINKS, "No space left", full_only=NO_QUOTA),
    Attack("makes many symbolic links", SYMBOLIC, "No space left", full_only=NO_QUOTA),
    Attack("opens many files", OPEN_FILES, "Too many open files", rarely_works=True),
    Attack("opens many sockets", SOCKETS, "Too many open files", rarely_works=True),
    Attack("opens many pipes", PIPES, "Too many open files", rarely_works=True),
    Attack("keeps descriptors under way", UNDER_WAY, "Too many references|EPERM|not permitted"),
    Attack("queues signals", SIGNALS, "temporarily unavailable", rarely_works=True),
    Attack("makes timers", TIMERS, "temporarily unavailable", rarely_works=True),
    Attack("makes a pipe large", LARGE_PIPE, rarely_works=True),
]


@catalogue(ATTACKS)
def test_it_takes_more_outside_only(attack, attempt):
    attempt(attack)


def test_memory_that_was_refused_was_not_used(inside):
    assert inside("bytearray(1 << 30)").peak_memory_bytes < 1 << 29


@pytest.mark.parametrize(
    "program",
    [
        "held = []\nwhile True: held.append(bytearray(1 << 20))",
        "text = 'x'\nwhile True: text += text",
        "print([0] * 10 ** 12)",
    ],
    ids=["blocks", "text", "at once"],
)
def test_memory_is_bounded(program, inside):
    execution = inside(program)
    assert execution.ending is Ending.OUT_OF_MEMORY
    assert execution.peak_memory_bytes <= LIMITS.memory_bytes


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass",
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=spin).start()",
        "10 ** 10 ** 10",
        "import re; re.match('(a+)+b', 'a' * 60)",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import os\nwhile True: os.stat('/')",
        "import sys\nsys.setswitchinterval(1e9)\nwhile True: pass",
        "import atexit\ndef spin():\n    while True: pass\natexit.register(spin)",
        "class Spin:\n    def __del__(self):\n        while True: pass\nSpin()",
        "import resource\ntry: resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n"
        "except ValueError: pass\nwhile True: pass",
    ],
    ids=[
        "loop",
        "signal ignored",
        "signals blocked",
        "threads",
        "one long operation",
        "a regular expression",
        "errors swallowed",
        "in the kernel",
        "no switch of threads",
        "at exit",
        "when deleted",
        "a limit of its own behind ours",
    ],
)
def test_cpu_time_is_bounded(program, pool):
    limits = replace(LIMITS, cpu_s=0.1, wall_s=60)
    started_s = time.monotonic()
    execution = next(pool.run_all([(program, limits)]))
    assert time.monotonic() - started_s < 50  # how long the machine kept it waiting is not its own
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert limits.cpu_s <= execution.cpu_s < limits.cpu_s + 1


def test_an_endless_loop_is_judged_within_a_second_of_its_limit(pool):
    limits = replace(LIMITS, cpu_s=0.3)
    num_left = 3
    while num_left:
        started_s = time.monotonic()
        execution = next(pool.run_all([("while True: pass", limits)]))
        if time.monotonic() - started_s < limits.cpu_s + 1:
            break
        num_left -= 1  # a busy machine may do that, though not every time
    if not num_left and os.getloadavg()[0] > 2 * len(os.sched_getaffinity(0)):
        pytest.skip("the machine is too busy to tell")
    assert num_left
    assert execution.ending is Ending.TIMED_OUT_CPU


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(60)",
        "import threading; threading.Event().wait()",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); signal.pause()",
        "import signal; signal.sigwait([signal.SIGUSR1])",
        "import os; os.read(os.pipe()[0], 1)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()",
        "import atexit, time\natexit.register(time.sleep, 60)",
        "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "import select; select.select([], [], [])",
    ],
    ids=["sleep", "event", "stop", "signal", "pipe", "a thread", "at exit", "deadlock", "select"],
)
def test_waiting_is_bounded(program, pool):
    limits = replace(LIMITS, wall_s=0.2)
    started_s = time.monotonic()
    execution = next(pool.run_all([(program, limits)]))
    assert time.monotonic() - started_s < 30
    assert execution.ending is Ending.TIMED_OUT_WALL
    assert execution.cpu_s < 0.2


@pytest.mark.parametrize(
    "function", ["setrlimit", pytest.param("prlimit64", marks=pytest.mark.thorough)]
)
def test_a_lower_cpu_limit_of_its_own_makes_no_sample_look_lost(function, pool, caplog):
    place = "" if function == "setrlimit" else "0, "
    number = "160, 164" if function == "setrlimit" else "302, 261"
    program = f"""{PRELUDE}
limit = struct.pack("=2Q", 1, 1)
resource.getrlimit(resource.RLIMIT_CPU)
try: syscall({number}, {place}resource.RLIMIT_CPU, limit, None)
except PermissionError: pass
while True: pass
"""
    assert run_outside(program)[0] == -9  # the control: the kernel ends it
    execution = next(pool.run_all([(program, replace(LIMITS, cpu_s=1.2))]))
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert caplog.records == []


def test_the_kernel_kills_no_sample_for_its_cpu_time(pool):
    """It counts ticks: a program that is awake at these only is killed with next to no time used,
    as if somebody else had done it, and would be run again."""
    program = "import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))"
    assert run_outside(f"import resource; resource.setrlimit(0, (9, 9))\n{program}") == (0, "9 9\n")
    (execution,) = pool.run_all([program])
    longest_s = 1000 * LIMITS.wall_limit_s * os.cpu_count()  # whatever it had to wait
    assert [int(limit) > longest_s for limit in execution.output_tail.split()] == [True, True]


def test_many_threads_are_ended_at_their_limit_too(pool):
    """By the zygote alone, which looks the more often the more processors there are."""
    program = """
import hashlib, threading
def spin():
    while True: hashlib.sha256(bytes(1 << 20))
for _ in range(8): threading.Thread(target=spin).start()
"""
    execution = next(pool.run_all([(program, replace(LIMITS, cpu_s=0.5, wall_s=60))]))
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert 0.5 <= execution.cpu_s < 0.75


@pytest.mark.parametrize(
    "program",
    [
        "while True: print('x' * 1000)",
        "print('x' * 50_000_000)",
        "import os\nwhile True: os.write(2, bytes(65536))",
        "import os\nwhile True: os.writev(1, [bytes(65536)] * 16)",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        "import os\nos.lseek(1, 1 << 40, os.SEEK_SET)\nos.write(1, b'x')",
        "import threading\ndef write():\n    while True: print('x' * 1000)\n"
        "for _ in range(4): threading.Thread(target=write).start()",
    ],
    ids=["lines", "at once", "errors", "vectors", "error lines", "far away", "threads"],
)
def test_output_is_bounded(program, inside):
    execution = inside(program)
    assert execution.ending is Ending.TOO_MUCH_OUTPUT
    assert len(execution.output_head) <= 4096
    assert len(execution.output_tail) <= 4096


@pytest.mark.parametrize(
    "change",
    [
        "os.ftruncate(1, 1 << 30)",
        "os.ftruncate(1, 0)",
        "os.posix_fallocate(1, 0, 1 << 24)",
        "fcntl.fcntl(1, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)",
        "os.fchmod(1, 0)",
    ],
)
def test_the_memory_that_output_goes_to_stays_as_it_is(change, inside):
    program = f"import fcntl, os\nprint('first', flush=True)\n{change}"
    execution = inside(program)
    if "fchmod" not in change:
        assert execution.exit_code != 0
    assert execution.output_tail.startswith("first\n")


def test_a_program_that_goes_on_after_too_much_output_still_ends(pool):
    program = """
while True:
    try: print("x" * 1000)
    except OSError: pass
"""
    execution = next(pool.run_all([(program, replace(LIMITS, cpu_s=0.3))]))
    assert execution.ending is Ending.TIMED_OUT_CPU


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.write(1, bytes(range(256)) * 20)",
        "print('\\x1b]0;title\\x07\\x1b[2J' * 100)",
        "import os; os.write(1, b'\\xf0\\x9f' * 3000)",
        "import os; os.lseek(1, 0, 2); os.write(1, b'end')",
    ],
    ids=["all bytes", "control sequences", "half characters", "at the end"],
)
def test_any_output_can_be_read(program, inside):
    execution = inside(program)
    assert isinstance(execution.output_tail, str)
    execution.output_tail.encode("utf-8")


def test_standard_input_is_at_its_end_and_nobodys(inside):
    execution = inside("""
import os, sys
assert sys.stdin.read() == "" and os.read(0, 10) == b""
assert not os.isatty(0)
os.dup2(1, 0); os.close(0)
""")
    assert execution.exit_code == 0, execution.output_tail


def test_closed_descriptors_are_its_own_loss(pool):
    program = "import os\nos.closerange(0, 256)\nprint('unheard')"
    first, *following = pool.run_all([program, "print(1)", "print(1)"])
    assert first.output_tail == ""
    assert [execution.output_tail for execution in following] == ["1\n"] * 2
