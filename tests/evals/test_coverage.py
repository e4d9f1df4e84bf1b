import pytest

from evals.coverage import (
    CONDITIONS,
    DIFFERENCES,
    LIMITS,
    Condition,
    coverage,
    coverage_of_difference,
    worst_error,
)


def test_the_estimator_is_within_1e_12_of_exact_arithmetic() -> None:
    error, num_cases = worst_error(num_cases=5000)
    assert error < 1e-12
    assert num_cases > 20_000


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(condition, marks=[pytest.mark.thorough] if number % 3 else [])
        for number, condition in enumerate(CONDITIONS)
    ],
    ids=str,
)
def test_intervals_cover_the_truth_as_often_as_they_say(condition: Condition) -> None:
    # Few tasks are simulated quickly, and are where an interval is furthest from its promise.
    num_simulations = 1000 if condition.num_tasks > 100 else 2000
    covered = [share for share in coverage(condition, num_simulations) if share is not None]
    assert all(0.93 <= share <= 0.97 for share in covered), covered


def test_a_simulation_can_tell_that_an_interval_fails() -> None:
    over_tasks, _ = coverage(LIMITS[0], 300)
    assert over_tasks < 0.93


@pytest.mark.parametrize(
    "condition",
    [DIFFERENCES[1], pytest.param(DIFFERENCES[-1], marks=pytest.mark.thorough)],
    ids=str,
)
def test_the_interval_of_a_difference_covers_it(condition: Condition) -> None:
    # 300 simulations: within what these can tell from 95 %.
    assert coverage_of_difference(condition, 300) == pytest.approx(0.95, abs=0.035)


def test_the_mean_over_all_tasks_is_that_of_many() -> None:
    assert Condition(1, 1, 1, 0.3, 0.7).mean_pass_at_k == pytest.approx(0.3)
    assert Condition(1, 1, 2, 1.0, 1.0).mean_pass_at_k == pytest.approx(1 - 1 / 3)
