"""Commands over all stages of an evaluation."""

from pathlib import Path
from typing import Annotated

import typer

import evals.errors
from evals.records import REFERENCE_BITS_FILE, SAMPLES_FILE, SCORES_FILE, VERDICTS_FILE
from mtp_code.cli.common import named_benchmark, require_sandbox
from mtp_code.cli.judging import judge, score
from mtp_code.cli.options import (
    BenchmarkName,
    InTier,
    NoSandbox,
    PostProcessingName,
    PromptFormatName,
)
from mtp_code.cli.samplers import (
    OPENAI_KEY,
    OPENAI_URL,
    ApiKeyEnv,
    Dtype,
    Endpoint,
    Heads,
    MaxConcurrent,
    ModelName,
    RequestsPerMinute,
    Revision,
    SamplerName,
    SamplerOption,
    default_folder,
)
from mtp_code.cli.sampling import reference_bits, sample
from mtp_code.cli.show import warn
from sandbox import Tier

commands = typer.Typer()


@commands.command()
def evaluate(
    model: ModelName,
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
    sampler: SamplerOption = SamplerName.MTP,
    revision: Revision = None,
    dtype: Dtype = "auto",
    heads: Heads = None,
    endpoint: Endpoint = OPENAI_URL,
    api_key_env: ApiKeyEnv = OPENAI_KEY,
    max_concurrent: MaxConcurrent = 8,
    requests_per_minute: RequestsPerMinute = None,
) -> None:
    """Sample, judge and score a model on a benchmark; of a run, its own solutions' bits as well."""
    # Before an hour of sampling, not after it.
    if k and max(k) > num_samples:
        raise evals.errors.InputError(
            f"--k {max(k)}: more than the {num_samples} samples a task; raise --num-samples"
        )
    require_sandbox(tier, unsafe_no_sandbox)
    try:
        loaded = named_benchmark(benchmark)
    except evals.errors.BenchmarkUnavailable as error:
        if not if_available:
            raise
        warn(f"{benchmark} is left out: {error}")
        return
    folder = out or default_folder(sampler, model) / loaded.name
    sample(
        model,
        benchmark,
        folder,
        num_samples,
        temperature,
        top_p,
        max_new_tokens,
        seed,
        prompt_format=prompt_format,
        post_processing=post_processing,
        sampler=sampler,
        revision=revision,
        dtype=dtype,
        heads=heads,
        endpoint=endpoint,
        api_key_env=api_key_env,
        max_concurrent=max_concurrent,
        requests_per_minute=requests_per_minute,
    )
    if sampler is SamplerName.MTP and any(task.reference for task in loaded.tasks):
        reference_bits(Path(model), benchmark, folder / REFERENCE_BITS_FILE, prompt_format)
    judge(folder / SAMPLES_FILE, benchmark, tier=tier, unsafe_no_sandbox=unsafe_no_sandbox)
    score(folder / VERDICTS_FILE, benchmark, k=k)


@commands.command()
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
            prompts[name] = {task.task_id: task.prompt for task in named_benchmark(name).tasks}
        except evals.errors.MachineError as error:
            warn(f"{name}: samples are shown without their prompts: {error}")
    write_report(runs, out, prompts)
    typer.echo(f"report: {out.resolve()}")
