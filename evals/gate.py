"""The rule of the CI check: is this score worse than the baseline, or is that noise?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from evals.compare import Comparison, compare
from evals.records import Baseline, Measured, Score, differences, write_record

ALPHA: Final = 0.05

Outcome = Literal["regression", "pass", "inconclusive"]

# What is not shown to be a regression stops no build.
_EXIT_STATUS: Final[dict[Outcome, int]] = {"pass": 0, "inconclusive": 0, "regression": 1}

_HEADLINES: Final[dict[Outcome, str]] = {
    "regression": "**regression**: the drop is significant and beyond the tolerance",
    "pass": "**pass**: no drop beyond the tolerance",
    "inconclusive": "**inconclusive**: too few tasks or samples to tell a drop from noise",
}


class GateResult(NamedTuple):
    """What the gate found.

    A regression is a drop that is significant and beyond the tolerance. It is a pass where the
    whole interval lies above that, and inconclusive otherwise. Newly failing are tasks of which
    some sample passed before and none does now.
    """

    outcome: Outcome
    comparison: Comparison
    tolerance: float
    num_tasks: int
    newly_failing: tuple[str, ...]
    newly_passing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        return _EXIT_STATUS[self.outcome]

    def markdown(self) -> str:
        """A few lines for a job's summary."""
        found = self.comparison
        interval = f"{_points(found.low)} to {_points(found.high)}"
        lines = [
            f"pass@1 {_HEADLINES[self.outcome]}",
            "",
            "| baseline | now | difference, 95 % interval over tasks | p | tolerance | tasks |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {_percent(found.before)} | {_percent(found.after)} "
            f"| {_points(found.difference)} ({interval}) | {found.p_drop:.3g} "
            f"| {_points(-self.tolerance)} | {self.num_tasks} |",
        ]
        if self.newly_failing:
            lines += ["", f"Newly failing: {_listed(self.newly_failing)}"]
        if self.newly_passing:
            lines += ["", f"Newly passing: {_listed(self.newly_passing)}"]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def gate(baseline: Measured, score: Measured, tolerance: float = 0.02) -> GateResult:
    """Hold a score to a baseline; `tolerance` is the drop of pass@1 that nobody minds.

    Raises:
        IncomparableError: the two differ in more than the model.
        ValueError: the tolerance is negative.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    comparison = compare(baseline, score)
    return GateResult(
        outcome=_outcome(comparison, tolerance),
        comparison=comparison,
        tolerance=tolerance,
        num_tasks=len(score.tasks),
        newly_failing=_newly_passing(score, baseline),
        newly_passing=_newly_passing(baseline, score),
        notes=tuple(_notes(comparison, tolerance, baseline, score)),
    )


def write_baseline(score: Score, path: Path) -> None:
    """Make a score what later ones are held to."""
    write_record(path, Baseline(**{name: getattr(score, name) for name in Baseline.model_fields}))


def _outcome(comparison: Comparison, tolerance: float) -> Outcome:
    if comparison.p_drop <= ALPHA and comparison.difference < -tolerance:
        return "regression"
    return "pass" if comparison.low >= -tolerance else "inconclusive"


def _newly_passing(before: Measured, after: Measured) -> tuple[str, ...]:
    return tuple(
        task_id
        for task_id, (_, passed) in after.tasks.items()
        if passed > 0 and before.tasks[task_id][1] == 0
    )


def _notes(
    comparison: Comparison, tolerance: float, baseline: Measured, score: Measured
) -> Iterator[str]:
    if comparison.low > tolerance:
        yield "A rise beyond the tolerance: if it is real, make this score the new baseline."
    for name, was, now in differences(baseline.versions, score.versions):
        yield f"{name} was {was} for the baseline and is {now} now."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _listed(task_ids: Sequence[str], at_most: int = 20) -> str:
    more = len(task_ids) - at_most
    return ", ".join(task_ids[:at_most]) + (f" and {more} more" if more > 0 else "")
