"""Scores and baselines from a few letters: `PPW` are two samples that passed and a wrong answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.records import (
    VERDICT_OF_LETTER,
    Baseline,
    Estimate,
    Measured,
    Sampling,
    Score,
)

Counts = Sequence[tuple[int, int]]


def letters_of(counts: Counts) -> list[str]:
    return ["P" * passed + "W" * (drawn - passed) for drawn, passed in counts]


def letters_drawn(chances: np.ndarray, num_samples: Any, rng: np.random.Generator) -> list[str]:
    numbers = np.broadcast_to(num_samples, chances.shape)
    return [
        "".join(np.where(rng.random(number) < chance, "P", "W"))
        for number, chance in zip(numbers.tolist(), chances.tolist(), strict=True)
    ]


def sampling(**changes: Any) -> Sampling:
    return Sampling(
        benchmark="toy",
        data_sha256="d",
        prompt_format="humaneval raw",
        post_processing="cut at stops",
        num_samples=4,
        temperature=0.8,
        top_p=0.95,
        max_new_tokens=64,
        seed=0,
        seed_rule="by index",
        model={"name": "toy"},
        versions={},
    ).model_copy(update=changes)


UNRECORDED: dict[str, Any] = dict.fromkeys(
    ("sampling", "prompt_format", "prompts_sha256", "post_processing", "seed_rule")
)  # as where no sampling.json lay beside the samples


def measured(letters: Sequence[str], **changes: Any) -> Measured:
    verdicts = {f"Toy/{at}": each for at, each in enumerate(letters)}
    return Measured(
        benchmark="toy",
        data_sha256="d",
        prompt_format="humaneval raw",
        prompts_sha256="p",
        post_processing="cut at stops",
        seed_rule="by index",
        samples_sha256=repr(letters),  # other samples unless all their verdicts agree
        limits={"cpu_s": 10.0},
        isolation="full",
        sampling=sampling(),
        versions={"python": "3.11"},
        tasks={task_id: (len(each), each.count("P")) for task_id, each in verdicts.items()},
        verdicts=verdicts,
    ).model_copy(update=changes)


def baseline(letters: Sequence[str], **changes: Any) -> Baseline:
    return Baseline(**dict(measured(letters))).model_copy(update=changes)


def score(letters: Sequence[str], **changes: Any) -> Score:
    base = measured(letters)
    counted = Counter("".join(letters))
    parsed = Estimate(value=1.0, low=0.9, high=1.0, level=0.95, over_samples=None)
    return Score(
        **dict(base),
        verdicts_sha256="v",
        num_tasks=len(base.tasks),
        num_samples=counted.total(),
        pass_at_k={},
        graded={"parsed": parsed},
        by_verdict={VERDICT_OF_LETTER[letter]: count for letter, count in counted.items()},
        timed_out=counted["T"],
    ).model_copy(update=changes)
