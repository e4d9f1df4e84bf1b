"""Token shards: memory-mapped files of token ids, and the manifest that vouches for them.

A folder holds, for each source and split, `<source>.<split>.bin` and `<source>.<split>.idx`, the
tokenizer, and manifest.json. The .bin is `end_of_text document end_of_text document ...
end_of_text`: each document lies between two ends of text, one of which it shares with its
neighbour, so that it can be read together with both in one piece. The .idx holds the places of
the ends of text as int64, one more than there are documents.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, NonNegativeInt, ValidationError

from mtp_code.config import Strict
from mtp_code.data.config import TokenType
from mtp_code.errors import ShardError, TokenizerError
from mtp_code.tokenizer import Tokenizer, load_tokenizer

Split = Literal["train", "validation"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation")

MANIFEST_FILE: Final = "manifest.json"

# Files are checked in pieces of this size, so that damage is found where it is.
PIECE_BYTES: Final = 64_000_000
# Opening a folder reads it all to check it, up to this size: about a second. Of a larger one it
# reads this much, pieces evenly spread over all files.
CHECKED_BYTES: Final = 1_000_000_000


class SplitRecord(Strict):
    """
    Attributes:
        num_tokens: with each document's end of text.
        num_bytes: of the texts as UTF-8.
        tokens_sha256: of each `PIECE_BYTES` of the file of tokens.
        index_sha256: of the other file, likewise.
    """

    num_documents: NonNegativeInt
    num_tokens: NonNegativeInt
    num_bytes: NonNegativeInt
    tokens_sha256: tuple[str, ...]
    index_sha256: tuple[str, ...]


class SourceRecord(Strict):
    train: SplitRecord
    validation: SplitRecord
    dropped: dict[str, NonNegativeInt]
    """Documents left out, by reason."""


class Manifest(Strict):
    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[2] = Field(default=2, alias="schema")
    inputs_sha256: str
    """Of all that the shards follow from: configuration, corpora, benchmark texts."""
    tokenizer_fingerprint: str
    vocab_size: int
    token_type: TokenType
    sources: dict[str, SourceRecord]
    recipe: dict[str, Any]


class Shard:
    """The documents of one source and split, counted from 0."""

    def __init__(self, tokens: npt.NDArray[Any], borders: npt.NDArray[np.int64]) -> None:
        self._tokens = tokens
        self._borders = borders

    @property
    def num_documents(self) -> int:
        return len(self._borders) - 1

    @property
    def framed_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document with the ends of text on both sides."""
        return np.diff(self._borders) + 1

    def place(self, document: int) -> int:
        """Tokens that stand before a document, framed, in the file."""
        return int(self._borders[document])

    def framed(self, document: int) -> npt.NDArray[Any]:
        """The tokens of a document, with the end of text before it and the one that ends it."""
        return self._tokens[self._borders[document] : self._borders[document + 1] + 1]


class ShardWriter:
    """Writes the two files of a shard, complete when the block ends."""

    def __init__(
        self, folder: Path, source: str, split: Split, tokenizer: Tokenizer, token_type: TokenType
    ) -> None:
        self._folder, self._source, self._split = folder, source, split
        self._end_of_text = np.asarray([tokenizer.end_of_text], dtype=token_type)
        self._num_tokens = 0
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._num_bytes = 0
        self._sums = _PieceSums()

    def __enter__(self) -> Self:
        self._file = _tokens_path(self._folder, self._source, self._split).open("wb")
        self._write(self._end_of_text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(
        self, tokens: npt.NDArray[Any], lengths: npt.NDArray[np.int64], num_bytes: int
    ) -> None:
        """Add documents, each with the end of text behind it.

        Args:
            tokens: all of them in one piece.
            lengths: of each, with its end of text.
            num_bytes: of their texts.
        """
        assert lengths.sum() == len(tokens)
        self._write(tokens.astype(self._end_of_text.dtype, copy=False))
        self._lengths.append(lengths)
        self._num_tokens += len(tokens)
        self._num_bytes += num_bytes

    def finish(self) -> SplitRecord:
        """Write the index; what the manifest says of the shard."""
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *self._lengths])
        borders = np.cumsum(lengths, dtype=np.int64)
        _index_path(self._folder, self._source, self._split).write_bytes(borders.data)
        index_sums = _PieceSums()
        index_sums.update(borders.data.cast("B"))
        return SplitRecord(
            num_documents=len(borders) - 1,
            num_tokens=self._num_tokens,
            num_bytes=self._num_bytes,
            tokens_sha256=self._sums.finish(),
            index_sha256=index_sums.finish(),
        )

    def _write(self, tokens: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(tokens).data.cast("B")
        self._file.write(data)
        self._sums.update(data)


class _PieceSums:
    """Checksums of a file's pieces, as it is written."""

    def __init__(self) -> None:
        self._sums: list[str] = []
        self._begun = hashlib.sha256()
        self._room = PIECE_BYTES

    def update(self, data: memoryview) -> None:
        while len(data) >= self._room:
            self._begun.update(data[: self._room])
            data = data[self._room :]
            self._sums.append(self._begun.hexdigest())
            self._begun, self._room = hashlib.sha256(), PIECE_BYTES
        self._begun.update(data)
        self._room -= len(data)

    def finish(self) -> tuple[str, ...]:
        if self._room < PIECE_BYTES:
            self._sums.append(self._begun.hexdigest())
        return tuple(self._sums)


class ShardSet:
    """A folder of token shards, opened and checked."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        tokenizer: Tokenizer,
        shards: dict[tuple[str, Split], Shard],
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokenizer = tokenizer
        self._shards = shards

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.manifest.sources)

    @property
    def content_sha256(self) -> str:
        """Equal where a run would read the same tokens."""
        sums = [self.manifest.tokenizer_fingerprint]
        for source, record in sorted(self.manifest.sources.items()):
            for split in (record.train, record.validation):
                sums += [source, *split.tokens_sha256, *split.index_sha256]
        return hashlib.sha256("\n".join(sums).encode()).hexdigest()

    def shard(self, source: str, split: Split) -> Shard:
        return self._shards[source, split]

    def tokens_path(self, source: str, split: Split) -> Path:
        return _tokens_path(self.folder, source, split)


def open_shards(folder: Path, check_all: bool = False) -> ShardSet:
    """The shards of a folder, after checking sizes, tokenizer and content.

    Args:
        check_all: compare all content with its checksums, however long it takes; by default no
            more than takes about a second.

    Raises:
        ShardError: something is missing, or not as it was written.
    """
    manifest = read_manifest(folder)
    try:
        tokenizer = load_tokenizer(folder)
    except TokenizerError as error:
        raise ShardError(f"{error}; prepare the data again") from None
    if tokenizer.fingerprint != manifest.tokenizer_fingerprint:
        raise ShardError(
            f"{folder}: its tokenizer is not the one that made its tokens; prepare the data again"
        )
    check_sizes(folder, manifest)
    _check_content(folder, manifest, check_all)
    shards = {}
    for source in manifest.sources:
        for split in SPLITS:
            tokens_path = _tokens_path(folder, source, split)
            index_path = _index_path(folder, source, split)
            shards[source, split] = Shard(
                np.memmap(tokens_path, dtype=manifest.token_type, mode="r"),
                np.memmap(index_path, dtype=np.int64, mode="r"),
            )
    return ShardSet(folder, manifest, tokenizer, shards)


def read_manifest(folder: Path) -> Manifest:
    """What a folder of shards says of itself.

    Raises:
        ShardError: it has no manifest, so it was never completed, or a damaged one.
    """
    path = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{folder}: no token shards there; prepare the data first") from None
    except (OSError, ValidationError):
        raise ShardError(
            f"{path}: damaged, or of another version; prepare the data again"
        ) from None


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """
    Raises:
        ShardError: a file is missing, or longer or shorter than the manifest says.
    """
    for source, record in manifest.sources.items():
        for split in SPLITS:
            split_record: SplitRecord = getattr(record, split)
            expected = {
                _tokens_path(folder, source, split): _tokens_bytes(split_record, manifest),
                _index_path(folder, source, split): _index_bytes(split_record),
            }
            for path, num_bytes in expected.items():
                if not path.is_file():
                    raise ShardError(f"{path}: missing; prepare the data again")
                if (found := path.stat().st_size) != num_bytes:
                    raise ShardError(
                        f"{path}: has {found} bytes where {num_bytes} were written; "
                        "prepare the data again"
                    )


class _Piece(NamedTuple):
    path: Path
    number: int
    sha256: str


def _check_content(folder: Path, manifest: Manifest, check_all: bool) -> None:
    pieces = list(_pieces(folder, manifest))
    if not check_all:
        most = CHECKED_BYTES // PIECE_BYTES
        pieces = pieces[:: -(-len(pieces) // most)] if len(pieces) > most else pieces
    with ThreadPoolExecutor() as threads:  # hashing holds no lock of the interpreter's
        for error in threads.map(_damage, pieces):
            if error is not None:
                raise ShardError(error)


def _pieces(folder: Path, manifest: Manifest) -> Iterator[_Piece]:
    for source, record in manifest.sources.items():
        for split in SPLITS:
            split_record: SplitRecord = getattr(record, split)
            for path, sums in (
                (_tokens_path(folder, source, split), split_record.tokens_sha256),
                (_index_path(folder, source, split), split_record.index_sha256),
            ):
                yield from (_Piece(path, number, sha256) for number, sha256 in enumerate(sums))


def _damage(piece: _Piece) -> str | None:
    """What is wrong with a piece of a file, if it is not what was written."""
    first = piece.number * PIECE_BYTES
    with piece.path.open("rb") as file:
        file.seek(first)
        data = file.read(PIECE_BYTES)
    if hashlib.sha256(data).hexdigest() == piece.sha256:
        return None
    return (
        f"{piece.path}: changed since it was written, in bytes {first} to {first + len(data)}; "
        "prepare the data again"
    )


def _tokens_bytes(record: SplitRecord, manifest: Manifest) -> int:
    return (record.num_tokens + 1) * np.dtype(manifest.token_type).itemsize


def _index_bytes(record: SplitRecord) -> int:
    return (record.num_documents + 1) * np.dtype(np.int64).itemsize


def _tokens_path(folder: Path, source: str, split: Split) -> Path:
    return folder / f"{source}.{split}.bin"


def _index_path(folder: Path, source: str, split: Split) -> Path:
    return folder / f"{source}.{split}.idx"
