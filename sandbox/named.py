"""Functions and classes of the standard library, which both sides know by name.

The checks may hand them over without giving anything away, and before any program is there: a name
is sent, and the program's process takes what its own library has under it. So that is also where
such a function runs. What a program returns never crosses over by name.
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter, itemgetter, methodcaller
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    WrapperDescriptorType,
)
from typing import Any, Final

from sandbox import wire
from sandbox.crossing import TOLD

_OF_CLASSES: Final = (MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType)
_BOUND: Final = (BuiltinFunctionType, MethodType)
# Of values that cannot change, so that a copy of them does as well.
_FIXED: Final = frozenset((type(None), bool, int, float, complex, str, bytes))
_OPERATORS: Final = "_operator"
# What these are applied to decides what they do: no program is to choose that for the checks.
POWERFUL: Final = (
    compile, delattr, eval, exec, getattr, globals, locals, open, setattr, vars, __import__,
)  # fmt: skip


def describe(value: Any) -> wire.Json | None:
    """What is sent for a function or class of the standard library, for a method of a value that
    cannot change, for what `functools.partial` and the like make of these, for a pattern, or for a
    plain error; None for all else, and for operators that hold a value (`(3).__eq__`,
    ``partial(operator.eq, 3)``), since that may be what they are to tell of."""
    if (name := _name_of(value)) is not None:
        return ["named", *name]
    kind = type(value)
    if kind is partial and getattr(value.func, "__module__", None) != _OPERATORS:
        return _made(partial, (value.func, *value.args), value.keywords)
    if kind is re.Pattern:
        return _made(re.compile, (value.pattern, value.flags), {})
    if issubclass(kind, BaseException) and vars(value).keys() <= {TOLD}:
        return _made(kind, value.args, {})
    if kind in (itemgetter, attrgetter, methodcaller):
        maker, given = value.__reduce__()
        return _made(maker, given, {}) if maker is kind else None
    if kind is BuiltinFunctionType and _is_fixed(value.__self__):
        return _made(getattr, (value.__self__, value.__name__), {})
    return None


def find(module: str, name: str) -> Any:
    """What a module of the standard library has under that name.

    Raises:
        LookupError: it is none, or has nothing.
    """
    if module.partition(".")[0] not in sys.stdlib_module_names:
        raise LookupError(f"{module} is not of the standard library")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise LookupError(f"{module} has no {name}")
    return found


# For the side that they are sent to; see `wire.decode`.
DECODERS: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "named": lambda parts: find(*parts),
    "made": lambda parts: parts[0](*parts[1], **parts[2]),
}


def _name_of(value: Any) -> tuple[str, str] | None:
    """Module and name, if that is where it is."""
    kind = type(value)
    if kind in _OF_CLASSES:
        owner = value.__objclass__
    elif kind in _BOUND and isinstance(value.__self__, type):
        owner = value.__self__
    elif kind in (BuiltinFunctionType, FunctionType) or isinstance(value, type):
        owner = None
    else:
        return None
    module = value.__module__ if owner is None else owner.__module__
    name = value.__qualname__ if owner is None else f"{owner.__qualname__}.{value.__name__}"
    if type(module) is not str or module not in sys.modules:
        return None
    try:
        found = find(module, name)
    except LookupError:
        return None
    # A method is made anew each time that it is asked for.
    return (module, name) if found is value or (owner and found == value) else None


def _made(maker: object, given: tuple[Any, ...], named: dict[str, Any]) -> wire.Json | None:
    if describe(maker) is None:
        return None
    if not all(map(_is_fixed, (*given, *named.values()))):
        parts = [describe(each) for each in (*given, *named.values()) if not _is_fixed(each)]
        if None in parts:
            return None
    return ["made", *(wire.encode(each, describe) for each in (maker, given, named))]


def _is_fixed(value: Any) -> bool:
    kind = type(value)
    return kind in _FIXED or (kind is tuple and all(map(_is_fixed, value)))
