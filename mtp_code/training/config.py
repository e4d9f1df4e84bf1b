"""What is learned and by what rule, how long, in what batches, and how a run is kept.

Names no torch, whose import takes seconds: a recipe is read, or refused, without it.
"""

from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mtp_code.config import Strict
from mtp_code.devices import DeviceName
from mtp_code.model.config import ModelConfig
from mtp_code.training.weights import CurriculumConfig, WeightsConfig

LossName = Literal["chunked", "torch", "liger", "cut"]
ParallelName = Literal["auto", "none", "ddp", "fsdp"]

LOGITS_MIB = {"cpu": 32.0}
OTHER_LOGITS_MIB = 512.0
"""Budgets for a chunk's logits: a GPU wants thousands of positions at once, a CPU hundreds."""


class InitConfig(Strict):
    """What a run begins from, instead of fresh weights."""

    run: str
    """A run folder; perhaps one that `mtp-code import` wrote."""
    train: Literal["heads", "lora", "all"] = "all"
    """`heads`: only those that are new: all others, and head 1, stay as they are, bit for bit.
    `lora`: these, and low-rank additions to the layers that were there."""
    num_heads_before: PositiveInt = 1
    """Heads of the model in `run`; those behind them are new."""
    rank: PositiveInt = 16
    """Of the low-rank additions."""


class ShardingConfig(Strict):
    """What `training.parallel = fsdp` pays memory for; bytes are each process's, of fp32.

    All give the same gradients, to rounding.
    """

    prefetch: NonNegativeInt = 1
    """Layers that are gathered ahead while one computes: 4 bytes a parameter of so many layers. 0
    has computing wait for each."""
    keep_weights: bool = False
    """A layer's weights are gathered once a step instead of twice a micro-batch: 4 bytes a
    parameter of all layers. (Gradients and optimizer state stay sharded: ZeRO's second stage.)"""
    reduce_once: bool = False
    """A layer's gradients are reduced once a step instead of once a micro-batch: 4 bytes a
    parameter of all layers."""


class DistillationConfig(Strict):
    weight: PositiveFloat
    """Of each later offset's divergence, beside its labels' cross-entropy."""


class TokenOrderConfig(Strict):
    weight: PositiveFloat = 1.0
    window: int = Field(default=32, ge=2, le=64)
    """Tokens ahead that are ranked. A token's share falls by e for each further one, so that
    those behind the 32nd together have less than 1e-13."""


class ObjectiveConfig(Strict):
    loss: LossName = "chunked"
    """What computes the cross-entropy: `chunked` is ours, `torch` needs torch 2.13; `liger` and
    `cut` (cut cross-entropy) need a GPU and the extra `kernels`."""
    logits_mib: PositiveFloat | None = None
    """Room for a chunk of positions' logits in fp32; None is 32 on a CPU, 512 on a GPU."""
    weights: WeightsConfig = WeightsConfig()
    curriculum: CurriculumConfig | None = None
    distillation: DistillationConfig | None = None
    token_order: TokenOrderConfig | None = None

    def check(self, model: ModelConfig) -> None:
        """
        Raises:
            ValueError: the model is not what the objective is for.
        """
        for name, length in self.weights.lengths().items():
            if length != model.num_mtp_heads:
                raise ValueError(
                    f"training.objective.weights.{name} has {length} weights for "
                    f"model.num_mtp_heads = {model.num_mtp_heads}; give one for each offset"
                )
        for name in ("curriculum", "distillation"):
            if getattr(self, name) is not None and model.num_mtp_heads == 1:
                raise ValueError(
                    f"training.objective.{name} is for later heads, model.num_mtp_heads = 1 has "
                    "none; leave it out, or set more heads"
                )
        if self.curriculum is not None and model.heads == "anticausal":
            raise ValueError(
                "training.objective.curriculum leaves later heads out, but head 1 of "
                "model.heads = anticausal reads them; choose other heads, or weights"
            )
        if (self.token_order is not None) != model.token_order_unembedding:
            raise ValueError(
                "training.objective.token_order and model.token_order_unembedding = true need "
                "each other: set both, or neither"
            )

    def logits_bytes(self, device_type: str) -> int:
        mib = self.logits_mib or LOGITS_MIB.get(device_type, OTHER_LOGITS_MIB)
        return int(mib * 2**20)


class OptimConfig(Strict):
    kind: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the layers' matrices, AdamW for embeddings, unembeddings and vectors."""
    lr: PositiveFloat
    """AdamW's peak learning rate."""
    muon_lr: PositiveFloat = 0.02
    """Muon's peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    """Of matrices; vectors are not decayed."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's."""
    clip_norm: PositiveFloat | None = 1.0


class TrainingConfig(Strict):
    row_tokens: PositiveInt
    """T: input positions of a row."""
    rows: PositiveInt
    """Rows of one optimizer step."""
    micro_batches: PositiveInt = 1
    """Parts that a step's rows are handled in, one after another, to save memory; several processes
    share them."""
    parallel: ParallelName = "auto"
    """How several processes share the work: `ddp`, each has the whole model; `fsdp`, each has a
    shard of weights, gradients and optimizer state. `auto` is fsdp, and `none` with one process."""
    fsdp: ShardingConfig = ShardingConfig()
    num_processes: PositiveInt | None = None
    """How many the recipe is meant for, which is what `mtp-code memory` predicts for. Another
    number trains the same, and is told of."""
    mask_documents: bool = True
    """Attention stays within a document, as it does when a prompt begins one."""
    objective: ObjectiveConfig = ObjectiveConfig()
    device: DeviceName = "auto"
    """`auto` is a GPU where torch finds one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of products: `bf16` keeps weights, gradients, norms and losses in fp32. `auto` is bf16 on a
    GPU, fp32 on a CPU."""
    tf32: bool = True
    """On a GPU, products in fp32 may round their factors to TF32."""
    compile: bool | None = None
    """Compiles the layers with `torch.compile`; None does so on a GPU."""
    attention: Literal["auto", "dense", "flex"] = "auto"
    """How `mask_documents` is done: `dense` with T × T booleans a row, `flex` with FlexAttention,
    which makes none. `auto` is flex on a GPU where attention heads are wide enough for it,
    and dense on a CPU."""
    activation_checkpointing: Literal["none", "blocks"] = "none"
    """`blocks` keeps only the input of each of the trunk's layers and runs it again in backward:
    memory for a fourth to a third more arithmetic."""
    num_threads: PositiveInt | None = None
    """CPU threads; None measures what is fastest here."""
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 200
    validation_tokens: PositiveInt = 65_536
    """Validation positions of each source."""
    checkpoint_every: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.rows % self.micro_batches:
            raise ValueError(
                f"rows = {self.rows} is no multiple of micro_batches = {self.micro_batches}"
            )
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every = {self.checkpoint_every} is no multiple of "
                f"log_every = {self.log_every}; a resumed run would log other means"
            )
        return self
