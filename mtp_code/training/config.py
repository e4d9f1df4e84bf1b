"""How long, in what batches, and how a run is kept."""

from typing import Literal, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from mtp_code.config import Strict
from mtp_code.training.objective import ObjectiveConfig

ParallelName = Literal["auto", "none", "ddp", "fsdp"]


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
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
