"""Expected outputs: asked once, kept small, made into checks."""

import json
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sandbox
from evals.benchmarks.formats import DEFAULT_LIMITS, Benchmark, make_benchmark
from evals.benchmarks.plus import HumanEvalPlusRow
from evals.errors import InputError
from evals.oracles.expected import Answered, Reference, in_pool, with_expected_outputs
from evals.oracles.shipping import ANSWERS
from evals.program import checks_of, plus_checks_of, program_of
from evals.prompts import HUMANEVAL_RAW
from evals.records import Sample
from tests.evals.loaded import loaded

ROWS: list[dict[str, Any]] = [
    {
        "task_id": "Toy/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "base_input": [[1], [2]],
        "plus_input": [[0.1], ["a"], [[1, 2]]],
        "atol": 0,
    },
    {
        "task_id": "Toy/1",
        "prompt": 'def count(n):\n    """Numbers below n."""\n',
        "entry_point": "count",
        "canonical_solution": "    return list(range(n))\n",
        "base_input": [[3]],
        "plus_input": [[100_000], [0]],
        "atol": 0,
    },
]


def toy(rows: list[dict[str, Any]] = ROWS) -> Benchmark:
    return make_benchmark("toy+", rows, HumanEvalPlusRow, [HUMANEVAL_RAW], "toy", DEFAULT_LIMITS)


def run_here(references: Iterable[Reference], cpu_s: float = 0.0) -> Iterator[Answered]:
    """Without containment: these are our own."""
    for each in references:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", each.source],
            input=each.stdin,
            capture_output=True,
            check=True,
        )
        yield Answered(done.stdout, cpu_s, cpu_s, 1000, "none")


def never(references: Iterable[Reference]) -> Iterator[Answered]:
    pytest.fail("asked again")


def passes(benchmark: Benchmark, completion: str, at: int = 0) -> tuple[bool, bool]:
    """Whether base and plus checks hold, run beside the program."""
    task = benchmark.tasks[at]
    program = program_of(task, Sample(task_id=task.task_id, index=0, completion=completion))
    results = []
    for checks in (checks_of(task), plus_checks_of(task)):
        assert checks is not None
        assert checks.names == (task.entry_point, ANSWERS)
        namespace: dict[str, Any] = {}
        exec(program, namespace)
        try:
            exec(checks.source, namespace)
        except Exception:  # noqa: BLE001 - a program raises what it likes
            results.append(False)
        else:
            results.append(True)
    base, plus = results
    return base, plus


def test_answers_are_held_to_the_references(tmp_path: Path) -> None:
    benchmark, _ = with_expected_outputs(toy(), run_here, tmp_path)
    assert passes(benchmark, "    return x + x\n") == (True, True)
    assert passes(benchmark, "    return {1: 2, 2: 4}.get(x)\n") == (True, False)
    assert passes(benchmark, "    return 2 * x if isinstance(x, float) else None\n") == (
        False,
        False,
    )
    assert passes(benchmark, "    return [*range(n)]\n", at=1) == (True, True)
    assert passes(benchmark, "    return [float(i) for i in range(n)]\n", at=1) == (True, True)
    assert passes(benchmark, "    return tuple(range(n))\n", at=1) == (False, False)
    assert passes(benchmark, "    return [*range(min(n, 99_999))]\n", at=1) == (True, False)


def test_what_was_asked_once_is_kept_without_the_large_answers(tmp_path: Path) -> None:
    first = with_expected_outputs(toy(), run_here, tmp_path)
    assert with_expected_outputs(toy(), never, tmp_path) == first
    (path,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    assert [row["task_id"] for row in rows] == ["Toy/0", "Toy/1"]
    assert json.loads(rows[0]["plus"]) == [0.2, "aa", [1, 2, 1, 2]]
    assert len(rows[1]["plus"]) < 200


def test_other_data_is_asked_anew(tmp_path: Path) -> None:
    with_expected_outputs(toy(), run_here, tmp_path)
    other = [ROWS[0], {**ROWS[1], "canonical_solution": "    return []\n"}]
    benchmark, _ = with_expected_outputs(toy(other), run_here, tmp_path)
    assert passes(benchmark, "    return []\n", at=1) == (True, True)
    assert len(list(tmp_path.iterdir())) == 2


def test_answers_that_nobody_reads_any_more_are_removed(tmp_path: Path) -> None:
    with_expected_outputs(toy(), run_here, tmp_path)
    (path,) = tmp_path.iterdir()
    long_ago = time.time() - 100 * 24 * 3600
    unread = tmp_path / "unread.jsonl.xz"
    for each in (path, unread):
        each.touch()
        os.utime(each, (long_ago, long_ago))
    with_expected_outputs(toy(), never, tmp_path)  # is read
    (row,) = [{**ROWS[0], "canonical_solution": "    return x * 2\n"}]
    with_expected_outputs(toy([row]), run_here, tmp_path)
    assert path.exists()
    assert not unread.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "    return [x, x]\n"},
        {"program_prefix": "def double(x, y=1):\n"},
        {"oracle": {"atol": 0.5}},
        {"oracle": {"rule": "set"}},
        {"oracle": {"inputs": {"base": '[[{"tuple":[1]}]]', "plus": "[]"}}},
    ],
)
def test_whatever_is_asked_otherwise_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    """Of the same rows: how these are turned into inputs and rules is ours, and may change."""
    with_expected_outputs(toy(), run_here, tmp_path)
    first, *others = toy().tasks
    assert first.oracle is not None
    if "oracle" in change:
        change = {"oracle": first.oracle.model_copy(update=change["oracle"])}
    changed = replace(toy(), tasks=(first.model_copy(update=change), *others))
    with_expected_outputs(changed, run_here, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"junk", lzma.compress(b"{"), lzma.compress(b"{}"), lzma.compress(b"1")]
)
def test_a_damaged_file_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    first = with_expected_outputs(toy(), run_here, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert with_expected_outputs(toy(), run_here, tmp_path) == first
    assert with_expected_outputs(toy(), never, tmp_path) == first


@pytest.mark.parametrize("name", ["machine", "libc_ver"])
def test_other_arithmetic_is_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with_expected_outputs(toy(), run_here, tmp_path)
    monkeypatch.setattr(f"platform.{name}", lambda: ("other", "1.0"))
    with_expected_outputs(toy(), run_here, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def slowly(references: Iterable[Reference]) -> Iterator[Answered]:
    return run_here(references, cpu_s=1.0)


@pytest.mark.parametrize(
    ("body", "agrees"),
    [
        ("return 2 * x", True),
        ("return float('nan')", False),  # equals nothing
        ("return lambda: x", False),  # is no plain data
    ],
)
def test_a_long_run_is_told_if_its_answers_agree_with_themselves(
    tmp_path: Path, body: str, agrees: bool
) -> None:
    row = {**ROWS[0], "canonical_solution": f"    {body}\n"}
    assert with_expected_outputs(toy([row]), run_here, tmp_path / "short").long_runs == {}
    _, told = with_expected_outputs(toy([row]), slowly, tmp_path)
    assert told == ({"Toy/0": Answered(b"", 1.0, 1.0, 1000, "none")} if agrees else {})
    assert with_expected_outputs(toy([row]), never, tmp_path).long_runs == {}


@pytest.mark.parametrize(
    "reference",
    [
        "    raise SystemExit\n",
        "    return x\n\nprint('mine')\n",
        "    return x\n\nimport sys\nsys.stdout.write('[mine')\n",
    ],
)
def test_a_reference_that_answers_otherwise_is_told_by_name(tmp_path: Path, reference: str) -> None:
    row = {**ROWS[0], "canonical_solution": reference}
    message = "^Toy/0: its reference solution ends before .* or writes lines of its own; mend it"
    with pytest.raises(InputError, match=message):
        with_expected_outputs(toy([row]), run_here, tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_kept_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    benchmark, _ = with_expected_outputs(toy(), run_here, tmp_path / "file" / "folder")
    assert passes(benchmark, "    return x + x\n") == (True, True)
    assert f"expected outputs are not kept: {tmp_path}" in caplog.text


def test_a_benchmark_with_tests_of_its_own_needs_none(tmp_path: Path) -> None:
    benchmark = loaded("humaneval")
    assert with_expected_outputs(benchmark, never, tmp_path).benchmark is benchmark


def test_many_inputs_are_asked_for_in_chunks(tmp_path: Path) -> None:
    row = {**ROWS[0], "plus_input": [[number] for number in range(30)]}
    benchmark, _ = with_expected_outputs(toy([row]), run_here, tmp_path)
    plus = plus_checks_of(benchmark.tasks[0])
    assert plus is not None
    assert plus.source.count("('[[") == 2
    assert passes(benchmark, "    return x + x\n") == (True, True)
    assert passes(benchmark, "    return x + x if x < 29 else 0\n") == (True, False)


def test_checks_are_not_had_before(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Toy/0: checks are to come"):
        checks_of(toy().tasks[0])


def as_program(source: str, **options: Any) -> SimpleNamespace:
    """As `sandbox.Program` is called."""
    return SimpleNamespace(source=source, **options)


class FakePool:
    """Runs what it is given here, under no limits."""

    limits = sandbox.Limits(cpu_s=1.0, wall_s=2.0, tmp_files=7)

    def run_all(self, programs: Iterable[tuple[Any, sandbox.Limits]]) -> Iterator[Any]:
        for program, limits in programs:
            assert program.keeps_output
            assert (limits.wall_limit_s, limits.tmp_files) == (10 * limits.cpu_s, 7)
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", program.source],
                input=program.stdin,
                capture_output=True,
            )
            yield SimpleNamespace(
                ending=sandbox.Ending.EXITED,
                exit_code=done.returncode,
                stdout=done.stdout,
                output_tail=done.stderr.decode(),
                cpu_s=0.0,
                wall_s=0.0,
                peak_memory_bytes=1000,
                isolation="none",
            )


def test_a_pool_runs_references_and_tells_of_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "Program", as_program, raising=False)
    run: Any = in_pool(FakePool())  # type: ignore[arg-type]
    assert with_expected_outputs(toy(), run, tmp_path) == with_expected_outputs(
        toy(), run_here, tmp_path / "here"
    )
    broken = [{**ROWS[0], "canonical_solution": "    return 1 / 0\n"}]
    with pytest.raises(InputError, match=r"Toy/0: its reference .* fails \(exited\): .*Zero"):
        with_expected_outputs(toy(broken), run, tmp_path)


needs_programs = pytest.mark.skipif(
    not hasattr(sandbox, "Program"), reason="the sandbox gives no standard input yet"
)


@needs_programs
@pytest.mark.usefixtures("needs_sandbox")
def test_references_run_in_the_sandbox(tmp_path: Path) -> None:
    with sandbox.Pool() as pool:
        inside = with_expected_outputs(toy(), in_pool(pool), tmp_path / "inside")
    assert inside == with_expected_outputs(toy(), run_here, tmp_path / "here")


@needs_programs
@pytest.mark.usefixtures("needs_sandbox")
def test_a_reference_that_fails_is_told_by_name(tmp_path: Path) -> None:
    broken = [{**ROWS[0], "canonical_solution": "    return 1 / 0\n"}]
    with (
        sandbox.Pool() as pool,
        pytest.raises(InputError, match=r"Toy/0: its reference solution fails \(exited\)"),
    ):
        with_expected_outputs(toy(broken), in_pool(pool), tmp_path)
