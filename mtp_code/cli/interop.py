"""Commands that hand models to others and take theirs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtp_code.cli.options import RunDir
from mtp_code.cli.show import estimates

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
    """Write a run as transformers and vLLM load it: main/, and heads/ to draft for it."""
    from mtp_code.interop.export import export as export_run

    written = export_run(run, out, list(_measured(run)), main_only)
    parts = [f"main/ is a {written.architecture}"]
    if written.num_heads:
        parts.append(f"heads/ holds {written.num_heads} heads")
    typer.echo(f"{out}: {', '.join(parts)}")


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
            f"self-speculative decoding, {best.drafts} drafts",
            f"{best.tokens_per_forward:.2f} tokens per forward, {best.speed_up:.2f}× plain "
            f"({best.speed_up_low:.2f}–{best.speed_up_high:.2f})",
            f"{decode.prompts.count} prompts of {decode.prompts.benchmark}, {decode.machine}",
        )
