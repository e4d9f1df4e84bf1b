"""What the figures must reach, and whether they do."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Final

from evals.judge_bench.harnesses import EVALPLUS, HUMAN_EVAL
from evals.judge_bench.load import NEAR
from evals.judge_bench.speed import OURS
from evals.sandbox_bench.targets import Target, target

# On HumanEval, at least so many times as many programs a second as the harness.
_TIMES: Final = ((HUMAN_EVAL, 5.0), (EVALPLUS, 1.6))
_PEAK_MB: Final = 1000.0


def agreement_targets(agreement: Mapping[str, Any]) -> Iterator[Target]:
    for name, measured in agreement.items():
        unexplained = failed = None
        if "absent" not in measured:
            unexplained = sum(each["reason"] is None for each in measured["differing"])
            failed = len(measured["references_not_passed_by_us"])
        differ = f"{name}: verdicts that differ for no known reason"
        yield target(differ, "", operator.le, 0, unexplained)
        yield target(f"{name}: references that do not pass", "", operator.le, 0, failed)


def sanitizing_targets(sanitizing: Mapping[str, Any]) -> Iterator[Target]:
    num_differing = None if "absent" in sanitizing else len(sanitizing["differing"])
    name = "answers of which other code is taken than by EvalPlus"
    yield target(name, "", operator.le, 0, num_differing)


def load_targets(load: Mapping[str, Any]) -> Iterator[Target]:
    num_near = sum(each["kind"] == NEAR for each in load["flips"])
    repeats = f"{load['repeats']} busy repeats"
    num_others = load["num_samples"] - load["num_near"]
    yield target(
        f"verdicts that flip in {repeats} of {num_others:,} samples",
        "",
        operator.le,
        0,
        len(load["flips"]) - num_near,
    )
    yield target(
        f"… of {load['num_near']} references at 0.7 to 0.9 of their limit",
        "",
        operator.le,
        0,
        num_near,
    )
    yield target(
        "references that pass in each repeat",
        "",
        operator.ge,
        load["num_references"],
        min(load["references_passed"]),
    )


def speed_targets(speed: Mapping[str, Any]) -> Iterator[Target]:
    rows = {
        (name, row["command"]): row
        for name, found in speed["sets"].items()
        for row in found["rows"]
    }
    for harness, least in _TIMES:
        ratio = rows.get(("humaneval", harness), {}).get("ours_is_faster")
        yield target(f"HumanEval, against {harness}", "×", operator.ge, least, ratio)
    ratio = rows.get(("humaneval+", EVALPLUS), {}).get("ours_is_faster")
    name = f"HumanEval+ with expected outputs, against {EVALPLUS}"
    yield target(name, "×", operator.gt, 1.0, ratio)
    peak = rows.get(("humaneval+", OURS), {}).get("peak_mb")
    # Every round counts, not the middle one.
    yield target("HumanEval+, peak memory", "MB", operator.lt, _PEAK_MB, peak and peak["high"])
