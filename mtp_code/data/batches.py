"""Batches for training and validation."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtp_code.data.config import DataConfig
from mtp_code.data.packing import NO_DOCUMENT, Row, StreamRows, WholeRows
from mtp_code.data.shards import ShardSet
from mtp_code.errors import ShardError

ROWS_TOLD: Final = 4
"""Of a step whose loss is no number."""


class Batch(NamedTuple):
    """Rows of T + n tokens, where n is the largest offset that is predicted.

    Attributes:
        tokens: (B, T + n).
        documents: (B, T + n), numbered from 0 in each row; padding is −1. A label at offset k of
            position t counts if both tokens are of the same document.
        sources: (B,), where each row is from.
    """

    tokens: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32]
    sources: tuple[str, ...]


class TrainingBatches:
    """The batch of any step, as a function of seed and step alone."""

    def __init__(
        self,
        shards: ShardSet,
        config: DataConfig,
        batch_rows: int,
        row_tokens: int,
        num_offsets: int,
        seed: int,
    ) -> None:
        """
        Raises:
            ShardError: the shards lack a source of the configuration.
        """
        if missing := sorted(set(config.sources) - set(shards.sources)):
            raise ShardError(
                f"{shards.folder}: has no source {missing[0]!r}; prepare the data of this recipe"
            )
        pack: Callable[..., StreamRows | WholeRows] = (
            StreamRows if config.packing == "stream" else WholeRows
        )
        self._batch_rows = batch_rows
        self._shards = shards
        self._vocab_size = shards.tokenizer.vocab_size
        # Another seed for each source: sources of equal size are not shuffled alike.
        self._rows = {
            name: pack(
                shards.shard(name, "train"),
                row_tokens,
                num_offsets,
                seed ^ zlib.crc32(name.encode()),
            )
            for name in config.sources
        }
        self._weights = {
            name: corpus.weight
            if corpus.epochs is None
            else corpus.epochs * self._rows[name].rows_per_epoch
            for name, corpus in config.sources.items()
        }
        self._mixture = Mixture(self._weights)

    def epochs(self, num_steps: int) -> dict[str, float]:
        """How often a run of that many steps reads each source."""
        num_rows = num_steps * self._batch_rows / sum(self._weights.values())
        return {
            name: num_rows * weight / self._rows[name].rows_per_epoch
            for name, weight in self._weights.items()
        }

    def batch(self, step: int) -> Batch:
        return self.rows(step * self._batch_rows, self._batch_rows)

    def places(self, step: int) -> str:
        """Where a step's rows begin, for a message: file, document, place in it and in the file.

        Of many rows, the first `ROWS_TOLD`.
        """
        rows = range(step * self._batch_rows, (step + 1) * self._batch_rows)
        told = [self._place(*self._mixture.locate(row)) for row in rows[:ROWS_TOLD]]
        more = len(rows) - len(told)
        return "; ".join(told) + (f"; and {more} more rows" if more else "")

    def _place(self, source: str, index: int) -> str:
        piece = self._rows[source].first_piece(index)
        shard = self._shards.shard(source, "train")
        return (
            f"{self._shards.tokens_path(source, 'train')} from token "
            f"{shard.place(piece.document) + piece.start} (document {piece.document}, "
            f"its token {piece.start})"
        )

    def rows(self, first: int, count: int) -> Batch:
        """Rows of the run, which are counted from 0: a worker's or a micro-batch's share.

        Raises:
            ShardError: the tokens are none of the tokenizer's.
        """
        places = [self._mixture.locate(row) for row in range(first, first + count)]
        rows = [self._rows[source].row(index) for source, index in places]
        for (source, index), row in zip(places, rows, strict=True):
            if (found := int(row.tokens.max())) >= self._vocab_size:
                raise ShardError(
                    f"{self._place(source, index)}: in this row is token {found}, the vocabulary "
                    f"has {self._vocab_size}: changed since it was written; prepare the data again"
                )
        return _batch(rows, [source for source, _ in places])


class Mixture:
    """Which source each row of a run is from: after any number of rows, shares are as weighted.

    Exactly, to one row for two sources and to a few for many; and without counting up to a row.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        # Sources take turns one after another: the first takes its share of the rows, evenly
        # spaced, the second its share of those left over, and the last all that remain.
        self._shares: list[tuple[str, Fraction]] = []
        left = sum(Fraction(weight) for weight in weights.values())
        for source, weight in weights.items():
            self._shares.append((source, Fraction(weight) / left))
            left -= Fraction(weight)

    def locate(self, row: int) -> tuple[str, int]:
        """The source of a row, and which of that source's rows it is."""
        for source, share in self._shares:
            taken_before = row * share.numerator // share.denominator
            taken_after = (row + 1) * share.numerator // share.denominator
            if taken_after > taken_before:
                return source, taken_before
            row -= taken_before
        raise AssertionError("the last source takes all rows that are left")


class Validation(NamedTuple):
    """Fixed batches of held-out documents.

    Bits per byte are the nats of all labels of offset 1 ÷ ln 2 ÷ `num_bytes`.
    """

    batches: Sequence[Batch]
    num_bytes: int


def validation_batches(
    shards: ShardSet,
    source: str,
    batch_rows: int,
    row_tokens: int,
    num_offsets: int,
    max_tokens: int,
) -> Validation | None:
    """Rows spread evenly over a source's held-out documents; None if it has none.

    Args:
        max_tokens: input positions at most, but always one row.
    """
    shard = shards.shard(source, "validation")
    if shard.num_documents == 0:
        return None
    stream = StreamRows(shard, row_tokens, num_offsets, seed=None)
    num_rows = max(1, min(stream.rows_per_epoch, max_tokens // row_tokens))
    chosen = np.arange(num_rows) * stream.rows_per_epoch // num_rows
    last = stream.rows_per_epoch - 1
    rows = [stream.last_row() if index == last else stream.row(int(index)) for index in chosen]
    token_bytes = shards.tokenizer.token_num_bytes()
    num_bytes = sum(_num_label_bytes(row, row_tokens, token_bytes) for row in rows)
    # The last batch is padded: all of one shape compile once.
    empty = Row(np.zeros_like(rows[0].tokens), np.full_like(rows[0].documents, NO_DOCUMENT))
    rows += [empty] * (-len(rows) % batch_rows)
    return Validation(
        batches=[
            _batch(rows[start : start + batch_rows], [source] * batch_rows)
            for start in range(0, len(rows), batch_rows)
        ],
        num_bytes=num_bytes,
    )


def _num_label_bytes(row: Row, row_tokens: int, token_bytes: npt.NDArray[np.int64]) -> int:
    labels = row.tokens[1 : row_tokens + 1]
    documents, label_documents = row.documents[:row_tokens], row.documents[1 : row_tokens + 1]
    counted = (documents == label_documents) & (documents != NO_DOCUMENT)
    return int(token_bytes[labels[counted]].sum())


def _batch(rows: Sequence[Row], sources: Sequence[str]) -> Batch:
    return Batch(
        tokens=np.stack([row.tokens for row in rows]),
        documents=np.stack([row.documents for row in rows]),
        sources=tuple(sources),
    )
