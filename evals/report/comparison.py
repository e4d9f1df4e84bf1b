"""What the main run's figures say against another's, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.compare import compare
from evals.errors import IncomparableError
from evals.report.inputs import Run
from evals.report.results import benchmark_names, by_k, is_near_zero, source_names
from evals.report.wording import decimal, plural, points_between, seconds
from evals.text import one_line

# Times this close count as equal: a run ends with the step that uses its time up.
EQUAL_TIME = 0.05


@dataclass(frozen=True)
class Finding:
    """`colour` is that of the run ahead; empty where none is."""

    what: str
    text: str
    colour: str


@dataclass(frozen=True)
class Comparison:
    title: str
    findings: Sequence[Finding]


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    return [
        Comparison(
            _title(runs[0], other),
            [
                *(
                    _pass_finding(name, runs[0], other)
                    for name in _shared_benchmarks(runs[0], other)
                ),
                *(
                    _bits_finding(source, runs[0], other)
                    for source in _shared_sources(runs[0], other)
                ),
            ],
        )
        for other in runs[1:]
    ]


def _title(main: Run, other: Run) -> str:
    times = [run.cpu_s for run in (main, other) if run.cpu_s]
    pair = f"{main.label} against {other.label}"
    if len(times) < 2:
        return pair
    spent = " and ".join(seconds(time) for time in times)
    is_equal = max(times) <= min(times) * (1 + EQUAL_TIME)
    return f"{pair}, at {'equal' if is_equal else 'different'} training time: {spent} of CPU"


def _shared_benchmarks(main: Run, other: Run) -> list[str]:
    return [name for name in benchmark_names([main]) if name in other.results]


def _shared_sources(main: Run, other: Run) -> list[str]:
    return [source for source in source_names([main]) if source in other.validation]


def _pass_finding(name: str, main: Run, other: Run) -> Finding:
    mine, theirs = main.results[name].score, other.results[name].score
    what = f"{name} pass@1"
    if all(is_near_zero(by_k(score)[-1][1]) for score in (mine, theirs)):
        return Finding(what, "both too close to 0 to compare.", "")
    try:
        paired = compare(theirs, mine)
    except IncomparableError as error:
        return Finding(what, f"not comparable: {one_line(str(error), 200)}.", "")
    figures = (
        f"{points_between(paired.difference, paired.low, paired.high)}, 95 % interval paired over "
        f"{plural(len(mine.tasks), 'task')}"
    )
    if paired.low <= 0 <= paired.high:
        return Finding(what, f"no clear difference: {figures}.", "")
    ahead = main if paired.difference > 0 else other
    return Finding(what, f"{ahead.label} is ahead: {figures}.", ahead.colour)


def _bits_finding(source: str, main: Run, other: Run) -> Finding:
    mine, theirs = (run.validation[source][-1].bits_per_byte for run in (main, other))
    what = f"bits per byte, {one_line(source, 30)}"
    figures = f"{decimal(mine, 3)} against {decimal(theirs, 3)}"
    if not mine < theirs and not theirs < mine:
        return Finding(what, f"equal: {figures}.", "")
    ahead = main if mine < theirs else other
    return Finding(what, f"{ahead.label} is lower (better): {figures}.", ahead.colour)
