from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtp_code.data.packing import NO_DOCUMENT, Row, Rows, StreamRows, WholeRows, best_fit_decreasing
from mtp_code.data.shards import Shard

END = 0


def shard_of(lengths: Sequence[int]) -> Shard:
    """Documents of these lengths, in which no token comes twice."""
    tokens, borders = [END], [0]
    for length in lengths:
        first = 1 + sum(token != END for token in tokens)
        tokens += [*range(first, first + length), END]
        borders.append(len(tokens) - 1)
    return Shard(np.array(tokens, dtype=np.uint16), np.array(borders, dtype=np.int64))


def labels(row: Row, row_tokens: int, offset: int) -> list[tuple[int, int]]:
    """Each position's token and its label at an offset, where it has one."""
    return [
        (int(row.tokens[t]), int(row.tokens[t + offset]))
        for t in range(row_tokens)
        if row.documents[t] == row.documents[t + offset] != NO_DOCUMENT
    ]


def labels_of_documents(shard: Shard, offset: int) -> Counter[tuple[int, int]]:
    """The slow, obvious twin: all pairs within each document."""
    pairs: Counter[tuple[int, int]] = Counter()
    for document in range(shard.num_documents):
        tokens = shard.framed(document).tolist()
        pairs.update(zip(tokens, tokens[offset:], strict=False))
    return pairs


lengths_lists = st.lists(st.integers(1, 30), min_size=1, max_size=12)
packings = pytest.mark.parametrize("packing", [StreamRows, WholeRows])


@packings
@given(lengths_lists, st.integers(1, 12), st.integers(1, 4), st.integers(0, 9))
def test_each_pair_within_a_document_is_a_label_once_an_epoch(
    packing: type[StreamRows] | type[WholeRows],
    lengths: list[int],
    row_tokens: int,
    num_offsets: int,
    seed: int,
) -> None:
    shard = shard_of(lengths)
    rows = packing(shard, row_tokens, num_offsets, seed)
    # As many epochs as end with a row.
    num_epochs = row_tokens if packing is StreamRows else 2
    total = int(shard.framed_lengths.sum())
    num_rows = total if packing is StreamRows else num_epochs * rows.rows_per_epoch
    for offset in range(1, num_offsets + 1):
        found: Counter[tuple[int, int]] = Counter()
        for index in range(num_rows):
            found.update(labels(rows.row(index), row_tokens, offset))
        expected = labels_of_documents(shard, offset)
        assert found == Counter({pair: num_epochs * n for pair, n in expected.items()})


@packings
def test_rows_have_t_plus_n_tokens(packing: type[Rows]) -> None:
    row = packing(shard_of([3, 5, 40]), 8, 3, 0).row(2)
    assert (row.tokens.shape, row.tokens.dtype) == ((11,), np.int64)
    assert (row.documents.shape, row.documents.dtype) == ((11,), np.int32)


@packings
def test_rows_are_the_same_in_any_order_of_asking(packing: type[Rows]) -> None:
    shard = shard_of([7, 3, 9, 20, 1, 5] * 5)
    forwards, backwards = packing(shard, 8, 2, 1), packing(shard, 8, 2, 1)
    expected = [forwards.row(index) for index in range(150)]
    for index in reversed(range(150)):
        np.testing.assert_array_equal(backwards.row(index).tokens, expected[index].tokens)


@packings
def test_order_differs_by_epoch_and_seed(packing: type[StreamRows] | type[WholeRows]) -> None:
    shard = shard_of([7] * 64)  # eight rows of eight documents in both packings
    first = packing(shard, 9, 1, 1)
    other = packing(shard, 9, 1, 2)
    epoch = 64 * 9 // 9

    def tokens(rows: Rows, begin: int) -> list[int]:
        return [int(token) for i in range(begin, begin + epoch) for token in rows.row(i).tokens]

    assert tokens(first, 0) != tokens(first, epoch)
    assert tokens(first, 0) != tokens(other, 0)


def test_order_of_documents_is_pinned() -> None:
    """Resumed runs rely on it: another order under the same seed is another run."""
    rows = StreamRows(shard_of([1] * 8), 24, 1, 7)
    assert [int(token) for token in rows.row(0).tokens if token != END][:8] == PINNED_ORDER


PINNED_ORDER = [7, 4, 5, 1, 3, 8, 6, 2]


def test_stream_rows_have_no_padding() -> None:
    rows = StreamRows(shard_of([3, 50, 1]), 8, 3, 0)
    assert all((rows.row(index).documents != NO_DOCUMENT).all() for index in range(50))


def test_last_row_is_padded_instead_of_going_on() -> None:
    rows = StreamRows(shard_of([3, 3]), 4, 2, None)
    last = rows.last_row()
    assert rows.rows_per_epoch == 3
    assert last.tokens.tolist()[:2] == [6, END]
    assert last.documents.tolist() == [0, 0, *[NO_DOCUMENT] * 4]


def test_whole_rows_split_no_document_that_fits() -> None:
    shard = shard_of([3, 8, 5, 2, 7, 6, 1, 4] * 4)
    rows = WholeRows(shard, 9, 2, 0)
    documents = [
        tuple(row.tokens[row.documents == number].tolist())
        for row in map(rows.row, range(rows.rows_per_epoch))
        for number in range(int(row.documents.max()) + 1)
    ]
    framed = [tuple(shard.framed(i).tolist()) for i in range(shard.num_documents)]
    assert sorted(documents) == sorted(framed)


def test_whole_rows_pad_little() -> None:
    shard = shard_of([3, 8, 5, 2, 7, 6, 1, 4] * 4)
    rows = WholeRows(shard, 9, 1, 0)
    padding = [(rows.row(i).documents == NO_DOCUMENT).mean() for i in range(rows.rows_per_epoch)]
    assert 0 < np.mean(padding) < 0.2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 60))
def test_best_fit_puts_each_length_into_the_fullest_row_with_room(
    lengths: list[int], capacity: int
) -> None:
    lengths.sort(reverse=True)
    rows = best_fit_decreasing(lengths, capacity)
    used: list[int] = []
    for length, row in zip(lengths, rows, strict=True):
        fitting = [held for held in used if held + length <= capacity]
        if fitting:
            assert used[row] == max(fitting)
            used[row] += length
        else:
            assert row == len(used)
            used.append(length)
