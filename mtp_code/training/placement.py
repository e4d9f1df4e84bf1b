"""Where and in what precision a model trains, and what its layers are turned into for that."""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal

import torch

from mtp_code.devices import choose_device
from mtp_code.errors import MachineError
from mtp_code.model.attention import block_mask, dense_mask
from mtp_code.model.layers import Block
from mtp_code.model.mtp import MTPModel
from mtp_code.training.config import TrainingConfig

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
Attention = Literal["dense", "flex"]

FLEX_HEAD_WIDTH: Final = 16
"""Of an attention head: the least that FlexAttention's kernels for CUDA take."""


@dataclass(frozen=True)
class Placement:
    """What the recipe's choices come to on one machine."""

    device: torch.device
    precision: Precision
    attention: Attention
    compiles: bool

    def autocast(self) -> AbstractContextManager[object]:
        """For forward and backward: products in bf16 where that is the precision.

        Parameters, their gradients, optimizer states, the residual stream, norms, the softmax and
        the loss stay in fp32: the parameters are the master weights.
        """
        # Without a cache of cast weights: a micro-batch reads each weight once, and a head that ran
        # without a graph first would leave it a copy that no gradient reaches.
        return torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.precision == "bf16",
            cache_enabled=False,
        )


def choose_placement(
    training: TrainingConfig, head_width: int, device: torch.device | None = None
) -> Placement:
    """
    Args:
        head_width: of the model's attention heads.
        device: this process's, where several processes train; None is as the recipe says.

    Raises:
        MachineError: the machine has no such device, or such a device no such attention.
    """
    device = device or choose_device(training.device, "training.device = cuda")
    on_gpu = device.type == "cuda"
    precision, attention = training.precision, training.attention
    if precision == "auto":
        precision = "bf16" if on_gpu else "fp32"
    if attention == "auto":
        attention = "flex" if on_gpu and head_width >= FLEX_HEAD_WIDTH else "dense"
    if attention == "flex" and not on_gpu:
        raise MachineError(
            "training.attention = flex: FlexAttention has no backward on a CPU; "
            "choose auto or dense"
        )
    if attention == "flex" and head_width < FLEX_HEAD_WIDTH:
        raise MachineError(
            f"training.attention = flex: attention heads are {head_width} wide, and FlexAttention "
            f"takes none below {FLEX_HEAD_WIDTH} on a GPU; choose auto or dense"
        )
    compiles = on_gpu if training.compile is None else training.compile
    return Placement(device, precision, attention, compiles)


def place(
    model: MTPModel,
    training: TrainingConfig,
    device: torch.device | None = None,
    moves: bool = True,
) -> Placement:
    """Moves a model to where it trains and turns its layers into what the recipe asks for.

    Comes before the optimizers, which keep their states where the parameters are.

    Args:
        moves: False leaves it where it is, for whoever shards it and has the device take a part.

    Raises:
        MachineError: as `choose_placement`, or the GPU has no arithmetic of that precision.
    """
    placement = choose_placement(training, model.config.head_width, device)
    if placement.device.type == "cuda":
        if placement.precision == "bf16" and not torch.cuda.is_bf16_supported(False):
            raise MachineError(
                f"training.precision = bf16: {torch.cuda.get_device_name(placement.device)} has "
                "no bf16 arithmetic; choose fp32"
            )
        torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
    if moves:
        model.to(placement.device)
    prepare_layers(model, training, placement)
    log.info(
        "training on %s in %s%s",
        placement.device,
        placement.precision,
        ", layers compiled" if placement.compiles else "",
    )
    return placement


def prepare_layers(model: MTPModel, training: TrainingConfig, placement: Placement) -> None:
    """Attention, recomputation and compilation of a model's layers, wherever they are."""
    model.trunk.document_mask = block_mask if placement.attention == "flex" else dense_mask
    # Of the trunk's only: a head's activations are gone before the next head runs.
    model.trunk.recomputes_layers = training.activation_checkpointing == "blocks"
    if placement.compiles:
        # Layer by layer: they are alike, so one is compiled and the time does not grow with depth.
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=False)
