"""A benchmark of three tasks, and a pool that runs nothing: it reads outcomes off the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Self

import pytest

import evals.work
from evals.benchmarks.formats import Benchmark, humaneval_benchmark
from sandbox import Checks, Ending, Examination, Execution, Limits, Outcome

ROWS = [
    {
        "task_id": f"Toy/{number}",
        "prompt": f'def add{number}(x):\n    """Add {number}."""\n',
        "entry_point": f"add{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }
    for number in range(3)
]


@pytest.fixture
def toy() -> Benchmark:
    return humaneval_benchmark("toy", ROWS)


class FakePool:
    """Finds what the program says of itself: `# failed`, or `# ended: timed out (cpu)`.

    `# slow` runs out of wall-clock time, and `# crowded` of CPU time, unless it is given a pool of
    one worker.
    """

    examined: ClassVar[list[str]]  # without the reference solutions, which say nothing

    def __init__(self, limits: Limits, num_workers: int | None = None, **_: object) -> None:
        self.num_workers = num_workers or 3

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def examine_as_completed(
        self, work: Iterable[tuple[str, Checks, Limits]]
    ) -> Iterator[tuple[int, Examination]]:
        """All of them, last to first."""
        for position, (program, checks, _) in reversed(list(enumerate(work))):
            if "# " in program:
                self.examined.append(program)
            yield position, self.examination(program, checks)

    def examination(self, program: str, checks: Checks) -> Examination:
        said = program.rpartition("# ")[2].strip() if "# " in program else "held"
        if clock := {"slow": "wall", "crowded": "cpu"}.get(said):
            said = "held" if self.num_workers == 1 else f"ended: timed out ({clock})"
        outcome, _, ending = said.partition(": ")
        return Examination(
            Outcome(outcome),
            f"said {said}",
            Execution(Ending(ending or "exited"), 0, None, 0.1, 0.2, 1000, "", "", "full"),
            counts=(0, 1) if checks.counts and outcome == "failed" else None,
        )


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[FakePool]:
    """Judging goes to the fake pool; the programs it examined are in `.examined`."""

    class Pool(FakePool):
        examined: ClassVar[list[str]] = []

    monkeypatch.setattr(evals.work, "Pool", Pool)
    return Pool
