"""Benchmarks as they are, each read once for all tests of a process."""

from functools import cache

from evals.benchmarks import Benchmark, load_benchmark


@cache
def loaded(name: str) -> Benchmark:
    return load_benchmark(name)
