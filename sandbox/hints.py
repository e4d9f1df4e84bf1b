"""What one value may give away of another: whether they are alike, or share a part that tells.

Values are looked at as they cross over (`wire.encode`). Two are alike here more often than they are
equal: numbers of any type, sequences, sets and mappings of the same parts in whatever order.
"""

import math
import re
from collections.abc import Hashable, Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Final

from sandbox import wire

# Said too often to give anything away.
_TRIVIAL: Final = frozenset((None, "", 0.0, 1.0, -1.0, frozenset()))
_MAX_RANGE: Final = 1000
_DIGITS: Final = 12  # that two numbers have to share, since comparisons may leave a margin
_MIN_TEXT: Final = 2  # within another; one character is within nearly all
_WORD: Final = re.compile(r"\w+")


class Hints:
    """What values are expected to be, known by whatever would give them away."""

    def __init__(self) -> None:
        self._forms: set[Hashable] = set()
        self._texts: set[str] = set()

    def add(self, expected: Iterable[wire.Json], given: wire.Json) -> None:
        """Expect values of whoever is ``given`` that: parts of it are no news."""
        if expected := [*expected]:
            known = {*_forms(given)}
            for value in expected:
                self._forms.add(_form(value))
                self._forms.update(form for form in _forms(value) if form not in known)
                self._texts.update(text for text in _texts(value) if len(text) >= _MIN_TEXT)
            self._forms -= _TRIVIAL

    def are_in(self, given: wire.Json) -> bool:
        """Whether what is given tells something of what is expected."""
        if not self._forms:
            return False
        return not self._forms.isdisjoint(_forms(given)) or any(
            text in given_text for given_text in _texts(given) for text in self._texts
        )


def _forms(data: wire.Json) -> Iterator[Hashable]:
    """The forms of a value and of all its parts."""
    yield _form(data)
    for part in _parts(data):
        yield from _forms(part)
    for text in _texts_of(data):
        yield from map(_form_of_text, _WORD.findall(text))


def _form(data: wire.Json) -> Hashable:
    """The same for values that are alike."""
    if (number := _number(data)) is not None:
        return number
    for text in _texts_of(data):
        return _form_of_text(text)
    return None if data is None else frozenset(map(_form, _parts(data)))


def _form_of_text(text: str) -> Hashable:
    """A number's digits stand for the number."""
    try:
        return _rounded(float(text))
    except ValueError:
        return text


def _number(data: wire.Json) -> Hashable:
    """None for what is no number."""
    match data:
        case bool() | int() | float():
            return _rounded(data)
        case ["int", str(digits)]:
            return _rounded(int(digits, 16))
        case ["float", str(name)]:
            return name
        case ["Decimal", str(digits)]:
            number = Decimal(digits)
            return _rounded(number) if number.is_finite() else digits.lower()
        case ["Fraction", int(numerator), int(denominator)]:
            return _rounded(Fraction(numerator, denominator))
        case ["complex", float(real), float(imaginary)] if not imaginary:
            return _rounded(real)
    return None


def _rounded(number: int | float | Decimal | Fraction) -> Hashable:
    try:
        rounded = float(number)
    except OverflowError:
        return int(number)
    return float(f"{rounded:.{_DIGITS}g}") if math.isfinite(rounded) else str(rounded)


def _texts_of(data: wire.Json) -> Iterator[str]:
    """The value itself, if it is text or bytes."""
    match data:
        case str():
            yield data
        case ["bytes" | "bytearray", str(digits)]:
            yield bytes.fromhex(digits).decode("latin-1")
        case ["str", str(units)]:
            yield units


def _texts(data: wire.Json) -> Iterator[str]:
    """All text in a value."""
    yield from _texts_of(data)
    for part in _parts(data):
        yield from _texts(part)


def _parts(data: wire.Json) -> Iterable[wire.Json]:
    match data:
        case ["int" | "float" | "str" | "bytes" | "bytearray" | "Decimal", *_]:
            return ()
        case ["range", int(start), int(stop), int(step)]:
            numbers = range(start, stop, step)
            return numbers if len(numbers) <= _MAX_RANGE else (start, stop, step)
        case ["deque", _, *parts] | [_, *parts]:
            return parts
    return ()
