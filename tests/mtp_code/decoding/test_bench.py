import pytest

from mtp_code.decoding.bench import measure
from mtp_code.decoding.requests import Request


def test_answers_too_short_for_a_draft_have_no_acceptance(small_model, tokenizer):
    """One token each: those drafts that stood would have saved nothing, others fell."""
    rows = measure(small_model, tokenizer, [Request([5, 6, place], 1) for place in range(3)])
    assert [row["drafts"] for row in rows] == [0, 1, 2, 3, 3, 3]
    assert [row["mode"] for row in rows[-2:]] == ["auto", "tree"]
    for row in rows:
        assert row["tokens"] == row["forwards"] == row["identical_outputs"] == 3
        assert row["speed_up_of_tokens"] == pytest.approx(row["speed_up"])
        assert row["cpu_speed_up_low"] <= row["cpu_speed_up"] <= row["cpu_speed_up_high"]
        assert 0 < row["prefill_s"] < row["wall_s"]
        assert row["acceptance_by_offset"] in ([], [0.0])
