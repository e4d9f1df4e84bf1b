"""Everything that decoding carries from step to step, in tensors that never move."""

import copy
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from mtp_code.decoding.requests import Request
from mtp_code.decoding.sampling import RowSampling, uniforms_for
from mtp_code.model.cache import Branches, KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, Reading


class DecodeState:
    """Rows of a batch: tokens, keys and values, the trunk's states, and how to sample.

    A row whose cache holds `length` tokens has one token more, its newest, which the next forward
    reads. Whatever is written behind that is stale until it is counted.

    Attributes:
        tokens_BC: by position.
        hidden_BCD: the trunk's states by position, which heads that were not asked for a while
            read once they are; None for plain decoding.
        uniforms_BC: the draw that decides the token at each position.
        limits_B: tokens that the cache of a row holds at most; it does not advance beyond. A row
            that is there already idles in rounds: what they write is behind its length.
    """

    def __init__(self, model: MTPModel, num_rows: int, num_spare: int, max_drafts: int) -> None:
        """
        Args:
            num_spare: slots behind the context, for drafts that reach over it and for positions
                before a row's first.
        """
        weight = model.unembedding.weight
        capacity, device = _capacity(model.config, num_spare), weight.device
        self.cache = KeyValueCache(model.config, num_rows, capacity, weight.dtype, device)
        self.tokens_BC = torch.zeros((num_rows, capacity), dtype=torch.long, device=device)
        self.uniforms_BC = torch.zeros((num_rows, capacity), dtype=torch.float64, device=device)
        self.limits_B = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.temperature_B = torch.zeros(num_rows, dtype=torch.float64, device=device)
        self.top_p_B = torch.ones(num_rows, dtype=torch.float64, device=device)
        self.top_k_B = torch.ones(num_rows, dtype=torch.long, device=device)
        self.hidden_BCD: Tensor | None = None
        if max_drafts:
            shape = (num_rows, capacity, model.config.width)
            self.hidden_BCD = torch.zeros(shape, dtype=weight.dtype, device=device)
        self._vocab_size = model.config.vocab_size
        self._views: dict[tuple[int, int], DecodeState] = {}

    @property
    def num_rows(self) -> int:
        return self.tokens_BC.shape[0]

    def rows(self, first: int, end: int) -> "DecodeState":
        """Some rows as a state of their own over the same storage."""
        rows = slice(first, end)
        if (view := self._views.get((first, end))) is None:
            view = self._views[first, end] = copy.copy(self)
            view._views = {}  # or they would keep each other, and the rows' memory, alive
            view.cache = self.cache.rows(rows)
            for name in _BY_ROW:
                if (tensor := getattr(self, name)) is not None:
                    setattr(view, name, tensor[rows])
        return view

    def clear(self) -> None:
        """Nothing is read of what the rows will be given; in rounds they idle."""
        self.cache.lengths_B.zero_()
        self.limits_B.zero_()

    def read(self, counts: Sequence[int]) -> None:
        """Counts tokens of prompts that were read, row by row; the rows still idle."""
        counts_B = torch.tensor(counts, device=self.limits_B.device)
        self.cache.commit(counts_B)
        self.limits_B += counts_B

    def begin(
        self, texts_BT: Tensor, requests: Sequence[Request], max_new_tokens: Sequence[int]
    ) -> None:
        """Has all rows take part in rounds; their texts are read but for the last tokens.

        Args:
            texts_BT: prompts, and what is there of the answers; filled up to the longest.
            max_new_tokens: of the whole answers.
        """
        device, vocab_size = self.tokens_BC.device, self._vocab_size
        lengths = [len(request.prompt) for request in requests]
        settings = RowSampling.of([request.sampling for request in requests], vocab_size, device)
        self.tokens_BC[:, : texts_BT.shape[1]] = texts_BT.to(device)
        limits = [length + most - 1 for length, most in zip(lengths, max_new_tokens, strict=True)]
        self.limits_B.copy_(torch.tensor(limits, device=device))
        self.temperature_B.copy_(settings.temperature_B)
        self.top_p_B.copy_(settings.top_p_B)
        self.top_k_B.copy_(settings.top_k_B)
        for row, (request, most) in enumerate(zip(requests, max_new_tokens, strict=True)):
            if request.sampling.temperature > 0:
                draws = torch.tensor(uniforms_for(request.seed, most), dtype=torch.float64)
                self.uniforms_BC[row, lengths[row] : lengths[row] + most] = draws

    def roll_back(self, lengths: Sequence[int]) -> None:
        """To what rows held before rounds that came to nothing: those write behind it alone, but
        for what heads read again."""
        device = self.cache.lengths_B.device
        self.cache.lengths_B.copy_(torch.tensor(lengths, device=device))

    def move(self, source: int, target: int, length: int) -> None:
        """Makes one row another's copy, whose cache holds `length` tokens."""
        self.cache.move(source, target, length)
        for name in _BY_ROW:
            if (tensor := getattr(self, name)) is not None:
                tensor[target] = tensor[source]

    def sampling(self, is_greedy: bool, is_cut: bool) -> RowSampling:
        return RowSampling(self.temperature_B, self.top_p_B, self.top_k_B, is_greedy, is_cut)

    def span(
        self,
        first: int,
        num_tokens: int,
        end: int,
        start: int | None,
        branches: Branches | None = None,
    ) -> Span:
        """Slots from `first` behind each row's length on (before it if negative).

        Args:
            start: every row's length, where they agree.
        """
        device = self.tokens_BC.device
        if start is not None and start + first >= 0:
            positions_T = torch.arange(start + first, start + first + num_tokens, device=device)
            return Span(positions_T[None], start + first, end, branches)
        steps_T = torch.arange(first, first + num_tokens, device=device)
        return Span(self.cache.lengths_B[:, None] + steps_T, None, end, branches)

    def read_again(self, model: MTPModel, span: Span, num_ahead: int) -> Reading:
        """What the trunk said at positions up to each row's last in the cache.

        Args:
            num_ahead: places for tokens behind the row's newest, which it leaves open.
        """
        assert self.hidden_BCD is not None
        attending = model.trunk.attend_span(self.cache, span)
        if span.start is not None:
            window = slice(span.start, span.start + span.positions_BT.shape[1])
            hidden_BTD = self.hidden_BCD[:, window]
            line_BS = self.tokens_BC[:, span.start : window.stop + 1 + num_ahead].clone()
        else:
            hidden_BTD = self.hidden_BCD[self.cache.rows_B1, span.positions_BT]
            steps = torch.arange(1, num_ahead + 2, device=self.tokens_BC.device)
            ahead_BS = span.positions_BT[:, -1:] + steps
            line_BS = self.tokens_BC[
                self.cache.rows_B1, torch.cat((span.positions_BT, ahead_BS), dim=1)
            ]
        return Reading(model, line_BS, hidden_BTD, attending)

    def newest(self, start: int | None) -> Tensor:
        """Each row's newest token, (B, 1), perhaps as a view.

        Args:
            start: every row's length, where they agree.
        """
        if start is not None:
            return self.tokens_BC[:, start : start + 1]
        return self.tokens_BC.gather(1, self.cache.lengths_B[:, None])

    def commit(self, targets_BT: Tensor, accepted_B: Tensor, start: int | None) -> None:
        """Writes a round's tokens, and counts those that stand and one more, up to the limits.

        What lies behind is rolled back with that.
        """
        lengths_B, num_targets = self.cache.lengths_B, targets_BT.shape[1]
        if start is not None:
            self.tokens_BC[:, start + 1 : start + 1 + num_targets] = targets_BT
        else:
            steps_T = torch.arange(1, num_targets + 1, device=lengths_B.device)
            self.tokens_BC.scatter_(1, lengths_B[:, None] + steps_T, targets_BT)
        lengths_B.add_(torch.minimum(accepted_B + 1, self.limits_B - lengths_B))

    def keep(self, span: Span, hidden_BTD: Tensor) -> None:
        """Keeps the trunk's states at a span's positions."""
        if self.hidden_BCD is not None:
            if span.start is not None:
                self.hidden_BCD[:, span.start : span.start + hidden_BTD.shape[1]] = hidden_BTD
            else:
                self.hidden_BCD[self.cache.rows_B1, span.positions_BT] = hidden_BTD


_ALIGNED: Final = 64
_BY_ROW: Final = (
    "tokens_BC",
    "uniforms_BC",
    "limits_B",
    "temperature_B",
    "top_p_B",
    "top_k_B",
    "hidden_BCD",
)


def _capacity(config: ModelConfig, num_spare: int) -> int:
    """Slots of a row. Attention's kernels for CUDA want masks whose rows are as aligned: of others
    every layer would make a padded copy."""
    return _ALIGNED * math.ceil((config.context + num_spare) / _ALIGNED)


def row_bytes(config: ModelConfig, num_spare: int, max_drafts: int, bytes_each: int) -> int:
    """Memory that a row takes: keys, values, states, tokens and draws."""
    capacity = _capacity(config, num_spare)
    per_token = 2 * config.num_layers * config.kv_heads * config.head_width * bytes_each
    if max_drafts:
        per_token += config.width * bytes_each
    return capacity * (per_token + 8 + 8)
