"""The bench at its smallest: every section answers, and one that fails leaves the others alone."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtp_code.cli.benches import _train_errors, _train_lines
from mtp_code.cli.trained_bench import SHARE_OF_BENCH
from mtp_code.errors import MachineError
from mtp_code.training import bench
from mtp_code.training.bench import Bench, Plan, Section


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Any:
    plan = bench.PLANS["smoke"]
    with pytest.MonkeyPatch.context() as patch:
        smoke = Plan(plan.shapes, plan.vocab_sizes[:1], plan.num_rounds, plan.step_vocab_sizes)
        patch.setattr(bench, "PLANS", {"smoke": smoke})
        patch.setattr(bench, "NUM_HEADS", (4, 1))
        yield


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], list[str], list[str]]:
    """The record, the lines that were told, and what was kept on the way."""

    def broken() -> Any:
        yield {"kept": 1}
        raise RuntimeError("no such kernel")

    lines: list[str] = []
    kept: list[str] = []
    measuring = Bench("smoke", 300, lines.append)
    sections = measuring.sections() | {"attention": Section(broken, 0.1)}
    record = measuring.run(sections, lambda so_far: kept.append(json.dumps(so_far)))
    return record, lines, kept


SECTIONS = ("gradients", "steps", "vocabulary", "losses", "attention", "predictions")


def test_every_section_answers_and_a_broken_one_leaves_the_others(measured):
    record, lines, kept = measured
    num_rows = sum(len(record[name]["rows"]) for name in SECTIONS)
    assert len(lines) == 1 + num_rows, "the plan, and each row"
    assert len(kept) == num_rows + len(SECTIONS), "with each row, and as a section ends"
    assert json.loads(kept[-1]) == record
    assert list(json.loads(kept[0])) == ["size", "device", "planned_s", "gradients"]
    attention = record["attention"]
    assert (attention["rows"], attention["error"]) == (
        [{"kept": 1}], "RuntimeError: no such kernel"
    )  # fmt: skip
    assert [name for name in SECTIONS if "error" in record[name]] == ["attention"]
    assert all(record[name]["elapsed_s"] > 0 for name in SECTIONS)


def test_gradients_are_within_their_bounds(measured):
    fp32, bf16 = measured[0]["gradients"]["rows"]
    assert fp32["worst_parameter"] < 1e-4 < bf16["worst_parameter"] < 0.05
    assert "error" not in fp32 | bf16


def test_a_step_comes_with_its_twins_and_with_what_both_are_worth(measured):
    rows = measured[0]["steps"]["rows"]
    assert [(row["num_mtp_heads"], row["vocab_size"]) for row in rows] == [(4, 256), (4, 1000)]
    for row in rows:
        assert row["over_flop_matched"] == pytest.approx(row["overhead"] / row["flops_ratio"])
        assert row["unembedding_share"] == pytest.approx(1)  # a layer a head, taken from the trunk
        assert row["overhead"] == pytest.approx(row["step_s"] / row["twin"]["step_s"])  # one pair
        for speed in (row, row["twin"]):
            assert speed["tokens_per_s"] == pytest.approx(32 / speed["step_s"])


def test_each_loss_is_left_out_or_timed_and_near_fp64(measured):
    rows = measured[0]["losses"]["rows"]
    assert [row["loss"] for row in rows] == ["chunked", "torch", "liger", "cut"]
    for row in rows:
        assert ("left_out" in row) != ("step_s" in row)
    assert "step_s" in rows[0]
    assert all(row["distance"] < 1e-4 for row in rows if "step_s" in row)


def test_the_grid_begins_with_four_heads_and_one_and_is_predicted_behind(measured):
    for name in ("vocabulary", "predictions"):
        rows = measured[0][name]["rows"]
        assert [(row["num_mtp_heads"], row["vocab_size"]) for row in rows] == [(4, 256), (1, 256)]
    assert all(row["predicted_peak_bytes"] > 2**20 for row in rows)


def test_what_was_measured_is_told_in_words(measured):
    told = list(_train_lines(measured[0] | {"attention": {"rows": []}}))
    record = measured[0]
    assert len(told) == sum(len(record[name]["rows"]) for name in SECTIONS if name != "attention")
    assert any(re.match(r"smoke V=1000 n=4 \| .*x of FLOP-matched \| 1 pairs \| .* ms,", line)
               for line in told)  # fmt: skip
    assert any(line.startswith("smoke loss liger | left out: ") for line in told)
    assert any(re.match(r"smoke V=256 n=1 \| peak predicted .* MiB$", line) for line in told)
    assert list(_train_errors(record)) == ["attention: RuntimeError: no such kernel"]


def test_a_distance_beyond_its_bound_is_an_error(monkeypatch):
    monkeypatch.setitem(bench.BOUNDS, "fp32", 1e-12)
    measuring = Bench("smoke", 300, lambda line: None)
    (fp32, bf16) = measuring.gradients()
    assert "a parameter's gradient is " in fp32["error"]
    assert "error" not in bf16
    assert list(_train_errors({"gradients": {"rows": [fp32, bf16]}})) == [
        f"gradients smoke fp32: {fp32['error']}"
    ]
    assert "error" in bench._beyond("it", float("nan"), 0.1)


def test_a_way_to_compute_the_loss_that_is_not_installed_is_left_out(monkeypatch):
    measuring = Bench("smoke", 300, lambda line: None)
    monkeypatch.setattr(bench, "load_backend", _lacking)
    for row in measuring.losses():
        assert row["left_out"] == f"{row['loss']} is not installed"
        assert not {"error", "step_s"} & row.keys()


def test_the_documents_table_of_sections_has_their_shares_of_the_time():
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    told = {name: int(share) for name, share in re.findall(r"\| `(\w+)` \| (\d+) % \|", text)}
    sections = Bench("smoke", 300, lambda line: None).sections()
    shares = {name: section.share for name, section in sections.items()}
    assert told == {
        name: round(100 * share) for name, share in [*shares.items(), ("trained", SHARE_OF_BENCH)]
    }


def _lacking(loss: str, device: torch.device) -> None:
    raise MachineError(f"{loss} is not installed")


def test_a_section_has_its_share_and_what_those_before_left(monkeypatch):
    """And nothing of those behind it, however long it takes."""
    now_s, lines = 0.0, list[str]()
    monkeypatch.setattr(bench, "time", SimpleNamespace(monotonic=lambda: now_s))
    measuring = Bench("smoke", 100, lines.append)
    left_s: dict[str, float] = {}

    def taking(name: str, elapsed_s: float) -> Any:
        def rows() -> Any:
            nonlocal now_s
            left_s[name] = measuring.left_s()
            now_s += elapsed_s
            yield {}

        return rows

    sections = {
        "short": Section(taking("short", 10.0), 0.2),
        "long": Section(taking("long", 70.0), 0.2),
        "reserved": Section(taking("reserved", 0.0), 0.4),
    }
    measuring.run(sections)
    assert lines[0] == "planned: short 25 s, long 25 s, reserved 50 s"
    assert left_s == {"short": 25.0, "long": 40.0, "reserved": 20.0}


def test_without_time_sections_say_so():
    bench = Bench("smoke", 0, lambda line: None)
    sections = bench.sections()
    record = bench.run({name: sections[name] for name in ("steps", "vocabulary")})
    assert "no time" in record["steps"]["error"]
    assert record["vocabulary"]["rows"] == []
