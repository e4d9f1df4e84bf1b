"""Commands that measure decoding."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

import evals.errors
from mtp_code.cli.common import provenance
from mtp_code.cli.options import (
    Device,
    Dtype,
    ModelDir,
    NumThreads,
    Overrides,
    sizes_of,
    to_write,
)
from mtp_code.cli.prompts import PieceTokens, PromptsName, named_prompts
from mtp_code.cli.samplers import figures_folder
from mtp_code.cli.show import progress_bar, warn
from mtp_code.errors import MachineError, first_line

log = logging.getLogger(__name__)

commands = typer.Typer()


@commands.command("decode")
def bench_decode(
    run: ModelDir,
    prompts: PromptsName = "humaneval",
    count: Annotated[int | None, typer.Option(min=1, help="Prompts. [default: all]")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    piece_tokens: PieceTokens = 128,
    batches: Annotated[str, typer.Option(help="Answers side by side: sizes with commas.")] = "1",
    num_threads: NumThreads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    peers: Annotated[
        bool, typer.Option("--peers", help="transformers' generate and its prompt lookup beside.")
    ] = False,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Also drafts that stand as often as these heads'.")
    ] = False,
    out: Annotated[Path | None, to_write(what="[default: RUN/decode-PROMPTS.json]")] = None,
) -> None:
    """Speculative against plain greedy decoding.

    A JSON file, a plot beside it, and in words.
    """
    import torch

    from mtp_code.decoding.bandwidth import copy_bandwidth
    from mtp_code.decoding.bench import NUM_ROUNDS, measure
    from mtp_code.decoding.plot import draw
    from mtp_code.decoding.prepare import describe_place, load_for_decoding
    from mtp_code.decoding.requests import Request
    from mtp_code.decoding.synthetic import agreement
    from mtp_code.devices import is_failure, is_out_of_memory
    from mtp_code.files import write_json

    sizes = sizes_of(batches, 256)
    if peers and 1 not in sizes:
        raise evals.errors.InputError(
            f"--peers: they answer one at a time; add 1 to --batches {batches}"
        )
    torch.set_num_threads(num_threads)
    trained = load_for_decoding(run, device, dtype)
    model, tokenizer = trained.model, trained.tokenizer
    weight = model.unembedding.weight
    asked = named_prompts(prompts, tokenizer, count, piece_tokens, model.config.context)
    requests = [Request(tokens, max_new_tokens) for tokens in asked.tokens]
    others = {}
    if peers:
        from mtp_code.interop.peers import transformers_peers

        others = transformers_peers(run, tokenizer.answer_ends, weight.device, weight.dtype)
    bandwidth = copy_bandwidth(weight.device)
    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    left_out: list[str] = []
    record = {
        **provenance(),
        "model": trained.description,
        **describe_place(model),
        "prompts": {"benchmark": asked.name, "count": len(requests)},
        "max_new_tokens": max_new_tokens,
        "batches": sizes,
        "num_threads": num_threads,
        "repeats": min(NUM_ROUNDS, len(requests)),
        "copy_bytes_per_s": bandwidth,
        "rows": rows,
        "synthetic": told,
        "left_out": left_out,
    }
    path = out or figures_folder(run) / f"decode-{asked.name}.json"

    def keep(found: list[dict[str, Any]]) -> None:
        write_json(path, record | {"rows": rows + found})

    for size in sizes:
        try:
            with progress_bar(f"decoding rounds, {size} side by side") as on_progress:
                rows += measure(
                    model, tokenizer, requests, on_progress, others if size == 1 else {}, size,
                    bandwidth, keep,
                )  # fmt: skip
            if synthetic:
                with progress_bar(f"drafts that stand as told, {size} side by side") as on_progress:
                    told += agreement(model, tokenizer, requests, size, on_progress)
        except Exception as error:
            if not is_failure(error, weight.device):
                raise
            if not isinstance(error, MachineError) and not is_out_of_memory(error):
                log.exception("%s side by side", size)
            left_out.append(f"{size} side by side: {first_line(error)}")
        if rows:
            write_json(path, record)
    if not rows:
        raise MachineError(left_out[0])
    title = f"{trained.description.get('run') or trained.description['model']}, {asked.name}"
    draw(rows, title, path.with_suffix(".svg"))
    for row in rows:
        typer.echo(_decode_line(row, len(requests), len(sizes) > 1))
    for row in rows:
        if row.get("parts_s"):
            typer.echo(_parts_line(row, len(sizes) > 1))
    for row in told:
        typer.echo(_told_line(row, len(sizes) > 1))
    for line in left_out:
        warn(f"left out: {line}")


@commands.command("decode-shapes")
def bench_decode_shapes(
    tokens_per_forward: Annotated[
        float, typer.Option(min=1, help="That as many drafts as there are heads for are to give.")
    ] = 3.5,
    shapes: Annotated[
        str | None, typer.Option(help="Recipes with commas. [default: what the machine is fit for]")
    ] = None,
    batches: Annotated[str | None, typer.Option(help="Rows side by side, with commas.")] = None,
    overrides: Overrides = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="A model of no use, in seconds.")] = False,
    minutes: Annotated[float, typer.Option(min=0, help="Nothing new begins behind them.")] = 8.0,
    num_threads: NumThreads = 1,
    out: Annotated[
        Path | None, to_write(what="JSON file to write, again with each shape and batch.")
    ] = None,
) -> None:
    """Decoding of shapes that nobody has trained.

    Random weights, drafts that stand as told; of the first shape transformers' generate beside
    them. A plot of each shape lies beside the file.
    """
    import torch

    from mtp_code.decoding.plot import draw
    from mtp_code.decoding.synthetic import measure
    from mtp_code.files import write_json
    from mtp_code.interop.peers import peer_of

    torch.set_num_threads(num_threads)
    about = {**provenance(), "num_threads": num_threads}

    def keep(record: dict[str, Any]) -> None:
        if out is not None:
            write_json(out, about | record)

    record = measure(
        "smoke" if smoke else None,
        tokens_per_forward,
        60 * minutes,
        lambda line: typer.echo(line, err=True),
        None if shapes is None else shapes.split(","),
        None if batches is None else sizes_of(batches, 256),
        overrides or (),
        keep,
        peer_of,
    )
    if out is not None:
        for shape in dict.fromkeys(row["shape"] for row in record["rows"]):
            own = [_as_plotted(row) for row in record["rows"] if row["shape"] == shape]
            title = f"{shape}, random weights, {record['device']}"
            draw(own, title, out.with_name(f"{out.stem}-{shape}.svg"))
    for row in record["rows"]:
        typer.echo(_shape_line(row))
    for line in record["left_out"]:
        typer.echo(line, err=True)
    if record["left_out"]:
        raise typer.Exit(1)


def _decode_line(row: dict[str, Any], num_prompts: int, names_batch: bool) -> str:
    offsets = " ".join(f"{rate:.2f}" for rate in row["acceptance_by_offset"])
    line = (
        f"{_way(row, names_batch):<26} {row['tokens_per_s']:7.0f} tok/s "
        f"| {row['tokens_per_forward']:.2f} a forward "
        f"| {row['speed_up']:.2f}× ({row['speed_up_low']:.2f}–{row['speed_up_high']:.2f}), "
        f"{row['cpu_speed_up']:.2f}× by CPU time, "
        f"{row['speed_up_of_tokens']:.2f} of what its tokens promise "
        f"| {row['identical_outputs']}/{num_prompts} identical"
    )
    if "share_of_bandwidth" in row:
        line += f" | {row['share_of_bandwidth']:.0%} of what memory allows"
    return line + (f" | accepted by offset {offsets}" if offsets else "")


def _way(row: dict[str, Any], names_batch: bool) -> str:
    name = row["mode"]
    if row["drafts"]:
        chosen = f"{row['drafts']} draft{'s' if row['drafts'] > 1 else ''}"
        name = f"speculative, {chosen if name == 'speculative' else name}"
    return f"{name}{_batch(row)}" if names_batch else name


def _batch(row: dict[str, Any]) -> str:
    return f", {row['batch_rows']} row{'s' if row['batch_rows'] > 1 else ''}"


def _parts_line(row: dict[str, Any], names_batch: bool) -> str:
    parts = row["parts_s"]
    listed = ", ".join(f"{part} {1000 * parts[part]:.2f}" for part in parts if parts[part])
    return (
        f"{_way(row, names_batch):<26} {1000 * sum(parts.values()):7.2f} ms a round by its parts: "
        f"{listed} | {1000 * row['round_s']:.2f} of wall clock, unwatched"
    )


def _told_line(row: dict[str, Any], names_batch: bool) -> str:
    from mtp_code.decoding.synthetic import AGREEMENT

    rows = _batch(row) if names_batch else ""
    drafts = f"{row['drafts']} draft{'s' if row['drafts'] > 1 else ''}"
    agrees = {True: "within", False: "NOT within", None: "its rounds too far apart for"}
    return (
        f"{drafts} as told{rows}: {row['ratio']:.3f}× "
        f"({row['ratio_low']:.3f}–{row['ratio_high']:.3f}) the heads' tokens a second, "
        f"{agrees[row['agrees']]} {100 * AGREEMENT:.0f} %, {row['cpu_ratio']:.3f}× by CPU time "
        f"| {row['tokens_per_forward_told']:.3f} a forward, theirs {row['tokens_per_forward']:.3f}"
    )


def _as_plotted(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a shape as one of `bench decode`."""
    drafts = row["drafts"]
    mode = ("speculative" if drafts else "plain") if isinstance(drafts, int) else drafts
    return {**row, "mode": mode, "batch_rows": row["rows"]}


def _shape_line(row: dict[str, Any]) -> str:
    line = (
        "{shape}, {rows} rows, drafts {drafts}: {tokens_per_s:.0f} tok/s | "
        "{tokens_per_forward:.2f} a forward | {speed_up:.2f}× ({speed_up_low:.2f}–"
        "{speed_up_high:.2f})".format_map(row)
    )
    if "cpu_speed_up" in row:
        line += ", {cpu_speed_up:.2f}× by CPU time".format_map(row)
    if "share_of_bandwidth" in row:
        line += " | {share_of_bandwidth:.0%} of copy bandwidth".format_map(row)
    if not row.get("is_captured", True):
        line += " | kernel by kernel: not recorded as a graph"
    return line
