"""Numbers and foreign text as the report prints them."""

from __future__ import annotations

import math
from datetime import datetime

from evals.records import Score
from evals.text import one_line, visible

# Beyond these a page is no longer read: the whole sample stands in samples.jsonl.
MAX_CODE_LINES = 40
MAX_CODE_CHARS = 2400


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def percent_between(value: float, low: float, high: float) -> str:
    """`31.2 % (25.1–37.6)`."""
    return f"{percent(value)} ({100 * low:.1f}–{100 * high:.1f})"


def points_between(value: float, low: float, high: float) -> str:
    """A difference of two percentages: `+4.8 points (+0.9 to +8.7)`."""
    return f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")


def count(number: int) -> str:
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def timed_out(score: Score) -> str:
    """`2 timed out (10 s CPU; 6 tasks up to 120 s)`: how many samples, and under which limits."""
    limits = f"{score.limits['cpu_s']:g} s CPU"
    more = [each["cpu_s"] for each in score.raised_limits.values() if "cpu_s" in each]
    if more:
        limits += f"; {plural(len(more), 'task')} up to {max(more):g} s"
    return f"{count(score.timed_out)} timed out ({limits})"


def weak(score: Score) -> str:
    """How many verdicts are the programs' own word."""
    return f"{count(score.weak)} of {plural(score.num_samples, 'verdict')} weak (checks beside)"


def rounded(number: float) -> str:
    """Three figures and a letter: `1.41 M`."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 0.9995, so that 999,600 reads 1 M and not 1e+03 k.
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def decimal(number: float, digits: int) -> str:
    if not math.isfinite(number):
        return "not finite"
    return f"{number:.{digits}f}".replace("-", "−")


def seconds(time_s: float) -> str:
    """`240 s (4.0 min)`."""
    exact = f"{time_s:,.0f} s" if time_s >= 10 else f"{time_s:.2f} s"
    if time_s >= 2 * 86_400:
        return f"{exact} ({time_s / 86_400:.1f} d)"
    if time_s >= 2 * 3600:
        return f"{exact} ({time_s / 3600:.1f} h)"
    return f"{exact} ({time_s / 60:.1f} min)" if time_s >= 100 else exact


def moment(written: str) -> str:
    """`2026-11-22 21:40 UTC`; as it was written where it is a date, or no ISO 8601 at all."""
    try:
        at = datetime.fromisoformat(written)
    except ValueError:
        return one_line(written, 40)
    if len(written) == len("2026-11-22"):
        return written
    return f"{at:%Y-%m-%d %H:%M} {at.tzname() or ''}".rstrip()


def size(num_bytes: int) -> str:
    for unit_bytes, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if num_bytes >= unit_bytes:
            return f"{num_bytes / unit_bytes:.3g} {unit}"
    return plural(num_bytes, "byte")


def shortened(code: str) -> tuple[str, str]:
    """The code as shown, and the notice of what is left out (empty if nothing is)."""
    code = visible(code)
    shown = "\n".join(code.split("\n")[:MAX_CODE_LINES])[:MAX_CODE_CHARS]
    hidden = code[len(shown) :]
    if not hidden:
        return code, ""
    num_lines = len(hidden.strip("\n").split("\n"))
    return shown, f"{plural(num_lines, 'more line')} ({plural(len(hidden), 'character')}) not shown"
