import json
from pathlib import Path

import pytest

from evals.benchmarks.formats import (
    Benchmark,
    fingerprint,
    humaneval_benchmark,
    mbpp_benchmark,
)
from evals.errors import RecordError
from evals.postprocess import CUT
from evals.records import read_rows
from tests.evals.conftest import ROWS

MBPP_ROW = {
    "task_id": 7,
    "text": "Add one.\r\nTo x.",
    "code": "def f(x):\r\n    return x + 1\r\n",
    "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
    "test_setup_code": "",
}


def test_humaneval_rows_make_tasks() -> None:
    benchmark = humaneval_benchmark("toy", ROWS)
    task = benchmark.tasks[1]
    assert benchmark.prompt_format == "humaneval raw"
    assert benchmark.post_processing == CUT
    assert task.prompt == task.program_prefix == ROWS[1]["prompt"]
    assert task.stops == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert task.checked_names == ("add1",)
    assert task.checks.endswith("check(add1)")


def test_mbpp_rows_make_tasks_without_carriage_returns() -> None:
    benchmark = mbpp_benchmark("toy", [MBPP_ROW])
    task = benchmark.tasks[0]
    assert task.task_id == "Mbpp/7"
    assert task.prompt == '"""\nAdd one.\nTo x.\nassert f(1) == 2\n"""\n'
    assert task.program_prefix == ""
    assert task.reference == "def f(x):\n    return x + 1\n"
    assert task.entry_point == "f"


def test_the_sanitized_edition_names_its_text_prompt_and_has_imports() -> None:
    row = {**MBPP_ROW, "prompt": "Add one.", "test_imports": ["import math"]}
    del row["text"]
    task = mbpp_benchmark("toy", [row]).tasks[0]
    assert task.prompt.startswith('"""\nAdd one.\n')
    assert task.checks.startswith("import math\n")


def test_the_fingerprint_is_of_the_rows_and_not_of_their_spelling() -> None:
    spelled_otherwise = [json.loads(json.dumps(dict(reversed(row.items())))) for row in ROWS]
    assert fingerprint(spelled_otherwise) == fingerprint(ROWS)
    assert fingerprint(ROWS[::-1]) != fingerprint(ROWS)
    assert fingerprint([{**ROWS[0], "test": "pass"}, *ROWS[1:]]) != fingerprint(ROWS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": None}, "file:2: test: Input should be a valid string"),
        ({"test": "def check("}, "file:2: its tests are no Python"),
        # It parses, and would fail every program.
        (
            {"test": "def check(f): assert f(1)\nreturn", "beside": True},
            "file:2: its tests are no Python: 'return' outside function",
        ),
        ({"task_id": "Toy/0"}, "file:2: task Toy/0 was given before"),
        ({"test": "x = '\ud800'"}, "file:2: Python cannot read its tests: 'utf-8' codec"),
        ({"test": f"x={'-' * 300_000}1"}, "file:2: Python cannot read its tests: "),
        (
            {"test": "assert x", "prompt": f"x=0x{'f' * 9000}\ndef f():\n"},
            "file:2: Python cannot read its tests: ",
        ),
    ],
)
def test_a_row_of_another_shape_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError) as caught:
        humaneval_benchmark("toy", [ROWS[0], {**ROWS[1], **change}], "file")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_number_longer_than_python_reads_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    def benchmark_of(digits: str) -> Benchmark:
        row = json.dumps({**ROWS[0], "nobody_reads": 1})
        (tmp_path / "mine.jsonl").write_text(row.replace('_reads": 1', f'_reads": {digits}'))
        return humaneval_benchmark("toy", read_rows(tmp_path / "mine.jsonl"))

    long, other = benchmark_of("1" * 5000), benchmark_of("1" * 4999 + "2")
    assert long.tasks == other.tasks
    assert long.data_sha256 != other.data_sha256


@pytest.mark.parametrize("task_id", [True, 1.0, None, float("inf")])
def test_an_id_is_text_or_a_whole_number(task_id: object) -> None:
    with pytest.raises(RecordError, match="file:1: task_id"):
        mbpp_benchmark("toy", [{**MBPP_ROW, "task_id": task_id}], "file")
    named = mbpp_benchmark("toy", [{**MBPP_ROW, "task_id": "True"}], "file")
    assert named.tasks[0].task_id == "True"


def test_a_task_that_asserts_nothing_is_refused() -> None:
    row = {"task_id": "own/1", "prompt": "def f(x):\n", "entry_point": "f"}
    with pytest.raises(RecordError, match=r"own\.jsonl:1: test: asserts nothing"):
        humaneval_benchmark("own", [row | {"test": "def check(c):\n    c(1)\n"}], "own.jsonl")
    row = {"task_id": 1, "text": "f", "code": "def f(x): return x"}
    for line in ("f(1) == 1", "assert (f(1) == 1, 'one')"):
        with pytest.raises(RecordError, match=r"own\.jsonl:1: test_list: asserts nothing"):
            mbpp_benchmark("own", [row | {"test_list": [line]}], "own.jsonl")
