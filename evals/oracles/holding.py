"""The checks' side: hold a program's answers to those of the reference solution.

The rules are those of EvalPlus 0.3.1, whose verdicts these are to be (evalplus/eval/__init__.py,
`unsafe_execute`, and _special_oracle.py), faults included: a tolerance that one answer brought in
stays for all later ones, and with a tolerance numbers are compared as numpy.allclose has it.
"""

import math
import reprlib
from collections.abc import Callable
from itertools import chain
from typing import Any

from evals.oracles.values import Digest, decode, encode, is_floats

_RTOL = 1e-07  # numpy.testing.assert_allclose's
_LEAST_ATOL = 1e-06  # of answers that are floats, where the task asks for none

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 200


def hold(
    name: str,
    function: object,
    answers: Callable[[object, str, list[int], bool], str],
    rule: str | None,
    atol: float,
    chunks: list[tuple[str, str]],
) -> None:
    """Ask for the answers, chunk by chunk of inputs and what is expected of them.

    Raises:
        AssertionError: an answer is wrong; it says which.
    """
    number = 0
    for inputs, outputs in chunks:
        expected = decode(outputs)
        digested = [at for at, each in enumerate(expected) if type(each) is Digest]
        found = decode(answers(function, inputs, digested, rule == "set"))
        if type(found) is not list or len(found) != len(expected):
            raise AssertionError(f"{name} was called {len(expected)} times, with other answers")
        given = decode(inputs)
        for arguments, answer, right in zip(given, found, expected):  # noqa: B905
            number += 1
            atol = _tolerance(rule, right, atol)
            if not _agree(rule, arguments, answer, right, atol):
                asked = ", ".join(map(_shown, arguments))
                wrong = f"input {number}: {name}({asked}) gave {_shown(answer)}"
                raise AssertionError(wrong if rule == "root" else f"{wrong}, not {_shown(right)}")


def count(
    function: object,
    answers: Callable[[object, str, list[int], bool], str],
    rule: str | None,
    atol: float,
    chunks: list[tuple[str, str]],
    counts: list[int],
) -> None:
    """Add the right answers and all answers to `counts`; each input is asked for by itself."""
    for inputs, outputs in chunks:
        for arguments, right in zip(decode(inputs), decode(outputs)):  # noqa: B905
            counts[1] += 1
            atol = _tolerance(rule, right, atol)
            digested = [0] if type(right) is Digest else []
            try:
                asked = answers(function, encode([arguments]), digested, rule == "set")
                (answer,) = decode(asked)
            except Exception:  # noqa: BLE001 - no answer is no right one
                continue
            counts[0] += _agree(rule, arguments, answer, right, atol)


def _tolerance(rule: str | None, right: Any, atol: float) -> float:
    return _LEAST_ATOL if atol == 0 and rule != "root" and is_floats(right) else atol


def _shown(value: object) -> str:
    try:
        return _short.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"<a large {type(value).__name__}>"


def _agree(rule: str | None, arguments: list[Any], answer: Any, right: Any, atol: float) -> bool:
    try:
        if rule == "root":
            return bool(abs(_polynomial(arguments[0], answer)) <= atol)
        if _is_same(rule, arguments, answer, right, atol):
            return True
        if atol == 0 or type(answer) is not type(right):
            return False
        if isinstance(right, list | tuple) and len(answer) != len(right):
            return False
        return all_close(answer, right, atol)
    except Exception:  # noqa: BLE001 - whatever it is, the answer is not of the right kind
        return False


def _is_same(rule: str | None, arguments: list[Any], answer: Any, right: Any, atol: float) -> bool:
    if rule == "set":
        return set(answer) == set(right)
    if rule == "not none":
        return bool(answer == right if type(answer) is bool else right == (answer is not None))
    if answer == right or rule == "any":
        return True
    if rule == "or 0":
        return bool(answer == 0)
    if rule == "pyramid":
        return bool(abs(answer - _pyramid_surface(*arguments)) <= atol)
    if rule == "digits":
        return bool(answer == _distance_of_digits(*arguments))
    return False


def _polynomial(coefficients: list[Any], at: Any) -> Any:
    """HumanEval/32 asks for a root, of which there may be several."""
    return sum(each * math.pow(at, power) for power, each in enumerate(coefficients))


def _pyramid_surface(edge: Any, height: Any) -> Any:
    """Mbpp/581, with the height of the pyramid instead of that of its sides."""
    slant = math.sqrt((edge / 2) ** 2 + height**2)
    return round(edge**2 + 4 * (edge * slant) / 2)


def _distance_of_digits(first: Any, second: Any) -> int:
    """Mbpp/558, with the shorter number filled up by zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width))  # noqa: B905
    return sum(abs(int(one) - int(other)) for one, other in pairs)


def all_close(answer: Any, right: Any, atol: float) -> bool:
    """numpy.allclose(answer, right, rtol=1e-7, atol=atol), for plain data and without numpy.

    Raises:
        ValueError, TypeError, OverflowError: where numpy raises some error.
    """
    if _is_number(answer) and _is_number(right):
        return _is_close(answer, float(right) if isinstance(right, int) else right, atol)
    shape, found = _as_array(answer)
    other_shape, expected = _as_array(right)
    if not all(_is_number(each) and _fits(each) for each in expected):
        raise TypeError("an array of objects")
    expected = [float(each) if isinstance(each, int) else each for each in expected]
    for one, other in zip(reversed(shape), reversed(other_shape)):  # noqa: B905
        if one != other and 1 not in (one, other):
            raise ValueError("shapes that do not go together")
    size = max(len(shape), len(other_shape))
    shape, other_shape = _padded(shape, size), _padded(other_shape, size)
    common = [a if b == 1 else b for a, b in zip(shape, other_shape)]  # noqa: B905
    pairs = zip(_spread(found, shape, common), _spread(expected, other_shape, common))  # noqa: B905
    return all(_is_close(each, other, atol) for each, other in pairs)


def _is_close(answer: Any, right: Any, atol: float) -> bool:
    is_near = abs(answer - right) <= atol + _RTOL * abs(right) and _is_finite(right)
    return bool(is_near or answer == right)


def _is_finite(value: Any) -> bool:
    if isinstance(value, complex):
        return math.isfinite(value.real) and math.isfinite(value.imag)
    return math.isfinite(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | complex)


def _fits(value: object) -> bool:
    """Whether it is no whole number of more than 64 bits, which numpy has objects for."""
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def _as_array(value: Any) -> tuple[list[int], list[Any]]:
    """Shape and content of the array that numpy makes of nested lists."""
    shape: list[int] = []
    level = [value]
    while any(isinstance(each, list | tuple) for each in level):
        lengths = {len(each) if isinstance(each, list | tuple) else -1 for each in level}
        if len(lengths) != 1:
            raise ValueError("a ragged array")
        shape += lengths
        level = list(chain.from_iterable(level))
    if any(isinstance(each, str) for each in level):
        raise TypeError("an array of text")
    return shape, level


def _padded(shape: list[int], size: int) -> list[int]:
    return [1] * (size - len(shape)) + shape


def _spread(content: list[Any], shape: list[int], common: list[int]) -> list[Any]:
    """Content of an array once it is repeated to the common shape."""
    if not shape:
        return content
    parts = [content]
    if shape[0]:
        step = len(content) // shape[0]
        parts = [content[at * step : (at + 1) * step] for at in range(shape[0])]
    if shape[0] == 1:
        parts = parts * common[0]
    elif shape[0] == 0:
        parts = []
    return list(chain.from_iterable(_spread(part, shape[1:], common[1:]) for part in parts))
