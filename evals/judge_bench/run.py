"""What can be measured of the judge, each as a section of one record, targets among them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evals.files import Progress
from evals.judge_bench import agreement, load, sanitizing, speed, targets
from evals.judge_bench.ours import Ours
from evals.sandbox_bench.targets import Target

# Of these parts, which must hold on any machine.
_PROMISES: Final = ("agreement", "sanitizing", "load")


@dataclass(frozen=True)
class Wishes:
    """Which parts, and how much of each; None or empty leaves a part out."""

    agreement_on: Sequence[str] = ()
    num_mutants: int = 3000
    num_answers: int | None = None
    num_repeats: int | None = None
    num_samples: int = 3000
    num_rounds: int | None = None
    samples_per_task: int = speed.SAMPLES_PER_TASK


def measure(
    wishes: Wishes,
    judge_command: Sequence[str],
    evalplus_python: Path | None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The parts that are wished for, and their targets. `judge_command` is of `mtp-code judge`.

    Raises:
        InputError: there is no such benchmark.
    """
    record: dict[str, Any] = {}
    wanted: dict[str, list[Target]] = {}
    with tempfile.TemporaryDirectory(prefix="mtp-code-bench-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        ours = Ours(judge_command, scratch)
        if wishes.agreement_on:
            record["agreement"] = agreement.measure(
                wishes.agreement_on,
                wishes.num_mutants,
                ours,
                evalplus_python,
                scratch,
                on_progress,
            )
            wanted["agreement"] = [*targets.agreement_targets(record["agreement"])]
        if wishes.num_answers:
            record["sanitizing"] = sanitizing.measure(
                wishes.num_answers, evalplus_python, scratch, on_progress
            )
            wanted["sanitizing"] = [*targets.sanitizing_targets(record["sanitizing"])]
        if wishes.num_repeats:
            record["load"] = load.measure(wishes.num_repeats, wishes.num_samples, ours, on_progress)
            wanted["load"] = [*targets.load_targets(record["load"])]
        if wishes.num_rounds:
            record["speed"] = speed.measure(
                wishes.num_rounds,
                ours,
                evalplus_python,
                scratch,
                wishes.samples_per_task,
                on_progress,
            )
            wanted["speed"] = [*targets.speed_targets(record["speed"])]
    return record | {"targets": [{"of": part} | each for part, of in wanted.items() for each in of]}


def breaks_a_promise(record: Mapping[str, Any]) -> bool:
    """Whether a verdict differs that should not. (What is missed of speed may be the machine's.)"""
    return any(each["is_met"] is False for each in record["targets"] if each["of"] in _PROMISES)
