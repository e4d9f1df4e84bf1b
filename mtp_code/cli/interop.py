"""Commands that hand models to others and take theirs."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtp_code.cli.options import Overrides, RunDir, TokensDir
from mtp_code.cli.show import estimates, status_line
from mtp_code.cli.training import tokens_for_run

if TYPE_CHECKING:
    from mtp_code.interop.card import Measured

commands = typer.Typer()


@commands.command()
def export(
    run: RunDir,
    out: Annotated[Path, typer.Option(help="Folder to write; an export there is replaced.")],
    main_only: Annotated[
        bool, typer.Option("--main-only", help="Without the heads beyond the first.")
    ] = False,
) -> None:
    """Write a run as transformers and vLLM load it.

    main/ is the model that predicts the next token, heads/ drafts for it.
    """
    from mtp_code.interop.export import export as export_run
    from mtp_code.run_folder import read_run

    read_run(run)  # where it is none, says so better than a search for its figures
    written = export_run(run, out, list(_measured(run)), main_only)
    parts = [f"main/ is a {written.architecture}"]
    if written.num_heads:
        parts.append(f"heads/ holds {written.num_heads} heads")
    typer.echo(f"{out}: {', '.join(parts)}")


@commands.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder in transformers' format, or OWNER/MODEL or OWNER/MODEL/FOLDER on the "
            "hub.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write; must be new.")],
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read *.bin and *.pth too, with weights_only=True."),
    ] = False,
    end_of_text: Annotated[
        list[str] | None,
        typer.Option(
            help="A token that ends an answer; the first ends a text too. Repeatable. [default: "
            "its eos_token, and what its generation_config.json names]"
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit on the hub. [default: its main]")
    ] = None,
) -> None:
    """Take in a model of others as a run folder.

    No code that comes with it is ever run.
    """
    from mtp_code.interop.hugging_face import import_model

    found = import_model(source, out, allow_pickle, end_of_text or (), revision)
    config, ends = found.config, [found.tokenizer.spelled(i) for i in found.tokenizer.answer_ends]
    typer.echo(
        f"{out}: {found.architecture}, {config.num_layers} layers, {config.num_mtp_heads} "
        f"head{'s' * (config.num_mtp_heads > 1)}, context {config.context}, "
        f"answers end at {' or '.join(ends)}"
    )


class Trained(StrEnum):
    HEADS = "heads"
    LORA = "lora"
    ALL = "all"


@commands.command("add-heads")
def add_heads(
    run: RunDir,
    num_heads: Annotated[int, typer.Option(min=2, help="Of all, head 1 included.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; goes on if begun. [default: RUN-N-heads]")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Data and training; model and tokenizer are the run's.")
    ] = "add-heads",
    train: Annotated[
        Trained,
        typer.Option(help="New heads; these, and low-rank additions to the layers; or all."),
    ] = Trained.HEADS,
    distillation: Annotated[
        float, typer.Option(min=0, help="Weight of learning from head 1; 0 is none.")
    ] = 1.0,
    tokens: TokensDir = None,
    overrides: Overrides = None,
) -> None:
    """Train further heads onto a run, or an imported model.

    They begin as its head 1.
    """
    from mtp_code.data.shards import open_shards
    from mtp_code.interop.add_heads import heads_recipe
    from mtp_code.training.loop import train as train_recipe

    made = heads_recipe(run, num_heads, recipe, train.value, distillation or None, overrides or ())
    run_dir = out or folder_with_heads(run, num_heads)
    shards = open_shards(tokens_for_run(made, tokens, run_dir))
    with status_line() as show:
        train_recipe(made, shards, run_dir, lambda progress: show(str(progress)))
    typer.echo(f"{run_dir}: {num_heads} heads, {made.schedule.num_steps} steps")


def folder_with_heads(run: Path, num_heads: int) -> Path:
    """Where a run with more heads goes: next to it, even if it is given as `.`."""
    run = run.resolve()
    return run.with_name(f"{run.name}-{num_heads}-heads")


def _measured(run: Path) -> "Iterator[Measured]":
    """The scores and decoding figures that lie in a run folder."""
    from evals.report.inputs import read_runs
    from mtp_code.interop.card import Measured

    (found,) = read_runs([run])
    for name, result in found.results.items():
        score, sampling = result.score, result.score.sampling
        base = score.base_pass_at_k
        figures = [] if base is None else estimates("pass@{} (base)", base)
        figures += estimates("pass@{}" if base is None else "pass@{} (+)", score.pass_at_k)
        basis = f"{score.num_tasks} tasks × {score.num_samples // score.num_tasks} samples"
        if sampling is not None:
            basis += f", temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
        model = sampling.model if sampling else {}
        yield Measured(name, ", ".join(figures), basis, model.get("sha256"))
    for decode in found.decodes:
        best = max(decode.rows, key=lambda row: row.speed_up)
        yield Measured(
            f"self-speculative decoding, "
            f"{'as many drafts as pay' if best.mode == 'auto' else f'{best.drafts} drafts'}",
            f"{best.tokens_per_forward:.2f} tokens per forward, {best.speed_up:.2f}× plain "
            f"({best.speed_up_low:.2f}–{best.speed_up_high:.2f})",
            f"{decode.prompts.count} prompts of {decode.prompts.benchmark}"
            f"{f', {best.batch_rows} side by side' if best.batch_rows > 1 else ''}, "
            f"{decode.machine}",
        )
