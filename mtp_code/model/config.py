"""What a model is made of."""

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from mtp_code.config import Strict
from mtp_code.model.rope import RopeScaling

HeadsKind = Literal["parallel", "causal", "anticausal", "linear", "sequential"]


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
    heads: HeadsKind = "parallel"
    """`parallel`: a layer each, side by side on the trunk. `causal` and `anticausal`: a layer
    each, on top of the one of the offset before, or behind. `sequential`: a layer for each offset
    but the first, which also reads the tokens in between. `linear`: one matrix for each offset but
    the first."""
    replicated_unembeddings: bool = False
    """An unembedding for each offset instead of one for all: for small vocabularies, such as bytes
    (Gloeckle et al. 2024, arXiv 2404.19737, appendix on alternative architectures)."""
    token_order_unembedding: bool = False
    """One more unembedding, which `training.objective.token_order` trains and decoding ignores."""
    context: PositiveInt
    """Longest sequence, in tokens."""
    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: RopeScaling | None = None
    """How rotary positions are stretched for a context longer than the first one trained on."""
    norm_eps: PositiveFloat = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.num_head_layers > self.num_layers:
            raise ValueError(
                f"num_mtp_heads = {self.num_mtp_heads} needs at least as many num_layers as "
                f"{self.heads} heads take of them, {self.num_head_layers} (given {self.num_layers})"
            )
        if self.heads == "sequential" and self.num_trunk_layers == 0:
            raise ValueError(
                f"num_layers = {self.num_layers} leaves no layer for the trunk, whose states are "
                f"those of offset 1 with sequential heads; set at least {self.num_mtp_heads}"
            )
        if self.tied_embeddings and self.replicated_unembeddings:
            raise ValueError(
                "tied_embeddings ties one unembedding, replicated_unembeddings makes one for each "
                "offset; set one of them"
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
    def num_head_layers(self) -> int:
        """Transformer layers that are heads."""
        match self.heads:
            case "linear":
                return 0
            case "sequential":
                return self.num_mtp_heads - 1
            case _:
                return self.num_mtp_heads

    @property
    def num_trunk_layers(self) -> int:
        return self.num_layers - self.num_head_layers

    @property
    def num_path_layers(self) -> int:
        """Transformer layers on the longest way from a token to logits."""
        return self.num_trunk_layers + (1 if self.heads == "parallel" else self.num_head_layers)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_attn_heads

    @property
    def head_width(self) -> int:
        return self.attn_head_width or self.width // self.num_attn_heads
