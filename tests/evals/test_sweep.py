from collections.abc import Sequence

import numpy as np
import pytest

from evals.errors import IncomparableError, InputError
from evals.records import Score
from evals.sweep import Sweep, sweep
from tests.evals.scored import letters_drawn, sampling, score


def at(temperature: float, letters: list[str], **changes: object) -> Score:
    return score(letters, sampling=sampling(temperature=temperature), **changes)


def swept(scores: Sequence[Score], ks: Sequence[int] = (1,)) -> Sweep:
    return sweep({f"{number}.json": each for number, each in enumerate(scores)}, ks)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_oracle_is_the_highest_of_the_temperatures() -> None:
    found = swept(
        [at(0.8, ["PPWW", "PPPW"]), at(0.2, ["PWWW", "PPPP"]), at(0.5, ["WWWW", "PPWW"])], [1, 2]
    )
    of_one = found.by_k["1"]
    values = {key: estimate.value for key, estimate in of_one.by_temperature.items()}
    assert values == {"0.2": 5 / 8, "0.5": 1 / 4, "0.8": 5 / 8}
    assert (of_one.oracle.temperature, of_one.oracle.value) == (0.2, 5 / 8)
    assert found.by_k["2"].oracle.temperature == 0.8
    assert found.num_samples == {"0.2": 8, "0.5": 8, "0.8": 8}
    assert Sweep.model_validate(found.as_json()) == found


def test_choosing_between_equals_adds_nothing_once_it_is_cross_fitted(
    rng: np.random.Generator,
) -> None:
    too_high, fitted = [], []
    for _ in range(20):
        chances = rng.beta(0.5, 0.5, size=60)
        truth = float(np.mean(1 - (1 - chances) ** 2))
        found = swept(
            [at(heat / 10, letters_drawn(chances, 6, rng)) for heat in range(1, 9)], [2]
        ).by_k["2"]
        assert found.cross_fitted is not None
        too_high.append(found.oracle.value - truth)
        fitted.append(found.cross_fitted.value - truth)
    error = np.std(fitted) / 20**0.5
    assert abs(np.mean(fitted)) < 2.5 * error
    assert np.mean(too_high) > 5 * error


def test_a_temperature_that_is_better_is_chosen(rng: np.random.Generator) -> None:
    chances = rng.beta(0.5, 0.5, size=100)
    found = swept(
        [at(0.2, letters_drawn(chances, 10, rng)), at(0.9, letters_drawn(chances / 2, 10, rng))]
    ).by_k["1"]
    assert found.cross_fitted is not None
    assert found.cross_fitted.chosen == {"0.2": 1.0, "0.9": 0.0}
    assert found.cross_fitted.value == pytest.approx(found.oracle.value, abs=0.005)
    low, high = found.cross_fitted.low, found.cross_fitted.high
    assert low < found.cross_fitted.value < high


def test_too_few_samples_to_halve_leave_the_oracle_alone() -> None:
    found = swept([at(0.2, ["PWP", "PPP"]), at(0.8, ["PWP", "PWP"])], [1, 2])
    assert found.by_k["1"].cross_fitted is not None
    assert found.by_k["2"].cross_fitted is None


def test_greedy_copies_stand_for_any_number() -> None:
    found = swept([at(0.0, ["P", "W"]), at(0.8, ["PWWW", "PWWW"])], [1, 2])
    assert found.by_k["2"].by_temperature["0"].value == 1 / 2
    assert found.by_k["2"].cross_fitted is not None


def test_what_differs_in_more_than_the_temperature_is_refused() -> None:
    first = at(0.2, ["PW", "PP"])
    other = sampling(temperature=0.8, model={"name": "other"})
    with pytest.raises(
        IncomparableError, match=r"^1\.json: sampling.model.name is 'other', and 'toy' in 0\.json"
    ):
        swept([first, score(["PW", "PP"], sampling=other)])
    with pytest.raises(IncomparableError, match=r"^1\.json: data_sha256 is"):
        swept([first, at(0.8, ["PW", "PP"], data_sha256="e")])
    with pytest.raises(IncomparableError, match=r"^1\.json: number of samples of Toy/1 is"):
        swept([first, at(0.8, ["PW"])])
    # How often each was drawn may differ.
    assert swept([first, at(0.8, ["PWWP", "PPWW"])]).num_tasks == 2


def test_what_is_no_sweep_is_told_in_one_line() -> None:
    first = at(0.2, ["PW", "PP"])
    with pytest.raises(InputError, match="two temperatures or more"):
        swept([first])
    with pytest.raises(InputError, match=r"^1\.json: of temperature 0\.2, as 0\.json is"):
        swept([first, first])
    with pytest.raises(InputError, match=r"^1\.json: does not say at which temperature"):
        swept([first, score(["PW", "PP"], sampling=None)])
    with pytest.raises(InputError, match=r"^0\.json: k = 3 is more than the 2 samples of a task"):
        swept([first, at(0.8, ["PW", "PP"])], [3])
