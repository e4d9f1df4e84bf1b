"""The rule of the CI check: is this score worse than the baseline, or is that noise?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from scipy import special

from evals.compare import Change, compare, unrecorded_fields
from evals.errors import IncomparableError
from evals.metrics import PASS_AT_1, Metric, holds_copies, outcomes_by_task
from evals.noise import POWER, detectable_drop
from evals.records import (
    VERDICT_LETTERS,
    Baseline,
    KeptSample,
    Measured,
    Range,
    Score,
    Strict,
    differences,
)
from evals.resampling import holm
from evals.text import one_line

ALPHA: Final = 0.05
TOLERANCE: Final = 0.02
MAX_TIMED_OUT: Final = 0.05

_MOST_SAMPLES: Final = 100  # times as many: beyond that, more samples are no way out
_ROUNDING: Final = 1e-9

Finding = Literal["regression", "pass", "inconclusive"]
Outcome = Literal["regression", "pass", "inconclusive", "incomparable", "unhealthy"]

EXIT_STATUS: Final[dict[Outcome, int]] = {
    "pass": 0,
    "regression": 1,
    "incomparable": 3,
    "inconclusive": 4,
    "unhealthy": 5,
}

Tolerances = Mapping[Metric, float]


class MetricResult(Strict):
    """What the gate found of one metric.

    A regression is a drop that is significant and beyond the tolerance, a pass one whose whole
    interval over samples lies above that. `p_holm` is `p_drop` raised for the other metrics
    tested beside it. `settled_by` is how many samples a task, for the baseline too, would settle
    it with a chance of 80 % if the difference is what it seems; None where no number would.
    """

    metric: str
    tolerance: float
    outcome: Finding
    before: float
    after: float
    difference: float
    over_samples: Range
    over_tasks: Range
    p_drop: float
    p_holm: float
    test: str
    detectable_drop: float | None
    settled_by: PositiveInt | None


class ChangedTask(Strict):
    """A task of which some sample passed on one side and none on the other, with one of each."""

    task_id: str
    num_samples: PositiveInt
    passed_before: NonNegativeInt
    passed_now: NonNegativeInt
    before: KeptSample | None
    now: KeptSample | None


class GateResult(Strict):
    """What the gate found; `problems` are why its outcome is not about the model."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    outcome: Outcome
    exit_status: int
    benchmark: str
    num_tasks: int
    num_samples: int
    metrics: tuple[MetricResult, ...] = ()
    newly_failing: tuple[ChangedTask, ...] = ()
    newly_passing: tuple[ChangedTask, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def gate(
    baseline: Baseline,
    score: Score,
    tolerances: Tolerances | None = None,
    max_timed_out: float = MAX_TIMED_OUT,
    samples: Callable[[], Mapping[str, KeptSample]] = dict,
    *,
    requires_sampling: bool = False,
) -> GateResult:
    """Hold a score to a baseline.

    A metric's tolerance is the drop that nobody minds. Where a share of samples larger by more
    than `max_timed_out` times out than did for the baseline, the judge is doubted, not the model.
    `samples` gives the score's own, to show beside the baseline's, once the two are known to be
    comparable. `requires_sampling` refuses what does not say in full how its samples were drawn,
    which is noted otherwise.

    Raises:
        IncomparableError: the two differ in more than the model, or may, by what is required.
        InputError: a metric needs more samples than there are, or was not recorded.
        ValueError: a tolerance is negative.
    """
    tolerances = tolerances or {PASS_AT_1: TOLERANCE}
    if min(tolerances.values()) < 0:
        raise ValueError(f"tolerances must be 0 or more, got {tolerances}")
    if requires_sampling:
        _require_recorded(baseline, score)
    metrics = tuple(_metric_results(baseline, score, tolerances))
    problems = tuple(_problems(baseline, score, max_timed_out))
    outcome: Outcome = "unhealthy" if problems else _worst(metrics)
    shown = samples()
    return GateResult(
        outcome=outcome,
        exit_status=EXIT_STATUS[outcome],
        benchmark=score.benchmark,
        num_tasks=score.num_tasks,
        num_samples=score.num_samples,
        metrics=metrics,
        newly_failing=_newly("failing", baseline, score, shown),
        newly_passing=_newly("passing", baseline, score, shown),
        problems=problems,
        warnings=tuple(_warnings(metrics)),
        notes=tuple(_notes(baseline, score)),
    )


def refused(score: Score, reason: str) -> GateResult:
    """The result where score and baseline cannot be compared."""
    return GateResult(
        outcome="incomparable",
        exit_status=EXIT_STATUS["incomparable"],
        benchmark=score.benchmark,
        num_tasks=score.num_tasks,
        num_samples=score.num_samples,
        problems=(reason,),
    )


def finding(change: Change, p_value: float, tolerance: float) -> Finding:
    """The rule for one metric."""
    if p_value <= ALPHA and change.difference < -tolerance - _ROUNDING:
        return "regression"
    return "pass" if change.over_samples.low >= -tolerance - _ROUNDING else "inconclusive"


def _require_recorded(baseline: Baseline, score: Score) -> None:
    for measured, whose in ((baseline, "for the baseline"), (score, "now")):
        if unrecorded := unrecorded_fields(measured):
            raise IncomparableError(
                f"how the samples were drawn is not recorded {whose} ({', '.join(unrecorded)}); "
                "put a sampling.json with these beside the samples"
            )


def _metric_results(
    baseline: Baseline, score: Score, tolerances: Tolerances
) -> Iterator[MetricResult]:
    compared = [compare(baseline, score, metric) for metric in tolerances]
    raised = holm([comparison.change.p_drop for comparison in compared])
    for metric, comparison, p_holm in zip(tolerances, compared, raised, strict=True):
        tolerance = tolerances[metric]
        change = comparison.change
        found = finding(change, p_holm, tolerance)
        alpha = ALPHA / len(compared)  # what Holm asks of the least of them
        yield MetricResult(
            metric=metric.name,
            tolerance=tolerance,
            outcome=found,
            before=change.before,
            after=change.after,
            difference=change.difference,
            over_samples=Range(low=change.over_samples.low, high=change.over_samples.high),
            over_tasks=Range(low=comparison.low, high=comparison.high),
            p_drop=change.p_drop,
            p_holm=p_holm,
            test=change.test,
            detectable_drop=_detectable_drop(baseline, metric, tolerance, alpha),
            settled_by=_settled_by(change, baseline, tolerance, alpha)
            if found == "inconclusive"
            else None,
        )


def _detectable_drop(
    baseline: Baseline, metric: Metric, tolerance: float, alpha: float
) -> float | None:
    outcomes = list(outcomes_by_task(baseline, metric).values())
    k = metric.k
    if holds_copies(baseline):
        outcomes, k = [each[:1] for each in outcomes], 1
    return detectable_drop(
        [(len(each), float(each.sum())) for each in outcomes], k, tolerance, alpha
    )


def _settled_by(change: Change, baseline: Baseline, tolerance: float, alpha: float) -> int | None:
    """Noise shrinks with the number of samples; what tasks gained and lost for good does not."""
    if holds_copies(baseline):
        return None
    num_samples = max(drawn for drawn, _ in baseline.tasks.values())
    error = change.over_samples.standard_error
    for_good = max(0.0, change.flipped_error**2 - error**2)

    def settles(times: float) -> bool:
        noise = error / math.sqrt(times)
        spare = special.ndtri(POWER) * noise
        if change.difference < -tolerance:
            significant = special.ndtri(1 - alpha) * math.sqrt(for_good + noise**2)
            return bool(-change.difference >= max(tolerance, significant) + spare)
        return bool(change.difference + tolerance >= special.ndtri(0.975) * noise + spare)

    return next(
        (
            num_samples + more
            for more in range(1, num_samples * _MOST_SAMPLES)
            if settles((num_samples + more) / num_samples)
        ),
        None,
    )


def _worst(metrics: Sequence[MetricResult]) -> Outcome:
    found = {metric.outcome for metric in metrics}
    if "regression" in found:
        return "regression"
    return "inconclusive" if "inconclusive" in found else "pass"


def _problems(baseline: Baseline, score: Score, max_timed_out: float) -> Iterator[str]:
    references = score.references
    if references and references.failed:
        task_id, verdict = next(iter(references.failed.items()))
        yield (
            f"{len(references.failed)} of {references.num_judged} reference solutions do not pass "
            f"({one_line(task_id)} first: {verdict}), so no verdict can be trusted; see to the "
            "machine and judge again"
        )
    if baseline.samples_sha256 == score.samples_sha256 and baseline.verdicts != score.verdicts:
        changed = [task for task, was in baseline.verdicts.items() if score.verdicts[task] != was]
        yield (
            f"these are the baseline's own samples, yet {len(changed)} tasks have other verdicts "
            f"({one_line(changed[0])} first): the judge has changed, not the model"
        )
    was, now = _share_timed_out(baseline), _share_timed_out(score)
    if now - was > max_timed_out:
        yield (
            f"{100 * now:.1f} % of the samples timed out, {100 * was:.1f} % for the baseline; "
            "judge again on a machine that is less busy, or raise the share that may time out "
            "if the programs do loop"
        )


def _share_timed_out(measured: Measured) -> float:
    letters = "".join(measured.verdicts.values())
    return letters.count(VERDICT_LETTERS["timed out"]) / len(letters)


def _newly(
    how: Literal["failing", "passing"],
    baseline: Baseline,
    score: Score,
    samples: Mapping[str, KeptSample],
) -> tuple[ChangedTask, ...]:
    """Those that changed most first."""
    changed = [
        ChangedTask(
            task_id=task_id,
            num_samples=drawn,
            passed_before=was,
            passed_now=now,
            before=baseline.samples.get(task_id),
            now=samples.get(task_id),
        )
        for task_id, (drawn, was) in baseline.tasks.items()
        for now in (score.tasks[task_id][1],)
        if (was > 0 and now == 0 if how == "failing" else was == 0 and now > 0)
    ]
    return tuple(
        sorted(
            changed, key=lambda task: -abs(task.passed_now - task.passed_before) / task.num_samples
        )
    )


def _warnings(metrics: Sequence[MetricResult]) -> Iterator[str]:
    for metric in metrics:
        if metric.over_samples.low > metric.tolerance:
            yield (
                f"{metric.metric} rose by {100 * metric.difference:.1f} points, beyond the "
                "tolerance: look for leaked tasks and broken checks; if it is real, make this "
                "score the new baseline"
            )


def _notes(baseline: Baseline, score: Score) -> Iterator[str]:
    # Of the baseline the same fields are not recorded, or the two would not be comparable.
    if unrecorded := unrecorded_fields(score):
        nothing = "nothing says" if score.sampling is None else "not all is recorded of"
        yield (
            f"{nothing} how these samples were drawn, nor the baseline's "
            f"({', '.join(unrecorded)}): other prompts or settings would pass for another model; "
            "put a sampling.json beside the samples"
        )
    if baseline.bits_per_byte is not None and score.bits_per_byte is not None:
        yield (
            f"bits per byte of the reference solutions: {baseline.bits_per_byte:.3f} for the "
            f"baseline, {score.bits_per_byte:.3f} now (lower is better)"
        )
    if score.weak:
        yield (
            f"{score.weak} of {score.num_samples} verdicts are weak, the programs' own word: their "
            "checks ran beside them"
        )
    if score.references is None:
        yield "no reference solutions were judged beside these: nothing vouches for the judge"
    for when, was_with, is_with in (
        ("sampling", _drawn_with(baseline), _drawn_with(score)),
        ("judging", baseline.versions, score.versions),
    ):
        for name, *both in differences(was_with, is_with):
            was, now = ("not recorded" if each is None else each for each in both)
            yield f"{name} when {when}: {was} for the baseline, {now} now"


def _drawn_with(measured: Measured) -> dict[str, Any]:
    """What drew the samples: versions, and of the model's description what is no other model."""
    sampling = measured.sampling
    if sampling is None:
        return {}
    engine = {name: sampling.model[name] for name in _OF_ENGINE if name in sampling.model}
    return engine | sampling.versions


_OF_ENGINE: Final = ("sampler", "device", "dtype")
