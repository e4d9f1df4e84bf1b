import ast
import contextlib
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import (
    Checks,
    Ending,
    Heard,
    Incubators,
    Limits,
    Outcome,
    Pool,
    Profile,
    Program,
    SandboxUnavailable,
    Tier,
    examine,
    run,
)
from sandbox.engine import Engine
from sandbox.jobs import ExamineJob
from sandbox.pool import Setting
from sandbox.room import Room
from sandbox.worker import Worker

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")


def descendants(pid):
    """All processes below one, as the host sees them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            child, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        found.append((int(child), int(rest.rpartition(")")[2].split()[1])))
    below = {pid}
    for _ in found:
        below |= {child for child, parent in found if parent in below}
    return below - {pid}


def num_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until(condition, timeout_s=10.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.02)


def test_executions_come_in_order_whatever_they_take(pool):
    programs = [f"import time; time.sleep({0.1 * (i % 3)}); print({i})" for i in range(12)]
    assert [e.output_tail for e in pool.run_all(programs)] == [f"{i}\n" for i in range(12)]


def test_as_completed_brings_the_fast_ones_first(pool):
    programs = ["import time; time.sleep(0.5)", *["pass"] * 4]
    positions = [position for position, _ in pool.run_as_completed(programs)]
    assert sorted(positions) == [0, 1, 2, 3, 4]
    assert positions[-1] == 0


def test_no_more_is_taken_than_can_be_worked_on_and_held(pool):
    taken = itertools.count()
    programs = (f"print({next(taken)})" for _ in range(10_000))
    results = pool.run_all(programs)
    next(results)
    results.close()
    assert next(taken) <= 32 * pool.num_workers + 1


def test_an_iteration_left_early_leaves_the_pool_usable(pool):
    for _ in pool.run_all(["pass", *["import time; time.sleep(60)"] * 3]):
        break
    gc.collect()
    started_s = time.monotonic()
    assert next(pool.run_all(["print(1)"])).output_tail == "1\n"
    assert time.monotonic() - started_s < 30


def test_two_iterations_at_once_are_refused(pool):
    first = pool.run_all(["pass"] * 3)
    next(first)
    with pytest.raises(ValueError, match="at work already"):
        next(pool.run_all(["pass"]))
    first.close()


def test_limits_may_differ_by_program(pool):
    loop = "while True: pass"
    limits = Limits(cpu_s=0.1, tmp_bytes=pool.limits.tmp_bytes, tmp_files=pool.limits.tmp_files)
    (execution,) = pool.run_all([(loop, limits)])
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert execution.cpu_s < 0.5
    with pytest.raises(ValueError, match="tmp_bytes"):
        next(pool.run_all([(loop, Limits())]))


def test_a_worker_that_dies_is_replaced_and_its_program_run_again():
    before = descendants(os.getpid())
    with (
        contextlib.closing(Incubators()) as incubators,
        Pool(Limits(cpu_s=5), 1, incubators=incubators) as pool,
    ):
        all_of_it = descendants(os.getpid()) - before
        threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGKILL) for pid in all_of_it]).start()
        executions = list(pool.run_all(["import time; time.sleep(1); print(1)", "print(2)"]))
    assert [execution.output_tail for execution in executions] == ["1\n", "2\n"]


def test_a_program_that_takes_its_worker_along_twice_is_given_up(monkeypatch):
    # No program known to us does; so whatever is handed this one is ended from outside.
    start = Room.start

    def start_and_lose(room, job, role, limits, descriptors):
        start(room, job, role, limits, descriptors)
        if limits.cpu_s == 5:
            room.process.kill()

    monkeypatch.setattr(Room, "start", start_and_lose)
    with Pool(Limits(cpu_s=1), 1) as pool:
        programs = [("import time; time.sleep(30)", Limits(cpu_s=5)), "print(2)"]
        lost, following = pool.run_all(programs)
        assert lost.ending is Ending.CRASHED
        assert following.output_tail == "2\n"
        checks = Checks("assert f() == 1")
        program = "import time\ntime.sleep(30)\ndef f(): return 1"
        (examination,) = pool.examine_all([(program, checks, Limits(cpu_s=5))])
        assert examination.outcome is Outcome.ENDED
        assert examination.execution.ending is Ending.CRASHED


def kill_samples(times):
    """Kill what runs in our rooms, but not the rooms, so many times: as the host would."""

    def kill():
        for _ in range(times):
            wait_until(lambda: samples())
            for pid in samples():
                with contextlib.suppress(ProcessLookupError):  # it ended by itself
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: pid not in samples())

    threading.Thread(target=kill).start()


def samples():
    """A room that begins is no sample: only a sample is in a namespace within its room's."""
    within = namespaces_of(os.getpid()) + 2
    return {pid for pid in descendants(os.getpid()) if namespaces_of(pid) == within}


def namespaces_of(pid):
    """How many namespaces of processes know the process; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return len(re.search(r"^NSpid:(.*)$", status, re.MULTILINE)[1].split())


def test_a_sample_killed_from_outside_is_run_again(caplog):
    with Pool(Limits(cpu_s=5), 1) as pool:
        kill_samples(times=1)
        (execution,) = pool.run_all(["import time; time.sleep(1); print(1)"])
        assert execution.output_tail == "1\n"
        assert "killed from outside" in caplog.text


def test_a_sample_killed_from_outside_twice_is_no_fault_of_its_memory():
    with Pool(Limits(cpu_s=5), 1) as pool:
        kill_samples(times=2)
        (execution,) = pool.run_all(["import time; time.sleep(30)"])
        assert execution.ending is Ending.CRASHED


# How many files its room has seen: the only thing known to us that a sample leaves there.
NUMBER_OF_FILES = """
import os
import re
def number():
    with open("new", "w") as file: status = os.fstat(file.fileno())
    os.unlink("new")
    return status.st_ino
"""


COLLECTING = "bad = [x for x, y in ((1, 2), (2, 4)) if f(x) != y]\nassert not bad"
LOOPS = "def f(x):\n    while x == 2: pass\n    return {}"
QUICK = "def f(x): return {} if x == 1 else 4"


@pytest.mark.parametrize("counts", [False, True])
def test_a_second_run_has_to_answer_what_the_first_did(counts):
    """It may have seen what tells of its first answer. (As the numbers that the machine gives to
    pipes can tell the second run.)"""
    checks = Checks(COLLECTING, counts=counts)
    with Pool(Limits(cpu_s=0.3), 1) as pool:
        wrong, right = pool.examine_all([(LOOPS.format(3), checks), (LOOPS.format(2), checks)])
        assert wrong.execution.ending is Ending.TIMED_OUT_CPU
        assert len({wrong.heard, right.heard, None}) == 3
        after_wrong, after_right = (replace(checks, heard=each.heard) for each in (wrong, right))
        longer = replace(checks, heard=Heard(1 << 20, "0" * 64))
        runs = [
            (QUICK.format(2), checks),  # the control
            (QUICK.format(2), after_wrong),
            (QUICK.format(3), after_wrong),
            (QUICK.format(2), after_right),
            (QUICK.format(2), longer),
            (LOOPS.format(2), after_right),
        ]
        control, now_right, still_wrong, still_right, shorter, still_loops = pool.examine_all(runs)
    assert control.outcome is still_right.outcome is Outcome.HELD
    assert now_right.outcome is shorter.outcome is Outcome.RAISED
    assert "other answers than when it was run before" in now_right.detail
    assert shorter.detail == now_right.detail
    assert still_wrong.outcome is Outcome.FAILED
    assert still_loops.execution.ending is Ending.TIMED_OUT_CPU
    assert still_loops.heard == right.heard


def test_what_is_asked_whatever_the_answers_need_not_be_answered_again():
    asserts = "assert f(1) == 2\nassert f(2) == 4"
    ours = Checks(COLLECTING, are_live=True)
    with Pool(Limits(cpu_s=0.3), 1) as pool:
        for found in pool.examine_all(
            [(LOOPS.format(2), Checks(asserts)), (LOOPS.format(2), ours)]
        ):
            assert found.execution.ending is Ending.TIMED_OUT_CPU
            assert found.heard is None


@pytest.mark.parametrize("is_renewed", [True, False])
def test_what_is_run_again_finds_another_room(is_renewed, monkeypatch):
    if not is_renewed:  # the control: the second run can tell
        monkeypatch.setattr(Worker, "renew_room", lambda worker: None)
    program = f"""{NUMBER_OF_FILES}
first = number()
for _ in range(500): number()
import time; time.sleep(1.5)
print(first)
"""
    with Pool(Limits(cpu_s=5), 1) as pool:
        kill_samples(times=1)
        (execution,) = pool.run_all([program])
    assert (int(execution.output_tail) < 500) is is_renewed


@pytest.mark.parametrize("is_renewed", [True, False])
def test_what_is_run_live_after_its_answers_finds_another_room(is_renewed, monkeypatch):
    """Its first run was asked all that the second will be."""
    if not is_renewed:
        monkeypatch.setattr(Worker, "renew_room", lambda worker: None)
    program = f"""{NUMBER_OF_FILES}
knows = number() > 500
def f(x):
    if knows: return 9
    if len(x) == 2:
        for _ in range(500): number()
    x.append(0)  # what is asked next is not what was recorded
"""
    checks = Checks("x = [6]\nf(x)\nx.append(8)\nassert f(x) == 9")
    with Pool(Limits(cpu_s=5), 1) as pool:
        (examination,) = pool.examine_all([(program, checks)])
    assert (examination.outcome is Outcome.HELD) is not is_renewed


def kill_sample(room):
    """As the host would."""
    path = "/proc/{0}/task/{0}/children"
    zygote = int(Path(path.format(room.process.pid)).read_text())
    os.kill(int(Path(path.format(zygote)).read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("lose", "counts"),
    [(kill_sample, False), (kill_sample, True), (lambda room: room.process.kill(), False)],
    ids=["sample", "counted sample", "room"],
)
@pytest.mark.parametrize("is_kept", [True, False])
def test_what_the_desk_has_found_stands_whatever_is_lost_then(lose, counts, is_kept, monkeypatch):
    starts = []
    start = Room.start
    monkeypatch.setattr(Room, "start", lambda *given: starts.append(1) or start(*given))
    monkeypatch.setattr(Room, "stop", lambda room, job: lose(room))
    if not is_kept:
        monkeypatch.setattr(ExamineJob, "_is_decided", False)
    checks = Checks("assert f(1) == 2\nassert f(2) == 2", are_live=True, counts=counts)
    with Pool(Limits(cpu_s=5), 1) as pool:
        (examination,) = pool.examine_all([("def f(x): return x", checks)])
    assert len(starts) == (1 if is_kept else 2)
    if is_kept:
        assert examination.outcome is Outcome.FAILED
        assert examination.execution.ending is Ending.STOPPED
        assert examination.counts == ((1, 2) if counts else None)


def test_a_limit_of_the_harness_itself_looks_like_nobodys_doing():
    """As set by ``ulimit -t``: the kernel kills every sample that reaches it."""
    harness = textwrap.dedent("""
        import resource
        from sandbox import Limits, run
        resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
        print(run("while True: pass", Limits(cpu_s=9)).ending.value)
    """)
    ran = subprocess.run(
        [sys.executable, "-c", harness], capture_output=True, text=True, check=False
    )
    assert ran.stdout == f"{Ending.TIMED_OUT_CPU.value}\n"
    assert "killed from outside" not in ran.stderr


def test_checks_killed_from_outside_are_run_again():
    program = "def f(): return 1"
    checks = Checks("import time\ntime.sleep(1)\nassert f() == 1")
    with Pool(Limits(cpu_s=5), 1) as pool:
        before = descendants(os.getpid())
        next(pool.examine_all([(program, Checks(""))]))  # the checks' room is open now
        desk = max(descendants(os.getpid()) - before)
        threading.Timer(0.5, lambda: os.kill(desk, signal.SIGKILL)).start()
        (examination,) = pool.examine_all([(program, checks)])
        assert examination.outcome is Outcome.HELD


def test_nothing_is_left_when_a_pool_is_closed():
    before = descendants(os.getpid())
    descriptors = num_descriptors()
    mounts = Path("/proc/self/mounts").read_text()
    with Pool(Limits(cpu_s=5), 2) as pool:
        list(pool.examine_all([("def f(): return 1", Checks("assert f() == 1"))] * 10))
        iteration = pool.run_all(["import time; time.sleep(60)"] * 3)
        threading.Timer(0.2, pool._engine._workers[0].room.process.kill).start()
        del iteration
    wait_until(lambda: descendants(os.getpid()) <= before)
    assert num_descriptors() == descriptors
    assert Path("/proc/self/mounts").read_text() == mounts


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_harness_is_ended(number):
    harness = textwrap.dedent("""
        import signal
        from sandbox import Limits, Pool
        # Ignored where the tests run in the background of a shell.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Pool(Limits(cpu_s=60), 2) as pool:
            print("ready", flush=True)
            list(pool.run_all(["import time; time.sleep(600)", "while True: pass"]))
    """)
    with subprocess.Popen(
        [sys.executable, "-c", harness],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: len(descendants(process.pid)) >= 6)
        below = descendants(process.pid)
        process.send_signal(number)
        process.wait(10)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_many_samples_leave_no_descriptor_behind(pool):
    jobs = [("def f(x): return x", Checks("assert f(1) == 1"))] * 40
    list(pool.examine_all(jobs))
    descriptors = num_descriptors()
    for examination in pool.examine_all(jobs * 2):
        assert examination.outcome is Outcome.HELD
    assert num_descriptors() == descriptors


def test_one_program_alone():
    execution = run("print('out'); import sys; print('err', file=sys.stderr); sys.exit(3)")
    assert (execution.ending, execution.exit_code) == (Ending.EXITED, 3)
    assert execution.output_tail == "out\nerr\n"
    assert execution.isolation == "full"
    assert examine("def f(): return 1", Checks("assert f() == 1")).outcome is Outcome.HELD


def test_without_a_sandbox_it_is_said_loud_and_in_every_execution(caplog, tmp_path):
    tmp_path.chmod(0o777)
    program = f"open({str(tmp_path / 'file')!r}, 'w').write('x'); open('here', 'w')"
    execution = run(program, Limits(cpu_s=5), unsafe_no_sandbox=True)
    assert execution.exit_code == 0, execution.output_tail
    assert execution.isolation == "none"
    assert "NO SANDBOX" in caplog.text
    assert (tmp_path / "file").read_text() == "x"
    examination = examine("def f(x): return x", Checks("assert f(1) == 1"), unsafe_no_sandbox=True)
    assert examination.outcome is Outcome.HELD
    assert examination.execution.isolation == "none"


def test_without_a_sandbox_too_what_runs_is_ended_with_its_pool(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = descendants(os.getpid())
    with Pool(Limits(cpu_s=5), 1, unsafe_no_sandbox=True) as pool:
        iteration = pool.run_all(["pass", "import time; time.sleep(60)"])
        next(iteration)
    wait_until(lambda: descendants(os.getpid()) <= before)


@pytest.mark.parametrize("text", ["ä€😀", "\ud800"])
def test_any_source_text_can_be_run(text, pool):
    (execution,) = pool.run_all([f"print(ascii({text!r}))"])
    assert execution.output_tail.strip() == ascii(text)


def test_a_closed_pool_says_so():
    with Pool(Limits(cpu_s=1), 1) as pool:
        under_way = pool.run_all(["pass"] * 3)
        next(under_way)
    with pytest.raises(ValueError, match="this pool is closed; make another"):
        list(under_way)
    with pytest.raises(ValueError, match="this pool is closed; make another"):
        list(pool.run_all(["pass"]))
    with pytest.raises(ValueError, match="this pool is closed; make another"):
        list(pool.examine_as_completed([("pass", Checks(""))]))


def test_a_pool_may_be_closed_twice():
    with Pool(Limits(cpu_s=1), 1) as pool:
        list(pool.examine_all([("def f(): return 1", Checks("assert f() == 1"))]))
        pool.close()
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # descriptors just let go
    pool.close()
    for descriptor in taken:
        os.close(descriptor)


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_where_there_is_no_linux_it_is_said_before_anything_is_tried(system, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.delattr("os.sched_getaffinity")
    with pytest.raises(SandboxUnavailable, match=f"{system} has no namespaces; run this in"):
        Pool()


def test_a_job_that_fails_takes_no_other_along():
    setting = Setting(None, Profile(), Tier.FULL, False)
    engine = Engine(setting.limits, 2, setting.profile, setting.tier)
    try:
        failing, fine = setting.run_job("pass"), setting.run_job("print(1)")

        def fail(*_, **__):
            raise OSError("no more descriptors")

        failing.on_report = fail
        engine.submit(failing)
        engine.submit(fine)
        time.sleep(0.5)  # both are reported at once
        with pytest.raises(OSError, match="no more descriptors"):
            engine.step()
        assert engine.numbers_at_work == {fine.number}
        assert engine.step() == [fine]
        assert fine.result.output_tail == "1\n"
        assert engine.num_free == 2
    finally:
        engine.close()


def test_the_engine_is_not_given_more_than_it_has_workers_for():
    setting = Setting(None, Profile(), Tier.FULL, False)
    engine = Engine(setting.limits, 1, setting.profile, setting.tier)
    try:
        engine.submit(setting.run_job("pass"))
        with pytest.raises(AssertionError, match="no worker is free"):
            engine.submit(setting.run_job("pass"))
    finally:
        engine.close()


WRONG_PROGRAMS = [
    ({"source": b"pass"}, "source must be str, got bytes"),
    ({"stdin": "text"}, "stdin must be bytes, got str"),
    ({"files": [("a", b"")]}, "files must be Mapping, got list"),
    ({"files": {"a": "text"}}, "files.'a'. must be bytes, got str"),
    ({"files": {1: b""}}, "paths must be str, got int"),
    ({"argv": "-x"}, "argv must be tuple, got str"),
    ({"argv": ("-x", 1)}, "argv's items must be str, got int"),
]


@pytest.mark.parametrize(("fields", "why"), WRONG_PROGRAMS)
def test_a_program_of_wrong_types_is_refused(fields, why):
    with pytest.raises(ValueError, match=why):
        Program(**{"source": "pass"} | fields)


def test_what_the_harness_ignores_no_sample_finds_ignored():
    harness = textwrap.dedent("""
        import signal
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        from sandbox import run
        asks = "import signal; print([int(n) for n in signal.valid_signals() "
        asks += "if signal.getsignal(n) is signal.SIG_IGN])"
        print(run(asks).output_tail)
    """)
    done = subprocess.run([sys.executable, "-c", harness], capture_output=True, text=True)
    of_the_interpreter = sorted([int(signal.SIGPIPE), int(signal.SIGXFSZ)])
    assert sorted(ast.literal_eval(done.stdout)) == of_the_interpreter
