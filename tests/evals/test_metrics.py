import numpy as np
import pytest

from evals.errors import InputError
from evals.metrics import (
    CHECKS_PASSED,
    PARSED,
    PASS_AT_1,
    Metric,
    holds_copies,
    metric_named,
    outcomes_by_task,
    task_estimates,
)
from tests.evals.scored import measured, sampling


def test_metrics_go_by_name() -> None:
    assert metric_named("pass@1") == PASS_AT_1
    assert metric_named("pass@100").k == 100
    assert metric_named("parsed") == PARSED
    assert metric_named("checks passed") == CHECKS_PASSED
    assert metric_named("base pass@7") == Metric("base pass@7", 7, is_base=True)


@pytest.mark.parametrize(
    "name", ["pass@0", "pass@", "pass", "pass@1.5", "bits", "", "base", "base parsed"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="no such metric; known: pass@K, parsed, checks passed"):
        metric_named(name)


def test_each_metric_reads_its_own_of_a_sample() -> None:
    shares = {"Toy/0": (1.0, 0.5, 0.0), "Toy/1": (0.0, 0.0, 0.25)}
    base = {"Toy/0": "PPS", "Toy/1": "SPW"}
    found = measured(["PWS", "STW"], checks_passed=shares, base_verdicts=base)
    for metric, expected in (
        (PASS_AT_1, [[1, 0, 0], [0, 0, 0]]),
        (metric_named("base pass@1"), [[1, 1, 0], [0, 1, 0]]),
        (PARSED, [[1, 1, 0], [0, 1, 1]]),
        (CHECKS_PASSED, [[1, 0.5, 0], [0, 0, 0.25]]),
    ):
        by_task = outcomes_by_task(found, metric)
        assert [each.tolist() for each in by_task.values()] == expected


def test_what_was_not_recorded_or_drawn_is_named() -> None:
    with pytest.raises(InputError, match="do not hold how many checks passed"):
        outcomes_by_task(measured(["PW"]), CHECKS_PASSED)
    with pytest.raises(InputError, match="base pass@2: the verdicts do not hold base checks apart"):
        outcomes_by_task(measured(["PW"]), metric_named("base pass@2"))
    with pytest.raises(InputError, match="pass@3: needs 3 samples a task; Toy/1 has 2"):
        outcomes_by_task(measured(["PWW", "PW"]), metric_named("pass@3"))


def test_a_tasks_number_is_its_mean_or_its_pass_at_k() -> None:
    outcomes = [np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.5, 1.0])]
    assert task_estimates(outcomes, 1).tolist() == [0.25, 0.75]
    assert task_estimates(outcomes[:1], 2).tolist() == [0.5]


def test_only_what_was_drawn_greedily_and_is_alike_counts_as_copies() -> None:
    greedy = {"sampling": sampling(temperature=0.0)}
    assert holds_copies(measured(["PPP", "WWW"], **greedy))
    assert not holds_copies(measured(["PPP", "WWP"], **greedy))
    assert not holds_copies(measured(["PPP", "WWW"]))
    assert not holds_copies(measured(["PPP", "WWW"], sampling=None))
