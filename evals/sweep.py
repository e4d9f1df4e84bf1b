"""One model at several temperatures: which is best for pass@k, and what choosing it adds.

The best of several noisy figures is too high: chance has a hand in the choice. Choosing on half
of the samples and scoring on the other takes that away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from evals.compare import incomparable_fields
from evals.errors import IncomparableError, InputError
from evals.intervals import LEVEL, interval_of_mean, interval_over_samples, interval_over_tasks
from evals.metrics import Floats, holds_copies
from evals.pass_at_k import mean_pass_at_k, pass_at_k
from evals.records import Estimate, Range, Score, Strict, differences
from evals.text import one_line, quoted

NUM_SPLITS: Final = 500
_SEED: Final = 0


class Best(Strict):
    """pass@k at the temperature where it came out highest.

    Source: the temperature oracle of Gloeckle et al. 2024, arXiv 2404.19737, appendix F.
    """

    temperature: float
    value: float


class CrossFitted(Strict):
    """pass@k at the temperature chosen on half of each task's samples, scored on the others.

    The mean over many ways to halve them; `chosen` is how often each temperature was. `low` and
    `high` are the 95 % interval over tasks.
    """

    value: float
    low: float
    high: float
    level: float
    num_splits: PositiveInt
    chosen: dict[str, float]


class SweepAtK(Strict):
    """`cross_fitted` is None where half of some task's samples is fewer than k."""

    by_temperature: dict[str, Estimate]
    oracle: Best
    cross_fitted: CrossFitted | None


class Sweep(Strict):
    """`by_k` is keyed by k, and within it by temperature."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    model: dict[str, object]
    num_tasks: PositiveInt
    num_samples: dict[str, PositiveInt]
    by_k: dict[str, SweepAtK]


class _At(NamedTuple):
    """A temperature's tasks: samples drawn and passed, in the same order at each."""

    temperature: float
    drawn: NDArray[np.int64]
    passed: NDArray[np.int64]

    @property
    def counts(self) -> list[tuple[int, int]]:
        return list(zip(self.drawn.tolist(), self.passed.tolist(), strict=True))


def sweep(scores: Mapping[str, Score], ks: Sequence[int] = (1,)) -> Sweep:
    """`scores` by the names of their files, by which they are told of.

    Raises:
        IncomparableError: the scores differ in more than the temperature.
        InputError: they are not of several temperatures, or some k is more than a task's samples.
    """
    names = _names_by_temperature(scores)
    by_temperature = {at: scores[name] for at, name in names.items()}
    first_name, *_ = names.values()
    first = scores[first_name]
    for name in names.values():
        _hold_to_same((first_name, first), (name, scores[name]))
    origins = first.origins
    of_tasks = [origins[task_id] for task_id in first.tasks] if origins else None
    assert first.sampling is not None
    return Sweep(
        benchmark=first.benchmark,
        data_sha256=first.data_sha256,
        model=first.sampling.model,
        num_tasks=first.num_tasks,
        num_samples={_key(at): score.num_samples for at, score in by_temperature.items()},
        by_k={
            str(k): _sweep_at_k(
                [_counts(name, scores[name], list(first.tasks), k) for name in names.values()],
                k,
                of_tasks,
            )
            for k in sorted(set(ks))
        },
    )


def _names_by_temperature(scores: Mapping[str, Score]) -> dict[float, str]:
    found: dict[float, str] = {}
    for name, score in scores.items():
        if score.sampling is None:
            raise InputError(
                f"{name}: does not say at which temperature it was drawn; put a sampling.json "
                "beside the samples, judge and score them again"
            )
        temperature = score.sampling.temperature
        if temperature in found:
            raise InputError(
                f"{name}: of temperature {temperature:g}, as {found[temperature]} is; give one of "
                "each"
            )
        found[temperature] = name
    if len(found) < 2:
        raise InputError("a sweep needs the scores of two temperatures or more")
    return dict(sorted(found.items()))


def _hold_to_same(one: tuple[str, Score], another: tuple[str, Score]) -> None:
    (name_of_first, first), (name, other) = one, another
    assert first.sampling is not None
    assert other.sampling is not None
    # As if the other were drawn at the first's temperature, and as often.
    at_first = other.sampling.model_copy(update={"temperature": first.sampling.temperature})
    as_often = {task_id: first.tasks.get(task_id, each) for task_id, each in other.tasks.items()}
    there = other.model_copy(update={"sampling": at_first, "tasks": as_often})
    for field, ours, theirs in (
        *incomparable_fields(first, there),
        *differences(first.sampling.model, other.sampling.model, "sampling.model"),
    ):
        raise IncomparableError(
            f"{name}: {one_line(field)} is {quoted(theirs)}, and {quoted(ours)} in "
            f"{name_of_first}; sweep scores that differ in temperature alone"
        )


def _counts(name: str, score: Score, task_ids: Sequence[str], k: int) -> _At:
    assert score.sampling is not None
    temperature = score.sampling.temperature
    drawn, passed = np.array([score.tasks[task_id] for task_id in task_ids]).T
    if holds_copies(score):
        # Copies of one sample: as many more as are wanted would be the same.
        return _At(temperature, np.full_like(drawn, 2 * k), np.where(passed > 0, 2 * k, 0))
    if k > drawn.min():
        raise InputError(
            f"{name}: k = {k} is more than the {drawn.min()} samples of a task; draw more samples "
            "or ask for another k"
        )
    return _At(temperature, drawn, passed)


def _sweep_at_k(ats: Sequence[_At], k: int, origins: Sequence[str] | None) -> SweepAtK:
    by_temperature = {_key(at.temperature): _estimate(at, k, origins) for at in ats}
    best = max(ats, key=lambda at: by_temperature[_key(at.temperature)].value)
    return SweepAtK(
        by_temperature=by_temperature,
        oracle=Best(
            temperature=best.temperature, value=by_temperature[_key(best.temperature)].value
        ),
        cross_fitted=(
            _cross_fitted(ats, k, origins) if all(at.drawn.min() >= 2 * k for at in ats) else None
        ),
    )


def _estimate(at: _At, k: int, origins: Sequence[str] | None) -> Estimate:
    low, high = interval_over_tasks(at.counts, k, origins)
    over_samples = interval_over_samples(at.counts, k)
    return Estimate(
        value=mean_pass_at_k(at.counts, k),
        low=low,
        high=high,
        level=LEVEL,
        over_samples=Range(low=over_samples[0], high=over_samples[1]) if over_samples else None,
    )


def _cross_fitted(ats: Sequence[_At], k: int, origins: Sequence[str] | None) -> CrossFitted:
    rng = np.random.default_rng(_SEED)
    by_task = np.zeros(len(ats[0].drawn))
    chosen: Counter[float] = Counter()
    for one, other in _halves(ats, k, rng):
        for choose_on, score_on in ((one, other), (other, one)):
            best = int(np.argmax(choose_on.mean(axis=1)))
            by_task += score_on[best] / (2 * NUM_SPLITS)
            chosen[ats[best].temperature] += 1
    low, high = interval_of_mean(by_task.tolist(), origins)
    return CrossFitted(
        value=float(by_task.mean()),
        low=low,
        high=high,
        level=LEVEL,
        num_splits=NUM_SPLITS,
        chosen={_key(at.temperature): chosen[at.temperature] / (2 * NUM_SPLITS) for at in ats},
    )


def _halves(
    ats: Sequence[_At], k: int, rng: np.random.Generator
) -> Iterator[tuple[Floats, Floats]]:
    """pass@k of each half of the samples, NUM_SPLITS times: rows are temperatures, columns tasks.

    Samples of a task are alike but for their verdicts, so the number that passed says it all.
    """
    drawn, passed = np.array([at.drawn for at in ats]), np.array([at.passed for at in ats])
    half = drawn // 2
    of_one, of_other = _PassAtK(half, k), _PassAtK(drawn - half, k)
    for _ in range(NUM_SPLITS):
        in_half = rng.hypergeometric(passed, drawn - passed, half)
        yield of_one(in_half), of_other(passed - in_half)


class _PassAtK:
    """pass@k of many tasks at once, by how many of their samples passed."""

    def __init__(self, drawn: NDArray[np.int64], k: int) -> None:
        sizes, rows = np.unique(drawn, return_inverse=True)
        self._rows = rows.reshape(drawn.shape)
        self._by_size = np.full((len(sizes), sizes.max() + 1), np.nan)
        for row, size in zip(self._by_size, sizes.tolist(), strict=True):
            row[: size + 1] = [pass_at_k(size, passed, k) for passed in range(size + 1)]

    def __call__(self, passed: NDArray[np.int64]) -> Floats:
        found: Floats = self._by_size[self._rows, passed]
        return found


def _key(temperature: float) -> str:
    return f"{temperature:g}"
