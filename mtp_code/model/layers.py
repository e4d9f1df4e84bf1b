"""Layers of a pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The arithmetic is Llama's (Touvron et al. 2023, arXiv 2302.13971), so that a trunk with its first
head is a Llama model.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from mtp_code.model.attention import Mask, attend_cached, flex
from mtp_code.model.cache import KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.rope import turns


@dataclass(frozen=True)
class Attending:
    """Where the tokens of one forward stand and what they may look at; shared by all layers.

    Args:
        cos_BT1d, sin_BT1d: rotary factors of the positions (leading axis 1 where rows agree), for
            all attention heads.
        mask_BQT: where a query may look: True, or with a cache 0 rather than −∞. None is causal
            over exactly these tokens (without a cache), or everything (with one). Blocks are for
            whole rows only.
        chosen_B: the one token of each row whose output is wanted; the others only leave their
            keys and values. None is all tokens.
    """

    cos_BT1d: Tensor
    sin_BT1d: Tensor
    mask_BQT: Mask | None
    cache: KeyValueCache | None = None
    span: Span | None = None
    chosen_B: Tensor | None = None

    def only(self, chosen_B: Tensor) -> "Attending":
        """The same tokens, but answering for one of each row."""
        mask = self.mask_BQT
        assert not isinstance(mask, BlockMask)
        return replace(
            self, chosen_B=chosen_B, mask_BQT=None if mask is None else choose(mask, chosen_B)
        )


def choose(x_BTX: Tensor, chosen_B: Tensor) -> Tensor:
    """One position of each row, its axis kept: (B, T, …) to (B, 1, …)."""
    num_rows = chosen_B.shape[0]
    if x_BTX.shape[0] == 1 and num_rows > 1:
        x_BTX = x_BTX.expand(num_rows, *x_BTX.shape[1:])
    return x_BTX[torch.arange(num_rows, device=x_BTX.device), chosen_B][:, None]


def normed(x: Tensor, eps: float) -> Tensor:
    """x ÷ its root mean square along the last axis.

    On a CPU torch has no kernel of its own for that, but a dozen small ones: where it may, this
    takes half the calls, and is equal to rounding.

    Source: RMSNorm, Zhang and Sennrich 2019, arXiv 1910.07467, without its gain.
    """
    return _in_few_calls(x, eps) if _takes_few_calls(x) else F.rms_norm(x, x.shape[-1:], eps=eps)


def _in_few_calls(x: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    mean_square = torch.addcmul(_constant(eps), length, length, value=1 / x.shape[-1])
    return x * mean_square.rsqrt_()


class RMSNorm(nn.RMSNorm):
    """torch's, by way of `normed` where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        if not _takes_few_calls(x):
            return super().forward(x)
        assert self.eps is not None
        return _in_few_calls(x, self.eps) * self.weight


def _takes_few_calls(x: Tensor) -> bool:
    """On a CPU in fp32, where no gradient is recorded, nothing is compiled, no tensor is fake."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and type(x) is Tensor
        and not torch.compiler.is_compiling()
    )


@cache
def _constant(value: float) -> Tensor:
    return torch.tensor(value)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated as in Llama."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        turns_d, factor = turns(config.head_width, config.rope_theta, config.rope_scaling)
        # A draft may reach past the context's end, where none of it is committed.
        num_positions = config.context + config.num_mtp_heads
        angles_Td = torch.arange(num_positions).double()[:, None] * turns_d
        cos_Td, sin_Td = ((factor * one).float() for one in (angles_Td.cos(), angles_Td.sin()))
        self.register_buffer("cos_T1d", torch.cat((cos_Td, cos_Td), -1)[:, None], persistent=False)
        self.register_buffer("sin_T1d", torch.cat((-sin_Td, sin_Td), -1)[:, None], persistent=False)

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The factors for `rotate`, (B, T, 1, d) each."""
        return self.cos_T1d[positions_BT], self.sin_T1d[positions_BT]  # type: ignore[index]

    def in_a_row(self, start: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The same for positions in a row, (1, T, 1, d): views, which take no look-up."""
        row = slice(start, start + num_tokens)
        return self.cos_T1d[None, row], self.sin_T1d[None, row]  # type: ignore[index]


def rotate(x_BTHd: Tensor, cos_BT1d: Tensor, sin_BT1d: Tensor) -> Tensor:
    first, second = x_BTHd.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    return torch.addcmul(x_BTHd * cos_BT1d.type_as(x_BTHd), swapped, sin_BT1d.type_as(x_BTHd))


class Attention(nn.Module):
    """Grouped-query causal self-attention; query, key and value projections in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attn_heads, config.kv_heads
        self.head_width = config.head_width
        self.query_width = self.num_heads * self.head_width
        num_all = self.num_heads + 2 * self.num_kv_heads
        self.qkv = nn.Linear(config.width, num_all * self.head_width, bias=config.qkv_bias)
        self.out = nn.Linear(self.query_width, config.width, bias=False)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_width, eps=config.norm_eps)
            self.k_norm = RMSNorm(self.head_width, eps=config.norm_eps)

    def forward(self, x_BTD: Tensor, attending: Attending, layer: int) -> Tensor:
        if attending.chosen_B is None:
            query_BTHd, key_BTHd, value_BTHd = self._project(x_BTD, attending)
        else:
            query_BTHd, key_BTHd, value_BTHd = self._project_chosen(
                x_BTD, attending, attending.chosen_B
            )
        query, key, value = (x.transpose(1, 2) for x in (query_BTHd, key_BTHd, value_BTHd))
        if attending.cache is not None and attending.span is not None:
            key, value = attending.cache.write(layer, attending.span, key, value)
        mask, is_grouped = attending.mask_BQT, self.num_heads != self.num_kv_heads
        if isinstance(mask, BlockMask):
            mixed_BHTd = flex(query, key, value, mask, is_grouped)
        elif attending.cache is not None:
            mixed_BHTd = attend_cached(query, key, value, mask)
        else:
            mixed_BHTd = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if mask is None else mask[:, None],
                is_causal=mask is None,
                enable_gqa=is_grouped,
            )
        return self.out(mixed_BHTd.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _project(self, x_BTD: Tensor, attending: Attending) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all tokens."""
        num_q, num_kv = self.num_heads, self.num_kv_heads
        cos, sin = attending.cos_BT1d, attending.sin_BT1d
        x_BTHd = self._by_head(self.qkv(x_BTD))
        if self.q_norm is not None and not _takes_few_calls(x_BTHd):
            query, key, value = torch.split_with_sizes(x_BTHd, (num_q, num_kv, num_kv), 2)
            query, key = _normed_by(self.q_norm, query), _normed_by(self.k_norm, key)
            return rotate(query, cos, sin), rotate(key, cos, sin), value
        # Queries and keys at once: with few tokens a call costs more than its arithmetic.
        both, value = torch.split_with_sizes(x_BTHd, (num_q + num_kv, num_kv), 2)
        if self.q_norm is not None and self.k_norm is not None:
            assert self.q_norm.eps is not None
            gains = (self.q_norm.weight.expand(num_q, -1), self.k_norm.weight.expand(num_kv, -1))
            both = _in_few_calls(both, self.q_norm.eps) * torch.cat(gains)
        query, key = torch.split_with_sizes(rotate(both, cos, sin), (num_q, num_kv), 2)
        return query, key, value

    def _project_chosen(
        self, x_BTD: Tensor, attending: Attending, chosen_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The query of one token of each row, keys and values of all."""
        cos, sin, width = attending.cos_BT1d, attending.sin_BT1d, self.query_width
        weight, bias = self.qkv.weight, self.qkv.bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
        query = self._by_head(F.linear(choose(x_BTD, chosen_B), weight[:width], q_bias))
        key, value = self._by_head(F.linear(x_BTD, weight[width:], kv_bias)).chunk(2, dim=2)
        query, key = _normed_by(self.q_norm, query), _normed_by(self.k_norm, key)
        query = rotate(query, choose(cos, chosen_B), choose(sin, chosen_B))
        return query, rotate(key, cos, sin), value

    def _by_head(self, x_BTX: Tensor) -> Tensor:
        return x_BTX.view(*x_BTX.shape[:2], -1, self.head_width)


def _normed_by(norm: RMSNorm | None, x: Tensor) -> Tensor:
    """In the norm's own type: under autocast products are in bf16 and norms are not."""
    if norm is None:
        return x
    return norm(x.type_as(norm.weight)).type_as(x)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), gate and up projection in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate, up = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One transformer layer: attention and feed-forward, each behind its norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, hidden_BTD: Tensor, attending: Attending, layer: int) -> Tensor:
        mixed_BQD = self.attn(self.attn_norm(hidden_BTD), attending, layer)
        if attending.chosen_B is not None:
            hidden_BTD = choose(hidden_BTD, attending.chosen_B)
        hidden_BTD = hidden_BTD + mixed_BQD
        return hidden_BTD + self.ffn(self.ffn_norm(hidden_BTD))  # type: ignore[no-any-return]
