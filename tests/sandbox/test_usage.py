import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import Ending, Limits, Pool, Profile
from sandbox.cgroup import Group
from sandbox.usage import usage

SPIN = "while True: pass"


def test_cpu_time_of_children_counts_and_so_does_waiting():
    # Two loops on one processor: each waits about half of the time.
    forked = f"import os\nos.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nos.fork()\n"
    started_s = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", forked + SPIN]) as process:
        while (children := usage(process.pid, generations=1)).cpu_s < 0.2:
            assert time.monotonic() < started_s + 60
            time.sleep(0.05)
        used = usage(process.pid, generations=0)
        elapsed_s = time.monotonic() - started_s
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        process.kill()
    assert used.cpu_s > children.cpu_s
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not tell how long a process waits for a processor")
    assert 0.1 < used.run_delay_s < elapsed_s


def test_nothing_is_known_of_what_is_gone():
    assert usage(2**22 + 5, generations=0) == (0.0, 0.0)


@pytest.mark.usefixtures("needs_sandbox")
def test_whoever_takes_long_over_a_result_does_not_end_the_next_program():
    profile = Profile(processes=True)  # where the harness is asked early
    with Pool(Limits(cpu_s=0.5, wall_s=30), 2, profile=profile) as pool:
        executions = pool.run_all(["pass", "import time; time.sleep(3.5)"])
        next(executions)
        time.sleep(4)  # what comes next asks for more time now, and nobody answers
        assert next(executions).ending is Ending.EXITED


@pytest.mark.usefixtures("needs_sandbox")
def test_waiting_for_others_is_not_charged():
    """Its control: a program that waits by itself meets the limit."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(3 * os.cpu_count())]
    try:
        limits = Limits(cpu_s=1.5, wall_s=0.8)
        work = "import time\nwhile time.process_time() < 0.45: pass"
        with Pool(limits, 2) as pool:
            executions = [*pool.run_all([work, "import time; time.sleep(9)", work])]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert [e.ending for e in executions] == [
        Ending.EXITED,
        Ending.TIMED_OUT_WALL,
        Ending.EXITED,
    ]
    assert max(e.wall_s for e in executions) > 0.8  # or nothing was shown


@pytest.mark.parametrize("is_counted", [True, False], ids=["", "control"])
def test_children_that_nobody_waits_for_count_where_there_are_cgroups(
    is_counted, cgroups, needs_sandbox, monkeypatch
):
    if cgroups.new_group(1 << 30, 9).cpu_s() is None:
        pytest.skip("CPU time is not counted by groups here")
    if not is_counted:
        monkeypatch.setattr(Group, "cpu_s", lambda group: None)
    program = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets them, and what they used
for _ in range(75):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        while time.process_time() < 0.02: pass
        os._exit(0)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
"""
    with Pool(Limits(cpu_s=0.5, wall_s=60), 1, profile=Profile(processes=True)) as pool:
        (execution,) = pool.run_all([program])
    expected = Ending.TIMED_OUT_CPU if is_counted else Ending.EXITED
    assert execution.ending is expected
    assert (execution.cpu_s >= 0.5) is is_counted
