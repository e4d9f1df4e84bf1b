"""Rows of documents: which tokens stand in row i of a source, for any i, in any order of asking.

A document comes into a row framed by ends of text, as a sampling prompt does: the end of text
before it is context for its first token, the one after it is its last label. Both carry its
number.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtp_code.data.shards import Shard

NO_DOCUMENT: Final = -1


class Row(NamedTuple):
    """Both (T + n,), where n is the largest offset that is predicted.

    A label at offset k of position t counts if both tokens are of the same document: documents
    are numbered from 0 in each row, and padding is `NO_DOCUMENT`.
    """

    tokens: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32]


class Piece(NamedTuple):
    """A document of the shard from one of its framed tokens on."""

    document: int
    start: int


class Rows(ABC):
    """All documents of a shard in each epoch once, as an endless sequence of rows.

    Of a document that is cut at the end of a row, the last n tokens there come again in the next:
    labels in the one, inputs in the other. So each token but the end of text before a document is
    a label of offset 1 exactly once.
    """

    def __init__(self, shard: Shard, row_tokens: int, num_offsets: int, seed: int | None) -> None:
        """
        Args:
            row_tokens: input positions (T).
            seed: of the order of documents, another one in each epoch; None is as they stand.
        """
        self._shard = shard
        self._row_tokens = row_tokens
        self._num_offsets = num_offsets
        self._seed = seed

    def row(self, index: int) -> Row:
        """Row `index`, counted from 0 over all epochs."""
        return self._fill(self._pieces(index))

    def first_piece(self, index: int) -> Piece:
        """Where the row begins."""
        return next(iter(self._pieces(index)))

    @abstractmethod
    def _pieces(self, index: int) -> Iterator[Piece]:
        """What follows from a row's beginning on, document by document; perhaps more than fits."""

    def _permutation(self, length: int, epoch: int, purpose: int = 0) -> npt.NDArray[np.int64]:
        if self._seed is None:
            return np.arange(length)
        # By rank of raw random words, which numpy keeps the same for ever, unlike `permutation`.
        words = np.random.PCG64([self._seed, epoch, purpose]).random_raw(length)
        return np.argsort(words, kind="stable")

    def _fill(self, pieces: Iterable[Piece]) -> Row:
        """The pieces, each of another document, as far as they fit; then padding."""
        length = self._row_tokens + self._num_offsets
        tokens = np.zeros(length, dtype=np.int64)
        documents = np.full(length, NO_DOCUMENT, dtype=np.int32)
        filled = 0
        for number, piece in enumerate(pieces):
            framed = self._shard.framed(piece.document)[piece.start :]
            end = min(filled + len(framed), length)
            tokens[filled:end] = framed[: end - filled]
            documents[filled:end] = number
            filled = end
            if filled == length:
                break
        return Row(tokens, documents)


class StreamRows(Rows):
    """Rows cut out of the framed documents laid end to end, without any padding."""

    def __init__(self, shard: Shard, row_tokens: int, num_offsets: int, seed: int | None) -> None:
        super().__init__(shard, row_tokens, num_offsets, seed)
        self._epoch_tokens = int(shard.framed_lengths.sum())
        self._epochs: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}

    @property
    def rows_per_epoch(self) -> int:
        """Rows that begin in an epoch, the last of which may reach into the next one."""
        return -(-self._epoch_tokens // self._row_tokens)

    def last_row(self) -> Row:
        """The last row of the first epoch, padded where `row` would go on into the next."""
        place = (self.rows_per_epoch - 1) * self._row_tokens
        return self._fill(self._behind(0, place, last_epoch=0))

    def _pieces(self, index: int) -> Iterator[Piece]:
        epoch, place = divmod(index * self._row_tokens, self._epoch_tokens)
        return self._behind(epoch, place, last_epoch=None)

    def _behind(self, epoch: int, place: int, last_epoch: int | None) -> Iterator[Piece]:
        """What follows a place in an epoch, document by document, the first one perhaps cut."""
        order, ends = self._order(epoch)
        rank = int(np.searchsorted(ends, place, side="right"))
        skipped = place - int(ends[rank - 1]) if rank else place
        while last_epoch is None or epoch <= last_epoch:
            for document in order[rank:]:
                yield Piece(int(document), skipped)
                skipped = 0
            epoch, rank = epoch + 1, 0
            order, _ = self._order(epoch)

    def _order(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The documents of an epoch in their order, and where each ends in it."""
        known = self._epochs
        if (found := known.get(epoch)) is None:
            order = self._permutation(self._shard.num_documents, epoch)
            found = order, np.cumsum(self._shard.framed_lengths[order])
            # Rows ask for one epoch after another, and at the border for two. Another thread may
            # ask too, for a message: what is kept is never changed, only made anew.
            self._epochs = dict([*known.items()][-1:]) | {epoch: found}
        return found


class WholeRows(Rows):
    """Rows of whole documents, each in the fullest row that has room for it, and padding.

    Documents longer than a row are cut into rows of their own and a rest.

    Source: Ding et al. 2024, arXiv 2404.10830, section 3 (best-fit packing).
    """

    def __init__(self, shard: Shard, row_tokens: int, num_offsets: int, seed: int | None) -> None:
        super().__init__(shard, row_tokens, num_offsets, seed)
        # A document's last token is only ever a label, so T inputs hold T + 1 of its tokens.
        capacity = row_tokens + 1
        self._documents, self._starts = _cut(shard.framed_lengths, row_tokens)
        self._lengths = np.minimum(shard.framed_lengths[self._documents] - self._starts, capacity)
        # How full rows get depends on the lengths alone. An epoch's order only says which of the
        # pieces of one length goes where, so all epochs have the same number of rows.
        self._row_of_rank = best_fit_decreasing(np.sort(self._lengths)[::-1], capacity)
        self.rows_per_epoch: Final = int(self._row_of_rank.max()) + 1
        self._epoch: tuple[int, list[npt.NDArray[np.int64]]] | None = None

    def _pieces(self, index: int) -> Iterator[Piece]:
        epoch, place = divmod(index, self.rows_per_epoch)
        for number in self._pieces_by_row(epoch)[place]:
            yield Piece(int(self._documents[number]), int(self._starts[number]))

    def _pieces_by_row(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        known = self._epoch
        if known is None or known[0] != epoch:
            order = self._permutation(len(self._lengths), epoch)
            by_length = order[np.argsort(-self._lengths[order], kind="stable")]
            place_of_row = self._permutation(self.rows_per_epoch, epoch, purpose=1)
            place_of_rank = place_of_row[self._row_of_rank]
            # Within a row, too, in random order, not the longest first.
            shuffled = self._permutation(len(self._lengths), epoch, purpose=2)
            ranks = np.lexsort((shuffled, place_of_rank))
            borders = np.searchsorted(place_of_rank[ranks], np.arange(1, self.rows_per_epoch))
            self._epoch = known = epoch, np.split(by_length[ranks], borders)
        return known[1]


def best_fit_decreasing(lengths: Iterable[int], capacity: int) -> npt.NDArray[np.int64]:
    """The row that each length goes to: the fullest with room, else a new one.

    Args:
        lengths: at most `capacity` each, longest first.
    """
    rows_by_room: dict[int, list[int]] = defaultdict(list)
    rooms = 0  # bit r is set while a row has room r
    num_rows = 0
    placed = []
    for length in lengths:
        fitting = rooms >> int(length)
        if fitting:
            room = int(length) + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, num_rows
            num_rows += 1
        placed.append(row)
        rows_by_room[room - int(length)].append(row)
        rooms |= 1 << (room - int(length))
    return np.asarray(placed, dtype=np.int64)


def _cut(
    framed_lengths: npt.NDArray[np.int64], row_tokens: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Document and start of each piece, such that a piece has at most T input positions."""
    num_pieces = -(-(framed_lengths - 1) // row_tokens)
    documents = np.repeat(np.arange(len(framed_lengths)), num_pieces)
    first_piece = np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    return documents, (np.arange(len(documents)) - first_piece) * row_tokens
