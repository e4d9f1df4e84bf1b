"""The tasks of *micro*: made once by the grammar, and frozen in the files beside this module.

``python -m evals.benchmarks.micro.tasks`` writes those files; with an unchanged `VERSION` they
come out the same.
"""

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from evals.benchmarks.micro.checks import Inputs, choose_inputs, write_checks
from evals.benchmarks.micro.grammar import Family
from evals.benchmarks.micro.programs import (
    FAMILIES,
    Chance,
    Program,
    draw_program,
    write_document,
)

# Raised with every change of a test split, so that scores of two versions are never compared.
VERSION: Final = 1
NUM_TASKS: Final = 200

Size = Literal["micro", "micro-hard"]
SIZES: tuple[Size, ...] = ("micro", "micro-hard")

_FOLDER: Final = Path(__file__).parent


class Task(NamedTuple):
    """``kinds`` are its signature's type: `Program.kinds` of what it was written from."""

    record: dict[str, str]
    kinds: tuple[str, ...]

    def checks(self) -> list[tuple[Inputs, Any]]:
        """Inputs, and what the reference makes of them."""
        found = []
        for check in ast.walk(ast.parse(self.record["test"])):
            if isinstance(check, ast.Assert):
                assert isinstance(check.test, ast.Compare)
                assert isinstance(check.test.left, ast.Call)
                inputs = tuple(map(ast.literal_eval, check.test.left.args))
                found.append((inputs, ast.literal_eval(check.test.comparators[0])))
        return found


class Made(NamedTuple):
    """A task, what it was written from, and the inputs that its checks use."""

    task: Task
    program: Program
    inputs: list[Inputs]


@cache
def load_tasks(size: Size) -> tuple[Task, ...]:
    """All tasks of a size, from its file."""
    rows = map(json.loads, (_FOLDER / f"{size}.jsonl").read_text("utf-8").splitlines())
    return tuple(Task(row, tuple(row.pop("kinds"))) for row in rows)


def make_tasks(size: Size) -> Iterator[Made]:
    """All tasks of a size, from the grammar, in an order that mixes the families, so that the
    first ones are a fair sample of all."""
    made = [each for family, quota in quotas(size) for each in make_family(family, quota)]
    made.sort(key=lambda each: hashlib.sha256(each.program.combination.encode()).digest())
    for number, each in enumerate(made):
        record = {"task_id": f"{size}/{number}", **each.task.record}
        yield each._replace(task=each.task._replace(record=record))


def quotas(size: Size) -> list[tuple[Family, int]]:
    """Tasks of each family, in proportion to the weights (largest remainders), NUM_TASKS in all."""
    families = FAMILIES[size]
    total = sum(family.weight for family in families)
    exact = {family.name: NUM_TASKS * family.weight / total for family in families}
    found = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for name in by_remainder[: NUM_TASKS - sum(found.values())]:
        found[name] += 1
    return [(family, found[family.name]) for family in families]


def make_family(family: Family, quota: int) -> Iterator[Made]:
    """Held-out programs, one a combination, with the parts of each slot evenly used; their tasks
    have no ``task_id`` yet."""
    chance = Chance(f"micro {VERSION} test {family.name}")
    seen: set[str] = set()
    used: Counter[tuple[int, str]] = Counter()
    while quota:
        program = min(
            (draw_program(family, chance) for _ in range(40)),
            key=lambda p: (
                not p.is_held_out or p.combination in seen,
                sum(used[slot, part.key] for slot, part in enumerate(p.parts)),
            ),
        )
        if not program.is_held_out or program.combination in seen:
            continue
        seen.add(program.combination)
        inputs = choose_inputs(program, f"micro {VERSION} inputs {program.combination}")
        if inputs is None:
            continue
        quota -= 1
        used.update((slot, part.key) for slot, part in enumerate(program.parts))
        record = {
            **write_document(program, Chance(f"micro {VERSION} document {program.combination}")),
            "test": write_checks(program, inputs),
            "category": program.family.category,
            "family": program.family.name,
        }
        yield Made(Task(record, program.kinds), program, inputs)


def _write_files() -> None:
    for size in SIZES:
        rows = ({**task.record, "kinds": task.kinds} for task, _, _ in make_tasks(size))
        lines = [json.dumps(row, ensure_ascii=True) + "\n" for row in rows]
        (_FOLDER / f"{size}.jsonl").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    _write_files()
