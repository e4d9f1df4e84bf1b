"""APPS, on problems made up in the hub's format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks import load_benchmark
from evals.errors import BenchmarkUnavailable, RecordError
from evals.judge import judge
from evals.program import checks_of, program_of
from evals.prompts import sample_of, with_format
from evals.records import Sample, StdinCase, read_verdicts, write_samples
from sandbox import Outcome, Pool
from tests.evals.benchmarks.test_mbpp import write_rows

pytestmark = pytest.mark.usefixtures("shared_incubators")


def row(number: int, tests: Any, **changes: Any) -> dict[str, Any]:
    return {
        "problem_id": number,
        "question": "Add.",
        "solutions": json.dumps(["print(sum(map(int, input().split())))"]),
        "input_output": json.dumps(tests),
        "difficulty": "introductory",
        "url": "https://example.org",
        "starter_code": "",
        **changes,
    }


CALLED = {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [[1, 2]]]}
ROWS = [
    row(4000, {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}),
    row(4001, CALLED, starter_code="def add(x, y):\n", solutions=""),
    row(4002, {"inputs": [["1", "2"]], "outputs": [["3"]]}, difficulty="interview"),
    row(4003, {}, input_output="", solutions=""),
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "apps-test.jsonl.gz", ROWS)
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("data")
def test_problems_of_a_level_that_have_tests_are_its_tasks() -> None:
    benchmark = load_benchmark("apps-introductory")
    assert benchmark.name == "apps-introductory"
    assert [task.task_id for task in benchmark.tasks] == ["APPS/4000", "APPS/4001"]
    assert benchmark.formats == ("apps", "chat", "chat plain", "chat reply")


@pytest.mark.usefixtures("data")
def test_a_program_that_reads_has_cases_and_no_checks() -> None:
    task = load_benchmark("apps-introductory").tasks[0]
    assert task.stdin_cases == (
        StdinCase(stdin="1 2\n", stdout="3\n"),
        StdinCase(stdin="3 4\n", stdout="7\n"),
    )
    assert task.checks == ""
    assert task.reference == "print(sum(map(int, input().split())))"
    assert task.prompt == "\nQUESTION:\nAdd.\nUse Standard Input format\nANSWER:\n"


@pytest.mark.usefixtures("data")
def test_cases_may_be_lists_of_lines() -> None:
    task = load_benchmark("apps-interview").tasks[0]
    assert task.stdin_cases == (StdinCase(stdin="1\n2", stdout="3"),)


@pytest.mark.usefixtures("data")
def test_a_function_that_is_called_has_checks_and_no_cases() -> None:
    task = load_benchmark("apps-introductory").tasks[1]
    assert task.entry_point == "add"
    assert task.stdin_cases == ()
    assert task.reference is None
    assert task.prompt == "\nQUESTION:\nAdd.def add(x, y):\n\nUse Call-Based format\nANSWER:\n"


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("at", "code"),
    [
        (0, "print(sum(map(int, input().split())))\nprint()"),
        (1, "class Solution:\n    def add(self, x, y):\n        return x + y"),
    ],
)
def test_of_an_answer_in_a_chat_all_that_may_matter_is_kept(at: int, code: str) -> None:
    task = with_format(load_benchmark("apps-introductory"), "chat").tasks[at]
    sample = sample_of(task, 0, f"{code}\n```", "chat", "longest parseable span")
    assert sample.solution == code


@pytest.fixture(scope="module")
def pool(needs_sandbox: None) -> Iterator[Pool]:
    with Pool(num_workers=1) as pool:
        yield pool


def outcome(pool: Pool, data: Path, tests: dict[str, Any], program: str) -> Outcome:
    write_rows(data / "apps-test.jsonl.gz", [row(1, tests)])
    task = load_benchmark("apps-introductory").tasks[0]
    sample = Sample(task_id="APPS/1", index=0, completion=program)
    (examination,) = pool.examine_all([(program_of(task, sample), checks_of(task))])
    return examination.outcome


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def add(x, y): return x + y", Outcome.HELD),
        ("class Solution:\n    def add(self, x, y): return x + y", Outcome.HELD),
        ("def add(x, y): return x + y if x == 1 else x - y", Outcome.RAISED),  # of lists
        ("def add(x, y): return 3", Outcome.FAILED),
        ("def sub(x, y): return 3", Outcome.UNDEFINED),
        ("class Solution:\n    def sub(self): pass", Outcome.RAISED),
        ("class Solution:\n    def __init__(self): x\ndef add(x, y): return x + y", Outcome.RAISED),
        ("def Solution(): undefined\ndef add(x, y): return x + y", Outcome.RAISED),
        ("def add(x, y: return 3", Outcome.SYNTAX_ERROR),
    ],
)
def test_functions_and_methods_are_called(
    pool: Pool, data: Path, program: str, expected: Outcome
) -> None:
    assert outcome(pool, data, CALLED, program) is expected


@pytest.mark.parametrize(
    ("name", "program", "expected"),
    [
        ("sum", "def sum(x): return x[0] + x[1]", Outcome.HELD),
        ("len", "def len(x): return 3", Outcome.HELD),
        ("all", "class Solution:\n    def all(self, x): return 3", Outcome.HELD),
        ("sum", "def sum(x): return 4", Outcome.FAILED),
        ("len", "def len(x): return 2", Outcome.FAILED),
        ("any", "def any(x): return True", Outcome.FAILED),
        ("sum", "def total(x): return 3", Outcome.UNDEFINED),
    ],
)
def test_a_function_named_like_a_builtin_is_the_programs(
    pool: Pool, data: Path, name: str, program: str, expected: Outcome
) -> None:
    tests = {"fn_name": name, "inputs": [[[1, 2]]], "outputs": [3]}
    assert outcome(pool, data, tests, program) is expected


@pytest.mark.parametrize(
    ("given", "output", "program", "expected"),
    [
        ([1], [1, 2], "return 1, 2", Outcome.HELD),
        ([1], [[1, 2]], "return (1, 2)", Outcome.HELD),  # wrapped once more
        ([1], [[1], [2]], "return [(1,), (2,)]", Outcome.HELD),
        ([1], [1], "return 1", Outcome.HELD),
        ([{"1": "a"}], {"1": 2}, "return {k: 2 for k in x if type(k) is int}", Outcome.HELD),
        ([{"a": 1}], "a", "return min(x)", Outcome.HELD),
        ([1], [[0.3], {"a": 0.3}], "return (0.1 + 0.2,), {'a': 0.1 + 0.2}", Outcome.HELD),
        ([1], 0.3, "return 0.1 + 0.2", Outcome.HELD),
        ([1], 2.0, "return 2", Outcome.HELD),
        ([1], 2, "return 2.0", Outcome.HELD),
        ([1], [[[1, 2]]], "return [[(1, 2)]]", Outcome.HELD),
        ([1], True, "return True", Outcome.HELD),
        ([1], {"a": 0.3}, "return {'a': 0.1 + 0.2}", Outcome.HELD),
        ([{"--1": 1}], "--1", "return min(x)", Outcome.HELD),
        ([1], 0.3, "return 0.3001", Outcome.FAILED),
        ([1], 100000.0, "return 10 ** 400", Outcome.FAILED),
        ([1], 1000000, "return 1000001", Outcome.FAILED),
        ([1], 2, "return 2.0000001", Outcome.FAILED),
        ([1], 1, "return True", Outcome.FAILED),
        ([1], 1.0, "return True", Outcome.FAILED),
        ([1], True, "return 1", Outcome.FAILED),
        ([1], [[0, 1]], "return [False, True]", Outcome.FAILED),
        ([1], {"1": 2}, "return {True: 2}", Outcome.FAILED),
        ([1], [1.5], "return [float('nan')]", Outcome.FAILED),
        ([1], [1, 2], "return {1, 2}", Outcome.FAILED),
        ([1], [1, 2], "return [2, 1]", Outcome.FAILED),
        ([1], [1, 2], "return [1, 2, 3]", Outcome.FAILED),
        ([1], 1, "return '1'", Outcome.FAILED),
        (
            [1],
            5,
            "return type('Same', (), {'__eq__': lambda a, b: True})()",
            Outcome.FAILED,
        ),
    ],
)
def test_answers_are_held_to_what_json_can_say(
    pool: Pool, data: Path, given: list[Any], output: Any, program: str, expected: Outcome
) -> None:
    tests = {"fn_name": "f", "inputs": [given], "outputs": [output]}
    assert outcome(pool, data, tests, f"def f(x):\n    {program}") is expected


def test_numbers_may_have_more_digits_than_python_reads(pool: Pool, data: Path) -> None:
    text = json.dumps({"fn_name": "f", "inputs": [["DIGITS"]], "outputs": ["DIGITS"]})
    text = text.replace('"DIGITS"', "1" + "0" * 5000)
    write_rows(data / "apps-test.jsonl.gz", [row(1, {}, input_output=text)])
    checks = checks_of(load_benchmark("apps-introductory").tasks[0])
    programs = ["def f(x): return x", "def f(x): return x + 1"]
    found = pool.examine_all((program, checks) for program in programs)
    assert [each.outcome is Outcome.HELD for each in found] == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_output": "{"}, ":1: input_output: not JSON"),
        ({"input_output": "{}"}, ":1: input_output: has no lists"),
        ({"input_output": "[]"}, ":1: input_output: list; expected a JSON object"),
        ({"input_output": "[" * 100_000}, ":1: input_output: not JSON"),
        (
            {"input_output": json.dumps({**CALLED, "fn_name": 5})},
            ":1: input_output: fn_name is '5'; expected a name",
        ),
        (
            {"input_output": json.dumps({**CALLED, "fn_name": "f(); g"})},
            ":1: input_output: fn_name is 'f(); g'; expected a name",
        ),
        (
            {"input_output": json.dumps({**CALLED, "inputs": [[1, 2], 5]})},
            ":1: input_output: int among the inputs; expected a list of arguments for each call",
        ),
        ({"solutions": '{"a": 1}'}, ":1: solutions: expected a JSON list of programs"),
        ({"solutions": "[5]"}, ":1: solutions: expected a JSON list of programs"),
        ({"solutions": "["}, ":1: solutions: not JSON"),
        ({"question": None}, ":1: question: Input should be a valid string"),
    ],
)
def test_a_row_of_another_shape_is_named(data: Path, changes: dict[str, Any], message: str) -> None:
    write_rows(data / "apps-test.jsonl.gz", [{**ROWS[0], **changes}])
    with pytest.raises(RecordError) as caught:
        load_benchmark("apps-introductory")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_is_named_by_its_line_in_the_file(data: Path) -> None:
    """Also where those of other levels are passed over."""
    broken = {**ROWS[0], "input_output": "{"}
    write_rows(data / "apps-test.jsonl.gz", [ROWS[2], ROWS[3], broken])
    with pytest.raises(RecordError, match=r"apps-test.jsonl.gz:3: input_output: not JSON"):
        load_benchmark("apps-introductory")


@pytest.mark.parametrize("name", [None, "f"])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [([], []), ([["1"]], []), ([["1"]], ["1", "2"]), ([], ["1"])]
)
def test_problems_that_any_or_no_program_would_pass_are_left_out(
    data: Path, name: str | None, inputs: list[Any], outputs: list[Any]
) -> None:
    odd = row(1, {"fn_name": name, "inputs": inputs, "outputs": outputs})
    write_rows(data / "apps-test.jsonl.gz", [odd, ROWS[0]])
    assert [task.task_id for task in load_benchmark("apps-introductory").tasks] == ["APPS/4000"]
    write_rows(data / "apps-test.jsonl.gz", [odd])
    with pytest.raises(RecordError, match="no problem with tests of difficulty introductory"):
        load_benchmark("apps-introductory")


@pytest.mark.usefixtures("data")
def test_a_file_without_the_level_is_refused() -> None:
    with pytest.raises(RecordError, match="no problem with tests of difficulty competition"):
        load_benchmark("apps-competition")


def test_apps_is_had_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the number is called id."""
    rows = [{"id": each["problem_id"], **each} for each in ROWS]
    for each in rows:
        del each["problem_id"]
    write_rows(tmp_path / "downloaded", rows)

    class DownloadManager:
        def download(self, url: str) -> str:
            assert url == "hf://datasets/codeparrot/apps/test.jsonl"
            return str(tmp_path / "downloaded")

    monkeypatch.delenv("MTP_CODE_DATA", raising=False)
    monkeypatch.setattr("evals.benchmarks.sources._is_within_reach", lambda url: True)
    monkeypatch.setattr("datasets.DownloadManager", DownloadManager)
    assert len(load_benchmark("apps-introductory").tasks) == 2


def test_apps_that_is_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class DownloadManager:
        def download(self, url: str) -> str:
            raise FileNotFoundError(url)

    monkeypatch.delenv("MTP_CODE_DATA", raising=False)
    monkeypatch.setattr("evals.benchmarks.sources._is_within_reach", lambda url: False)
    monkeypatch.setattr("datasets.DownloadManager", DownloadManager)
    with pytest.raises(BenchmarkUnavailable, match=r"holds apps-test.jsonl.gz"):
        load_benchmark("apps-interview")


@pytest.mark.usefixtures("data", "needs_sandbox")
def test_both_kinds_are_judged_side_by_side(tmp_path: Path) -> None:
    benchmark = load_benchmark("apps-introductory")
    reads = "x, y = map(int, input().split())\nprint(x + y if x < 3 else 0)"
    adds = "class Solution:\n    def add(self, x, y):\n        return x + y if x != [1] else []"
    write_samples(
        tmp_path / "samples.jsonl",
        [
            Sample(task_id="APPS/4000", index=0, solution=benchmark.tasks[0].reference),
            Sample(task_id="APPS/4000", index=1, solution=reads),
            Sample(task_id="APPS/4001", index=0, solution=adds),
            Sample(task_id="APPS/4001", index=1, solution="def add(x, y): return x + y"),
        ],
    )
    judge(tmp_path / "samples.jsonl", benchmark, tmp_path / "verdicts.jsonl")
    assert [
        (each.verdict, each.num_checks_passed, each.num_checks)
        for each in read_verdicts(tmp_path / "verdicts.jsonl")
    ] == [
        ("passed", 2, 2),
        ("wrong answer", 1, 2),
        ("wrong answer", 1, 2),
        ("passed", None, None),
    ]
