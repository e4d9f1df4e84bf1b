"""How much of a score is the samples' chance, and so how large a drop a gate can see.

One run tells: several samples a task show how they vary. A single one does not, and then tasks
are taken to be as unlike each other as code benchmarks' are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from evals.pass_at_k import pass_at_k

POWER: Final = 0.8

Floats = NDArray[np.float64]
Passed = Sequence[tuple[int, float]]  # a task each: samples drawn, and passed or partly so

# One more task, of which half of the variance of pass or fail is within: all there is to go by
# where no task has several samples, and next to nothing where many have.
_SHARE_WITHIN: Final = 0.5
_STRENGTHS: Final = (1e-3, 1e3)  # the sum of the beta distribution's parameters

_SEED: Final = 0
_NUM_DRAWS: Final = 50
_GRID: Final = np.linspace(0, 1, 501)


class Chances(NamedTuple):
    """Beta distributions of the tasks' chances of passing, from the samples of all of them."""

    drawn: NDArray[np.int64]
    passed: Floats
    failed: Floats

    def draw(self, rng: np.random.Generator, num_draws: int) -> Floats:
        """A row of tasks for each draw."""
        return rng.beta(self.passed, self.failed, size=(num_draws, len(self.drawn)))


def chances_of(passed: Passed) -> Chances:
    """By empirical Bayes: the tasks' common distribution by its moments, then each one's samples.

    Source: the beta-binomial model; moments as in Kleinman 1973, JASA 68, 46-54.
    """
    n, c = np.array(passed, dtype=np.float64).T
    mean = (float(np.sum(c / n)) + 0.5) / (len(n) + 1)  # never 0 or 1
    n_, c_ = n[n > 1], c[n > 1]
    within = float(np.sum(c_ * (n_ - c_) / (n_ * (n_ - 1)))) / (mean * (1 - mean))
    share = (within + _SHARE_WITHIN) / (len(n_) + 1)
    strength = share / (1 - share) if share < 1 else _STRENGTHS[1]
    strength = min(max(strength, _STRENGTHS[0]), _STRENGTHS[1])
    return Chances(n.astype(np.int64), mean * strength + c, (1 - mean) * strength + n - c)


def detectable_drop(passed: Passed, k: int, tolerance: float, alpha: float) -> float | None:
    """The least drop of pass@k that the gate calls a regression 80 % of the time.

    The drop takes the same share of every task's chance. None where not even a drop to 0 would
    be seen that often.
    """
    chances = chances_of(passed)
    num_tasks = len(passed)
    draws = chances.draw(np.random.default_rng(_SEED), _NUM_DRAWS)
    groups = [(int(n), chances.drawn == n) for n in np.unique(chances.drawn)]
    variances = {n: _variance_by_chance(n, k) for n, _ in groups}
    # Exact tests are a little too careful, by about one sample that passes or not.
    step = k / (num_tasks * int(np.max(chances.drawn)))

    def noise(of: Floats) -> float:
        sums = [np.interp(of[:, tasks], _GRID, variances[n]).sum() for n, tasks in groups]
        return float(sum(sums)) / _NUM_DRAWS / num_tasks**2

    def drop_and_power(share_lost: float) -> tuple[float, float]:
        lost = (1 - draws * (1 - share_lost)) ** k - (1 - draws) ** k
        variance = noise(draws) + noise(draws * (1 - share_lost))
        # Flipping signs takes for chance what tasks lost, too.
        flipped = math.sqrt(variance + float(np.mean(lost**2)) / num_tasks)
        threshold = max(tolerance, special.ndtri(1 - alpha) * flipped) + step
        drop = float(np.mean(lost))
        if variance == 0:
            return drop, float(drop > threshold)
        return drop, float(special.ndtr((drop - threshold) / math.sqrt(variance)))

    if drop_and_power(1.0)[1] < POWER:
        return None
    share = optimize.brentq(lambda share: drop_and_power(share)[1] - POWER, 0.0, 1.0, xtol=1e-6)
    return drop_and_power(float(share))[0]


def _variance_by_chance(num_samples: int, k: int) -> Floats:
    """Variance of a task's pass@k estimate, at each chance of the grid."""
    estimates = np.array([pass_at_k(num_samples, c, k) for c in range(num_samples + 1)])
    passed, chances = np.arange(num_samples + 1), _GRID[:, None]
    failed = num_samples - passed
    # Binomial; with scipy.stats every command of the gate would take a second more to start.
    probs = np.exp(
        special.gammaln(num_samples + 1)
        - special.gammaln(passed + 1)
        - special.gammaln(failed + 1)
        + special.xlogy(passed, chances)
        + special.xlog1py(failed, -chances)
    )
    return np.asarray(np.maximum(probs @ estimates**2 - (probs @ estimates) ** 2, 0.0))
