"""The bench at its smallest: every section answers, and one that fails leaves the others alone."""

import json
from typing import Any

import pytest

from mtp_code.training import bench
from mtp_code.training.bench import Bench, Plan


@pytest.fixture(scope="module", autouse=True)
def smaller() -> Any:
    plan = bench.PLANS["smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bench, "PLANS", {"smoke": Plan(plan.shapes, plan.vocab_sizes[:1], plan.num_rounds)}
        )
        patch.setattr(bench, "NUM_HEADS", (1, 4))
        yield


def test_every_section_answers(monkeypatch):
    def broken(self: Bench) -> Any:
        yield {"kept": 1}
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Bench, "attention", broken)
    lines: list[str] = []
    kept: list[str] = []
    bench = Bench("smoke", 300, lines.append)
    record = bench.run(bench.sections(), lambda so_far: kept.append(json.dumps(so_far)))
    assert len(kept) == len(lines) + len(bench.sections()), "with each row, and as a section ends"
    assert json.loads(kept[-1]) == record
    assert list(json.loads(kept[0])) == ["size", "device", "gradients"]
    assert record["attention"] == {
        "rows": [{"kept": 1}], "error": "RuntimeError: no such kernel"
    }  # fmt: skip
    fp32, bf16 = record["gradients"]["rows"]
    assert fp32["worst_parameter"] < 1e-4 < bf16["worst_parameter"] < 0.1
    (four,) = record["steps"]["rows"]
    assert four["over_flop_matched"] == pytest.approx(four["overhead"] / four["flops_ratio"])
    assert four["unembedding_share"] == pytest.approx(1)  # a layer a head, taken from the trunk
    assert {row["loss"] for row in record["losses"]["rows"]} == {"chunked", "torch", "liger", "cut"}
    assert [row["num_mtp_heads"] for row in record["vocabulary"]["rows"]] == [1, 4]
    assert len(lines) == sum(len(record[name]["rows"]) for name in (
        "gradients", "steps", "losses", "attention", "vocabulary"
    ))  # fmt: skip


def test_without_time_each_section_says_so():
    bench = Bench("smoke", 0, lambda line: None)
    record = bench.run(bench.sections())
    assert "no time" in record["steps"]["error"]
    assert record["vocabulary"]["rows"] == []
