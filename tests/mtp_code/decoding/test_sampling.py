import pytest
import torch
from numpy.random import Generator, Philox
from scipy import special

from mtp_code.decoding.sampling import (
    RowSampling,
    SamplingConfig,
    choose_tokens,
    token_probs,
    uniforms_for,
)
from tests.reference import top_p_probs


def rows(count: int, sampling: SamplingConfig) -> RowSampling:
    return RowSampling.of([sampling] * count, vocab_size=6)


LOGITS = torch.tensor([[2.0, 1.0, 1.0, -1.0, 0.5, -30.0], [0.0, 0.0, 3.0, -2.0, 1.0, 1.0]])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_probs_are_those_of_the_slow_twin(temperature, top_p):
    sampling = SamplingConfig(temperature=temperature, top_p=top_p)
    expected = [top_p_probs(row, temperature, top_p) for row in LOGITS.tolist()]
    ours = token_probs(LOGITS[None], rows(1, sampling))[0]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("top_p", [0.7, 1.0])
def test_draws_follow_the_probs(top_p):
    sampling = SamplingConfig(temperature=0.8, top_p=top_p)
    count = 40_000
    uniforms = torch.tensor(uniforms_for(5, count), dtype=torch.float64)
    drawn = choose_tokens(LOGITS[None, :1].expand(1, count, -1), rows(1, sampling), uniforms[None])[
        0
    ]
    probs = token_probs(LOGITS[None, :1], rows(1, sampling))[0, 0]
    possible = probs > 1e-6
    counts = drawn.bincount(minlength=6)
    assert counts[~possible].sum() == 0
    expected = count * probs[possible]
    statistic = ((counts[possible] - expected) ** 2 / expected).sum().item()
    assert special.chdtrc(len(expected) - 1, statistic) > 1e-3


def test_temperature_zero_takes_the_likeliest_whatever_the_draw():
    for uniform in (0.0, 0.999):
        for settings in ([SamplingConfig()], [SamplingConfig(), SamplingConfig(temperature=2)]):
            sampling = RowSampling.of(settings, vocab_size=6)
            uniforms = torch.full((len(settings), 2), uniform).double()
            chosen = choose_tokens(LOGITS.expand(len(settings), -1, -1), sampling, uniforms)
            assert chosen[0].tolist() == [0, 2]


def test_the_ends_of_the_unit_interval_fall_on_possible_tokens():
    logits = torch.tensor([[-1e9, 0.0, 0.0, -1e9]])
    just_below_one = torch.nextafter(torch.tensor([1.0]).double(), torch.tensor([0.0]).double())
    sampling = rows(1, SamplingConfig(temperature=1.0))
    for uniform, token in ((torch.zeros(1), 1), (just_below_one, 2), (torch.ones(1), 2)):
        assert choose_tokens(logits[None], sampling, uniform[None].double()).tolist() == [[token]]


def test_top_k_keeps_the_most_probable_tokens_before_top_p():
    sampling = SamplingConfig(temperature=0.7, top_k=3, top_p=0.8)
    probs = token_probs(LOGITS[None], rows(1, sampling))[0]
    for row, found in zip(LOGITS.tolist(), probs, strict=True):
        order = sorted(range(6), key=lambda i: -row[i])[:3]  # stable: the first of equal ones
        expected = [0.0] * 6
        for i, prob in zip(order, top_p_probs([row[i] for i in order], 0.7, 0.8), strict=True):
            expected[i] = prob
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_each_row_has_its_own_settings():
    settings = [
        SamplingConfig(temperature=0.5),
        SamplingConfig(temperature=2, top_p=0.6),
        SamplingConfig(),
        SamplingConfig(temperature=1, top_k=2),
    ]
    uniforms = torch.tensor(uniforms_for(3, 8)).view(4, 2)
    together = choose_tokens(
        LOGITS.expand(4, -1, -1), RowSampling.of(settings, vocab_size=6), uniforms
    )
    for row, sampling in enumerate(settings):
        alone = choose_tokens(LOGITS[None], rows(1, sampling), uniforms[row : row + 1])
        assert together[row].tolist() == alone[0].tolist()


def test_a_requests_draws_depend_on_its_seed_alone():
    assert uniforms_for(7, 3) == uniforms_for(7, 9)[:3]
    assert uniforms_for(7, 3) != uniforms_for(8, 3)
    assert uniforms_for(7, 3) != uniforms_for(7 + 2**32, 3), "all 64 bits count"
    assert uniforms_for(-1, 3) == uniforms_for(2**64 - 1, 3)
    assert uniforms_for(7, 3) == Generator(Philox(key=7)).random(3).tolist()
