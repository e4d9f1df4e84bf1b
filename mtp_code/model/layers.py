"""Layers of a pre-norm decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The arithmetic is Llama's (Touvron et al. 2023, arXiv 2302.13971), so that a trunk with its first
head is a Llama model.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from mtp_code.model.attention import Mask, flex
from mtp_code.model.cache import KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.rope import turns


@dataclass(frozen=True)
class Attending:
    """Where the tokens of one forward stand and what they may look at; shared by all layers.

    Args:
        cos_BTd, sin_BTd: rotary factors of the positions (leading axis 1 where rows agree).
        mask_BQT: True where a query may look; None is causal over exactly these tokens
            (without a cache), or everything (with one). Blocks are for whole rows only.
        chosen_B: the one token of each row whose output is wanted; the others only leave their
            keys and values. None is all tokens.
    """

    cos_BTd: Tensor
    sin_BTd: Tensor
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
    """One position of each row, its axis kept: (B, T, X) to (B, 1, X)."""
    if x_BTX.shape[0] == 1 and chosen_B.shape[0] > 1:
        x_BTX = x_BTX.expand(chosen_B.shape[0], -1, -1)
    return x_BTX[torch.arange(chosen_B.shape[0], device=x_BTX.device), chosen_B][:, None]


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated as in Llama."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        turns_d, factor = turns(config.head_width, config.rope_theta, config.rope_scaling)
        # A draft may reach past the context's end, where none of it is committed.
        num_positions = config.context + config.num_mtp_heads
        angles_Td = torch.arange(num_positions).double()[:, None] * turns_d
        for name, values_Td in (("cos_Td", angles_Td.cos()), ("sin_Td", angles_Td.sin())):
            table_Td = (factor * values_Td).float().repeat(1, 2)
            self.register_buffer(name, table_Td, persistent=False)

    def forward(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos_Td[positions_BT], self.sin_Td[positions_BT]  # type: ignore[index]


def rotate(x_BHTd: Tensor, cos_BTd: Tensor, sin_BTd: Tensor) -> Tensor:
    first, second = x_BHTd.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BHTd * cos_BTd[:, None].type_as(x_BHTd) + turned * sin_BTd[:, None].type_as(x_BHTd)


class Attention(nn.Module):
    """Grouped-query causal self-attention; query, key and value projections in one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attn_heads, config.kv_heads
        self.head_width = config.head_width
        self.widths = [n * self.head_width for n in (self.num_heads, *[self.num_kv_heads] * 2)]
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.qkv_bias)
        self.out = nn.Linear(self.widths[0], config.width, bias=False)
        self.q_norm: nn.RMSNorm | None = None
        self.k_norm: nn.RMSNorm | None = None
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_width, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(self.head_width, eps=config.norm_eps)

    def forward(self, x_BTD: Tensor, attending: Attending, layer: int) -> Tensor:
        cos, sin = attending.cos_BTd, attending.sin_BTd
        if attending.chosen_B is None:
            query, key, value = self._parts(self.qkv(x_BTD), self.widths)
            query_cos, query_sin = cos, sin
        else:
            chosen_B, q_width = attending.chosen_B, self.widths[0]
            weight, bias = self.qkv.weight, self.qkv.bias
            q_bias, kv_bias = (None, None) if bias is None else (bias[:q_width], bias[q_width:])
            query_B1D = F.linear(choose(x_BTD, chosen_B), weight[:q_width], q_bias)
            (query,) = self._parts(query_B1D, self.widths[:1])
            key, value = self._parts(F.linear(x_BTD, weight[q_width:], kv_bias), self.widths[1:])
            query_cos, query_sin = choose(cos, chosen_B), choose(sin, chosen_B)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = _normed(self.q_norm, query), _normed(self.k_norm, key)
        query = rotate(query, query_cos, query_sin)
        key = rotate(key, cos, sin)
        if attending.cache is not None and attending.span is not None:
            key, value = attending.cache.write(layer, attending.span, key, value)
        mask, is_grouped = attending.mask_BQT, self.num_heads != self.num_kv_heads
        if isinstance(mask, BlockMask):
            mixed_BHTd = flex(query, key, value, mask, is_grouped)
        else:
            mixed_BHTd = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=None if mask is None else mask[:, None],
                is_causal=mask is None and attending.cache is None,
                enable_gqa=is_grouped,
            )
        return self.out(mixed_BHTd.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _parts(self, x_BTX: Tensor, widths: list[int]) -> list[Tensor]:
        """Parts of a projection, each as (B, H, T, d)."""
        return [
            part.view(*part.shape[:2], -1, self.head_width).transpose(1, 2)
            for part in torch.split(x_BTX, widths, dim=-1)
        ]


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """In the norm's own type: under autocast products are in bf16 and norms are not."""
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
        self.attn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.ffn = FeedForward(config)

    def forward(self, hidden_BTD: Tensor, attending: Attending, layer: int) -> Tensor:
        mixed_BQD = self.attn(self.attn_norm(hidden_BTD), attending, layer)
        if attending.chosen_B is not None:
            hidden_BTD = choose(hidden_BTD, attending.chosen_B)
        hidden_BTD = hidden_BTD + mixed_BQD
        return hidden_BTD + self.ffn(self.ffn_norm(hidden_BTD))  # type: ignore[no-any-return]
