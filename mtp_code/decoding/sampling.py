"""Choosing a token from logits: greedy, or temperature, top-k and top-p with one uniform draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.random import Philox
from torch import Tensor

from mtp_code.decoding.requests import SamplingConfig


@dataclass(frozen=True)
class RowSampling:
    """Sampling settings of the rows of a batch, each its own.

    `is_greedy` and `is_cut` are known on the host, so that a greedy batch draws nothing and one
    without top-k and top-p sorts nothing.
    """

    temperature_B: Tensor
    top_p_B: Tensor
    top_k_B: Tensor
    is_greedy: bool
    """Of all rows."""
    is_cut: bool
    """Of any row: by top-k or top-p."""

    @classmethod
    def of(
        cls, settings: Sequence[SamplingConfig], vocab_size: int, device: torch.device | str = "cpu"
    ) -> "RowSampling":
        return cls(
            torch.tensor([s.temperature for s in settings], dtype=torch.float64, device=device),
            torch.tensor([s.top_p for s in settings], dtype=torch.float64, device=device),
            torch.tensor([top_k_of(s, vocab_size) for s in settings], device=device),
            is_greedy=all(s.temperature == 0 for s in settings),
            is_cut=any(s.top_p < 1 or top_k_of(s, vocab_size) < vocab_size for s in settings),
        )


def top_k_of(sampling: SamplingConfig, vocab_size: int) -> int:
    """How many tokens may be drawn at most."""
    return min(sampling.top_k or vocab_size, vocab_size)


def uniforms_for(seed: int, count: int) -> list[float]:
    """The draws of one request in [0, 1), fixed by its seed alone, whatever else is in its batch.

    By Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), for which
    all 64 bits of a seed count: torch's generator for a CPU begins from 32 of them.
    """
    numbers = Philox(key=seed % 2**64).random_raw(count)
    draws: list[float] = ((numbers >> 11) * 2.0**-53).tolist()
    return draws


def choose_tokens(logits_BTV: Tensor, sampling: RowSampling, uniforms_BT: Tensor | None) -> Tensor:
    """One token for each position, (B, T); its draw in [0, 1) decides it by the inverse CDF.

    Args:
        uniforms_BT: may be None where all rows are greedy.
    """
    likeliest_BT = logits_BTV.argmax(dim=-1)
    if sampling.is_greedy:
        return likeliest_BT
    assert uniforms_BT is not None
    probs_BTV = token_probs(logits_BTV, sampling)
    cumulative_BTV = probs_BTV.cumsum(dim=-1)
    threshold_BT1 = uniforms_BT[..., None] * cumulative_BTV[..., -1:]
    chosen_BT = torch.searchsorted(cumulative_BTV, threshold_BT1, right=True)[..., 0]
    # A draw that rounds up to the total would fall behind the last possible token.
    drawn_BT = torch.minimum(
        chosen_BT, probs_BTV.shape[-1] - 1 - (probs_BTV > 0).flip(-1).int().argmax(-1)
    )
    return torch.where(sampling.temperature_B[:, None] > 0, drawn_BT, likeliest_BT)


def token_probs(logits_BTV: Tensor, sampling: RowSampling) -> Tensor:
    """The distribution that each row's sampling draws from, in fp64.

    In this order: temperature; the top-k most probable tokens (Fan et al. 2018, arXiv 1805.04833);
    of these, renormalised, the smallest set of most probable ones that holds at least the
    probability top-p (Holtzman et al. 2020, arXiv 1904.09751). Of equal tokens the first is kept.
    Rows at temperature 0 have some distribution that nobody draws from.
    """
    heat_B = torch.where(sampling.temperature_B > 0, sampling.temperature_B, 1.0)
    probs_BTV = torch.softmax(logits_BTV.double() / heat_B[:, None, None], dim=-1)
    if sampling.is_cut:
        top_p_B11, top_k_B11 = sampling.top_p_B[:, None, None], sampling.top_k_B[:, None, None]
        sorted_BTV, order_BTV = probs_BTV.sort(dim=-1, descending=True, stable=True)
        ranks_V = torch.arange(probs_BTV.shape[-1], device=probs_BTV.device)
        kept_BTV = sorted_BTV.masked_fill(ranks_V >= top_k_B11, 0)
        total_BT1 = kept_BTV.sum(dim=-1, keepdim=True)
        # Left as they are where nothing was cut: a total of 1 is one only to rounding.
        is_cut_B11 = top_k_B11 < probs_BTV.shape[-1]
        kept_BTV = torch.where(is_cut_B11, kept_BTV / total_BT1, kept_BTV)
        before_BTV = kept_BTV.cumsum(dim=-1) - kept_BTV
        kept_BTV = kept_BTV.masked_fill((before_BTV >= top_p_B11) & (top_p_B11 < 1), 0)
        probs_BTV = torch.zeros_like(probs_BTV).scatter_(-1, order_BTV, kept_BTV)
    return probs_BTV / probs_BTV.sum(dim=-1, keepdim=True)
