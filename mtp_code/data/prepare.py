"""From corpora to token shards."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from mtp_code.data.config import DataConfig
from mtp_code.data.corpora import Corpus, Skipped
from mtp_code.data.filters import Contamination, Reference, content_digest, is_held_out
from mtp_code.data.shards import (
    MANIFEST_FILE,
    Manifest,
    ShardWriter,
    SourceRecord,
    check_sizes,
    read_manifest,
)
from mtp_code.errors import CorpusError, ShardError
from mtp_code.files import alone_in, remove_leftovers, whole_folder, write_json
from mtp_code.tokenizer import BpeConfig, Tokenizer, TokenizerConfig, build_tokenizer

log = logging.getLogger(__name__)

# Raised when the same inputs would give other shards than before.
_VERSION: Final = 1

# Texts go to the tokenizer, which works on all cores, this many characters at a time.
_CHUNK_CHARACTERS: Final = 4_000_000


class Progress(NamedTuple):
    """How far into a source preparation is; `num_bytes` is of the text kept."""

    stage: str
    source: str
    num_documents: int
    num_bytes: int


COPIED: Final = "copy of a benchmark task"
CONTAINED: Final = "contains benchmark text"

OnProgress = Callable[[Progress], None]


class _Kept(NamedTuple):
    text: str
    num_bytes: int
    is_validation: bool


def prepare(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    folder: Path,
    references: Sequence[Reference] = (),
    on_progress: OnProgress = lambda progress: None,
) -> Manifest:
    """Token shards of the sources in a folder; nothing is done if they are there already.

    Args:
        references: benchmark tasks whose text must not be trained on.

    Raises:
        CorpusError: a source is missing or has nothing to train on, or the vocabulary is too
            large for the token type.
        TokenizerError: the tokenizer cannot be had.
        ShardError: the folder holds something else.
    """
    inputs_sha256 = _hash_inputs(config, tokenizer_config, references)
    with alone_in(folder.parent, wait=True):
        if (found := _find_manifest(folder, inputs_sha256)) is not None:
            return found
        remove_leftovers(folder)  # we hold the lock, so nobody works on them
        contamination = Contamination(references)
        with whole_folder(folder) as aside:
            sample = _tokenizer_sample(config, tokenizer_config, contamination, on_progress)
            tokenizer = build_tokenizer(tokenizer_config, sample)
            _check_token_type(config, tokenizer)
            tokenizer.save(aside)
            manifest = Manifest(
                inputs_sha256=inputs_sha256,
                tokenizer_fingerprint=tokenizer.fingerprint,
                vocab_size=tokenizer.vocab_size,
                token_type=config.token_type,
                sources=_write_shards(config, tokenizer, aside, contamination, on_progress),
                recipe={
                    "data": config.model_dump(mode="json"),
                    "tokenizer": tokenizer_config.model_dump(mode="json"),
                },
            )
            write_json(aside / MANIFEST_FILE, manifest.model_dump(mode="json", by_alias=True))
        return manifest


def _write_shards(
    config: DataConfig,
    tokenizer: Tokenizer,
    folder: Path,
    contamination: Contamination,
    on_progress: OnProgress,
) -> dict[str, SourceRecord]:
    records = {}
    seen: set[bytes] = set()
    for source, corpus in config.sources.items():
        dropped: Counter[str] = Counter()
        num_documents = num_bytes = 0
        with (
            ShardWriter(folder, source, "train", tokenizer, config.token_type) as train,
            ShardWriter(folder, source, "validation", tokenizer, config.token_type) as validation,
        ):
            kept = _keep(corpus, config.validation_share, seen, contamination, dropped)
            for chunk in _chunks(kept):
                ids_by_document = tokenizer.encode_batch([document.text for document in chunk])
                for document, ids in zip(chunk, ids_by_document, strict=True):
                    shard = validation if document.is_validation else train
                    shard.append(ids, document.num_bytes)
                num_documents += len(chunk)
                num_bytes += sum(document.num_bytes for document in chunk)
                on_progress(Progress("encoding", source, num_documents, num_bytes))
            record = SourceRecord(
                train=train.finish(), validation=validation.finish(), dropped=dict(dropped)
            )
        if record.train.num_documents == 0:
            raise CorpusError(
                f"data.sources.{source}: no document left to train on ({_describe(record)}); "
                "add documents, or take the source out"
            )
        log.info("%s: %s", source, _describe(record))
        records[source] = record
    return records


def _keep(
    corpus: Corpus,
    validation_share: float,
    seen: set[bytes],
    contamination: Contamination,
    dropped: Counter[str],
) -> Iterator[_Kept]:
    """The documents that pass the filters; `seen` gains their digests, `dropped` the others."""
    for document in corpus.documents():
        if isinstance(document, Skipped):
            log.info("%s: left out: %s", document.name, document.reason)
            dropped[document.reason] += 1
            continue
        digest = content_digest(document.text)
        if (reason := _reason_to_drop(document.text, digest, corpus, seen, contamination)) is None:
            seen.add(digest)
            yield _Kept(
                text=document.text,
                num_bytes=len(document.text.encode("utf-8")),
                is_validation=is_held_out(digest, validation_share),
            )
        else:
            log.debug("%s: left out: %s", document.name, reason)
            dropped[reason] += 1


def _reason_to_drop(
    text: str, digest: bytes, corpus: Corpus, seen: set[bytes], contamination: Contamination
) -> str | None:
    if not text.strip():
        return "empty"
    if "\0" in text or not _is_unicode(text):
        return "undecodable"
    if digest in seen:
        return "duplicate"
    if contamination.copied_task(digest) is not None:
        return COPIED
    if corpus.decontaminate and contamination.contained_task(text) is not None:
        return CONTAINED
    return None


def _tokenizer_sample(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    contamination: Contamination,
    on_progress: OnProgress,
) -> Iterator[str]:
    """Training documents for a tokenizer, each source in proportion to its weight."""
    if not isinstance(tokenizer_config, BpeConfig):
        return
    total_weight = sum(corpus.weight for corpus in config.sources.values())
    seen: set[bytes] = set()
    for source, corpus in config.sources.items():
        budget = tokenizer_config.training_bytes * corpus.weight / total_weight
        num_documents = num_bytes = 0
        for kept in _keep(corpus, config.validation_share, seen, contamination, Counter()):
            if num_bytes >= budget:
                break
            if not kept.is_validation:
                num_documents += 1
                num_bytes += kept.num_bytes
                yield kept.text
        on_progress(Progress("reading for the tokenizer", source, num_documents, num_bytes))


def _chunks(documents: Iterable[_Kept]) -> Iterator[list[_Kept]]:
    chunk: list[_Kept] = []
    num_characters = 0
    for document in documents:
        chunk.append(document)
        num_characters += len(document.text)
        if num_characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def _hash_inputs(
    config: DataConfig, tokenizer_config: TokenizerConfig, references: Sequence[Reference]
) -> str:
    # Weights and packing concern the batches, unless a tokenizer is trained in these proportions.
    ignored = set() if isinstance(tokenizer_config, BpeConfig) else {"weight"}
    inputs = {
        "version": _VERSION,
        "sources": {
            source: [corpus.model_dump(mode="json", exclude=ignored), corpus.content_hash()]
            for source, corpus in config.sources.items()
        },
        "validation_share": config.validation_share,
        "token_type": config.token_type,
        "tokenizer": tokenizer_config.model_dump(mode="json"),
        "references": list(references),
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _find_manifest(folder: Path, inputs_sha256: str) -> Manifest | None:
    """The manifest of shards made from these inputs, if they are there and whole."""
    if not folder.exists():
        return None
    if not (folder / MANIFEST_FILE).exists() and any(folder.iterdir()):
        raise ShardError(
            f"{folder}: holds something other than token shards; choose another folder"
        )
    try:
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
    except ShardError as error:
        log.warning("%s", error)
        return None
    return manifest if manifest.inputs_sha256 == inputs_sha256 else None


def _check_token_type(config: DataConfig, tokenizer: Tokenizer) -> None:
    capacity = np.iinfo(config.token_type).max + 1
    if tokenizer.vocab_size > capacity:
        raise CorpusError(
            f"data.token_type: {config.token_type} holds {capacity} ids, the tokenizer has "
            f'{tokenizer.vocab_size}; set token_type = "uint32"'
        )


def _describe(record: SourceRecord) -> str:
    parts = [
        f"{split.num_documents} documents of {split.num_bytes} bytes ({split.num_tokens} tokens) "
        f"for {purpose}"
        for split, purpose in ((record.train, "training"), (record.validation, "validation"))
    ]
    # What decontamination found is told even where it found nothing.
    dropped = {COPIED: 0, CONTAINED: 0} | record.dropped
    parts += [f"{count} left out: {reason}" for reason, count in sorted(dropped.items())]
    return ", ".join(parts)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
