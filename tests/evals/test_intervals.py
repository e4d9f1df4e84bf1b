import numpy as np
import pytest

from evals.intervals import (
    interval_of_mean,
    interval_of_mean_over_samples,
    interval_over_samples,
    interval_over_tasks,
)
from evals.pass_at_k import mean_pass_at_k


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
    for num_tasks in range(1, 200):  # one end is the estimate itself, and no rounding of it
        assert passed / 5 in interval_over_tasks([(5, passed)] * num_tasks, 1)


def test_the_interval_over_samples_needs_twice_k_of_each_task() -> None:
    assert interval_over_samples([(4, 1), (4, 2)], 2) is not None
    assert interval_over_samples([(4, 1), (3, 2)], 2) is None
    assert interval_of_mean_over_samples([[0.5, 1.0], [1.0]]) is None


def test_intervals_hold_the_estimate_within_0_and_1() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        num_samples = int(rng.integers(2, 12))
        counts = [(num_samples, int(c)) for c in rng.integers(0, num_samples + 1, size=5)]
        for interval in (
            interval_over_tasks(counts, 1),
            interval_over_tasks(counts, 1, ["a", "a", "b", "c", "c"]),
            interval_over_samples(counts, 1),
        ):
            assert interval is not None
            assert 0 <= interval[0] <= mean_pass_at_k(counts, 1) <= interval[1] <= 1


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_tasks_that_share_an_origin_and_fare_alike_are_fewer_draws() -> None:
    values = [1.0, 0.0] * 20
    each_alone = interval_of_mean(values)
    assert interval_of_mean(values, range(40)) == pytest.approx(each_alone, abs=0.01)
    alike = interval_of_mean(values, [at % 2 + at // 8 for at in range(40)])
    assert width(alike) > width(each_alone)
    # Four copies of each task say no more than one.
    one_each = interval_of_mean(values[:10], range(10))
    assert interval_of_mean(values[:10] * 4, [*range(10)] * 4) == pytest.approx(one_each)


def test_a_single_origin_shows_next_to_nothing() -> None:
    assert width(interval_of_mean([0.2, 0.4, 0.6], ["same"] * 3)) > 0.6


def test_shares_that_are_all_or_none_have_the_interval_of_passes() -> None:
    counts = [(4, 1), (4, 4), (4, 2), (4, 0)]
    shares = [[1.0] * c + [0.0] * (n - c) for n, c in counts]
    assert interval_of_mean_over_samples(shares) == pytest.approx(interval_over_samples(counts, 1))
