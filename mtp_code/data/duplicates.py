"""Which documents say again what an earlier one said: exactly, or nearly (MinHash).

The memory this takes does not grow with the text, and with the number of documents by about fifty
bytes each: signatures lie in a file, and digests and bands are sorted a part at a time.

Source: Broder 1997, "On the resemblance and containment of documents"; bands of rows as in
Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtp_code.config import Strict
from mtp_code.data.lexing import BORDER, Hashes, grams, words

Signatures = npt.NDArray[np.uint32]
"""(documents, NUM_PERMUTATIONS)."""
Digests = npt.NDArray[np.uint64]
"""(documents, 2): 128 bits each."""

NUM_PERMUTATIONS: Final = 128

# So many documents are sorted at once, and compared at once.
_SORTED_AT_ONCE: Final = 1 << 24
_COMPARED_AT_ONCE: Final = 1 << 16

# The share of pairs at the threshold that no band may show.
_MISSED: Final = 0.05

# A document of a bucket is compared with its first, then with the first of those unlike it, ...
_ROUNDS: Final = 8


class NearDuplicates(Strict):
    """
    Attributes:
        threshold: Jaccard similarity, of the sets of word n-grams, from which a document counts
            as a near-duplicate of an earlier one.
        gram_words: n.
    """

    threshold: float = Field(default=0.7, ge=0.3, le=1)
    gram_words: int = Field(default=5, ge=1, le=32)


class Bands(NamedTuple):
    num_bands: int
    num_rows: int


def choose_bands(threshold: float) -> Bands:
    """The most selective bands that still show nearly all pairs at the threshold."""
    for num_rows in range(NUM_PERMUTATIONS, 0, -1):
        num_bands = NUM_PERMUTATIONS // num_rows
        if (1 - threshold**num_rows) ** num_bands <= _MISSED:
            return Bands(num_bands, num_rows)
    return Bands(NUM_PERMUTATIONS, 1)


def signatures(texts: Sequence[bytes], gram_words: int) -> Signatures:
    """MinHash signatures: the share of equal entries estimates Jaccard similarity.

    The words are `lexing.words`, which leave out numbers, so tables of numbers are compared by the
    words around them. A text with fewer words than a gram is like itself only.
    """
    if not texts:
        return np.empty((0, NUM_PERMUTATIONS), dtype=np.uint32)
    hashes = words(texts).hashes
    borders = np.flatnonzero(hashes == BORDER)
    begins = np.concatenate([[0], borders + 1])
    ends = np.concatenate([borders, [len(hashes)]])
    found = grams(np.concatenate([hashes, np.full(gram_words, BORDER)]), gram_words)
    # Each document's grams, but those that reach over its end; of a short one, the one at its
    # beginning, whatever that reaches over: its signature is made in another way below.
    counts = np.maximum(ends - begins - gram_words + 1, 1)
    firsts = np.cumsum(counts) - counts
    places = np.arange(counts.sum()) - np.repeat(firsts, counts) + np.repeat(begins, counts)
    shingles = found[places]
    values = (shingles >> np.uint64(32)).astype(np.uint32)
    result = np.empty((len(texts), NUM_PERMUTATIONS), dtype=np.uint32)
    for number, (factor, addend) in enumerate(zip(_FACTORS, _ADDENDS, strict=True)):
        result[:, number] = np.minimum.reduceat(_scattered(values, factor, addend), firsts)
    for document in np.flatnonzero(ends - begins < gram_words).tolist():
        digest = hashlib.shake_128(texts[document]).digest(result[document].nbytes)
        result[document] = np.frombuffer(digest, dtype="<u4")
    return result


def similarity(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of each pair of signatures."""
    estimated: npt.NDArray[np.float64] = (one == other).mean(axis=-1)
    return estimated


def first_occurrences(digests: Digests) -> npt.NDArray[np.bool_]:
    """Which documents are the first with their digest."""
    is_first = np.zeros(len(digests), dtype=np.bool_)
    for part in _parts(digests[:, 0]):
        order = part[np.lexsort((digests[part, 1], digests[part, 0]))]
        ordered = digests[order]
        begins = np.ones(len(order), dtype=np.bool_)
        begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        is_first[order[begins]] = True
    return is_first


def first_of_their_like(found: Signatures, threshold: float) -> npt.NDArray[np.bool_]:
    """Which documents are like no earlier one, nor linked to one by others alike.

    Alike are two documents that share a band and whose estimated similarity reaches the
    threshold.
    """
    num_bands, num_rows = choose_bands(threshold)
    leaders = np.arange(len(found))
    for band in range(num_bands):
        keys = _band_keys(found, band * num_rows, num_rows)
        for part in _parts(keys):
            order = part[np.argsort(keys[part], kind="stable")]
            _link_alike(order, keys[order], found, threshold, leaders)
    is_leader: npt.NDArray[np.bool_] = leaders == np.arange(len(found))
    return is_leader


def _link_alike(
    documents: npt.NDArray[np.int64],
    keys: Hashes,
    found: Signatures,
    threshold: float,
    leaders: npt.NDArray[np.int64],
) -> None:
    """Joins documents of equal keys, which stand side by side, if they are alike."""
    for _ in range(_ROUNDS):
        begins = np.ones(len(keys), dtype=np.bool_)
        begins[1:] = keys[1:] != keys[:-1]
        first = documents[np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))]
        others = np.flatnonzero(~begins)
        if len(others) == 0:
            return
        alike = np.empty(len(others), dtype=np.bool_)
        for start in range(0, len(others), _COMPARED_AT_ONCE):
            some = others[start : start + _COMPARED_AT_ONCE]
            compared = similarity(found[documents[some]], found[first[some]])
            alike[start : start + _COMPARED_AT_ONCE] = compared >= threshold
        _join(leaders, documents[others[alike]], first[others[alike]])
        documents, keys = documents[others[~alike]], keys[others[~alike]]


def _join(
    leaders: npt.NDArray[np.int64], ones: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> None:
    """Gives each pair, and all that is joined to it, the least of their leaders."""
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        a, b = _leader(leaders, one), _leader(leaders, other)
        leaders[max(a, b)] = min(a, b)


def _leader(leaders: npt.NDArray[np.int64], document: int) -> int:
    while (above := int(leaders[document])) != document:
        leaders[document] = leaders[above]
        document = above
    return document


def _parts(keys: Hashes) -> Iterator[npt.NDArray[np.int64]]:
    """Places of keys, in parts of bounded size such that equal keys are in one part."""
    num_parts = 1
    while num_parts * _SORTED_AT_ONCE < len(keys):
        num_parts *= 2
    if num_parts == 1:
        yield np.arange(len(keys))
        return
    shift = np.uint64(65 - num_parts.bit_length())
    for part in range(num_parts):
        yield np.flatnonzero(keys >> shift == np.uint64(part))


def _band_keys(found: Signatures, first: int, num_rows: int) -> Hashes:
    keys = np.zeros(len(found), dtype=np.uint64)
    for start in range(0, len(found), _COMPARED_AT_ONCE):
        some = found[start : start + _COMPARED_AT_ONCE, first : first + num_rows]
        key = keys[start : start + _COMPARED_AT_ONCE]
        for row in range(num_rows):
            key ^= some[:, row]
            key *= np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
    return keys


def _scattered(values: Signatures, factor: np.uint32, addend: np.uint32) -> Signatures:
    """Another order of all numbers of 32 bits."""
    scattered = values * factor
    scattered += addend
    return scattered


_RANDOM: Final = np.random.PCG64(0).random_raw(2 * NUM_PERMUTATIONS).astype(np.uint32)
_FACTORS: Final = _RANDOM[::2] | np.uint32(1)
_ADDENDS: Final = _RANDOM[1::2]
