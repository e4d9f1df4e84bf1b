import os
import time
from pathlib import Path

import pytest

from sandbox import Ending, Limits, Pool


def test_no_process_of_the_host_can_be_seen(inside, outside):
    program = f"import os; os.kill({os.getpid()}, 0)"
    assert outside(program).returncode == 0
    assert inside(program).exit_code != 0


def test_no_process_can_be_traced_or_read(inside, outside):
    program = "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0"
    assert outside(program).returncode == 0
    assert inside(program).exit_code != 0


@pytest.mark.parametrize(
    "program",
    [
        "import os; pid = os.fork(); pid or os._exit(0); os.wait()",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)",
        "import os, sys; os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {}); os.wait()",
        "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])",
        "import multiprocessing as m; p = m.get_context('fork').Process(); p.start(); p.join()",
    ],
    ids=["fork", "subprocess", "spawn", "exec", "multiprocessing"],
)
def test_no_process_can_be_started(program, inside, outside):
    control = outside(program)
    assert control.returncode == 0, control.stderr
    execution = inside(program)
    assert execution.ending is Ending.BLOCKED
    assert execution.exit_code == 1


def test_a_daemon_does_not_survive(tmp_path, inside, outside):
    program = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.2)
        open({str(tmp_path / "alive")!r}, "w")
        os._exit(0)
    os._exit(0)
"""
    tmp_path.chmod(0o777)
    assert outside(program).returncode == 0
    deadline_s = time.monotonic() + 10
    while not (tmp_path / "alive").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    (tmp_path / "alive").unlink()
    assert inside(program).exit_code != 0
    time.sleep(0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["0", "-1", "1", "os.getppid()", "-os.getpgrp()"])
def test_signals_end_nobody_else(target, caplog):
    with Pool(Limits(cpu_s=1), 1) as pool:
        program = f"""
import os, signal
for number in (signal.SIGTERM, signal.SIGKILL):
    try: os.kill({target}, number)
    except OSError: pass
"""
        executions = list(pool.run_all([program, "print('next')"]))
    assert executions[1].output_tail == "next\n"
    assert caplog.records == []  # no worker was replaced


def test_a_fork_bomb_is_over_at_once(inside):
    started_s = time.monotonic()
    execution = inside("import os\nwhile True:\n    try: os.fork()\n    except OSError: raise")
    assert execution.ending is Ending.BLOCKED
    assert time.monotonic() - started_s < 2


def test_threads_are_bounded(inside, outside):
    program = """
import threading
stop = threading.Event()
for _ in range(100):
    threading.Thread(target=stop.wait, daemon=True).start()
stop.set()
"""
    assert outside(program).returncode == 0
    assert "can't start new thread" in inside(program).output_tail


def test_no_descriptor_is_inherited(tmp_path, inside):
    program = """
import os
found = []
for descriptor in range(256):
    try: found.append((descriptor, os.fstat(descriptor).st_size))
    except OSError: pass
print([descriptor for descriptor, _ in found])
"""
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        with Pool(Limits(cpu_s=1), 1) as fresh:
            execution = next(fresh.run_all([program]))
    # Standard streams and the note; of the harness nothing.
    assert execution.output_tail == "[0, 1, 2, 4]\n"


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
    with Pool(Limits(cpu_s=5), 1) as pool:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        rooms = [
            child
            for parent in children
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ]
        assert rooms
        for room in rooms:
            status = Path(f"/proc/{room}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert "0" not in fields["Uid"].split()
            assert fields["NoNewPrivs"] == "1"
            assert fields["Seccomp"] == "2"
            assert int(fields["CapEff"], 16) in (0, 1 << 21)
        assert next(pool.run_all(["pass"])).exit_code == 0
