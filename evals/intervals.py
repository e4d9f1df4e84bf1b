"""How far a mean over tasks can be trusted: two intervals that answer two questions.

Over tasks: the tasks are a draw from many such tasks; is the model better in general? Over
samples: the tasks are fixed, the samples would be drawn again; did this model change?
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from scipy import special

from evals.pass_at_k import Counts, mean_pass_at_k, pass_at_k, sampling_variance

LEVEL: Final = 0.95
_TAIL: Final = 1 - (1 - LEVEL) / 2


def interval_over_tasks(
    counts: Counts, k: int, origins: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """95 % interval of mean pass@k, were the tasks drawn again along with their samples."""
    return interval_of_mean([pass_at_k(n, c, k) for n, c in counts], origins)


def interval_over_samples(counts: Counts, k: int) -> tuple[float, float] | None:
    """95 % interval of mean pass@k, were only the samples drawn again.

    None where some task has fewer than 2k samples, which cannot show how they vary.
    """
    variance = sampling_variance(counts, k)
    if variance is None:
        return None
    least_size = sum(n // k for n, _ in counts)
    return _wilson(mean_pass_at_k(counts, k), variance, least_size, special.ndtri(_TAIL))


def interval_of_mean(
    shares: Sequence[float], origins: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """95 % interval of the mean of a share a task, were the tasks drawn again.

    Wilson's score interval at the effective number of tasks. It is Wilson's own for one sample a
    task, narrower where several samples leave less variance than pass or fail does, and unlike
    the bootstrap it does not shrink to nothing when every task fails. Tasks of one origin are
    drawn together: their deviations add up before they are squared.

    Source: Wilson 1927, doi 10.1080/01621459.1927.10502953; effective size as in Franco, Little,
    Louis, Slud 2019, doi 10.1093/jssam/smy019; variance over origins as in Cameron, Miller 2015,
    doi 10.3368/jhr.50.2.317, section II.
    """
    values = np.array(shares)
    mean = float(np.mean(values))
    deviations = values - mean
    if origins is not None:
        numbers = {origin: number for number, origin in enumerate(dict.fromkeys(origins))}
        which = np.array([numbers[origin] for origin in origins])
        deviations = np.asarray(np.bincount(which, weights=deviations), dtype=np.float64)
    num_origins = len(deviations)
    if num_origins == 1:
        # Nothing shows how origins vary: one draw that passed or failed to this degree.
        return _wilson(mean, 0.0, 1, special.ndtri(_TAIL))
    variance = float(np.sum(deviations**2)) * num_origins / (num_origins - 1) / len(values) ** 2
    if origins is None:
        return _wilson(mean, variance, num_origins, special.ndtri(_TAIL))
    # Tasks of one origin that fare alike are fewer draws than origins; t allows for how little
    # few origins show.
    least_size = 1 if variance > 0 else num_origins
    return _wilson(mean, variance, least_size, special.stdtrit(num_origins - 1, _TAIL))


def interval_of_mean_over_samples(
    shares: Sequence[Sequence[float]],
) -> tuple[float, float] | None:
    """95 % interval of the mean over tasks of each one's mean share, the samples drawn again.

    None where some task has but one sample, which cannot show how they vary.
    """
    if any(len(of_task) < 2 for of_task in shares):
        return None
    variances = [float(np.var(of_task, ddof=1)) / len(of_task) for of_task in shares]
    return _wilson(
        float(np.mean([np.mean(of_task) for of_task in shares])),
        math.fsum(variances) / len(shares) ** 2,
        sum(map(len, shares)),
        special.ndtri(_TAIL),
    )


def _wilson(
    share: float, variance: float, least_size: float, quantile: float
) -> tuple[float, float]:
    """Wilson's interval of a share whose estimate has this variance.

    The effective size is that of pass-or-fail draws with the same variance; where none shows
    (all passed, or all failed) it is `least_size`, the draws there were at least.
    """
    size = max(share * (1 - share) / variance, least_size) if variance > 0 else least_size
    shrink = 1 + quantile**2 / size
    centre = (share + quantile**2 / (2 * size)) / shrink
    half = quantile * math.sqrt(share * (1 - share) / size + quantile**2 / (4 * size**2)) / shrink
    # Where all passed or all failed one end is the share itself, which the sum rounds.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    return low, 1.0 if share == 1 else min(1.0, centre + half)
