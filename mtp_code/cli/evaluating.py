"""Commands over all stages of an evaluation."""

from pathlib import Path
from typing import Annotated, Any

import typer

import evals.errors
from evals.records import REFERENCE_BITS_FILE, SAMPLES_FILE, SCORES_FILE, VERDICTS_FILE
from mtp_code.cli.common import named_benchmark, require_sandbox
from mtp_code.cli.judging import judge, score
from mtp_code.cli.options import (
    BenchmarkName,
    InTier,
    KOption,
    NoSandbox,
    takes_options_of,
    to_write,
)
from mtp_code.cli.samplers import ModelName, SamplerName, default_folder
from mtp_code.cli.sampling import reference_bits, sample
from mtp_code.cli.show import warn
from sandbox import Tier

commands = typer.Typer()


@commands.command()
@takes_options_of(sample)
def evaluate(
    model: ModelName,
    benchmark: BenchmarkName,
    k: KOption = None,
    if_available: Annotated[
        bool, typer.Option("--if-available", help="Leave out a benchmark without its data.")
    ] = False,
    tier: InTier = Tier.FULL,
    unsafe_no_sandbox: NoSandbox = False,
    **drawing: Any,
) -> None:
    """Sample, judge and score a model on a benchmark.

    Of a run, the bits that it needs for the benchmark's own solutions as well.
    """
    # Before an hour of sampling, not after it.
    if k and max(k) > drawing["num_samples"]:
        raise evals.errors.InputError(
            f"--k {max(k)}: more than the {drawing['num_samples']} samples a task; "
            "raise --num-samples"
        )
    require_sandbox(tier, unsafe_no_sandbox)
    try:
        loaded = named_benchmark(benchmark)
    except evals.errors.BenchmarkUnavailable as error:
        if not if_available:
            raise
        warn(f"{benchmark} is left out: {error}")
        return
    sampler = drawing["sampler"]
    folder = drawing["out"] or default_folder(sampler, model) / loaded.name
    sample(model, benchmark, **drawing | {"out": folder})
    if sampler is SamplerName.MTP and any(task.reference for task in loaded.tasks):
        bits = folder / REFERENCE_BITS_FILE
        reference_bits(
            Path(model), benchmark, bits, drawing["prompt_format"],
            num_threads=drawing["num_threads"], device=drawing["device"], dtype=drawing["dtype"],
        )  # fmt: skip
    judge(folder / SAMPLES_FILE, benchmark, tier=tier, unsafe_no_sandbox=unsafe_no_sandbox)
    score(folder / VERDICTS_FILE, benchmark, k=k)


@commands.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first is the main one.")
    ],
    out: Annotated[Path, to_write(what="HTML file to write.")] = Path("report/index.html"),
) -> None:
    """Write a page of training, scores, samples and decoding.

    One HTML file that needs no other.
    """
    from evals.benchmarks import BENCHMARKS
    from evals.report import write_report

    judged = [name for name in BENCHMARKS if (runs[0] / "eval" / name / SCORES_FILE).exists()]
    prompts = {}
    for name in judged:
        try:
            prompts[name] = {task.task_id: task.prompt for task in named_benchmark(name).tasks}
        except evals.errors.MachineError as error:
            warn(f"{name}: samples are shown without their prompts: {error}")
    write_report(runs, out, prompts)
    typer.echo(f"report: {out.resolve()}")
