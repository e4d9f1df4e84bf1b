import json
from dataclasses import replace
from pathlib import Path

import pytest

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.judge import judge
from evals.records import Sample, Score, read_record, write_record, write_samples
from evals.score import score
from tests.evals.conftest import FakePool


@pytest.fixture
def verdicts(toy: Benchmark, pool: FakePool, tmp_path: Path) -> Path:
    """Two samples a task: of the tasks none, one and both pass."""
    said = {"Toy/0": ("syntax error", "ended: timed out (cpu)"), "Toy/1": ("held", "failed")}
    write_samples(
        tmp_path / "samples.jsonl",
        [
            Sample(task_id=task.task_id, index=index, completion=f"# {each}")
            for task in toy.tasks
            for index, each in enumerate(said.get(task.task_id, ("held", "held")))
        ],
    )
    judge(tmp_path / "samples.jsonl", toy, tmp_path / "verdicts.jsonl")
    return tmp_path / "verdicts.jsonl"


def test_a_score_sums_the_verdicts_up(toy: Benchmark, verdicts: Path) -> None:
    summed = score(verdicts, toy, [1, 2])
    assert summed.tasks == {"Toy/0": (2, 0), "Toy/1": (2, 1), "Toy/2": (2, 2)}
    assert summed.pass_at_k["1"].value == pytest.approx(1 / 2)
    assert summed.pass_at_k["2"].value == pytest.approx(2 / 3)
    assert summed.pass_at_k["1"].over_samples is not None
    assert summed.pass_at_k["2"].over_samples is None
    assert (summed.num_tasks, summed.num_samples, summed.timed_out) == (3, 6, 1)
    assert summed.share_parsed == pytest.approx(5 / 6)
    assert summed.by_verdict["passed"] == 3
    assert summed.by_verdict["blocked"] == 0


def test_a_score_keeps_the_conditions(toy: Benchmark, verdicts: Path) -> None:
    summed = score(verdicts, toy)
    assert summed.data_sha256 == toy.data_sha256
    assert summed.limits["cpu_s"] == toy.limits.cpu_s
    assert summed.isolation == "full"
    assert summed.versions.keys() == {"python", "mtp-code"}
    assert summed.prompt_format is None  # nobody said how these samples were drawn


def test_a_score_written_is_the_score_read(toy: Benchmark, verdicts: Path, tmp_path: Path) -> None:
    summed = score(verdicts, toy)
    write_record(tmp_path / "scores.json", summed)
    assert read_record(Score, tmp_path / "scores.json") == summed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_tasks", 4, "num_tasks is 4, but 3 are counted"),
        ("num_samples", 5, "num_samples is 5, but 6 are counted"),
        ("timed_out", 0, "timed_out is 0, but 1 are counted"),
        ("by_verdict", {"passed": 3, "timed out": 1}, "by_verdict does not add up to the 6"),
        ("tasks", {"Toy/0": (2, 3)}, "tasks.Toy/0: 3 passed of 2"),
    ],
)
def test_a_score_that_contradicts_itself_is_refused(
    toy: Benchmark, verdicts: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(score(verdicts, toy).as_json() | {field: value}))
    with pytest.raises(InputError, match=message):
        read_record(Score, path)


@pytest.mark.parametrize("k", [0, 3])
def test_k_beyond_the_samples_is_refused(toy: Benchmark, verdicts: Path, k: int) -> None:
    with pytest.raises(InputError, match=f"k = {k} is outside 1 to 2, the samples of Toy/0"):
        score(verdicts, toy, [1, k])


def test_a_task_without_samples_is_refused(toy: Benchmark, pool: FakePool, tmp_path: Path) -> None:
    write_samples(
        tmp_path / "samples.jsonl", [Sample(task_id="Toy/1", index=0, completion="# held")]
    )
    judge(tmp_path / "samples.jsonl", toy, tmp_path / "verdicts.jsonl")
    with pytest.raises(InputError, match="2 of 3 tasks have no sample, Toy/0 first"):
        score(tmp_path / "verdicts.jsonl", toy)


def test_verdicts_that_were_changed_are_refused(toy: Benchmark, verdicts: Path) -> None:
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    rows[0]["verdict"] = "passed"
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"not the file that judging.json describes"):
        score(verdicts, toy)


def test_verdicts_of_another_benchmark_are_refused(toy: Benchmark, verdicts: Path) -> None:
    other = replace(toy, data_sha256="0" * 64)
    with pytest.raises(InputError, match=r"judging.json: judged on toy with data"):
        score(verdicts, other)


def test_missing_verdicts_are_told_in_one_line(toy: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        score(tmp_path / "verdicts.jsonl", toy)
