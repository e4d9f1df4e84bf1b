"""Commands that tell a regression from noise."""

import difflib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import evals.errors
from mtp_code.cli.common import samples_beside
from mtp_code.cli.options import JsonOut, to_write
from mtp_code.cli.show import progress_bar, warn

if TYPE_CHECKING:
    from evals.gate import GateResult
    from evals.metrics import Metric
    from evals.self_test import SelfTest

commands = typer.Typer()


class CheckByDefault(TyperGroup):
    """`gate SCORES …` is short for `gate check SCORES …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            args = ["check"]  # which says what it lacks
        elif args[0] not in (*self.commands, *ctx.help_option_names):
            is_misspelt = difflib.get_close_matches(args[0], self.commands)
            if not is_misspelt or Path(args[0]).exists():
                args = ["check", *args]
        return super().parse_args(ctx, args)


gate = typer.Typer(
    cls=CheckByDefault,
    help="Tell a regression from noise. `gate SCORES …` is short for `gate check SCORES …`.",
)
commands.add_typer(gate, name="gate")


Baseline = Annotated[Path, typer.Option("--baseline", help="What mtp-code baseline wrote.")]


Tolerance = Annotated[
    float, typer.Option("--tolerance", min=0, max=1, help="A drop that nobody minds.")
]


@commands.command()
def baseline(
    scores: Annotated[
        Path, typer.Argument(metavar="SCORES", help="Scores that later ones are held to.")
    ],
    out: Annotated[Path, to_write(what="Baseline file, to be kept in git.")],
    with_samples: Annotated[
        bool, typer.Option(help="Keep a sample of each task, to show what changed.")
    ] = True,
) -> None:
    """Make a score the baseline of the regression check."""
    from evals.baseline import write_baseline
    from evals.records import Score, read_record

    scored = read_record(Score, scores)
    write_baseline(scored, out, samples_beside(scores, scored) if with_samples else {})
    typer.echo(f"{out}: written")


@gate.command("check")
def gate_check(
    scores: Annotated[
        Path, typer.Argument(metavar="SCORES", help="Scores to hold to the baseline.")
    ],
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
    require_sampling: Annotated[
        bool,
        typer.Option(
            "--require-sampling", help="Refuse what does not say how its samples were drawn."
        ),
    ] = False,
    summary: Annotated[Path | None, typer.Option(help="Markdown file to append to.")] = None,
    json: JsonOut = None,
    junit: Annotated[Path | None, to_write(what="JUnit XML file to write.")] = None,
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
            lambda: samples_beside(scores, now),
            requires_sampling=require_sampling,
        )
    except evals.errors.IncomparableError as error:
        write(refused(now, str(error)))
        raise evals.errors.IncomparableError(
            f"{scores}: not comparable with {baseline}: {error}; sample and judge as for the "
            "baseline, or make a new one"
        ) from None
    write(result)
    typer.echo(gate_report.in_words(result))
    for warning in result.warnings:
        warn(warning)
    raise typer.Exit(result.exit_status)


@gate.command("self-test")
def gate_self_test(
    baseline: Baseline,
    tolerance: Tolerance = 0.02,
    metric: Annotated[str, typer.Option(help="pass@K, 'base pass@K' or parsed.")] = "pass@1",
    drop: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="A drop to try. Repeatable. [default: 1, 2, 5, 10 points]",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=100)] = 1000,
    seed: int = 0,
    json: JsonOut = None,
) -> None:
    """Try the gate on a baseline against itself.

    False alarms, and drops of known size. Exit status: 0 where false alarms stay within 5 % and 80
    % of the drops called detectable are found, 1 where not.
    """
    from evals.metrics import metric_named
    from evals.records import Baseline, read_record, write_record
    from evals.self_test import self_test

    with progress_bar("gate self-test") as on_progress:
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
        try:
            named = metric_named(name)
        except evals.errors.InputError as error:
            raise evals.errors.InputError(f"--metric {error}") from None
        if named in tolerances:
            raise evals.errors.InputError(f"--metric {name}: given twice; which tolerance holds?")
        tolerances[named] = tolerance
    return tolerances


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
