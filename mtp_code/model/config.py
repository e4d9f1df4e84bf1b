"""What a model is made of."""

from typing import Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from mtp_code.config import Strict


class ModelConfig(Strict):
    """The shape of trunk, MTP heads and unembedding.

    `num_layers` counts the layers of trunk *and* heads: raising `num_mtp_heads` at equal
    `num_layers` moves layers from the trunk to the heads and keeps the number of parameters
    (the paper's comparison, section 3).
    """

    vocab_size: PositiveInt
    width: PositiveInt
    num_layers: PositiveInt
    num_attn_heads: PositiveInt
    num_kv_heads: PositiveInt | None = None
    """Key/value heads of grouped-query attention; None is one for each attention head."""
    attn_head_width: PositiveInt | None = None
    """None is width ÷ num_attn_heads."""
    ffn_width: PositiveInt
    num_mtp_heads: PositiveInt = 1
    context: PositiveInt
    """Longest sequence, in tokens."""
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.num_mtp_heads > self.num_layers:
            raise ValueError(
                f"num_mtp_heads = {self.num_mtp_heads} needs at least as many num_layers "
                f"(given {self.num_layers}): each head is one of them"
            )
        if self.attn_head_width is None and self.width % self.num_attn_heads:
            raise ValueError(
                f"width = {self.width} is no multiple of num_attn_heads = {self.num_attn_heads}; "
                "set attn_head_width, or a width that is"
            )
        if self.num_attn_heads % self.kv_heads:
            raise ValueError(
                f"num_attn_heads = {self.num_attn_heads} is no multiple of "
                f"num_kv_heads = {self.num_kv_heads}"
            )
        if self.head_width % 2:
            raise ValueError(
                f"attention heads are {self.head_width} wide; RoPE needs an even width"
            )
        return self

    @property
    def num_trunk_layers(self) -> int:
        return self.num_layers - self.num_mtp_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_attn_heads

    @property
    def head_width(self) -> int:
        return self.attn_head_width or self.width // self.num_attn_heads
