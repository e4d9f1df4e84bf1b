"""A user's own tasks: a JSON Lines file in HumanEval's or MBPP's record format."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from evals.benchmarks.formats import Benchmark, humaneval_benchmark, mbpp_benchmark
from evals.errors import RecordError
from evals.program import undeclared_names
from evals.records import read_rows
from evals.text import one_line

log = logging.getLogger(__name__)


def load(path: Path) -> Benchmark:
    """The benchmark, named like the file; the first row tells the format.

    A warning names the tasks whose checks take more from the program than they say.

    Raises:
        RecordError: the file cannot be read, is empty, or is in neither format.
    """
    rows = read_rows(path)
    if not rows:
        raise RecordError(f"{path}: holds no tasks; expected one a line, as JSON")
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if "test" in rows[0]:
        benchmark = humaneval_benchmark(name, rows, str(path))
    elif "test_list" in rows[0]:
        benchmark = mbpp_benchmark(name, rows, str(path))
    else:
        raise RecordError(
            f"{rows[0].where}: neither HumanEval's record format (prompt, entry_point, test) "
            f"nor MBPP's (text, code, test_list); its keys are {one_line(', '.join(rows[0]), 200)}"
        )
    _warn_of_undeclared_names(path, benchmark)
    return replace(benchmark, is_custom=True)


def _warn_of_undeclared_names(path: Path, benchmark: Benchmark) -> None:
    by_task = {task.task_id: undeclared_names(task) for task in benchmark.tasks}
    if found := {task_id: names for task_id, names in by_task.items() if names}:
        (task_id, names), *_ = found.items()
        log.warning(
            "%s: the checks of %d of its tasks (%s first) use names that nobody but the program "
            "binds (%s), which may be what makes them hold; bind them in the prompt or the test, "
            "where they are not its to define",
            path,
            len(found),
            one_line(task_id),
            one_line(", ".join(sorted(names))),
        )
