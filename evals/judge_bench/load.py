"""Verdicts on a machine that is busy with something else: repeated, and compared."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from evals.benchmarks import load_benchmark
from evals.benchmarks.formats import Benchmark
from evals.errors import BenchmarkUnavailable
from evals.files import Progress
from evals.judge_bench.harnesses import is_pass
from evals.judge_bench.ours import Ours
from evals.judge_bench.programs import REFERENCE, Program, programs
from evals.records import Sample

NAMES: Final = ("humaneval", "mbpp")
BUSY_PER_CORE: Final = 3
# What never ends is waited for in each repeat, with a share of the machine.
LOOPS_ONE_IN: Final = 500

# References that take such a share of their limit besides: what shows first if load counts.
NEAR: Final = "near the limit"
NEAR_SHARES: Final = (0.7, 0.75, 0.8, 0.85, 0.9)
NEAR_LIMIT_S: Final = 1.0
_NUM_NEAR: Final = 40

# Ends with whoever started it, even one that is killed.
_BUSY: Final = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000): pass
"""

# At a module's level, where loops are slower than in a function.
_CALIBRATION: Final = """
import time
began_s = time.process_time()
for _ in range({count}): pass
print(time.process_time() - began_s)
"""
_CALIBRATION_COUNT: Final = 5_000_000

Verdicts = list[dict[str, str]]


@dataclass(frozen=True)
class _Set:
    """Programs of a benchmark; `cpu_s` is their limit, which is else the benchmark's."""

    benchmark: str
    chosen: Sequence[Program]
    cpu_s: float | None = None


def measure(
    num_repeats: int,
    num_samples: int,
    ours: Ours,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Judge the same samples on a quiet machine, then so many times on a busy one.

    A flip is a sample whose verdict, in any part or repeat, is another than on the quiet machine.
    """
    sets, absent = _sets(num_samples)
    num_done = 0

    def judged() -> tuple[dict[str, Verdicts], float]:
        nonlocal num_done
        started_s = time.perf_counter()
        found = {
            name: ours.judge(each.chosen, each.benchmark, cpu_s=each.cpu_s)
            for name, each in sets.items()
        }
        num_done += 1
        on_progress(num_done, 1 + num_repeats)
        return found, time.perf_counter() - started_s

    quiet, quiet_s = judged()
    num_busy = BUSY_PER_CORE * len(os.sched_getaffinity(0))
    with busy(num_busy):
        repeats = [judged() for _ in range(num_repeats)]
    return {
        "benchmarks": {name: len(each.chosen) for name, each in sets.items()},
        "absent": absent,
        "num_samples": sum(len(each.chosen) for each in sets.values()),
        "num_references": sum(_num_references(each.chosen) for each in sets.values()),
        "num_near": sum(len(each.chosen) for each in sets.values() if each.cpu_s is not None),
        "busy_processes": num_busy,
        "repeats": num_repeats,
        "quiet_wall_s": quiet_s,
        "wall_s": [wall_s for _, wall_s in repeats],
        "verdicts": {
            name: dict(Counter(word for words in found for word in words.values()).most_common())
            for name, found in quiet.items()
        },
        "references_passed": [
            _references_passed(sets, found) for found in (quiet, *_first(repeats))
        ],
        "flips": _flips(sets, quiet, _first(repeats)),
    }


@contextlib.contextmanager
def busy(num_processes: int) -> Iterator[list[int]]:
    """Keep the machine busy with processes of our own, which end with the block; their ids."""
    with contextlib.ExitStack() as ended:
        pids = []
        for _ in range(num_processes):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BUSY, str(os.getpid())])
            ended.callback(process.wait)
            ended.callback(process.kill)
            pids.append(process.pid)
        yield pids


def _sets(num_samples: int) -> tuple[dict[str, _Set], dict[str, str]]:
    """References and mutants of the benchmarks that are at hand, in equal parts, by name.

    And of the first of these, some references that come near their limit.
    """
    benchmarks, absent = [], {}
    for name in NAMES:
        try:
            benchmarks.append(load_benchmark(name))
        except BenchmarkUnavailable as reason:
            absent[name] = str(reason)
    sets: dict[str, _Set] = {}
    for at, benchmark in enumerate(benchmarks):
        count = num_samples // len(benchmarks) + (at < num_samples % len(benchmarks))
        num_mutants = max(0, count - len(benchmark.tasks))
        # With less than that there are only references.
        chosen = programs(benchmark, num_mutants, LOOPS_ONE_IN)[:count]
        sets[benchmark.name] = _Set(benchmark.name, chosen)
    if benchmarks:
        first = benchmarks[0]
        sets[f"{first.name}, {NEAR}"] = _Set(first.name, near_the_limit(first), NEAR_LIMIT_S)
    return sets, absent


def near_the_limit(benchmark: Benchmark) -> list[Program]:
    """References behind a loop that takes a share of `NEAR_LIMIT_S`, on this machine as it is now.

    The loop counts steps and looks at no clock: beside others it takes more CPU time if they do.
    """
    tasks = [task for task in benchmark.tasks if task.reference][:_NUM_NEAR]
    steps_per_s = _steps_per_s()
    found = []
    for task, share in zip(tasks, itertools.cycle(NEAR_SHARES), strict=False):
        loop = f"for _ in range({round(steps_per_s * share * NEAR_LIMIT_S)}): pass"
        completion = f"{task.reference}\n\n{loop}\n"
        found.append(Program(Sample(task_id=task.task_id, index=0, completion=completion), NEAR))
    return found


def _steps_per_s() -> float:
    """Of the loop, in an interpreter as the sandbox has it: the middle one of some tries."""
    script = _CALIBRATION.format(count=_CALIBRATION_COUNT)
    command = [sys.executable, "-I", "-S", "-c", script]
    tries = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(5)]
    return _CALIBRATION_COUNT / statistics.median(map(float, tries))


def _first(repeats: Sequence[tuple[dict[str, Verdicts], float]]) -> list[dict[str, Verdicts]]:
    return [found for found, _ in repeats]


def _num_references(chosen: Sequence[Program]) -> int:
    return sum(program.kind == REFERENCE for program in chosen)


def _references_passed(sets: dict[str, _Set], found: dict[str, Verdicts]) -> int:
    return sum(
        program.kind == REFERENCE and all(map(is_pass, words.values()))
        for name, each in sets.items()
        for program, words in zip(each.chosen, found[name], strict=True)
    )


def _flips(
    sets: dict[str, _Set],
    quiet: dict[str, Verdicts],
    repeats: Sequence[dict[str, Verdicts]],
) -> list[dict[str, Any]]:
    flips = []
    for name, each in sets.items():
        for at, program in enumerate(each.chosen):
            others = [found[name][at] for found in repeats if found[name][at] != quiet[name][at]]
            if others:
                flips.append(
                    {
                        "benchmark": name,
                        "task_id": program.sample.task_id,
                        "kind": program.kind,
                        "quiet": quiet[name][at],
                        "busy": others,
                        "of_pass": any(
                            is_pass(word) != is_pass(quiet[name][at][part])
                            for words in others
                            for part, word in words.items()
                        ),
                    }
                )
    return flips
