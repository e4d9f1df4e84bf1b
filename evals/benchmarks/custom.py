"""A user's own tasks: a JSON Lines file in HumanEval's or MBPP's record format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evals.benchmarks.formats import Benchmark, humaneval_benchmark, mbpp_benchmark
from evals.errors import RecordError
from evals.records import read_rows


def load(path: Path) -> Benchmark:
    """The benchmark, named like the file; the first row tells the format.

    Raises:
        RecordError: the file cannot be read, is empty, or is in neither format.
    """
    rows = read_rows(path)
    if not rows:
        raise RecordError(f"{path}: holds no tasks; expected one a line, as JSON")
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if "test" in rows[0]:
        return replace(humaneval_benchmark(name, rows, str(path)), is_custom=True)
    if "test_list" in rows[0]:
        return replace(mbpp_benchmark(name, rows, str(path)), is_custom=True)
    raise RecordError(
        f"{rows[0].where}: neither HumanEval's record format (prompt, entry_point, test) "
        f"nor MBPP's (text, code, test_list); its keys are {', '.join(rows[0])}"
    )
