"""Benchmarks by name: each turns rows of its data into tasks."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from evals.benchmarks import apps, custom, humaneval, mbpp, plus
from evals.benchmarks.formats import Benchmark, humaneval_benchmark
from evals.errors import InputError
from sandbox import Limits

__all__ = ["BENCHMARKS", "ORIGINALS", "Benchmark", "load_benchmark"]


def _load_micro(size: Literal["micro", "micro-hard"]) -> Benchmark:
    from evals.benchmarks import micro  # its grammar is for those who ask for it

    rows = micro.generate("test", size)
    # Its functions take microseconds: more than two seconds is a loop without end.
    benchmark = humaneval_benchmark(size, rows, limits=Limits(cpu_s=2.0))
    # Tasks of one family are alike: a model that has learnt the family does them all.
    tasks = zip(benchmark.tasks, rows, strict=True)
    return replace(
        benchmark,
        tasks=tuple(task.model_copy(update={"origin": row["family"]}) for task, row in tasks),
    )


# What follows the @ is a release, or the splits that are meant where that is not the test split.
BENCHMARKS: Final[dict[str, Callable[[], Benchmark]]] = {
    "humaneval": humaneval.load,
    "humaneval+": partial(plus.load, "humaneval+", plus.HUMANEVAL_PLUS),
    "humaneval+@v0.1.9": partial(plus.load, "humaneval+@v0.1.9", plus.HUMANEVAL_PLUS_0_1_9),
    "humaneval+mini": partial(plus.load, "humaneval+mini", plus.HUMANEVAL_PLUS_MINI),
    "mbpp": partial(mbpp.load, "mbpp", mbpp.FULL),
    "mbpp@all": partial(mbpp.load, "mbpp@all", mbpp.FULL, only_test=False),
    "mbpp-sanitized": partial(mbpp.load, "mbpp-sanitized", mbpp.SANITIZED),
    "mbpp-sanitized@all": partial(mbpp.load, "mbpp-sanitized@all", mbpp.SANITIZED, only_test=False),
    "mbpp+": partial(plus.load, "mbpp+", plus.MBPP_PLUS),
    "mbpp+@v0.1.0": partial(plus.load, "mbpp+@v0.1.0", plus.MBPP_PLUS_0_1_0),
    **{f"apps-{level}": partial(apps.load, level) for level in apps.LEVELS},
    "micro": partial(_load_micro, "micro"),
    "micro-hard": partial(_load_micro, "micro-hard"),
}

# Of these the others are editions, or (APPS) too large to look at before every training run.
ORIGINALS: Final = ("humaneval", "mbpp", "micro", "micro-hard")

# The newest releases, spelled out.
_ALIASES: Final = {"humaneval+@v0.1.10": "humaneval+", "mbpp+@v0.2.0": "mbpp+"}


def load_benchmark(name: str) -> Benchmark:
    """A benchmark by its name, or by the path of a file of tasks.

    Raises:
        InputError: there is no such benchmark or file, or the file is not usable.
        BenchmarkUnavailable: its data cannot be had on this machine.
    """
    name = _ALIASES.get(name, name)
    if name in BENCHMARKS:
        return BENCHMARKS[name]()
    path = Path(name)
    if path.is_file():
        return custom.load(path)
    if path.is_dir():
        raise InputError(f"{name}: a folder; expected a JSON Lines file of tasks")
    if path.name != name or name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{name}: no such file; expected JSON Lines of tasks")
    close = difflib.get_close_matches(name, BENCHMARKS, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"benchmark {name}: unknown; {guess}known: {', '.join(BENCHMARKS)}")
