"""The figures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evals.sandbox_bench.throughput import Spread

_ANSWERS: Final = {
    True: Text("met", style="green"),
    False: Text("MISSED", style="bold red"),
    None: Text("not measured", style="yellow"),
}
_MAX_WRONG_SHOWN: Final = 10


def tables(record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Whatever was measured, then what it had to reach."""
    if "throughput" in record:
        yield from _throughput(record["throughput"])
    for name, remedy in record.get("absent", {}).items():
        yield Text(f"{name}: not compared: {remedy}", style="yellow")
    if "costs" in record:
        yield _costs(record["costs"], record["kernel_ms"])
    if "fairness" in record:
        yield _fairness(record["fairness"])
    if "soak" in record:
        yield from _soak(record["soak"])
    yield targets_table(record["targets"])


def _throughput(throughput: Mapping[str, Any]) -> Iterator[RenderableType]:
    for name, num_tasks in throughput["tasks"].items():
        table = Table(
            title=f"samples a second, {name} ({num_tasks}): median, lowest and highest of "
            f"{throughput['rounds']} rounds"
        )
        table.add_column("tool")
        for column in ("workers", "samples/s", "first pass", "CPU ms a sample"):
            table.add_column(column, justify="right")
        table.add_column("split is faster", justify="right")
        table.add_column("right passed", justify="right")
        table.add_column("wrong failed", justify="right")
        for row in throughput["rows"]:
            if row["tasks"] == name:
                table.add_row(*_throughput_cells(row))
        yield table
    heavy = ", ".join(f"{k} {1e3 * v:.0f} ms" for k, v in throughput["heavy_tasks_cpu_s"].items())
    yield Text(f"CPU-heavy tasks, by measurement: {heavy}")


def _throughput_cells(row: Mapping[str, Any]) -> Iterator[str]:
    version = f" {row['version']}" if row["version"] else ""
    note = f" ({row['note']})" if row["note"] else ""
    yield f"{row['tool']}{version}{note}"
    yield str(row["num_workers"])
    yield between(row["later_passes"], 0)
    yield between(row["first_pass"], 0)
    yield f"{row['later_passes']['cpu_ms_per_sample']:.1f}" if row["later_passes"] else "–"
    yield between(row["ours_is_faster"], 2, "×")
    if row["has_verdicts"]:
        yield f"{row['right_programs_passed']} of {row['right_programs_judged']}"
        yield f"{row['wrong_programs_failed']} of {row['wrong_programs_judged']}"
    else:
        yield "runs none"
        yield "runs none"


def _costs(costs: Mapping[str, Any], kernel_ms: Mapping[str, Spread] | str) -> Table:
    table = _figures("a worker, and what the kernel adds to a sample")
    table.add_row("pool of one worker is open", between(costs["start_ms"], 0, " ms"))
    table.add_row("… and gave its first verdict", between(costs["first_verdict_ms"], 0, " ms"))
    table.add_row("processes a worker", f"{costs['processes_per_worker']:.1f}")
    for kind in ("rss", "pss"):
        for whose, words in (
            ("per_worker", "a worker"),
            ("per_pool", "a pool, beyond its workers"),
        ):
            value = costs[f"{kind}_mb_{whose}"]
            table.add_row(
                f"{kind.upper()} of {words}",
                "only root may ask" if value is None else f"{value:.1f} MB",
            )
    if isinstance(kernel_ms, str):
        table.add_row("kernel", f"not measured: {kernel_ms}")
    else:
        for step, spread in kernel_ms.items():
            name = "fork and end" if step == "fork" else f"+ {step}"
            table.add_row(name, between(spread, 2, " ms"))
    return table


def _fairness(fairness: Mapping[str, Any]) -> Table:
    table = _figures(
        f"{fairness['samples']:,} right samples, {fairness['workers']} workers on "
        f"{fairness['cores']} cores, {fairness['repeats']} times"
    )
    table.add_row("false time-outs", _list(fairness["false_time_outs"]))
    table.add_row("not passed", _list([sum(each.values()) for each in fairness["not_passed"]]))
    table.add_row("judged otherwise in some repeat", str(fairness["not_identical"]))
    table.add_row("seconds", _list([round(each, 1) for each in fairness["wall_s"]]))
    table.add_row("CPU seconds", _list([round(each, 1) for each in fairness["cpu_s"]]))
    for name, each in {
        "an endless loop": fairness["endless_loop"],
        **fairness["fork_bombs"],
    }.items():
        table.add_row(name, f"{each['verdict']}, after {each['wall_s']:.2f} s")
    return table


def _soak(soak: Mapping[str, Any]) -> Iterator[RenderableType]:
    table = _figures(f"{soak['samples']:,} samples in a row, {soak['workers']} workers")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in soak["by_kind"].items())
    table.add_row("programs", kinds)
    table.add_row("seconds, CPU seconds", f"{soak['wall_s']:.0f}, {soak['cpu_s']:.0f}")
    table.add_row("samples a second", f"{soak['samples_per_s']:.0f}")
    table.add_row("wrong verdicts", str(soak["num_wrong"]))
    first, last = soak["memory"][0], soak["memory"][-1]
    for whose in ("harness", "workers"):
        values = f"{first[f'{whose}_mb']:.1f} MB → {last[f'{whose}_mb']:.1f} MB"
        table.add_row(f"memory of the {whose}, warm → end", values)
    for kind, count in soak["before"].items():
        found = ", ".join(soak["left_behind"][kind][:3])
        after = f"{count} before, {soak['after'][kind]} after"
        table.add_row(kind.replace("_", " "), after + (f"; LEFT: {found}" if found else ""))
    yield table
    for each in soak["wrong"][:_MAX_WRONG_SHOWN]:
        told = f"{each['outcome']}, {each['ending']}, {each['detail']}"
        yield Text(f"judged wrongly: {each['kind']} “{each['name']}”: {told}", style="red")


def targets_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="targets")
    table.add_column("figure")
    table.add_column("wanted", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for each in targets:
        unit = each["unit"] if each["unit"] in ("×", "") else f" {each['unit']}"
        measured = "–"
        if each["low"] is not None:
            spread = {"median": each["measured"], "low": each["low"], "high": each["high"]}
            measured = between(spread, 2, unit)
        elif each["measured"] is not None:
            measured = f"{each['measured']:.4g}{unit}"
        table.add_row(each["name"], each["wanted"] + unit, measured, _ANSWERS[each["is_met"]])
    return table


def _figures(title: str) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column()
    return table


def between(spread: Mapping[str, float] | None, digits: int, unit: str = "") -> str:
    if spread is None:
        return "–"
    median, low, high = (f"{spread[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median}{unit} ({low}–{high})"


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
