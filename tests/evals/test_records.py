import codecs
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from evals.errors import RecordError
from evals.records import (
    Baseline,
    Measured,
    ReferenceBits,
    Sample,
    Sampling,
    Verdict,
    differences,
    read_record,
    read_rows,
    read_samples,
    rows,
    write_record,
    write_samples,
)
from tests.evals.scored import measured, sampling

TASKS = ("HumanEval/0", "HumanEval/1", "HumanEval/10")


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(path: Path, content: bytes) -> tuple[list[Sample], list[str]]:
    path.write_bytes(content)
    told: list[str] = []
    return list(read_samples(path, TASKS, told.append)), told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples.jsonl"


BITS = {
    "benchmark": "toy",
    "data_sha256": "0",
    "prompt_format": "raw",
    "model": {},
    "tasks": {"Toy/0": [8.0, 2]},
}
GOOD = {"task_id": "HumanEval/0", "completion": "    pass"}


def test_samples_of_both_formats_are_read(path: Path) -> None:
    solution = {"task_id": "HumanEval/1", "solution": "x = 1", "_identifier": "a tag of EvalPlus's"}
    samples, told = read(path, lines(GOOD, solution, GOOD))
    assert samples == [
        Sample(task_id="HumanEval/0", index=0, completion="    pass"),
        Sample(task_id="HumanEval/1", index=0, solution="x = 1"),
        Sample(task_id="HumanEval/0", index=1, completion="    pass"),
    ]
    assert told == []


def test_samples_written_are_the_samples_read(path: Path) -> None:
    samples = [
        Sample(task_id="HumanEval/0", index=3, completion="é\ud800\n", raw="é\ud800\nclass"),
        Sample(task_id="HumanEval/10", index=0, solution="\x00"),
    ]
    write_samples(path, samples)
    assert list(read_samples(path, TASKS, pytest.fail)) == samples


def test_a_gzip_file_is_read_whatever_its_name(path: Path) -> None:
    samples, told = read(path, gzip.compress(lines(GOOD)))
    assert len(samples) == 1
    assert told == []


def test_a_broken_last_line_is_left_out_and_named(path: Path) -> None:
    samples, told = read(path, lines(GOOD, GOOD) + b'{"task_id": "HumanEval/1", "compl')
    assert len(samples) == 2
    assert told[0].startswith(f"{path}:3: not JSON")
    assert told[0].endswith("kept the 2 samples before it")


def test_a_gzip_file_that_ends_early_is_read_up_to_there(path: Path) -> None:
    rows = [{"task_id": "HumanEval/0", "completion": f"{number**20}"} for number in range(20_000)]
    content = gzip.compress(lines(*rows))
    samples, told = read(path, content[: len(content) // 2])
    assert 0 < len(samples) < len(rows)
    assert "the gzip file ends early; kept" in told[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no samples"),
        (b"\n\n", "holds no samples"),
        (b"\xff\xfe\x00", ":1: not UTF-8 text (byte 1 of the line)"),
        (b'{"task_id"', ":1: not JSON"),
        (b"\x1f\x8bno gzip after all", "broken gzip file"),
        (b"{broken\n" + lines(GOOD), ":1: not JSON"),
        (lines(GOOD) + b"\xff\n" + lines(GOOD), ":2: not UTF-8"),
        (lines([1]), ":1: list; expected one JSON object a line"),
        (
            lines({"completion": ""}),
            ":1: has no task_id; expected a task's name",
        ),
        (
            lines(GOOD, {"task_id": "HumanEva/10", "completion": ""}),
            ":2: unknown task 'HumanEva/10'; did you mean HumanEval/10?",
        ),
        (lines({"task_id": "HumanEval/0"}), ":1: expected one of completion and solution"),
        (lines({**GOOD, "solution": ""}), ":1: expected one of completion and solution"),
        (lines({**GOOD, "completion": 1}), ":1: completion: Input should be a valid string"),
        (lines({**GOOD, "index": -1}), ":1: index: Input should be greater than"),
        (lines({**GOOD, "index": True}), ":1: index: Input should be a valid integer"),
        (lines({**GOOD, "index": "0"}), ":1: index: Input should be a valid integer"),
        (lines({**GOOD, "index": "LONG"}).replace(b'"LONG"', b"1" * 5000), ":1: index: Input"),
        (
            lines({"task_id": "LONG"}).replace(b'"LONG"', b"1" * 5000),
            ":1: task_id is <a number of 5000 digits>; expected a task's name",
        ),
        (
            lines({**GOOD, "index": 1}, {**GOOD, "index": 1}),
            ":2: sample 1 of HumanEval/0 was given before",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(RecordError) as caught:
        read(path, content)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_passed_over(path: Path, pack: Callable[[bytes], bytes]) -> None:
    samples, _ = read(path, pack(codecs.BOM_UTF8 + lines(GOOD, GOOD)))
    assert len(samples) == 2


def test_a_number_that_nobody_reads_may_be_of_any_length(path: Path) -> None:
    samples, _ = read(path, lines({**GOOD, "seed": "LONG"}).replace(b'"LONG"', b"-" + b"1" * 5000))
    assert samples == [Sample(index=0, **GOOD)]


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(RecordError, match=r"samples.jsonl: no regular file; write it to one first"):
        list(read_samples(path, TASKS, pytest.fail))


def test_a_missing_file_is_told_in_one_line(path: Path) -> None:
    with pytest.raises(RecordError, match=r"samples.jsonl: No such file or directory; expected"):
        list(read_samples(path, TASKS, pytest.fail))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        pytest.param("[" * 200_000, "not JSON", id="deep"),
        ("[]", "holds list; expected how samples were drawn, as mtp-code sample writes it"),
        ('{"schema": 2}', "schema: Input should be 1"),
        ('{"sead": 2}', "unknown key sead; did you mean seed?"),
    ],
)
def test_a_record_that_is_none_is_told_in_one_line(path: Path, content: str, message: str) -> None:
    path.write_text(content)
    with pytest.raises(RecordError) as caught:
        read_record(Sampling, path)
    assert message in str(caught.value)


def test_another_record_in_its_place_is_told_by_what_it_is(path: Path) -> None:
    write_record(path, ReferenceBits.model_validate(BITS))
    with pytest.raises(RecordError, match=r"holds reference bits, .*; expected how samples were"):
        read_record(Sampling, path)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"Toy/0": "PP"}, "base_verdicts and tasks do not hold the same tasks: Toy/1"),
        ({"Toy/0": "PW", "Toy/1": "WP"}, "base_verdicts.Toy/1: WP, but by all checks PW"),
        ({"Toy/0": "PW", "Toy/1": "P"}, "base_verdicts.Toy/1: P, but by all checks PW"),
        ({"Toy/0": "PZ", "Toy/1": "PP"}, "base_verdicts.Toy/0: PZ, but by all checks PW"),
    ],
)
def test_base_verdicts_are_of_the_same_samples(base: dict[str, str], message: str) -> None:
    row = measured(["PW", "PW"]).as_json()
    assert Measured.model_validate(row | {"base_verdicts": {"Toy/0": "PW", "Toy/1": "PP"}})
    with pytest.raises(ValidationError, match=message):
        Measured.model_validate(row | {"base_verdicts": base})


def test_numbers_of_a_task_stand_on_one_line(path: Path) -> None:
    bits = ReferenceBits(
        benchmark="toy",
        data_sha256="d",
        prompt_format="humaneval raw",
        model={},
        tasks={"Toy/0": (12.5, 10), "Toy/1": (3.0, 21)},
    )
    write_record(path, bits)
    assert '"Toy/0": [12.5, 10],\n' in path.read_text()
    assert read_record(ReferenceBits, path) == bits
    assert bits.bits_per_byte == 0.5
    write_record(path, measured(["PWW"], checks_passed={"Toy/0": (1.0, 0.25, 0.0)}))
    assert '"Toy/0": [1.0, 0.25, 0.0]\n' in path.read_text()


def test_a_record_is_written_as_json_is_but_for_lists_of_numbers(path: Path) -> None:
    texts = {
        "list in a text": "[\n 1,\n 2\n]",
        "blanks": "[" + " " * 100_000,
        "é\ud800": [["[ 1 ]", None, True], [True, False], [], {}],
        "empty": {"list": [], "dict": {}},
    }
    write_record(path, sampling(model=texts))
    assert path.read_text() == json.dumps(sampling(model=texts).as_json(), indent=1) + "\n"
    numbers = {"kept": [[1, 2], [0.5, -1e-05], [1, "a"]]}
    write_record(path, sampling(model=numbers))
    assert (
        '"kept": [\n   [1, 2],\n   [0.5, -1e-05],\n   [\n    1,\n    "a"\n   ]\n'
        in path.read_text()
    )
    assert read_record(Sampling, path) == sampling(model=numbers)


def test_the_baseline_in_git_is_written_as_it_stands(path: Path) -> None:
    kept = Path(__file__).parents[2] / "evals/baselines/micro-tiny.json"
    write_record(path, read_record(Baseline, kept))
    assert path.read_bytes() == kept.read_bytes()


VERDICT = {
    "task_id": "Toy/0",
    "index": 0,
    "verdict": "wrong answer",
    "detail": "",
    "ending": "exited",
    "exit_code": 0,
    "cpu_s": 0.1,
    "wall_s": 0.1,
    "peak_memory_bytes": None,
    "output_tail": "",
    "isolation": "full",
}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"num_checks_passed": 3, "num_checks": 2}, "num_checks_passed is 3, but num_checks 2"),
        ({"num_checks_passed": 3}, "both of num_checks_passed and num_checks, or neither"),
        ({"num_checks": 3}, "both of num_checks_passed and num_checks, or neither"),
    ],
)
def test_of_a_verdicts_checks_no_more_pass_than_there_are(
    counts: dict[str, int], message: str
) -> None:
    for possible in ({}, {"num_checks_passed": 2, "num_checks": 2}):
        assert Verdict.model_validate(VERDICT | possible)
    with pytest.raises(ValidationError, match=message):
        Verdict.model_validate(VERDICT | counts)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_shares_of_checks_are_shares(share: float) -> None:
    row = measured(["PW"]).as_json()
    assert Measured.model_validate(row | {"checks_passed": {"Toy/0": (1.0, 0.0)}})
    with pytest.raises(ValidationError, match=r"checks_passed.Toy/0.1"):
        Measured.model_validate(row | {"checks_passed": {"Toy/0": (1.0, share)}})


def test_differences_name_the_field_however_deep() -> None:
    ours = {"same": 1, "model": {"step": 1, "name": "x"}, "gone": 1}
    theirs = {"same": 1, "model": {"step": 2, "name": "x"}, "new": None, "newer": 2}
    assert list(differences(ours, theirs)) == [
        ("model.step", 1, 2),
        ("gone", 1, None),
        ("newer", None, 2),
    ]


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_soon(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = b'{"task_id": "a", "completion": ""}\n'

    def refusal(content: bytes) -> str:
        path.write_bytes(gzip.compress(content))
        with pytest.raises(RecordError) as caught:
            list(read_samples(path, ["a"], pytest.fail))
        return str(caught.value)

    monkeypatch.setattr(rows, "_MOST_BLANK_LINES", 1000)
    assert refusal(row + b"\n" * 2000 + row) == (
        f"{path}:1002: more than 1,000 blank lines in a row; leave them out"
    )
    monkeypatch.setattr(rows, "_MOST_LINE_BYTES", 2 << 20)
    assert refusal(row + b" " * (3 << 20)).startswith(f"{path}:2: longer than 2 MiB")
    monkeypatch.setattr(rows, "_MOST_ROWS", 3)
    path.write_bytes(row * 4)
    with pytest.raises(RecordError, match=":4: more than 3 rows; split the file"):
        read_rows(path)
    # The control: what is just not too much is read.
    path.write_bytes(row + b"\n" * 1000 + row + b" " * ((2 << 20) - len(row)) + row)
    assert len(read_rows(path)) == 3
