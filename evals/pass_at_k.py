"""pass@k from the samples drawn, and how far it can be trusted.

Two intervals answer two questions. Over tasks: the tasks are a draw from many such tasks; is
the model better in general? Over samples: the tasks are fixed, the samples would be drawn again;
did this model change?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

LEVEL: Final = 0.95
_Z: Final = 1.959963984540054  # the normal distribution's 97.5 % point

Counts = Sequence[tuple[int, int]]  # a task each: samples drawn, samples passed


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that k samples, picked without replacement, include one that passed.

    Raises:
        ValueError: k is outside 1..num_samples, where no unbiased estimate exists.

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be in 1..{num_samples} (the samples drawn), got {k}")
    return 1.0 - _all_fail(num_samples, num_passed, k)


def mean_pass_at_k(counts: Counts, k: int) -> float:
    return float(np.mean([pass_at_k(n, c, k) for n, c in counts]))


def interval_over_tasks(counts: Counts, k: int) -> tuple[float, float]:
    """95 % interval of mean pass@k, were the tasks drawn again along with their samples.

    Wilson's score interval at the effective number of tasks. It is Wilson's own for one sample a
    task, narrower where several samples leave less variance than pass or fail does, and unlike
    the bootstrap it does not shrink to nothing when every task fails.

    Source: Wilson 1927, doi 10.1080/01621459.1927.10502953; effective size as in Franco, Little,
    Louis, Slud 2019, doi 10.1093/jssam/smy019.
    """
    estimates = np.array([pass_at_k(n, c, k) for n, c in counts])
    variance = float(np.var(estimates, ddof=1)) / len(counts) if len(counts) > 1 else 0.0
    return _wilson(float(np.mean(estimates)), variance, len(counts))


def interval_over_samples(counts: Counts, k: int) -> tuple[float, float] | None:
    """95 % interval of mean pass@k, were only the samples drawn again.

    None where some task has fewer than 2k samples: two disjoint sets of k are needed to see how
    they vary. Then the square of the estimate less an unbiased estimate of its expectation's
    square is an unbiased estimate of its variance.
    """
    if any(n < 2 * k for n, _ in counts):
        return None
    variances = [_all_fail(n, c, k) ** 2 - _all_fail(n, c, 2 * k) for n, c in counts]
    variance = max(math.fsum(variances), 0.0) / len(counts) ** 2
    return _wilson(mean_pass_at_k(counts, k), variance, sum(n // k for n, _ in counts))


def _all_fail(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that all of k samples, picked without replacement, failed.

    Picking k and leaving the passed ones alone is picking the passed ones and leaving k alone:
    so the product over the fewer of the two.
    """
    fewer, more = sorted((num_passed, k))
    return math.prod((num_samples - more - at) / (num_samples - at) for at in range(fewer))


def _wilson(share: float, variance: float, least_size: int) -> tuple[float, float]:
    """Wilson's interval of a share whose estimate has this variance.

    The effective size is that of pass-or-fail draws with the same variance; where none shows
    (all passed, or all failed) it is `least_size`, the draws there were at least.
    """
    size = max(share * (1 - share) / variance, least_size) if variance > 0 else least_size
    shrink = 1 + _Z**2 / size
    centre = (share + _Z**2 / (2 * size)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)
