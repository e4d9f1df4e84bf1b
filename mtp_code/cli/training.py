"""Commands from corpus to checkpoint."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtp_code.cli.common import all_references
from mtp_code.cli.options import Overrides, RecipeName, TokensDir
from mtp_code.cli.show import short_count, short_size, stage_bars, status_line, sum_of_parts

if TYPE_CHECKING:
    from mtp_code.recipe import Recipe
    from mtp_code.training.memory import Peak

commands = typer.Typer()


SPARE = 0.1
"""Of a GPU's memory, for what is not predicted: CUDA's context, workspaces, gaps."""


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


@commands.command()
def prepare(
    recipe: RecipeName,
    tokens: TokensDir = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one a core]")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Then read all of it again.")] = False,
) -> None:
    """Turn a recipe's corpora into token shards.

    A data card is written beside them. Goes on where it was stopped.
    """
    from mtp_code.data.shards import open_shards
    from mtp_code.recipe import load_recipe

    folder = prepare_tokens(load_recipe(recipe, overrides or ()), tokens, workers)
    if check:
        open_shards(folder, check_all=True)
        typer.echo(f"{folder}: all as it was written")


@commands.command()
def train(
    recipe: RecipeName,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; goes on if begun. [default: runs/RECIPE]")
    ] = None,
    tokens: TokensDir = None,
    overrides: Overrides = None,
    allow_changed: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION.KEY", help="May differ from the begun run's recipe."),
    ] = None,
) -> None:
    """Train a recipe; its data is prepared first if need be.

    Under torchrun, all processes train together: see docs/distributed.md. SIGTERM, SIGINT and
    SIGUSR1 end it behind a step, with a checkpoint and exit status 75: the same command goes on.
    """
    from mtp_code.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())

    # They import torch: what is wrong in a recipe is told before that.
    from mtp_code.data.shards import open_shards
    from mtp_code.devices import choose_device
    from mtp_code.processes import joined
    from mtp_code.training.loop import train as train_recipe

    run_dir = run or Path("runs") / loaded.name
    device = choose_device(loaded.training.device, "training.device = cuda")
    with joined(device.type) as world, status_line() as show:
        if not world.is_lead:
            logging.getLogger().setLevel(logging.WARNING)  # once is enough
        folder = world.from_lead(lambda: tokens_for_run(loaded, tokens, run_dir))
        shards = world.everywhere(lambda: open_shards(folder))
        train_recipe(
            loaded,
            shards,
            run_dir,
            lambda progress: show(str(progress)),
            world,
            allow_changed or (),
        )
    if world.is_lead:
        typer.echo(f"{run_dir}: trained, {loaded.schedule.num_steps} steps")


@commands.command()
def memory(
    recipe: RecipeName,
    on: Annotated[
        Device,
        typer.Option(
            help="Whose precision, attention and chunks of logits count where the recipe says auto."
        ),
    ] = Device.GPU,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            min=1,
            help="Processes that train together, each with a device of its own. "
            "[default: training.num_processes, or 1]",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Predict a recipe's peak of memory, and its arithmetic.

    In each process, part by part. Allocates nothing, sends nothing.
    """
    from mtp_code.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())

    from mtp_code.training.memory import predict_peak  # imports torch

    device_type = "cpu" if on is Device.CPU else "cuda"
    num_processes = gpus or loaded.training.num_processes or 1
    peak = predict_peak(loaded, device_type, num_processes)
    for line in _memory_lines(loaded, peak, device_type, num_processes):
        typer.echo(line)


def prepare_tokens(recipe: "Recipe", tokens: Path | None, workers: int | None = None) -> Path:
    """The folder of the recipe's token shards, made if they are not there."""
    from mtp_code.data.prepare import prepare

    folder = tokens or Path("tokens") / recipe.name
    with stage_bars() as on_progress:
        manifest = prepare(
            recipe.data, recipe.tokenizer, folder, all_references(), on_progress, workers
        )
    num_tokens = sum(source.train.num_tokens for source in manifest.sources.values())
    typer.echo(f"{folder}: {num_tokens / 1e6:.2f} M tokens to train on")
    return folder


def tokens_for_run(recipe: "Recipe", tokens: Path | None, run_dir: Path) -> Path:
    """As `prepare_tokens`, once it is known that there are weights that the run can begin from."""
    from mtp_code.checkpoint import latest_checkpoint
    from mtp_code.training.init import check_init

    if recipe.init is not None and latest_checkpoint(run_dir) is None:
        check_init(recipe.model, recipe.init)
    return prepare_tokens(recipe, tokens)


def _memory_lines(
    recipe: "Recipe", peak: "Peak", device_type: str, num_processes: int
) -> Iterator[str]:
    import torch

    from mtp_code.gpus import GPUS
    from mtp_code.model.accounting import (
        count_parameters,
        flops_per_token,
        flops_ratio,
        recomputed_flops_per_token,
    )
    from mtp_code.processes import World
    from mtp_code.training.distributed import is_to_be_sharded
    from mtp_code.training.placement import choose_placement

    model, training = recipe.model, recipe.training
    flops = flops_per_token(model, training.row_tokens)
    ratio = flops_ratio(model, training.row_tokens)
    own_rows = training.rows // num_processes
    rows = min(own_rows, training.rows // training.micro_batches)
    heads = f"{model.num_mtp_heads} {model.heads} heads" if model.num_mtp_heads > 1 else "one head"
    yield f"{recipe.name} | {model.num_layers} layers, {heads}"
    yield f"parameters | {sum_of_parts(asdict(count_parameters(model)), short_count)}"
    yield f"FLOPs a token | {sum_of_parts(asdict(flops), short_count)}"
    yield f"  {ratio:.3f} times those of a next-token model with as many layers"
    recomputed = recomputed_flops_per_token(
        model,
        training.row_tokens,
        recomputes_trunk=training.activation_checkpointing == "blocks",
    )
    if recomputed:
        yield f"  {short_count(recomputed)} more for forwards that run twice, to save memory"
    parts = {part: size for part, size in peak.bytes_by_part.items() if size}
    yield f"peak of memory | {sum_of_parts(parts, short_size)}"
    placement = choose_placement(training, model.head_width, torch.device(device_type))
    processes = "one process"
    if num_processes > 1:
        kind = "fsdp" if is_to_be_sharded(training.parallel, World(size=num_processes)) else "ddp"
        processes = f"each of {num_processes} processes ({kind})"
    num_parts = -(-own_rows // rows)
    parts_of_step = "one micro-batch" if num_parts == 1 else f"{num_parts} micro-batches"
    yield (
        f"  {placement.precision}, {processes}, {parts_of_step} a step of {rows} × "
        f"{training.row_tokens} tokens"
    )
    if (loss := training.objective.loss) != "chunked":
        own = short_size(4 * model.vocab_size * model.width)
        yield (
            f"  predicted with loss = chunked: {loss} holds more, at least a further gradient of "
            f"the unembedding ({own} in fp32)"
        )
    by_memory: dict[int, list[str]] = {}
    for gpu in GPUS:
        if peak.total_bytes <= (1 - SPARE) * gpu.memory_bytes:
            by_memory.setdefault(gpu.memory_bytes, []).append(gpu.name)
    fitting = [f"{size // 10**9} GB: {', '.join(names)}" for size, names in by_memory.items()]
    yield f"fits, a tenth left free | {' | '.join(fitting) or 'none of the GPUs that we know'}"
