"""What one value may give away of another: whether they are alike, or share a part that tells.

Values are looked at as they cross over (see `wire.encode`). More are alike here than are equal:
numbers of any type and their digits, and those next to a large one, its double and its half;
sequences, sets and mappings of the same parts, in whatever order and number; text in upper and
lower case, its characters, words and numbers.
"""

import math
import re
from collections.abc import Hashable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Final

from sandbox import wire

# Said too often to give anything away.
_TRIVIAL: Final[frozenset[Hashable]] = frozenset((None, "", 0.0, 1.0, -1.0, frozenset()))
_MAX_RANGE: Final = 1000
_DIGITS: Final = 12  # that are looked at; comparisons may leave a margin
_EXACT: Final = 10**_DIGITS
_SMALL: Final = 100  # numbers up to this are near one another by chance
_MIN_TEXT: Final = 2  # within another one: a single character is within nearly all
_WORD: Final = re.compile(r"\w+")
# As a whole: the words of 1,234.5e-6 are others.
_NUMBER: Final = re.compile(
    r"[-+]?(?:0x[0-9a-f]+|0o[0-7]+|0b[01]+|"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?)"
)
_BASES: Final = {"0x": 16, "0o": 8, "0b": 2}


class Hints:
    """What values are expected to be, known by whatever would give them away."""

    def __init__(self) -> None:
        self._forms: set[Hashable] = set()
        self._texts: set[str] = set()

    def add(self, expected: Iterable[wire.Json], given: "Look") -> None:
        """Expect values of whoever is given that: their parts are no news then."""
        for value in expected:
            look = Look(value)
            self._forms |= look.forms - given.forms
            self._forms.add(look.form)
            self._forms.update(_near(look.form))
            self._texts.update(text for text in look.texts if not given.holds(text))
            # One by one they tell something too; but digits are all over.
            characters = set().union(*look.texts).difference(*given.texts)
            self._forms.update(each for each in characters if not each.isdigit())
        self._forms -= _TRIVIAL

    def are_in(self, given: "Look") -> bool:
        """Whether what is given tells something of what is expected."""
        return not self._forms.isdisjoint(given.forms) or any(map(given.holds, self._texts))


class Look:
    """A value's form, which is the same for all that are alike; its parts' forms; and its text."""

    def __init__(self, data: wire.Json) -> None:
        self.forms: set[Hashable] = set()
        self.texts: list[str] = []
        self.form = self._take_in(data)

    def holds(self, text: str) -> bool:
        """Whether the text is a part of one in here."""
        return len(text) < _MIN_TEXT or any(text in each for each in self.texts)

    def _take_in(self, data: wire.Json) -> Hashable:
        kind = type(data)
        if kind is str:
            form = self._take_in_text(data)
        elif data is None or kind is not list:
            form = None if data is None else _rounded(data)
        else:
            form = self._take_in_tagged(*data)
        self.forms.add(form)
        return form

    def _take_in_tagged(self, tag: str, *parts: wire.Json) -> Hashable:
        match tag, parts:
            case "bytes" | "bytearray", [digits]:
                content = bytes.fromhex(digits)
                self.forms.add(frozenset(map(float, content)))
                return self._take_in_text(content.decode("latin-1"))
            case "str", [units]:
                return self._take_in_text(units)
            case "int", [digits]:
                return _rounded(int(digits, 16))
            case "float", [name]:
                return _rounded(float(name))
            case "Decimal", [digits]:
                return _form_of_text(digits)
            case "Fraction", [int(numerator), int(denominator)]:
                self.forms.update(map(_rounded, (numerator, denominator)))
                return _rounded(Fraction(numerator, denominator))
            case "deque" | "defaultdict", [_, *inside]:
                parts = tuple(inside)
            case "namedtuple", [_, _, *inside]:
                self.forms.update(map(self._take_in, parts[:2]))
                parts = tuple(inside)
            case "range", [int(start), int(stop), int(step)]:
                numbers = range(start, stop, step)
                parts = tuple(numbers) if len(numbers) <= _MAX_RANGE else parts
        return frozenset(map(self._take_in, parts))

    def _take_in_text(self, text: str) -> Hashable:
        text = text.casefold()
        self.texts.append(text)
        if len(text) > 1:
            self.forms.update(map(_form_of_text, {*_WORD.findall(text), *_NUMBER.findall(text)}))
            self.forms.add(frozenset(map(_form_of_text, {*text})))
        return _form_of_text(text)


def _near(form: Hashable) -> Iterator[Hashable]:
    """What a large number may be told by: the next ones, its double and its half."""
    if isinstance(form, float | int) and abs(form) > _SMALL:
        half = form // 2 if isinstance(form, int) else form / 2
        yield from map(_rounded, (form - 1, form + 1, 2 * form, half))


def _form_of_text(text: str) -> Hashable:
    """Digits stand for their number."""
    try:
        if base := _BASES.get(text.lstrip("+-")[:2]):
            return _rounded(int(text, base))
        return _rounded(float(text.replace(",", "")))
    except ValueError:
        return text


def _rounded(number: int | float | Decimal | Fraction) -> Hashable:
    try:
        rounded = float(number)
    except OverflowError:
        return int(number)
    if rounded.is_integer() and abs(rounded) < _EXACT:
        return rounded
    return float(f"{rounded:.{_DIGITS}g}") if math.isfinite(rounded) else str(rounded)
