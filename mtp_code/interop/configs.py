"""Model shapes as transformers' configurations say them."""

import logging
from collections.abc import Mapping
from typing import Any, Final

import torch

from mtp_code.config import validate
from mtp_code.errors import InteropError
from mtp_code.model.config import ModelConfig
from mtp_code.model.rope import Llama3Scaling, RopeScaling, YarnScaling

LLAMA: Final = "LlamaForCausalLM"
QWEN3: Final = "Qwen3ForCausalLM"
SUPPORTED: Final = (LLAMA, "MistralForCausalLM", "Qwen2ForCausalLM", QWEN3)
"""What can be imported; SmolLM and DeepSeek-Coder are Llama models."""
_MODEL_TYPES: Final = {LLAMA: "llama", QWEN3: "qwen3"}

log = logging.getLogger(__name__)


def architecture_for(config: ModelConfig) -> str:
    """The plain transformers class that computes exactly this.

    Qwen2ForCausalLM has no part in it: `AutoTokenizer` reads the tokenizer of every such folder as
    Qwen2's own, whatever its files say.

    Raises:
        InteropError: none does.
    """
    if config.qkv_bias and config.qk_norm:
        raise InteropError(
            "model.qkv_bias with model.qk_norm: no plain class has both in transformers "
            "and vLLM alike; train with one of them to export"
        )
    architecture = QWEN3 if config.qk_norm else LLAMA
    if architecture == LLAMA and config.width % config.num_attn_heads:
        raise InteropError(
            f"model.width = {config.width} is no multiple of model.num_attn_heads = "
            f"{config.num_attn_heads}, which LlamaForCausalLM refuses; train with one that is"
        )
    return architecture


def to_foreign(config: ModelConfig, num_layers: int, dtype: torch.dtype) -> dict[str, Any]:
    """The content of a config.json for a model of so many of our layers; no token ids yet."""
    architecture = architecture_for(config)
    values = {
        "architectures": [architecture],
        "model_type": _MODEL_TYPES[architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": config.num_attn_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": config.qkv_bias,
        "dtype": str(dtype).removeprefix("torch."),
        "torch_dtype": str(dtype).removeprefix("torch."),
        **_rope(config),
    }
    if architecture == LLAMA:
        values["mlp_bias"] = False
    else:
        values |= {"use_sliding_window": False, "sliding_window": None}
    return values


def _rope(config: ModelConfig) -> dict[str, Any]:
    """In the words of transformers 5, and in those of 4, which would not notice the first."""
    scaling = _scaling(config.rope_scaling) if config.rope_scaling else None
    return {
        "rope_parameters": {
            "rope_theta": config.rope_theta,
            **(scaling or {"rope_type": "default"}),
        },
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
    }


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    match scaling:
        case Llama3Scaling():
            values |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
        case YarnScaling():
            values |= {
                "original_max_position_embeddings": scaling.original_context,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
            optional = ("attention_factor", "mscale", "mscale_all_dim")
            values |= {
                name: value for name in optional if (value := getattr(scaling, name)) is not None
            }
    return values


def check_architecture(architecture: str, where: str) -> None:
    """
    Raises:
        InteropError: it is none of ours.
    """
    if architecture not in SUPPORTED:
        raise InteropError(
            f"{where}: architecture {architecture} is not supported; supported: "
            f"{', '.join(SUPPORTED)} (code that comes with a model is never run)"
        )


def from_foreign(foreign: Mapping[str, Any], where: str) -> ModelConfig:
    """Our shape of trunk and head 1 for a configuration that transformers has read.

    The context ends where the architecture stops being ours: at a sliding window, and where
    rotary scaling begins to depend on the length of the text ("dynamic"). Up to there both are
    without effect. A warning says so.

    Args:
        foreign: with all defaults filled in.
        where: opens the message of an error.

    Raises:
        InteropError: the architecture, or something about it, is none of ours.
    """
    architecture = foreign["architectures"][0]
    check_architecture(architecture, where)
    if foreign.get("quantization_config"):
        method = foreign["quantization_config"].get("quant_method")
        raise InteropError(f"{where}: weights quantised by {method}; take the model they are from")
    if (act := foreign.get("hidden_act")) not in ("silu", "swish"):
        raise InteropError(f"{where}: hidden_act = {act} is not supported; supported: silu")
    rope = dict(foreign["rope_parameters"])
    scaling, context = _scaling_from(rope, foreign["max_position_embeddings"], where)
    window = foreign.get("sliding_window")
    if window is not None and foreign.get("use_sliding_window", True):
        context = min(context, window)
    if context < (told := foreign["max_position_embeddings"]):
        log.warning(
            "%s: the context of %d is cut to %d, behind which its sliding window or dynamic "
            "scaling would begin",
            where,
            told,
            context,
        )
    head_width, width = foreign.get("head_dim"), foreign["hidden_size"]
    is_usual = head_width == width / foreign["num_attention_heads"]
    return validate(
        ModelConfig,
        {
            "vocab_size": foreign["vocab_size"],
            "width": width,
            "num_layers": foreign["num_hidden_layers"],
            "num_attn_heads": foreign["num_attention_heads"],
            "num_kv_heads": foreign["num_key_value_heads"],
            "attn_head_width": None if is_usual else head_width,
            "ffn_width": foreign["intermediate_size"],
            "context": context,
            "rope_theta": rope["rope_theta"],
            "rope_scaling": scaling,
            "norm_eps": foreign["rms_norm_eps"],
            "qkv_bias": architecture == "Qwen2ForCausalLM" or foreign.get("attention_bias", False),
            "qk_norm": architecture == QWEN3,
            "tied_embeddings": foreign["tie_word_embeddings"],
        },
        where,
    )


def _scaling_from(
    rope: Mapping[str, Any], context: int, where: str
) -> tuple[dict[str, Any] | None, int]:
    """What ModelConfig.rope_scaling is validated from, and the context."""
    if rope.get("partial_rotary_factor", 1.0) != 1:
        raise InteropError(f"{where}: partial_rotary_factor is not supported; supported: 1")
    kind, original = rope.get("rope_type", "default"), rope.get("original_max_position_embeddings")
    if kind == "default":
        return None, context
    if kind == "dynamic":
        return None, min(context, original or context)
    names = {"factor": "factor"}
    match kind:
        case "linear":
            pass
        case "llama3":
            names |= {name: name for name in ("low_freq_factor", "high_freq_factor")}
        case "yarn":
            optional = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
            names |= {name: name for name in (*optional, "truncate")}
        case _:
            raise InteropError(
                f"{where}: rotary scaling {kind!r} is not supported; supported: default, linear, "
                "dynamic, llama3, yarn"
            )
    values = {ours: rope[name] for ours, name in names.items() if rope.get(name) is not None}
    if kind != "linear":
        values["original_context"] = original or context
    return {"kind": kind, **values}, context
