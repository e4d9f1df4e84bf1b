"""What a model costs: parameters by part, and the arithmetic of a training step.

A multiplication and the addition behind it are two FLOPs. Only matrix products count: norms,
rotations, activation functions and the softmax are left out.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache

import torch

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads import build_heads
from mtp_code.model.mtp import MTPModel


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; `norms` are all norms', and the other parts are without theirs."""

    trunk: int
    heads: int
    embedding: int
    unembedding: int
    """All unembeddings; 0 if the one is the embedding."""
    norms: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Flops:
    """FLOPs of training on one token: forward, and backward by weights and inputs.

    The least that the gradients cost: forwards that run twice to save memory count once.
    """

    trunk: float
    """Matrices of the trunk's layers."""
    heads: float
    """Matrices of the heads."""
    attention: float
    """Scores, and values mixed by them, of trunk and heads."""
    unembedding: float
    """Logits of all offsets."""

    @property
    def total(self) -> float:
        return self.trunk + self.heads + self.attention + self.unembedding


def count_parameters(config: ModelConfig) -> Parameters:
    """Of a model of that shape, which is not allocated."""
    with torch.device("meta"):
        model = MTPModel(config)
    sums = {"trunk": 0, "heads": 0, "embedding": 0, "unembedding": 0, "norms": 0}
    for name, parameter in model.named_parameters():  # a tied one comes once, as the embedding
        sums[_part(name)] += parameter.numel()
    return Parameters(**sums)


def _part(name: str) -> str:
    if "norm." in name:
        return "norms"
    if "unembedding" in name:
        return "unembedding"
    if name.startswith("trunk.embedding"):
        return "embedding"
    return "trunk" if name.startswith("trunk.") else "heads"


@cache
def flops_per_token(
    config: ModelConfig,
    row_tokens: int,
    num_active: int | None = None,
    distilled: bool = False,
    is_causal: bool = True,
) -> Flops:
    """
    Forward, for each token, with D the width, V the vocabulary, T a row's tokens, Q and K the
    widths of all queries and of all keys, F the feed-forward's:

    - a layer's matrices (D, Q + 2K), (Q, D), (D, 2F) and (F, D): twice their elements
    - a layer's attention: 2·Q for each score and 2·Q for its value, over (T + 1) / 2 positions
      on average, as a token sees those before it and itself
    - a linear head (D, D), a sequential module's projection (2D, D): twice their elements
    - logits of an offset, and of the token order: 2·D·V

    Backward is twice that.

    Args:
        row_tokens: T.
        num_active: offsets that are trained, from 1 on; None is all.
        distilled: later heads also learn from head 1: its logits again for each of them, without
            a backward, and their own with one.
        is_causal: False counts all T positions for each token.
    """
    active = range(1, (num_active or config.num_mtp_heads) + 1)
    with torch.device("meta"):
        running = build_heads(config).backward_order(active)
    layers_in_heads = sum(_layers_of_head(config, offset) for offset in running)
    layer, attention = _layer(config), _attention(config, row_tokens, is_causal)
    logits = 2 * config.width * config.vocab_size
    num_losses = len(active) + config.token_order_unembedding
    num_logits = 3 * num_losses
    if distilled:
        num_logits += (1 + 3) * (len(active) - 1)
    return Flops(
        trunk=3 * layer * config.num_trunk_layers,
        heads=3 * (layer * layers_in_heads + _projections(config, running)),
        attention=3 * attention * (config.num_trunk_layers + layers_in_heads),
        unembedding=logits * num_logits,
    )


def recomputed_flops_per_token(
    config: ModelConfig,
    row_tokens: int,
    num_active: int | None = None,
    is_causal: bool = True,
    recomputes_trunk: bool = False,
) -> float:
    """FLOPs of forwards that run twice: heads that other heads read, and the trunk's layers where
    only their inputs are kept (`training.activation_checkpointing`).

    With those of `flops_per_token` they are what a machine does; alone they give no gradient.
    """
    active = range(1, (num_active or config.num_mtp_heads) + 1)
    with torch.device("meta"):
        heads = build_heads(config)
    running = heads.backward_order(active)
    again = {heads.reads(offset) for offset in running} & set(running)
    layers = sum(_layers_of_head(config, offset) for offset in again)
    layer = _layer(config) + _attention(config, row_tokens, is_causal)
    flops = layers * layer + _projections(config, again)
    if recomputes_trunk:
        # The last product of a layer is not run again: no gradient needs what comes of it.
        flops += config.num_trunk_layers * (layer - 2 * config.ffn_width * config.width)
    return flops


def elements_read(config: ModelConfig, num_drafts: int, num_cached: float) -> float:
    """Elements that a round of decoding reads from memory: matrices, and keys and values.

    The heads of offsets 2 … k + 1 draft; trunk and head 1 verify. An unembedding counts for drafts
    and for verifying, since nothing keeps it in between. Norms, and the embedding's few rows, are
    left out.

    Args:
        num_drafts: k.
        num_cached: tokens whose keys and values are looked at, all rows' together.
    """
    with torch.device("meta"):
        heads = build_heads(config)
    running = [*heads.backward_order([1]), *heads.backward_order(range(2, num_drafts + 2))]
    num_layers = config.num_trunk_layers + sum(_layers_of_head(config, one) for one in running)
    num_unembeddings = 1 + (num_drafts if config.replicated_unembeddings else num_drafts > 0)
    return (
        (num_layers * _layer(config) + _projections(config, running)) / 2
        + num_unembeddings * config.width * config.vocab_size
        + num_layers * 2 * config.kv_heads * config.head_width * num_cached
    )


def next_token_twin(config: ModelConfig) -> ModelConfig:
    """The plain next-token model with as many layers."""
    plain = {
        "num_mtp_heads": 1,
        "heads": "parallel",
        "replicated_unembeddings": False,
        "token_order_unembedding": False,
    }
    return config.model_copy(update=plain)


def flops_ratio(
    config: ModelConfig, row_tokens: int, num_active: int | None = None, distilled: bool = False
) -> float:
    """FLOPs of a token ÷ those of the next-token twin.

    A next-token model that trains for so much longer is matched in FLOPs; a step that takes more
    than so much longer than the twin's pays for something else than arithmetic.
    """
    own = flops_per_token(config, row_tokens, num_active, distilled)
    return own.total / flops_per_token(next_token_twin(config), row_tokens).total


def model_flops_utilization(
    tokens_per_s: float, flops: Flops, peak_flops_per_s: float | None
) -> float | None:
    """MFU: the share of a machine's peak that was arithmetic the gradients need, in 0..1.

    None where nobody knows the peak.

    Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, appendix B.
    """
    return None if peak_flops_per_s is None else tokens_per_s * flops.total / peak_flops_per_s


def _layers_of_head(config: ModelConfig, offset: int) -> int:
    match config.heads:
        case "linear":
            return 0
        case "sequential":
            return int(offset > 1)
        case _:
            return 1


def _projections(config: ModelConfig, offsets: Iterable[int]) -> int:
    """Forward FLOPs of what heads have beside layers."""
    inputs = {"linear": config.width, "sequential": 2 * config.width}.get(config.heads, 0)
    return sum(2 * inputs * config.width for offset in offsets if offset > 1)


def _layer(config: ModelConfig) -> int:
    """Forward FLOPs of a layer's matrices."""
    queries, keys = (n * config.head_width for n in (config.num_attn_heads, config.kv_heads))
    elements = (queries + 2 * keys) + queries + 3 * config.ffn_width
    return 2 * config.width * elements


def _attention(config: ModelConfig, row_tokens: int, is_causal: bool) -> float:
    """Forward FLOPs of a layer's attention."""
    num_seen = (row_tokens + 1) / 2 if is_causal else row_tokens
    return 2 * 2 * config.num_attn_heads * config.head_width * num_seen
