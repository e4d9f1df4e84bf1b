"""+ tasks in the real sandbox: their references pass both parts, and nothing that cheats does."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sandbox
from evals.benchmarks import Benchmark
from evals.oracles.expected import Reference, in_pool, with_expected_outputs
from evals.program import checks_of, limits_of, plus_checks_of, program_of
from evals.records import Sample, Task
from sandbox import Checks, Limits, Outcome, Pool
from tests.evals.loaded import loaded
from tests.evals.oracles.test_expected import run_here, toy

needs_data = pytest.mark.skipif(
    not os.environ.get("MTP_CODE_DATA"), reason="EvalPlus's data: MTP_CODE_DATA is not set"
)


@pytest.fixture(scope="module")
def pool(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(Limits(cpu_s=10.0)) as pool:
        yield pool


def completed(benchmark: Benchmark, pool: Pool, folder: Path) -> Benchmark:
    def run(references: Iterable[Reference]) -> Iterator[bytes]:
        # Until the sandbox gives standard input. They are the benchmark's own.
        yield from (in_pool(pool) if hasattr(sandbox, "Program") else run_here)(references)

    return with_expected_outputs(benchmark, run, folder).benchmark


def both(task: Task) -> tuple[Checks, Checks]:
    plus = plus_checks_of(task)
    assert plus is not None
    return checks_of(task), plus


def not_passing(benchmark: Benchmark, pool: Pool) -> list[tuple[str, str]]:
    """Tasks whose reference fails one of its parts."""
    asked = [
        (task, checks, Sample(task_id=task.task_id, index=0, completion=task.reference))
        for task in benchmark.tasks
        for checks in both(task)
    ]
    found = pool.examine_all(
        (program_of(task, sample), checks, limits_of(task, benchmark.limits))
        for task, checks, sample in asked
    )
    return [
        (task.task_id, examination.detail)
        for (task, _, _), examination in zip(asked, found, strict=True)
        if examination.outcome is not Outcome.HELD
    ]


@needs_data
@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.thorough)])
def test_every_reference_passes_a_few_inputs(step: int, pool: Pool, tmp_path: Path) -> None:
    mini = loaded("humaneval+mini")
    mini = replace(mini, tasks=mini.tasks[::step])
    benchmark = completed(mini, pool, tmp_path)
    assert not_passing(benchmark, pool) == []


@needs_data
@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "most_bytes"),
    [
        ("humaneval+", 25_000_000),
        ("humaneval+@v0.1.9", 25_000_000),
        ("mbpp+", 79_000_000),
        ("mbpp+@v0.1.0", 79_000_000),
    ],
)
def test_every_reference_passes_all_inputs_and_its_answers_are_kept_small(
    name: str, most_bytes: int, pool: Pool, tmp_path: Path
) -> None:
    """Less than a tenth of what EvalPlus keeps."""
    benchmark = completed(loaded(name), pool, tmp_path)
    assert not_passing(benchmark, pool) == []
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < most_bytes


@pytest.mark.parametrize(
    ("completion", "outcomes"),
    [
        ("    return 2 * x\n", [Outcome.HELD, Outcome.HELD]),
        ("    return {1: 2, 2: 4}[x]\n", [Outcome.HELD, Outcome.RAISED]),
        ("    return 2 * x if isinstance(x, int) else 0\n", [Outcome.HELD, Outcome.FAILED]),
        ("    return 2 * x if not isinstance(x, int) else 0\n", [Outcome.FAILED, Outcome.HELD]),
        ("    return print('x' * 1_000_000) or 2 * x\n", [Outcome.HELD, Outcome.HELD]),
        ("    return\ndel double\n", [Outcome.UNDEFINED] * 2),
        ("    return (\n", [Outcome.SYNTAX_ERROR] * 2),
        ("    return len(bytearray(1 << 40))\n", [Outcome.ENDED] * 2),
    ],
)
def test_base_and_plus_have_outcomes_of_their_own(
    pool: Pool, tmp_path: Path, completion: str, outcomes: list[Outcome]
) -> None:
    assert [each for each, _ in examined(pool, tmp_path, completion)] == outcomes


# Completions of "def double(x)" that would pass checks in their own process.
CHEATS = {
    "equals everything": "    return type('Same', (), {'__eq__': lambda a, b: True})()\n",
    "is an int that equals everything": (
        "    return type('Int', (int,), {'__eq__': lambda a, b: True})(0)\n"
    ),
    "exits": "    import os\n    os._exit(0)\n",
    "replaces what is asked": (
        "    import sys\n"
        "    sys.modules['program'].__dict__['__mtp_code_answers__'] = lambda *_: '[]'\n"
        "    return None\n"
    ),
    "answers for what is asked": (
        "    pass\n"
        "class Frame:\n    pass\n"
        "import json\n"
        'json.dumps = lambda *args, **named: \'{"other":"int"}\'\n'
    ),
    "says it is another thing": "    return {'digest': ['int', '0']}\n",
    "reads what is expected off the stack": (
        "    import sys\n"
        "    frame, found = sys._getframe(1), []\n"
        "    while frame:\n"
        "        found += [v for v in frame.f_locals.values() if isinstance(v, int) and v > x]\n"
        "        frame = frame.f_back\n"
        "    return found[0] if found else None\n"
    ),
}


@pytest.mark.parametrize("completion", CHEATS.values(), ids=CHEATS.keys())
def test_a_cheat_passes_neither_part(pool: Pool, tmp_path: Path, completion: str) -> None:
    assert all(outcome is not Outcome.HELD for outcome, _ in examined(pool, tmp_path, completion))


def examined(pool: Pool, folder: Path, completion: str) -> list[tuple[Outcome, str]]:
    task = completed(toy(), pool, folder).tasks[0]
    program = program_of(task, Sample(task_id=task.task_id, index=0, completion=completion))
    found = pool.examine_all((program, checks) for checks in both(task))
    return [(each.outcome, each.detail) for each in found]
