import pytest
import torch

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.decoding.synthetic import MEASURED, drawn_advance, measure, precision, rate_for
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
