import math
from typing import Any

import numpy as np
import pytest

from evals.compare import compare
from evals.errors import IncomparableError, InputError
from evals.metrics import CHECKS_PASSED, metric_named
from tests.evals.scored import letters_of, measured, sampling

COUNTS = [(4, 1), (4, 4), (4, 0)]
BEFORE = letters_of(COUNTS)


def test_differences_are_paired_task_by_task() -> None:
    found = compare(measured(BEFORE), measured(["PPWW", "PPPP", "WWWW"]))
    assert found.before == pytest.approx(5 / 12)
    assert found.after == pytest.approx(6 / 12)
    assert found.difference == pytest.approx(1 / 12)
    assert (found.low, found.high) == pytest.approx((0, 1 / 4))
    # Of the first task's four pairs one gained, and three are drawn again: 2 gain at times.
    # As if half a pair more had gained and half a pair lost, which 12 pairs leave possible.
    half = 1.96 / 14
    low, high = 1 / 12 - math.hypot(1 / 12, half), 1 / 12 + math.hypot(2 / 9 - 1 / 12, half)
    assert found.change.over_samples[:2] == pytest.approx((low, high), abs=1e-4)


def test_samples_are_paired_by_their_place() -> None:
    before = measured(["PWPW"] * 30)
    in_step = compare(before, measured(["PWPW"] * 30, samples_sha256="other")).change
    crossed = compare(before, measured(["WPWP"] * 30)).change
    assert in_step.difference == crossed.difference == 0
    assert in_step.over_samples.high == pytest.approx(1.96 / 122, abs=1e-4)
    assert crossed.over_samples.high > 0.1


def test_the_very_same_samples_leave_no_doubt() -> None:
    assert compare(measured(BEFORE), measured(BEFORE)).change.over_samples == (0, 0, 0)


def test_tasks_may_have_different_numbers_of_samples() -> None:
    found = compare(measured(["PW", "PWW"]), measured(["WW", "PPW"]))
    assert found.difference == pytest.approx((-1 / 2 + 1 / 3) / 2)
    assert found.change.p_drop == 1 / 2


def test_numbers_of_samples_without_a_small_common_multiple_are_compared_too() -> None:
    numbers = range(900, 1100)
    found = compare(
        measured(letters_of([(number, 500) for number in numbers])),
        measured(letters_of([(number, 480) for number in numbers])),
    )
    assert found.difference == pytest.approx(
        np.mean([-20 / number for number in numbers]), abs=1e-6
    )
    assert found.low <= found.difference <= found.high
    assert found.change.p_drop < 1e-4


def test_each_metric_has_its_own_difference() -> None:
    before = measured(["PW", "WW"], checks_passed={"Toy/0": (1.0, 0.5), "Toy/1": (0.0, 0.0)})
    after = measured(["WW", "SW"], checks_passed={"Toy/0": (0.5, 0.5), "Toy/1": (0.0, 0.5)})
    for name, difference in (
        ("pass@1", -1 / 4),
        ("pass@2", -1 / 2),
        ("parsed", -1 / 4),
        ("checks passed", 0),
    ):
        found = compare(before, after, metric_named(name))
        assert found.difference == pytest.approx(difference), name


def test_copies_count_once() -> None:
    greedy = {"sampling": sampling(temperature=0.0)}
    before = measured(["PPP"] * 6 + ["WWW"] * 4, **greedy)
    after = measured(["PPP"] * 2 + ["WWW"] * 8, **greedy)
    found = compare(before, after).change
    assert (found.test, found.is_over_pairs) == ("exact McNemar", True)
    assert found.p_drop == pytest.approx(1 / 16)
    assert compare(before, after, metric_named("pass@3")).change.p_drop == found.p_drop


def test_a_metric_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(InputError, match="do not hold how many checks"):
        compare(measured(BEFORE), measured(BEFORE), CHECKS_PASSED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "e"}, "data_sha256 differs: 'd' before, 'e' now"),
        ({"limits": {"cpu_s": 3.0}}, "limits.cpu_s differs: 10.0 before, 3.0 now"),
        (
            {"raised_limits": {"Toy/0": {"cpu_s": 60.0}}},
            "raised_limits.Toy/0 differs: None before, {'cpu_s': 60.0} now",
        ),
        ({"prompt_format": None}, "prompt_format differs"),
        ({"prompts_sha256": "q"}, "prompts_sha256 differs"),
        ({"post_processing": "none"}, "post_processing differs"),
        ({"seed_rule": None}, "seed_rule differs"),
        ({"isolation": "none"}, "isolation differs"),
        ({"origins": {"Toy/0": "a", "Toy/1": "a", "Toy/2": "b"}}, "origins"),
        ({"sampling": None}, "sampling differs"),
        ({"sampling": sampling(top_p=1.0)}, "sampling.top_p differs: 0.95 before, 1.0 now"),
        (
            {"tasks": {"Toy/0": (4, 1), "Toy/1": (4, 4)}},
            "number of samples of Toy/2 differs: 4 before, 0 now",
        ),
        (
            {"tasks": {"Toy/0": (4, 1), "Toy/1": (8, 8), "Toy/2": (4, 0)}},
            "number of samples of Toy/1 differs: 4 before, 8 now",
        ),
    ],
)
def test_what_is_not_comparable_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IncomparableError) as caught:
        compare(measured(BEFORE), measured(BEFORE, **changes))
    assert message in str(caught.value)


def test_model_seed_and_versions_may_differ() -> None:
    other = sampling(model={"name": "other"}, seed=7)
    after = measured(BEFORE, sampling=other, versions={})
    assert compare(measured(BEFORE), after).difference == 0
