import numpy as np
import pytest

from evals.pass_at_k import (
    interval_over_samples,
    interval_over_tasks,
    mean_pass_at_k,
    pass_at_k,
)
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


def test_one_sample_a_task_gives_wilsons_own_interval() -> None:
    low, high = interval_over_tasks([(1, 1)] * 8 + [(1, 0)] * 2, 1)
    # Newcombe 1998 gives these for 8 of 10, to four places.
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


@pytest.mark.parametrize(("passed", "low", "high"), [(0, 0.0, 0.0229), (5, 0.9771, 1.0)])
def test_tasks_that_all_fail_or_all_pass_still_leave_a_doubt(
    passed: int, low: float, high: float
) -> None:
    assert interval_over_tasks([(5, passed)] * 164, 1) == pytest.approx((low, high), abs=1e-4)
    over_samples = interval_over_samples([(5, passed)] * 164, 1)
    assert over_samples is not None
    assert 0 < over_samples[1] - over_samples[0] < high - low


def test_the_interval_over_samples_needs_twice_k_of_each_task() -> None:
    assert interval_over_samples([(4, 1), (4, 2)], 2) is not None
    assert interval_over_samples([(4, 1), (3, 2)], 2) is None


def test_intervals_hold_the_estimate_within_0_and_1() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        num_samples = int(rng.integers(2, 12))
        counts = [(num_samples, int(c)) for c in rng.integers(0, num_samples + 1, size=5)]
        for interval in (interval_over_tasks(counts, 1), interval_over_samples(counts, 1)):
            assert interval is not None
            assert 0 <= interval[0] <= mean_pass_at_k(counts, 1) <= interval[1] <= 1


CONDITIONS = [  # tasks, samples a task, k, and the beta distribution of tasks' chances
    (164, 1, 1, 0.3, 0.7),
    (164, 10, 1, 0.3, 0.7),
    (164, 20, 10, 0.3, 1.0),
    (50, 10, 1, 0.5, 0.5),
]
NUM_SIMULATIONS = 2000


@pytest.mark.parametrize("condition", CONDITIONS)
def test_intervals_cover_the_truth_as_often_as_they_say(
    condition: tuple[int, int, int, float, float],
) -> None:
    num_tasks, num_samples, k, alpha, beta = condition
    rng = np.random.default_rng(0)
    chance_of_all = 1 - np.mean((1 - rng.beta(alpha, beta, size=1_000_000)) ** k)
    fixed_chances = rng.beta(alpha, beta, size=num_tasks)
    chance_of_fixed = 1 - np.mean((1 - fixed_chances) ** k)

    covered_over_tasks: list[bool] = []
    covered_over_samples: list[bool] = []
    for _ in range(NUM_SIMULATIONS):
        passed = rng.binomial(num_samples, rng.beta(alpha, beta, size=num_tasks))
        low, high = interval_over_tasks([(num_samples, c) for c in passed.tolist()], k)
        covered_over_tasks.append(bool(low <= chance_of_all <= high))
        passed = rng.binomial(num_samples, fixed_chances)
        over_samples = interval_over_samples([(num_samples, c) for c in passed.tolist()], k)
        if over_samples is not None:
            covered_over_samples.append(bool(over_samples[0] <= chance_of_fixed <= over_samples[1]))

    assert 0.93 <= np.mean(covered_over_tasks) <= 0.97
    if num_samples >= 2 * k:
        assert 0.93 <= np.mean(covered_over_samples) <= 0.97
