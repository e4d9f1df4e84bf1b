"""Samples + sandbox → verdicts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

from evals.benchmarks.formats import Benchmark
from evals.errors import InputError
from evals.files import Journal, Progress, file_sha256, json_line, write_whole
from evals.program import checks_of, program_of
from evals.records import (
    JUDGING_FILE,
    SAMPLING_FILE,
    Judging,
    Sample,
    Sampling,
    Task,
    Verdict,
    VerdictName,
    read_record,
    read_samples,
    write_record,
)
from sandbox import Checks, Ending, Examination, Limits, Outcome, Pool

# What became of a program whose checks had their say …
_BY_OUTCOME: Final[dict[Outcome, VerdictName]] = {
    Outcome.HELD: "passed",
    Outcome.FAILED: "wrong answer",
    Outcome.RAISED: "exception",
    Outcome.SYNTAX_ERROR: "syntax error",
    Outcome.UNDEFINED: "undefined",
    Outcome.CHECKS_BROKEN: "exception",  # by its answer: see _require_sound_checks
}
# … and of one that ended before they had.
_BY_ENDING: Final[dict[Ending, VerdictName]] = {
    Ending.EXITED: "exited",
    Ending.SIGNALLED: "crashed",
    Ending.TIMED_OUT_CPU: "timed out",
    Ending.TIMED_OUT_WALL: "timed out",
    Ending.OUT_OF_MEMORY: "out of memory",
    Ending.TOO_MUCH_OUTPUT: "blocked",
    Ending.BLOCKED: "blocked",
    Ending.CRASHED: "crashed",
}


class Job(NamedTuple):
    """A program to judge; `key` is the same for the same work under the same conditions."""

    key: str
    task: Task
    program: str
    checks: Checks


def judge(
    samples_path: Path,
    benchmark: Benchmark,
    verdicts_path: Path,
    *,
    limits: Limits | None = None,
    num_workers: int | None = None,
    unsafe_no_sandbox: bool = False,
    on_cut_off: Callable[[str], None] = lambda line: None,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Write a verdict for each sample, in the samples' order, and judging.json beside them.

    A program that several samples share is judged once; one that timed out is judged again,
    alone, before that counts. Findings are kept in `verdicts_path` + ".partial" as they come, so
    a run that was killed goes on where it stopped. `limits` are the benchmark's unless given;
    `on_cut_off` is told of a broken last line, which is left out.

    Raises:
        InputError: the samples cannot be read, or were drawn for other data; or a task's checks
            are broken.
        SandboxUnavailable: this machine cannot contain programs; none has run.
    """
    limits = limits or benchmark.limits
    samples = _Samples(samples_path, benchmark, [limits.as_dict(), unsafe_no_sandbox])
    # Every line is read before anything runs: a broken one should not cost an hour first.
    keys = {job.key for _, job in samples.read(on_cut_off)}

    partial = verdicts_path.with_name(verdicts_path.name + ".partial")
    sound: set[str] = set()
    with Journal(partial, lambda row: row["key"]) as findings:
        for workers, alone in ((num_workers, False), (1, True)):
            missing = {key for key in keys if key not in findings}
            on_progress(len(keys) - len(missing), len(keys))
            if not missing:
                break
            with Pool(limits, workers, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
                for job, examination in _examine(pool, samples.jobs(missing)):
                    if (
                        examination.outcome is Outcome.CHECKS_BROKEN
                        and job.task.task_id not in sound
                    ):
                        _require_sound_checks(job.task, limits, unsafe_no_sandbox)
                        sound.add(job.task.task_id)
                    finding = _finding(examination)
                    if alone or finding["verdict"] != "timed out":
                        findings.append({"key": job.key, **finding})
                        missing.discard(job.key)
                        on_progress(len(keys) - len(missing), len(keys))

        with write_whole(verdicts_path) as file:
            for sample, job in samples.read():
                finding = findings[job.key]
                del finding["key"]
                verdict = Verdict(task_id=sample.task_id, index=sample.index, **finding)
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
                sampling=samples.sampling,
            ),
        )
        findings.remove()


class _Samples:
    """A file's samples and the job of each; read anew each time, since they may be many."""

    def __init__(self, path: Path, benchmark: Benchmark, conditions: list[Any]) -> None:
        self.sampling = _sampling_beside(path, benchmark)
        self._path = path
        self._tasks = {task.task_id: task for task in benchmark.tasks}
        self._checks = {task.task_id: checks_of(task) for task in benchmark.tasks}
        self._hashes = {
            task_id: hashlib.sha256(json_line([*conditions, _versions(), asdict(checks)]))
            for task_id, checks in self._checks.items()
        }

    def read(
        self, on_cut_off: Callable[[str], None] = lambda line: None
    ) -> Iterator[tuple[Sample, Job]]:
        for sample in read_samples(self._path, self._tasks, on_cut_off):
            task = self._tasks[sample.task_id]
            program = program_of(task, sample)
            key = self._hashes[sample.task_id].copy()
            key.update(program.encode("utf-8", "surrogatepass"))
            yield sample, Job(key.hexdigest(), task, program, self._checks[sample.task_id])

    def jobs(self, keys: Iterable[str]) -> Iterator[Job]:
        """One job for each of the keys, in the samples' order."""
        wanted = set(keys)
        for _, job in self.read():
            if job.key in wanted:
                wanted.remove(job.key)
                yield job


def _examine(pool: Pool, jobs: Iterable[Job]) -> Iterator[tuple[Job, Examination]]:
    """Each job with its examination, as they end; jobs are taken as fast as they can run."""
    under_way: dict[int, Job] = {}

    def handed_over() -> Iterator[tuple[str, Checks]]:
        for position, job in enumerate(jobs):
            under_way[position] = job
            yield job.program, job.checks

    for position, examination in pool.examine_as_completed(handed_over()):
        yield under_way.pop(position), examination


def _require_sound_checks(task: Task, limits: Limits, unsafe_no_sandbox: bool) -> None:
    """Tell checks that are broken by themselves from checks that a program's answer broke."""
    if task.reference is None:
        return
    with Pool(limits, 1, unsafe_no_sandbox=unsafe_no_sandbox) as pool:
        program = task.program_prefix + task.reference
        ((_, examination),) = pool.examine_as_completed([(program, checks_of(task))])
    if examination.outcome is Outcome.CHECKS_BROKEN:
        raise InputError(
            f"{task.task_id}: its checks break on the reference solution too: "
            f"{examination.detail}; mend them"
        )


def _finding(examination: Examination) -> dict[str, Any]:
    """What a verdict says of the program, whichever sample it came from."""
    execution = examination.execution
    verdict = (
        _BY_ENDING[execution.ending]
        if examination.outcome is Outcome.ENDED
        else _BY_OUTCOME[examination.outcome]
    )
    return {
        "verdict": verdict,
        "detail": examination.detail,
        "ending": execution.ending.value,
        "exit_code": execution.exit_code,
        "cpu_s": round(execution.cpu_s, 4),
        "wall_s": round(execution.wall_s, 4),
        "peak_memory_bytes": execution.peak_memory_bytes,
        "output_tail": execution.output_tail,
        "isolation": execution.isolation,
    }


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
