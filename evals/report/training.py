"""Curves of training and validation, and what was measured last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from evals.report.charts import NUM_OFFSET_COLOURS, Curve, draw_curves
from evals.report.inputs import Run, TrainRow, ValidationRow
from evals.report.results import source_names
from evals.report.wording import decimal
from evals.text import one_line


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    runs: Sequence[Run] = ()  # named by a key under the title
    note: str = ""


class Axis(NamedTuple):
    """Runs given equal time saw different numbers of tokens, so time is what they share."""

    label: str
    field: str

    def of(self, rows: Sequence[TrainRow] | Sequence[ValidationRow]) -> list[float]:
        return [float(getattr(row, self.field)) for row in rows]


TOKENS = Axis("tokens", "tokens")
CPU_TIME = Axis("CPU seconds", "cpu_s")


def figures(runs: Sequence[Run]) -> list[Figure]:
    trained = [run for run in runs if run.train]
    axis = CPU_TIME if len(runs) > 1 else TOKENS
    shown = [_loss_by_offset(run, axis) for run in trained if len(run.train[-1].loss_by_offset) > 1]
    if len(trained) > 1 or not shown:
        shown += [_next_token_loss(trained, axis)] if trained else []
    shown += [
        _bits_per_byte(place, source, runs, axis)
        for place, source in enumerate(source_names(runs), start=1)
    ]
    if trained:
        shown.append(_learning_rate(trained, axis))
    return shown


def _loss_by_offset(run: Run, axis: Axis) -> Figure:
    x = axis.of(run.train)
    num_offsets = min(len(row.loss_by_offset) for row in run.train)
    curves = [
        Curve(
            x,
            [row.loss_by_offset[place] for row in run.train],
            f"offset-{min(place + 1, NUM_OFFSET_COLOURS)}",
            label=str(place + 1),
        )
        for place in range(num_offsets)
    ]
    return Figure(
        f"Train loss by offset, {run.label}",
        draw_curves(
            f"loss-by-offset-{run.number}",
            curves,
            x_label=axis.label,
            says=f"Train loss of {run.label} in nats per token over {axis.label}. "
            + _ends([f"offset {curve.label}" for curve in curves], curves),
        ),
        note="nats per token; 1 is the next token",
    )


def _next_token_loss(runs: Sequence[Run], axis: Axis) -> Figure:
    curves = [
        Curve(
            axis.of(run.train),
            [row.loss_by_offset[0] for row in run.train],
            run.colour,
            dash=run.number - 1,
        )
        for run in runs
    ]
    return Figure(
        "Train loss at offset 1",
        draw_curves(
            "next-token-loss",
            curves,
            x_label=axis.label,
            says=f"Train loss at offset 1 in nats per token over {axis.label}. "
            + _ends([run.label for run in runs], curves),
        ),
        runs,
        note="nats per token",
    )


def _bits_per_byte(place: int, source: str, runs: Sequence[Run], axis: Axis) -> Figure:
    measured = [run for run in runs if source in run.validation]
    curves = [
        Curve(
            axis.of(run.validation[source]),
            [row.bits_per_byte for row in run.validation[source]],
            run.colour,
            dash=run.number - 1,
        )
        for run in measured
    ]
    name = one_line(source, 30)
    return Figure(
        f"Validation, {name}",
        draw_curves(
            f"bits-per-byte-{place}",
            curves,
            x_label=axis.label,
            says=f"Validation bits per byte on {name} over {axis.label}. "
            + _ends([run.label for run in measured], curves),
        ),
        measured,
        note="bits per byte of held-out files",
    )


def _learning_rate(runs: Sequence[Run], axis: Axis) -> Figure:
    curves = [
        Curve(axis.of(run.train), [row.lr for row in run.train], run.colour, dash=run.number - 1)
        for run in runs
    ]
    return Figure(
        "Learning rate",
        draw_curves(
            "learning-rate",
            curves,
            x_label=axis.label,
            says=f"Learning rate over {axis.label}, with its warm-up and decay.",
            height_px=150,
        ),
        runs,
    )


def _ends(names: Sequence[str], curves: Sequence[Curve]) -> str:
    return "; ".join(
        f"{name} from {decimal(curve.y[0], 2)} to {decimal(curve.y[-1], 2)}"
        for name, curve in zip(names, curves, strict=True)
    )
