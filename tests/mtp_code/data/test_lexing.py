import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_code.data.lexing import BORDER, code_tokens, grams, words
from tests.reference import code_tokens_one_by_one, words_one_by_one

code_like = st.lists(
    st.sampled_from([*"ab_1 .\n\t()=+\"'#\\é,", "def ", "return ", "len(", '"""', "for "])
).map("".join)
texts_lists = st.lists(code_like, min_size=1, max_size=4)


def partition(numbers: list[object]) -> list[int]:
    """Which are equal to which: each by the place of the first one like it."""
    return [numbers.index(number) for number in numbers]


@given(texts_lists)
def test_words_are_equal_where_they_are_spelled_alike(texts: list[str]) -> None:
    expected = [word for text in texts for word in ("\0", *words_one_by_one(text))][1:]
    found = words([text.encode() for text in texts]).hashes.tolist()
    assert partition(found) == partition(expected)


@pytest.mark.parametrize("keep_numbers", [False, True])
@given(texts=texts_lists)
def test_code_tokens_are_those_of_the_slow_reading(texts: list[str], keep_numbers: bool) -> None:
    expected = [
        token for text in texts for token in ("\0", *code_tokens_one_by_one(text, keep_numbers))
    ][1:]
    found = code_tokens([text.encode() for text in texts], keep_numbers).hashes.tolist()
    assert partition(found) == partition(expected)


def test_real_code_is_read_as_the_slow_reading_reads_it() -> None:
    text = Path(sysconfig.get_path("stdlib"), "textwrap.py").read_text("utf-8")
    expected: list[object] = list(code_tokens_one_by_one(text, keep_numbers=True))
    found = code_tokens([text.encode()], keep_numbers=True).hashes.tolist()
    assert len(set(found)) == len(set(expected)) > 50
    assert partition(found) == partition(expected)


def test_places_are_those_of_the_joined_texts() -> None:
    lexed = words([b"Ab  cd", b"x"])
    assert lexed.starts.tolist() == [0, 4, 6, 7]
    assert lexed.hashes[2] == BORDER


def test_words_that_differ_in_their_first_or_last_eight_bytes_or_length_differ() -> None:
    names = [b"a", b"ab", b"abcdefgh", b"abcdefghi", b"xbcdefghi", b"abcdefghij" * 3]
    assert len(set(words([b" ".join(names)]).hashes.tolist())) == len(names)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 9))
def test_grams_are_equal_where_their_numbers_are(numbers: list[int], length: int) -> None:
    found = grams(np.array(numbers, dtype=np.uint64), length).tolist()
    expected: list[object] = [
        tuple(numbers[start : start + length]) for start in range(len(numbers) - length + 1)
    ]
    assert partition(found) == partition(expected)


def test_hashes_do_not_meet_by_chance() -> None:
    rng = random.Random(0)
    names = {f"{rng.choice('abc')}{rng.randrange(10**9):x}" for _ in range(50_000)}
    assert len(set(words([" ".join(names).encode()]).hashes.tolist())) == len(names)
