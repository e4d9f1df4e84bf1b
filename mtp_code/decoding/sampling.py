"""Choosing a token from logits: greedy, or temperature and top-p with one uniform draw each."""

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from mtp_code.config import Strict


class SamplingConfig(Strict):
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)


def uniforms_for(seed: int, count: int) -> list[float]:
    """The draws of one request, fixed by its seed alone, whatever else is in its batch."""
    generator = torch.Generator().manual_seed(seed)
    draws: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return draws


def choose_tokens(logits_BV: Tensor, sampling: SamplingConfig, uniforms_B: Tensor) -> Tensor:
    """One token for each row; a row's uniform draw in [0, 1) decides it by the inverse CDF."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    probs_BV = token_probs(logits_BV, sampling)
    cumulative_BV = probs_BV.cumsum(dim=-1)
    threshold_B1 = uniforms_B[:, None] * cumulative_BV[:, -1:]
    chosen_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0]
    # A draw that rounds up to the total would fall behind the last possible token.
    return torch.minimum(
        chosen_B, probs_BV.shape[-1] - 1 - (probs_BV > 0).flip(-1).int().argmax(-1)
    )


def token_probs(logits_BV: Tensor, sampling: SamplingConfig) -> Tensor:
    """The distribution that sampling draws from, in fp64; needs a temperature above 0.

    Top-p keeps the smallest set of most probable tokens that holds at least that probability
    (Holtzman et al. 2020, arXiv 1904.09751), after the temperature.
    """
    probs_BV = torch.softmax(logits_BV.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        kept_BV = sorted_BV.masked_fill(before_BV >= sampling.top_p, 0)
        probs_BV = torch.zeros_like(probs_BV).scatter_(-1, order_BV, kept_BV)
    return probs_BV / probs_BV.sum(dim=-1, keepdim=True)
