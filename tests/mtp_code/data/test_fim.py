from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_code.data.filters import content_digest
from mtp_code.data.fim import Cut, FimConfig, choose_cut, encode_cut
from mtp_code.tokenizer import BytesTokenizer, train_bpe

BYTES = BytesTokenizer(fim_tokens=True)
PREFIX, MIDDLE, SUFFIX = 257, 258, 259


def digest(number: int) -> bytes:
    return content_digest(f"text {number}")


@pytest.mark.parametrize(
    "suffix_first, expected",
    [
        (False, [PREFIX, *b"ab", SUFFIX, *b"f", MIDDLE, *b"cde"]),
        (True, [PREFIX, SUFFIX, *b"f", MIDDLE, *b"ab", *b"cde"]),
    ],
)
def test_parts_stand_in_the_order_of_the_paper(suffix_first: bool, expected: list[int]) -> None:
    whole, cut = encode_cut([("xyz", None), ("abcdef", Cut(2, 5, suffix_first))], BYTES, BYTES.fim)
    assert whole.tolist() == list(b"xyz")
    assert cut.tolist() == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.integers(0, 10**6))
def test_nothing_of_a_document_is_lost(text: str, number: int) -> None:
    cut = choose_cut(len(text), digest(number), FimConfig(rate=1, spm_share=0))
    assert cut is not None
    (ids,) = encode_cut([(text, cut)], BYTES, BYTES.fim)
    places = [ids.tolist().index(mark) for mark in (PREFIX, SUFFIX, MIDDLE)]
    prefix, suffix, middle = (
        ids[begin + 1 : end] for begin, end in zip(places, [*places[1:], len(ids)], strict=True)
    )
    assert BYTES.decode([*prefix, *middle, *suffix]) == text


def test_share_and_order_are_as_asked_and_the_same_every_time() -> None:
    config = FimConfig(rate=0.6, spm_share=0.25)
    cuts = [choose_cut(100, digest(i), config) for i in range(4000)]
    assert cuts == [choose_cut(100, digest(i), config) for i in range(4000)]
    found = [cut for cut in cuts if cut is not None]
    assert len(found) / len(cuts) == pytest.approx(0.6, abs=0.03)
    assert sum(cut.suffix_first for cut in found) / len(found) == pytest.approx(0.25, abs=0.03)


def test_cuts_fall_anywhere_between_characters() -> None:
    cuts = [choose_cut(3, digest(i), FimConfig(rate=1)) for i in range(2000)]
    places = Counter(place for cut in cuts if cut is not None for place in (cut.begin, cut.end))
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 800


def test_marks_cannot_be_written_in_a_text() -> None:
    for tokenizer in (BYTES, train_bpe(["ab ab"], 300, fim_tokens=True)):
        assert tokenizer.fim is not None
        assert not set(tokenizer.fim) & set(tokenizer.encode("<|fim_prefix|>a<|fim_middle|>"))
