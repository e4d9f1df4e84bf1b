"""The checks of exactness notice what they are there for."""

import copy
from dataclasses import replace

import pytest
import torch

from mtp_code.decoding import exactness
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.exactness import MOST_ULPS, check_law, compare_tokens
from mtp_code.decoding.plain import decode_plain
from mtp_code.decoding.requests import Request
from mtp_code.decoding.tree import Tree
from mtp_code.model.mtp import MTPModel

PROMPTS = [[5, 6, 7], [9] * 12, list(range(40, 70)), [100, 3]]


def test_all_ways_to_decode_give_plain_decodings_tokens(small_model, tokenizer):
    def peer(requests):
        return decode_plain(small_model, tokenizer, requests)

    ways = {"1": 1, "3": 3, "auto": "auto", "tree": Tree.product([2, 2])}
    rows = list(
        compare_tokens(small_model, tokenizer, PROMPTS, 16, ways, [1, 3], {"another": peer})
    )
    assert [row.get("drafts") for row in rows] == [*ways, *ways, None]
    for row in rows:
        assert row["differences"] == 0
        assert row["holds"]
        assert row["requests"] == len(PROMPTS) * (1 if "peer" in row else 2)
        assert row["tokens"] >= row["forwards"]


def test_a_token_that_is_another_is_a_difference(small_model, tokenizer):
    def peer(requests):
        for one in decode_plain(small_model, tokenizer, requests):
            yield replace(one, tokens=[*one.tokens[:3], one.tokens[3] ^ 1, *one.tokens[4:]])

    (row,) = compare_tokens(small_model, tokenizer, PROMPTS, 8, {}, [], {"wrong": peer})
    assert row["differences"] == len(PROMPTS)
    assert row["first_differences"][0] == {"request": 0, "place": 3}
    assert not row["holds"]


def test_an_engine_that_takes_every_draft_is_caught(small_model, tokenizer, monkeypatch):
    def wrong(*args, **settings):
        return Engine(*args, **settings, advance=exactness.always_stands)

    monkeypatch.setattr(exactness, "Engine", wrong)
    (row,) = compare_tokens(small_model, tokenizer, PROMPTS, 16, {"2": 2}, [1])
    assert row["differences"] > 0
    assert not row["holds"]


@pytest.fixture(scope="module")
def in_bf16(small_model) -> MTPModel:
    return copy.deepcopy(small_model).to(torch.bfloat16)


def test_below_fp32_answers_part_at_near_ties_and_with_one_shape_not_at_all(in_bf16, tokenizer):
    prompts = [[token, 5, 9 * (token % 20)] for token in range(40, 52)]

    def peer(requests):
        return decode_plain(in_bf16, tokenizer, requests)

    ways = {"3": 3, "tree": Tree.product([2, 2])}
    rows = list(compare_tokens(in_bf16, tokenizer, prompts, 24, ways, [4], {"another": peer}))
    fast, exact, other = rows[:2], rows[2], rows[3]
    assert (exact["drafts"], exact["is_exact"]) == ("3", True)
    assert exact["differences"] == 0
    assert exact["holds"]
    assert other["holds"] is None
    assert sum(row["differences"] for row in fast) > 0  # or it would show nothing
    for row in fast:
        gaps = [one["gap_ulps"] for one in row["first_differences"]]
        assert len(gaps) == row["differences"]
        assert max(gaps, default=0) <= MOST_ULPS
        assert row["holds"] == (len(gaps) <= 0.02 * row["requests"])


def test_a_difference_that_is_no_near_tie_does_not_hold(in_bf16, tokenizer):
    (plain,) = decode_plain(in_bf16, tokenizer, [Request(PROMPTS[0], 8)])
    logits_V = in_bf16(torch.tensor([[*PROMPTS[0], *plain.tokens[:4]]]))[0, 0, -1]
    unlikely = int(logits_V.argmin())
    wrong = replace(plain, tokens=[*plain.tokens[:4], unlikely])
    row = exactness._near_ties(in_bf16, tokenizer, [wrong, *[plain] * 99], [plain.tokens] * 100)
    largest = logits_V.abs().max()
    ulp = torch.nextafter(largest, torch.full_like(largest, torch.inf)) - largest
    (first,) = row["first_differences"]
    assert first["place"] == 4
    assert first["gap_ulps"] == pytest.approx(
        (float(logits_V.max()) - float(logits_V.min())) / float(ulp), rel=0.05
    )
    assert row["differences"] == 1
    assert not row["holds"]


def test_an_answer_with_a_stop_ends_with_the_token_that_completes_it(tokenizer):
    tokens = tokenizer.encode("a b a b")
    assert exactness._cut(tokenizer, [5], tokens, "b a") == tokens[:5]
    assert exactness._cut(tokenizer, [5], tokens, "c") == tokens


def test_too_few_draws_to_tell_are_refused():
    with pytest.raises(ValueError, match="num_draws must be at least 40000, got 100"):
        check_law(100)
