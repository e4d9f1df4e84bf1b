"""Verdicts → score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.files import file_sha256
from evals.intervals import (
    LEVEL,
    interval_of_mean,
    interval_of_mean_over_samples,
    interval_over_samples,
    interval_over_tasks,
)
from evals.pass_at_k import mean_pass_at_k
from evals.records import (
    JUDGING_FILE,
    REFERENCE_BITS_FILE,
    VERDICT_LETTERS,
    VERDICT_NAMES,
    Estimate,
    GradedName,
    Judging,
    Range,
    ReferenceBits,
    Sampling,
    Score,
    Verdict,
    VerdictName,
    read_record,
    read_verdicts,
)
from evals.text import one_line, quoted

_PASSED: Final = VERDICT_LETTERS["passed"]

# A program with one of these never got as far as its first check.
_NO_CHECK_REACHED: Final[frozenset[VerdictName]] = frozenset(
    {"syntax error", "undefined", "timed out", "out of memory", "blocked", "exited", "crashed"}
)


class _Judged(NamedTuple):
    """What is kept of a verdict: `at` is its index; `share` of checks passed, None if unknown."""

    at: int
    verdict: VerdictName
    base: VerdictName | None
    share: float | None
    is_counted: bool
    weak: bool


def score(verdicts_path: Path, benchmark: Benchmark, ks: Sequence[int] = (1,)) -> Score:
    """The score of all verdicts of a file, with what lies beside it in judging.json and others.

    Raises:
        InputError: some k is more than a task's samples, a task has none, or the verdicts do not
            belong to the benchmark or to judging.json.
    """
    judging = _judging_of(verdicts_path, benchmark)
    judged = _judged_by_task(verdicts_path, benchmark)
    _check_drawn(judged, ks, verdicts_path)
    tasks = {
        task_id: (len(each), sum(one.verdict == "passed" for one in each))
        for task_id, each in judged.items()
    }
    by_verdict = Counter(one.verdict for each in judged.values() for one in each)
    origins = _origins(benchmark)
    of_tasks = list(origins.values()) if origins else None
    sampling = judging.sampling
    base_verdicts = _base_verdicts(judged)
    checks_passed = _checks_passed(judged)
    parsed = {
        task_id: [one.verdict != "syntax error" for one in judged[task_id]] for task_id in tasks
    }
    graded: dict[GradedName, Estimate] = {"parsed": _graded(parsed, of_tasks)}
    if checks_passed is not None:
        graded["checks passed"] = _graded(checks_passed, of_tasks)
    return Score(
        benchmark=benchmark.name,
        data_sha256=benchmark.data_sha256,
        prompt_format=sampling.prompt_format if sampling else None,
        prompts_sha256=sampling.prompts_sha256 if sampling else None,
        post_processing=sampling.post_processing if sampling else None,
        seed_rule=sampling.seed_rule if sampling else None,
        limits=judging.limits,
        raised_limits=judging.raised_limits,
        isolation=judging.isolation,
        sampling=sampling,
        versions=judging.versions,
        tasks=tasks,
        verdicts={
            task_id: "".join(VERDICT_LETTERS[one.verdict] for one in each)
            for task_id, each in judged.items()
        },
        base_verdicts=base_verdicts,
        checks_passed=checks_passed,
        reference_bits=_reference_bits_beside(verdicts_path, benchmark, sampling),
        origins=origins,
        samples_sha256=judging.samples_sha256,
        verdicts_sha256=judging.verdicts_sha256,
        num_tasks=len(tasks),
        num_samples=by_verdict.total(),
        pass_at_k=_by_k(list(tasks.values()), ks, of_tasks),
        base_pass_at_k=(
            None
            if base_verdicts is None
            else _by_k(
                [(len(each), each.count(_PASSED)) for each in base_verdicts.values()], ks, of_tasks
            )
        ),
        graded=graded,
        by_verdict={name: by_verdict[name] for name in VERDICT_NAMES},
        timed_out=by_verdict["timed out"],
        weak=sum(one.weak for each in judged.values() for one in each),
        references=judging.references,
    )


def _judging_of(verdicts_path: Path, benchmark: Benchmark) -> Judging:
    if not verdicts_path.is_file():
        what = "a folder" if verdicts_path.is_dir() else "no such file"
        raise InputError(f"{verdicts_path}: {what}; expected the file that mtp-code judge wrote")
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


def _judged_by_task(path: Path, benchmark: Benchmark) -> dict[str, list[_Judged]]:
    """In the benchmark's order, and each task's in that of their indices."""
    judged: dict[str, list[_Judged]] = {task.task_id: [] for task in benchmark.tasks}
    for verdict in read_verdicts(path):
        if verdict.task_id not in judged:
            raise InputError(f"{path}: {quoted(verdict.task_id)} is no task of {benchmark.name}")
        judged[verdict.task_id].append(
            _Judged(
                verdict.index,
                verdict.verdict,
                verdict.base,
                _share_of_checks(verdict),
                bool(verdict.num_checks),
                verdict.weak,
            )
        )
    for each in judged.values():
        each.sort(key=lambda one: one.at)
    return judged


def _share_of_checks(verdict: Verdict) -> float | None:
    if verdict.verdict == "passed":
        return 1.0
    if verdict.num_checks and verdict.num_checks_passed is not None:
        return round(verdict.num_checks_passed / verdict.num_checks, 6)
    return 0.0 if verdict.verdict in _NO_CHECK_REACHED else None


def _base_verdicts(judged: Mapping[str, Sequence[_Judged]]) -> dict[str, str] | None:
    """None where some sample has no verdict by base checks alone."""
    letters: dict[str, str] = {}
    for task_id, each in judged.items():
        known = [VERDICT_LETTERS[one.base] for one in each if one.base is not None]
        if len(known) < len(each):
            return None
        letters[task_id] = "".join(known)
    return letters


def _checks_passed(judged: Mapping[str, Sequence[_Judged]]) -> dict[str, tuple[float, ...]] | None:
    """None where some sample's share is not known, or no checks were counted that could be."""
    shares: dict[str, tuple[float, ...]] = {}
    for task_id, each in judged.items():
        known = [one.share for one in each if one.share is not None]
        if len(known) < len(each):
            return None
        shares[task_id] = tuple(known)
    every = [one for each in judged.values() for one in each]
    # Of samples that all pass there is nothing to count, and all is known.
    is_known = any(one.is_counted for one in every) or all(one.share == 1 for one in every)
    return shares if is_known else None


def _check_drawn(judged: Mapping[str, Sequence[_Judged]], ks: Sequence[int], path: Path) -> None:
    without = [task_id for task_id, each in judged.items() if not each]
    if without:
        raise InputError(
            f"{path}: {len(without)} of {len(judged)} tasks have no sample, "
            f"{one_line(without[0])} first; draw samples for every task"
        )
    task_id, fewest = min(
        ((task_id, len(each)) for task_id, each in judged.items()), key=lambda item: item[1]
    )
    for k in ks:
        if not 1 <= k <= fewest:
            raise InputError(
                f"{path}: k = {k} is outside 1 to {fewest}, the samples of {one_line(task_id)}; "
                "draw more samples or ask for another k"
            )


def _origins(benchmark: Benchmark) -> dict[str, str] | None:
    """What each task was made from; None where no two tasks share that."""
    origins = {task.task_id: task.origin or task.task_id for task in benchmark.tasks}
    return origins if len(set(origins.values())) < len(origins) else None


def _reference_bits_beside(
    verdicts_path: Path, benchmark: Benchmark, sampling: Sampling | None
) -> dict[str, tuple[float, int]] | None:
    path = verdicts_path.with_name(REFERENCE_BITS_FILE)
    if not path.exists():
        return None
    bits = read_record(ReferenceBits, path)
    if bits.data_sha256 != benchmark.data_sha256:
        raise InputError(
            f"{path}: of {bits.benchmark} with data {bits.data_sha256[:12]}, not "
            f"{benchmark.name} with {benchmark.data_sha256[:12]}; measure it again or delete it"
        )
    if sampling and (bits.model, bits.prompt_format) != (sampling.model, sampling.prompt_format):
        what = "prompt format" if bits.model == sampling.model else "model"
        raise InputError(
            f"{path}: of another {what} than the samples; measure it again or delete it"
        )
    return bits.tasks


def _by_k(
    counts: Sequence[tuple[int, int]], ks: Sequence[int], origins: Sequence[str] | None
) -> dict[str, Estimate]:
    return {str(k): _pass_at_k(counts, k, origins) for k in sorted(set(ks))}


def _pass_at_k(
    counts: Sequence[tuple[int, int]], k: int, origins: Sequence[str] | None
) -> Estimate:
    return _estimate(
        mean_pass_at_k(counts, k),
        interval_over_tasks(counts, k, origins),
        interval_over_samples(counts, k),
    )


def _graded(shares: Mapping[str, Sequence[float]], origins: Sequence[str] | None) -> Estimate:
    means = [sum(of_task) / len(of_task) for of_task in shares.values()]
    return _estimate(
        sum(means) / len(means),
        interval_of_mean(means, origins),
        interval_of_mean_over_samples(list(shares.values())),
    )


def _estimate(
    value: float, over_tasks: tuple[float, float], over_samples: tuple[float, float] | None
) -> Estimate:
    low, high = over_tasks
    return Estimate(
        value=value,
        low=low,
        high=high,
        level=LEVEL,
        over_samples=Range(low=over_samples[0], high=over_samples[1]) if over_samples else None,
    )
