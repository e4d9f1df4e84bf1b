"""What our weights are called elsewhere: a matrix of ours is one or several of theirs, stacked."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel

Names = dict[str, tuple[str, ...]]
"""Their names by ours: the rows of ours are those of theirs, in this order."""


def names_of_layer(config: ModelConfig, ours: str, theirs: str) -> Names:
    """Of one transformer layer; both prefixes are without the dot."""
    projections = tuple(f"self_attn.{part}_proj" for part in "qkv")
    names = {
        "attn_norm.weight": ("input_layernorm.weight",),
        "attn.qkv.weight": tuple(f"{name}.weight" for name in projections),
        "attn.out.weight": ("self_attn.o_proj.weight",),
        "ffn_norm.weight": ("post_attention_layernorm.weight",),
        "ffn.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "ffn.down.weight": ("mlp.down_proj.weight",),
    }
    if config.qkv_bias:
        names["attn.qkv.bias"] = tuple(f"{name}.bias" for name in projections)
    if config.qk_norm:
        names |= {f"attn.{part}_norm.weight": (f"self_attn.{part}_norm.weight",) for part in "qk"}
    return {
        f"{ours}.{name}": tuple(f"{theirs}.{part}" for part in parts)
        for name, parts in names.items()
    }


def main_layers(config: ModelConfig) -> list[str]:
    """Our layers between a token and the logits of the next one, in order."""
    trunk = [f"trunk.layers.{number}" for number in range(config.num_trunk_layers)]
    match config.heads:
        case "linear" | "sequential":
            heads = []  # the trunk's states are head 1's
        case "anticausal":
            heads = [f"mtp_heads.layers.{k}" for k in reversed(range(config.num_mtp_heads))]
        case _:
            heads = ["mtp_heads.layers.0"]
    return trunk + heads


def names_of_main(config: ModelConfig) -> Names:
    """Of everything that predicts the next token."""
    names: Names = {
        "trunk.embedding.weight": ("model.embed_tokens.weight",),
        "norm.weight": ("model.norm.weight",),
    }
    for number, layer in enumerate(main_layers(config)):
        names |= names_of_layer(config, layer, f"model.layers.{number}")
    if not config.tied_embeddings:
        names["unembedding.weight"] = ("lm_head.weight",)
    return names


def names_of_later_heads(config: ModelConfig) -> Names:
    """Of parallel heads behind the first, and the norm behind all."""
    names: Names = {"norm.weight": ("model.norm.weight",)}
    for number in range(1, config.num_mtp_heads):
        names |= names_of_layer(config, f"mtp_heads.layers.{number}", f"model.layers.{number - 1}")
    return names


def to_theirs(
    config: ModelConfig, weights: Mapping[str, Tensor], names: Names
) -> dict[str, Tensor]:
    """The named ones of our weights, by their names, each with a storage of its own.

    Where theirs has biases of query, key and value, it has one behind the attention too: zeros.
    """
    theirs: dict[str, Tensor] = {}
    for ours, parts in names.items():
        heights = _heights(config, ours, len(parts), weights[ours].shape[0])
        rows = torch.split(weights[ours], heights)
        theirs |= {name: part.clone() for name, part in zip(parts, rows, strict=True)}
        if config.qkv_bias and ours.endswith("attn.out.weight"):
            theirs[parts[0].replace("weight", "bias")] = weights[ours].new_zeros(config.width)
    return theirs


def to_ours(weights: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Our weights from theirs, of which all that are named must be there."""
    return {
        ours: torch.cat([weights[name] for name in parts]) if len(parts) > 1 else weights[parts[0]]
        for ours, parts in names.items()
    }


def shapes(config: ModelConfig, names: Names) -> dict[str, torch.Size]:
    """Of the named weights, by their names."""
    with torch.device("meta"):
        ours = dict(MTPModel(config).named_parameters())
    return {
        name: torch.Size((height, *ours[own].shape[1:]))
        for own, parts in names.items()
        for name, height in zip(
            parts, _heights(config, own, len(parts), ours[own].shape[0]), strict=True
        )
    }


def _heights(config: ModelConfig, ours: str, num_parts: int, height: int) -> list[int]:
    if ".qkv." in ours:
        return [n * config.head_width for n in (config.num_attn_heads, *[config.kv_heads] * 2)]
    return [height // num_parts] * num_parts
