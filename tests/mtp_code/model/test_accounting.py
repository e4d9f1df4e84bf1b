from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtp_code.model.accounting import (
    count_parameters,
    elements_read,
    flops_per_token,
    flops_ratio,
    model_flops_utilization,
    next_token_twin,
    recomputed_flops_per_token,
)
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import build_model
from mtp_code.training.config import ObjectiveConfig
from mtp_code.training.objective import backward_by_head, count_labels

HEADS = ("parallel", "causal", "anticausal", "linear", "sequential")
ROWS, ROW_TOKENS = 2, 16
SHAPES: list[dict[str, Any]] = [
    {},
    {"num_kv_heads": 4, "qkv_bias": True, "qk_norm": True, "tied_embeddings": True},
    {"attn_head_width": 10, "replicated_unembeddings": True, "token_order_unembedding": True},
]


def shape(heads: str = "parallel", num_mtp_heads: int = 3, **changes: Any) -> ModelConfig:
    values = {
        "vocab_size": 50, "width": 24, "num_layers": 5, "num_attn_heads": 4, "num_kv_heads": 2,
        "ffn_width": 40, "context": 64, "num_mtp_heads": num_mtp_heads, "heads": heads,
    }  # fmt: skip
    return ModelConfig.model_validate(values | changes)


class CountFlops(TorchDispatchMode):
    """torch's own formulae, operation by operation.

    (Its `FlopCounterMode` leaves products in place out, and follows modules, which it cannot do
    where a forward without a graph precedes a backward.)
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        packet = torch.ops.aten.addmm if func is torch.ops.aten.addmm_.default else func
        formula = flop_registry.get(getattr(packet, "overloadpacket", packet))
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted_flops(
    config: ModelConfig,
    num_active: int | None,
    distilled: bool = False,
    recomputes_trunk: bool = False,
) -> int:
    """What torch counts in a training step; it counts attention over all positions."""
    model = build_model(config, seed=0)
    model.trunk.recomputes_layers = recomputes_trunk
    tokens_BS = torch.randint(0, config.vocab_size, (ROWS, ROW_TOKENS + config.num_mtp_heads))
    documents_BS = torch.zeros_like(tokens_BS)
    objective = ObjectiveConfig.model_validate(
        {
            "token_order": {} if config.token_order_unembedding else None,
            "distillation": {"weight": 1.0} if distilled else None,
        }
    )
    num_labels_K = count_labels(config.num_mtp_heads, tokens_BS, documents_BS)
    weights = [1.0 if k <= (num_active or 99) else 0.0 for k in range(1, config.num_mtp_heads + 1)]
    batch = (tokens_BS, documents_BS, num_labels_K)
    with CountFlops() as counter, sdpa_kernel(SDPBackend.MATH):
        backward_by_head(model, *batch, False, objective, weights)
    return counter.total


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("changes", SHAPES)
def test_parameters_are_those_of_a_model_that_exists(heads, changes):
    config = shape(heads, **changes)
    parameters = count_parameters(config)
    model = build_model(config, seed=0)
    assert parameters.total == sum(parameter.numel() for parameter in model.parameters())
    matrices = sum(p.numel() for p in model.trunk.layers.parameters() if p.dim() == 2)
    biases = sum(p.numel() for name, p in model.trunk.named_parameters() if name.endswith("bias"))
    assert parameters.trunk == matrices + biases
    assert parameters.embedding == 50 * 24
    assert parameters.unembedding == 50 * 24 * sum(
        (
            not config.tied_embeddings,
            (config.num_mtp_heads - 1) * config.replicated_unembeddings,
            config.token_order_unembedding,
        )
    )


@pytest.mark.parametrize("heads", HEADS)
def test_a_plain_round_reads_the_matrices_of_trunk_and_head_one(heads):
    config = shape(heads)
    model = build_model(config, seed=0)
    running = [model.trunk.layers, model.unembedding, model.mtp_heads.layer(1)]
    if heads == "anticausal":
        running.append(model.mtp_heads)
    matrices = {p for module in running if module for p in module.parameters() if p.dim() == 2}
    assert elements_read(config, 0, 0) == sum(matrix.numel() for matrix in matrices)


@pytest.mark.parametrize("replicated", [False, True])
def test_drafts_read_their_heads_and_unembeddings_too(replicated):
    config = shape(replicated_unembeddings=replicated)
    head = build_model(config, seed=0).mtp_heads.layers[1]
    matrices = sum(p.numel() for p in head.parameters() if p.dim() == 2)
    more = elements_read(config, 2, 0) - elements_read(config, 0, 0)
    assert more == 2 * matrices + (2 if replicated else 1) * 50 * 24


def test_keys_and_values_are_read_in_every_layer_that_runs():
    config = shape()  # three heads, two layers of trunk, two key and value heads six wide
    for num_drafts in (0, 2):
        more = elements_read(config, num_drafts, 10) - elements_read(config, num_drafts, 0)
        assert more == (2 + 1 + num_drafts) * 2 * 2 * 6 * 10


def test_head_one_of_a_known_shape_has_its_known_size():
    """Llama 7B: 6,738,415,616 parameters (the sum of the published checkpoint's shapes)."""
    llama = ModelConfig(
        vocab_size=32_000, width=4096, num_layers=32, num_attn_heads=32, ffn_width=11_008,
        context=4096,
    )  # fmt: skip
    assert count_parameters(llama).total == 6_738_415_616


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("num_active", [None, 2, 1])
def test_flops_are_what_torch_counts(heads, changes, num_active):
    config = shape(heads, **changes)
    flops = flops_per_token(config, ROW_TOKENS, num_active, is_causal=False).total
    flops += recomputed_flops_per_token(config, ROW_TOKENS, num_active, is_causal=False)
    assert counted_flops(config, num_active) == flops * ROWS * ROW_TOKENS


@pytest.mark.parametrize("heads", ["parallel", "causal"])
def test_flops_with_layers_that_run_again_are_what_torch_counts(heads):
    config = shape(heads)
    flops = flops_per_token(config, ROW_TOKENS, is_causal=False).total
    flops += recomputed_flops_per_token(config, ROW_TOKENS, is_causal=False, recomputes_trunk=True)
    counted = counted_flops(config, None, recomputes_trunk=True)
    assert counted == flops * ROWS * ROW_TOKENS


def test_flops_of_distillation_are_what_torch_counts():
    """The last k − 1 positions have no teacher, so torch counts a little less."""
    config = shape()
    of_labels, of_both = (
        flops_per_token(config, ROW_TOKENS, distilled=distilled).unembedding
        for distilled in (False, True)
    )
    counted = counted_flops(config, None, distilled=True) - counted_flops(config, None)
    by_position = (of_both - of_labels) / 2
    left_out = by_position * ROWS * (1 + 2)
    assert counted == (of_both - of_labels) * ROWS * ROW_TOKENS - left_out


def test_causal_attention_counts_the_positions_that_are_seen():
    seen = sum(range(1, ROW_TOKENS + 1)) / ROW_TOKENS**2
    causal, full = (
        flops_per_token(shape(), ROW_TOKENS, is_causal=is_causal).attention
        for is_causal in (True, False)
    )
    assert causal == full * seen


@pytest.mark.parametrize("num_mtp_heads", [2, 4])
def test_parallel_heads_cost_the_twin_and_further_logits(num_mtp_heads):
    config = shape(num_mtp_heads=num_mtp_heads)
    twin = flops_per_token(next_token_twin(config), ROW_TOKENS)
    further_logits = 3 * 2 * 24 * 50 * (num_mtp_heads - 1)
    assert flops_ratio(config, ROW_TOKENS) == pytest.approx(1 + further_logits / twin.total)
    assert flops_ratio(config, ROW_TOKENS, num_active=1) < 1, "left-out heads are layers less"


@pytest.mark.parametrize("heads", HEADS)
def test_a_next_token_model_is_its_own_twin(heads):
    assert flops_ratio(shape(heads, num_mtp_heads=1), ROW_TOKENS) == 1


def test_utilization_is_the_share_of_the_peak_if_one_is_known():
    flops = flops_per_token(shape(), ROW_TOKENS)
    assert model_flops_utilization(10, flops, peak_flops_per_s=40 * flops.total) == 0.25
    assert model_flops_utilization(10, flops, peak_flops_per_s=None) is None
