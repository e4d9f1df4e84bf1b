"""HumanEval+ and MBPP+: rows made up in EvalPlus's format, and the real data where it is."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks import load_benchmark, plus
from evals.benchmarks.formats import DEFAULT_LIMITS, Benchmark, fingerprint, make_benchmark
from evals.errors import BenchmarkUnavailable, RecordError
from evals.oracles.shipping import ANSWERS
from evals.oracles.values import decode
from evals.prompts import HUMANEVAL_RAW, MBPP_DOCSTRING
from evals.records import Task
from tests.evals.benchmarks.test_mbpp import write_rows
from tests.evals.loaded import loaded
from tests.evals.oracles.test_expected import ROWS

MBPP_PLUS_ROW: dict[str, Any] = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function.\nTwo lines.\nassert f((1,), (2,)) == 3\n"""\n',
    "entry_point": "f",
    "canonical_solution": "\ndef f(x, y):\n    return 3\n",
    "base_input": [[[1], [2]]],
    "plus_input": [],
    "atol": 0.0001,
}


def mbpp_task(**changes: Any) -> Task:
    rows = [{**MBPP_PLUS_ROW, **changes}]
    formats = [MBPP_DOCSTRING]
    return make_benchmark("toy", rows, plus.MbppPlusRow, formats, "toy", DEFAULT_LIMITS).tasks[0]


def inputs(task: Task, part: str = "base") -> Any:
    assert task.oracle is not None
    return decode(task.oracle.inputs[part])


def test_humaneval_rows_make_tasks() -> None:
    rows = [{**ROWS[0], "atol": 1e-6}]
    formats = [HUMANEVAL_RAW]
    benchmark = make_benchmark("toy", rows, plus.HumanEvalPlusRow, formats, "x", DEFAULT_LIMITS)
    (task,) = benchmark.tasks
    assert task.prompt == task.program_prefix == ROWS[0]["prompt"]
    assert task.reference == ROWS[0]["canonical_solution"]
    assert task.checked_names == ("double", ANSWERS)
    assert task.oracle is not None
    assert task.oracle.atol == 1e-6
    assert task.oracle.rule is None
    assert inputs(task) == [[1], [2]]
    assert inputs(task, "plus") == ROWS[0]["plus_input"]
    assert benchmark.data_sha256 == fingerprint(rows)


def test_mbpp_rows_make_tasks() -> None:
    task = mbpp_task()
    assert task.prompt == MBPP_PLUS_ROW["prompt"]
    assert task.question.text == "Write a function.\nTwo lines."
    assert task.program_prefix == ""
    assert task.reference == MBPP_PLUS_ROW["canonical_solution"]


def test_a_prompt_of_another_shape_is_refused() -> None:
    with pytest.raises(RecordError, match="toy:1: prompt: no docstring with an assert"):
        mbpp_task(prompt="Write a function.")
    with pytest.raises(RecordError, match="toy:1: task_id: 'Mbpp/two'; expected one such as"):
        mbpp_task(task_id="Mbpp/two")


@pytest.mark.parametrize(
    ("number", "given", "meant"),
    [
        (1, [[1], {"a": [2]}], [[1], {"a": [2]}]),
        (2, [[1], [2]], [(1,), (2,)]),
        (63, [[[1], [2]]], [[(1,), (2,)]]),
        (259, [[[1], [2]], [[3]]], [((1,), (2,)), ((3,),)]),
        (580, [[1, [2, [3]]]], [(1, (2, (3,)))]),
        (250, [[1], 2], [(1,), 2]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (75, [[[1], [2]], 3], [[(1,), (2,)], 3]),
        (115, [[[1, 1], [], {}]], [[{1}, {}, {}]]),
        (278, [[1, [2], 3]], [(1, (2,), 3)]),
        (722, [{"a": [1, 2]}, 1.0, 2], [{"a": (1, 2)}, 1.0, 2]),
        (252, ["1+2j"], [1 + 2j]),
        (106, [[1], [2]], [[1], (2,)]),
        (124, [1, "2j"], [1.0, 2j]),
    ],
)
def test_inputs_get_back_the_types_that_json_has_lost(
    number: int, given: list[Any], meant: list[Any]
) -> None:
    task = mbpp_task(task_id=f"Mbpp/{number}", base_input=[given])
    assert repr(inputs(task)) == repr([meant])


def test_no_inputs_may_be_an_empty_object() -> None:
    assert inputs(mbpp_task(plus_input={}), "plus") == []


@pytest.mark.parametrize(
    ("entry_point", "rule"),
    [("f", None), ("Diff", "set"), ("check_str", "not none"), ("sum_div", "or 0")],
)
def test_some_entry_points_have_a_rule_of_their_own(entry_point: str, rule: str | None) -> None:
    oracle = mbpp_task(entry_point=entry_point).oracle
    assert oracle is not None
    assert oracle.rule == rule


def test_tasks_with_slow_or_large_references_get_more() -> None:
    assert mbpp_task(task_id="Mbpp/599").cpu_s == 120
    assert mbpp_task(task_id="Mbpp/255").memory_bytes == 4 << 30
    assert mbpp_task().cpu_s is None


def edition(rows: list[dict[str, Any]]) -> plus.Edition:
    return replace(plus.HUMANEVAL_PLUS, data_sha256=fingerprint(rows))


def load(rows: list[dict[str, Any]]) -> Benchmark:
    return plus.load("humaneval+", edition(rows))


def test_an_edition_is_read_from_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "HumanEvalPlus-v0.1.10.jsonl.gz", ROWS)
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    benchmark = load(ROWS)
    assert [task.task_id for task in benchmark.tasks] == ["Toy/0", "Toy/1"]
    assert benchmark.formats == (
        "humaneval raw",
        "humaneval stripped",
        "chat",
        "chat plain",
        "chat reply",
    )


def test_a_file_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "HumanEvalPlus-v0.1.10.jsonl.gz", ROWS[:1])
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    with pytest.raises(RecordError, match=r"is not HumanEvalPlus v0.1.10 as it was released"):
        load(ROWS)


def test_an_edition_is_had_from_where_evalplus_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "downloaded", ROWS)

    class DownloadManager:
        def download(self, url: str) -> str:
            assert url == (
                "https://github.com/evalplus/humanevalplus_release/releases/download/v0.1.10/"
                "HumanEvalPlus.jsonl.gz"
            )
            return str(tmp_path / "downloaded")

    monkeypatch.delenv("MTP_CODE_DATA", raising=False)
    monkeypatch.setattr("evals.benchmarks.sources._is_within_reach", lambda url: True)
    monkeypatch.setattr("datasets.DownloadManager", DownloadManager)
    assert len(load(ROWS).tasks) == 2


def test_an_edition_that_is_nowhere_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DownloadManager:
        def download(self, url: str) -> str:
            raise ConnectionError("no route")

    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    monkeypatch.setattr("evals.benchmarks.sources._is_within_reach", lambda url: False)
    monkeypatch.setattr("datasets.DownloadManager", DownloadManager)
    with pytest.raises(BenchmarkUnavailable, match=r"holds HumanEvalPlus-v0.1.10.jsonl.gz"):
        load(ROWS)


needs_data = pytest.mark.skipif(
    not os.environ.get("MTP_CODE_DATA"), reason="EvalPlus's data: MTP_CODE_DATA is not set"
)


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("humaneval+", 164),
        ("humaneval+@v0.1.9", 164),
        ("mbpp+", 378),
        pytest.param("humaneval+mini", 164, marks=pytest.mark.thorough),
        pytest.param("mbpp+@v0.1.0", 399, marks=pytest.mark.thorough),
    ],
)
def test_each_release_is_had_by_name(name: str, count: int) -> None:
    benchmark = loaded(name)
    assert benchmark.name == name
    assert len(benchmark.tasks) == count


@needs_data
def test_the_newest_releases_may_be_spelled_out() -> None:
    assert load_benchmark("mbpp+@v0.2.0").name == "mbpp+"


@needs_data
def test_of_humanevals_prompts_one_is_another() -> None:
    theirs = {task.task_id: task.prompt for task in loaded("humaneval+").tasks}
    ours = {task.task_id: task.prompt for task in loaded("humaneval").tasks}
    assert [task_id for task_id in ours if ours[task_id] != theirs[task_id]] == ["HumanEval/115"]


@needs_data
def test_rules_are_those_of_tasks_there_are() -> None:
    entry_points = {
        name: {task.entry_point for task in loaded(name).tasks}
        for name in ("humaneval+", "mbpp+", "mbpp+@v0.1.0")
    }
    assert plus.HUMANEVAL_RULES.keys() < entry_points["humaneval+"]
    assert plus.MBPP_RULES.keys() < entry_points["mbpp+"] | entry_points["mbpp+@v0.1.0"]
