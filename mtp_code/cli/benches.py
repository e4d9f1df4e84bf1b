"""Commands that measure, side by side in one run."""

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import evals.errors
from mtp_code.cli import decode_benches
from mtp_code.cli.common import all_references, named_benchmark, provenance, require_sandbox
from mtp_code.cli.options import (
    BenchmarkName,
    Device,
    Dtype,
    ModelDir,
    NumThreads,
    Overrides,
    named_of,
    sizes_of,
    to_write,
)
from mtp_code.cli.samplers import figures_folder
from mtp_code.cli.show import progress_bar, short_size, table_console
from mtp_code.cli.trained_bench import trained_lines
from mtp_code.errors import InputError

if TYPE_CHECKING:
    from evals.coverage import Condition
    from mtp_code.decoding.engine import NumDrafts


class ByName(TyperGroup):
    """Commands listed by name, whichever module they are in."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx))


bench = typer.Typer(cls=ByName, no_args_is_help=True, help="Measure, side by side in one run.")
bench.add_typer(decode_benches.commands)
commands = typer.Typer()
commands.add_typer(bench, name="bench")


@bench.command("exactness")
def bench_exactness(
    run: ModelDir,
    drafts: Annotated[
        str | None, typer.Option(help="With commas. [default: each number, auto, tree, auto tree]")
    ] = None,
    batches: Annotated[str, typer.Option(help="Sizes with commas.")] = "1,3,8",
    count: Annotated[int | None, typer.Option(min=1, help="Prompts. [default: all]")] = None,
    others: Annotated[int, typer.Option(min=0, help="Prompts of micro beside.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    draws: Annotated[int, typer.Option(min=0, help="Samples held to their law; 0: none.")] = 10**6,
    peers: Annotated[bool, typer.Option(help="transformers' generate too.")] = True,
    num_threads: NumThreads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[Path | None, to_write(what="[default: RUN/exactness.json]")] = None,
) -> None:
    """Answers held to plain decoding's, samples to their law.

    Below fp32, an answer may part from plain decoding's at a near-tie; where all forwards have one
    shape, none may. The law is held in fp32.
    """
    import torch

    from mtp_code.decoding.exactness import LEAST_DRAWS, check_law, compare_tokens
    from mtp_code.decoding.prepare import describe_place, load_for_decoding
    from mtp_code.decoding.tree import Tree
    from mtp_code.files import write_json

    if 0 < draws < LEAST_DRAWS:
        raise evals.errors.InputError(f"--draws {draws}: expected 0, or at least {LEAST_DRAWS}")
    torch.set_num_threads(num_threads)
    trained = load_for_decoding(run, device, dtype)
    weight = trained.model.unembedding.weight
    most = trained.model.num_mtp_heads - 1
    known: dict[str, NumDrafts] = {str(k): k for k in range(1, most + 1)}
    known["auto"] = "auto"
    if most and not trained.model.mtp_heads.reads_tokens:
        known |= {"tree": Tree.product((3, 2, 2)[:most]), "auto tree": "tree"}
    chosen = named_of("--drafts", drafts, known)
    sizes = sizes_of(batches, 256)
    asked = {
        "humaneval": named_benchmark("humaneval").tasks[:count],
        "micro": named_benchmark("micro").tasks[:others],
    }
    tasks = [task for of_one in asked.values() for task in of_one]
    prompts = [trained.tokenizer.encode_prompt(task.prompt) for task in tasks]
    others_decode = {}
    if peers:
        from mtp_code.interop.peers import transformers_peers

        name = "transformers generate"
        others_decode[name] = transformers_peers(
            run, trained.tokenizer.answer_ends, weight.device, weight.dtype
        )[name]
    rows: list[dict[str, Any]] = []
    laws: list[dict[str, Any]] = []
    record = {
        **provenance(),
        "model": trained.description,
        **describe_place(trained.model),
        "prompts": {name: len(of_one) for name, of_one in asked.items()},
        "max_new_tokens": max_new_tokens,
        "rows": rows,
        "laws": laws,
    }
    path = out or figures_folder(run) / "exactness.json"
    with progress_bar("ways to decode") as on_progress:
        for row in compare_tokens(
            trained.model, trained.tokenizer, prompts, max_new_tokens, chosen, sizes,
            others_decode, on_progress,
        ):  # fmt: skip
            rows.append(row)
            write_json(path, record)
    if draws:
        with progress_bar("settings of sampling") as on_progress:
            laws += check_law(draws, on_progress, weight.device)
        write_json(path, record)
    for line in _exactness_lines(rows, laws):
        typer.echo(line)
    wrong = sum(row["differences"] for row in rows if row["holds"] is False)
    failed = sum(not row["holds"] for row in laws)
    if wrong or failed:
        typer.echo(f"not exact: {wrong} answers differ, {failed} laws do not hold", err=True)
        raise typer.Exit(1)


@bench.command("vllm")
def bench_vllm(
    exported: Annotated[Path, typer.Argument(metavar="EXPORT", help="What mtp-code export wrote.")],
    benchmark: BenchmarkName = "micro",
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 64,
    batches: Annotated[str, typer.Option(help="Sizes with commas.")] = "1,4,16",
    rounds: Annotated[int, typer.Option(min=1, help="Both engines answer once in each.")] = 9,
    out: Annotated[Path | None, to_write()] = None,
) -> None:
    """vLLM drafting with our heads against vLLM without.

    Greedily, in fp32.
    """
    from evals.sampling import Request, sample_seed
    from mtp_code.files import write_json
    from mtp_code.interop.vllm import require_vllm
    from mtp_code.interop.vllm.bench import lines, measure
    from mtp_code.machine import describe_versions
    from mtp_code.samplers.hub import HubTokenizer, describe

    version = require_vllm()
    loaded = named_benchmark(benchmark)
    sizes = sizes_of(batches, len(loaded.tasks))
    tokenizer = HubTokenizer(str(exported / "main"), None)
    prompts = [
        tokenizer.encode(Request(task.task_id, 0, task.prompt, (), sample_seed(0, task.task_id, 0)))
        for task in loaded.tasks[: max(sizes)]
    ]
    with progress_bar("rounds") as on_progress:
        rows = measure(exported, prompts, max_new_tokens, sizes, rounds, on_progress)
    record = {
        **provenance(),
        "versions": {**describe_versions(), "vllm": version},
        "model": {part: describe(str(exported / part), None, None) for part in ("main", "heads")},
        "prompts": loaded.name,
        "max_new_tokens": max_new_tokens,
        "rows": rows,
    }
    if out is not None:
        write_json(out, record)
    for line in lines(rows):
        typer.echo(line)


@bench.command("train")
def bench_train(
    smoke: Annotated[bool, typer.Option("--smoke", help="A model of no use, in seconds.")] = False,
    minutes: Annotated[float, typer.Option(min=0, help="No measurement begins after these.")] = 9.0,
    sections: Annotated[
        str | None,
        typer.Option(
            help="Names with commas: gradients, steps, vocabulary, trained, losses, attention, "
            "predictions. [default: all, in this order]"
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Pairs of steps. [default: 5; 1 of --smoke]")
    ] = None,
    num_threads: NumThreads = 1,
    keep_dir: Annotated[
        Path | None,
        typer.Option("--keep", help="Folder, new or empty, that the trained models are kept in."),
    ] = None,
    out: Annotated[
        Path | None, to_write(what="JSON file to write, again with each figure.")
    ] = None,
) -> None:
    """Training steps by heads, vocabulary and precision.

    By loss too; and a model trained, sampled and judged. Exit status 1: a part that was asked for
    is missing.
    """
    import torch

    from mtp_code.cli.trained_bench import PLANS, SHARE_OF_BENCH, TrainedBench
    from mtp_code.files import write_json
    from mtp_code.training.bench import Bench, Section

    if keep_dir is not None and keep_dir.exists():
        if not keep_dir.is_dir():
            raise InputError(f"--keep {keep_dir}: a file; give a folder that is new or empty")
        if any(keep_dir.iterdir()):
            raise InputError(f"--keep {keep_dir}: is not empty; give a folder that is new or empty")
    torch.set_num_threads(num_threads)
    measuring = Bench(
        "smoke" if smoke else None,
        60 * minutes,
        lambda line: typer.echo(line, err=True),
        num_rounds=rounds,
    )
    about = {**provenance(), "num_threads": num_threads}

    def keep(record: dict[str, Any]) -> None:
        if out is not None:
            write_json(out, about | record)

    with tempfile.TemporaryDirectory(prefix="mtp-code-bench-") as scratch:
        folder = Path(scratch) if keep_dir is None else keep_dir
        trained = TrainedBench(
            PLANS[measuring.size], folder, measuring.left_s, measuring.fastest_step_s
        )
        known = measuring.sections()
        first = ("gradients", "steps", "vocabulary")
        known = (
            {name: known[name] for name in first}
            | {"trained": Section(trained.rows, SHARE_OF_BENCH)}
            | known
        )
        record = measuring.run(named_of("--sections", sections, known), keep)
    for line in _train_lines(record):
        typer.echo(line)
    errors = list(_train_errors(record))
    for error in errors:
        typer.echo(error, err=True)
    if errors:
        raise typer.Exit(1)


@bench.command("serve")
def bench_serve(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder, an export, or a model of transformers.", metavar="RUN"),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Instead: a recipe, whose model gets random weights.")
    ] = None,
    overrides: Overrides = None,
    benchmark: BenchmarkName = "micro",
    count: Annotated[int, typer.Option(min=1, help="Prompts a round.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    clients: Annotated[int, typer.Option(min=1, help="As many rows has the engine.")] = 16,
    drafts: Annotated[
        int | None, typer.Option(min=0, help="Drafts a round. [default: 3; 0 with --shape]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every way answers all.")] = 5,
    num_threads: NumThreads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[Path | None, to_write()] = None,
) -> None:
    """The server with clients against the engine alone.

    On the same greedy requests. Random weights hardly ever end an answer, so that all are of
    --max-new-tokens, and agree with no draft.
    """
    from mtp_code.serving.extra import require_client, require_extra

    require_extra()
    require_client()
    if (run is None) == (shape is None):
        raise InputError("bench serve: give a RUN or a --shape, one of them")
    if overrides and shape is None:
        raise InputError("--set: overrides a recipe's values; give its --shape")
    if drafts is None:
        drafts = 3 if shape is None else 0
    import torch

    from mtp_code.decoding.prepare import describe_place, load_for_decoding
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions
    from mtp_code.serving.bench import measure, write_untrained

    torch.set_num_threads(num_threads)
    loaded = named_benchmark(benchmark)
    prompts = [task.prompt for task in loaded.tasks[:count]]
    with tempfile.TemporaryDirectory(prefix="mtp-code-bench-") as scratch:
        if run is None:
            assert shape is not None
            from mtp_code.recipe import load_recipe

            recipe = load_recipe(shape, overrides or ())
            run = Path(scratch) / recipe.name
            write_untrained(run, recipe.model, prompts)
        trained = load_for_decoding(run, device, dtype)
        with progress_bar("serving rounds") as on_progress:
            rows = measure(
                run, trained, prompts, max_new_tokens, clients, drafts, rounds, num_threads,
                device, dtype, on_progress,
            )  # fmt: skip
    record = {
        **provenance(),
        "versions": describe_versions(),
        "model": trained.description,
        **describe_place(trained.model),
        "prompts": {"benchmark": loaded.name, "count": len(prompts)},
        "max_new_tokens": max_new_tokens,
        "clients": clients,
        "drafts": drafts,
        "num_threads": num_threads,
        "repeats": rounds,
        "rows": rows,
    }
    if out is not None:
        write_json(out, record)
    for row in rows:
        typer.echo(
            f"{row['way']:<17} {row['tokens_per_s']:7.0f} tok/s | {row['throughput']:.2f}× "
            f"({row['throughput_low']:.2f}–{row['throughput_high']:.2f}) of the engine's "
            f"| {row['throughput_of_engine']:.2f}× by CPU time of what decodes, "
            f"{row['throughput_of_cpu']:.2f}× of all of the server "
            f"| {row['identical_outputs']}/{len(prompts)} identical"
        )


@bench.command("sandbox")
def bench_sandbox(
    rounds: Annotated[int, typer.Option(min=1, help="In each, every tool judges all tasks.")] = 5,
    peers: Annotated[str, typer.Option(help="Names with commas, all or none.")] = "all",
    evalplus_python: Annotated[
        Path | None, typer.Option(help="An interpreter that has EvalPlus. [default: this one]")
    ] = None,
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Instead: 32 workers on two cores, five times.")
    ] = False,
    soak: Annotated[
        int | None, typer.Option(min=1, help="Instead: so many samples, one in 20 hostile.")
    ] = None,
    out: Annotated[Path | None, to_write()] = None,
) -> None:
    """The sandbox beside other harnesses, and beside itself.

    Exit status 1 is a broken promise. Speed that is missed breaks none: that may be the machine's.
    """
    from evals.sandbox_bench import run, tables
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    if fairness and soak:
        raise evals.errors.InputError("--fairness and --soak: one at a time; leave one out")
    require_sandbox()
    record = provenance() | {"versions": describe_versions()}
    with progress_bar("judging") as on_progress:
        if fairness:
            record |= run.crowd(on_progress)
        elif soak:
            record |= run.last(soak, on_progress)
        else:
            names = {"all": run.ALL_PEERS, "none": ()}.get(peers, tuple(peers.split(",")))
            record |= run.compare(rounds, names, evalplus_python, on_progress)
    if out is not None:
        write_json(out, record)
    console = table_console()
    for table in tables.tables(record):
        console.print(table)
    if (fairness or soak) and any(target["is_met"] is False for target in record["targets"]):
        raise typer.Exit(1)


@bench.command("data")
def bench_data(
    rounds: Annotated[int, typer.Option(min=1, help="Of which the middle one counts.")] = 3,
    vocab_size: Annotated[int, typer.Option(min=257, help="Of the BPE.")] = 32_000,
    out: Annotated[Path | None, to_write()] = None,
) -> None:
    """How fast data is prepared, what decontamination finds.

    The data is the standard library.
    """
    from mtp_code.data import bench as data_bench
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    references = all_references()
    with progress_bar("preparing") as on_progress:
        record = provenance() | {"versions": describe_versions()}
        record |= data_bench.run(references, rounds, vocab_size, on_progress)
    if out is not None:
        write_json(out, record)
    for line in data_bench.lines(record):
        typer.echo(line)


@bench.command("judge")
def bench_judge(
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Verdicts beside the reference harnesses' own.")
    ] = False,
    load: Annotated[
        bool, typer.Option("--load", help="Verdicts beside three busy processes a core.")
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Time and memory beside other harnesses.")
    ] = False,
    benchmarks: Annotated[
        str, typer.Option(help="Of --agreement: names with commas.")
    ] = "humaneval,mbpp@all,humaneval+,mbpp+",
    mutants: Annotated[int, typer.Option(min=0, help="Of --agreement, a benchmark.")] = 3000,
    answers: Annotated[
        int, typer.Option(min=0, help="Of --agreement: chat answers, for their code.")
    ] = 400,
    repeats: Annotated[int, typer.Option(min=1, help="Of --load.")] = 10,
    samples: Annotated[int, typer.Option(min=1, help="Of --load.")] = 3000,
    rounds: Annotated[int, typer.Option(min=1, help="Of --speed.")] = 3,
    samples_per_task: Annotated[int, typer.Option(min=1, help="Of --speed.")] = 10,
    evalplus_python: Annotated[
        Path | None, typer.Option(help="An interpreter that has EvalPlus. [default: this one]")
    ] = None,
    out: Annotated[Path | None, to_write()] = None,
) -> None:
    """The judge beside reference harnesses.

    Exit status 1 is a broken promise. Without an option that says which, all three parts are
    measured. Speed that is missed breaks no promise: that may be the machine's.
    """
    from evals.judge_bench import run, tables
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    everything = not (agreement or load or speed)
    wishes = run.Wishes(
        agreement_on=benchmarks.split(",") if agreement or everything else (),
        num_mutants=mutants,
        num_answers=answers if agreement or everything else None,
        num_repeats=repeats if load or everything else None,
        num_samples=samples,
        num_rounds=rounds if speed or everything else None,
        samples_per_task=samples_per_task,
    )
    require_sandbox()
    command = [sys.executable, "-m", "mtp_code.cli", "judge", "--no-cache", "--no-count-checks"]
    with progress_bar("judging") as on_progress:
        measured = run.measure(wishes, command, evalplus_python, on_progress)
    record = provenance() | {"versions": describe_versions()} | measured
    if out is not None:
        write_json(out, record)
    console = table_console()
    for table in tables.tables(record):
        console.print(table)
    if run.breaks_a_promise(record):
        raise typer.Exit(1)


@bench.command("intervals")
def bench_intervals(
    simulations: Annotated[int, typer.Option(min=100, help="For each condition.")] = 2000,
) -> None:
    """Do the statistics hold?

    The estimator against exact arithmetic, and how often the intervals hold the truth.
    """
    from evals import coverage

    error, num_cases = coverage.worst_error()
    typer.echo(f"pass@k: off by {error:.1e} at most in {num_cases:,} cases of n ≤ 1,000")
    typer.echo(f"95 % intervals over tasks and over samples, {simulations:,} simulations each:")
    for condition in coverage.CONDITIONS:
        typer.echo(_coverage_line(condition, coverage.coverage(condition, simulations)))
    typer.echo("the same of a difference, over samples:")
    for condition in coverage.DIFFERENCES:
        covered = coverage.coverage_of_difference(condition, simulations)
        typer.echo(_coverage_line(condition, [covered]))
    typer.echo("where hardly a task tells anything, they do not hold:")
    for condition in coverage.LIMITS:
        typer.echo(_coverage_line(condition, coverage.coverage(condition, simulations)))


def _exactness_lines(rows: list[dict[str, Any]], laws: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        name = row.get("peer") or "{drafts} drafts, {rows} rows".format_map(row)
        line = "{differences} of {requests} answers differ | {tokens} tokens".format_map(row)
        if row.get("is_exact"):
            line += " | all forwards of one shape"
        if gaps := [one["gap_ulps"] for one in row["first_differences"] if "gap_ulps" in one]:
            line += f" | they part at tokens within {max(gaps):.1f} ulps"
        if "stops_inside_drafts" in row:
            line += " | {stops_inside_drafts} ended inside a draft".format_map(row)
        lines.append(f"{name:<26}{line}")
    for row in laws:
        setting = "law at {temperature}, top-p {top_p}, drafts {drafts}".format_map(row)
        name = row["fault"] or setting + (f", top-k {row['top_k']}" if row["top_k"] else "")
        lines.append(f"{name:<48} p = {row['p_value']:<8.3g} | {row['draws']:,} draws")
    return lines


def _train_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What `bench train` found, in words; what failed is among the errors."""
    for row in _rows(record, "gradients"):
        yield (
            f"{row['shape']} {row['precision']} | gradients {row['distance']:.2g} from fp64, the "
            f"worst parameter's {row['worst_parameter']:.2g}"
        )
    for row in _rows(record, "steps"):
        yield (
            f"{row['shape']} V={row['vocab_size']} n={row['num_mtp_heads']} | "
            f"{row['overhead']:.3f}x the next-token step | {row['flops_ratio']:.3f}x its "
            f"arithmetic | {row['over_flop_matched']:.3f}x of FLOP-matched | "
            f"{len(row['over_flop_matched_each'])} pairs | {_speed(row)}"
        )
    for row in _rows(record, "vocabulary"):
        yield (f"{row['shape']} V={row['vocab_size']} n={row['num_mtp_heads']} | {_speed(row)}")
    for row in _rows(record, "trained"):
        yield from trained_lines(row)
    for row in _rows(record, "losses"):
        found = f"left out: {row['left_out']}" if "left_out" in row else None
        if "step_s" in row:
            found = f"{_speed(row)} | gradients {row['distance']:.2g} from fp64"
        if found is not None:
            yield f"{row['shape']} loss {row['loss']} | {found}"
    for row in _rows(record, "attention"):
        apart = f" | {row['distance']:.2g} from dense" if "distance" in row else ""
        yield f"{row['shape']} attention {row['attention']} | {_speed(row)}{apart}"
    for row in _rows(record, "predictions"):
        measured = (
            "" if row["peak_bytes"] is None else f" | measured {short_size(row['peak_bytes'])}"
        )
        yield (
            f"{row['shape']} V={row['vocab_size']} n={row['num_mtp_heads']} | peak predicted "
            f"{short_size(row['predicted_peak_bytes'])}{measured}"
        )


def _train_errors(record: Mapping[str, Any]) -> Iterator[str]:
    """What failed, is missing or broke a bound, of a section or a row of it."""
    for name, part in record.items():
        if not isinstance(part, dict) or "rows" not in part:
            continue
        if "error" in part:
            yield f"{name}: {part['error']}"
        for row in part["rows"]:
            error = row.get("error", row.get("left_out") if name == "trained" else None)
            about = (row[key] for key in ("shape", "precision", "loss", "attention") if key in row)
            if error is not None:
                yield f"{' '.join((name, *about))}: {error}"


def _rows(record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = record.get(name, {"rows": []})["rows"]
    return rows


def _speed(row: Mapping[str, Any]) -> str:
    """Of a step, as far as it is known."""
    known = [f"{1000 * row['step_s']:.1f} ms"]
    if "tokens_per_s" in row:
        known.append(f"{row['tokens_per_s'] / 1000:.1f}k tok/s")
    if "mfu" in row:
        known.append(f"{100 * row['mfu']:.1f} % MFU")
    if "peak_bytes" in row:
        known.append(f"peak {short_size(row['peak_bytes'])}")
    return ", ".join(known)


def _coverage_line(condition: "Condition", covered: "Iterable[float | None]") -> str:
    shared = f" of {condition.num_origins} origins" if condition.num_origins else ""
    shares = ["—" if share is None else f"{100 * share:.1f} %" for share in covered]
    return (
        f"  {condition.num_tasks} tasks{shared} × {condition.num_samples}, pass@{condition.k} "
        f"of {100 * condition.mean_pass_at_k:.0f} %: {', '.join(shares)}"
    )
