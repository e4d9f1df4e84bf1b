"""The training run, from shards to the last checkpoint."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtp_code.checkpoint import (
    TrainingState,
    latest_checkpoint,
    load_state,
    load_weights,
    save_checkpoint,
)
from mtp_code.data.batches import Batch, TrainingBatches, validation_batches
from mtp_code.data.shards import ShardSet
from mtp_code.errors import RecipeError, TrainingError
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.recipe import Recipe
from mtp_code.run_folder import begin_run, finish_run
from mtp_code.training.config import TrainingConfig
from mtp_code.training.metrics import MetricsLog
from mtp_code.training.objective import backward_by_head, count_labels, losses_by_offset
from mtp_code.training.optim import build_optimizers
from mtp_code.training.schedule import learning_rate_share
from mtp_code.training.threads import fastest_num_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever watches it."""

    step: int
    num_steps: int
    loss_by_offset: list[float]
    lr: float
    tokens_per_s: float
    left_s: float


def train(
    recipe: Recipe,
    shards: ShardSet,
    run_dir: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Trains to the recipe's last step, from the run's newest checkpoint if it has one.

    Killed at any point and called again, it ends with the same weights, bit for bit, as a run
    that nobody killed, on the same machine.

    Raises:
        RecipeError: the folder holds a run of another recipe.
        TrainingError: the loss is no number any more; the last checkpoint stands.
    """
    model = build_model(recipe.model, recipe.seed)
    optimizers = build_optimizers(model, recipe.optim)
    training, num_steps = recipe.training, recipe.schedule.num_steps
    _check_vocabulary(recipe, shards)
    begin_run(run_dir, recipe, shards.tokenizer, model, choose_num_threads(model, training))
    state = TrainingState(step=0, num_tokens=0, cpu_s=0, elapsed_s=0)
    if (newest := latest_checkpoint(run_dir)) is not None:
        load_weights(newest, model)
        state = load_state(newest, optimizers)
        log.info("%s: going on from step %d of %d", run_dir, state.step, num_steps)
    batches = TrainingBatches(shards, training, model.num_mtp_heads, recipe.seed)
    clock = Clock(state)

    with MetricsLog(run_dir, state.step) as metrics:
        window: list[Tensor] = []
        for step in range(state.step, num_steps):
            share = learning_rate_share(step, recipe.schedule)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["peak_lr"]
            losses_K = backward(model, batches.batch(step), training)
            grad_norm = nn.utils.clip_grad_norm_(
                model.parameters(), recipe.optim.clip_norm or math.inf
            )
            if not (losses_K.isfinite().all() and grad_norm.isfinite()):
                raise TrainingError(_no_number(run_dir, step, losses_K))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            done, window = step + 1, [*window, losses_K]
            clock.num_tokens += training.rows * training.row_tokens
            is_last = done == num_steps
            if done % training.log_every == 0 or is_last:
                row = _train_row(done, torch.stack(window).mean(0), share, grad_norm, clock)
                metrics.append(row)
                on_progress(Progress(done, num_steps, row))
                window = []
            if done % training.validate_every == 0 or is_last:
                for source, losses in validate(model, shards, training).items():
                    metrics.append(clock.stamp("validation", done) | {"source": source} | losses)
            if done % training.checkpoint_every == 0 or is_last:
                metrics.sync()
                save_checkpoint(
                    run_dir, model, optimizers, clock.state(done), training.keep_checkpoints
                )
    finish_run(run_dir, clock.cpu_s, clock.elapsed_s)


def backward(model: MTPModel, batch: Batch, training: TrainingConfig) -> Tensor:
    """Adds a step's gradients to the parameters, micro-batch by micro-batch; losses, (K,)."""
    tokens_BS, documents_BS = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    num_labels_K = count_labels(model.num_mtp_heads, tokens_BS, documents_BS)
    rows = training.rows // training.micro_batches
    parts = [
        backward_by_head(model, tokens, documents, num_labels_K, training.mask_documents)
        for tokens, documents in zip(
            torch.split(tokens_BS, rows), torch.split(documents_BS, rows), strict=True
        )
    ]
    return torch.stack(parts).sum(0)


def validate(
    model: MTPModel, shards: ShardSet, training: TrainingConfig
) -> dict[str, dict[str, Any]]:
    """Mean loss by offset (nats per token) and bits per byte, source by source."""
    ...


class Clock:
    """CPU and wall time of a run over all the processes that worked on it."""

    def __init__(self, state: TrainingState) -> None:
        self.num_tokens = state.num_tokens
        self._cpu_s = state.cpu_s - time.process_time()
        self._elapsed_s = state.elapsed_s - time.monotonic()
        self._last = (self.num_tokens, self.elapsed_s)

    @property
    def cpu_s(self) -> float:
        return self._cpu_s + time.process_time()

    @property
    def elapsed_s(self) -> float:
        return self._elapsed_s + time.monotonic()

    def tokens_per_s(self) -> float:
        """Since this was last asked."""
        before, self._last = self._last, (self.num_tokens, self.elapsed_s)
        return (self._last[0] - before[0]) / max(self._last[1] - before[1], 1e-9)

    def state(self, step: int) -> TrainingState:
        return TrainingState(
            step=step, num_tokens=self.num_tokens, cpu_s=self.cpu_s, elapsed_s=self.elapsed_s
        )

    def stamp(self, kind: str, step: int) -> dict[str, Any]:
        return {
            "schema": 1,
            "kind": kind,
            "step": step,
            "tokens": self.num_tokens,
            "cpu_s": round(self.cpu_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
        }
