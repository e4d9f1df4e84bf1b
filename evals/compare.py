"""Two measurements of the same tasks, compared task by task.

Pairing takes out how hard the tasks are, which is most of the noise of a benchmark's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from evals.errors import IncomparableError
from evals.metrics import (
    PASS_AT_1,
    Floats,
    Metric,
    Outcomes,
    holds_copies,
    outcomes_by_task,
    task_estimates,
)
from evals.records import Measured, differences
from evals.resampling import (
    NUM_RESAMPLES,
    Spread,
    p_value_of_drop,
    spread_over_samples,
    spread_over_tasks,
    unit_of_gains,
    widened,
)
from evals.text import one_line, quoted


class Change(NamedTuple):
    """A metric before and after, and whether the difference is more than the samples' chance.

    `over_samples` keeps the tasks fixed: did this model change? Where a task has too few samples
    to show their chance (`is_over_pairs`), it is what drawing tasks again gives: never less.
    `p_drop` is how often a drop this large or larger would show if nothing had changed,
    and `test` what says so; `flipped_error` is how far the difference then strays. `gains` are the
    tasks' own.
    """

    before: float
    after: float
    difference: float
    over_samples: Spread
    is_over_pairs: bool
    p_drop: float
    test: str
    flipped_error: float
    gains: Floats


class Comparison(NamedTuple):
    """A metric before and after: the difference with its 95 % intervals.

    `low` and `high` are over tasks: is it better in general? `change` is about this model.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    change: Change


def compare(before: Measured, after: Measured, metric: Metric = PASS_AT_1) -> Comparison:
    """
    Raises:
        IncomparableError: the two differ in more than the model.
        InputError: the metric needs more samples than there are, or was not recorded.
    """
    for field, was, now in incomparable_fields(before, after):
        raise IncomparableError(
            f"{one_line(field)} differs: {quoted(was)} before, {quoted(now)} now"
        )
    by_task = [outcomes_by_task(each, metric) for each in (before, after)]
    were, are = ([outcomes[task_id] for task_id in before.tasks] for outcomes in by_task)
    k = metric.k
    if holds_copies(before) and holds_copies(after):
        # Copies count once, and any number of them passes where one does.
        were, are, k = [each[:1] for each in were], [each[:1] for each in are], 1
    change = change_between(were, are, k)
    if before.samples_sha256 == after.samples_sha256:
        # The very samples: no chance had a hand in it.
        change = change._replace(over_samples=Spread(change.difference, change.difference, 0.0))
    origins = before.origins
    of_tasks = [origins[task_id] for task_id in before.tasks] if origins else None
    over_tasks = spread_over_tasks(change.gains, of_tasks)
    return Comparison(*change[:3], over_tasks.low, over_tasks.high, change)


def change_between(
    before: Sequence[Outcomes],
    after: Sequence[Outcomes],
    k: int,
    num_resamples: int = NUM_RESAMPLES,
) -> Change:
    """The outcomes of the same tasks in the same order, of as many samples each."""
    were, are = task_estimates(before, k), task_estimates(after, k)
    gains = are - were
    gain = float(np.mean(gains))
    p_drop = p_value_of_drop(gains, unit_of_gains(before, after, k))
    over_samples = spread_over_samples(before, after, k, gain, num_resamples)
    is_over_pairs = over_samples is None
    spread = over_samples or spread_over_tasks(gains, num_resamples=num_resamples)
    return Change(
        before=float(np.mean(were)),
        after=float(np.mean(are)),
        difference=gain,
        over_samples=widened(spread, gain, num_pairs=sum(map(len, before))),
        is_over_pairs=is_over_pairs,
        p_drop=p_drop.value,
        test=p_drop.test,
        flipped_error=float(np.sqrt(np.sum(gains**2))) / len(gains),
        gains=gains,
    )


def incomparable_fields(before: Measured, after: Measured) -> Iterator[tuple[str, Any, Any]]:
    """Fields that must agree and do not, with both values.

    The model and the seed may differ; so may versions, for else no baseline would outlive an
    update. A task's number of samples may not: the share that passed is spread less the more are
    drawn, so that flipping signs would raise false alarms: 8 % of the time instead of 5 %, where
    10 samples before are held to 1 now.
    """
    yield from differences(_conditions(before), _conditions(after))
    for task_id in before.tasks | after.tasks:
        was, now = (measured.tasks.get(task_id, (0, 0))[0] for measured in (before, after))
        if was != now:
            yield f"number of samples of {task_id}", was, now


def unrecorded_fields(measured: Measured) -> list[str]:
    """What nobody recorded of how the samples were drawn: it agrees with whatever it is held to."""
    return [field for field in _OF_DRAWING if getattr(measured, field) is None]


_OF_DRAWING: Final = ("sampling", "prompt_format", "prompts_sha256", "post_processing", "seed_rule")


def _conditions(measured: Measured) -> dict[str, Any]:
    sampling = measured.sampling
    return {
        "benchmark": measured.benchmark,
        "data_sha256": measured.data_sha256,
        "prompt_format": measured.prompt_format,
        "prompts_sha256": measured.prompts_sha256,
        "post_processing": measured.post_processing,
        "sampling": sampling
        and {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        },
        "seed_rule": measured.seed_rule,
        "limits": measured.limits,
        "raised_limits": measured.raised_limits,
        "isolation": measured.isolation,
        "origins": measured.origins,
    }
