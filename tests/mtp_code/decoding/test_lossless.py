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
from mtp_code.decoding.sampling import SamplingConfig
from mtp_code.model.mtp import MTPModel

NUM_DRAWS = 4_000


@pytest.fixture(scope="module")
def model() -> MTPModel:
    return tiny_model()


def test_the_law_is_a_law(model):
    for sampling, _ in SETTINGS:
        probs = law(model, sampling)
        assert sum(probs.values()) == pytest.approx(1)
        assert max(map(len, probs)) == 4


@pytest.mark.parametrize(("sampling", "num_drafts"), SETTINGS[::3])
def test_the_law_of_samples_is_the_models(model, sampling, num_drafts):
    assert p_value(model, sampling, num_drafts, NUM_DRAWS) > LEAST_P_VALUE


@pytest.mark.parametrize("fault", [always_stands, wrong_residual])
def test_a_planted_fault_is_caught(model, fault):
    sampling = SamplingConfig(temperature=1.0)
    assert p_value(model, sampling, 1, NUM_DRAWS, fault) < LEAST_P_VALUE
