"""Benchmarks by name: each turns rows of its data into tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

from evals.benchmarks import custom, humaneval, mbpp
from evals.benchmarks.formats import Benchmark, humaneval_benchmark
from evals.errors import InputError, did_you_mean
from sandbox import Limits

__all__ = ["BENCHMARKS", "Benchmark", "load_benchmark"]


def _load_micro(size: Literal["micro", "micro-hard"]) -> Benchmark:
    from evals.benchmarks import micro  # here, since it writes its tasks anew

    # Its functions take microseconds: more than two seconds is a loop without end.
    return humaneval_benchmark(size, micro.generate("test", size), limits=Limits(cpu_s=2.0))


BENCHMARKS: Final[dict[str, Callable[[], Benchmark]]] = {
    "humaneval": humaneval.load,
    "mbpp": mbpp.load,
    "micro": partial(_load_micro, "micro"),
    "micro-hard": partial(_load_micro, "micro-hard"),
}


def load_benchmark(name: str) -> Benchmark:
    """A benchmark by its name, or by the path of a file of tasks.

    Raises:
        InputError: there is no such benchmark or file, or the file is not usable.
        BenchmarkUnavailable: its data cannot be had on this machine.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]()
    path = Path(name)
    if path.is_file():
        return custom.load(path)
    if path.name != name or name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{name}: no such file; expected JSON Lines of tasks")
    raise InputError(f"benchmark {name}: unknown{did_you_mean(name, BENCHMARKS)}")
