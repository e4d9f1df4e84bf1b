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


def choose_tokens(logits_BTV: Tensor, sampling: SamplingConfig, uniforms_BT: Tensor) -> Tensor:
    """One token for each position, (B, T); its draw in [0, 1) decides it by the inverse CDF."""
    if sampling.temperature == 0:
        return logits_BTV.argmax(dim=-1)
    probs_BTV = token_probs(logits_BTV, sampling)
    cumulative_BTV = probs_BTV.cumsum(dim=-1)
    threshold_BT1 = uniforms_BT[..., None] * cumulative_BTV[..., -1:]
    chosen_BT = torch.searchsorted(cumulative_BTV, threshold_BT1, right=True)[..., 0]
    # A draw that rounds up to the total would fall behind the last possible token.
    return torch.minimum(
        chosen_BT, probs_BTV.shape[-1] - 1 - (probs_BTV > 0).flip(-1).int().argmax(-1)
    )


def token_probs(logits_BTV: Tensor, sampling: SamplingConfig) -> Tensor:
    """The distribution that sampling draws from, in fp64; needs a temperature above 0.

    Top-p keeps the smallest set of most probable tokens that holds at least that probability
    (Holtzman et al. 2020, arXiv 1904.09751), after the temperature.
    """
    probs_BTV = torch.softmax(logits_BTV.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        sorted_BTV, order_BTV = probs_BTV.sort(dim=-1, descending=True)
        before_BTV = sorted_BTV.cumsum(dim=-1) - sorted_BTV
        kept_BTV = sorted_BTV.masked_fill(before_BTV >= sampling.top_p, 0)
        probs_BTV = torch.zeros_like(probs_BTV).scatter_(-1, order_BTV, kept_BTV)
    return probs_BTV / probs_BTV.sum(dim=-1, keepdim=True)
