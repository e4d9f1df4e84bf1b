"""*micro*: a benchmark, and its training text, for code models too small for HumanEval.

Short Python functions are written by a grammar (parts.py, easy.py, hard.py) from a seed. What a
function does is a combination of parts; the test split consists of combinations that training
never shows, in any phrasing, name or constant. See docs/micro.md.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal

from evals.benchmarks.micro.canonical import canonical_form
from evals.benchmarks.micro.checks import Inputs, agrees
from evals.benchmarks.micro.grammar import Family
from evals.benchmarks.micro.programs import (
    FAMILIES,
    Chance,
    draw_program,
    load,
    write_document,
)
from evals.benchmarks.micro.tasks import NUM_TASKS, SIZES, VERSION, Size, load_tasks

__all__ = ["NUM_TASKS", "SIZES", "VERSION", "Size", "canonical_form", "generate", "to_jsonl"]

Split = Literal["train", "test"]

# Of the training documents of a size: how many come from the families of each.
TRAINING_SHARES: dict[Size, dict[Size, float]] = {
    "micro": {"micro": 1.0},
    "micro-hard": {"micro": 0.3, "micro-hard": 0.7},
}


def generate(
    split: Split = "test", size: Size = "micro", *, count: int | None = None, seed: int = 0
) -> list[dict[str, str]]:
    """Items in HumanEval's record format, with their ``category`` and ``family`` besides.

    ``test``: the tasks of a size; always the same, whatever the seed. ``train``: ``count``
    documents, all different, without checks; a larger count begins with the same documents. They
    cover every part and phrase of a size's tasks, and those of micro-hard also cover micro's.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    match split:
        case "test":
            return [dict(task.record) for task in load_tasks(size)][:count]
        case "train":
            return list(_train_split(size, 30_000 if count is None else count, seed))
        case _:
            raise ValueError(f"split must be train or test, got {split!r}")


def to_jsonl(items: Iterable[dict[str, str]]) -> bytes:
    """The bytes that a split's sha256 is taken of."""
    return "".join(json.dumps(item, ensure_ascii=True) + "\n" for item in items).encode()


def _train_split(size: Size, count: int, seed: int) -> Iterator[dict[str, str]]:
    chance = Chance(f"micro {VERSION} train {seed}")
    weighted: list[tuple[Family, float]] = []
    for each, share in TRAINING_SHARES[size].items():
        total = sum(family.weight for family in FAMILIES[each])
        weighted += [(family, share * family.weight / total) for family in FAMILIES[each]]
    families, weights = zip(*weighted, strict=True)
    written: set[bytes] = set()
    while len(written) < count:
        family = chance.weighted(families, weights)
        program = draw_program(family, chance)
        item = write_document(program, chance)
        digest = hashlib.sha256(item["prompt"].encode()).digest()
        if digest in written or program.is_held_out or _is_tested(program.kinds, program.source):
            continue
        written.add(digest)
        yield {
            "task_id": f"micro-train/{len(written) - 1}",
            **item,
            "category": family.category,
            "family": family.name,
        }


@cache
def _is_tested(kinds: tuple[str, ...], source: str) -> bool:
    """Whether a program of some other combination does what a task of either size asks for."""
    function = None
    for checks in _answers().get(kinds, ()):
        function = function or load(source)
        if all(agrees(function, inputs, expected) for inputs, expected in checks):
            return True
    return canonical_form(source) in _test_forms()


@cache
def _answers() -> dict[tuple[str, ...], list[list[tuple[Inputs, object]]]]:
    """Inputs and results of every task's checks, by its signature's type."""
    answers: dict[tuple[str, ...], list[list[tuple[Inputs, object]]]] = {}
    for size in SIZES:
        for task in load_tasks(size):
            answers.setdefault(task.kinds, []).append(task.checks()[::-1])
    return answers


@cache
def _test_forms() -> frozenset[str]:
    return frozenset(
        canonical_form(task.record["prompt"] + task.record["canonical_solution"])
        for size in SIZES
        for task in load_tasks(size)
    )
