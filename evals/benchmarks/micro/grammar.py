"""What a family of functions is, and the phrases that families share."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from evals.benchmarks.micro.parts import Part

Say = Callable[..., str]  # picks one of the phrasings that it is given

# What an argument holds, and the names it goes by. Names that bodies use inside are not among them.
ARGUMENT_NAMES: dict[str, tuple[str, ...]] = {
    "int": ("n", "num", "number", "m"),
    "count": ("n", "num", "number", "m"),
    "ints": ("nums", "xs", "values", "numbers", "data", "items"),
    "left": ("xs", "left", "us", "first"),
    "right": ("ys", "right", "vs", "second"),
    "rows": ("rows", "lists", "grid", "table"),
    "text": ("s", "text", "string", "line"),
    "words": ("s", "text", "sentence", "phrase"),
    "dict": ("d", "scores", "prices", "ages"),
    "number constant": ("k", "p", "limit", "bound"),
    "text constant": ("k", "p", "mark", "part"),
}


@dataclass(frozen=True)
class Bound:
    """A part with its constant, as it stands in one document."""

    part: Part
    constant: str  # as code: a literal or an argument's name
    say: Say

    @property
    def key(self) -> str:
        return self.part.key

    def code(self, **atoms: str) -> str:
        return self.part.code.format(k=self.constant, **atoms)

    def one(self, of: str = "", **phrases: str) -> str:
        return self._fill(self.say(*self.part.phrases), v=of, **phrases)

    def many(self, of: str = "") -> str:
        return self._fill(self.say(*self.part.plurals), v=of)

    def _fill(self, phrase: str, **phrases: str) -> str:
        # Single quotes: a docstring is no place for its own delimiter.
        return phrase.format(k=self.constant.replace('"', "'"), **phrases)


@dataclass(frozen=True)
class Family:
    name: str
    category: str
    weight: float  # share of documents and tasks, against the other families of its size
    inputs: tuple[str, ...]  # kinds of argument
    slots: tuple[tuple[Part, ...], ...]
    write: Callable[..., tuple[str, str]]  # (say, arguments, parts...) -> docstring, body
    literal: bool  # constants are never arguments

    def accepts(self, parts: tuple[Part, ...]) -> bool:
        """Whether the parts go together: types agree, none twice, and two of them do something."""
        busy = [part for part in parts if part.key]
        return len(set(busy)) == len(busy) >= 2 and all(
            part.takes in ("", left.gives) for left, part in pairwise(parts)
        )


def family(
    category: str,
    inputs: tuple[str, ...],
    slots: tuple[tuple[Part, ...], ...],
    *,
    weight: float = 1.0,
    literal: bool = False,
) -> Callable[[Callable[..., tuple[str, str]]], Family]:
    """Makes the family of the function that writes it."""

    def named(write: Callable[..., tuple[str, str]]) -> Family:
        return Family(write.__name__, category, weight, inputs, slots, write, literal)

    return named


def loop(expression: str, variable: str, source: str, condition: str = "") -> str:
    """The inside of a comprehension."""
    return f"{expression} for {variable} in {source}" + (f" if {condition}" if condition else "")


def numbers_that(say: Say, test: Bound, xs: str) -> str:
    if not test.key:
        return say(f"the numbers in {xs}", f"the values of {xs}", f"all numbers in {xs}")
    being = test.one()
    if " " in being:
        return say(f"the numbers in {xs} that are {being}", f"the values of {xs} {being}")
    return say(f"the {being} numbers in {xs}", f"the {being} values of {xs}")


def words_that(say: Say, test: Bound, s: str) -> str:
    return say(f"the words in {s}", f"the words of {s}") + (f" {test.one()}" if test.key else "")


def characters_that(say: Say, test: Bound, s: str) -> str:
    noun = test.one() or "characters"
    return say(f"the {noun} in {s}", f"the {noun} of {s}", f"all {noun} in {s}")


def guarded(condition: str, *lines: str) -> str:
    """Lines of a loop's body, under the condition where there is one."""
    if condition:
        lines = (f"if {condition}:", *(f"    {line}" for line in lines))
    return "".join(f"    {line}\n" for line in lines)


def initial(update: Bound) -> str:
    """The line that a loop with this update of ``total`` begins from."""
    empty = {"product": "1", "list": "[]", "front": "[]", "set": "set()"}
    return f"total = {empty.get(update.key, '0')}\n"
