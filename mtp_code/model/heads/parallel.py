"""Heads side by side, and the same heads at once."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from mtp_code.model.attention import attend_cached
from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.base import LayerHeads
from mtp_code.model.layers import Attending, choose, normed, rotate


class ParallelHeads(LayerHeads):
    """n independent transformer layers over the trunk's hidden states.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2.
    """


class StackedHeads:
    """Several parallel heads that answer at once for one position of each row: for drafting.

    At a few tokens a forward, time goes into calls rather than arithmetic. The heads read the same
    hidden states, so their projections are one matrix; behind the attention they are one batched
    product. Weights are copied, the norms' folded into the matrices behind them, so this is not
    for training. Equal to the heads one by one, to rounding.
    """

    def __init__(self, heads: ParallelHeads, offsets: range, config: ModelConfig) -> None:
        self._config = config
        self._layers = slice(
            *(heads.first_layer + end - 1 for end in (offsets[0], offsets[-1] + 1))
        )
        blocks: list[Any] = [heads.layers[offset - 1] for offset in offsets]
        attns = [block.attn for block in blocks]
        q_width = config.num_attn_heads * config.head_width
        qkv_KOD = torch.stack([block.attn.qkv.weight * block.attn_norm.weight for block in blocks])
        query_bias = key_value_bias = None
        if config.qkv_bias:
            bias_KO = torch.stack([attn.qkv.bias for attn in attns])
            query_bias, key_value_bias = (
                bias_KO[:, :q_width].flatten(),
                bias_KO[:, q_width:].flatten(),
            )
        like = attns[0].qkv.weight
        self._query = _laid_out(qkv_KOD[:, :q_width].flatten(0, 1), like), query_bias
        self._key_value = _laid_out(qkv_KOD[:, q_width:].flatten(0, 1), like), key_value_bias
        if config.qk_norm:
            self._q_norm_Kd = torch.stack([attn.q_norm.weight for attn in attns])
            self._k_norm_Kd = torch.stack([attn.k_norm.weight for attn in attns])
        self._out_KOD = torch.stack([attn.out.weight.T for attn in attns])
        self._gate_up_KDF = torch.stack(
            [(block.ffn.gate_up.weight * block.ffn_norm.weight).T for block in blocks]
        )
        self._down_KFD = torch.stack([block.ffn.down.weight.T for block in blocks])

    def first(self, num_heads: int) -> "StackedHeads":
        """The first of these heads alone, over the same weights."""
        if num_heads == len(self._out_KOD):
            return self
        part, share = copy.copy(self), len(self._out_KOD)
        part._layers = slice(self._layers.start, self._layers.start + num_heads)
        (query, query_bias), (key_value, key_value_bias) = self._query, self._key_value
        part._query = (
            query[: len(query) // share * num_heads],
            None if query_bias is None else query_bias[: len(query_bias) // share * num_heads],
        )
        part._key_value = (
            key_value[: len(key_value) // share * num_heads],
            None
            if key_value_bias is None
            else key_value_bias[: len(key_value_bias) // share * num_heads],
        )
        if self._config.qk_norm:
            part._q_norm_Kd = self._q_norm_Kd[:num_heads]
            part._k_norm_Kd = self._k_norm_Kd[:num_heads]
        part._out_KOD = self._out_KOD[:num_heads]
        part._gate_up_KDF = self._gate_up_KDF[:num_heads]
        part._down_KFD = self._down_KFD[:num_heads]
        return part

    def __call__(self, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        """States of each head at the chosen position of each row, (K, B, D), before the norm."""
        chosen_B, cache, span = attending.chosen_B, attending.cache, attending.span
        assert chosen_B is not None
        assert cache is not None
        assert span is not None
        normed_BTD = self._normed(hidden_BTD)
        query = F.linear(choose(normed_BTD, chosen_B), *self._query)
        (query_KBTHd,) = self._parts(query, 1)
        key_KBTHd, value_KBTHd = self._parts(F.linear(normed_BTD, *self._key_value), 2)
        if self._config.qk_norm:
            query_KBTHd = self._normed(query_KBTHd) * self._q_norm_Kd[:, None, None, None]
            key_KBTHd = self._normed(key_KBTHd) * self._k_norm_Kd[:, None, None, None]
        cos, sin = attending.cos_BT1d, attending.sin_BT1d
        query_KBTHd = rotate(query_KBTHd, choose(cos, chosen_B), choose(sin, chosen_B))
        key_KBTHd = rotate(key_KBTHd, cos, sin)
        query_KBHTd, key_KBHTd, value_KBHTd = (
            x.transpose(2, 3) for x in (query_KBTHd, key_KBTHd, value_KBTHd)
        )
        keys, values = cache.write(self._layers, span, key_KBHTd, value_KBHTd)

        num_heads = len(self._out_KOD)
        mask = attending.mask_BQT
        assert not isinstance(mask, BlockMask)
        num_rows = keys.shape[1]
        if num_rows == 1 or keys.stride(0) == num_rows * keys.stride(1):
            mixed = attend_cached(
                query_KBHTd.flatten(0, 1),
                keys.flatten(0, 1),
                values.flatten(0, 1),
                None if mask is None else mask.repeat(num_heads, 1, 1),
            )
        else:
            # Of some of the cache's rows, to make one axis of two would copy all that they hold.
            by_head = zip(query_KBHTd, keys, values, strict=True)
            mixed = torch.cat([attend_cached(*one, mask) for one in by_head])
        mixed_KBO = mixed.flatten(1).unflatten(0, (num_heads, -1))  # type: ignore[no-untyped-call]
        states_KBD = choose(hidden_BTD, chosen_B)[:, 0] + mixed_KBO @ self._out_KOD
        gate, up = (self._normed(states_KBD) @ self._gate_up_KDF).chunk(2, dim=-1)
        return states_KBD + (F.silu(gate) * up) @ self._down_KFD  # type: ignore[no-any-return]

    def _normed(self, x: Tensor) -> Tensor:
        return normed(x, self._config.norm_eps)

    def _parts(self, x_BTX: Tensor, num_parts: int) -> tuple[Tensor, ...]:
        """A projection of all heads, cut into its parts, each (K, B, T, H, d)."""
        shape = (*x_BTX.shape[:2], len(self._out_KOD), num_parts, -1, self._config.head_width)
        return x_BTX.view(shape).permute(3, 2, 0, 1, 4, 5).unbind()


def _laid_out(matrix_OD: Tensor, like_OD: Tensor) -> Tensor:
    """The same matrix, stored by input where another is."""
    is_by_input = like_OD.stride(0) == 1
    return matrix_OD.t().contiguous().t() if is_by_input else matrix_OD
