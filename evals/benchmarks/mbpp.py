"""MBPP (Austin et al. 2021, arXiv 2108.07732), and the edition that its authors went over by hand.

Known traps, all met: CRLF line ends, set-up code that needs the solution's classes (367, 927), a
task that takes 5 s of CPU (123), one that shadows a builtin (126), imports that only the edited
edition's tests have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evals.benchmarks.formats import Benchmark, mbpp_benchmark
from evals.benchmarks.sources import rows_from_hub
from evals.errors import RecordError

HUB_NAME: Final = "google-research-datasets/mbpp"
EXAMPLE_IDS: Final = (2, 3, 4)  # as Austin et al. prompt with, section 3


@dataclass(frozen=True)
class Edition:
    """`stem` names its file, `config` its data on the hub; `num_rows` is of all splits together."""

    stem: str
    config: str
    num_rows: int
    num_test_rows: int


FULL: Final = Edition("mbpp", "full", num_rows=974, num_test_rows=500)
SANITIZED: Final = Edition("sanitized-mbpp", "sanitized", num_rows=427, num_test_rows=257)
TEST_IDS: Final = range(11, 511)  # both editions'


def load(name: str, edition: Edition, *, only_test: bool = True) -> Benchmark:
    """The tasks of the test split, or of all four.

    Raises:
        BenchmarkUnavailable: it is neither in the user's folder nor to be had from the hub.
        RecordError: the file does not hold all of these tasks.
    """
    source, rows = rows_from_hub(
        name, edition.stem, HUB_NAME, edition.config, "prompt+test+validation+train"
    )
    by_id = {row["task_id"]: row for row in rows if isinstance(row.get("task_id"), int)}
    ids = [number for number in range(1, 975) if number in by_id]
    tests = [number for number in ids if number in TEST_IDS]
    for found, expected, what in (
        (len(tests), edition.num_test_rows, "test tasks"),
        (len(ids), edition.num_rows, "tasks"),
    ):
        if found != expected and (what == "test tasks" or not only_test):
            raise RecordError(
                f"{source}: holds {found} of the {expected} {what} of {name}; get MBPP's "
                f"{edition.config} edition"
            )
    return mbpp_benchmark(
        name,
        [by_id[number] for number in (tests if only_test else ids)],
        source,
        # They are no examples where they are asked themselves.
        examples=[by_id[number] for number in EXAMPLE_IDS if number in by_id] if only_test else (),
    )
