"""What a rate of tokens amounts to in arithmetic."""

from collections.abc import Sequence

import torch

from mtp_code.gpus import gpu_named
from mtp_code.model.accounting import (
    flops_per_token,
    flops_ratio,
    model_flops_utilization,
    recomputed_flops_per_token,
)
from mtp_code.recipe import Recipe


def arithmetic_figures(
    recipe: Recipe,
    weights: Sequence[float],
    tokens_per_s: float,
    device: torch.device,
    num_devices: int = 1,
) -> dict[str, float]:
    """`flops_per_s`; `flops_ratio` to a next-token model with as many layers; where forwards run
    twice, `hardware_flops_per_s` with those; `mfu` and `hfu`, either's share of the devices' dense
    bf16 peak, where that is known.

    Args:
        weights: of each offset: those behind the last above 0 cost nothing.
        num_devices: all like this one, which make that many tokens together.

    Nothing where only a part is trained: its arithmetic is not counted.
    """
    if recipe.init is not None and recipe.init.train != "all":
        return {}
    num_active = max(offset for offset, weight in enumerate(weights, 1) if weight > 0)
    asked = (
        recipe.model,
        recipe.training.row_tokens,
        num_active,
        recipe.training.objective.distillation is not None,
    )
    flops = flops_per_token(*asked)
    figures = {"flops_per_s": tokens_per_s * flops.total, "flops_ratio": flops_ratio(*asked)}
    recomputed = recomputed_flops_per_token(
        *asked[:3], recomputes_trunk=recipe.training.activation_checkpointing == "blocks"
    )
    if recomputed:
        figures["hardware_flops_per_s"] = tokens_per_s * (flops.total + recomputed)
    mfu = model_flops_utilization(tokens_per_s / num_devices, flops, peak_flops_per_s(device))
    if mfu is None:
        return figures
    return figures | {"mfu": mfu, "hfu": mfu * (1 + recomputed / flops.total)}


def peak_flops_per_s(device: torch.device) -> float | None:
    """Of dense bf16, by its data sheet; None for a CPU, and for a GPU that is not in the table."""
    if device.type != "cuda":
        return None
    gpu = gpu_named(torch.cuda.get_device_name(device))
    return None if gpu is None else gpu.bf16_flops_per_s
