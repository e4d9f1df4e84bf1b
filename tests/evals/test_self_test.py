import numpy as np
import pytest

from evals.compare import Change, change_between
from evals.errors import InputError
from evals.metrics import CHECKS_PASSED, PASS_AT_1, metric_named
from evals.records import Baseline
from evals.self_test import SelfTest, self_test
from tests.evals.scored import baseline, letters_drawn, sampling


@pytest.fixture
def drawn() -> Baseline:
    rng = np.random.default_rng(0)
    return baseline(letters_drawn(rng.beta(0.3, 0.7, size=60), 5, rng))


def test_the_gate_holds_what_it_promises(drawn: Baseline) -> None:
    seen: list[tuple[int, int]] = []
    found = self_test(
        drawn,
        PASS_AT_1,
        0.0,
        num_repeats=100,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert found.holds
    assert found.trials[0].drop == 0
    assert found.trials[0].significant <= 0.1
    by_drop = {trial.drop: trial for trial in found.trials}
    assert found.detectable_drop is not None
    assert by_drop[found.detectable_drop].regression == pytest.approx(0.8, abs=0.13)
    # Larger drops are found more often.
    shares = [trial.regression for trial in found.trials]
    assert shares == sorted(shares)
    assert seen[-1] == (len(found.trials) * 100, len(found.trials) * 100)


def test_outcomes_add_up_and_the_same_seed_finds_the_same(drawn: Baseline) -> None:
    found = self_test(drawn, metric_named("pass@2"), 0.02, [0.05], num_repeats=30)
    for trial in found.trials:
        assert trial.regression + trial.passed + trial.inconclusive == pytest.approx(1)
    assert self_test(drawn, metric_named("pass@2"), 0.02, [0.05], num_repeats=30) == found
    assert SelfTest.model_validate(found.as_json()) == found


def test_drops_beyond_the_score_are_refused(drawn: Baseline) -> None:
    with pytest.raises(InputError, match="a drop of 90 points is more than the baseline has"):
        self_test(drawn, PASS_AT_1, 0.02, [0.9], num_repeats=1)


def test_a_weak_baseline_is_tried_as_far_as_it_can_drop() -> None:
    weak = baseline(["PPPPW"] + ["WWWWW"] * 30)
    found = self_test(weak, PASS_AT_1, 0.0, num_repeats=20)
    assert found.detectable_drop is None
    assert [trial.drop for trial in found.trials] == [0.0, 0.01, 0.02]


def test_how_checks_pass_together_is_not_made_up(drawn: Baseline) -> None:
    with pytest.raises(InputError, match="is not simulated"):
        self_test(drawn, CHECKS_PASSED, 0.02)


def test_copies_are_tried_as_one_sample_each() -> None:
    greedy = baseline(["PPP", "WWW"] * 30, sampling=sampling(temperature=0.0))
    assert self_test(greedy, PASS_AT_1, 0.0, [], num_repeats=5).num_samples == 60


def test_a_gate_that_cries_wolf_does_not_hold(
    drawn: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_sure(*arguments: object, **more: object) -> Change:
        change = change_between(*arguments, **more)  # type: ignore[arg-type]
        return change._replace(p_drop=change.p_drop / 10)

    monkeypatch.setattr("evals.self_test.change_between", too_sure)
    assert not self_test(drawn, PASS_AT_1, 0.0, [], num_repeats=100).holds
