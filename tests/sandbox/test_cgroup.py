"""Limits of a whole group, each with its control: the same program in no group."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import cgroup

MIB = 1 << 20


def run_in(group, program):
    """Run a program that begins once it is in the group (None: in no group of ours)."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"input()\n{program}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if group is not None:
            group.add(process.pid)
        process.communicate("\n", timeout=60)
    return process.returncode


def left_over(folders, pid):
    return [path for folder in folders for path in Path(folder).glob(f"sandbox-{pid}-*")]


def wait_until(condition, seconds=20):
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


PIPES = """
import fcntl, os
ends = []
for _ in range(100):
    ends += os.pipe()
    os.set_blocking(ends[-1], False)
    try: fcntl.fcntl(ends[-1], 1031, 1 << 20)
    except OSError: pass
    try: os.write(ends[-1], bytes(1 << 20))
    except BlockingIOError: pass
"""
SOCKETS = """
import socket
pairs = []
for _ in range(500):
    pairs.append(socket.socketpair())
    pairs[-1][0].setblocking(False)
    try:
        while True: pairs[-1][0].send(bytes(1 << 16))
    except BlockingIOError: pass
"""
CHILDREN = """
import os
until, end = os.pipe()
ready, said = os.pipe()
for _ in range(4):
    if os.fork() == 0:
        os.close(end)
        held = bytearray(20 << 20)
        os.close(said)
        os.read(until, 1)
        os._exit(0)
os.close(said)
os.read(ready, 1)  # the end comes when each of them holds its part, or is dead
os.close(end)
for _ in range(4): os.wait()
"""


@pytest.mark.parametrize(
    "program",
    ["bytearray(96 << 20)", PIPES, SOCKETS, CHILDREN],
    ids=["a process", "pipes", "socket buffers", "children"],
)
def test_memory_of_all_kinds_is_bounded_together(program, cgroups):
    group = cgroups.new_group(48 * MIB, 16)
    try:
        assert run_in(None, program) == 0
        assert group.num_oom_kills() == 0
        code = run_in(group, program)
        assert code == -signal.SIGKILL or program == CHILDREN
        assert group.num_oom_kills() > 0
    finally:
        group.close()


def test_files_of_a_tmpfs_are_counted(cgroups):
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("no tmpfs to write at /dev/shm")
    file = shared / f"sandbox-test-{os.getpid()}"
    program = f"open({str(file)!r}, 'wb').write(bytes(1 << 20) * 40)"
    group = cgroups.new_group(32 * MIB, 16)
    try:
        assert run_in(None, program) == 0
        file.unlink()
        assert run_in(group, program) == -signal.SIGKILL
        assert group.num_oom_kills() == 1
    finally:
        file.unlink(missing_ok=True)
        group.close()


def test_processes_and_threads_are_counted_together(cgroups):
    program = """
import os, threading
go = threading.Event()
threads = [threading.Thread(target=go.wait, daemon=True) for _ in range(6)]
children = []
try:
    for thread in threads: thread.start()
    for _ in range(6):
        pid = os.fork()
        if pid == 0: os.read(0, 1), os._exit(0)
        children.append(pid)
except (OSError, RuntimeError): os._exit(7)
"""
    group = cgroups.new_group(256 * MIB, 10)
    try:
        assert run_in(None, program) == 0
        assert run_in(group, program) == 7
    finally:
        group.close()


def test_closing_removes_all_that_was_made():
    found = cgroup.find_cgroups()
    if isinstance(found, cgroup.Unavailable):
        pytest.skip(f"{found.reason}; {found.remedy}")
    folders = found._hierarchy.folders
    before = set(left_over(folders, os.getpid()))  # of a pool that other tests share
    groups = [found.new_group(64 * MIB, 8) for _ in range(3)]
    assert len(set(left_over(folders, os.getpid())) - before) == 3 * len(folders)
    groups[0].close()
    found.close()  # the janitor removes the others
    assert set(left_over(folders, os.getpid())) == before


HARNESS = """
import subprocess, sys, time
from sandbox import cgroup
found = cgroup.find_cgroups()
group = found.new_group(64 << 20, 8)
room = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
                        stdin=subprocess.PIPE)
group.add(room.pid)
print(*found._hierarchy.folders, flush=True)
time.sleep(60)
"""


def killed_harness(janitor_too):
    """A harness killed while it has a group with a process in it; the folders, and its number."""
    harness = subprocess.Popen([sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, text=True)
    folders = harness.stdout.readline().split()
    assert len(left_over(folders, harness.pid)) == len(folders)
    if janitor_too:
        children = Path(f"/proc/{harness.pid}/task/{harness.pid}/children").read_text().split()
        (janitor,) = (
            int(pid) for pid in children if "sandbox-" in Path(f"/proc/{pid}/cmdline").read_text()
        )
        os.kill(janitor, signal.SIGKILL)
    harness.kill()
    harness.wait()
    harness.stdout.close()
    return folders, harness.pid


@pytest.mark.usefixtures("cgroups")
def test_nothing_stays_behind_a_harness_that_was_killed():
    folders, pid = killed_harness(janitor_too=False)
    wait_until(lambda: left_over(folders, pid) == [])


def test_what_the_dead_left_is_swept_and_nothing_else(cgroups):
    own = cgroups.new_group(64 * MIB, 8)
    folders, pid = killed_harness(janitor_too=True)

    def swept():
        cgroup.find_cgroups().close()
        return left_over(folders, pid) == []

    assert left_over(folders, pid) != []
    wait_until(swept)
    assert left_over(folders, os.getpid()) != []
    own.close()


# Version 2 cannot be had on every machine: what is held there is which files are read and written.


@pytest.fixture
def v2(tmp_path, monkeypatch):
    """A folder with the files of a delegated cgroup, and a /proc that says this process is in it.

    A stand-in: nothing is limited, and unlike the kernel's its folders are removed with files.
    """
    own = tmp_path / "sys" / "scope"
    real_mkdir, real_rmdir = os.mkdir, os.rmdir

    def mkdir(path, *arguments, **named):
        real_mkdir(path, *arguments, **named)
        if Path(path).is_relative_to(own):
            furnish(Path(path))

    def rmdir(path):
        for file in Path(path).iterdir():
            file.unlink()
        real_rmdir(path)

    def furnish(folder):
        for name in ("memory.max", "memory.swap.max", "pids.max", "cgroup.procs", "cgroup.type"):
            (folder / name).write_text("")
        (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
        (folder / "pids.events").write_text("max 5\n")

    own.mkdir(parents=True)
    furnish(own)
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.procs").write_text(f"{os.getpid()}\n")
    process = tmp_path / "proc" / "self"
    process.mkdir(parents=True)
    (process / "cgroup").write_text("0::/user.slice/scope\n")
    (process / "mountinfo").write_text(
        f"30 23 0:26 /user.slice {tmp_path}/sys rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    for pid in (os.getpid(), os.getppid()):
        (tmp_path / "proc" / str(pid)).symlink_to(f"/proc/{pid}")
    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "rmdir", rmdir)
    return own, process


def test_v2_limits_a_group_in_a_delegated_cgroup(v2):
    own, process = v2
    with cgroup.find_cgroups(process) as found:
        assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
        assert (own / "sandbox-harness" / "cgroup.procs").read_text() == str(os.getpid())
        group = found.new_group(64 * MIB, 8)
        (made,) = own.glob(f"sandbox-{os.getpid()}-*")
        group.add(4242)
        written = {name: (made / name).read_text() for name in ("memory.max", "memory.swap.max")}
        assert written == {"memory.max": str(64 * MIB), "memory.swap.max": "0"}
        assert (made / "pids.max").read_text() == "8"
        assert (made / "cgroup.procs").read_text() == "4242"
        assert group.num_oom_kills() == 2
        group.close()
        assert list(own.glob(f"sandbox-{os.getpid()}-*")) == []


def test_v2_finds_its_way_back_from_the_harness_own_cgroup(v2):
    own, process = v2
    with contextlib.closing(cgroup.find_cgroups(process)):
        pass
    (process / "cgroup").write_text("0::/user.slice/scope/sandbox-harness\n")
    (own / "cgroup.subtree_control").write_text("memory pids")
    with contextlib.closing(cgroup.find_cgroups(process)) as found:
        assert found._hierarchy.folders == [own]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda own: (own / "cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n"), "live"),
        (lambda own: (own / "cgroup.controllers").write_text("cpu pids\n"), "not delegated"),
        (lambda own: (own / "cgroup.controllers").unlink(), "cannot be read"),
    ],
)
def test_v2_is_left_alone_where_it_is_not_ours(change, reason, v2):
    own, process = v2
    change(own)
    refused = cgroup.find_cgroups(process)
    assert isinstance(refused, cgroup.Unavailable)
    assert reason in refused.reason
    assert list(own.glob("sandbox-*")) == []
    assert (own / "cgroup.subtree_control").read_text() == ""


def test_without_cgroups_the_reason_is_told(tmp_path):
    (tmp_path / "cgroup").write_text("")
    (tmp_path / "mountinfo").write_text("")
    refused = cgroup.find_cgroups(tmp_path)
    assert isinstance(refused, cgroup.Unavailable)
    assert "no cgroups are mounted" in refused.reason


@pytest.mark.usefixtures("cgroups")
def test_a_janitor_that_is_stopped_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(cgroup, "_JANITOR_S", 0.2)
    groups = cgroup.find_cgroups()
    group = groups.new_group(1 << 30, 9)
    janitor = groups._janitor
    os.kill(janitor.pid, signal.SIGSTOP)
    groups.close()
    assert janitor.returncode == -signal.SIGKILL
    assert not any(folder.exists() for folder in group._folders)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cpuacct.usage", "1500000000\n"), ("cpu.stat", "usage_usec 1500000\nuser_usec 7\n")],
)
def test_cpu_time_is_read_as_either_version_tells_it(name, content, tmp_path):
    hierarchy = cgroup._Hierarchy(
        memory=tmp_path,
        pids=tmp_path,
        memory_limit="",
        swap_limit="",
        swap_with_memory=False,
        memory_events="",
        cpu=tmp_path,
    )
    group = cgroup.Group(hierarchy, "one")
    assert group.cpu_s() is None
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / name).write_text(content)
    assert group.cpu_s() == 1.5
