from mtp_code.decoding.bench import measure
from mtp_code.decoding.requests import Request


def test_answers_too_short_for_a_draft_have_no_acceptance(small_model, tokenizer):
    """One token each: those drafts that stood would have saved nothing, others fell."""
    rows = measure(small_model, tokenizer, [Request([5, 6, place], 1) for place in range(3)])
    assert [row["drafts"] for row in rows] == [0, 1, 2, 3, 3]
    assert rows[-1]["mode"] == "auto"
    for row in rows:
        assert row["tokens"] == row["forwards"] == row["identical_outputs"] == 3
        assert row["acceptance_by_offset"] in ([], [0.0])
