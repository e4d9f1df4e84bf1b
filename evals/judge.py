"""Samples + sandbox → verdicts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import logging
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from evals.benchmarks.formats import Benchmark
from evals.counting import counts_told
from evals.errors import InputError
from evals.files import (
    Progress,
    file_sha256,
    json_line,
    require_replaceable,
    sole_writer,
    write_whole,
)
from evals.findings import Findings
from evals.oracles.expected import Answered, with_expected_outputs
from evals.plan import Plan, fingerprint, machine
from evals.program import limits_of, raised_limits, recorded_limits, room_of
from evals.records import (
    JUDGING_FILE,
    REFERENCE_BITS_FILE,
    SAMPLING_FILE,
    SCORES_FILE,
    Judging,
    References,
    Sample,
    Sampling,
    Task,
    Verdict,
    VerdictName,
    read_record,
    read_samples,
    write_record,
)
from evals.text import one_line
from evals.work import Examiner, Finding, Here, Job, of_expected
from sandbox import Limits, Tier

log = logging.getLogger(__name__)

# Where a program failed its checks, it makes sense to ask how many.
_COUNTED: Final[frozenset[VerdictName]] = frozenset({"wrong answer", "exception"})

# What a verdict takes over from a finding.
_COMMON: Final = frozenset(Finding._fields) & Verdict.model_fields.keys()

_MORE_OF: Final[dict[VerdictName, str]] = {
    "timed out": ", or give programs more time (--cpu-s)",
    "out of memory": ", or give programs more (--memory-mb)",
}

# Records that lie beside verdicts.
_TAKEN_NAMES: Final = (JUDGING_FILE, REFERENCE_BITS_FILE, SAMPLING_FILE, SCORES_FILE)

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
    counts_checks: bool = True,
    on_cut_off: Callable[[str], None] = lambda line: None,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write a verdict for each sample, in the samples' order, and judging.json beside them.

    A program that several samples share is judged once. The reference solutions of the samples'
    tasks are judged with them: they say whether the judge is well. A program that ran out of time,
    or that something killed, is judged again, alone, before that counts (out of CPU time, within
    the bounds of `evals.work.SecondTries`). That it ran out of wall-clock time or was killed is
    not kept. All other findings are kept as they come, so that a run that was killed goes on where
    it stopped: at `cache_path`, where later runs find them too, or else at `verdicts_path` +
    ".partial" until the verdicts are written.

    `limits` are the benchmark's unless given; `examiner` is this machine unless given;
    `counts_checks` finds out how many checks hold for programs that fail some, if need be by
    running them once more;
    `on_cut_off` is told of a broken last line, which is left out.

    Raises:
        InputError: the samples cannot be read, or were drawn for other data; or a task's checks
            are broken; or a user's own task has a reference that does not pass its checks.
        SandboxUnavailable: this machine cannot contain programs; none has run.
    """
    limits = limits or benchmark.limits
    if examiner is None:
        room = room_of(benchmark.tasks, limits)
        examiner = Here(room, num_workers, tier, unsafe_no_sandbox=unsafe_no_sandbox)
    _require_free(verdicts_path, samples_path)
    # Every line is read before anything runs: a broken one should not cost an hour first.
    samples = _Samples(samples_path, benchmark, on_cut_off)
    sampling = _sampling_beside(samples, benchmark)
    with _expected_folder(tier, unsafe_no_sandbox) as folder:
        benchmark, long_runs = with_expected_outputs(
            benchmark, examiner.answers, folder, on_progress
        )
    conditions = [tier.value, unsafe_no_sandbox, *machine(), *fingerprint()]
    if benchmark.is_custom:
        # Whoever wrote its checks may have had a say in what was found of the programs beside them:
        # that serves no other benchmark, were it of the same tasks.
        conditions.append(benchmark.data_sha256)
    plans = {
        task.task_id: Plan(task, limits_of(task, limits), conditions, counts_checks=counts_checks)
        for task in benchmark.tasks
    }
    references = [
        Sample(task_id=task.task_id, index=0, completion=task.reference)
        for task in benchmark.tasks
        if task.task_id in samples.task_ids and task.reference is not None
    ]
    partial_path = verdicts_path.with_name(verdicts_path.name + ".partial")
    with sole_writer(verdicts_path), Findings(cache_path or partial_path) as findings:
        find = _Finder(examiner, findings, plans, on_progress)
        _keep_long_runs(long_runs, references, findings, plans)
        if benchmark.is_custom:
            find.verdicts_of(lambda: iter(references))
            _require_all_to_pass(references, findings, plans)
        find.verdicts_of(lambda: itertools.chain(references, samples))
        health = _health(references, findings, plans)
        find.counts_of(lambda: samples)
        hashed = hashlib.sha256()
        with write_whole(verdicts_path) as file:
            for verdict in _verdicts(samples, findings, plans):
                line = json_line(verdict.as_json())
                hashed.update(line)
                file.write(line)
            samples.require_unchanged()
        write_record(
            verdicts_path.with_name(JUDGING_FILE),
            Judging(
                benchmark=benchmark.name,
                data_sha256=benchmark.data_sha256,
                samples_sha256=samples.sha256,
                verdicts_sha256=hashed.hexdigest(),
                limits=recorded_limits(limits),
                raised_limits=raised_limits(benchmark.tasks, limits),
                isolation=verdict.isolation,
                versions=_versions(),
                sampling=sampling,
                references=health,
            ),
        )
        if cache_path is None:
            findings.remove()


def _require_free(verdicts_path: Path, samples_path: Path) -> None:
    require_replaceable(verdicts_path)
    if verdicts_path.resolve() == samples_path.resolve():
        raise InputError(f"{verdicts_path}: holds the samples; write the verdicts to another file")
    if verdicts_path.name in _TAKEN_NAMES:
        raise InputError(
            f"{verdicts_path}: a name of another record that lies beside verdicts; choose another"
        )


@contextmanager
def _expected_folder(tier: Tier, unsafe_no_sandbox: bool) -> Iterator[Path | None]:
    """Where expected outputs are kept; for this run only where they cannot be taken on trust.

    An uncontained program could have written there, and a container has an interpreter of its own.
    """
    if unsafe_no_sandbox or tier is Tier.CONTAINER:
        with tempfile.TemporaryDirectory(prefix="mtp-code-") as folder:
            yield Path(folder)
    else:
        yield None


class _Samples:
    """A file's samples. It is read several times, since they may be many, and must stay the same.

    Attributes:
        task_ids: of the tasks that there are samples of.
        sha256: of the file.

    Raises:
        RecordError: as `read_samples`.
    """

    def __init__(self, path: Path, benchmark: Benchmark, on_cut_off: Callable[[str], None]) -> None:
        self.path = path
        self._known_ids = [task.task_id for task in benchmark.tasks]
        self._state = self._as_it_is()
        self.task_ids: set[str] = set()
        self.num_samples = 0
        for sample in read_samples(path, self._known_ids, on_cut_off):
            self.task_ids.add(sample.task_id)
            self.num_samples += 1
        self.sha256 = file_sha256(path)
        self.require_unchanged()

    def __iter__(self) -> Iterator[Sample]:
        self.require_unchanged()
        yield from read_samples(self.path, self._known_ids, lambda line: None)

    def require_unchanged(self) -> None:
        """
        Raises:
            InputError: the file is not what it was when it was first read.
        """
        if self._as_it_is() != self._state:
            raise InputError(f"{self.path}: changed while it was judged; judge it again")

    def _as_it_is(self) -> tuple[int, ...] | None:
        try:
            now = self.path.stat()
        except OSError:
            return None
        return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


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
        """How many checks hold for the samples that some do not hold for, where that is apart."""
        if not any(plan.is_counted_apart for plan in self._plans.values()):
            return

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
                    kept = finding._asdict()
                    self._findings.keep(job.key, kept, is_transient=finding.is_transient)
                    self._on_progress(next(num_done), total)


def _keep_long_runs(
    long_runs: Mapping[str, Answered], references: list[Sample], findings: Findings, plans: Plans
) -> None:
    """Findings on references that need no second run now, if the first kept each part's limits.

    They are not kept for another time: then the outputs are known, and the references held to them.
    """
    for sample in references:
        answered = long_runs.get(sample.task_id)
        for job in plans[sample.task_id].jobs(sample) if answered else ():
            assert answered is not None
            limits = job.limits
            within_time = answered.cpu_s <= limits.cpu_s and answered.wall_s <= limits.wall_limit_s
            if within_time and answered.peak_memory_bytes <= limits.memory_bytes:
                found = of_expected(answered)._asdict()
                findings.keep(job.key, found, is_transient=True)


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
                f"{one_line(sample.task_id)}: its reference solution does not pass its checks "
                f"({finding.verdict}: {finding.detail}); mend one of them"
                + _MORE_OF.get(finding.verdict, "")
            )


def _health(references: list[Sample], findings: Findings, plans: Plans) -> References | None:
    failed: dict[str, VerdictName] = {}
    for sample in references:
        finding = _telling(_found(sample, findings, plans[sample.task_id]))
        if finding.checks_broke:
            raise InputError(
                f"{one_line(sample.task_id)}: its checks break on the reference solution too: "
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
    suspect: dict[str, str] = {}  # the same, where it may be the checks' fault
    sound: set[str] = set()  # tasks of which not every sample failed so
    passed: set[str] = set()
    for sample in samples:
        plan = plans[sample.task_id]
        found = _found(sample, findings, plan)
        finding = _telling(found)
        if finding.verdict == "passed" or plan.task.reference is not None:
            passed.add(sample.task_id)
        elif finding.checks_broke:
            broken.setdefault(sample.task_id, finding.detail)
        if plan.task.reference is None and _may_be_checks_fault(finding, plan.task):
            suspect.setdefault(sample.task_id, finding.detail)
        else:
            sound.add(sample.task_id)
        yield _verdict(sample, found, _counts(sample, found, findings, plan))
    for task_id, detail in broken.items():
        if task_id not in passed:
            raise InputError(
                f"{one_line(task_id)}: its checks break, and no sample passes them: {detail}; mend "
                "them, or give the task a reference solution that passes"
            )

    for task_id in sorted(suspect.keys() - sound):
        log.warning(
            "%s: all its samples failed by an error in its checks: %s; if the fault is the "
            "checks', mend them, or give the task a reference solution that shows it",
            one_line(task_id),
            suspect[task_id],
        )


def _may_be_checks_fault(finding: Finding, task: Task) -> bool:
    """Whether the checks ended in an error of their own, or in a name that nobody defines."""
    if finding.verdict == "undefined":
        return not finding.detail.endswith(tuple(f" {name}" for name in task.checked_names))
    return finding.verdict == "exception" and " in the checks; " in finding.detail


def _counts(
    sample: Sample, found: list[Finding], findings: Findings, plan: Plan
) -> tuple[int, int] | None:
    """The checks that held, and all: where some did not, and it is known."""
    telling = _telling(found)
    if telling.num_checks is not None:
        assert telling.num_checks_passed is not None
        return telling.num_checks_passed, telling.num_checks
    job = plan.counting_job(sample)
    if job is None or not _COUNTED & {finding.verdict for finding in found}:
        return None
    counted = Finding(**findings[job.key])
    told = counts_told(counted.detail) if counted.verdict == "wrong answer" else None
    # A program that ends among its checks is held to have passed none, as one out of time is.
    return told or (0, plan.num_inputs)


def _verdict(sample: Sample, found: list[Finding], counts: tuple[int, int] | None) -> Verdict:
    finding = _telling(found)
    base, plus = (each.verdict for each in found) if len(found) > 1 else (None, None)
    num_passed, num_checks = counts or (None, None)
    common = {name: value for name, value in finding._asdict().items() if name in _COMMON}
    return Verdict(
        task_id=sample.task_id,
        index=sample.index,
        base=base,
        plus=plus,
        **common | {"num_checks_passed": num_passed, "num_checks": num_checks},
    )


def _sampling_beside(samples: _Samples, benchmark: Benchmark) -> Sampling | None:
    path = samples.path.with_name(SAMPLING_FILE)
    if not path.exists():
        return None
    sampling = read_record(Sampling, path)
    data_sha256 = sampling.data_sha256 or benchmark.data_sha256
    if (sampling.benchmark, data_sha256) != (benchmark.name, benchmark.data_sha256):
        raise InputError(
            f"{path}: the samples were drawn for {sampling.benchmark} with data "
            f"{data_sha256[:12]}, not {benchmark.name} with {benchmark.data_sha256[:12]}"
        )
    num_samples = len(benchmark.tasks) * sampling.num_samples
    if samples.num_samples != num_samples:
        raise InputError(
            f"{path}: speaks of {num_samples} samples, and {samples.path.name} beside it holds "
            f"{samples.num_samples}; keep other samples in another folder"
        )
    return sampling


def _versions() -> dict[str, str]:
    return {
        "mtp-code": importlib.metadata.version("mtp-code"),
        "python": platform.python_version(),
    }
