"""What later scores are held to: a score, and a sample of each task to show what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from evals.errors import RecordError
from evals.records import (
    VERDICT_LETTERS,
    VERDICT_OF_LETTER,
    Baseline,
    KeptSample,
    Measured,
    Sample,
    Score,
    read_samples,
    write_record,
)
from evals.text import one_line

_KEPT_CHARS: Final = 2000
_PASSED: Final = VERDICT_LETTERS["passed"]


def write_baseline(
    score: Score, path: Path, samples: Mapping[str, KeptSample] | None = None
) -> None:
    """Make a score what later ones are held to."""
    kept = {name: getattr(score, name) for name in Measured.model_fields}
    write_record(path, Baseline(**kept, samples=dict(samples or {})))


def kept_samples(samples_path: Path, score: Score) -> dict[str, KeptSample]:
    """For each task the first sample that passed, or where none did the first.

    Raises:
        RecordError: the samples cannot be read, or are not those that were scored.
    """
    # Twice through the file: a million samples' indices fit into memory, their texts may not.
    indices: dict[str, list[int]] = {task_id: [] for task_id in score.tasks}
    for sample in _samples(samples_path, score):
        indices[sample.task_id].append(sample.index)
    wanted = {}
    for task_id, letters in score.verdicts.items():
        if len(indices[task_id]) != len(letters):
            raise RecordError(
                f"{samples_path}: {len(indices[task_id])} samples of {one_line(task_id)}, but "
                f"{len(letters)} were scored; judge and score these"
            )
        at = max(letters.find(_PASSED), 0)
        wanted[task_id, sorted(indices[task_id])[at]] = VERDICT_OF_LETTER[letters[at]]
    return {
        sample.task_id: KeptSample(
            index=sample.index, verdict=wanted[sample.task_id, sample.index], text=_text(sample)
        )
        for sample in _samples(samples_path, score)
        if (sample.task_id, sample.index) in wanted
    }


def _samples(path: Path, score: Score) -> Iterator[Sample]:
    return read_samples(path, score.tasks, on_cut_off=lambda line: None)


def _text(sample: Sample) -> str:
    text = sample.completion if sample.completion is not None else sample.solution
    assert text is not None
    return text if len(text) <= _KEPT_CHARS else f"{text[:_KEPT_CHARS]}…"
