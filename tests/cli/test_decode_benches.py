"""`bench decode` and `bench decode-shapes`, as a terminal has them."""

import json
import re
from pathlib import Path

import pytest

from mtp_code.tokenizer import BytesTokenizer
from tests.commands import Done, complaint, mtp_code
from tests.mtp_code.interop.runs import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    write_run(folder, BytesTokenizer(), num_layers=5)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Two texts, a file that is none, and one that is hidden."""
    folder = tmp_path_factory.mktemp("prose")
    (folder / "a.txt").write_text("one two three four five six")
    (folder / "b.py").write_text("def f(x):\n    return x\n")
    (folder / "c.bin").write_bytes(b"\xff\xfe\x00")
    (folder / ".d.txt").write_text("hidden hidden hidden hidden")
    return folder


def decode(run: Path, cwd: Path, *options: object) -> Done:
    return mtp_code("bench", "decode", run, "--max-new-tokens", 6, *options, cwd=cwd)


@pytest.fixture(scope="module")
def measured(run, texts, tmp_path_factory) -> tuple[Done, Path]:
    cwd = tmp_path_factory.mktemp("here")
    done = decode(
        run, cwd, "--prompts", texts, "--piece-tokens", 8, "--count", 2, "--batches", "1,2",
        "--synthetic", "--out", "out.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, cwd


def test_figures_of_all_batches_are_one_file_beside_a_picture(measured, texts):
    _, cwd = measured
    record = json.loads((cwd / "out.json").read_text())
    assert record["prompts"] == {"benchmark": texts.name, "count": 2}
    assert record["copy_bytes_per_s"] > 0
    assert record["left_out"] == []
    modes = ["plain", *["speculative"] * 3, "auto", "tree"]
    assert [(row["batch_rows"], row["mode"]) for row in record["rows"]] == [
        (size, mode) for size in (1, 2) for mode in modes
    ]
    assert all(row["identical_outputs"] == 2 for row in record["rows"])
    assert [(row["batch_rows"], row["drafts"]) for row in record["synthetic"]] == [
        (size, drafts) for size in (1, 2) for drafts in (1, 2, 3)
    ]
    assert "<svg" in (cwd / "out.svg").read_text()


def test_words_tell_speed_parts_and_agreement(measured):
    lines = measured[0].stdout.splitlines()
    assert len(lines) == 2 * (6 + 4 + 3)
    assert lines[0].startswith("plain, 1 row ")
    assert "2/2 identical" in lines[0]
    assert "of what memory allows" in lines[0]
    (parts,) = [line for line in lines if "by its parts" in line and "3 drafts, 2 rows" in line]
    for part in ("trunk", "head 1", "other heads", "unembedding", "acceptance", "host"):
        assert f"{part} " in parts
    told = [line for line in lines if " as told, " in line]
    assert len(told) == 6
    assert all(re.search(r" (within|apart for) 3 %, ", line) for line in told)


@pytest.mark.parametrize(
    "options, said",
    [
        (("--prompts", "humanevl"), "did you mean humaneval?"),
        (("--prompts", "."), "holds no text"),
        (("--prompts", "long.txt", "--piece-tokens", 300), "leaves room in a context of 256"),
        (("--prompts", "long.txt", "--batches", "0,2"), "--batches 0,2: expected sizes"),
        (("--prompts", "long.txt", "--batches", "2", "--peers"), "add 1 to --batches 2"),
        (("--prompts", "none.bin"), "none.bin: not UTF-8 text"),
    ],
)
def test_bad_wishes_are_refused_with_a_line(run, tmp_path, options, said):
    if "." not in options:
        (tmp_path / "long.txt").write_text("x" * 400)
        (tmp_path / "none.bin").write_bytes(b"\xff\xfe")
    assert said in complaint(decode(run, tmp_path, *options), 2)
    assert not list(tmp_path.glob("*.json"))


def test_a_batch_without_memory_is_left_out_and_the_others_go_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr("mtp_code.decoding.engine.largest_num_rows", lambda *_: 2)
    (tmp_path / "x.txt").write_text("a few words")
    options = ("--prompts", "x.txt", "--batches", "2,3", "--out", "out.json")
    done = decode(run, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert {row["batch_rows"] for row in record["rows"]} == {2}
    assert "the most that do are 2" in record["left_out"][0]
    assert "the most that do are 2" in done.stderr
    assert "the most that do are 2" in complaint(decode(run, tmp_path, *options[:3], "3"), 3)


SMALL = [
    f"--set={setting}"
    for setting in ("model.width=32", "model.num_layers=3", "model.num_mtp_heads=2")
]


def test_shapes_are_measured_as_asked(tmp_path):
    done = mtp_code(
        "bench", "decode-shapes", "--smoke", "--shapes", "tiny", "--batches", "3",
        *SMALL, "--out", "out.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny, 3 rows, drafts 0" in done.stdout
    assert "by CPU time" in done.stdout
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {row["rows"] for row in rows} == {3}
    assert "<svg" in (tmp_path / "out-tiny.svg").read_text()


def test_a_shape_is_held_to_transformers(tmp_path):
    done = mtp_code(
        "bench", "decode-shapes", "--smoke", "--batches", "1", *SMALL, "--out", "out.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows[-1]["drafts"] == "transformers generate"
    assert rows[-1]["speed_up"] > 0
    assert "smoke, 1 rows, drafts transformers generate" in done.stdout


def test_a_shape_that_is_none_is_refused(tmp_path):
    done = mtp_code("bench", "decode-shapes", "--shapes", "tinny", cwd=tmp_path)
    assert "tinny" in complaint(done, 2)
