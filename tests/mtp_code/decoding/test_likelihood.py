import math

import pytest

from mtp_code.decoding.likelihood import Answered, bits_of_answers
from mtp_code.errors import PromptError
from mtp_code.model.mtp import MTPModel, build_model
from tests.reference import bits_token_by_token

TEXT = 'def double(value):\n    """Twice."""\n    return value + value\n' * 3  # 183 bytes
CONTEXT = 64


@pytest.fixture(scope="module")
def narrow_model(small_model) -> MTPModel:
    """Short of context: the slow twin reads all of it for every token."""
    config = small_model.config.model_copy(update={"context": CONTEXT})
    model = build_model(config, seed=1)
    model.load_state_dict(small_model.state_dict())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def asked(tokenizer) -> list[Answered]:
    """Within the context, up to its very end, beyond it, and a prompt beyond it."""
    lengths = [(0, 1), (10, 5), (50, 13), (50, 14), (50, 15), (63, 3), (64, 2), (75, 9)]
    lengths += [(3, 100), (32, 35), (100, 40), (8, 0)]
    return [
        Answered(tokenizer.encode_prompt(TEXT[:before]), TEXT[before : before + after])
        for before, after in lengths
    ]


@pytest.fixture(scope="module")
def slow_bits(narrow_model, tokenizer, asked) -> list[float]:
    return [
        bits_token_by_token(narrow_model, one.prompt, tokenizer.encode(one.answer)) for one in asked
    ]


@pytest.mark.parametrize("num_rows", [1, 3, 16])
def test_bits_are_those_of_reading_the_text_again_for_every_token(
    narrow_model, tokenizer, asked, slow_bits, num_rows
):
    bits = bits_of_answers(narrow_model, tokenizer, asked, num_rows)
    assert bits == pytest.approx(slow_bits, rel=1e-5)
    assert bits[-1] == 0


def test_chances_of_all_that_could_follow_sum_to_one(small_model, tokenizer):
    """As far as they are texts: bytes below 128 are; the others are counted by the twin."""
    prompt = tokenizer.encode_prompt("x = ")
    asked = [Answered(prompt, chr(byte)) for byte in range(128)]
    chances = [2**-bits for bits in bits_of_answers(small_model, tokenizer, asked, num_rows=64)]
    others = [2 ** -bits_token_by_token(small_model, prompt, [token]) for token in range(128, 257)]
    assert sum(chances) + sum(others) == pytest.approx(1, abs=1e-5)


def test_bits_of_two_parts_add_up_where_they_meet_on_a_token_border(small_model, tokenizer):
    first, second = "def f(x):\n", "    return x\n"
    prompt = tokenizer.encode_prompt("# Once\n")
    whole, begun, ended = bits_of_answers(
        small_model,
        tokenizer,
        [
            Answered(prompt, first + second),
            Answered(prompt, first),
            Answered([*prompt, *tokenizer.encode(first)], second),
        ],
    )
    assert whole == pytest.approx(begun + ended, rel=1e-6)
    assert whole / len(first + second) == pytest.approx(math.log2(257), rel=1)  # an untrained model


def test_progress_is_told_and_an_empty_prompt_refused(small_model, tokenizer):
    told: list[tuple[int, int]] = []
    asked = [Answered([256], "ab")] * 5
    bits_of_answers(small_model, tokenizer, asked, 2, lambda *done: told.append(done))
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert bits_of_answers(small_model, tokenizer, []) == []
    with pytest.raises(PromptError, match="empty"):
        bits_of_answers(small_model, tokenizer, [Answered([], "ab")])
    for token in (257, -1):
        with pytest.raises(PromptError, match=f"token {token} is outside the vocabulary of 257"):
            bits_of_answers(small_model, tokenizer, [Answered([1, token], "ab")])
