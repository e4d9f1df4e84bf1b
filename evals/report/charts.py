"""Curves as SVG that takes its colours and fonts from the page it stands in.

A chart is drawn for one column of 380 pixels, so that its text is readable on a phone and a
wide page shows several side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evals.report.inputs import NUM_RUN_STYLES
from evals.report.wording import rounded

WIDTH_PX = 380
# More points than this are averaged in runs of equal length: readable lines, and a small page.
MAX_POINTS = 120
SKIPPED = 0.05
NUM_OFFSET_COLOURS = 8

# The page's colours by name. matplotlib wants numbers, so each name goes through it as a colour
# that nobody would choose and comes out as the page's variable, which knows light and dark.
COLOURS = (
    "ink",
    "muted",
    "rule",
    *(f"run-{number}" for number in range(1, NUM_RUN_STYLES + 1)),
    *(f"offset-{number}" for number in range(1, NUM_OFFSET_COLOURS + 1)),
)
STAND_IN = {name: f"#0000{number:02x}" for number, name in enumerate(COLOURS, start=1)}

# Runs differ by dash too: for print, and for eyes that do not tell the colours apart.
DASHES = ("solid", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": STAND_IN["rule"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": STAND_IN["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 12.5,
    "axes.labelsize": 12.5,
    "xtick.labelsize": 12.5,
    "ytick.labelsize": 12.5,
    "grid.color": STAND_IN["rule"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "mtp-code report",
    "text.color": STAND_IN["ink"],
    "text.parse_math": False,
    "xtick.color": STAND_IN["rule"],
    "xtick.labelcolor": STAND_IN["muted"],
    "xtick.major.size": 4,
    "ytick.labelcolor": STAND_IN["muted"],
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Curve:
    """`label` is written where the curve ends; empty where a key of the page names it."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    dash: int = 0


def draw_curves(
    slug: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    says: str,
    height_px: int = 230,
    offsets: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """An <svg>: `slug` keeps its ids apart from other charts', `says` is its text alternative.

    With `offsets`, x counts offsets: whole numbers, each point marked with its value.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PX / 72, height_px / 72), dpi=72)
        right_px = 30 if any(curve.label for curve in curves) else 12
        axes = figure.add_axes(
            (
                46 / WIDTH_PX,
                44 / height_px,
                1 - (46 + right_px) / WIDTH_PX,
                1 - (44 + 12) / height_px,
            )
        )
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        for curve in curves:
            x, y = _thinned(curve)
            axes.plot(
                x,
                y,
                color=STAND_IN[curve.colour],
                linestyle=DASHES[curve.dash % len(DASHES)],
                marker="o" if offsets or len(x) == 1 else None,
                markersize=6,
            )
        axes.set_xlabel(x_label, labelpad=6)
        axes.set_ylim(*(y_range or _settled_range(curves)))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if offsets:
            _mark_offsets(axes, curves)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(lambda value, _: rounded(value))
        axes.yaxis.set_major_formatter(lambda value, _: rounded(value))
        _label_ends(axes, [curve for curve in curves if curve.label], height_px - 56)
        return _svg(figure, slug, says)


def _mark_offsets(axes: Axes, curves: Sequence[Curve]) -> None:
    axes.set_xticks(sorted({int(x) for curve in curves for x in curve.x}))
    axes.margins(x=0.1)
    for curve in curves:
        for x, y in zip(curve.x, curve.y, strict=True):
            axes.annotate(f"{y:.1f}", (x, y), (0, 8), textcoords="offset points", ha="center")


def _settled_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Where the curves are after the first twentieth: a steep start would flatten all the rest."""
    settled = [
        y
        for curve in curves
        for x, y in zip(*_thinned(curve), strict=True)
        if x >= SKIPPED * max(curve.x) and np.isfinite(y)
    ]
    if not settled:
        return 0.0, 1.0
    low, high = min(settled), max(settled)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _thinned(curve: Curve) -> tuple[list[float], list[float]]:
    if len(curve.x) <= MAX_POINTS:
        return list(curve.x), list(curve.y)
    bins = np.array_split(np.arange(len(curve.x)), MAX_POINTS)
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    return [float(x[bin_].mean()) for bin_ in bins], [float(y[bin_].mean()) for bin_ in bins]


def _label_ends(axes: Axes, curves: Sequence[Curve], height_px: float) -> None:
    """Write each label beside its curve's last point, moved apart where two would touch."""
    line_px = 14
    low, high = axes.get_ylim()
    ends = sorted(
        ((last - low) / (high - low) * height_px, curve.label)
        for curve in curves
        if np.isfinite(last := _thinned(curve)[1][-1])
    )
    places: list[float] = []
    for end_px, _ in ends:
        places.append(max(end_px, places[-1] + line_px) if places else end_px)
    if ends:
        # Back down by half of what the top one was moved: as far from its curve as the lowest.
        moved_px = (places[-1] - ends[-1][0]) / 2
    for (_, label), place_px in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (1, (place_px - moved_px) / height_px),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center_baseline",
            annotation_clip=False,
        )


def _svg(figure: Figure, slug: str, says: str) -> Markup:
    file = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=unnamed)
    return Markup(_for_the_page(file.getvalue(), slug, says))


def _for_the_page(svg: str, slug: str, says: str) -> str:
    """matplotlib's file as part of a page: no prologue, no global style, no fixed colours.

    Ids are kept where something refers to them, and told apart by `slug`.
    """
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(
        r' id="([^"]*)"',
        lambda match: f' id="{slug}-{match[1]}"' if match[1] in referred else "",
        body,
    )
    body = re.sub(r'xlink:href="#', f'href="#{slug}-', body)
    body = body.replace("url(#", f"url(#{slug}-")
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    # A hundredth of a pixel is enough; text between the tags keeps its figures.
    body = re.sub(r'="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), body)
    for name, stand_in in STAND_IN.items():
        body = body.replace(stand_in, f"var(--{name})")
    body = re.sub(r"\s*\n\s*", "\n", body)
    height = svg[svg.index('viewBox="') :].split('"')[1].split()[3]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH_PX, height, says
    ) + Markup(body.strip())
