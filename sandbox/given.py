"""The program's side of what the checks hand over and keep: stand-ins that ask them.

Functions look as the checks' own do (name, parameters), for programs go by that.
"""

import builtins
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

# Of the checks' objects, what a program may use if their classes define it: what operators and
# builtins look for, and attributes, by the names of the methods that Python has for these.
METHODS: Final = frozenset(
    f"__{name}__"
    for name in """
    abs add and bool call contains delitem divmod enter eq exit float floordiv ge getattr getitem
    gt hash index int invert iter le len lt matmul mod mul ne neg next or pos pow radd rand rdivmod
    repr reversed rfloordiv rlshift rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor
    setattr setitem str sub truediv xor lshift
    """.split()  # noqa: SIM905
)
_UNBOUND: Final = "*"  # before a parameter that takes all others by position, twice by name


class Ask(Protocol):
    """Use a method of one of the checks' objects, known by its handle."""

    def __call__(
        self, handle: int, method: str, given: tuple[Any, ...], named: dict[str, Any], /
    ) -> Any: ...


def stand_in(parts: list[Any], ask: Ask) -> object:
    """For the object that was handed over so: handle, name, its methods (none of a class of
    errors), its parameters if it is a function, the classes above if it is one of errors. See
    `sandbox.handed`."""
    handle, label, methods, *parameters = parts
    if not methods:
        base = next(vars(builtins)[name] for name in parameters if name in vars(builtins))
        return type(label, (base,), {"__module__": "checks"})
    if methods == "__call__":
        return _function(handle, label, parameters, ask)
    found: object = object.__new__(_class(label, methods))
    object.__setattr__(found, _ASK, functools.partial(ask, handle))
    return found


_ASK: Final = "ask of the checks"


@functools.lru_cache(maxsize=256)
def _class(label: str, methods: str) -> type:
    return type(label, (), {method: _forward(method) for method in methods.split()})


def _forward(method: str) -> Callable[..., Any]:
    def forward(self: object, /, *given: Any, **named: Any) -> Any:
        return object.__getattribute__(self, _ASK)(method, given, named)

    forward.__name__ = method
    return forward


def _function(handle: int, label: str, parameters: list[str], ask: Ask) -> Callable[..., Any]:
    def call(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return ask(handle, "__call__", given, named)

    found: Callable[..., Any]
    if parameters:
        found = _with_parameters([each.split(" ") for each in parameters], call)
    else:
        found = lambda *given, **named: call(given, named)  # noqa: E731
    found.__name__ = found.__qualname__ = label
    return found


def describe_parameters(function: Any) -> Iterator[str]:
    """Of a Python function: kind and name of each parameter, and a third word where it may be left
    out."""
    code = function.__code__
    names = iter(code.co_varnames)
    num_left_out = len(function.__defaults__ or ())
    for place in range(code.co_argcount):
        kind = "/" if place < code.co_posonlyargcount else "|"
        optional = " =" if place >= code.co_argcount - num_left_out else ""
        yield f"{kind} {next(names)}{optional}"
    named = [next(names) for _ in range(code.co_kwonlyargcount)]
    if code.co_flags & _TAKES_REST:
        yield f"{_UNBOUND} {next(names)}"
    for name in named:
        yield f"= {name}{' =' if name in (function.__kwdefaults__ or {}) else ''}"
    if code.co_flags & _TAKES_NAMED:
        yield f"{_UNBOUND * 2} {next(names)}"


_TAKES_REST: Final = 0x04  # see the flags of code objects in the documentation of `inspect`
_TAKES_NAMED: Final = 0x08


class _LeftOut:
    """In place of an argument: the checks' function has a default of its own."""

    def __repr__(self) -> str:
        return "..."


_LEFT_OUT: Final = _LeftOut()


def _with_parameters(
    parameters: list[list[str]], call: Callable[[tuple[Any, ...], dict[str, Any]], Any]
) -> Callable[..., Any]:
    """A function of these parameters, which passes on what it is called with."""
    by_kind: dict[str, list[str]] = {kind: [] for kind in ("/", "|", "*", "=", "**")}
    written: dict[str, list[str]] = {kind: [] for kind in by_kind}
    for kind, name, *optional in parameters:
        by_kind[kind].append(name)
        written[kind].append(f"{name}=__left_out__" if optional else name)
    only_by_place, by_either, rest, only_by_name, named = by_kind.values()
    text = [*written["/"], *(["/"] if only_by_place else []), *written["|"]]
    text += [f"*{name}" for name in rest] or (["*"] if only_by_name else [])
    text += [*written["="], *(f"**{name}" for name in named)]

    def pass_on(
        by_place: Iterable[Any], more: Iterable[Any], by_name: Iterable[Any], others: dict[str, Any]
    ) -> Any:
        given: list[Any] = []
        more_by_name = dict(zip(only_by_name, by_name, strict=True))
        places = zip([*only_by_place, *by_either], by_place, strict=True)
        for place, (name, value) in enumerate(places):
            if len(given) == place:
                if value is not _LEFT_OUT:
                    given.append(value)
            else:
                more_by_name[name] = value
        kept = {name: value for name, value in more_by_name.items() if value is not _LEFT_OUT}
        return call((*given, *more), kept | others)

    def listed(names: list[str]) -> str:
        return f"({''.join(f'{name}, ' for name in names)})"

    passed = f"{listed([*only_by_place, *by_either])}, {rest[0] if rest else '()'}, "
    passed += f"{listed(only_by_name)}, {named[0] if named else '{}'}"
    scope = {"__pass_on__": pass_on, "__left_out__": _LEFT_OUT}
    found: Callable[..., Any] = eval(f"lambda {', '.join(text)}: __pass_on__({passed})", scope)
    return found
