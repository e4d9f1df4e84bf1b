import pytest
import torch

from mtp_code.decoding import synthetic
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.decoding.state import row_bytes
from mtp_code.decoding.synthetic import (
    MEASURED,
    Measured,
    _config,
    _decode,
    _Way,
    drawn_advance,
    measure,
    precision,
    rate_for,
)
from mtp_code.errors import MachineError
from mtp_code.model.accounting import count_parameters
from mtp_code.model.mtp import build_model


@pytest.mark.parametrize(("tokens_per_forward", "num_drafts"), [(1.0, 3), (2.5, 3), (3.9, 7)])
def test_the_rate_gives_as_many_tokens(tokens_per_forward, num_drafts):
    rate = rate_for(tokens_per_forward, num_drafts)
    expected = sum(rate**place for place in range(num_drafts + 1))
    assert expected == pytest.approx(tokens_per_forward)


def test_more_tokens_than_a_round_gives_are_refused():
    with pytest.raises(ValueError, match=r"1\.\.4 with 3 drafts, got 4\.5"):
        rate_for(4.5, 3)


def test_drafts_stand_as_often_as_they_are_told_to(small_model, tokenizer):
    advance = drawn_advance(rate_for(2.5, 3), 2, 3, torch.device("cpu"))
    engine = Engine(small_model, tokenizer, 2, 3, advance=advance)
    stats = engine.generate([Request([5, 6], 240)] * 6).stats
    assert stats.tokens_per_forward == pytest.approx(2.5, rel=0.1)


@pytest.mark.parametrize("rounds_a_look", [pytest.param(1, marks=pytest.mark.thorough), 8])
def test_tokens_a_forward_are_as_told_however_seldom_the_host_looks(
    small_model, tokenizer, rounds_a_look
):
    advance = drawn_advance(rate_for(2.5, 3), 4, 3, torch.device("cpu"))
    engine = Engine(small_model, tokenizer, 4, 3, rounds_a_look=rounds_a_look, advance=advance)
    way = _Way(3, engine)
    measured = Measured((), (4,), 3, 8, 240, torch.float32)
    for _ in range(measured.num_rounds):
        _decode(way, measured, 4, is_counted=True)
    assert way.tokens_per_forward(4) == pytest.approx(2.5, rel=0.06)
    assert way.num_tokens <= 3 * 4 * 240
    assert way.s_per_round * way.num_rounds <= engine.stats.decode_s


def test_the_caches_of_all_ways_to_draft_fit_an_h200_beside_the_weights():
    measured = MEASURED["gpu"]
    for shape in measured.shapes:
        config = _config(shape, measured)
        most = config.num_mtp_heads - 1
        rows = max(measured.batches) * row_bytes(config, 2 * most + 2, most, bytes_each=2)
        weights = 2 * count_parameters(config).total
        assert weights + (most + 2) * rows < 0.9 * 139 * 2**30


def test_a_batch_without_memory_leaves_the_others_their_turn(monkeypatch):
    def rows(model, measured, batch, *_):
        if batch == 1:
            raise MachineError("no memory\nfor that")
        yield {"rows": batch}

    measured = Measured(("smoke",), (1, 2), 1, 8, 56, torch.bfloat16)
    monkeypatch.setitem(MEASURED, "smoke", measured)
    monkeypatch.setattr(synthetic, "_rows", rows)
    monkeypatch.setattr(synthetic, "precision", lambda *_: {"prompts": 3})
    record = measure("smoke", 2.0, limit_s=60)
    assert record["left_out"] == ["smoke, 1 rows: no memory"]
    assert record["rows"] == [{"shape": "smoke", "rows": 2}]
    assert record["precision"] == [{"shape": "smoke", "prompts": 3}]


def test_a_shape_is_measured_without_training():
    record = measure("smoke", 2.0, limit_s=60)
    rows = record["rows"]
    assert record["left_out"] == record["precision"] == []
    assert record["copy_bytes_per_s"] > 0
    assert {row["rows"] for row in rows} == set(MEASURED["smoke"].batches)
    for row in rows:
        assert row["tokens_per_s"] > 0
        assert row["speed_up_of_tokens"] == row["speed_up"] / row["tokens_per_forward"]
        if row["drafts"] == 0:
            assert row["tokens_per_forward"] == row["speed_up"] == 1
            assert 0 < row["share_of_bandwidth"] < 1


def test_what_there_was_no_time_for_is_named():
    record = measure("smoke", 2.0, limit_s=-1)
    assert record["rows"] == []
    assert record["left_out"] == ["smoke, 1 rows: no time left", "smoke, 2 rows: no time left"]


def test_in_bf16_one_shape_for_all_forwards_is_exact(small_config):
    model = build_model(small_config, seed=1).to(torch.bfloat16).eval().requires_grad_(False)
    found = precision(model, MEASURED["smoke"], num_prompts=6)
    assert found["differences_exact"] == 0
    assert len(found["gaps_where_they_part"]) == found["differences_fast"]
