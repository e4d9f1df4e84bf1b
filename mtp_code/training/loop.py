"""The training run, from shards to the last checkpoint."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

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
from mtp_code.data.packing import NO_DOCUMENT
from mtp_code.data.shards import ShardSet
from mtp_code.errors import AskedToEnd, RecipeError, TrainingError
from mtp_code.files import alone_in, remove_leftovers
from mtp_code.model.mtp import MTPModel, build_model, outline
from mtp_code.processes import ALONE, World
from mtp_code.recipe import Recipe
from mtp_code.run_folder import begin_run, finish_run
from mtp_code.training.config import TrainingConfig
from mtp_code.training.distributed import (
    Parallel,
    clip_gradients,
    give_fresh_weights,
    is_to_be_sharded,
    parallelize,
    rows_of_process,
)
from mtp_code.training.finite import FiniteWatch
from mtp_code.training.init import choose_trained, take_weights
from mtp_code.training.logbook import Logbook, Progress
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.metrics import MetricsLog
from mtp_code.training.objective import (
    Figures,
    backward_by_head,
    count_labels,
    losses_by_offset,
)
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, place
from mtp_code.training.schedule import learning_rate_share
from mtp_code.training.signals import EndAsked, asked_to_end
from mtp_code.training.threads import choose_num_threads
from mtp_code.training.weights import weights_at

log = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    shards: ShardSet,
    run_dir: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
    world: World = ALONE,
    allow_changed: Sequence[str] = (),
) -> None:
    """Trains to the recipe's last step, from the run's newest checkpoint if it has one.

    Killed at any point and called again, it ends with the same weights as a run that nobody killed,
    on the same machine with as many processes: bit for bit on a CPU; on a GPU to rounding, as
    kernels add in any order. With another number of processes it reads the same rows in the same
    steps, and differs by rounding.

    Asked to end by SIGTERM, SIGINT or SIGUSR1, it finishes its step and keeps a checkpoint.

    Args:
        world: the processes that train together, all of which call this.
        allow_changed: keys in which the recipe may differ from that of the run in the folder.

    Raises:
        RecipeError: the folder holds a run of another recipe, or on other tokens.
        TrainingError: the loss is no number any more (the last checkpoint stands), or another
            process trains in this folder.
        AskedToEnd: it was asked to end, and has kept a checkpoint.
        PeerError: another of the processes failed, and raises why.
        MachineError: the machine lacks what the recipe's loss needs.
    """
    with ExitStack() as stack:
        world.everywhere(lambda: _lock(run_dir, stack) if world.is_lead else None)
        asked = stack.enter_context(asked_to_end())
        _train(recipe, shards, run_dir, on_progress, world, allow_changed, asked)


def _lock(run_dir: Path, stack: ExitStack) -> None:
    try:
        stack.enter_context(alone_in(run_dir, wait=False))
    except BlockingIOError:
        raise TrainingError(f"{run_dir}: another process trains there; wait for it") from None


def _train(
    recipe: Recipe,
    shards: ShardSet,
    run_dir: Path,
    on_progress: Callable[[Progress], None],
    world: World,
    allow_changed: Sequence[str],
    asked: EndAsked,
) -> None:
    model, placed, parallel, optimizers, state = _set_up(
        recipe, shards, run_dir, world, allow_changed
    )
    training, num_steps = recipe.training, recipe.schedule.num_steps
    num_offsets, rows = model.num_mtp_heads, rows_of_process(training.rows, world)
    batches = TrainingBatches(
        shards, recipe.data, training.rows, training.row_tokens, num_offsets, recipe.seed
    )
    validations = _validations(shards, training, num_offsets)
    for source, epochs in batches.epochs(num_steps).items():
        log.info("%s: read %.2f times in %d steps", source, epochs, num_steps)

    def own_rows(step: int) -> Batch:
        return batches.rows(step * training.rows + rows.start, len(rows))

    with ExitStack() as stack:
        metrics = stack.enter_context(MetricsLog(run_dir, state.step)) if world.is_lead else None
        logbook = Logbook(recipe, state, placed.device, world.size, metrics, on_progress)
        loaded = stack.enter_context(loading(own_rows, range(state.step, num_steps), placed.device))
        watch = FiniteWatch.on(placed.device, run_dir, batches)
        for step in range(state.step, num_steps):
            share = learning_rate_share(step, recipe.schedule)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["peak_lr"]
            objective = training.objective
            weights = weights_at(
                step, num_steps, num_offsets, objective.weights, objective.curriculum
            )
            batch, num_labels_K, is_asked_for_last = _next_batch(loaded, num_offsets, world, asked)
            with placed.autocast(), parallel.step():
                figures = backward(model, batch, training, weights, num_labels_K)
            figures = _summed(figures, world)
            grad_norm = clip_gradients(model.parameters(), recipe.optim.clip_norm or math.inf)
            has_labels = bool(num_labels_K[0] > 0)  # of any offset: one has those of all before it
            if has_labels:
                watch.see(step + 1, figures, grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

            done, is_last = step + 1, step + 1 == num_steps
            logbook.note(training.rows * training.row_tokens, figures if has_labels else None)
            logs, validates, saves = (
                done % every == 0 or is_last
                for every in (
                    training.log_every, training.validate_every, training.checkpoint_every
                )
            )  # fmt: skip
            saves = saves or is_asked_for_last
            if logs or validates or saves:
                watch.settle()
            if logs:
                logbook.log_steps(done, weights, share * recipe.optim.lr, grad_norm)
            if validates:
                with logbook.clock.aside(), placed.autocast(), parallel.weights():
                    for source, validation in validations.items():
                        losses = validate(model, validation, training, world)
                        logbook.log_validation(done, source, losses)
            if saves:
                with logbook.clock.aside():
                    reached, keep = logbook.state(done), training.keep_checkpoints
                    save_checkpoint(run_dir, model, optimizers, reached, keep, world)
            if is_asked_for_last and not is_last:
                raise AskedToEnd(
                    f"{run_dir}: ended at step {done} of {num_steps}, as asked; its checkpoint is "
                    "kept: the same command goes on from there"
                )
    if world.is_lead:
        finish_run(run_dir, logbook.clock.cpu_s, logbook.clock.elapsed_s)


class _Ready(NamedTuple):
    """All that steps need, at the newest checkpoint where the run has one."""

    model: MTPModel
    placed: Placement
    parallel: Parallel
    optimizers: list[torch.optim.Optimizer]
    state: TrainingState


def _set_up(
    recipe: Recipe, shards: ShardSet, run_dir: Path, world: World, allow_changed: Sequence[str]
) -> _Ready:
    newest = world.from_lead(lambda: _newest_after_clearing(run_dir))
    is_sharded = is_to_be_sharded(recipe.training.parallel, world)
    if (init := recipe.init) is not None:
        model = build_model(recipe.model, recipe.seed)
        if newest is None:
            world.everywhere(lambda: take_weights(model, init))
        choose_trained(model, init, recipe.seed)
    else:  # no process needs room for a whole model that is to be sharded
        model = outline(recipe.model) if is_sharded else build_model(recipe.model, recipe.seed)
    placed = place(model, recipe.training, moves=not is_sharded)
    training = recipe.training
    if world.is_lead and training.num_processes not in (None, world.size):
        log.warning(
            "training.num_processes = %d, but %d train: the same steps, with other memory and time",
            training.num_processes,
            world.size,
        )
    _check_vocabulary(recipe, shards)
    # Now, not at the first step.
    load_backend(training.objective.loss, placed.device)
    record = world.from_lead(
        lambda: begin_run(
            run_dir,
            recipe,
            shards,
            model,
            lambda: choose_num_threads(model, training, placed.device, world.local_size),
            allow_changed,
            world.size,
        )
    )
    # A run keeps the number of threads it began with: another one changes the rounding of sums.
    torch.set_num_threads(record["num_threads"])
    parallel = parallelize(model, training.parallel, world, placed.device, training.fsdp)
    if is_sharded and init is None and newest is None:
        give_fresh_weights(model, recipe.seed)
    optimizers = build_optimizers(model, recipe.optim)
    state = TrainingState(step=0, num_tokens=0, cpu_s=0, elapsed_s=0)
    if newest is not None:
        load_weights(newest, model, world)
        state = load_state(newest, optimizers, world)
        log.info("%s: going on from step %d of %d", run_dir, state.step, recipe.schedule.num_steps)
    return _Ready(model, placed, parallel, optimizers, state)


def _newest_after_clearing(run_dir: Path) -> Path | None:
    remove_leftovers(run_dir / CHECKPOINTS_DIR / "step-*")
    return latest_checkpoint(run_dir)


def _next_batch(
    loaded: Iterator[LoadedBatch], num_offsets: int, world: World, asked: EndAsked
) -> tuple[LoadedBatch, Tensor, bool]:
    """This process's rows, the labels of all processes', (K,), and whether any was asked to end.

    One message a step, so all processes end behind the same one.
    """
    batch, error = None, None
    try:
        batch = next(loaded)
    except Exception as raised:  # noqa: BLE001 - raised again once all know of it
        error = raised
    numbers = torch.zeros(num_offsets + 2, dtype=torch.int64)
    if batch is not None:
        numbers[:num_offsets] = count_labels(num_offsets, *_tensors(batch.on_host))
    numbers[num_offsets] = asked.by is not None
    numbers[num_offsets + 1] = error is not None
    numbers = world.sum(numbers)
    if numbers[num_offsets + 1] > 0:
        world.agree(error)
    assert batch is not None
    return batch, numbers[:num_offsets], bool(numbers[num_offsets] > 0)


def _summed(figures: Figures, world: World) -> Figures:
    """Over all processes, each of which has its labels' part of the means."""
    if world.size == 1:
        return figures
    flat = torch.cat([figure.flatten() for figure in figures.values()])
    dist.all_reduce(flat)
    parts = torch.split(flat, [figure.numel() for figure in figures.values()])
    return {
        name: part.view_as(figure)
        for (name, figure), part in zip(figures.items(), parts, strict=True)
    }


def backward(
    model: MTPModel,
    batch: Batch | LoadedBatch,
    training: TrainingConfig,
    weights: Sequence[float],
    num_labels_K: Tensor | None = None,
) -> Figures:
    """Adds a step's gradients to the parameters, micro-batch by micro-batch; the losses.

    Args:
        num_labels_K: of the whole step, where other processes have rows of it too.
    """
    tokens_BS, documents_BS = _tensors(batch)
    if num_labels_K is None:
        on_host = batch.on_host if isinstance(batch, LoadedBatch) else batch
        num_labels_K = count_labels(model.num_mtp_heads, *_tensors(on_host))
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


def validate(
    model: MTPModel, validation: Validation, training: TrainingConfig, world: World = ALONE
) -> dict[str, Any]:
    """Mean loss by offset (nats per token), and bits per byte by offset 1.

    Processes take turns in the batches. The list ends at the last offset that has a label:
    documents were too short for those behind.
    """
    device = model.norm.weight.device
    sums, counts = zip(
        *(
            losses_by_offset(
                model, tokens_BS.to(device), documents_BS.to(device), training.mask_documents
            )
            for tokens_BS, documents_BS in map(_tensors, _turns(validation.batches, world))
        ),
        strict=True,
    )
    sums_K, counts_K = world.sum(torch.stack(sums).sum(0)), world.sum(torch.stack(counts).sum(0))
    known_K = counts_K > 0  # the first ones: an offset's label has those of all before it
    return {
        "loss_by_offset": (sums_K[known_K] / counts_K[known_K]).tolist(),
        "bits_per_byte": sums_K[0].item() / math.log(2) / validation.num_bytes,
    }


def _turns(batches: Sequence[Batch], world: World) -> list[Batch]:
    """Every so-many-th batch; as many for each process, since they run each forward together."""
    padding = batches[0]._replace(documents=np.full_like(batches[0].documents, NO_DOCUMENT))
    padded = [*batches, *[padding] * (-len(batches) % world.size)]
    return padded[world.rank :: world.size]


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
    with_text = {
        source: validation
        for source, validation in found.items()
        if validation is not None and validation.num_bytes > 0
    }
    for source in found.keys() - with_text.keys():
        log.warning("%s: no text to predict is held out, so there is no validation", source)
    return with_text


def _tensors(batch: Batch | LoadedBatch) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(batch.tokens), torch.as_tensor(batch.documents)


def _check_vocabulary(recipe: Recipe, shards: ShardSet) -> None:
    if shards.tokenizer.vocab_size > recipe.model.vocab_size:
        raise RecipeError(
            f"model.vocab_size: {recipe.model.vocab_size} is less than the "
            f"{shards.tokenizer.vocab_size} of the tokenizer in {shards.folder}"
        )
