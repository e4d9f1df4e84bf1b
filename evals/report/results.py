"""What the runs scored: figures at a glance, every pass@k with its interval, runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evals.records import VERDICT_NAMES, Estimate, Score
from evals.report.inputs import Run
from evals.report.wording import (
    count,
    decimal,
    percent,
    percent_between,
    plural,
    rounded,
    seconds,
    timed_out,
    weak,
)
from evals.text import one_line

MAKE_TARGETS = {
    "micro": "make eval-micro",
    "humaneval": "make eval-humaneval",
    "mbpp": "make eval-mbpp",
}
BENCHMARK_ORDER = ("micro", "micro-hard", "humaneval", "mbpp")

# A pass rate known to lie under this says that the benchmark is out of the model's reach.
NEAR_ZERO = 0.05
# Up to this size, trained as such models are, a score of 0 on HumanEval is what to expect.
SMALL_MODEL_PARAMETERS = 100_000_000


@dataclass(frozen=True)
class Other:
    """The same figure of another run, beside the main one's."""

    label: str
    colour: str
    text: str


@dataclass(frozen=True)
class Tile:
    what: str
    value: str
    detail: str
    others: Sequence[Other]


@dataclass(frozen=True)
class ResultRow:
    """`checks` tells base checks from all of them, where those are apart; else it is empty."""

    run: Run
    k: int
    checks: str
    estimate: Estimate
    text: str
    detail: str


@dataclass(frozen=True)
class BenchmarkResults:
    name: str
    counts: str
    rows: Sequence[ResultRow]
    notes: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """`value` is the file's own number, for whoever reads the page by program."""

    text: str
    value: float | None = None
    mark: str = ""  # "lowest", where that is better


@dataclass(frozen=True)
class TableRow:
    what: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class TableGroup:
    name: str
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class VerdictRow:
    name: str
    colour: str
    counts: Sequence[int | None]
    shares: Sequence[float | None]


@dataclass(frozen=True)
class BenchmarkVerdicts:
    name: str
    runs: Sequence[Run]
    totals: Sequence[int]
    rows: Sequence[VerdictRow]


NOT_MEASURED = Cell("—")


def benchmark_names(runs: Iterable[Run]) -> list[str]:
    names = {name for run in runs for name in run.results}
    known = [name for name in BENCHMARK_ORDER if name in names]
    return known + sorted(names.difference(BENCHMARK_ORDER))


def source_names(runs: Iterable[Run]) -> list[str]:
    return sorted({source for run in runs for source in run.validation})


def counts_of(score: Score) -> str:
    """`164 tasks × 20 samples`, or the total where tasks have different numbers."""
    num_samples = [num for num, _ in score.tasks.values()]
    tasks = plural(len(num_samples), "task")
    if len(set(num_samples)) == 1:
        return f"{tasks} × {plural(num_samples[0], 'sample')}"
    return f"{tasks}, {plural(sum(num_samples), 'sample')}"


def estimate_text(estimate: Estimate) -> str:
    return percent_between(estimate.value, estimate.low, estimate.high)


def tiles(runs: Sequence[Run]) -> list[Tile]:
    main, others = runs[0], runs[1:]
    shown: list[Tile] = []
    for name in benchmark_names([main]):
        score = main.results[name].score
        k, estimate = next(iter(by_k(score)))
        shown.append(
            Tile(
                f"{name} pass@{k}",
                percent(estimate.value),
                f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f} · {counts_of(score)}",
                [
                    Other(
                        run.label,
                        run.colour,
                        estimate_text(run.results[name].score.pass_at_k[str(k)]),
                    )
                    for run in others
                    if name in run.results and str(k) in run.results[name].score.pass_at_k
                ],
            )
        )
    for source, rows in main.validation.items():
        shown.append(
            Tile(
                f"bits per byte, {one_line(source, 30)}",
                decimal(rows[-1].bits_per_byte, 3),
                f"held-out files, after {rounded(rows[-1].tokens)} tokens",
                [
                    Other(
                        run.label, run.colour, decimal(run.validation[source][-1].bits_per_byte, 3)
                    )
                    for run in others
                    if source in run.validation
                ],
            )
        )
    for decode in main.decodes:
        speculative = [row for row in decode.rows if row.drafts]
        if not speculative:
            continue
        best = max(speculative, key=lambda row: row.speed_up)
        shown.append(
            Tile(
                f"decoding speed-up, {one_line(decode.prompts.benchmark, 40)}",
                f"{best.speed_up:.2f}×",
                f"{best.speed_up_low:.2f}–{best.speed_up_high:.2f} · "
                f"{best.tokens_per_forward:.2f} tokens per forward",
                [],
            )
        )
    return shown


def by_k(score: Score) -> list[tuple[int, Estimate]]:
    return sorted((int(k), estimate) for k, estimate in score.pass_at_k.items())


def results(runs: Sequence[Run]) -> list[BenchmarkResults]:
    shown = []
    for name in benchmark_names(runs):
        scores = [(run, run.results[name].score) for run in runs if name in run.results]
        rows = [
            ResultRow(run, int(k), checks, estimate, estimate_text(estimate), _result_detail(score))
            for run, score in scores
            for checks, estimates in _by_checks(score).items()
            for k, estimate in estimates.items()
        ]
        # Same k together, so that what is compared stands one below the other.
        rows.sort(key=lambda row: (row.k, row.checks, row.run.number))
        counts = list(dict.fromkeys(counts_of(score) for _, score in scores))
        shown.append(
            BenchmarkResults(name, "; ".join(counts), rows, _notes(name, scores[0][0], runs))
        )
    return shown


def _by_checks(score: Score) -> dict[str, dict[str, Estimate]]:
    """pass@k by the checks that it goes by, in EvalPlus's words, then by k."""
    if score.base_pass_at_k is None:
        return {"": score.pass_at_k}
    return {"base": score.base_pass_at_k, "base + extra": score.pass_at_k}


def _result_detail(score: Score) -> str:
    detail = f"{timed_out(score)}, {percent(score.share_parsed)} parsed"
    if checks := score.graded.get("checks passed"):
        detail += f", {percent(checks.value)} of checks passed"
    if score.weak:
        detail += f", {weak(score)}"
    if score.bits_per_byte is not None:
        detail += f", {decimal(score.bits_per_byte, 3)} bits per byte of the reference solutions"
    return detail


def is_near_zero(estimate: Estimate) -> bool:
    return estimate.value == 0 or estimate.high < NEAR_ZERO


def _notes(name: str, run: Run, runs: Sequence[Run]) -> list[str]:
    score = run.results[name].score
    k, estimate = by_k(score)[-1]
    notes = []
    if is_near_zero(estimate):
        notes.append(_near_zero_note(name, k, run))
    for other in runs:
        if name in other.results and other.results[name].score.isolation != "full":
            isolation = other.results[name].score.isolation
            notes.append(
                f"{other.label} was judged with isolation “{one_line(isolation, 40)}”, not full: "
                "a program could have reached more than its checks."
            )
    return notes


def _near_zero_note(name: str, k: int, run: Run) -> str:
    estimate = run.results[name].score.pass_at_k[str(k)]
    parts = [
        f"{name} says nothing about this model: pass@{k} is {estimate_text(estimate)}, and a score "
        "this close to 0 cannot tell a better model from a worse one."
    ]
    if run.info:
        parameters = rounded(run.info.model.num_parameters)
        if run.info.model.num_parameters <= SMALL_MODEL_PARAMETERS:
            trained = f" trained for {seconds(run.cpu_s)} of CPU time" if run.cpu_s else ""
            parts.append(
                f"That is to be expected: {parameters} parameters{trained} do not hold what its "
                "tasks ask for."
            )
        else:
            parts.append(
                f"For {parameters} parameters that is unexpected: look at the samples and verdicts "
                "below; prompt format and stop strings are the usual causes."
            )
    for other in benchmark_names([run]):
        first_k, moving = by_k(run.results[other].score)[0]
        if not is_near_zero(moving):
            parts.append(f"{other} is the one that moves: pass@{first_k} {estimate_text(moving)}.")
            break
    return " ".join(parts)


def side_by_side(runs: Sequence[Run]) -> list[TableGroup]:
    """Every figure of every run, a column a run; what is better is marked where that is known."""
    infos = [run.info for run in runs]
    models = [info.model if info else None for info in infos]
    model = [
        _row("parameters", [part.num_parameters if part else None for part in models]),
        _row("trunk layers", [part.num_trunk_layers if part else None for part in models]),
        _row("MTP heads", [part.num_mtp_heads if part else None for part in models]),
        _row("vocabulary", [part.vocab_size if part else None for part in models]),
    ]
    training = [
        _time_row("CPU time", [run.cpu_s for run in runs]),
        _time_row("elapsed", [info.elapsed_s if info else None for info in infos]),
        _row("tokens", [run.train[-1].tokens if run.train else None for run in runs]),
        _row("steps", [run.train[-1].step if run.train else None for run in runs]),
    ]
    # Nats per token of two vocabularies measure different things; bits per byte do not.
    same_tokens = len({info.model.vocab_size for info in infos if info}) == 1
    validation = []
    for source in source_names(runs):
        last = [run.validation[source][-1] if source in run.validation else None for run in runs]
        name = one_line(source, 30)
        losses = [row.loss_by_offset[0] if row else None for row in last]
        bits = [row.bits_per_byte if row else None for row in last]
        validation += [
            _row(f"loss at offset 1, {name} (nats per token)", losses, same_tokens),
            _row(f"bits per byte, {name}", bits, is_lower_better=True),
        ]
    groups = [
        TableGroup("Model", model),
        TableGroup("Training", training),
        TableGroup("Validation, last measured", validation),
        TableGroup(
            "Benchmarks", [row for name in benchmark_names(runs) for row in _pass_rows(runs, name)]
        ),
    ]
    return [group for group in groups if group.rows]


def _row(what: str, values: Sequence[float | None], is_lower_better: bool = False) -> TableRow:
    measured = [value for value in values if value is not None and math.isfinite(value)]
    lowest = min(measured) if is_lower_better and len(set(measured)) > 1 else None
    return TableRow(
        what,
        [
            NOT_MEASURED
            if value is None
            else Cell(
                count(value) if isinstance(value, int) else decimal(value, 3),
                value,
                "lowest" if value == lowest else "",
            )
            for value in values
        ],
    )


def _time_row(what: str, times_s: Sequence[float | None]) -> TableRow:
    return TableRow(
        what,
        [NOT_MEASURED if time_s is None else Cell(seconds(time_s), time_s) for time_s in times_s],
    )


def _pass_rows(runs: Sequence[Run], name: str) -> Iterator[TableRow]:
    """A row for each kind of checks, at the least k."""
    scores = [run.results[name].score if name in run.results else None for run in runs]
    first_k = min(k for score in scores if score for k, _ in by_k(score))
    of_runs = [_by_checks(score) if score else {} for score in scores]
    for checks in dict.fromkeys(checks for of_run in of_runs for checks in of_run):
        estimates = [of_run.get(checks, {}).get(str(first_k)) for of_run in of_runs]
        yield TableRow(
            f"{name} pass@{first_k}" + (f" ({checks})" if checks else ""),
            [
                Cell(estimate_text(estimate), estimate.value) if estimate else NOT_MEASURED
                for estimate in estimates
            ],
        )


def verdicts(runs: Sequence[Run]) -> list[BenchmarkVerdicts]:
    shown = []
    for name in benchmark_names(runs):
        judged = [run for run in runs if name in run.results]
        counts = [run.results[name].score.by_verdict for run in judged]
        totals = [sum(by_verdict.values()) for by_verdict in counts]
        rows = [
            VerdictRow(
                verdict,
                f"verdict-{place}",
                [by_verdict.get(verdict, 0) for by_verdict in counts],
                [
                    by_verdict.get(verdict, 0) / total if total else 0.0
                    for by_verdict, total in zip(counts, totals, strict=True)
                ],
            )
            for place, verdict in enumerate(VERDICT_NAMES, start=1)
            if any(by_verdict.get(verdict) for by_verdict in counts)
        ]
        shown.append(BenchmarkVerdicts(name, judged, totals, rows))
    return shown
