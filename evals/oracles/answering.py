"""The program's side: call it with all inputs at once, and tell its answers.

Shipped into the program's own process, which may make it say whatever it likes; what it cannot do
there is see what is expected. Of a large answer a digest is told, which is no easier to guess than
the answer itself.
"""

import io
import marshal
import os
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from evals.oracles.values import Digest, decode, encode, is_floats, plain_base

Function = Callable[..., Any]

_LARGE_BYTES = 4096
_PART = 4096
_MINUS_ZERO = array("d", [-0.0]).tobytes()
_EXACT = {type(None), bool, int, float, str, list, tuple, dict, set, frozenset}


class _Nowhere(io.TextIOBase):
    """What the program prints while it is called; there may be much of it."""

    def write(self, text: str) -> int:
        return len(text)


def answers(function: Function, inputs: str, digested: list[int], as_sets: bool) -> str:
    """Its answers to `inputs`, each told before the next call: it may use one list for all.

    Those at `digested` are told as digests. `as_sets`: what only can be run through, such as a
    generator, is.
    """
    wanted = set(digested)
    told = []
    for at, answer in enumerate(_call(function, inputs)):
        if as_sets and not isinstance(answer, list | tuple | dict | set | frozenset | str):
            answer = set(answer)
        told.append(encode(_digest(answer) if at in wanted else answer))
    return f"[{','.join(told)}]"


def record(function: Function, inputs: str, atol: float, rule: str | None) -> str:
    """As `answers`, of a reference solution: what large answers a check can do with a digest of."""
    is_tolerant = atol != 0
    told = []
    for answer in _call(function, inputs):
        if rule == "not none":
            answer = answer is not None
        is_tolerant = is_tolerant or is_floats(answer)
        in_full = is_tolerant or rule is not None or _size(answer, _LARGE_BYTES) < _LARGE_BYTES
        told.append(encode(answer if in_full else _digest(answer)))
    return f"[{','.join(told)}]"


def _call(function: Function, inputs: str) -> Iterator[Any]:
    for arguments in decode(inputs):
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = _Nowhere()
        try:
            answer = function(*arguments)
        finally:
            sys.stdout, sys.stderr = streams
        yield answer


def _size(value: Any, enough: int) -> int:
    """About how many bytes of text a value takes; no longer counted from `enough` on."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 3
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return 8
    size = len(value)
    for each in chain.from_iterable(value.items()) if isinstance(value, dict) else value:
        if size >= enough:
            break
        size += _size(each, enough - size)
    return size


def _digest(value: object) -> Digest:
    """Equal for plain values that are equal, and for no others: 1, 1.0 and True are the same.

    (Nan equals nothing, itself included. A complex, Decimal or Fraction equals no other number.)
    """
    from hashlib import sha256  # here, since few are asked for one

    digest = sha256()
    _feed(digest.update, [value])
    return Digest([type(value).__name__, digest.hexdigest()])


def _feed(update: Callable[[bytes], object], values: list[Any]) -> None:
    """Part by part, since a large value's text would take several times its memory.

    Values that are equal one by one are always told in the same way.
    """
    for start in range(0, len(values), _PART):
        part = values[start : start + _PART]
        kinds = set(map(type, part))
        if not kinds <= _EXACT:
            part = [_plain(each) for each in part]
            kinds = set(map(type, part))
        if kinds == {str}:
            update(b"s" + marshal.dumps(part, 0))  # as old as not to tell which are one object
        elif kinds <= {bool, int, float} and (exact := _as_floats(part)) is not None:
            update(b"n" + exact)
        elif kinds in ({list}, {tuple}):
            update(b"[" if kinds == {list} else b"(")
            update(array("q", map(len, part)).tobytes())
            _feed(update, list(chain.from_iterable(part)))
        elif len(part) > 1:
            for each in part:
                _feed(update, [each])
        else:
            _feed_one(update, part[0])


def _plain(value: Any) -> Any:
    """What equals it and is of a plain type, as `encode` would tell it; itself if there is none."""
    if type(value) in _EXACT:
        return value
    if type(value) in (OrderedDict, Counter):
        return dict(value)
    plain = plain_base(value)
    return value if plain is None else plain


def _as_floats(numbers: list[Any]) -> bytes | None:
    """The numbers as floats, if they equal them; None with large whole numbers, or nan."""
    try:
        floats = array("d", numbers)
    except OverflowError:
        return None
    if floats.tolist() != numbers:
        return None
    told = floats.tobytes()
    return array("d", [each or 0 for each in numbers]).tobytes() if _MINUS_ZERO in told else told


def _feed_one(update: Callable[[bytes], object], value: Any) -> None:
    if value is None:
        update(b"0")
    elif type(value) in (int, float) and value == value:  # not nan
        is_whole = isinstance(value, int) or value.is_integer()
        update(b"i%x." % int(value) if is_whole else b"f" + value.hex().encode())
    elif type(value) is dict:
        update(b"{%d" % len(value))
        _feed(update, sorted(_digest(list(pair)).sha256 for pair in value.items()))
    elif type(value) in (set, frozenset):
        update(b"<%d" % len(value))
        _feed(update, sorted(_digest(each).sha256 for each in value))
    else:
        update(os.urandom(16))
