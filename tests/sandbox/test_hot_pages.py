"""What every sample writes to is copied by the fork; nobody but the zygote has a hand on that."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import Checks, Limits, Outcome, Pool

# Two pages of four are written to by both trials, one more by one of them.
FIND = """
import mmap, os
from sandbox import hot_pages
PAGE = os.sysconf("SC_PAGE_SIZE")
memory = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:] = b"." * (4 * PAGE)
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
pages = [start + PAGE * number for number in range(4)]

def write(*numbers):
    for number in numbers:
        memory[PAGE * number] = 0x21

hot_pages.find([lambda: write(0, 1, 2), lambda: write(1, 2)])
assert [page in hot_pages._found for page in pages] == [False, True, True, False]
assert memory[:] == b"." * (4 * PAGE)

def own_pages_of_a_fork():
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        os.read(told, 1)
        os._exit(0)
    entries = hot_pages._own_pages(pid)
    os.write(tell, b"!")
    os.waitpid(pid, 0)
    return [page in entries for page in pages]
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIND + program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def has_io_uring() -> bool:
    """Whether this user may have one."""
    setup = (
        "import ctypes, os\n"
        "os._exit(ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) < 0)"
    )
    return subprocess.run([sys.executable, "-c", setup], check=False).returncode == 0


needs_io_uring = pytest.mark.skipif(not has_io_uring(), reason="no io_uring for this user")


@needs_io_uring
def test_a_fork_copies_what_all_trials_wrote_to_and_nothing_else():
    run(
        """
assert own_pages_of_a_fork() == [False] * 4  # the control
assert hot_pages.pin() == len(hot_pages._found)
assert own_pages_of_a_fork() == [False, True, True, False]
"""
    )


@needs_io_uring
def test_what_a_fork_writes_to_a_copy_is_seen_by_nobody_else():
    run(
        """
hot_pages.pin()
for _ in range(2):
    if (pid := os.fork()) == 0:
        assert memory[:] == b"." * (4 * PAGE)
        write(0, 1, 2, 3)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
assert memory[:] == b"." * (4 * PAGE)
"""
    )


def test_where_less_may_be_locked_fewer_pages_are_copied():
    run(
        """
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
assert hot_pages.pin() <= 16 < len(hot_pages._found)
"""
    )


def test_a_trial_that_ends_early_finds_nothing():
    run(
        """
try:
    hot_pages.find([lambda: os._exit(0)])
except AssertionError as error:
    assert "trial" in str(error)
else:
    raise SystemExit("it was taken for a trial")
"""
    )


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at a room's descriptors")
@needs_io_uring
def test_the_ring_is_the_zygotes_alone():
    with Pool(Limits(cpu_s=5), 1) as pool:
        assert next(pool.run_all(["pass"])).exit_code == 0
        first = pool._engine._workers[0].room.process.pid
        (zygote,) = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
        assert rings(first) == []
        assert rings(zygote) == [5]
        work = ("import time\ndef f(): time.sleep(0.5)", Checks("assert f() is None"))
        jobs = pool.examine_as_completed([work])
        # The sample is looked at while it sleeps: the pool works only while it is asked for more.
        if (watcher := os.fork()) == 0:
            os._exit(_watch(zygote))
        ((_, examination),) = jobs
        assert examination.outcome is Outcome.HELD
        assert os.waitpid(watcher, 0)[1] == 0


def _watch(zygote: int) -> int:
    """0 if the zygote's next child has no ring, once it has taken its descriptors."""
    children = Path(f"/proc/{zygote}/task/{zygote}/children")
    while not (pids := children.read_text().split()):
        pass
    time.sleep(0.2)
    return int(rings(int(pids[0])) != [])


def rings(pid: int) -> list[int]:
    folder = Path(f"/proc/{pid}/fd")
    return [int(each.name) for each in folder.iterdir() if "io_uring" in str(each.readlink())]


@pytest.mark.usefixtures("needs_sandbox")
def test_a_room_does_without():
    """As where the kernel has no io_uring, or a container's policy refuses it."""
    program = """
from sandbox import Checks, Limits, Pool, incubation
incubation._BOOT = incubation._BOOT.replace(
    "incubator.main(", "from sandbox import syscalls\\n"
    "syscalls.NUMBERS['io_uring_setup'] = (9999, 9999)\\nincubator.main(")
with Pool(Limits(cpu_s=5), 1) as pool:
    (examination,) = pool.examine_all([("def f(): return 1", Checks("assert f() == 1"))])
    print(examination.outcome.value)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "held\n", done.stderr
