"""Speculative against plain decoding: how many tokens a forward, how much faster, how exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evals.report.charts import Curve, draw_curves
from evals.report.inputs import Decode, DecodeRow
from evals.report.training import Figure
from evals.report.wording import count, moment, percent, plural
from evals.text import one_line


@dataclass(frozen=True)
class Mode:
    name: str
    row: DecodeRow
    tokens_per_s: str
    accepted: str
    identical: str
    colour: str


@dataclass(frozen=True)
class Decoding:
    prompts: str
    conditions: str
    modes: Sequence[Mode]
    scale: Sequence[float]  # the speed-ups at which the chart has a line, from 0 to its end
    acceptance: Figure | None
    all_identical: bool
    identity: str
    command: str


def decoding(decode: Decode, number: int) -> Decoding:
    speculative = [row for row in decode.rows if row.drafts > 0]
    different = [row for row in speculative if row.identical_outputs != decode.prompts.count]
    return Decoding(
        prompts=f"{plural(decode.prompts.count, 'prompt')} of "
        f"{one_line(decode.prompts.benchmark, 40)}",
        conditions=f"{one_line(decode.machine, 120)}; {plural(decode.num_threads, 'thread')}; "
        f"{plural(decode.prompts.count, 'prompt')} of {one_line(decode.prompts.benchmark, 40)}, "
        f"up to {count(decode.max_new_tokens)} new tokens each; one run of "
        f"{plural(decode.repeats, 'round')}, {moment(decode.date)}.",
        modes=[
            Mode(
                _mode_name(row),
                row,
                f"{row.tokens_per_s:,.0f}",
                _accepted(row.acceptance_by_offset),
                f"{count(row.identical_outputs)} of {count(decode.prompts.count)}",
                "run-1" if row.drafts else "muted",
            )
            for row in decode.rows
        ],
        scale=_scale(max(row.speed_up_high for row in decode.rows)),
        acceptance=_acceptance(decode, number),
        all_identical=not different,
        identity=_identity(decode, speculative, different),
        command=decode.command,
    )


def _mode_name(row: DecodeRow) -> str:
    name = _drafts_name(row)
    return name if row.batch_rows == 1 else f"{name}, {row.batch_rows} answers side by side"


def _drafts_name(row: DecodeRow) -> str:
    if row.mode == "auto":
        return "speculative, as many drafts as pay"
    if row.mode == "tree":
        return "speculative, trees as large as pay"
    return f"{row.mode}, {plural(row.drafts, 'draft')}" if row.drafts else row.mode


def _accepted(rates: Sequence[float]) -> str:
    return ", ".join(f"{100 * rate:.1f}" for rate in rates) + " %" if rates else "—"


def _identity(
    decode: Decode, speculative: Sequence[DecodeRow], different: Sequence[DecodeRow]
) -> str:
    if not speculative:
        return "Only plain decoding was measured."
    if not different:
        return (
            f"All {count(decode.prompts.count)} outputs are token for token those of plain "
            "decoding, in every mode."
        )
    worst = min(different, key=lambda row: row.identical_outputs)
    return (
        f"Not exact: with {_mode_name(worst)}, "
        f"{count(decode.prompts.count - worst.identical_outputs)} of "
        f"{plural(decode.prompts.count, 'output')} differ from plain decoding. At temperature "
        "0 speculative decoding must not change a token: do not trust the speed-up."
    )


def _scale(highest: float) -> list[float]:
    """Up to four steps of a round width that reach over `highest` and over plain's 1."""
    step = next(width for width in (0.5, 1.0, 2.0, 5.0, 25.0, 1e9) if highest <= 4 * width)
    return [step * place for place in range(math.ceil(max(highest, 1.0) / step) + 1)]


def _acceptance(decode: Decode, number: int) -> Figure | None:
    """Of the mode that drafts furthest: the others' rates at the same offsets are nearly its."""
    furthest = max(decode.rows, key=lambda row: len(row.acceptance_by_offset))
    rates = furthest.acceptance_by_offset
    if not rates:
        return None
    says = ", ".join(f"offset {offset} {percent(rate)}" for offset, rate in enumerate(rates, 2))
    return Figure(
        "Acceptance rate by offset",
        draw_curves(
            f"acceptance-{number}",
            [
                Curve(
                    [float(offset) for offset in range(2, 2 + len(rates))],
                    [100 * rate for rate in rates],
                    "run-1",
                )
            ],
            x_label="offset",
            says=f"Acceptance rate by offset, {_mode_name(furthest)}: {says}",
            offsets=True,
            y_range=(0, 105),
        ),
        note=f"% of drafted tokens accepted, {_mode_name(furthest)}",
    )
