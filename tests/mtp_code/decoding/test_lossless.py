"""The law of speculative samples is the model's own: held to all sequences of a tiny model."""

import pytest

from mtp_code.decoding.exactness import (
    LEAST_P_VALUE,
    SETTINGS,
    always_stands,
    law,
    p_value,
    tiny_model,
    wrong_residual,
)
from mtp_code.decoding.requests import SamplingConfig
from mtp_code.model.mtp import MTPModel

NUM_DRAWS = 1_000
USUAL = [SETTINGS[number] for number in (0, 6, 8, 14, 17)]
"""Each shape of drafts and each way to leave tokens out at least once."""


@pytest.fixture(scope="module")
def model() -> MTPModel:
    return tiny_model()


def test_the_law_is_a_law(model):
    for sampling, _ in SETTINGS:
        probs = law(model, sampling)
        assert sum(probs.values()) == pytest.approx(1)
        assert max(map(len, probs)) == 4


@pytest.mark.parametrize(
    ("setting", "num_draws"),
    [
        *((setting, NUM_DRAWS) for setting in USUAL),
        *(pytest.param(setting, 4 * NUM_DRAWS, marks=pytest.mark.thorough) for setting in SETTINGS),
    ],
    ids=str,
)
def test_the_law_of_samples_is_the_models(model, setting, num_draws):
    assert p_value(model, *setting, num_draws) > LEAST_P_VALUE


@pytest.mark.parametrize("fault", [always_stands, wrong_residual])
def test_a_planted_fault_is_caught(model, fault):
    sampling = SamplingConfig(temperature=1.0)
    assert p_value(model, sampling, 1, 2 * NUM_DRAWS, fault) < LEAST_P_VALUE
