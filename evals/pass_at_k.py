"""pass@k from the samples drawn: unbiased, and how much of it is the samples' chance."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

Counts = Sequence[tuple[int, int]]  # a task each: samples drawn, samples passed


@functools.cache  # few counts and many tasks; and a simulation asks a thousand times over
def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that k samples, picked without replacement, include one that passed.

    Raises:
        ValueError: k is outside 1..num_samples, where no unbiased estimate exists, or num_passed
            outside 0..num_samples.

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be in 1..{num_samples} (the samples drawn), got {k}")
    if not 0 <= num_passed <= num_samples:
        raise ValueError(f"of {num_samples} samples {num_passed} cannot have passed")
    return 1.0 - _all_fail(num_samples, num_passed, k)


def mean_pass_at_k(counts: Counts, k: int) -> float:
    return float(np.mean([pass_at_k(n, c, k) for n, c in counts]))


def sampling_variance(counts: Counts, k: int) -> float | None:
    """Variance of mean pass@k over samples drawn again for the same tasks, unbiased.

    None where some task has fewer than 2k samples: two disjoint sets of k are needed to see how
    they vary. Then the square of the estimate less an unbiased estimate of its expectation's
    square is an unbiased estimate of its variance.
    """
    if any(n < 2 * k for n, _ in counts):
        return None
    variances = [_variance(n, c, k) for n, c in counts]
    return max(math.fsum(variances), 0.0) / len(counts) ** 2


@functools.cache
def paired_variance(num_samples: int, before: int, after: int, both: int, k: int) -> float:
    """Unbiased variance of a task's gain in pass@k, its samples drawn again in pairs.

    Of `num_samples` pairs, at least 2k, `before` failed on the one side, `after` on the other and
    `both` on both. As in `sampling_variance`: what disjoint sets of k would have in common by
    chance is taken from what the estimates have.
    """
    ways = math.comb(num_samples, k) * math.comb(num_samples - k, k)
    # Sets that failed before, by how many of each failed after too, with disjoint ones that did.
    disjoint = sum(
        math.comb(before - both, k - shared)
        * math.comb(both, shared)
        * math.comb(after - shared, k)
        for shared in range(min(both, k) + 1)
    )
    fail_before, fail_after = (
        _all_fail(num_samples, num_samples - failed, k) for failed in (before, after)
    )
    covariance = fail_before * fail_after - disjoint / ways
    return (
        _variance(num_samples, num_samples - before, k)
        + _variance(num_samples, num_samples - after, k)
        - 2 * covariance
    )


@functools.cache
def _variance(num_samples: int, num_passed: int, k: int) -> float:
    return _all_fail(num_samples, num_passed, k) ** 2 - _all_fail(num_samples, num_passed, 2 * k)


def _all_fail(num_samples: int, num_passed: int, k: int) -> float:
    """Chance that all of k samples, picked without replacement, failed.

    Picking k and leaving the passed ones alone is picking the passed ones and leaving k alone:
    so the product over the fewer of the two.
    """
    fewer, more = sorted((num_passed, k))
    return math.prod((num_samples - more - at) / (num_samples - at) for at in range(fewer))
