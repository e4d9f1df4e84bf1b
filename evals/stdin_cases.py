"""What a program that reads standard input should write, and whether it did."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

# Of numbers that are not whole: numpy.allclose's, as the metric of APPS has it.
RTOL: Final = 1e-05
ATOL: Final = 1e-08

# As programs write them: float() and int() also take 1_2, digits of other scripts, inf and nan.
_WHOLE: Final = re.compile(r"[+-]?[0-9]+")
# An exponent of more digits is of no number that a float could hold.
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def is_right_output(expected: str, found: bytes) -> bool:
    """Whether the output is as expected, up to white space and the rounding of numbers.

    Lines, without blank ones, are compared in order, and so are their words. A whole number has to
    be met exactly, as in 2, +2 or 2.0 for 2; one with a point or an exponent within 1e-5 of itself
    or 1e-8; all else to the letter. The metric that APPS came with also takes words and lines in
    any order and number, whole numbers that are off by a 1e-5th where each line is one number, and
    numbers that are the same to three decimals.
    """
    try:
        right, answer = _words(expected), _words(found.decode("utf-8"))
    except UnicodeDecodeError:
        return False
    return len(right) == len(answer) and all(
        len(line) == len(other) and all(map(_is_same_word, line, other))
        for line, other in zip(right, answer, strict=True)
    )


def _words(text: str) -> list[list[str]]:
    """Of each line that has any; a carriage return is white space."""
    return [words for line in text.split("\n") if (words := line.split())]


def _is_same_word(right: str, answer: str) -> bool:
    if right == answer:
        return True
    if not (_NUMBER.fullmatch(right) and _NUMBER.fullmatch(answer)):
        return False
    if _WHOLE.fullmatch(right):
        return Decimal(right) == Decimal(answer)
    expected, found = float(right), float(answer)
    return math.isfinite(expected) and abs(found - expected) <= ATOL + RTOL * abs(expected)
