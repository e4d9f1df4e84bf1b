"""A run folder as the report reads it: strict about what it shows, every file optional.

`run.json`, `metrics.jsonl` and `decode*.json` belong to the trainer and the decoder, which this
package must not import. Here stand the fields that the page shows; keys beyond them pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from evals.errors import InputError, RecordError
from evals.files import file_sha256
from evals.records import (
    SAMPLES_FILE,
    SCORES_FILE,
    VERDICTS_FILE,
    Sample,
    Score,
    Verdict,
    read_record,
    read_samples,
    read_verdicts,
)
from evals.text import one_line

logger = logging.getLogger(__name__)

NUM_RUN_STYLES = 4  # colours and dashes; a fifth run begins again


class Foreign(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class ForeignFile(Foreign):
    schema_version: Literal[1] = Field(alias="schema")


class ModelInfo(Foreign):
    num_parameters: int
    num_trunk_layers: int
    num_mtp_heads: int
    vocab_size: int


class RunInfo(ForeignFile):
    """run.json: what was trained, where, and how long it took."""

    name: str
    recipe: dict[str, JsonValue] = {}  # none where the model was not trained here
    versions: dict[str, str]
    commit: str | None
    machine: str
    started_at: str
    finished_at: str | None
    model: ModelInfo
    cpu_s: float | None = None  # known when it has finished
    elapsed_s: float | None = None


class MetricsRow(ForeignFile):
    kind: str


class TrainRow(MetricsRow):
    step: int
    tokens: int
    loss_by_offset: tuple[float, ...] = Field(min_length=1)  # nats per token
    lr: float
    cpu_s: float


class ValidationRow(MetricsRow):
    step: int
    tokens: int
    source: str
    loss_by_offset: tuple[float, ...] = Field(min_length=1)  # nats per token
    bits_per_byte: float
    cpu_s: float


class Prompts(Foreign):
    benchmark: str
    count: int


class DecodeRow(Foreign):
    mode: str
    drafts: int
    batch_rows: int = 1  # answers side by side
    tokens_per_forward: float
    tokens_per_s: float
    speed_up: float
    speed_up_low: float
    speed_up_high: float
    acceptance_by_offset: tuple[float, ...]  # of offsets 2, 3, ...
    identical_outputs: int


class Decode(ForeignFile):
    """decode*.json: speculative against plain decoding of one set of prompts, in one run."""

    machine: str
    date: str
    commit: str | None
    command: str
    prompts: Prompts
    max_new_tokens: int
    num_threads: int
    repeats: int
    rows: tuple[DecodeRow, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Result:
    """One benchmark of one run: its score, and what that was made from as far as it is there."""

    score: Score
    verdicts: tuple[Verdict, ...]
    samples: Mapping[tuple[str, int], Sample]  # by task id and index


@dataclass(frozen=True)
class Run:
    """A run folder; `label` names it on the page, where no other run has that label."""

    label: str
    number: int  # its place on the page, from 1
    info: RunInfo | None
    train: tuple[TrainRow, ...]
    validation: Mapping[str, tuple[ValidationRow, ...]]  # by source
    results: Mapping[str, Result]  # by benchmark
    unjudged: tuple[str, ...]  # benchmarks with samples and no score
    decodes: tuple[Decode, ...]  # by benchmark

    @property
    def cpu_s(self) -> float | None:
        """CPU time of training, so far if it has not finished."""
        if self.info and self.info.cpu_s is not None:
            return self.info.cpu_s
        return self.train[-1].cpu_s if self.train else None

    @property
    def colour(self) -> str:
        return f"run-{(self.number - 1) % NUM_RUN_STYLES + 1}"


def read_runs(run_dirs: Sequence[Path]) -> tuple[Run, ...]:
    if not run_dirs:
        raise ValueError("run_dirs is empty; the report needs a run folder")
    runs: list[Run] = []
    for number, run_dir in enumerate(run_dirs, start=1):
        run = _read_run(run_dir, number)
        if any(run.label == other.label for other in runs):
            run = replace(run, label=f"{run.label} ({number})")
        runs.append(run)
    return tuple(runs)


def _read_run(run_dir: Path, number: int) -> Run:
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: no such run folder; `make train-code` makes one")
    train, validation = _read_metrics(run_dir / "metrics.jsonl")
    results, unjudged = _read_results(run_dir / "eval")
    info = _read_file(run_dir / "run.json", RunInfo)
    run = Run(
        label=one_line(info.name if info else run_dir.resolve().name, 40),
        number=number,
        info=info,
        train=train,
        validation=validation,
        results=results,
        unjudged=unjudged,
        decodes=_read_decodes(run_dir),
    )
    if not (run.info or run.train or run.validation or run.results or run.decodes):
        raise InputError(f"{run_dir}: holds no run.json, metrics or scores; give a run folder")
    return run


def _read_metrics(
    path: Path,
) -> tuple[tuple[TrainRow, ...], Mapping[str, tuple[ValidationRow, ...]]]:
    # By step: a resumed run logs the steps after its checkpoint again, and the last word counts.
    train: dict[int, TrainRow] = {}
    validation: dict[str, dict[int, ValidationRow]] = {}
    for where, line in _log_lines(path):
        kind = _parse(where, line, MetricsRow).kind
        if kind == "train":
            trained = _parse(where, line, TrainRow)
            train[trained.step] = trained
        elif kind == "validation":
            measured = _parse(where, line, ValidationRow)
            validation.setdefault(measured.source, {})[measured.step] = measured
    return (
        tuple(train[step] for step in sorted(train)),
        {
            source: tuple(rows[step] for step in sorted(rows))
            for source, rows in sorted(validation.items())
        },
    )


def _read_decodes(run_dir: Path) -> tuple[Decode, ...]:
    found = (_read_file(path, Decode) for path in run_dir.glob("decode*.json"))
    return tuple(sorted(filter(None, found), key=lambda decode: decode.prompts.benchmark))


def _read_results(eval_dir: Path) -> tuple[Mapping[str, Result], tuple[str, ...]]:
    results: dict[str, Result] = {}
    unjudged: list[str] = []
    for folder in sorted(eval_dir.iterdir()) if eval_dir.is_dir() else ():
        if (folder / SCORES_FILE).exists():
            result = _read_result(folder)
            results[result.score.benchmark] = result
        elif (folder / SAMPLES_FILE).exists():
            unjudged.append(folder.name)
    return results, tuple(unjudged)


def _read_result(folder: Path) -> Result:
    path = folder / SCORES_FILE
    score = read_record(Score, path)
    if not score.pass_at_k or not all(k.isdecimal() for k in score.pass_at_k):
        raise RecordError(f"{path}: pass_at_k: expected scores keyed by k; score them again")
    verdicts_path, samples_path = folder / VERDICTS_FILE, folder / SAMPLES_FILE
    for made_from, sha256 in (
        (verdicts_path, score.verdicts_sha256),
        (samples_path, score.samples_sha256),
    ):
        if made_from.exists() and file_sha256(made_from) != sha256:
            raise RecordError(
                f"{made_from}: not the file that {path.name} was made from; judge and score again"
            )
    verdicts = tuple(read_verdicts(verdicts_path)) if verdicts_path.exists() else ()
    samples = (
        tuple(read_samples(samples_path, score.tasks, logger.warning))
        if samples_path.exists()
        else ()
    )
    return Result(score, verdicts, {(sample.task_id, sample.index): sample for sample in samples})


File = TypeVar("File", bound=ForeignFile)


def _read_file(path: Path, kind: type[File]) -> File | None:
    """None where the file is missing: its stage was not run."""
    content = _bytes(path)
    return None if content is None else _parse(str(path), content, kind)


def _log_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each whole line of a growing log with its place; a last one without line end was cut off."""
    lines = (_bytes(path) or b"").split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        if line.strip():
            yield f"{path}:{number}", line


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file") from None


def _parse(where: str, content: bytes, kind: type[File]) -> File:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"{where}: {field + ': ' if field else ''}{first['msg']}; run its stage again"
        ) from None
