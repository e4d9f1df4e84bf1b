import time
from dataclasses import replace

import pytest
import torch

from mtp_code.decoding import synthetic
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Completion, Request
from mtp_code.decoding.state import row_bytes
from mtp_code.decoding.synthetic import (
    MEASURED,
    Measured,
    ToldCounts,
    _config,
    _decode,
    _Way,
    agreement,
    agrees,
    measure,
    precision,
    rate_for,
    told_advance,
)
from mtp_code.errors import InteropError, MachineError
from mtp_code.model.accounting import count_parameters
from mtp_code.model.mtp import build_model


@pytest.fixture
def no_copies(monkeypatch):
    """The machine's bandwidth, for which 400 MB are copied each time, is told."""
    monkeypatch.setattr(synthetic, "copy_bandwidth", lambda device: 1e10)


needs_no_copies = pytest.mark.usefixtures("no_copies")


@pytest.mark.parametrize(("tokens_per_forward", "num_drafts"), [(1.0, 3), (2.5, 3), (3.9, 7)])
def test_the_rate_gives_as_many_tokens(tokens_per_forward, num_drafts):
    rate = rate_for(tokens_per_forward, num_drafts)
    expected = sum(rate**place for place in range(num_drafts + 1))
    assert expected == pytest.approx(tokens_per_forward)


def test_more_tokens_than_a_round_gives_are_refused():
    with pytest.raises(ValueError, match=r"1\.\.4 with 3 drafts, got 4\.5"):
        rate_for(4.5, 3)


@pytest.mark.parametrize("num_rows", [1, 5])
def test_drafts_stand_as_often_as_told_in_any_run_of_rounds(num_rows):
    """Over 50 rounds chance would miss by 7 points now and then."""
    reached = [0.8, 0.55, 0.1]
    counts = ToldCounts(reached, num_rows, torch.device("cpu"))
    drafts_Bk = torch.zeros(num_rows, 3)
    for _ in range(90):  # past the end, where they come again
        found = torch.stack([counts(drafts_Bk, drafts_Bk) for _ in range(50)])
        for number, rate in enumerate(reached, 1):
            for row in range(num_rows):
                assert (found[:, row] >= number).double().mean().item() == pytest.approx(
                    rate, abs=0.05
                )


def test_rows_do_not_stand_and_fall_together():
    counts = ToldCounts([0.5], 2, torch.device("cpu"))
    drafts_Bk = torch.zeros(2, 1)
    found = torch.stack([counts(drafts_Bk, drafts_Bk) for _ in range(400)])
    assert (found[:, 0] == found[:, 1]).double().mean().item() < 0.9


def test_answers_take_as_many_forwards_as_told(small_model, tokenizer):
    reached = [rate_for(2.5, 3) ** count for count in (1, 2, 3)]
    advance = told_advance(reached, 2, torch.device("cpu"))
    engine = Engine(small_model, tokenizer, 2, 3, advance=advance)
    stats = engine.generate([Request([5, 6], 240)] * 4).stats
    assert stats.tokens_per_forward == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("rounds_a_look", [pytest.param(1, marks=pytest.mark.thorough), 8])
def test_tokens_a_forward_are_as_told_however_seldom_the_host_looks(
    small_model, tokenizer, rounds_a_look
):
    reached = [rate_for(2.5, 3) ** count for count in (1, 2, 3)]
    advance = told_advance(reached, 4, torch.device("cpu"))
    engine = Engine(small_model, tokenizer, 4, 3, rounds_a_look=rounds_a_look, advance=advance)
    way = _Way(3, engine)
    measured = Measured((), (4,), 3, 8, 240, torch.float32)
    for _ in range(measured.num_rounds):
        _decode(way, measured, 4, is_counted=True)
    assert way.tokens_per_forward(4) == pytest.approx(2.5, rel=0.03)
    assert way.num_tokens <= 3 * 4 * 240
    assert way.s_per_round * way.num_rounds < engine.stats.decode_s  # without first looks


def test_the_caches_of_all_ways_to_draft_fit_an_h200_beside_the_weights():
    measured = MEASURED["gpu"]
    for shape in measured.shapes:
        config = _config(shape, measured)
        most = config.num_mtp_heads - 1
        rows = max(measured.batches) * row_bytes(config, 2 * most + 2, most, bytes_each=2)
        weights = 2 * count_parameters(config).total
        # Of each number, `auto`, and one that is taken apart.
        assert weights + (most + 3) * rows < 0.9 * 139 * 2**30


@needs_no_copies
def test_a_batch_without_memory_leaves_the_others_their_turn(monkeypatch):
    def rows(model, measured, batch, *_):
        if batch == 1:
            raise MachineError("no memory\nfor that")
        yield {"rows": batch}

    measured = Measured(("smoke",), (1, 2), 1, 8, 56, torch.bfloat16)
    monkeypatch.setitem(MEASURED, "smoke", measured)
    monkeypatch.setattr(synthetic, "_rows", rows)
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    monkeypatch.setattr(synthetic, "precision", lambda *_: {"prompts": 3})
    record = measure("smoke", 2.0, limit_s=60)
    assert record["left_out"] == ["smoke, 1 rows: no memory"]
    assert record["rows"] == [{"shape": "smoke", "rows": 2}]
    assert record["precision"] == [{"shape": "smoke", "prompts": 3}]


@needs_no_copies
def test_a_shape_that_others_do_not_compute_is_measured_without_them(monkeypatch):
    def peers(model):
        raise InteropError("no plain class has both")

    monkeypatch.setattr(synthetic, "_rows", lambda *_: [{"rows": 1}])
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    record = measure("smoke", 2.0, limit_s=60, batches=(1,), peers=peers)
    assert record["left_out"] == ["smoke, 1 rows, others: no plain class has both"]
    assert record["rows"] == [{"shape": "smoke", "rows": 1}]


def test_what_a_device_fails_at_is_left_out_and_each_figure_is_told_at_once(monkeypatch):
    """As on a GPU, whose graphs fail: the same is measured kernel by kernel."""

    def rows(model, measured, batch, *_, captures=True):
        if captures or batch == 2:
            raise torch.AcceleratorError("CUDA error: no\nmore")
        yield {"rows": batch, "is_captured": captures}

    measured = Measured(("smoke",), (1, 2, 3), 1, 8, 56, torch.float32)
    monkeypatch.setitem(MEASURED, "gpu", measured)
    monkeypatch.setattr(synthetic, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(synthetic, "describe_device", lambda device: "a GPU")
    monkeypatch.setattr(synthetic, "copy_bandwidth", lambda device: 1.0)
    monkeypatch.setattr(synthetic, "random_model", lambda *_: None)
    monkeypatch.setattr(synthetic, "_rows", lambda *args: rows(*args[:-1], captures=args[-1]))
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    told = []
    record = measure(
        None, 2.0, limit_s=60, on_record=lambda record: told.append(len(record["rows"]))
    )
    assert [row["rows"] for row in record["rows"]] == [1, 3]
    assert not any(row["is_captured"] for row in record["rows"])
    assert record["left_out"] == [
        "smoke, 1 rows: CUDA error: no",
        "smoke, 2 rows: CUDA error: no",
        "smoke, 2 rows, kernel by kernel: CUDA error: no",
        "smoke, 3 rows: CUDA error: no",
    ]
    assert told == [1, 1, 1, 1, 2, 2, 2]


@needs_no_copies
@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_a_mistake_of_our_own_is_not_left_out(monkeypatch, kind):
    def wrong(*_):
        raise kind("ours")

    monkeypatch.setattr(synthetic, "_rows", wrong)
    with pytest.raises(kind, match="ours"):
        measure("smoke", 2.0, limit_s=60)


def test_a_shape_is_measured_without_training():
    overrides = ["model.width=32", "model.num_layers=4", "model.num_mtp_heads=3"]
    record = measure("smoke", 2.0, limit_s=600, overrides=overrides)
    rows = record["rows"]
    assert record["left_out"] == record["precision"] == []
    assert record["copy_bytes_per_s"] > 0
    assert {row["rows"] for row in rows} == set(MEASURED["smoke"].batches)
    for row in rows:
        assert row["tokens_per_s"] > 0
        assert row["speed_up_of_tokens"] == row["speed_up"] / row["tokens_per_forward"]
        assert row["cpu_speed_up"] > 0
        assert ("share_of_bandwidth" in row) == isinstance(row["drafts"], int)
        if isinstance(row["drafts"], int):
            assert row["parts_s"]["trunk"] > 0
            assert (row["parts_s"]["other heads"] > 0) == (row["drafts"] > 0)
        if row["drafts"] == 0:
            assert row["tokens_per_forward"] == row["speed_up"] == 1
            assert 0 < row["share_of_bandwidth"] < 1


@needs_no_copies
def test_a_tree_is_measured_at_batch_1_and_accepts_as_told(monkeypatch):
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    overrides = ["model.width=32", "model.num_layers=5"]
    record = measure("smoke", 2.0, 600, batches=[1], overrides=overrides)
    trees = [row for row in record["rows"] if row["drafts"] == "tree"]
    assert [row["rows"] for row in trees] == [1]
    (line,) = (r for r in record["rows"] if (r["rows"], r["drafts"]) == (1, 3))
    assert trees[0]["nodes"] > 4
    assert trees[0]["tokens_per_forward"] == pytest.approx(line["tokens_per_forward"], rel=0.1)


@needs_no_copies
@pytest.mark.parametrize(("share", "num_rounds"), [(0.25, 3), (0.0, 1)])
def test_others_decode_the_first_shape_one_at_a_time_while_there_is_time(
    monkeypatch, share, num_rounds
):
    asked = []

    def answer(requests):
        for request in requests:
            asked.append((len(request.prompt), request.max_new_tokens))
            begun_s = time.process_time()
            while time.process_time() - begun_s < 0.001 * request.max_new_tokens:
                pass
            yield Completion(request, [0] * request.max_new_tokens)

    overrides = ["model.width=32", "model.num_layers=2", "model.num_mtp_heads=1"]
    monkeypatch.setitem(MEASURED, "smoke", replace(MEASURED["smoke"], num_rounds=3, num_new=24))
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    monkeypatch.setattr(synthetic, "_PEERS_WITHIN", share)
    record = measure(
        "smoke", 1.0, 600, batches=[1, 2], overrides=overrides,
        peers=lambda model: {"theirs": answer},
    )  # fmt: skip
    (row,) = (row for row in record["rows"] if row["drafts"] == "theirs")
    measured = MEASURED["smoke"]
    assert set(asked) == {(measured.num_prompt, 1), (measured.num_prompt, measured.num_new)}
    assert (row["rows"], row["rounds"]) == (1, num_rounds)
    assert 0 < row["tokens_per_s"] < 1500


@needs_no_copies
def test_shapes_and_batches_may_be_ones_own(monkeypatch):
    monkeypatch.setattr(synthetic, "_add_parts", lambda *_: None)
    overrides = ["model.width=32", "model.num_layers=3", "model.num_mtp_heads=2"]
    record = measure("smoke", 2.0, 600, shapes=["tiny"], batches=[3], overrides=overrides)
    assert {(row["shape"], row["rows"]) for row in record["rows"]} == {("tiny", 3)}


def test_drafts_as_told_and_trained_heads_take_as_many_forwards(
    small_config, tokenizer, monkeypatch
):
    """Heads that agree with head 1 now and then, so that some of their drafts stand."""
    config = small_config.model_copy(update={"num_layers": 4, "num_mtp_heads": 3})
    model = build_model(config, seed=2).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # its answers run into short cycles
        if parameter.dim() == 2:
            parameter.mul_(0.15 if name.endswith("attn.out.weight") else 3)
    for head in model.mtp_heads.layers[1:]:
        head.load_state_dict(model.mtp_heads.layers[0].state_dict())
    requests = [Request([5, 6, place], 40 + place) for place in range(4)]
    monkeypatch.setattr(synthetic, "NUM_ROUNDS", 2)
    rows = list(agreement(model, tokenizer, requests, num_rows=2))
    assert [row["drafts"] for row in rows] == [1, 2]
    for row in rows:
        assert row["reached"] == sorted(row["reached"], reverse=True)
        assert row["tokens_per_forward_told"] == pytest.approx(row["tokens_per_forward"], rel=0.03)
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert 0.6 < row["cpu_ratio"] < 1.7
        assert row["agrees"] is agrees(row["ratio"], row["ratio_low"], row["ratio_high"])
    assert rows[-1]["tokens_per_forward"] > 1.1


@pytest.mark.parametrize(
    "ratio, low, high, expected",
    [
        (1.029, 0.5, 1.9, True),
        (0.971, 0.97, 0.98, True),
        (1.04, 1.02, 1.06, None),
        (0.96, 0.9, 1.1, None),
        (1.04, 1.031, 1.06, False),
        (0.95, 0.9, 0.969, False),
    ],
)
def test_what_is_told_agrees_by_its_median_and_parts_only_by_all_its_rounds(
    ratio, low, high, expected
):
    assert agrees(ratio, low, high) is expected


@needs_no_copies
def test_what_there_was_no_time_for_is_named():
    record = measure("smoke", 2.0, limit_s=-1)
    assert record["rows"] == []
    assert record["left_out"] == ["smoke, 1 rows: no time left", "smoke, 2 rows: no time left"]


def test_in_bf16_one_shape_for_all_forwards_is_exact(small_config):
    model = build_model(small_config, seed=1).to(torch.bfloat16).eval().requires_grad_(False)
    found = precision(model, MEASURED["smoke"], num_prompts=6)
    assert found["differences_exact"] == 0
    assert len(found["gaps_where_they_part"]) == found["differences_fast"]
