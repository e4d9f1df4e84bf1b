"""Is a difference over tasks more than chance? Signs flipped, samples and tasks drawn again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy import special

from evals.metrics import Floats, Outcomes
from evals.pass_at_k import paired_variance

NUM_RESAMPLES: Final = 10_000
_SEED: Final = 0
_QUANTILES: Final = (0.025, 0.975)

_NUM_FLIPS: Final = 100_000  # where not all of them can be counted
_EXACT_CELLS: Final = 10_000_000  # a tenth of a second, and 200 MB at most
_EXACT_GAINS: Final = 20  # and a million sums
_MAX_UNIT: Final = 1_000_000  # and so a sum over tasks stays within 64 bits
_GRADED_UNIT: Final = 1000  # a tenth of a point for a task: finer makes no difference


class Spread(NamedTuple):
    """A 95 % interval and the standard error it comes from."""

    low: float
    high: float
    standard_error: float


class PValue(NamedTuple):
    """How often a sum as low as this or lower shows by chance; `test` is what says so."""

    value: float
    test: str


def p_value_of_drop(gains: Floats, unit: int) -> PValue:
    """Chance of a sum of the tasks' gains as low as this, had nothing changed.

    Had nothing changed, each task's gain were as likely its opposite, as it has as many samples
    after as before. `unit` is what makes the gains whole numbers; at 1 they are pass or fail.

    Source: Fisher's randomisation test for pairs; Ernst 2004, doi 10.1214/088342304000000396.
    For pass or fail: McNemar 1947, doi 10.1007/BF02295996, exact and one-sided.
    """
    if unit > 1:
        return sign_flip_p_value([round(gain * unit) for gain in gains.tolist()])
    num_changed, num_dropped = int(np.count_nonzero(gains)), int(np.count_nonzero(gains < 0))
    if num_changed == 0:
        return PValue(1.0, "exact McNemar")
    return PValue(float(special.bdtrc(num_dropped - 1, num_changed, 0.5)), "exact McNemar")


def unit_of_gains(before: Sequence[Outcomes], after: Sequence[Outcomes], k: int) -> int:
    """What makes the gains whole numbers, so that equal ones are equal; or nearly so.

    Rounding them costs nothing but a little power: each is still as likely as its opposite.
    """
    outcomes = np.concatenate([*before, *after])
    if k > 1 or not np.all((outcomes == 0) | (outcomes == 1)):
        return _GRADED_UNIT
    return min(math.lcm(*{len(each) for each in before}), _MAX_UNIT)


def sign_flip_p_value(gains: Sequence[int]) -> PValue:
    """Chance of a sum as low as that of `gains` if each were as likely its opposite.

    Exact where the numbers are small or few, and otherwise estimated (seeded).
    """
    sizes = [abs(gain) for gain in gains if gain]
    if not sizes:
        return PValue(1.0, "exact sign flips")
    shared = math.gcd(*sizes)
    sizes = [size // shared for size in sizes]
    total, observed = sum(sizes), sum(gains) // shared
    # The sum is observed or lower when what comes out positive adds up to this or less.
    most_positive = (total + observed) // 2
    if len(sizes) * (total + 1) <= _EXACT_CELLS:
        chance = np.zeros(total + 1)  # of what comes out positive adding up to its index
        chance[0] = 1.0
        for size in sizes:
            chance *= 0.5
            chance[size:] += chance[:-size].copy()
        return PValue(min(1.0, float(chance[: most_positive + 1].sum())), "exact sign flips")
    if len(sizes) <= _EXACT_GAINS:
        sums = np.zeros(1, dtype=np.int64)
        for size in sizes:
            sums = np.concatenate([sums, sums + size])
        return PValue(float(np.mean(sums <= most_positive)), "exact sign flips")
    rng = np.random.default_rng(_SEED)
    positive = np.zeros(_NUM_FLIPS, dtype=np.int64)
    for size, count in Counter(sizes).items():
        positive += size * rng.binomial(count, 0.5, size=_NUM_FLIPS)
    share = (1 + np.count_nonzero(positive <= most_positive)) / (1 + _NUM_FLIPS)
    return PValue(float(share), f"{_NUM_FLIPS:,} sign flips")


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, each raised so that any false alarm at all stays as rare.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6, 65-70.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def spread_over_samples(
    before: Sequence[Outcomes],
    after: Sequence[Outcomes],
    k: int,
    gain: float,
    num_resamples: int = NUM_RESAMPLES,
) -> Spread | None:
    """Of the mean gain (`gain`), the samples of each task drawn again, the tasks kept.

    Samples are taken in pairs, before and after, which holds whether or not pairs share a seed.
    None where some task has fewer than 2k samples.

    For k = 1 a bootstrap stratified by task (seeded). One pair fewer is drawn than there are,
    without which a task of few samples would seem to vary too little: Rao, Wu 1988,
    doi 10.1080/01621459.1988.10478591. For larger k the bootstrap's variance is too small (by a
    quarter for k = 10 of 20), and the unbiased one gives a normal interval.
    """
    if any(len(outcomes) < 2 * k for outcomes in before):
        return None
    if k > 1:
        variances = [
            paired_variance(len(was), *_failures(was, now), k)
            for was, now in zip(before, after, strict=True)
        ]
        error = math.sqrt(max(math.fsum(variances), 0.0)) / len(before)
        half = float(special.ndtri(_QUANTILES[1])) * error
        return Spread(gain - half, gain + half, error)
    rng = np.random.default_rng(_SEED)
    sums = np.zeros(num_resamples)
    # Tasks whose pairs have gained alike are drawn together.
    alike = Counter(_pairs_by_gain(was, now) for was, now in zip(before, after, strict=True))
    for (gains, counts), num_alike in alike.items():
        num_drawn = sum(counts) - 1
        shares = np.array(counts) / sum(counts)
        drawn = rng.multinomial(num_alike * num_drawn, shares, size=num_resamples)
        sums += drawn @ np.array(gains) / num_drawn
    return _spread(sums / len(before))


def _failures(was: Outcomes, now: Outcomes) -> tuple[int, int, int]:
    """How many samples failed before, after, and in both."""
    failed = was == 0, now == 0
    return int(failed[0].sum()), int(failed[1].sum()), int((failed[0] & failed[1]).sum())


def _pairs_by_gain(was: Outcomes, now: Outcomes) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The gains of a task's samples, and how often each is there."""
    gains, counts = zip(*sorted(Counter((now - was).tolist()).items()), strict=True)
    return gains, counts


def spread_over_tasks(
    gains: Floats,
    origins: Sequence[Hashable] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Spread:
    """Of the mean gain, the tasks drawn again; those of one origin together (seeded).

    Source: Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    names = range(len(gains)) if origins is None else origins
    by_origin: dict[Hashable, list[float]] = {}
    for name, gain in zip(names, gains.tolist(), strict=True):
        by_origin.setdefault(name, []).append(gain)
    # Origins that are alike are drawn together: as many numbers as there are kinds.
    kinds = Counter((round(math.fsum(each), 12), len(each)) for each in by_origin.values())
    sums, sizes = np.array(list(kinds)).T
    chances = np.array(list(kinds.values())) / len(by_origin)
    rng = np.random.default_rng(_SEED)
    drawn = rng.multinomial(len(by_origin), chances, size=num_resamples)
    return _spread((drawn @ sums) / (drawn @ sizes))


def widened(spread: Spread, gain: float, num_pairs: int) -> Spread:
    """With the doubt that is left where hardly a pair differs: as if half a pair more had gained,
    and half a pair lost.

    Without it no difference would seem certain, of however few samples. Nothing gains or loses
    more than all there is.

    Source: Agresti, Min 2005, doi 10.1002/sim.1781.
    """
    error = 1 / (num_pairs + 2)
    half = float(special.ndtri(_QUANTILES[1])) * error
    return Spread(
        max(-1.0, gain - math.hypot(gain - spread.low, half)),
        min(1.0, gain + math.hypot(spread.high - gain, half)),
        math.hypot(spread.standard_error, error),
    )


def _spread(means: Floats) -> Spread:
    low, high = np.quantile(means, _QUANTILES)
    return Spread(float(low), float(high), float(np.std(means)))
