"""Model shapes as transformers' configurations say them."""

from typing import Any, Final

import torch

from mtp_code.errors import InteropError
from mtp_code.model.config import ModelConfig
from mtp_code.model.rope import Llama3Scaling, RopeScaling, YarnScaling

LLAMA: Final = "LlamaForCausalLM"
QWEN3: Final = "Qwen3ForCausalLM"
_MODEL_TYPES: Final = {LLAMA: "llama", QWEN3: "qwen3"}


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
