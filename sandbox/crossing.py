"""What either side does with what came over from the other: arguments that a call changed, and what
it raised."""

import builtins
import contextlib
import operator
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from sandbox import wire

TOLD: Final = "told_by_the_program"  # the attribute of an error that was raised there
_MAX_SAID: Final = 1000  # of an error
_MAX_ARGUMENTS: Final = 8
_MAX_BITS: Final = 64


class RemoteError(Exception):
    """The other side raised something that is no builtin Exception, nor a subclass of one."""


def as_builtin(kinds: list[Any], said: str, given: list[Any]) -> Exception:
    """The exception to raise here for one whose classes, nearest first, have these names; raised
    with what was ``given``, if it says the same then."""
    for kind in kinds:
        known = vars(builtins).get(kind) if type(kind) is str else None
        if isinstance(known, type) and issubclass(known, Exception):
            with contextlib.suppress(Exception):  # others take other arguments
                error = known(*given)
                if str(error) == said:
                    return error
            try:
                return known(said)
            except TypeError:  # UnicodeDecodeError and its like want more
                continue
    return RemoteError(f"{kinds[:1]}: {said}")


def bare(kind: Any, said: str, given: Sequence[Any]) -> Exception:
    """An error of that class, which was raised with what is ``given``; nothing is run for it that
    the class or those above it define, down to a builtin one."""
    maker = next(each for each in kind.__mro__ if vars(builtins).get(each.__name__) is each)
    error: Exception = maker.__new__(kind, *given)
    error.args = (*given,) if given or not said else (said,)
    return error


def kinds_of(error: BaseException) -> list[str]:
    """The names of its classes, nearest first."""
    return [kind.__name__ for kind in type(error).__mro__]


def text_of(error: BaseException) -> str:
    """What it says, as far as that is told; nothing where that raises, as with a number of too many
    digits."""
    try:
        return str(error)[:_MAX_SAID]
    except Exception:  # noqa: BLE001 - somebody's own, and an error about an error
        return ""


def plain_arguments(error: BaseException) -> tuple[wire.Json, ...]:
    """What it was raised with, if that is short and stands for itself as JSON."""
    given = error.args
    is_short = len(given) <= _MAX_ARGUMENTS and all(
        each is None
        or type(each) is bool
        or (type(each) is int and each.bit_length() <= _MAX_BITS)
        or (type(each) is str and len(each) <= _MAX_SAID)
        for each in given
    )
    return given if is_short else ()


def attributes_of(error: BaseException) -> dict[str, Any]:
    """What it has by names that are for others, if it is plain."""
    return {
        name: value
        for name, value in vars(error).items()
        if not name.startswith("_") and type(value) in (type(None), bool, int, float, str)
    }


def take_on(old: object, new: object) -> object:
    """What takes the place of ``old``: a container itself, changed to match ``new``, or ``new``."""
    if type(old) is not type(new):
        return new
    match old, new:
        case (tuple(), tuple()) if len(old) == len(new):
            parts = tuple(map(take_on, old, new))
            return old if all(map(operator.is_, parts, old)) else new
        case list(), list():
            old[:] = [*map(take_on, old, new), *new[len(old) :]]
        case bytearray(), bytearray():
            old[:] = new
        case dict(), dict():
            state = {key: take_on(old.get(key), value) for key, value in new.items()}
            old.clear()
            old.update(state)
        case set(), set():
            old.clear()
            old.update(new)
        case deque(), deque():
            old.clear()
            old.extend(new)
        case _:
            return new
    return old
