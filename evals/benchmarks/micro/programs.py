"""Programs of the grammar: a choice of parts and constants, and the documents written from it."""

import ast
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import indent
from typing import Any, TypeVar

from evals.benchmarks.micro.easy import FAMILIES as EASY
from evals.benchmarks.micro.easy import FURTHER_FAMILIES
from evals.benchmarks.micro.grammar import ARGUMENT_NAMES, Bound, Family, Say
from evals.benchmarks.micro.hard import FAMILIES as HARD
from evals.benchmarks.micro.parts import Constant, Part

FAMILIES: dict[str, tuple[Family, ...]] = {
    "micro": EASY,
    "micro-hard": (*FURTHER_FAMILIES, *HARD),
}
HELD_OUT_SHARE = 0.2
PARAMETER_SHARE = 0.25  # of the programs with a constant: how many take it as an argument
NEUTRAL_NAMES = (
    *("f", "g", "solve", "compute", "func", "task"),
    *("apply", "run", "calc", "answer", "process", "transform"),
)

T = TypeVar("T")


class Chance:
    """Choices that are the same on every Python: made of ``random()``, whose numbers are fixed."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed).random

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.random() * len(options))]

    def integer(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        mark = self.random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            mark -= weight
            if mark < 0:
                return option
        return options[-1]


@dataclass(frozen=True)
class Program:
    family: Family
    parts: tuple[Part, ...]
    constants: tuple[Constant | None, ...]  # one a part
    parameter: int | None  # the part whose constant is an argument

    @property
    def combination(self) -> str:
        return f"{self.family.name}: {' '.join(part.key or '-' for part in self.parts)}"

    @property
    def is_held_out(self) -> bool:
        """Decided by the combination alone, so by no name, phrasing or constant."""
        digest = hashlib.sha256(self.combination.encode()).digest()
        return int.from_bytes(digest[:4]) < HELD_OUT_SHARE * 2**32

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What each argument holds: the signature's type."""
        if self.parameter is None:
            return self.family.inputs
        is_number = isinstance(self.constants[self.parameter], int)
        return (*self.family.inputs, "number constant" if is_number else "text constant")

    def write(self, say: Say, args: Sequence[str]) -> tuple[str, str]:
        """Docstring and body."""
        bound = []
        for place, (part, constant) in enumerate(zip(self.parts, self.constants, strict=True)):
            literal = f'"{constant}"' if isinstance(constant, str) else str(constant)
            bound.append(Bound(part, args[-1] if place == self.parameter else literal, say))
        doc, body = self.family.write(say, list(args[: len(self.family.inputs)]), *bound)
        return doc, indent(body, "    ") + "\n"

    @cached_property
    def source(self) -> str:
        """The function under fixed names, so equal for all documents of the program."""
        args = [ARGUMENT_NAMES[kind][0] for kind in self.kinds]
        return f"def f({', '.join(args)}):\n{self.write(lambda *phrases: phrases[0], args)[1]}"

    def neighbours(self) -> Iterator["Program"]:
        """What a slip writes: another part in one slot, or a constant that is off by one."""
        for place, part in enumerate(self.parts):
            for other in self.family.slots[place]:
                if other == part:
                    continue
                parts = (*self.parts[:place], other, *self.parts[place + 1 :])
                constant = self.constants[place]
                if constant not in other.constants:
                    constant = other.constants[0] if other.constants else None
                yield self._with(place, constant, parts)
            constant = self.constants[place]
            if isinstance(constant, int) and place != self.parameter:
                yield self._with(place, constant + 1, self.parts)
                yield self._with(place, constant - 1, self.parts)

    def _with(self, place: int, constant: Constant | None, parts: tuple[Part, ...]) -> "Program":
        constants = (*self.constants[:place], constant, *self.constants[place + 1 :])
        return replace(self, parts=parts, constants=constants)


def draw_program(family: Family, chance: Chance) -> Program:
    while True:
        parts = tuple(chance.pick(slot) for slot in family.slots)
        if family.accepts(parts):
            break
    constants = tuple(chance.pick(part.constants) if part.constants else None for part in parts)
    places = [place for place, constant in enumerate(constants) if constant is not None]
    parameter = None
    if places and not family.literal and chance.random() < PARAMETER_SHARE:
        parameter = chance.pick(places)
    return Program(family, parts, constants, parameter)


def write_document(program: Program, chance: Chance) -> dict[str, str]:
    """Prompt, entry point and reference of a program, in names and phrases drawn by chance."""
    keys = [part.key for part in program.parts if part.key]
    name = chance.pick(NEUTRAL_NAMES)
    if chance.random() < 0.5:
        first = chance.integer(0, len(keys) - 2)
        name = f"{keys[first]}_{keys[first + 1]}"
    args = _argument_names(program.kinds, chance)
    doc, body = program.write(lambda *phrases: chance.pick(phrases), args)
    doc = doc[0].upper() + doc[1:]
    return {
        "prompt": f'def {name}({", ".join(args)}):\n    """{doc}"""\n',
        "entry_point": name,
        "canonical_solution": body,
    }


def _argument_names(kinds: tuple[str, ...], chance: Chance) -> list[str]:
    if "left" in kinds:
        column = chance.integer(0, len(ARGUMENT_NAMES["left"]) - 1)
        names = [ARGUMENT_NAMES[kind][column] for kind in ("left", "right")]
    else:
        names = [chance.pick(ARGUMENT_NAMES[kinds[0]])]
    if kinds[-1].endswith("constant"):
        names.append(chance.pick([n for n in ARGUMENT_NAMES[kinds[-1]] if n not in names]))
    return names


def load(program: str | ast.Module, **scope: Any) -> Callable[..., Any]:
    """The function ``f`` of a program that this grammar wrote itself; never of a sample."""
    exec(compile(program, "<micro>", "exec"), scope)
    function: Callable[..., Any] = scope["f"]
    return function
