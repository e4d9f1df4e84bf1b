"""Samples + sandbox → verdicts."""

from __future__ import annotations

import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from evals.benchmarks.formats import Benchmark
from evals.counting import counts_told
from evals.errors import InputError
from evals.files import Progress, file_sha256, json_line, write_whole
from evals.findings import Findings
from evals.oracles.expected import with_expected_outputs
from evals.plan import Plan, fingerprint
from evals.program import limits_of
from evals.records import (
    JUDGING_FILE,
    SAMPLING_FILE,
    Judging,
    References,
    Sample,
    Sampling,
    Verdict,
    VerdictName,
    read_record,
    read_samples,
    write_record,
)
from evals.work import Examiner, Finding, Here, Job
from sandbox import Limits, Tier

# Where a program failed its checks, it makes sense to ask how many.
_COUNTED: Final[frozenset[VerdictName]] = frozenset({"wrong answer", "exception"})

Plans = Mapping[str, Plan]  # by task id


def judge(
    samples_path: Path,
    benchmark: Benchmark,
    verdicts_path: Path,
    *,
    limits: Limits | None = None,
    num_workers: int | None = None,
    tier: Tier = Tier.FULL,
    unsafe_no_sandbox: bool = False,
    cache_path: Path | None = None,
    examiner: Examiner | None = None,
    on_cut_off: Callable[[str], None] = lambda line: None,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write a verdict for each sample, in the samples' order, and judging.json beside them.

    A program that several samples share is judged once. The reference solutions of the samples'
    tasks are judged with them: they say whether the judge is well. A program that ran out of CPU
    time has had it all, however busy the machine; one that ran out of wall-clock time is judged
    again, alone, before that counts. Findings are kept as they come, so that a run that was killed
    goes on where it stopped: at `cache_path`, where later runs find them too, or else at
    `verdicts_path` + ".partial" until the verdicts are written. `limits` are the benchmark's
    unless given; `examiner` is this machine unless given; `on_cut_off` is told of a broken last
    line, which is left out.

    Raises:
        InputError: the samples cannot be read, or were drawn for other data; or a task's checks
            are broken; or a user's own task has a reference that does not pass its checks.
        SandboxUnavailable: this machine cannot contain programs; none has run.
    """
    limits = limits or benchmark.limits
    if examiner is None:
        # A room holds what any of the tasks may need; each program has its task's limits in it.
        most = max(limits_of(task, limits).memory_bytes for task in benchmark.tasks)
        room = replace(limits, memory_bytes=most)
        examiner = Here(room, num_workers, tier, unsafe_no_sandbox=unsafe_no_sandbox)
    sampling = _sampling_beside(samples_path, benchmark)
    task_ids = {task.task_id for task in benchmark.tasks}
    # Every line is read before anything runs: a broken one should not cost an hour first.
    drawn = {sample.task_id for sample in read_samples(samples_path, task_ids, on_cut_off)}
    benchmark = with_expected_outputs(benchmark, examiner.answers, on_progress=on_progress)
    conditions = [tier.value, unsafe_no_sandbox, *fingerprint()]
    plans = {
        task.task_id: Plan(task, limits_of(task, limits), conditions) for task in benchmark.tasks
    }
    references = [
        Sample(task_id=task.task_id, index=0, completion=task.reference)
        for task in benchmark.tasks
        if task.task_id in drawn and task.reference is not None
    ]

    def samples() -> Iterator[Sample]:
        return read_samples(samples_path, task_ids, lambda line: None)

    def everything() -> Iterator[Sample]:
        yield from references
        yield from samples()

    partial_path = verdicts_path.with_name(verdicts_path.name + ".partial")
    with Findings(cache_path or partial_path) as findings:
        find = _Finder(examiner, findings, plans, on_progress)
        if benchmark.is_custom:
            find.verdicts_of(lambda: iter(references))
            _require_all_to_pass(references, findings, plans)
        find.verdicts_of(everything)
        health = _health(references, findings, plans)
        find.counts_of(samples)
        with write_whole(verdicts_path) as file:
            for verdict in _verdicts(samples(), findings, plans):
                file.write(json_line(verdict.as_json()))
        write_record(
            verdicts_path.with_name(JUDGING_FILE),
            Judging(
                benchmark=benchmark.name,
                data_sha256=benchmark.data_sha256,
                samples_sha256=file_sha256(samples_path),
                verdicts_sha256=file_sha256(verdicts_path),
                limits={**limits.as_dict(), "wall_s": limits.wall_limit_s},
                isolation=verdict.isolation,
                versions=_versions(),
                sampling=sampling,
                references=health,
            ),
        )
        if cache_path is None:
            findings.remove()


class _Finder:
    """Has found out whatever is not known yet; progress counts that."""

    def __init__(
        self, examiner: Examiner, findings: Findings, plans: Plans, on_progress: Progress
    ) -> None:
        self._examiner = examiner
        self._findings = findings
        self._plans = plans
        self._on_progress = on_progress

    def verdicts_of(self, samples: Callable[[], Iterable[Sample]]) -> None:
        def jobs() -> Iterator[Job]:
            for sample in samples():
                yield from self._plans[sample.task_id].jobs(sample)

        self._find(jobs)

    def counts_of(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """How many checks hold for the samples that some do not hold for."""

        def jobs() -> Iterator[Job]:
            for sample in samples():
                plan = self._plans[sample.task_id]
                found = [self._findings[job.key]["verdict"] for job in plan.jobs(sample)]
                job = plan.counting_job(sample) if _COUNTED & {*found} else None
                if job is not None:
                    yield job

        self._find(jobs)

    def _find(self, jobs: Callable[[], Iterable[Job]]) -> None:
        kinds = set()
        for job in jobs():
            self._findings.want(job.key)
            kinds.add(job.checks is None)
        num_done, total = itertools.count(1), self._findings.num_wanted
        self._on_progress(0, total)
        for kind in kinds:
            of_kind = (job for job in jobs() if (job.checks is None) is kind)
            claimed = (job for job in of_kind if self._findings.claim(job.key))
            with closing(self._examiner.examine(claimed)) as examined:
                for job, finding in examined:
                    self._findings.keep(job.key, finding._asdict())
                    self._on_progress(next(num_done), total)


def _found(sample: Sample, findings: Findings, plan: Plan) -> list[Finding]:
    return [Finding(**findings[job.key]) for job in plan.jobs(sample)]


def _telling(found: list[Finding]) -> Finding:
    """The first that did not pass, or the last."""
    return next((finding for finding in found if finding.verdict != "passed"), found[-1])


def _require_all_to_pass(references: list[Sample], findings: Findings, plans: Plans) -> None:
    """What holds for a test beside its program may not for checks that call it from afar.

    See docs/security.md; for the benchmarks here our tests make sure of it.
    """
    for sample in references:
        finding = _telling(_found(sample, findings, plans[sample.task_id]))
        if finding.verdict != "passed":
            raise InputError(
                f"{sample.task_id}: its reference solution does not pass its checks "
                f"({finding.verdict}: {finding.detail}); mend one of them"
            )


def _health(references: list[Sample], findings: Findings, plans: Plans) -> References | None:
    failed: dict[str, VerdictName] = {}
    for sample in references:
        finding = _telling(_found(sample, findings, plans[sample.task_id]))
        if finding.checks_broke:
            raise InputError(
                f"{sample.task_id}: its checks break on the reference solution too: "
                f"{finding.detail}; mend them"
            )
        if finding.verdict != "passed":
            failed[sample.task_id] = finding.verdict
    return References(num_judged=len(references), failed=failed) if references else None


def _verdicts(samples: Iterable[Sample], findings: Findings, plans: Plans) -> Iterator[Verdict]:
    """
    Raises:
        InputError: checks broke, of a task without a reference, and no sample passed them. If one
            did, they are sound; nothing else shows it, since a program that fails may have failed
            before the broken check.
    """
    broken: dict[str, str] = {}  # detail by task id
    passed: set[str] = set()
    for sample in samples:
        plan = plans[sample.task_id]
        found = _found(sample, findings, plan)
        finding = _telling(found)
        if finding.verdict == "passed" or plan.task.reference is not None:
            passed.add(sample.task_id)
        elif finding.checks_broke:
            broken.setdefault(sample.task_id, finding.detail)
        yield _verdict(sample, found, _counts(sample, found, findings, plan))
    for task_id, detail in broken.items():
        if task_id not in passed:
            raise InputError(
                f"{task_id}: its checks break, and no sample passes them: {detail}; mend them, "
                "or give the task a reference solution that passes"
            )


def _counts(
    sample: Sample, found: list[Finding], findings: Findings, plan: Plan
) -> tuple[int, int] | None:
    """The checks that held, and all: where some did not, and it is known."""
    telling = _telling(found)
    if telling.num_checks is not None:
        assert telling.num_checks_passed is not None
        return telling.num_checks_passed, telling.num_checks
    if not _COUNTED & {finding.verdict for finding in found} or not plan.num_checks:
        return None
    job = plan.counting_job(sample)
    told = counts_told(findings[job.key]["detail"]) if job is not None else None
    # A program that ends among its checks is held to have passed none, as one out of time is.
    return told or (0, plan.num_checks)


def _verdict(sample: Sample, found: list[Finding], counts: tuple[int, int] | None) -> Verdict:
    finding = _telling(found)
    base, plus = (each.verdict for each in found) if len(found) > 1 else (None, None)
    num_passed, num_checks = counts or (None, None)
    return Verdict(
        task_id=sample.task_id,
        index=sample.index,
        verdict=finding.verdict,
        detail=finding.detail,
        ending=finding.ending,
        exit_code=finding.exit_code,
        cpu_s=finding.cpu_s,
        wall_s=finding.wall_s,
        peak_memory_bytes=finding.peak_memory_bytes,
        output_tail=finding.output_tail,
        isolation=finding.isolation,
        base=base,
        plus=plus,
        num_checks_passed=num_passed,
        num_checks=num_checks,
    )


def _sampling_beside(samples_path: Path, benchmark: Benchmark) -> Sampling | None:
    path = samples_path.with_name(SAMPLING_FILE)
    if not path.exists():
        return None
    sampling = read_record(Sampling, path)
    if (sampling.benchmark, sampling.data_sha256) != (benchmark.name, benchmark.data_sha256):
        raise InputError(
            f"{path}: the samples were drawn for {sampling.benchmark} with data "
            f"{sampling.data_sha256[:12]}, not {benchmark.name} with {benchmark.data_sha256[:12]}"
        )
    return sampling


def _versions() -> dict[str, str]:
    return {
        "mtp-code": importlib.metadata.version("mtp-code"),
        "python": platform.python_version(),
    }
