"""From corpora to token shards.

Each part of each corpus is read, screened and encoded by itself, by as many processes as there are
cores, into a folder of work beside the shards. Then duplicates are found among all of them, and
what is kept is put together. Whatever is interrupted goes on from the parts that were done; the
order of documents depends on the corpora alone.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtp_code.data.card import CARD_FILE, CARD_PAGE, describe, make_card, page
from mtp_code.data.config import DataConfig
from mtp_code.data.contamination import Contamination, Reference
from mtp_code.data.corpora import PART_BYTES, Part, hash_files
from mtp_code.data.duplicates import NUM_PERMUTATIONS, first_occurrences, first_of_their_like
from mtp_code.data.screening import (
    Counts,
    is_screened,
    map_tokens,
    read_screened,
    screen,
    screen_part,
)
from mtp_code.data.shards import (
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    ShardWriter,
    SourceRecord,
    check_sizes,
    read_manifest,
)
from mtp_code.errors import CorpusError, MachineError, ShardError, TokenizerError
from mtp_code.files import alone_in, remove_leftovers, whole_folder, write_json, write_text
from mtp_code.tokenizer import (
    CHAT_TEMPLATE_FILE,
    DEFINITION_FILE,
    SETTINGS_FILE,
    BpeConfig,
    HuggingFaceConfig,
    Tokenizer,
    TokenizerConfig,
    build_tokenizer,
    load_tokenizer,
)

log = logging.getLogger(__name__)

# Raised when the same inputs would give other shards than before.
_VERSION: Final = 3
# The tokenizer's threads, and torch's where it is loaded, do not survive a fork.
_START_METHOD: Final = "spawn"

_INPUTS_FILE: Final = "inputs"
_TOKENIZER_DIR: Final = "tokenizer"

DUPLICATE: Final = "duplicate"
NEAR_DUPLICATE: Final = "near-duplicate"


class Progress(NamedTuple):
    """How far a stage of preparation is; both counts are of bytes, or of parts."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


class _Job(NamedTuple):
    """A part of a source, and where what it leaves is kept."""

    source: str
    part: Part
    path: Path


def prepare(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    folder: Path,
    references: Sequence[Reference] = (),
    on_progress: OnProgress = lambda progress: None,
    num_workers: int | None = None,
) -> Manifest:
    """Token shards of the sources in a folder; nothing is done if they are there already.

    Args:
        references: benchmark tasks whose text must not be trained on.
        num_workers: processes; by default one a core. They import the calling program anew, so
            that a script calls this behind `if __name__ == "__main__"`.

    Raises:
        CorpusError: a source is missing or has nothing to train on, or the tokenizer does not fit.
        TokenizerError: the tokenizer cannot be had.
        ShardError: the folder holds something else.
        MachineError: a process was killed, most likely for its memory.
    """
    inputs_sha256 = _hash_inputs(config, tokenizer_config, references)
    with alone_in(folder.parent, wait=True):
        found = _find_manifest(folder, inputs_sha256)
        remove_leftovers(folder)  # we hold the lock, so nobody works on them
        if found is not None:
            _remove_finished_work(folder, inputs_sha256)
            return found
        work = _open_work(folder, inputs_sha256)
        tokenizer = _make_tokenizer(config, tokenizer_config, references, work, on_progress)
        _check_tokenizer(config, tokenizer)
        jobs = _plan(config, work)
        _screen_all(jobs, config, references, work, num_workers, on_progress)
        with whole_folder(folder) as aside:
            tokenizer.save(aside)
            sources, counts = _write_shards(jobs, config, tokenizer, work, aside, on_progress)
            manifest = Manifest(
                inputs_sha256=inputs_sha256,
                tokenizer_fingerprint=tokenizer.fingerprint,
                vocab_size=tokenizer.vocab_size,
                token_type=config.token_type,
                sources=sources,
                recipe={
                    "data": config.model_dump(mode="json"),
                    "tokenizer": tokenizer_config.model_dump(mode="json"),
                },
            )
            card = make_card(config, manifest, counts, len(references))
            write_json(aside / CARD_FILE, card)
            write_text(aside / CARD_PAGE, page(card))
            write_json(aside / MANIFEST_FILE, manifest.model_dump(mode="json", by_alias=True))
        shutil.rmtree(work)
        return manifest


def _open_work(folder: Path, inputs_sha256: str) -> Path:
    """The folder of what was done so far from these inputs; what was done from others goes."""
    work = _work_of(folder)
    if _inputs_of(work) != inputs_sha256:
        shutil.rmtree(work, ignore_errors=True)
        write_text(work / _INPUTS_FILE, inputs_sha256)
    remove_leftovers(work / "*")
    return work


def _remove_finished_work(folder: Path, inputs_sha256: str) -> None:
    """Removes what a process left that was killed behind its last step, no work on other inputs."""
    work = _work_of(folder)
    if _inputs_of(work) in {inputs_sha256, None}:
        shutil.rmtree(work, ignore_errors=True)


def _work_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.work")


def _inputs_of(work: Path) -> str | None:
    inputs = work / _INPUTS_FILE
    return inputs.read_text(encoding="utf-8") if inputs.exists() else None


def _plan(config: DataConfig, work: Path) -> list[_Job]:
    return [
        _Job(source, part, work / f"{source}.{number:06d}")
        for source, corpus in config.sources.items()
        for number, part in enumerate(corpus.parts())
    ]


def _screen_all(
    jobs: Sequence[_Job],
    config: DataConfig,
    references: Sequence[Reference],
    work: Path,
    num_workers: int | None,
    on_progress: OnProgress,
) -> None:
    """Reads, screens and encodes what was not yet."""
    left = [job for job in jobs if not is_screened(job.path, job.part)]
    in_bytes = all(job.part.num_bytes is not None for job in jobs)
    total = sum(_size(job, in_bytes) for job in jobs)
    done = total - sum(_size(job, in_bytes) for job in left)
    if done > 0:
        log.info("going on with the %d parts left of %d", len(left), len(jobs))
    on_progress(Progress("encoding", done, total))
    for job in _worked_off(left, config, references, work, num_workers):
        done += _size(job, in_bytes)
        on_progress(Progress("encoding", done, total))


def _size(job: _Job, in_bytes: bool) -> int:
    return job.part.num_bytes or 0 if in_bytes else 1


def _are_little(jobs: Sequence[_Job]) -> bool:
    sizes = [job.part.num_bytes for job in jobs]
    known = [size for size in sizes if size is not None]
    return len(known) == len(sizes) and sum(known) < PART_BYTES // 2


def _worked_off(
    jobs: Sequence[_Job],
    config: DataConfig,
    references: Sequence[Reference],
    work: Path,
    num_workers: int | None,
) -> Iterator[_Job]:
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(jobs))
    if num_workers <= 1 or _are_little(jobs):
        if jobs:  # little, or in one piece: sooner done here than by processes yet to be started
            worker = _Worker(config, references, work)
            for job in jobs:
                worker.work_off(job)
                yield job
        return
    with ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context(_START_METHOD),
        initializer=_start_worker,
        initargs=(config, references, work),
    ) as pool:
        futures = {pool.submit(_work_off, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool:
            raise MachineError(
                "a process that encodes was killed, most likely for its memory; call again with "
                "fewer workers: what was finished is kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


class _Worker:
    """What it takes to work off any part."""

    def __init__(self, config: DataConfig, references: Sequence[Reference], work: Path) -> None:
        self._config = config
        self._contamination = Contamination(references)
        self._tokenizer = load_tokenizer(work / _TOKENIZER_DIR)

    def work_off(self, job: _Job) -> None:
        corpus = self._config.sources[job.source]
        screen_part(job.path, corpus, job.part, self._config, self._tokenizer, self._contamination)


_worker: _Worker


def _start_worker(config: DataConfig, references: Sequence[Reference], work: Path) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each core has a process
    os.environ["USE_TORCH"] = "0"  # or datasets would import it, for seconds in each process
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker = _Worker(config, references, work)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    # A pool's processes would wait for work for ever if the one that has it is killed.
    parent.join()
    os._exit(1)


def _work_off(job: _Job) -> None:
    _worker.work_off(job)


def _write_shards(
    jobs: Sequence[_Job],
    config: DataConfig,
    tokenizer: Tokenizer,
    work: Path,
    folder: Path,
    on_progress: OnProgress,
) -> tuple[dict[str, SourceRecord], dict[str, Counts]]:
    """The shards without duplicates, and the counts of each source."""
    records, all_counts = {}, {}
    reasons = _find_duplicates(jobs, config, work, on_progress)
    done = 0
    for source in config.sources:
        counts = Counts()
        with (
            ShardWriter(folder, source, "train", tokenizer, config.token_type) as train,
            ShardWriter(folder, source, "validation", tokenizer, config.token_type) as validation,
        ):
            for number, job in enumerate(jobs):
                if job.source != source:
                    continue
                _copy_kept(job, reasons[number], config, train, validation, counts)
                done += 1
                on_progress(Progress("writing", done, len(jobs)))
            record = SourceRecord(
                train=train.finish(), validation=validation.finish(), dropped=dict(counts.dropped)
            )
        if record.train.num_documents == 0:
            raise CorpusError(
                f"data.sources.{source}: no document left to train on ({describe(record)}); "
                "add documents, or take the source out"
            )
        log.info("%s: %s", source, describe(record))
        records[source], all_counts[source] = record, counts
    return records, all_counts


def _copy_kept(
    job: _Job,
    reasons: npt.NDArray[np.uint8],
    config: DataConfig,
    train: ShardWriter,
    validation: ShardWriter,
    counts: Counts,
) -> None:
    screened = read_screened(job.path)
    counts.add(screened.counts)
    for code, reason in enumerate(_REASONS):
        chosen = reasons == code
        if reason is not None and chosen.any():
            counts.dropped[reason] += int(chosen.sum())
            counts.dropped_bytes[reason] += int(screened.num_bytes[chosen].sum())
    tokens, ends = map_tokens(job.path, config), np.cumsum(screened.lengths)
    for shard, is_validation in ((train, False), (validation, True)):
        for first, last in _runs((reasons == _KEPT) & (screened.is_validation == is_validation)):
            shard.append(
                tokens[ends[first] - screened.lengths[first] : ends[last - 1]],
                screened.lengths[first:last],
                int(screened.num_bytes[first:last].sum()),
            )


def _runs(chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Where each run of chosen documents begins and ends."""
    changes = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).tolist()
    return zip(changes[::2], changes[1::2], strict=True)


_REASONS: Final = (None, DUPLICATE, NEAR_DUPLICATE)
_KEPT: Final = 0


def _find_duplicates(
    jobs: Sequence[_Job], config: DataConfig, work: Path, on_progress: OnProgress
) -> list[npt.NDArray[np.uint8]]:
    """For each document of each job the place in `_REASONS` of why it is left out."""
    on_progress(Progress("finding duplicates", 0, 1))
    digests = [read_screened(job.path).digests for job in jobs]
    borders = np.cumsum([len(found) for found in digests])[:-1]
    all_digests = np.concatenate(digests) if digests else np.empty((0, 2), dtype=np.uint64)
    del digests
    is_first = first_occurrences(all_digests)
    reasons = np.where(is_first, _KEPT, _REASONS.index(DUPLICATE)).astype(np.uint8)
    if config.near_duplicates is not None and is_first.any():
        # On disk: half a kilobyte a document.
        signatures = np.memmap(
            work / "signatures", np.uint32, "w+", shape=(int(is_first.sum()), NUM_PERMUTATIONS)
        )
        filled = 0
        for job, first in zip(jobs, np.split(is_first, borders), strict=True):
            found = read_screened(job.path).signatures[first]
            signatures[filled : filled + len(found)] = found
            filled += len(found)
        is_new = first_of_their_like(signatures, config.near_duplicates.threshold)
        reasons[np.flatnonzero(is_first)[~is_new]] = _REASONS.index(NEAR_DUPLICATE)
    on_progress(Progress("finding duplicates", 1, 1))
    return np.split(reasons, borders)


def _make_tokenizer(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    references: Sequence[Reference],
    work: Path,
    on_progress: OnProgress,
) -> Tokenizer:
    """The tokenizer, made before or now."""
    folder = work / _TOKENIZER_DIR
    if not folder.exists():
        sample = _tokenizer_sample(config, tokenizer_config, references, on_progress)
        tokenizer = build_tokenizer(tokenizer_config, sample)
        with whole_folder(folder) as aside:
            tokenizer.save(aside)
    return load_tokenizer(folder)


def _tokenizer_sample(
    config: DataConfig,
    tokenizer_config: TokenizerConfig,
    references: Sequence[Reference],
    on_progress: OnProgress,
) -> Iterator[str]:
    """Training documents for a tokenizer, each source in proportion to its weight."""
    if not isinstance(tokenizer_config, BpeConfig):
        return
    contamination = Contamination(references)
    weights = {name: corpus.epochs or corpus.weight for name, corpus in config.sources.items()}
    seen: set[bytes] = set()
    for source, corpus in config.sources.items():
        budget = tokenizer_config.training_bytes * weights[source] / sum(weights.values())
        num_bytes = 0
        batches = screen(corpus, corpus.documents(), config, contamination, Counts())
        for kept in (kept for batch in batches for kept in batch):
            if num_bytes >= budget:
                break
            if kept.digest not in seen and not kept.is_validation:
                seen.add(kept.digest)
                num_bytes += len(kept.data)
                yield kept.text
        on_progress(Progress("reading for the tokenizer", num_bytes, int(budget)))


def _hash_inputs(
    config: DataConfig, tokenizer_config: TokenizerConfig, references: Sequence[Reference]
) -> str:
    # Weights and packing concern the batches, unless a tokenizer is trained in these proportions.
    ignored = set() if isinstance(tokenizer_config, BpeConfig) else {"weight", "epochs"}
    inputs = {
        "version": _VERSION,
        "sources": {
            source: [corpus.model_dump(mode="json", exclude=ignored), corpus.content_hash()]
            for source, corpus in config.sources.items()
        },
        "data": config.model_dump(mode="json", exclude={"sources", "packing"}),
        "tokenizer": [
            tokenizer_config.model_dump(mode="json"),
            hash_files(_tokenizer_files(tokenizer_config)),
        ],
        "references": list(references),
    }
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _tokenizer_files(config: TokenizerConfig) -> dict[str, Path]:
    """What a tokenizer is read from, if that is on this machine."""
    if not isinstance(config, HuggingFaceConfig):
        return {}
    path = Path(config.name)
    definition = path / DEFINITION_FILE if path.is_dir() else path
    paths = (definition, *map(definition.with_name, (SETTINGS_FILE, CHAT_TEMPLATE_FILE)))
    return {path.name: path for path in paths if definition.is_file() and path.is_file()}


def _find_manifest(folder: Path, inputs_sha256: str) -> Manifest | None:
    """The manifest of shards made from these inputs, if they are there and whole."""
    if not folder.exists():
        return None
    if not (folder.is_dir() and _holds_nothing_foreign(folder)):
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


def _holds_nothing_foreign(folder: Path) -> bool:
    """Whether the folder's content may be replaced: shards, perhaps incomplete or of old."""
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
        sources = list(manifest["sources"])
        known = {"schema", "inputs_sha256", "tokenizer_fingerprint"} <= manifest.keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    shards = {
        f"{source}.{split}.{suffix}"
        for source in sources
        for split in SPLITS
        for suffix in ("bin", "idx")
    }
    return known and names <= shards | _OTHER_FILES


_OTHER_FILES: Final = {MANIFEST_FILE, CARD_FILE, CARD_PAGE, DEFINITION_FILE, SETTINGS_FILE}


def _check_tokenizer(config: DataConfig, tokenizer: Tokenizer) -> None:
    if config.fim is not None and tokenizer.fim is None:
        raise TokenizerError(
            "data.fim: the tokenizer has no tokens that mark prefix, middle and suffix; set "
            "tokenizer.fim_tokens"
        )
    capacity = np.iinfo(config.token_type).max + 1
    if tokenizer.vocab_size > capacity:
        raise CorpusError(
            f"data.token_type: {config.token_type} holds {capacity} ids, the tokenizer has "
            f'{tokenizer.vocab_size}; set token_type = "uint32"'
        )
