import json
import random
import sysconfig
import time
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


@pytest.mark.parametrize("unit", [b'\\"""\n', b"\\'''\n", b'\\"', b"\\'", b"def f(", b"def f(a:"])
def test_time_is_linear_where_nothing_is_closed(unit: bytes) -> None:
    def cpu_s(num_bytes: int) -> float:
        text = unit * (num_bytes // len(unit))
        before = time.process_time()
        code_tokens([text])
        return time.process_time() - before

    small = min(cpu_s(20_000) for _ in range(3))
    assert min(cpu_s(320_000) for _ in range(3)) < 64 * max(small, 1e-4)  # 256 if quadratic


@pytest.mark.parametrize("quote", ['"""', "'''"])
def test_a_string_that_is_not_closed_reaches_to_the_end(quote: str) -> None:
    closed = code_tokens([f"x = {quote}{quote}\n".encode()]).hashes.tolist()
    assert code_tokens([f"x = {quote} y = 1\nz = 2\n\\".encode()]).hashes.tolist() == closed


def test_escaped_layout_is_layout() -> None:
    text = 'def f(x):\n\t"""Say \\n twice."""\n\treturn x\n'
    plain, dumped = (words([one.encode()]).hashes.tolist() for one in (text, json.dumps(text)))
    assert dumped == plain


@pytest.mark.parametrize(
    "head",
    [
        "def f(a: int, b: list[int] = [1], *c: dict[str, tuple[int, ...]]) -> list[int]:",
        "def f(a:(int), b : 'a, b'=[1], *c)->None:",
        "def f(\n    a: Callable[[int], dict[str, int]],  # one\n    b=[1], *c\n) -> int | None:",
    ],
)
def test_types_in_heads_of_functions_do_not_count_unless_kept(head: str) -> None:
    plain = b"x = {1: a}\ndef f(a, b=[1], *c):\n    y: int = 1\n"
    typed = f"x = {{1: a}}\n{head}\n    y: int = 1\n".encode()
    assert code_tokens([typed]).hashes.tolist() == code_tokens([plain]).hashes.tolist()
    kept = code_tokens([typed], keep_types=True).hashes.tolist()
    assert len(kept) > len(code_tokens([plain], keep_types=True).hashes)
