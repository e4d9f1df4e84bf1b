"""A model trained, asked, judged and decoded with, at a size of no use."""

from dataclasses import replace
from typing import Any

import pytest

import evals.errors
from mtp_code.cli import trained_bench
from mtp_code.cli.options import named_of
from mtp_code.cli.trained_bench import HELD_OUT_FILE, PLANS, Trained, TrainedBench, trained_lines
from mtp_code.run_folder import load_run
from mtp_code.training.bench import Bench, OutOfTimeError
from tests.commands import complaint, mtp_code

pytestmark = pytest.mark.usefixtures("shared_incubators")


SMOKE = PLANS["smoke"]
NARROW = ("model.width=32", "model.num_attn_heads=2", "model.ffn_width=64")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_bench, "all_references", list)  # a minute of looking for copies
        folder = tmp_path_factory.mktemp("trained")
        step_s = Bench("smoke", 600, lambda line: None).fastest_step_s
        plan = replace(SMOKE, settings=(*SMOKE.settings, *NARROW), max_new_tokens=8)
        found = list(TrainedBench(plan, folder, lambda: 600.0, step_s).rows())
        assert "import" in (folder / HELD_OUT_FILE).read_text()
        assert load_run(folder / "bytes8").model.num_mtp_heads == 8
        return found


def of(rows: list[dict[str, Any]], num_heads: int, key: str) -> Any:
    (row,) = [row for row in rows if row.get("num_mtp_heads") == num_heads and key in row]
    assert row["num_steps"] == SMOKE.max_steps
    return row[key]


def test_both_are_trained_on_the_same_tokens_and_tried_on_held_out_packages(rows):
    tokens = rows[0]["tokens"]
    assert tokens["packages"]["held_out"] > 0
    for num_heads in (4, 1):
        trained, held_out = (of(rows, num_heads, key) for key in ("train", "held_out"))
        assert trained["tokens"] == SMOKE.max_steps * 4 * 64
        assert set(held_out) == {"packages", "micro"}
        for losses in held_out.values():
            assert len(losses["loss_by_offset"]) == num_heads
            assert 1 < losses["bits_per_byte"] < 8
    assert len(rows) == 1 + 3 + 2 + 3


def test_acceptance_is_had_before_the_minutes_of_judging(rows):
    in_order = [key for row in rows for key in ("decoding", "micro_pass_at_1") if key in row]
    assert in_order == ["decoding", "micro_pass_at_1", "micro_pass_at_1", "decoding"]


def test_pass_at_1_and_acceptance_come_with_their_counts(rows):
    for num_heads in (4, 1):
        passed = of(rows, num_heads, "micro_pass_at_1")
        assert 0 <= passed["low"] <= passed["value"] <= passed["high"] <= 1
        assert (passed["tasks"], passed["samples"]) == (4, 1)
    decoding = of(rows, 4, "decoding")
    assert [mode["drafts"] for mode in decoding[:4]] == [0, 1, 2, 3]
    assert all(len(mode["acceptance_by_offset"]) == mode["drafts"] for mode in decoding[:4])


def test_a_model_on_bytes_has_eight_heads_and_their_acceptance(rows):
    modes = of(rows, 8, "decoding")
    assert [mode["drafts"] for mode in modes[:8]] == list(range(8))
    assert of(rows, 8, "held_out")["packages"]["bits_per_byte"] > 1
    assert not any("micro_pass_at_1" in row for row in rows if row.get("num_mtp_heads") == 8)


def test_every_row_is_told_in_words(rows):
    told = "\n".join(line for row in rows for line in trained_lines(row))
    assert "corpus, M tokens | packages 0." in told
    assert "trained n=4 | 8 steps | packages held out: by offset " in told
    assert "trained n=1 | micro pass@1 " in told
    assert "trained n=4 | speculative 3 drafts | accepted " in told
    assert "corpus, M bytes | packages 0." in told
    assert "trained n=8, bytes | speculative 7 drafts | accepted " in told


def test_without_time_for_a_few_steps_corpora_are_all_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(trained_bench, "all_references", list)
    monkeypatch.setattr(TrainedBench, "_prepare", lambda bench, model: {"tokens": {}})
    bench = TrainedBench(SMOKE, tmp_path, lambda: 100.0, lambda recipe: 10.0)
    rows = bench.rows()
    assert [next(rows), next(rows)] == [{"tokens": {}}] * 2  # of tokens and of bytes
    with pytest.raises(OutOfTimeError):
        next(rows)


def test_no_part_begins_behind_the_time_that_is_reserved(tmp_path, monkeypatch):
    """What was trained by then is kept."""
    left_s = 100.0

    def trained(bench: TrainedBench, model: Trained, num_steps: int) -> dict[str, Any]:
        nonlocal left_s
        left_s -= 50.5
        return {}

    monkeypatch.setattr(TrainedBench, "_prepare", lambda bench, model: {"tokens": {}})
    monkeypatch.setattr(TrainedBench, "_trained", trained)
    monkeypatch.setattr(TrainedBench, "_load", lambda bench, model: None)
    rows = TrainedBench(PLANS["gpu"], tmp_path, lambda: left_s, lambda recipe: 1.0).rows()
    assert [next(rows).get("num_mtp_heads") for _ in range(3)] == [None, 4, 1]
    with pytest.raises(OutOfTimeError):
        next(rows)


@pytest.mark.parametrize("fails", ["_trained", "_decoded", "_prepare", "_load"])
def test_what_fails_costs_no_other_figure(tmp_path, monkeypatch, fails):
    for name in ("_prepare", "_trained", "_load", "_decoded", "_passed"):

        def part(bench: TrainedBench, model: Trained, *_: Any, name: str = name) -> dict[str, Any]:
            if name == fails and model.name == "n4":
                raise RuntimeError("CUDA error")
            return {name: model.name}

        monkeypatch.setattr(TrainedBench, name, part)
    rows: list[dict[str, Any]] = []
    try:
        bench = TrainedBench(PLANS["gpu"], tmp_path, lambda: 100.0, lambda recipe: 1.0)
        for row in bench.rows():
            rows.append(row)  # noqa: PERF402 - what was there before it raises
    except RuntimeError:
        assert fails in ("_prepare", "_load")
    found = [(key, row[key]) for row in rows for key in row if key[0] == "_" or key == "error"]
    failed = ("error", "n4: RuntimeError: CUDA error")
    of_bytes = [("_prepare", "bytes8"), ("_trained", "bytes8"), ("_decoded", "bytes8")]
    prepared, trained = ("_prepare", "n4"), [("_trained", "n4"), ("_trained", "n1")]
    expected = {
        "_trained": [prepared, failed, trained[1], ("_passed", "n1")],
        "_decoded": [prepared, *trained, failed, ("_passed", "n4"), ("_passed", "n1")],
        "_prepare": [],
        "_load": [prepared, *trained],
    }
    assert found == expected[fails] + of_bytes


def test_sections_are_chosen_by_name():
    known = {"gradients": 1, "steps": 2, "trained": 3}
    assert named_of("--sections", None, known) == known
    assert list(named_of("--sections", "trained,steps", known)) == ["trained", "steps"]
    with pytest.raises(evals.errors.InputError, match=r"--sections step: .*did you mean steps"):
        named_of("--sections", "step", known)


def test_a_folder_to_keep_models_in_is_new_or_empty(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for name, said in (("full", "is not empty"), ("full/x", "a file")):
        done = mtp_code("bench", "train", "--smoke", "--keep", name, cwd=tmp_path)
        assert said in complaint(done, 2)
