from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.errors import IncomparableError
from evals.gate import gate, write_baseline
from evals.records import Baseline, Score, read_record
from tests.evals.test_compare import COUNTS, measured

NUM_TASKS, NUM_SAMPLES = 150, 8


def drawn(
    chances: np.ndarray, rng: np.random.Generator, num_samples: Any = NUM_SAMPLES
) -> list[tuple[int, int]]:
    numbers = np.broadcast_to(num_samples, chances.shape)
    return list(zip(numbers.tolist(), rng.binomial(numbers, chances).tolist(), strict=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def chances(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(0.5, 0.5, size=NUM_TASKS)


@pytest.mark.parametrize(
    "num_samples",
    [1, NUM_SAMPLES, np.where(np.arange(NUM_TASKS) % 2, 1, 12)],
    ids=["one", "several", "differing by task"],
)
@pytest.mark.parametrize("skew", [(0.5, 0.5), (0.2, 2.0)], ids=["even", "hard"])
def test_the_same_model_twice_raises_few_false_alarms(
    num_samples: Any, skew: tuple[float, float], rng: np.random.Generator
) -> None:
    chances = rng.beta(*skew, size=NUM_TASKS)
    alarms = [
        gate(
            measured(drawn(chances, rng, num_samples)),
            measured(drawn(chances, rng, num_samples)),
            tolerance=0.0,
        ).exit_status
        for _ in range(400)
    ]
    # 5 % at most; within what 400 repeats can tell from that.
    assert np.mean(alarms) <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


def test_a_planted_drop_is_caught(chances: np.ndarray, rng: np.random.Generator) -> None:
    found = [
        gate(measured(drawn(chances, rng)), measured(drawn(chances * 0.85, rng))).outcome
        for _ in range(50)
    ]
    assert found.count("regression") >= 45


def test_a_drop_within_the_tolerance_is_no_regression() -> None:
    before = measured([(4, 4)] * 100)
    after = measured([(4, 4)] * 90 + [(4, 3)] * 10)
    assert gate(before, after, tolerance=0.01).outcome == "regression"
    assert gate(before, after, tolerance=0.05).outcome == "pass"


def test_the_same_score_passes_at_any_tolerance() -> None:
    result = gate(measured(COUNTS), measured(COUNTS), tolerance=0.0)
    assert (result.outcome, result.exit_status) == ("pass", 0)


def test_too_few_tasks_are_inconclusive_and_stop_no_build() -> None:
    result = gate(measured([(1, 1), (1, 0)]), measured([(1, 0), (1, 0)]))
    assert (result.outcome, result.exit_status) == ("inconclusive", 0)


def test_incomparable_scores_are_refused() -> None:
    with pytest.raises(IncomparableError, match="isolation differs"):
        gate(measured(COUNTS), measured(COUNTS, isolation="none"))


def test_the_summary_names_tasks_that_changed_and_what_else_did() -> None:
    before = measured([(2, 2)] * 20 + [(2, 0)])
    after = measured([(2, 0)] * 20 + [(2, 1)], versions={"python": "3.12"})
    result = gate(before, after)
    assert result.newly_failing[:2] == ("Toy/0", "Toy/1")
    assert result.newly_passing == ("Toy/20",)
    text = result.markdown()
    assert text.startswith("pass@1 **regression**")
    assert "| 95.2 % | 2.4 % | -92.9 (" in text
    assert "Newly passing: Toy/20" in text
    assert "python was 3.11 for the baseline and is 3.12 now." in text


def test_a_suspicious_rise_is_noted() -> None:
    result = gate(measured([(2, 0)] * 20), measured([(2, 2)] * 20))
    assert result.outcome == "pass"
    assert "make this score the new baseline" in result.markdown()


def test_a_negative_tolerance_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="tolerance must be 0 or more"):
        gate(measured(COUNTS), measured(COUNTS), tolerance=-0.1)


def test_a_baseline_written_from_a_score_is_one_it_passes(tmp_path: Path) -> None:
    score = Score(
        **measured(COUNTS).model_dump(),
        samples_sha256="s",
        verdicts_sha256="v",
        num_tasks=3,
        num_samples=12,
        pass_at_k={},
        share_parsed=1.0,
        by_verdict={"passed": 5, "wrong answer": 7},
        timed_out=0,
    )
    path = tmp_path / "baselines" / "toy.json"
    write_baseline(score, path)
    assert '"Toy/0": [4, 1],\n' in path.read_text()
    assert gate(read_record(Baseline, path), score).outcome == "pass"
