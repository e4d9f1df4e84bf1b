import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_code.data import duplicates
from mtp_code.data.duplicates import (
    NUM_PERMUTATIONS,
    choose_bands,
    first_occurrences,
    first_of_their_like,
    signatures,
    similarity,
)
from tests.reference import similar_pairs, words_one_by_one

GRAM_WORDS = 3


def text_of(rng: random.Random, num_words: int) -> list[str]:
    return [f"w{rng.choice('abcdefgh')}{rng.randrange(10**6)}" for _ in range(num_words)]


def changed(words: list[str], share: float, rng: random.Random) -> list[str]:
    return [f"other{rng.randrange(10**6)}" if rng.random() < share else word for word in words]


def grams_of(text: str) -> set[object]:
    words = words_one_by_one(text)
    starts = range(max(len(words) - GRAM_WORDS + 1, 1))
    return {tuple(words[start : start + GRAM_WORDS]) for start in starts}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Groups of four, more and less alike."""
    rng = random.Random(0)
    found = []
    for group in range(40):
        words = text_of(rng, rng.randrange(5, 400))
        found += [
            " ".join(changed(words, share, rng)) for share in (0, 0.02, 0.06 + group / 400, 0.5)
        ]
    return found


def test_signatures_estimate_jaccard_similarity(texts: list[str]) -> None:
    found = signatures([text.encode() for text in texts], GRAM_WORDS)
    sets = [grams_of(text) for text in texts]
    errors, variances = [], []
    for i in range(0, len(texts), 4):
        for j in range(i + 1, i + 4):
            true = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            errors.append(float(similarity(found[i], found[j])) - true)
            variances.append(true * (1 - true) / NUM_PERMUTATIONS)
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(np.square(errors)) < 1.5 * np.mean(variances)


def test_signatures_are_the_same_alone_and_together(texts: list[str]) -> None:
    encoded = [text.encode() for text in [*texts[:20], "", "one two", "1 2 3"]]
    together = signatures(encoded, GRAM_WORDS)
    for one, text in zip(together, encoded, strict=True):
        np.testing.assert_array_equal(one, signatures([text], GRAM_WORDS)[0])
    assert similarity(together[-1], together[-3]) < 0.1  # though neither has words
    assert similarity(together[-2], together[-3]) < 0.1


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.85])
def test_documents_clearly_alike_are_found_and_those_clearly_unlike_are_not(
    texts: list[str], threshold: float
) -> None:
    found = signatures([text.encode() for text in texts], GRAM_WORDS)
    is_new = first_of_their_like(found, threshold)
    sets = [grams_of(text) for text in texts]
    clearly = {later for _, later in similar_pairs(sets, threshold + 0.12)}
    perhaps = {later for _, later in similar_pairs(sets, threshold - 0.12)}
    dropped = set(np.flatnonzero(~is_new).tolist())
    assert clearly <= dropped <= perhaps
    assert clearly


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1])
def test_bands_show_nearly_all_pairs_at_the_threshold(threshold: float) -> None:
    num_bands, num_rows = choose_bands(threshold)
    assert num_bands * num_rows <= NUM_PERMUTATIONS
    assert 1 - (1 - threshold**num_rows) ** num_bands >= 0.95
    assert 1 - (1 - (threshold / 4) ** num_rows) ** num_bands < 0.4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40), st.integers(1, 50))
def test_first_occurrences_are_those_of_a_set(pairs: list[tuple[int, int]], at_once: int) -> None:
    digests = np.array([(a << 62, b) for a, b in pairs], dtype=np.uint64).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_SORTED_AT_ONCE", at_once)
        found = first_occurrences(digests)
    assert found.tolist() == [pair not in pairs[:i] for i, pair in enumerate(pairs)]


def test_sorting_in_parts_finds_the_same(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = signatures([text.encode() for text in texts], GRAM_WORDS)
    expected = first_of_their_like(found, 0.7)
    monkeypatch.setattr(duplicates, "_SORTED_AT_ONCE", 16)
    monkeypatch.setattr(duplicates, "_COMPARED_AT_ONCE", 7)
    np.testing.assert_array_equal(first_of_their_like(found, 0.7), expected)


def test_documents_of_fewer_words_than_a_gram_are_like_none_but_themselves() -> None:
    short = [b"", b"1, 2, 3", b"4, 5, 6", b"one", b"one = 1", b"one = 1"]
    is_new = first_of_their_like(signatures(short, GRAM_WORDS), 0.3)
    assert is_new.tolist() == [True] * 5 + [False]
