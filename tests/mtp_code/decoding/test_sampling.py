import pytest
import torch
from scipy.stats import chisquare

from mtp_code.decoding.sampling import SamplingConfig, choose_tokens, token_probs, uniforms_for
from tests.reference import top_p_probs

LOGITS = torch.tensor([[2.0, 1.0, 1.0, -1.0, 0.5, -30.0], [0.0, 0.0, 3.0, -2.0, 1.0, 1.0]])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_probs_are_those_of_the_slow_twin(temperature, top_p):
    sampling = SamplingConfig(temperature=temperature, top_p=top_p)
    expected = [top_p_probs(row, temperature, top_p) for row in LOGITS.tolist()]
    ours = token_probs(LOGITS, sampling)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("top_p", [0.7, 1.0])
def test_draws_follow_the_probs(top_p):
    sampling = SamplingConfig(temperature=0.8, top_p=top_p)
    count = 40_000
    uniforms = torch.tensor(uniforms_for(5, count), dtype=torch.float64)
    drawn = choose_tokens(LOGITS[:1].expand(count, -1), sampling, uniforms)
    probs = token_probs(LOGITS[:1], sampling)[0]
    possible = probs > 1e-6
    counts = drawn.bincount(minlength=6)
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible], count * probs[possible]).pvalue > 1e-3


def test_temperature_zero_takes_the_likeliest_whatever_the_draw():
    for uniform in (0.0, 0.999):
        chosen = choose_tokens(LOGITS, SamplingConfig(), torch.full((2,), uniform).double())
        assert chosen.tolist() == [0, 2]


def test_the_ends_of_the_unit_interval_fall_on_possible_tokens():
    logits = torch.tensor([[-1e9, 0.0, 0.0, -1e9]])
    just_below_one = torch.nextafter(torch.tensor([1.0]).double(), torch.tensor([0.0]).double())
    sampling = SamplingConfig(temperature=1.0)
    assert choose_tokens(logits, sampling, torch.zeros(1).double()).tolist() == [1]
    assert choose_tokens(logits, sampling, just_below_one).tolist() == [2]
    assert choose_tokens(logits, sampling, torch.ones(1).double()).tolist() == [2]


def test_a_requests_draws_depend_on_its_seed_alone():
    assert uniforms_for(7, 3) == uniforms_for(7, 9)[:3]
    assert uniforms_for(7, 3) != uniforms_for(8, 3)
