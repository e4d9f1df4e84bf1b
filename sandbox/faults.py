"""Stand-ins for the classes of errors that a program defines, for checks to catch.

``except`` goes by real subclasses. So each such class has one here, of its own, below the stand-ins
of the classes that it derives from, down to builtin ones. The only errors of it are those that the
program raised, by its own word, or that the checks made of it: whatever a program says of its
classes, none of them is above an error that something else raised.
"""

import builtins
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from sandbox.crossing import RemoteError, bare

MAX_CLASSES: Final = 100  # for one program
# Whose errors say no more than that something is wrong. One of `unittest` skips a test.
_LIBRARIES: Final = frozenset(
    """
    _csv _queue _struct argparse array binascii calendar configparser copy csv dataclasses decimal
    fractions getopt graphlib ipaddress json json.decoder pickle queue re sqlite3 statistics struct
    subprocess tomllib urllib.error xml.etree.ElementTree zipfile zlib zoneinfo zoneinfo._common
    """.split()  # noqa: SIM905
)
_KEY: Final = "key of the program's"  # no name that a program could ask for, nor checks write
_PROGRAM: Final = "whose class it is"
SAID: Final = "said by the program's"


class Peer(Protocol):
    """The program, by the keys of its objects."""

    def call(
        self, key: int, label: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> Any: ...
    def get_attribute(self, key: int, name: str) -> Any: ...
    def set_attribute(self, key: int, name: str, value: object) -> None: ...
    def special(self, key: int, method: str, operands: tuple[Any, ...]) -> Any: ...
    def key_of(self, value: object) -> int | None: ...


class ErrorKind(type):
    """The class of the stand-ins, and of what the checks derive from them."""

    def __call__(cls, /, *positional: Any, **named: Any) -> Any:
        """One that the program makes; it can be raised here."""
        if _KEY not in cls.__dict__:
            return super().__call__(*positional, **named)  # of a class of the checks'
        key, program = _origin(cls)
        made = program.call(key, cls.__name__, positional, named)
        key_made = program.key_of(made)
        if key_made is None:
            return made
        given = program.get_attribute(key_made, "args")
        said = program.special(key_made, "__str__", ())
        return make(cls, key_made, said, given if type(given) is tuple else ())

    def __getattr__(cls, name: str) -> Any:
        _refuse_private(cls, name)
        key, program = _origin(cls)
        return program.get_attribute(key, name)

    def __setattr__(cls, name: str, value: object) -> None:
        key, program = _origin(cls)
        program.set_attribute(key, name, value)

    def __instancecheck__(cls, instance: object) -> bool:
        """By its class; of an object that stays with the program, by the program's word."""
        key, program = _origin(cls)
        is_asked = _KEY in cls.__dict__ and not isinstance(instance, BaseException)
        if is_asked and program.key_of(instance) is not None:
            return program.special(key, "__instancecheck__", (instance,)) is True
        return type.__instancecheck__(cls, instance)


def _origin(kind: type) -> tuple[int, Peer]:
    """Key and program of the stand-in that it is, or is derived from."""
    found = next(each for each in kind.__mro__ if _KEY in each.__dict__)
    return found.__dict__[_KEY], found.__dict__[_PROGRAM]


def make_class(program: Peer, key: int, name: str, bases: Sequence[type]) -> ErrorKind:
    """Raises:
    TypeError: no class can have these bases.
    """
    namespace = {
        _KEY: key,
        _PROGRAM: program,
        "__str__": _text,
        "__getattr__": _get_attribute,
        "__module__": "program",
    }
    name = name if name.isidentifier() else "Error"
    kept = [base for place, base in enumerate(bases) if base not in bases[:place]]
    return ErrorKind(name, (*kept,) or (RemoteError,), namespace)


def make(kind: ErrorKind, key: int, said: str, given: Sequence[Any]) -> Exception:
    """An error of that class, for the one that the program knows by the key."""
    error = bare(kind, said, given)
    vars(error)[_KEY] = key
    vars(error)[SAID] = said if type(said) is str else ""
    return error


def key_of(value: object) -> int | None:
    """The key of a stand-in, or of an error of one."""
    if isinstance(value, BaseException):
        key: int | None = vars(value).get(_KEY)
        return key
    return value.__dict__.get(_KEY) if type(value) is ErrorKind else None


def known_base(name: str, module: str) -> type | None:
    """The class of the interpreter's, or of some libraries that the checks may have imported, to
    derive a stand-in from; None where there is none.

    What ends an iteration is a RuntimeError here, and what is no Exception is one: see `Program`.
    """
    if module == "builtins":
        found = vars(builtins).get(name)
    elif module in _LIBRARIES:
        found = vars(sys.modules.get(module, builtins)).get(name)
    else:
        return None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if issubclass(found, StopIteration | StopAsyncIteration):
        return RuntimeError
    if issubclass(found, BaseExceptionGroup) or type(found) is not type:
        return None
    return found


def _text(error: BaseException) -> str:
    return str(vars(error).get(SAID, "")) if _KEY in vars(error) else Exception.__str__(error)


def _get_attribute(error: BaseException, name: str) -> Any:
    _refuse_private(type(error), name)
    if _KEY not in vars(error):
        raise AttributeError(f"a {type(error).__name__} has no {name}", name=name)
    _, program = _origin(type(error))
    return program.get_attribute(vars(error)[_KEY], name)


def _refuse_private(kind: type, name: str) -> None:
    if name.startswith("_"):
        raise AttributeError(f"{name} is not asked of the program's {kind.__name__}", name=name)
