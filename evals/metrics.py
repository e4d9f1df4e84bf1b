"""What scores are compared by: a number for each sample, and how those make one for each task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.errors import InputError
from evals.pass_at_k import pass_at_k
from evals.records import VERDICT_LETTERS, Measured
from evals.text import one_line

Floats = NDArray[np.float64]
Outcomes = Floats  # a task's samples, each from 0 to 1


class Metric(NamedTuple):
    """`pass@k`, `base pass@k`, `parsed` or `checks passed`.

    k is 1 where a task's number is its samples' mean. `is_base` goes by the base checks alone of a
    + benchmark.
    """

    name: str
    k: int = 1
    is_base: bool = False


PASS_AT_1: Final = Metric("pass@1")
PARSED: Final = Metric("parsed")
CHECKS_PASSED: Final = Metric("checks passed")

_PASSED, _NO_PYTHON = VERDICT_LETTERS["passed"], VERDICT_LETTERS["syntax error"]


def metric_named(name: str) -> Metric:
    """
    Raises:
        InputError: there is no such metric.
    """
    for metric in (PARSED, CHECKS_PASSED):
        if name == metric.name:
            return metric
    if found := re.fullmatch(r"(base )?pass@([1-9][0-9]*)", name):
        return Metric(name, int(found[2]), is_base=bool(found[1]))
    raise InputError(
        f"{name!r}: no such metric; known: pass@K, {PARSED.name}, {CHECKS_PASSED.name}, base pass@K"
    )


def outcomes_by_task(measured: Measured, metric: Metric) -> dict[str, Outcomes]:
    """Each task's samples as numbers.

    Raises:
        InputError: the metric needs more samples than there are, or was not recorded.
    """
    if metric == CHECKS_PASSED:
        if measured.checks_passed is None:
            raise InputError(f"{metric.name}: the verdicts do not hold how many checks passed")
        by_task = {task: np.array(shares) for task, shares in measured.checks_passed.items()}
    else:
        verdicts = measured.base_verdicts if metric.is_base else measured.verdicts
        if verdicts is None:
            raise InputError(f"{metric.name}: the verdicts do not hold base checks apart")
        by_task = {
            task: np.array([_outcome(letter, metric) for letter in letters])
            for task, letters in verdicts.items()
        }
    task_id, (fewest, _) = min(measured.tasks.items(), key=lambda item: item[1][0])
    if metric.k > fewest:
        raise InputError(
            f"{metric.name}: needs {metric.k} samples a task; {one_line(task_id)} has {fewest}"
        )
    return by_task


def holds_copies(measured: Measured) -> bool:
    """Whether each task's samples are copies of one, as greedy decoding draws them."""
    return (
        measured.sampling is not None
        and measured.sampling.temperature == 0
        and all(len(set(letters)) == 1 for letters in measured.verdicts.values())
    )


def task_estimates(outcomes: Sequence[Outcomes], k: int) -> Floats:
    if k == 1:
        return np.array([each.sum() / len(each) for each in outcomes])
    return np.array([pass_at_k(len(each), round(each.sum()), k) for each in outcomes])


def _outcome(letter: str, metric: Metric) -> float:
    return float(letter != _NO_PYTHON if metric == PARSED else letter == _PASSED)
