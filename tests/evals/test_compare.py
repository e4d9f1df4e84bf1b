from typing import Any

import numpy as np
import pytest

import evals.compare
from evals.compare import bootstrap_interval, compare, sign_flip_p_value
from evals.errors import IncomparableError
from evals.records import Measured, Sampling
from tests.reference import sign_flip_p_value_by_listing


def measured(counts: list[tuple[int, int]], **changes: Any) -> Measured:
    sampling = Sampling(
        benchmark="toy",
        data_sha256="d",
        prompt_format="humaneval raw",
        post_processing="cut at stops",
        num_samples=counts[0][0],
        temperature=0.8,
        top_p=0.95,
        max_new_tokens=64,
        seed=0,
        model={"name": "toy"},
        versions={},
    )
    return Measured(
        benchmark="toy",
        data_sha256="d",
        prompt_format="humaneval raw",
        post_processing="cut at stops",
        limits={"cpu_s": 10.0},
        isolation="full",
        sampling=sampling,
        versions={"python": "3.11"},
        tasks={f"Toy/{at}": each for at, each in enumerate(counts)},
    ).model_copy(update=changes)


COUNTS = [(4, 1), (4, 4), (4, 0)]


def test_differences_are_paired_task_by_task() -> None:
    found = compare(measured(COUNTS), measured([(4, 2), (4, 4), (4, 0)]))
    assert found.before == pytest.approx(5 / 12)
    assert found.after == pytest.approx(6 / 12)
    assert found.difference == pytest.approx(1 / 12)
    assert (found.low, found.high) == pytest.approx((0, 1 / 4))


def test_tasks_may_have_different_numbers_of_samples() -> None:
    found = compare(measured([(2, 1), (3, 1)]), measured([(2, 0), (3, 2)]))
    assert found.difference == pytest.approx((-1 / 2 + 1 / 3) / 2)
    assert found.p_drop == 1 / 2


def test_numbers_of_samples_without_a_small_common_multiple_are_compared_too() -> None:
    numbers = range(900, 1100)
    before = measured([(number, 500) for number in numbers])
    after = measured([(number, 480) for number in numbers])
    found = compare(before, after)
    assert found.difference == pytest.approx(
        np.mean([-20 / number for number in numbers]), abs=1e-6
    )
    assert found.low <= found.difference <= found.high
    assert found.p_drop < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "e"}, "data_sha256 differs: 'd' before, 'e' now"),
        ({"limits": {"cpu_s": 3.0}}, "limits.cpu_s differs: 10.0 before, 3.0 now"),
        ({"prompt_format": None}, "prompt_format differs"),
        ({"post_processing": "none"}, "post_processing differs"),
        ({"isolation": "none"}, "isolation differs"),
        ({"sampling": None}, "sampling differs"),
        (
            {"sampling": measured(COUNTS).sampling.model_copy(update={"top_p": 1.0})},  # type: ignore[union-attr]
            "sampling.top_p differs: 0.95 before, 1.0 now",
        ),
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
        compare(measured(COUNTS), measured(COUNTS, **changes))
    assert message in str(caught.value)


def test_model_seed_and_versions_may_differ() -> None:
    before = measured(COUNTS)
    assert before.sampling is not None
    sampling = before.sampling.model_copy(update={"model": {"name": "other"}, "seed": 7})
    assert compare(before, measured(COUNTS, sampling=sampling, versions={})).difference == 0


def random_gains(num_tasks: int, rng: np.random.Generator) -> list[int]:
    return [int(gain) for gain in rng.integers(-6, 7, size=num_tasks)]


def test_the_p_value_is_that_of_listing_every_flip() -> None:
    rng = np.random.default_rng(0)
    lists = [random_gains(num_tasks, rng) for num_tasks in range(1, 12) for _ in range(5)]
    for gains in [*lists, [0, 0], [-1, -1, -1, 1], [-4, -2], [5]]:
        assert sign_flip_p_value(gains) == pytest.approx(sign_flip_p_value_by_listing(gains))


def test_long_lists_of_large_numbers_are_estimated_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gains = random_gains(40, np.random.default_rng(3))
    exact = sign_flip_p_value(gains)
    monkeypatch.setattr(evals.compare, "_EXACT_CELLS", 0)
    assert sign_flip_p_value(gains) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p_value(gains) != exact


def test_the_bootstrap_interval_is_the_normal_one_for_many_tasks() -> None:
    gains = [int(gain) for gain in np.random.default_rng(0).normal(5, 20, size=2000)]
    low, high = bootstrap_interval(gains)
    half = 1.96 * np.std(gains) / 2000**0.5
    assert (low, high) == pytest.approx((np.mean(gains) - half, np.mean(gains) + half), abs=0.05)
