"""Two measurements of the same tasks, compared task by task.

Pairing takes out how hard the tasks are, which is most of the noise of a benchmark's score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from evals.errors import IncomparableError
from evals.records import Measured, differences

_SEED: Final = 0
_NUM_RESAMPLES: Final = 100_000
_EXACT_CELLS: Final = 10_000_000  # a tenth of a second, and 200 MB at most
_MAX_UNIT: Final = 1_000_000  # and so a sum over tasks stays within 64 bits


class Comparison(NamedTuple):
    """Mean pass@1 before and after, and their difference with its 95 % interval over tasks.

    `p_drop` is how often a drop this large or larger would show if nothing had changed.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    p_drop: float


def compare(before: Measured, after: Measured) -> Comparison:
    """
    Raises:
        IncomparableError: the two differ in more than the model.
    """
    for field, was, now in incomparable_fields(before, after):
        raise IncomparableError(f"{field} differs: {was!r} before, {now!r} now")
    # Whole numbers of a common unit, so that equal differences are equal; or else of millionths.
    unit = min(_MAX_UNIT, math.lcm(*(drawn for drawn, _ in before.tasks.values())))
    gains = [
        round((after.tasks[task_id][1] - passed) * unit / drawn)
        for task_id, (drawn, passed) in before.tasks.items()
    ]
    low, high = bootstrap_interval(gains)
    return Comparison(
        before=_mean_pass_at_1(before),
        after=_mean_pass_at_1(after),
        difference=sum(gains) / len(gains) / unit,
        low=low / unit,
        high=high / unit,
        p_drop=sign_flip_p_value(gains),
    )


def incomparable_fields(before: Measured, after: Measured) -> Iterator[tuple[str, Any, Any]]:
    """Fields that must agree and do not, with both values.

    The model and the seed may differ; so may versions, for else no baseline would outlive an
    update. A task's number of samples may not: the share that passed is spread less the more are
    drawn, so that flipping signs would raise false alarms: 8 % of the time instead of 5 %, where
    10 samples before are held to 1 now.
    """
    yield from differences(_conditions(before), _conditions(after))
    for task_id in before.tasks | after.tasks:
        was, now = (measured.tasks.get(task_id, (0, 0))[0] for measured in (before, after))
        if was != now:
            yield f"number of samples of {task_id}", was, now


def sign_flip_p_value(gains: Sequence[int]) -> float:
    """Chance of a sum as low as that of `gains` if each were as likely its opposite.

    That holds for gains of a task whose samples before and after are equally many.

    Exact, but for long lists of large numbers, where it is estimated (seeded). With gains of
    -1, 0 and 1 it is McNemar's exact test, one-sided.

    Source: Fisher's randomisation test for pairs; Ernst 2004, doi 10.1214/088342304000000396.
    """
    sizes = [abs(gain) for gain in gains if gain]
    shared = math.gcd(*sizes)
    sizes = [size // shared for size in sizes]
    total, observed = sum(sizes), sum(gains) // shared if sizes else 0
    # The sum is observed or lower when what comes out positive adds up to this or less.
    most_positive = (total + observed) // 2
    if len(sizes) * (total + 1) <= _EXACT_CELLS:
        chance = np.zeros(total + 1)  # of what comes out positive adding up to its index
        chance[0] = 1.0
        for size in sizes:
            chance *= 0.5
            chance[size:] += chance[:-size].copy()
        return min(1.0, float(chance[: most_positive + 1].sum()))
    rng = np.random.default_rng(_SEED)
    positive = np.zeros(_NUM_RESAMPLES, dtype=np.int64)
    for size, count in Counter(sizes).items():
        positive += size * rng.binomial(count, 0.5, size=_NUM_RESAMPLES)
    return float((1 + np.count_nonzero(positive <= most_positive)) / (1 + _NUM_RESAMPLES))


def bootstrap_interval(gains: Sequence[int]) -> tuple[float, float]:
    """95 % percentile interval of the mean gain over tasks drawn again (seeded).

    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    values, counts = np.unique(np.array(gains), return_counts=True)
    rng = np.random.default_rng(_SEED)
    redrawn = rng.multinomial(len(gains), counts / len(gains), size=10_000)
    low, high = np.quantile(redrawn @ values / len(gains), [0.025, 0.975])
    return float(low), float(high)


def _conditions(measured: Measured) -> dict[str, Any]:
    sampling = measured.sampling
    return {
        "benchmark": measured.benchmark,
        "data_sha256": measured.data_sha256,
        "prompt_format": measured.prompt_format,
        "post_processing": measured.post_processing,
        "sampling": sampling
        and {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        },
        "limits": measured.limits,
        "isolation": measured.isolation,
    }


def _mean_pass_at_1(measured: Measured) -> float:
    return math.fsum(passed / drawn for drawn, passed in measured.tasks.values()) / len(
        measured.tasks
    )
