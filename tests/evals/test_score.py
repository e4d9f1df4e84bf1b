import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.baseline import write_baseline
from evals.benchmarks.formats import Benchmark
from evals.errors import IncomparableError, InputError
from evals.files import file_sha256
from evals.gate import gate
from evals.judge import judge
from evals.prompts import prompts_read, prompts_sha256
from evals.records import (
    VERDICT_LETTERS,
    VERDICT_NAMES,
    Baseline,
    Judging,
    ReferenceBits,
    References,
    Sample,
    Score,
    read_record,
    write_record,
    write_samples,
)
from evals.score import score
from tests.evals.conftest import FakePool
from tests.evals.loaded import loaded
from tests.evals.scored import sampling


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
    assert summed.verdicts == {"Toy/0": "ST", "Toy/1": "PW", "Toy/2": "PP"}
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
    assert (summed.prompts_sha256, summed.seed_rule, summed.origins) == (None, None, None)


@pytest.mark.parametrize("name", ["humaneval raw", "chat", "one of another harness"])
def test_what_the_model_read_is_what_was_noted_or_nobody_knows(
    toy: Benchmark, verdicts: Path, name: str
) -> None:
    with_sampling(verdicts, prompt_format=name)
    assert score(verdicts, toy).prompts_sha256 is None
    with_sampling(verdicts, prompt_format=name, prompts_sha256="5" * 64)
    assert score(verdicts, toy).prompts_sha256 == "5" * 64


def test_the_baseline_in_git_is_of_what_models_read_now() -> None:
    baseline = read_record(Baseline, Path(__file__).parents[2] / "evals/baselines/micro-tiny.json")
    micro = loaded("micro")
    assert baseline.prompts_sha256 == prompts_sha256(micro, prompts_read(micro))


def test_the_gate_names_a_changed_template(toy: Benchmark, verdicts: Path, tmp_path: Path) -> None:
    with_sampling(verdicts, prompt_format="chat", prompts_sha256="5" * 64)
    write_baseline(score(verdicts, toy), tmp_path / "baseline.json")
    with_sampling(verdicts, prompt_format="chat", prompts_sha256="6" * 64)
    with pytest.raises(IncomparableError, match="prompts_sha256 differs: '5555"):
        gate(read_record(Baseline, tmp_path / "baseline.json"), score(verdicts, toy))


def with_sampling(verdicts: Path, **changes: Any) -> None:
    """Write down how the samples were drawn."""
    path = verdicts.with_name("judging.json")
    judging = read_record(Judging, path)
    drawn = sampling(data_sha256=judging.data_sha256, **changes)
    write_record(path, judging.model_copy(update={"sampling": drawn}))


def test_the_seed_rule_is_that_of_whoever_drew(toy: Benchmark, verdicts: Path) -> None:
    assert score(verdicts, toy).seed_rule is None
    with_sampling(verdicts, seed_rule="the server's")
    assert score(verdicts, toy).seed_rule == "the server's"


def test_verdicts_are_told_by_index_whatever_their_order(
    toy: Benchmark, pool: FakePool, tmp_path: Path
) -> None:
    write_samples(
        tmp_path / "samples.jsonl",
        [
            Sample(task_id=task.task_id, index=index, completion=f"# {said}")
            for index, said in ((2, "failed"), (0, "held"), (1, "raised"))
            for task in toy.tasks
        ],
    )
    judge(tmp_path / "samples.jsonl", toy, tmp_path / "verdicts.jsonl")
    assert set(score(tmp_path / "verdicts.jsonl", toy).verdicts.values()) == {"PEW"}


def test_tasks_of_one_origin_widen_the_interval_over_tasks(toy: Benchmark, verdicts: Path) -> None:
    alone = score(verdicts, toy)
    of_one = [task.model_copy(update={"origin": str(at // 2)}) for at, task in enumerate(toy.tasks)]
    shared = score(verdicts, replace(toy, tasks=tuple(of_one)))
    assert alone.origins is None
    assert shared.origins == {"Toy/0": "0", "Toy/1": "0", "Toy/2": "1"}
    was, now = alone.pass_at_k["1"], shared.pass_at_k["1"]
    assert now.high - now.low > was.high - was.low
    assert now.value == was.value


def test_the_share_of_checks_passed_counts_those_not_reached_as_failed(
    toy: Benchmark, verdicts: Path
) -> None:
    with_checks(verdicts, {})
    assert "checks passed" not in score(verdicts, toy).graded
    with_checks(verdicts, {"wrong answer": (3, 4), "passed": (4, 4)})
    summed = score(verdicts, toy)
    assert summed.checks_passed == {"Toy/0": (0, 0), "Toy/1": (1, 0.75), "Toy/2": (1, 1)}
    assert summed.graded["checks passed"].value == pytest.approx((0 + 1.75 / 2 + 1) / 3)
    assert summed.graded["checks passed"].over_samples is not None


def test_the_share_of_checks_is_not_told_where_one_sample_has_none(
    toy: Benchmark, verdicts: Path
) -> None:
    with_checks(verdicts, {"passed": (4, 4)})
    summed = score(verdicts, toy)
    assert summed.checks_passed is None
    assert "checks passed" not in summed.graded


def test_where_all_samples_pass_all_checks_do(toy: Benchmark, verdicts: Path) -> None:
    rewrite(verdicts, lambda row: {"verdict": "passed"})
    assert score(verdicts, toy).graded["checks passed"].value == 1


def with_checks(verdicts: Path, numbers: dict[str, tuple[int, int]]) -> None:
    """Count the checks of verdicts of these kinds."""

    def counted(row: dict[str, Any]) -> dict[str, Any]:
        passed, in_all = numbers.get(row["verdict"], (None, None))
        return {"num_checks_passed": passed, "num_checks": in_all}

    rewrite(verdicts, counted)


def rewrite(verdicts: Path, changed: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change fields of every verdict, as if the judge had said so."""
    rows = [json.loads(line) for line in verdicts.read_text().splitlines()]
    rows = [row | changed(row) for row in rows]
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = verdicts.with_name("judging.json")
    judging = read_record(Judging, path)
    update = {"verdicts_sha256": file_sha256(verdicts)}
    write_record(path, judging.model_copy(update=update))


def test_bits_per_byte_are_read_from_beside_the_verdicts(toy: Benchmark, verdicts: Path) -> None:
    assert score(verdicts, toy).bits_per_byte is None
    bits = ReferenceBits(
        benchmark="toy",
        data_sha256=toy.data_sha256,
        prompt_format="humaneval raw",
        model={},
        tasks={"Toy/0": (12.0, 10), "Toy/1": (3.0, 20)},
    )
    path = verdicts.with_name("reference-bits.json")
    write_record(path, bits)
    assert score(verdicts, toy).bits_per_byte == pytest.approx(0.5)
    write_record(path, bits.model_copy(update={"data_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"reference-bits.json: of toy with data 000000000000"):
        score(verdicts, toy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "other"}}, "of another model than the samples"),
        ({"prompt_format": "chat"}, "of another prompt format than the samples"),
    ],
)
def test_bits_per_byte_of_another_model_or_format_are_refused(
    toy: Benchmark, verdicts: Path, changes: dict[str, Any], message: str
) -> None:
    with_sampling(verdicts)
    bits = ReferenceBits(
        benchmark="toy",
        data_sha256=toy.data_sha256,
        prompt_format="humaneval raw",
        model={"name": "toy"},
        tasks={"Toy/0": (12.0, 10)},
    )
    path = verdicts.with_name("reference-bits.json")
    write_record(path, bits)
    assert score(verdicts, toy).bits_per_byte == 1.2
    write_record(path, bits.model_copy(update=changes))
    with pytest.raises(InputError, match=message):
        score(verdicts, toy)


def test_base_checks_have_a_score_of_their_own(toy: Benchmark, verdicts: Path) -> None:
    assert score(verdicts, toy).base_pass_at_k is None
    of_base = {"wrong answer": "passed", "passed": "passed", "syntax error": "syntax error"}
    rewrite(verdicts, lambda row: {"base": of_base.get(row["verdict"], row["verdict"])})
    summed = score(verdicts, toy, [1, 2])
    assert summed.verdicts == {"Toy/0": "ST", "Toy/1": "PW", "Toy/2": "PP"}
    assert summed.base_verdicts == {"Toy/0": "ST", "Toy/1": "PP", "Toy/2": "PP"}
    assert summed.base_pass_at_k is not None
    assert summed.base_pass_at_k["1"].value == pytest.approx(2 / 3)
    assert summed.pass_at_k["1"].value == pytest.approx(1 / 2)
    rewrite(verdicts, lambda row: {"base": None if row["task_id"] == "Toy/2" else row["base"]})
    assert score(verdicts, toy).base_verdicts is None


def test_the_judges_own_word_on_references_is_kept(toy: Benchmark, verdicts: Path) -> None:
    path = verdicts.with_name("judging.json")
    said = References(num_judged=3, failed={"Toy/1": "crashed"})
    write_record(path, read_record(Judging, path).model_copy(update={"references": said}))
    assert score(verdicts, toy).references == said


def test_every_verdict_has_a_letter_of_its_own() -> None:
    assert VERDICT_LETTERS.keys() == set(VERDICT_NAMES)
    assert len(set(VERDICT_LETTERS.values())) == len(VERDICT_NAMES)


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
        (
            "by_verdict",
            {"passed": 3, "timed out": 1},
            "by_verdict holds other numbers than verdicts: wrong answer",
        ),
        ("tasks", {"Toy/0": (2, 3)}, "verdicts and tasks do not hold the same tasks: Toy/1"),
        ("checks_passed", {f"Toy/{at}": [1.0] for at in range(3)}, "checks_passed.Toy/0: not one"),
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
    with pytest.raises(InputError, match=r"verdicts.jsonl: no such file; expected"):
        score(tmp_path / "verdicts.jsonl", toy)
