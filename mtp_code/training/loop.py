"""The training run, from shards to the last checkpoint."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtp_code.checkpoint import (
    CHECKPOINTS_DIR,
    TrainingState,
    latest_checkpoint,
    load_state,
    load_weights,
    save_checkpoint,
)
from mtp_code.data.batches import Batch, TrainingBatches, Validation, validation_batches
from mtp_code.data.loader import LoadedBatch, loading
from mtp_code.data.shards import ShardSet
from mtp_code.errors import RecipeError, TrainingError
from mtp_code.files import alone_in, remove_leftovers
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.recipe import Recipe
from mtp_code.run_folder import begin_run, finish_run
from mtp_code.training.config import TrainingConfig
from mtp_code.training.init import choose_trained, take_weights
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.metrics import MetricsLog
from mtp_code.training.objective import (
    Figures,
    backward_by_head,
    count_labels,
    losses_by_offset,
)
from mtp_code.training.optim import build_optimizers
from mtp_code.training.schedule import learning_rate_share
from mtp_code.training.speed import arithmetic_figures
from mtp_code.training.threads import choose_num_threads
from mtp_code.training.weights import weights_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever watches it."""

    step: int
    num_steps: int
    loss: float
    loss_by_offset: list[float]
    lr: float
    tokens_per_s: float
    left_s: float

    def __str__(self) -> str:
        offsets = " ".join(f"{loss:.2f}" for loss in self.loss_by_offset)
        return (
            f"step {self.step}/{self.num_steps} | loss {self.loss:.3f} "
            f"| by offset {offsets} | lr {self.lr:.1e} | {self.tokens_per_s / 1000:.1f}k tok/s "
            f"| {self.left_s / 60:.1f} min left"
        )


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
        RecipeError: the folder holds a run of another recipe, or on other tokens.
        TrainingError: the loss is no number any more (the last checkpoint stands), or another
            process trains in this folder.
        MachineError: the machine lacks what the recipe's loss needs.
    """
    try:
        with alone_in(run_dir, wait=False):
            _train(recipe, shards, run_dir, on_progress)
    except BlockingIOError:
        raise TrainingError(f"{run_dir}: another process trains there; wait for it") from None


def _train(
    recipe: Recipe, shards: ShardSet, run_dir: Path, on_progress: Callable[[Progress], None]
) -> None:
    model = build_model(recipe.model, recipe.seed)
    newest = latest_checkpoint(run_dir)
    if recipe.init is not None:
        if newest is None:
            take_weights(model, recipe.init)
        choose_trained(model, recipe.init, recipe.seed)
    optimizers = build_optimizers(model, recipe.optim)
    training, num_steps = recipe.training, recipe.schedule.num_steps
    _check_vocabulary(recipe, shards)
    # Now, not at the first step.
    load_backend(training.objective.loss, model.unembedding.weight.device)
    record = begin_run(run_dir, recipe, shards, model, lambda: choose_num_threads(model, training))
    # The number the run began with: with another, sums are rounded in another order.
    torch.set_num_threads(record["num_threads"])
    remove_leftovers(run_dir / CHECKPOINTS_DIR / "step-*")
    state = TrainingState(step=0, num_tokens=0, cpu_s=0, elapsed_s=0)
    if newest is not None:
        load_weights(newest, model)
        state = load_state(newest, optimizers)
        log.info("%s: going on from step %d of %d", run_dir, state.step, num_steps)
    num_offsets = model.num_mtp_heads
    batches = TrainingBatches(
        shards, recipe.data, training.rows, training.row_tokens, num_offsets, recipe.seed
    )
    validations = _validations(shards, training, num_offsets)
    clock = Clock(state)

    for source, epochs in batches.epochs(num_steps).items():
        log.info("%s: read %.2f times in %d steps", source, epochs, num_steps)

    with (
        MetricsLog(run_dir, state.step) as metrics,
        loading(batches.batch, range(state.step, num_steps)) as loaded,
    ):
        window: list[Figures] = []
        for step in range(state.step, num_steps):
            share = learning_rate_share(step, recipe.schedule)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["peak_lr"]
            weights = weights_at(
                step,
                num_steps,
                num_offsets,
                training.objective.weights,
                training.objective.curriculum,
            )
            figures = backward(model, next(loaded), training, weights)
            grad_norm = nn.utils.clip_grad_norm_(
                model.parameters(), recipe.optim.clip_norm or math.inf
            )
            if not (figures["loss"].isfinite() and grad_norm.isfinite()):
                raise TrainingError(
                    f"{run_dir}: loss {figures['loss_by_offset'].tolist()} at step {step + 1} "
                    f"(gradient norm "
                    f"{grad_norm.item():.3g}); the last checkpoint stands: lower optim.lr"
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            done, is_last = step + 1, step + 1 == num_steps
            clock.num_tokens += training.rows * training.row_tokens
            window.append(figures)
            if done % training.log_every == 0 or is_last:
                means = _means(window)
                window.clear()
                rate = clock.tokens_per_s()
                left_s = clock.elapsed_s / done * (num_steps - done)
                lr = share * recipe.optim.lr
                on_progress(
                    Progress(
                        done,
                        num_steps,
                        means["loss"],
                        means["loss_by_offset"],
                        lr,
                        rate,
                        left_s,
                    )
                )
                if set(weights) != {1.0}:
                    means["weight_by_offset"] = list(weights)
                metrics.append(
                    clock.stamp("train", done)
                    | means
                    | {"lr": lr, "grad_norm": grad_norm.item(), "tokens_per_s": round(rate, 1)}
                    | arithmetic_figures(recipe, weights, rate, model.norm.weight.device)
                )
            if done % training.validate_every == 0 or is_last:
                for source, validation in validations.items():
                    row = {"source": source, **validate(model, validation, training)}
                    metrics.append(clock.stamp("validation", done) | row)
            if done % training.checkpoint_every == 0 or is_last:
                metrics.sync()
                save_checkpoint(
                    run_dir, model, optimizers, clock.state(done), training.keep_checkpoints
                )
    finish_run(run_dir, clock.cpu_s, clock.elapsed_s)


def backward(
    model: MTPModel, batch: Batch | LoadedBatch, training: TrainingConfig, weights: Sequence[float]
) -> Figures:
    """Adds a step's gradients to the parameters, micro-batch by micro-batch; the losses."""
    tokens_BS, documents_BS = _tensors(batch)
    num_labels_K = count_labels(model.num_mtp_heads, tokens_BS, documents_BS)
    rows = training.rows // training.micro_batches
    parts = [
        backward_by_head(
            model,
            tokens,
            documents,
            num_labels_K,
            training.mask_documents,
            training.objective,
            weights,
        )
        for tokens, documents in zip(
            torch.split(tokens_BS, rows), torch.split(documents_BS, rows), strict=True
        )
    ]
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def validate(model: MTPModel, validation: Validation, training: TrainingConfig) -> dict[str, Any]:
    """Mean loss by offset (nats per token), and bits per byte by offset 1.

    The list ends at the last offset that has a label: documents were too short for those behind.
    """
    sums, counts = zip(
        *(
            losses_by_offset(model, *_tensors(batch), training.mask_documents)
            for batch in validation.batches
        ),
        strict=True,
    )
    sums_K, counts_K = torch.stack(sums).sum(0), torch.stack(counts).sum(0)
    known_K = counts_K > 0  # the first ones: an offset's label has those of all before it
    return {
        "loss_by_offset": (sums_K[known_K] / counts_K[known_K]).tolist(),
        "bits_per_byte": sums_K[0].item() / math.log(2) / validation.num_bytes,
    }


def _means(window: Sequence[Figures]) -> dict[str, Any]:
    """Means over steps, by name; of each offset over the steps that trained it.

    Lists end at the last offset that was trained at all, on a label.
    """
    means: dict[str, Any] = {}
    for name in window[0]:
        values = torch.stack([figures[name] for figures in window]).nanmean(0).tolist()
        while isinstance(values, list) and values and math.isnan(values[-1]):
            values.pop()
        means[name] = values
    return means


def _validations(
    shards: ShardSet, training: TrainingConfig, num_offsets: int
) -> dict[str, Validation]:
    found = {
        source: validation_batches(
            shards,
            source,
            training.rows // training.micro_batches,
            training.row_tokens,
            num_offsets,
            training.validation_tokens,
        )
        for source in shards.sources
    }
    return {source: validation for source, validation in found.items() if validation is not None}


def _tensors(batch: Batch | LoadedBatch) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(batch.tokens), torch.as_tensor(batch.documents)


def _check_vocabulary(recipe: Recipe, shards: ShardSet) -> None:
    if shards.tokenizer.vocab_size > recipe.model.vocab_size:
        raise RecipeError(
            f"model.vocab_size: {recipe.model.vocab_size} is less than the "
            f"{shards.tokenizer.vocab_size} of the tokenizer in {shards.folder}"
        )


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
