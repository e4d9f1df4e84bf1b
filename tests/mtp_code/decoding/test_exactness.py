"""The checks of exactness notice what they are there for."""

from dataclasses import replace

import pytest

from mtp_code.decoding import exactness
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.exactness import check_law, compare_tokens
from mtp_code.decoding.plain import decode_plain
from mtp_code.decoding.tree import Tree

PROMPTS = [[5, 6, 7], [9] * 12, list(range(40, 70)), [100, 3]]


def test_all_ways_to_decode_give_plain_decodings_tokens(small_model, tokenizer):
    def peer(requests):
        return decode_plain(small_model, tokenizer, requests)

    ways = {"1": 1, "3": 3, "auto": "auto", "tree": Tree.product([2, 2])}
    rows = compare_tokens(small_model, tokenizer, PROMPTS, 16, ways, [1, 3], {"another": peer})
    assert [row.get("drafts") for row in rows] == [*ways, *ways, None]
    for row in rows:
        assert row["differences"] == 0
        assert row["requests"] == len(PROMPTS) * (1 if "peer" in row else 2)
        assert row["tokens"] >= row["forwards"]


def test_a_token_that_is_another_is_a_difference(small_model, tokenizer):
    def peer(requests):
        for one in decode_plain(small_model, tokenizer, requests):
            yield replace(one, tokens=[*one.tokens[:3], one.tokens[3] ^ 1, *one.tokens[4:]])

    (row,) = compare_tokens(small_model, tokenizer, PROMPTS, 8, {}, [], {"wrong": peer})
    assert row["differences"] == len(PROMPTS)
    assert row["first_differences"][0] == {"request": 0, "place": 3}


def test_an_engine_that_takes_every_draft_is_caught(small_model, tokenizer, monkeypatch):
    def wrong(*args, **settings):
        return Engine(*args, **settings, advance=exactness.always_stands)

    monkeypatch.setattr(exactness, "Engine", wrong)
    (row,) = compare_tokens(small_model, tokenizer, PROMPTS, 16, {"2": 2}, [1])
    assert row["differences"] > 0


def test_an_answer_with_a_stop_ends_with_the_token_that_completes_it(tokenizer):
    tokens = tokenizer.encode("a b a b")
    assert exactness._cut(tokenizer, [5], tokens, "b a") == tokens[:5]
    assert exactness._cut(tokenizer, [5], tokens, "c") == tokens


def test_too_few_draws_to_tell_are_refused():
    with pytest.raises(ValueError, match="num_draws must be at least 40000, got 100"):
        check_law(100)
