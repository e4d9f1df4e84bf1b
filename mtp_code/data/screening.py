"""One part of a corpus, read, screened and encoded by itself, so that all cores can work at once.

What concerns other parts, whether a document is a duplicate, is decided afterwards, by the digests
and signatures that are kept here.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtp_code.data.config import DataConfig
from mtp_code.data.contamination import Contamination
from mtp_code.data.corpora import Corpus, Part
from mtp_code.data.documents import Document, Skipped
from mtp_code.data.duplicates import NUM_PERMUTATIONS, Digests, Signatures, signatures
from mtp_code.data.filters import FilterConfig, content_digest, is_held_out, reason_to_drop
from mtp_code.data.fim import choose_cut, encode_cut
from mtp_code.files import whole_file
from mtp_code.tokenizer import TokenIds, Tokenizer

log = logging.getLogger(__name__)

COPIED: Final = "copy of a benchmark task"
CONTAINED: Final = "contains benchmark text"

# Texts are screened and encoded so many bytes at a time.
_BATCH_BYTES: Final = 2_000_000

TOKENS_SUFFIX: Final = ".tokens"
RECORD_SUFFIX: Final = ".npz"


class Kept(NamedTuple):
    """A document that nothing speaks against, but perhaps an earlier one like it."""

    text: str
    data: bytes
    digest: bytes
    is_validation: bool


@dataclass
class Counts:
    """What was read, and what of it was left out, by reason; bytes are of texts as UTF-8."""

    num_documents: int = 0
    num_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_bytes: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    """Benchmark tasks, by the documents left out for them."""

    def drop(self, reason: str, num_bytes: int) -> None:
        self.dropped[reason] += 1
        self.dropped_bytes[reason] += num_bytes

    def add(self, other: "Counts") -> None:
        self.num_documents += other.num_documents
        self.num_bytes += other.num_bytes
        self.dropped += other.dropped
        self.dropped_bytes += other.dropped_bytes
        self.tasks += other.tasks


class Screened(NamedTuple):
    """What a part left: a row for each document, in order.

    Attributes:
        lengths: in tokens, with the end of text.
        num_bytes: of the texts as UTF-8.
        signatures: without columns where near-duplicates are not looked for.
    """

    counts: Counts
    lengths: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    is_validation: npt.NDArray[np.bool_]
    digests: Digests
    signatures: Signatures


def screen(
    corpus: Corpus,
    documents: Iterable[Document | Skipped],
    config: DataConfig,
    contamination: Contamination,
    counts: Counts,
) -> Iterator[list[Kept]]:
    """The documents that pass, many at a time; `counts` gains all."""
    filters = config.filters if corpus.filters is None else corpus.filters
    batch: list[Kept] = []
    batch_bytes = 0
    for document in documents:
        counts.num_documents += 1
        kept = _judged(document, corpus, filters, config.validation_share, counts)
        if kept is None:
            continue
        batch.append(kept)
        batch_bytes += len(kept.data)
        if batch_bytes >= _BATCH_BYTES:
            yield _decontaminated(batch, corpus, contamination, counts)
            batch, batch_bytes = [], 0
    if batch:
        yield _decontaminated(batch, corpus, contamination, counts)


def screen_part(
    path: Path,
    corpus: Corpus,
    part: Part,
    config: DataConfig,
    tokenizer: Tokenizer,
    contamination: Contamination,
) -> None:
    """Writes what a part leaves beside `path`: its tokens, then the record of them.

    A part has a record when it is done.
    """
    counts = Counts()
    lengths: list[int] = []
    columns: list[tuple[int, bool, bytes]] = []
    found: list[Signatures] = []
    end_of_text = np.array([tokenizer.end_of_text], dtype=config.token_type)
    with whole_file(path.with_name(path.name + TOKENS_SUFFIX)) as file:
        for batch in screen(corpus, corpus.read(part), config, contamination, counts):
            for ids in _encoded(batch, config, tokenizer):
                file.write(ids.astype(config.token_type).data)
                file.write(end_of_text.data)
                lengths.append(len(ids) + 1)
            columns += [(len(kept.data), kept.is_validation, kept.digest) for kept in batch]
            if config.near_duplicates is not None:
                texts = [kept.data for kept in batch]
                found.append(signatures(texts, config.near_duplicates.gram_words))
    num_columns = 0 if config.near_duplicates is None else NUM_PERMUTATIONS
    found.append(np.empty((0, num_columns), dtype=np.uint32))
    digests = np.frombuffer(b"".join(digest for _, _, digest in columns), dtype=">u8")
    described = {"part": part, "counts": _plain(counts)}
    with whole_file(path.with_name(path.name + RECORD_SUFFIX)) as file:
        np.savez(
            file,
            described=np.frombuffer(json.dumps(described).encode(), dtype=np.uint8),
            lengths=np.array(lengths, dtype=np.int64),
            num_bytes=np.array([num_bytes for num_bytes, _, _ in columns], dtype=np.int64),
            is_validation=np.array([held_out for _, held_out, _ in columns], dtype=np.bool_),
            digests=digests.astype(np.uint64).reshape(-1, 2),
            signatures=np.concatenate(found),
        )


def is_screened(path: Path, part: Part) -> bool:
    """Whether this very part was done before."""
    record = path.with_name(path.name + RECORD_SUFFIX)
    if not record.exists():
        return False
    with np.load(record) as columns:
        described = json.loads(columns["described"].tobytes())
    return bool(described["part"] == json.loads(json.dumps(part)))


def read_screened(path: Path) -> Screened:
    """The record of a part."""
    with np.load(path.with_name(path.name + RECORD_SUFFIX)) as columns:
        plain = json.loads(columns["described"].tobytes())["counts"]
        counters = ("dropped", "dropped_bytes", "tasks")
        counts = Counts(**plain | {name: Counter(plain[name]) for name in counters})
        names = [name for name in Screened._fields if name != "counts"]
        return Screened(counts, **{name: columns[name] for name in names})


def map_tokens(path: Path, config: DataConfig) -> npt.NDArray[Any]:
    """The tokens of a part, each document's with the end of text behind it."""
    tokens_path = path.with_name(path.name + TOKENS_SUFFIX)
    if tokens_path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype=config.token_type)
    return np.memmap(tokens_path, dtype=config.token_type, mode="r")


def _judged(
    document: Document | Skipped,
    corpus: Corpus,
    filters: FilterConfig,
    validation_share: float,
    counts: Counts,
) -> Kept | None:
    if isinstance(document, Skipped):
        log.info("%s: left out: %s", document.name, document.reason)
        counts.drop(document.reason, 0)
        return None
    text = document.text
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        counts.drop("undecodable", 0)
        return None
    counts.num_bytes += len(data)
    if not text or text.isspace():
        counts.drop("empty", len(data))
    elif b"\0" in data:
        counts.drop("undecodable", len(data))
    elif (reason := reason_to_drop(document, len(data), filters)) is not None:
        log.debug("%s: left out: %s", document.name, reason)
        counts.drop(reason, len(data))
    else:
        digest = content_digest(text)
        group = corpus.held_out_with(document.name)
        decides = digest if group is None else content_digest(group)
        return Kept(text, data, digest, is_held_out(decides, validation_share))
    return None


def _decontaminated(
    batch: list[Kept], corpus: Corpus, contamination: Contamination, counts: Counts
) -> list[Kept]:
    texts = [kept.data for kept in batch] if corpus.decontaminate else []
    contained = contamination.contained_tasks(texts) if texts else [None] * len(batch)
    clean = []
    for kept, task in zip(batch, contained, strict=True):
        if (copied := contamination.copied_task(kept.digest)) is not None:
            counts.drop(COPIED, len(kept.data))
            counts.tasks[copied] += 1
        elif task is not None:
            counts.drop(CONTAINED, len(kept.data))
            counts.tasks[task] += 1
        else:
            clean.append(kept)
    return clean


def _encoded(batch: list[Kept], config: DataConfig, tokenizer: Tokenizer) -> list[TokenIds]:
    """Held-out documents stay whole: bits per byte are of text in its own order."""
    if config.fim is None:
        return tokenizer.encode_batch([kept.text for kept in batch])
    cuts = (
        None if kept.is_validation else choose_cut(len(kept.text), kept.digest, config.fim)
        for kept in batch
    )
    return encode_cut(
        zip((kept.text for kept in batch), cuts, strict=True), tokenizer, tokenizer.fim
    )


def _plain(counts: Counts) -> dict[str, Any]:
    return {
        name: dict(value) if isinstance(value, Counter) else value
        for name, value in vars(counts).items()
    }
