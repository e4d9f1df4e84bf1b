"""Which programs are judged: each task's reference solution, and mutants of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evals.benchmarks.formats import Benchmark
from evals.judge_bench.mutants import LOOPS_ONE_IN, mutants
from evals.records import Sample, read_verdicts, write_samples

REFERENCE: Final = "reference"


@dataclass(frozen=True)
class Program:
    """A sample, and what it is: a reference, or which kind of mistake was made in one."""

    sample: Sample
    kind: str

    @property
    def name(self) -> tuple[str, int]:
        return self.sample.task_id, self.sample.index

    @property
    def completion(self) -> str:
        assert self.sample.completion is not None  # all of ours are completions
        return self.sample.completion


def programs(
    benchmark: Benchmark, num_mutants: int, loops_one_in: int = LOOPS_ONE_IN
) -> list[Program]:
    """All references, then so many mutants, or as many as can be made."""
    pairs = [
        (task.task_id, REFERENCE, task.reference) for task in benchmark.tasks if task.reference
    ]
    pairs += [
        (each.task_id, each.kind, each.completion)
        for each in mutants(benchmark.tasks, num_mutants, loops_one_in)
    ]
    seen: Counter[str] = Counter()
    found = []
    for task_id, kind, completion in pairs:
        found.append(
            Program(Sample(task_id=task_id, index=seen[task_id], completion=completion), kind)
        )
        seen[task_id] += 1
    return found


def write_programs(path: Path, chosen: Sequence[Program]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_samples(path, [program.sample for program in chosen])
    return path


def read_parts(path: Path) -> list[dict[str, str]]:
    """Our verdicts in the samples' order, part by part: "base", and of a + benchmark "plus"."""
    return [
        {"base": each.base, "plus": each.plus}
        if each.base is not None and each.plus is not None
        else {"base": each.verdict}
        for each in read_verdicts(path)
    ]
