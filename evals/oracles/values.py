"""Plain data as JSON text and back, with types exact: what the benchmark, a program and its checks
tell each other.

None, booleans, numbers, strings and lists stand for themselves; all else is an object of one key,
which names the type. Never pickle: text is read by programs' checks, and by us, out of processes
that ran foreign code.

This file is also shipped into the sandbox (see `shipping`), so it needs nothing of ours.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

# Beyond it Python refuses to read or write decimal digits (sys.int_info.default_max_str_digits).
_MAX_BITS = 14_000

_WRAPPERS = ("UserDict", "UserList", "UserString")
_PLAIN = {type(None), bool, int, float, str}

_write = json.JSONEncoder(separators=(",", ":")).encode  # made once, for answers are many


class Other:
    """Stands for what is no plain data; equals nothing but itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Digest:
    """Stands for a value too large to be sent or kept: the sha256 of its content.

    `kind`, the name of its type, is for messages: equal values may be of several.
    """

    def __init__(self, parts: list[str]) -> None:
        self.kind, self.sha256 = parts

    def __eq__(self, other: object) -> bool:
        return type(other) is Digest and self.sha256 == other.sha256

    def __repr__(self) -> str:
        return f"<a large {self.kind}>"

    __hash__ = None  # type: ignore[assignment]


def encode(value: object) -> str:
    """The text of a value; what is no plain data is told by the name of its type only."""
    return _write(_to_json(value))


def decode(text: str) -> Any:
    """The value that `encode` was given.

    Raises:
        ValueError, LookupError, TypeError: `encode` writes no such text.
    """
    return json.loads(text, object_hook=_revive)


def is_floats(value: object) -> bool:
    """Whether EvalPlus gives an answer like this some tolerance, whatever the task says."""
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(isinstance(each, float) for each in value)
    return isinstance(value, float)


def _to_json(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return value if value.bit_length() < _MAX_BITS else {"int": hex(value)}
    if kind in _PLAIN:
        return value
    if kind is list:
        # Most are flat, and their elements are not looked at one by one.
        kinds = set(map(type, value))
        if kinds <= _PLAIN and (int not in kinds or _all_short(value, kinds)):
            return value
        return [_to_json(each) for each in value]
    if kind is tuple:
        return {"tuple": [_to_json(each) for each in value]}
    if kind is dict or kind is OrderedDict or kind is Counter:
        tag = "Counter" if kind is Counter else "dict"
        return {tag: [[_to_json(key), _to_json(held)] for key, held in value.items()]}
    if kind is set or kind is frozenset:
        # In an order that no hash seed changes.
        return {kind.__name__: sorted((_to_json(each) for each in value), key=json.dumps)}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is Digest:
        return {"digest": [value.kind, value.sha256]}
    # These two may equal a plain number.
    if kind.__module__ == "decimal" and kind.__name__ == "Decimal":
        return {"Decimal": str(value)}
    if kind.__module__ == "fractions" and kind.__name__ == "Fraction":
        return {"Fraction": [_to_json(value.numerator), _to_json(value.denominator)]}
    plain = plain_base(value)
    return {"other": kind.__name__[:100]} if plain is None else _to_json(plain)


def _all_short(values: list[Any], kinds: set[type]) -> bool:
    if len(kinds) == 1:
        largest: int = max(max(values), -min(values))
        return largest.bit_length() < _MAX_BITS
    return all(type(each) is not int or each.bit_length() < _MAX_BITS for each in values)


def plain_base(value: Any) -> Any:
    """What equals `value`, of a subclass that leaves equality alone, as a plain type; else None."""
    if type(value).__module__ == "collections" and type(value).__name__ in _WRAPPERS:
        return value.data  # no subclass, but equal to a list, text or a dict
    bases: tuple[tuple[type, Callable[[Any], Any]], ...] = (
        (tuple, tuple),
        (list, list),
        (dict, dict),
        (set, set),
        (int, int.__int__),
        (float, float.__float__),
        (str, str.__str__),
        (type({}.keys()), set),
    )
    for base, convert in bases:
        if isinstance(value, base):
            kind: Any = type(value)
            return convert(value) if kind.__eq__ is base.__eq__ else None
    return None


def _revive(tagged: dict[str, Any]) -> Any:
    ((tag, content),) = tagged.items()
    return _REVIVE[tag](content)


_REVIVE: dict[str, Callable[[Any], Any]] = {
    "int": lambda digits: int(digits, 16),
    "tuple": tuple,
    "dict": dict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "set": set,
    "frozenset": frozenset,
    "complex": lambda parts: complex(*parts),
    "digest": Digest,
    "Decimal": lambda text: __import__("decimal").Decimal(text),
    "Fraction": lambda parts: __import__("fractions").Fraction(*parts),
    "other": Other,
}
