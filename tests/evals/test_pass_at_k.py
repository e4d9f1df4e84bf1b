import itertools
import math

import numpy as np
import pytest

from evals.pass_at_k import paired_variance, pass_at_k, sampling_variance
from tests.reference import exact_pass_at_k


def test_pass_at_k_is_the_exact_fraction() -> None:
    cases = [(n, c, k) for n in (1, 2, 7, 20) for c in range(n + 1) for k in range(1, n + 1)]
    rng = np.random.default_rng(0)
    cases += [
        (n, int(rng.integers(0, n + 1)), int(rng.integers(1, n + 1)))
        for n in rng.integers(100, 1001, size=300).tolist()
    ]
    for n, c, k in cases:
        assert pass_at_k(n, c, k) == pytest.approx(float(exact_pass_at_k(n, c, k)), abs=1e-12)


@pytest.mark.parametrize("k", [-1, 0, 6])
def test_no_k_outside_the_samples_drawn_is_estimated(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be in 1\.\.5 \(the samples drawn\)"):
        pass_at_k(5, 3, k)


@pytest.mark.parametrize("passed", [-1, 6])
def test_no_more_pass_than_were_drawn(passed: int) -> None:
    with pytest.raises(ValueError, match=f"of 5 samples {passed} cannot have passed"):
        pass_at_k(5, passed, 1)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 1), (5, 2), (8, 4)])
def test_the_variance_over_samples_is_right_on_average(n: int, k: int) -> None:
    # So many tasks that the sum of their variances is never clipped at 0.
    rng = np.random.default_rng(0)
    passed = rng.binomial(n, 0.3, size=200_000).tolist()
    told = sampling_variance([(n, c) for c in passed], k)
    truth = np.var([pass_at_k(n, c, k) for c in passed]) / len(passed)
    assert told == pytest.approx(float(truth), rel=0.02)


def test_no_variance_is_told_from_fewer_than_twice_k_samples() -> None:
    assert sampling_variance([(4, 1), (4, 2)], 2) is not None
    assert sampling_variance([(4, 1), (3, 2)], 2) is None


@pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 1), (4, 2), (5, 2)])
def test_the_variance_of_a_gain_in_pairs_is_right_on_average(n: int, k: int) -> None:
    # Chances of a pair: both fail, only the first, only the second, neither.
    chances = (0.3, 0.25, 0.15, 0.3)
    mean = square = told = 0.0
    for pairs in itertools.product(range(4), repeat=n):
        weight = math.prod(chances[pair] for pair in pairs)
        both = pairs.count(0)
        before, after = both + pairs.count(1), both + pairs.count(2)
        gain = pass_at_k(n, n - after, k) - pass_at_k(n, n - before, k)
        mean += weight * gain
        square += weight * gain**2
        told += weight * paired_variance(n, before, after, both, k)
    assert told == pytest.approx(square - mean**2)


def test_a_run_compared_with_itself_has_no_variance() -> None:
    for failed in range(11):
        assert paired_variance(10, failed, failed, failed, 5) == pytest.approx(0, abs=1e-12)
