"""Figures of decoding as a picture: speed-up by drafts, and where a round's time goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtp_code.decoding.parts import PARTS

Row = Mapping[str, Any]

# Okabe and Ito's, which eyes that do not tell all colours apart still do.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PART_COLOURS: Final = dict(
    zip(PARTS, ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#BBBBBB"), strict=True)
)
_MARKERS: Final = "osD^vPX"
_STYLE: Final[dict[Any, Any]] = {  # matplotlib spells out all keys that there are
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "mtp-code decoding",
    "text.parse_math": False,
}


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes a picture of `bench decode`'s rows, in the format that the name ends with."""
    timed = [row for row in rows if row.get("parts_s")]
    others = [row for row in rows if row["mode"] != "plain"]
    with mpl.rc_context(_STYLE):
        height = 1.6 + max(3.2, 0.3 * len(timed))
        panels = [
            (draw_panel, own)
            for draw_panel, own in ((_draw_speed_ups, others), (_draw_parts, timed))
            if own
        ]
        widths = [
            max(5.5, 1.05 * len(set(map(_name, own)))) if own is others else 5.5
            for _, own in panels
        ]
        figure = Figure(figsize=(sum(widths), height), dpi=100, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left")
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for one, (draw_panel, own) in zip(axes, panels, strict=True):
            draw_panel(one, own)
        # No date: the same figures give the same file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata)


def _draw_speed_ups(axes: Axes, rows: Sequence[Row]) -> None:
    """Median, lowest and highest round, by way to decode; a colour for each size of batch."""
    names = list(dict.fromkeys(map(_name, rows)))
    batches = sorted({row["batch_rows"] for row in rows})
    for number, batch in enumerate(batches):
        own = [row for row in rows if row["batch_rows"] == batch]
        shift = 0.12 * (number - (len(batches) - 1) / 2)
        places = [names.index(_name(row)) + shift for row in own]
        medians = [row["speed_up"] for row in own]
        below = [row["speed_up"] - row["speed_up_low"] for row in own]
        above = [row["speed_up_high"] - row["speed_up"] for row in own]
        axes.errorbar(
            places, medians, yerr=(below, above),
            fmt=_MARKERS[number % len(_MARKERS)], color=_COLOURS[number % len(_COLOURS)],
            capsize=3, label=f"{batch} side by side" if batch > 1 else "1 at a time",
        )  # fmt: skip
    axes.axhline(1, color="#888888", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), names, fontsize=9.5)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("speed-up over plain decoding")
    axes.grid(axis="y", color="#DDDDDD")
    if len(batches) > 1:
        axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))


def _draw_parts(axes: Axes, rows: Sequence[Row]) -> None:
    """A bar for each number of drafts and batch, made of a round's parts."""
    several = len({row["batch_rows"] for row in rows}) > 1
    places = list(range(len(rows)))
    begins = [0.0] * len(rows)
    for part in PARTS:
        widths = [1000 * row["parts_s"][part] for row in rows]
        axes.barh(places, widths, left=begins, color=_PART_COLOURS[part], label=part, height=0.7)
        begins = [begin + width for begin, width in zip(begins, widths, strict=True)]
    names = ["plain" if not row["drafts"] else _name(row).replace("\n", " ") for row in rows]
    if several:
        names = [
            f"{name}, {row['batch_rows']} row{'s' if row['batch_rows'] > 1 else ''}"
            for name, row in zip(names, rows, strict=True)
        ]
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a round, by part")
    axes.grid(axis="x", color="#DDDDDD")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _name(row: Row) -> str:
    if row["mode"] == "speculative":
        return f"{row['drafts']} draft{'s' if row['drafts'] > 1 else ''}"
    return str(row["mode"]).replace(" ", "\n")
