"""The figures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evals.sandbox_bench.tables import between, targets_table

_MAX_SHOWN: Final = 40


def tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Whatever was measured, then what it had to reach."""
    if "agreement" in record:
        yield from _agreement(record["agreement"])
    if "sanitizing" in record:
        yield from _sanitizing(record["sanitizing"])
    if "load" in record:
        yield from _load(record["load"])
    if "speed" in record:
        yield from _speed(record["speed"])
    yield targets_table(record["targets"])


def _agreement(agreement: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = Table(title="verdicts beside the reference harnesses'")
    table.add_column("benchmark")
    table.add_column("harness")
    for column in ("references", "mutants", "equal at once", "equal", "passed, ours", "theirs"):
        table.add_column(column, justify="right")
    for name, found in agreement.items():
        if "absent" not in found:
            table.add_row(
                name,
                f"{found['harness']} {found['version']}",
                f"{found['num_references']:,}",
                f"{found['num_mutants']:,}",
                f"{found['num_equal_at_once']:,}",
                f"{found['num_equal']:,}",
                _counts(found["ours_passed"]),
                _counts(found["theirs_passed"]),
            )
    yield table
    for name, found in agreement.items():
        if "absent" in found:
            yield _not_compared(name, found["absent"])
            continue
        for each in found["differing"][:_MAX_SHOWN]:
            said = f"ours {_words(each['ours'])}; {found['harness']} {_words(each['theirs'])}"
            why, style = (
                each["reason"] or "FOR NO KNOWN REASON",
                "yellow" if each["reason"] else "red",
            )
            yield Text(f"{name}, {each['task_id']} ({each['kind']}): {said}: {why}", style=style)
        if len(found["differing"]) > _MAX_SHOWN:
            yield Text(f"{name}: and {len(found['differing']) - _MAX_SHOWN} more: see the JSON")


def _sanitizing(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    if "absent" in found:
        yield _not_compared("post-processing", found["absent"])
        return
    yield Text(
        f"post-processing: of {found['num_alike']:,} of {found['num_answers']:,} answers the same "
        f"code is taken as by {found['harness']} {found['version']}"
    )
    for each in found["differing"][:_MAX_SHOWN]:
        yield Text(f"post-processing, {each['task_id']} ({each['kind']}): differs", style="red")


def _load(load: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = Table(
        title=f"{load['num_samples']:,} samples, {load['repeats']} times beside "
        f"{load['busy_processes']} busy processes",
        show_header=False,
    )
    table.add_column()
    table.add_column()
    for name, count in load["benchmarks"].items():
        table.add_row(f"samples of {name}", f"{count:,}: {_counts(load['verdicts'][name])}")
    table.add_row("verdicts that flipped", str(len(load["flips"])))
    table.add_row("… between pass and fail", str(sum(each["of_pass"] for each in load["flips"])))
    passed = ", ".join(map(str, load["references_passed"]))
    table.add_row("references that passed, quiet first", f"{passed} of {load['num_references']}")
    seconds = ", ".join(f"{each:.0f}" for each in (load["quiet_wall_s"], *load["wall_s"]))
    table.add_row("seconds, quiet first", seconds)
    yield table
    for name, reason in load["absent"].items():
        yield _not_compared(name, reason)
    for each in load["flips"][:_MAX_SHOWN]:
        others = "; ".join(_words(words) for words in each["busy"])
        told = f"{each['benchmark']}, {each['task_id']} ({each['kind']})"
        yield Text(f"{told}: quiet {_words(each['quiet'])}; busy {others}", style="red")


def _speed(speed: Mapping[str, Any]) -> Iterator[RenderableType]:
    for name, found in speed["sets"].items():
        table = Table(
            title=f"{name}, {found['num_samples']:,} samples, whole commands: median, lowest and "
            f"highest of {speed['rounds']} rounds"
        )
        table.add_column("command")
        for column in ("samples/s", "s", "CPU s", "peak MB", "ours is faster", "passed"):
            table.add_column(column, justify="right")
        for row in found["rows"]:
            version = f" {row['version']}" if row["version"] else ""
            table.add_row(
                f"{row['command']}{version}",
                between(row["samples_per_s"], 1),
                between(row["wall_s"], 1),
                between(row["cpu_s"], 1),
                between(row["peak_mb"], 0),
                between(row["ours_is_faster"], 2, "×"),
                ", ".join(map(str, sorted(set(row["passed"])))),
            )
        yield table
        for row in found["rows"]:
            if row["note"]:
                yield Text(f"{row['command']}: {row['note']}")
    for name, reason in speed["absent"].items():
        yield _not_compared(name, reason)


def _not_compared(name: str, reason: str) -> Text:
    return Text(f"{name}: not compared: {reason}", style="yellow")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _words(words: Mapping[str, str]) -> str:
    return ", ".join(f"{part} {word}" for part, word in words.items())
