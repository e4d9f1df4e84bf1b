"""What the checks hand over and keep: functions, iterators and objects of their own.

They stay with the checks. The program is given a handle, and while it answers a call it may ask for
one of the methods that go with it; that runs here, on arguments that are plain data or stand-ins.
Nothing about them can be read: neither what a function refers to, nor attributes with an
underscore.
"""

import functools
import io
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any, Final

from sandbox import given, named, wire

MODULE: Final = "checks"  # the name of theirs
_MAX_LABEL: Final = 100
_MAX_KEPT: Final = 256


class Handed:
    """Each object has one handle for as long as its checks run."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._methods: list[frozenset[str]] = []
        self._handles: dict[int, int] = {}
        self._errors: dict[int, BaseException] = {}
        self._num_errors = 0

    def describe(self, value: object) -> wire.Json | None:
        """What is sent for it; None for what cannot be handed over."""
        handle = self._handles.get(id(value))
        if handle is None:
            methods = _methods_of(value)
            if not methods and not _is_error_class(value):
                return None
            handle = self._handles[id(value)] = len(self._objects)
            self._objects.append(value)  # and so its id stays its own
            self._methods.append(methods)
        methods = self._methods[handle]
        if _is_error_class(value):
            names = [kind.__name__ for kind in value.__mro__]  # type: ignore[attr-defined]
            return ["given", handle, names[0][:_MAX_LABEL], "", *names[1:]]
        label = getattr(value, "__name__", None) if methods == _CALL else type(value).__name__
        parts = ["given", handle, (label if type(label) is str else "function")[:_MAX_LABEL]]
        parts.append(" ".join(sorted(methods)))
        return [*parts, *given.describe_parameters(value)] if type(value) is FunctionType else parts

    def kinds_of(self, error: BaseException) -> list[int | str]:
        """Its classes, nearest first: handles of those that were handed over, names of others."""
        return [self._handles.get(id(kind), kind.__name__) for kind in type(error).__mro__]

    def find(self, parts: list[Any]) -> object:
        """What was handed over and comes back.

        Raises:
            LookupError: there is no such handle.
        """
        return self._objects[_checked(parts[0])]

    def method(self, handle: wire.Json, name: wire.Json) -> Callable[..., Any]:
        """One that goes with what was handed over.

        Raises:
            LookupError: there is no such handle, or it has no such method.
        """
        value = self._objects[_checked(handle)]
        if type(name) is not str or name not in self._methods[handle]:
            raise LookupError("not a method of what was handed over")
        if name in ("__getattr__", "__setattr__"):
            return partial(_USES[name], value)
        if name == "__call__":
            return value  # type: ignore[no-any-return]
        return partial(getattr(type(value), name), value)

    def keep_error(self, error: BaseException) -> int:
        """A number for what the program is told that they raised; few are kept, and for long
        enough to come back."""
        self._num_errors += 1
        self._errors[self._num_errors] = error
        self._errors.pop(self._num_errors - _MAX_KEPT, None)
        return self._num_errors

    def error(self, number: int) -> BaseException | None:
        """None where it is no longer kept.

        Raises:
            LookupError: there was none.
        """
        if not 0 < number <= self._num_errors:
            raise LookupError("no such error")
        return self._errors.get(number)


_OPEN: Final = (MODULE, "builtins", "collections", "enum", "_io")  # where plain classes come from
_CALL: Final = frozenset(("__call__",))
_ITERATOR: Final = frozenset(("__iter__", "__next__"))
_OF_FILES: Final = frozenset(("__enter__", "__exit__"))
_OF_KEYS: Final = frozenset(f"__{name}__" for name in ("eq", "ge", "gt", "le", "lt"))
_KEY: Final[type] = type(functools.cmp_to_key(lambda one, other: 0))
_OF_ATTRIBUTES: Final = frozenset(("__getattr__", "__setattr__"))


def _checked(handle: wire.Json) -> int:
    if type(handle) is not int or handle < 0:
        raise LookupError("no handle")
    return handle


def _is_error_class(value: object) -> bool:
    return type(value) is type and issubclass(value, Exception) and value.__module__ == MODULE


def _methods_of(value: Any) -> frozenset[str]:
    """What a program may ask of it. A class of errors it can raise, and catch, by itself."""
    kind = type(value)
    if _is_error_class(value):
        return frozenset()
    if kind.__module__ == MODULE and not isinstance(value, type):
        own = [each for each in kind.__mro__ if each.__module__ == MODULE]
        defined = given.METHODS & {name for each in own for name in vars(each)}
        return _OF_ATTRIBUTES.union(name for name in defined if callable(getattr(kind, name)))
    if kind is partial and any(value.func is each for each in named.POWERFUL):
        return frozenset()
    if kind in (io.StringIO, io.BytesIO):
        return _ITERATOR | _OF_FILES | _OF_ATTRIBUTES
    if kind is _KEY:
        return _CALL | _OF_KEYS
    if callable(value):
        return _CALL
    return _ITERATOR if isinstance(value, Iterator) else frozenset()


def _get(value: object, name: str) -> Any:
    _require_public(value, name)
    return getattr(value, name)


def _set(value: object, name: str, new: object) -> None:
    _require_public(value, name)
    if callable(getattr(type(value), name, None)):  # the checks may call it
        raise AttributeError(f"{name} is a method of the checks'", name=name)
    setattr(value, name, new)


def _require_public(value: object, name: str) -> None:
    """
    Raises:
        AttributeError: it is not for others. Nor are methods that a library gives a class of the
            checks': those of `unittest.TestCase` decide whether a test counts.
    """
    if type(name) is not str or name.startswith("_"):
        raise AttributeError("attributes with an underscore stay with the checks")
    owner = next((each for each in type(value).__mro__ if name in vars(each)), None)
    if owner is not None and owner.__module__ not in _OPEN:
        raise AttributeError(f"{name} stays with the checks", name=name)


_USES: Final[dict[str, Callable[..., Any]]] = {"__getattr__": _get, "__setattr__": _set}
