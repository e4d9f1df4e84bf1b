"""Verdicts → score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.files import file_sha256
from evals.pass_at_k import (
    LEVEL,
    Counts,
    interval_over_samples,
    interval_over_tasks,
    mean_pass_at_k,
)
from evals.records import (
    JUDGING_FILE,
    VERDICT_NAMES,
    Estimate,
    Judging,
    Range,
    Score,
    read_record,
    read_verdicts,
)


def score(verdicts_path: Path, benchmark: Benchmark, ks: Sequence[int] = (1,)) -> Score:
    """The score of all verdicts of a file, with what judging.json beside it says of them.

    Raises:
        InputError: some k is more than a task's samples, a task has none, or the verdicts do not
            belong to the benchmark or to judging.json.
    """
    judging = _judging_of(verdicts_path, benchmark)
    by_verdict: dict[str, int] = dict.fromkeys(VERDICT_NAMES, 0)
    num_samples: Counter[str] = Counter()
    num_passed: Counter[str] = Counter()
    for verdict in read_verdicts(verdicts_path):
        by_verdict[verdict.verdict] += 1
        num_samples[verdict.task_id] += 1
        num_passed[verdict.task_id] += verdict.verdict == "passed"

    tasks = {
        task.task_id: (num_samples[task.task_id], num_passed[task.task_id])
        for task in benchmark.tasks
    }
    _check_drawn(tasks, ks, verdicts_path)
    counts = list(tasks.values())
    sampling = judging.sampling
    total = num_samples.total()
    return Score(
        benchmark=benchmark.name,
        data_sha256=benchmark.data_sha256,
        prompt_format=sampling.prompt_format if sampling else None,
        post_processing=sampling.post_processing if sampling else None,
        samples_sha256=judging.samples_sha256,
        verdicts_sha256=judging.verdicts_sha256,
        num_tasks=len(tasks),
        num_samples=total,
        pass_at_k={str(k): _estimate(counts, k) for k in sorted(set(ks))},
        share_parsed=1 - by_verdict["syntax error"] / total,
        by_verdict=by_verdict,
        timed_out=by_verdict["timed out"],
        limits=judging.limits,
        isolation=judging.isolation,
        sampling=sampling,
        versions=judging.versions,
        tasks=tasks,
    )


def _judging_of(verdicts_path: Path, benchmark: Benchmark) -> Judging:
    path = verdicts_path.with_name(JUDGING_FILE)
    judging = read_record(Judging, path)
    if judging.data_sha256 != benchmark.data_sha256:
        raise InputError(
            f"{path}: judged on {judging.benchmark} with data {judging.data_sha256[:12]}, "
            f"not {benchmark.name} with {benchmark.data_sha256[:12]}; name that benchmark"
        )
    if judging.verdicts_sha256 != file_sha256(verdicts_path):
        raise InputError(
            f"{verdicts_path}: not the file that {path.name} describes; judge the samples again"
        )
    return judging


def _check_drawn(tasks: dict[str, tuple[int, int]], ks: Sequence[int], path: Path) -> None:
    without = [task_id for task_id, (drawn, _) in tasks.items() if drawn == 0]
    if without:
        raise InputError(
            f"{path}: {len(without)} of {len(tasks)} tasks have no sample, {without[0]} first; "
            "draw samples for every task"
        )
    task_id, (fewest, _) = min(tasks.items(), key=lambda item: item[1][0])
    for k in ks:
        if not 1 <= k <= fewest:
            raise InputError(
                f"{path}: k = {k} is outside 1 to {fewest}, the samples of {task_id}; "
                "draw more samples or ask for another k"
            )


def _estimate(counts: Counts, k: int) -> Estimate:
    low, high = interval_over_tasks(counts, k)
    over_samples = interval_over_samples(counts, k)
    return Estimate(
        value=mean_pass_at_k(counts, k),
        low=low,
        high=high,
        level=LEVEL,
        over_samples=Range(low=over_samples[0], high=over_samples[1]) if over_samples else None,
    )
