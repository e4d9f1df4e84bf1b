import math

import numpy as np
import pytest

import evals.resampling
from evals.resampling import (
    Spread,
    holm,
    p_value_of_drop,
    sign_flip_p_value,
    spread_over_samples,
    spread_over_tasks,
    unit_of_gains,
    widened,
)
from tests.reference import holm_by_steps, sign_flip_p_value_by_listing


def random_gains(num_tasks: int, rng: np.random.Generator) -> list[int]:
    return [int(gain) for gain in rng.integers(-6, 7, size=num_tasks)]


def test_the_p_value_is_that_of_listing_every_flip() -> None:
    rng = np.random.default_rng(0)
    lists = [random_gains(num_tasks, rng) for num_tasks in range(1, 12) for _ in range(5)]
    for gains in [*lists, [0, 0], [-1, -1, -1, 1], [-4, -2], [5]]:
        found = sign_flip_p_value(gains)
        assert found.value == pytest.approx(sign_flip_p_value_by_listing(gains))
        assert found.test == "exact sign flips"


def test_few_large_numbers_are_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals.resampling, "_EXACT_CELLS", 0)
    gains = random_gains(12, np.random.default_rng(1))
    found = sign_flip_p_value(gains)
    assert found.value == pytest.approx(sign_flip_p_value_by_listing(gains))
    assert found.test == "exact sign flips"


def test_long_lists_of_large_numbers_are_estimated_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gains = random_gains(40, np.random.default_rng(3))
    exact = sign_flip_p_value(gains)
    monkeypatch.setattr(evals.resampling, "_EXACT_CELLS", 0)
    estimated = sign_flip_p_value(gains)
    assert estimated.value == pytest.approx(exact.value, abs=0.01)
    assert estimated.test == "100,000 sign flips"


def test_one_sample_a_task_is_mcnemars_exact_test() -> None:
    # 3 tasks rose and 9 dropped: the chance of 9 or more heads of 12 is 299 / 4096.
    gains = np.array([1.0] * 3 + [-1.0] * 9 + [0.0] * 50)
    found = p_value_of_drop(gains, unit=1)
    assert found == (pytest.approx(299 / 4096), "exact McNemar")
    assert sign_flip_p_value(gains.astype(int).tolist()).value == pytest.approx(found.value)
    assert p_value_of_drop(np.zeros(5), unit=1).value == 1


def test_gains_are_whole_numbers_of_the_least_unit_there_is() -> None:
    two, three = np.array([1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    assert unit_of_gains([two, three], [two, three], k=1) == 6
    assert unit_of_gains([two[:1]], [two[1:]], k=1) == 1
    assert unit_of_gains([two, three], [two, three], k=2) == 1000
    assert unit_of_gains([two * 0.3], [two], k=1) == 1000


def test_holms_p_values_are_those_of_its_steps() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 7):
        for _ in range(20):
            p_values = rng.uniform(0, 0.1, size=size).round(2).tolist()
            raised = holm(p_values)
            for alpha in np.linspace(0.005, 0.3, 40).tolist():
                rejected = [p <= alpha + 1e-12 for p in raised]
                assert rejected == holm_by_steps(p_values, alpha + 1e-12)
    assert holm([]) == []


def outcomes(rng: np.random.Generator, num_tasks: int, num_samples: int) -> list[np.ndarray]:
    chances = rng.beta(0.5, 0.5, size=num_tasks)
    return [(rng.random(num_samples) < chance).astype(float) for chance in chances]


def test_the_spread_over_samples_has_the_unbiased_variance() -> None:
    rng = np.random.default_rng(0)
    for num_samples in (2, 5, 20):
        before, after = (outcomes(rng, 300, num_samples) for _ in range(2))
        pairs = zip(before, after, strict=True)
        gains = [now - was for was, now in pairs]
        gain = float(np.mean(gains))
        found = spread_over_samples(before, after, 1, gain)
        assert found is not None
        variance = math.fsum(np.var(each, ddof=1) / num_samples for each in gains) / 300**2
        assert found.standard_error == pytest.approx(variance**0.5, rel=0.03)
        half = 1.96 * found.standard_error
        assert (found.low, found.high) == pytest.approx((gain - half, gain + half), abs=0.003)


@pytest.mark.parametrize("k", [1, 5])
def test_a_run_against_itself_has_no_spread(k: int) -> None:
    before = outcomes(np.random.default_rng(0), 50, 10)
    assert spread_over_samples(before, before, k, 0.0) == pytest.approx((0, 0, 0), abs=1e-6)


def test_runs_that_share_no_seed_spread_further_than_runs_in_step() -> None:
    rng = np.random.default_rng(0)
    before = outcomes(rng, 100, 10)
    in_step = [np.where(rng.random(10) < 0.1, 0.0, each) for each in before]
    shuffled = [rng.permutation(each) for each in in_step]
    gain = float(np.mean(in_step) - np.mean(before))
    for k in (1, 3):
        near, far = (spread_over_samples(before, after, k, gain) for after in (in_step, shuffled))
        assert near is not None
        assert far is not None
        assert near.standard_error < far.standard_error


def test_one_sample_a_task_shows_no_spread_over_samples() -> None:
    one = [np.array([1.0]), np.array([0.0])]
    assert spread_over_samples(one, one, 1, 0.0) is None
    assert spread_over_samples([np.ones(3)], [np.ones(3)], 2, 0.0) is None


def test_the_spread_over_tasks_is_the_normal_one_for_many() -> None:
    gains = np.random.default_rng(0).normal(0.05, 0.2, size=2000)
    found = spread_over_tasks(gains)
    half = 1.96 * np.std(gains) / 2000**0.5
    expected = np.mean(gains) - half, np.mean(gains) + half
    assert found[:2] == pytest.approx(expected, abs=5e-4)


def test_tasks_of_one_origin_are_drawn_together() -> None:
    gains = np.repeat(np.random.default_rng(0).normal(0, 0.2, size=50), 4)
    alone = spread_over_tasks(gains)
    together = spread_over_tasks(gains, np.repeat(np.arange(50), 4).tolist())
    assert together.standard_error == pytest.approx(2 * alone.standard_error, rel=0.05)


@pytest.mark.parametrize("gain", [-1.0, -0.96, 0.0, 0.96, 1.0])
def test_no_interval_reaches_beyond_all_there_is(gain: float) -> None:
    spread = widened(Spread(gain, gain, 0.0), gain, num_pairs=10)
    assert -1 <= spread.low <= gain <= spread.high <= 1
    half = 1.96 / 12  # the control: without the bounds these would be beyond them
    assert (spread.low > gain - half + 1e-3, spread.high < gain + half - 1e-3) == (
        gain < -0.9,
        gain > 0.9,
    )
