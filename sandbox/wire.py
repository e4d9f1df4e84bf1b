"""What passes between a program and its checks: strict tagged JSON in frames of bounded size.

None, bool, str, float and short int stand for themselves; everything else is an array that begins
with its tag. Only exact types are plain data. An object of any other type stays where it is, and a
reference to it is sent; so nothing that a program defines, least of all its idea of equality, ever
runs on the other side. (A subclass that leaves equality as it was is sent as the
plain value that it equals, a named tuple with the names of its fields.)
"""

import contextlib
import errno
import json
import math
import operator
import os
import struct
from abc import ABCMeta
from collections import (
    Counter,
    OrderedDict,
    UserDict,
    UserList,
    UserString,
    defaultdict,
    deque,
    namedtuple,
)
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from json import encoder
from keyword import iskeyword
from time import thread_time
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import resource

MAX_FRAME_BYTES: Final = 8 << 20
MAX_DEPTH: Final = 100
_SHORT_INT: Final = 1 << 53
_A_COUPLE: Final = 2  # of so many it is as fast to ask one by one
_CONSTANTS: Final = {bool, type(None)}
_FEW: Final = 64
# To add a key takes 0.1 to 0.5 microseconds, usually.
_USUAL_S: Final = 2e-6
_TOO_MANY: Final = 15  # times as long
_LEAST_S: Final = 0.005
_HASHED_AGAIN: Final = 3  # a tuple keeps no hash
_PART: Final = 16
_MAX_FRACTION_BITS: Final = 1 << 15
_MAX_FIELDS: Final = 64  # of a named tuple
_MAX_NAME: Final = 100

READ_AHEAD_BYTES: Final = 1 << 13

_HEADER: Final = struct.Struct("!I")
# In place of a frame's header: the program answered no further, though it was asked more. What
# comes after it are answers for checks that go on whatever was raised.
CUT: Final = _HEADER.pack(0xFFFFFFFF)

Json = Any  # what json.dumps takes
Refer = Callable[[object], Json]
Resolve = Callable[[int, str], object]
Decoder = Callable[[list[Any]], Any]


class ProtocolError(Exception):
    """A frame or value that no honest peer sends."""


class Unsendable(Exception):  # noqa: N818 - raised in the program's process and told as a ValueError
    """A value that is nested too deep or too large to send."""


class Stream(Protocol):
    """A connected stream socket, or what behaves like one."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...


class ReadAhead:
    """A Stream of another, of which as much is read at once as has arrived."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ahead = b""

    def sendall(self, data: bytes) -> None:
        self._stream.sendall(data)

    def recv(self, size: int) -> bytes:
        """Up to so many bytes; none where the other side is gone."""
        if not self._ahead:
            self._ahead = self._stream.recv(max(size, READ_AHEAD_BYTES))
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part


class Files:
    """A Stream over two files: reads what is in one, appends to the other.

    It keeps positions of its own. Those of the descriptors are shared with other processes.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._read = self._written = 0
        self._ahead = b""
        largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = os.fstat(sink).st_size
        self._room = (size if largest < 0 else min(size, largest)) - 2 * len(CUT)

    def recv(self, size: int) -> bytes:
        if len(self._ahead) < size:
            end = self._read + len(self._ahead)
            self._ahead += os.pread(self._source, max(size, READ_AHEAD_BYTES), end)
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        self._read += len(part)
        return part

    def sendall(self, data: bytes) -> None:
        """Raises:
        OSError: the file is full.
        """
        if self._written + len(data) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end = self._written + len(data)
        while data:
            data = data[os.pwrite(self._sink, data, end - len(data)) :]
        self._written = end

    def messages(self) -> Iterator[Json]:
        """What is in the file to begin with, which must be as `frame` has it; read at once."""
        text = os.pread(self._source, os.fstat(self._source).st_size, 0).decode("latin-1")
        end = 0
        while end < len(text):
            message, end = _scan(text, end + _HEADER.size)
            yield message

    def cut(self) -> None:
        """Say that there is no answer to what follows, unless the checks go on come what may."""
        os.pwrite(self._sink, CUT, self._written)
        self._written += len(CUT)


def frame(message: Json) -> bytes:
    """A message as it is sent.

    Raises:
        Unsendable: it is larger than MAX_FRAME_BYTES.
    """
    body = dump(message)
    if len(body) > MAX_FRAME_BYTES:
        raise Unsendable(f"larger than {MAX_FRAME_BYTES >> 20} MB as data")
    return _HEADER.pack(len(body)) + body


def send(stream: Stream, message: Json) -> None:
    """Send one message.

    Raises:
        Unsendable: it is larger than MAX_FRAME_BYTES.
        OSError: the other side is gone.
    """
    stream.sendall(frame(message))


def receive(stream: Stream) -> Json | None:
    """The next message, or None where the other side is gone (even in the middle of one).

    A frame without content says the same; so does a file of zeros.

    Raises:
        ProtocolError: it is too large, or not the JSON that `send` writes.
    """
    header = _receive_exactly(stream, _HEADER.size)
    if header is None:
        return None
    (size,) = _HEADER.unpack(header)
    if size == 0:
        return None
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size} bytes")
    body = _receive_exactly(stream, size)
    return None if body is None else parse(body)


def dump(message: Json) -> bytes:
    """A message without its frame."""
    return "".join(_encode(message, 0)).encode("ascii")


def parse(body: bytes) -> Json:
    """Read JSON as `dump` writes it: ASCII, no objects, no NaN.

    Raises:
        ProtocolError: it is anything else.
    """
    try:
        message, end = _scan(text := body.decode("ascii"), 0)
        if end != len(text):
            raise ValueError(f"more than a message: byte {end}")
    except StopIteration as error:
        raise ProtocolError(f"not the protocol's JSON (nothing at byte {error.value})") from None
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not the protocol's JSON ({error})") from None
    return message


def _refuse(_: object) -> object:
    raise ValueError("objects and constants are not used")


def _no_json(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} is no JSON")


# Made once, and without the layers that json puts around them: each costs a sample, which has just
# been forked, copies of the pages that it touches.
_decoder: Final = json.JSONDecoder(object_pairs_hook=_refuse, parse_constant=_refuse)
_scan: Final = _decoder.scan_once  # type: ignore[attr-defined]
_encode: Final = encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, _no_json, encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def _receive_exactly(stream: Stream, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        try:
            part = stream.recv(min(size - len(received), 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        if len(part) == size:
            return part
        received += part
    return bytes(received)


def encode(value: Any, refer: Refer, depth: int = 0) -> Json:
    """``value`` as JSON; ``refer`` gives the JSON that stands for an object that is not plain data.

    Raises:
        Unsendable: it is nested deeper than MAX_DEPTH.
    """
    kind = type(value)
    if kind is int:
        return value if -_SHORT_INT < value < _SHORT_INT else ["int", hex(value)]
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if _is_unicode(value) else ["str", _units(value)]
    if kind is float:
        return value if math.isfinite(value) else ["float", str(value)]
    if depth >= MAX_DEPTH:
        raise Unsendable(f"nested deeper than {MAX_DEPTH}")
    if kind is list or kind is tuple:
        tag = "list" if kind is list else "tuple"
        if len(value) > _A_COUPLE and _stand_for_themselves(value):
            return [tag, *value]
        return [tag, *[encode(part, refer, depth + 1) for part in value]]
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, lambda part: encode(part, refer, depth + 1))
    if kind in (type, ABCMeta) and value in _TYPE_NAMES:
        return ["type", _TYPE_NAMES[value]]
    plain = _plain_base(value)
    if plain is None:
        return refer(value)
    if type(plain) is tuple and (fields := _fields(kind, len(plain))):
        parts = [encode(part, refer, depth + 1) for part in plain]
        return ["namedtuple", kind.__name__[:_MAX_NAME], fields, *parts]
    return encode(plain, refer, depth + 1)


def decode(
    data: Json,
    resolve: Resolve,
    depth: int = 0,
    others: Callable[[str], Decoder | None] | None = None,
) -> Any:
    """The value that `encode` was given; ``resolve`` gives the object for a reference, and
    ``others`` what decodes tags that are not of plain data (or named tuples, which are plain ones
    without it).

    Raises:
        ProtocolError: ``data`` is nothing that `encode` returns.
    """
    kind = type(data)
    if kind is not list:
        return data
    if depth >= MAX_DEPTH:
        raise ProtocolError(f"nested deeper than {MAX_DEPTH}")
    if not data or type(data[0]) is not str:
        raise ProtocolError("an array without a tag")
    tag, *parts = data
    if tag == "ref":
        match parts:
            case [int(key), str(label)] if type(key) is int:
                return resolve(key, label)
        raise ProtocolError("a broken reference")
    decoder = _DECODERS.get(tag) or (others or _OTHERS.get)(tag)
    if decoder is None:
        raise ProtocolError(f"unknown tag {tag[:20]!r}")
    try:
        return decoder(
            [
                decode(part, resolve, depth + 1, others) if type(part) is list else part
                for part in parts
            ]
        )
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ProtocolError(f"a broken {tag} ({error})") from None


def reference(key: int, label: str) -> Json:
    """What stands for the object that the sender knows by ``key``; ``label`` is for people."""
    return ["ref", key, label]


def _stand_for_themselves(parts: Sequence[Any]) -> bool:
    """Whether all of them do, told at once: that they are of one kind and none is special."""
    kinds = set(map(type, parts))
    if len(kinds) != 1:
        return not kinds
    if int in kinds:
        return bool(min(parts) > -_SHORT_INT and max(parts) < _SHORT_INT)
    if str in kinds:
        return "".join(parts).isascii()
    if float in kinds:
        return all(map(math.isfinite, parts))
    return kinds <= _CONSTANTS


def _is_unicode(text: str) -> bool:
    """Whether JSON brings it back as it was: surrogates may be paired on the way."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _units(text: str) -> str:
    return text.encode("utf-32-be", "surrogatepass").hex()


def _plain_base(value: object) -> object:
    """What equals ``value``, of a subclass that left equality alone, as a plain type; else None."""
    kind = type(value)
    for base, convert in _BASES.items():
        if issubclass(kind, base):
            return convert(value) if compares_alike(kind, base) else None
    for base, inside in _WRAPPERS.items():
        if issubclass(kind, base) and compares_alike(kind, base):
            # These equal whatever the plain value in them equals.
            held: object = value.data  # type: ignore[attr-defined]
            return held if type(held) is inside else None
    return None


def compares_alike(kind: type, base: type) -> bool:
    """Whether the subclass left alone what equality is made of."""
    return kind is base or all(
        _defined(kind, method) is _defined(base, method)
        for method in ("__eq__", "__ne__", "__iter__", *(_OF_MAPPINGS if base is UserDict else ()))
        if hasattr(base, method)
    )


def _fields(kind: Any, length: int) -> str:
    """The names of a named tuple's fields, in one text; nothing where there are none that a class
    could be made of."""
    names = getattr(kind, "_fields", None)
    if type(names) is not tuple or len(names) != length or len(names) > _MAX_FIELDS:
        return ""
    if not all(type(name) is str and len(name) <= _MAX_NAME for name in names):
        return ""
    return " ".join(names) if are_fields(names) and len({*names}) == length else ""


def are_fields(names: Sequence[str]) -> bool:
    """Whether a named tuple's fields may be called so."""
    return all(
        name.isascii() and name.isidentifier() and name[0] != "_" and not iskeyword(name)
        for name in names
    )


def named_parts(parts: list[Any]) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
    """Name, fields and values of a named tuple, as they came.

    Raises:
        ValueError: they do not go together.
    """
    name, fields, *values = parts
    if type(name) is not str or type(fields) is not str:
        raise ValueError("no names")
    names = (*fields.split(" "),)
    if not are_fields(names) or len(names) != len(values) or len({*names}) != len(values):
        raise ValueError("other fields than values")
    if len(values) > _MAX_FIELDS or max(map(len, (name, *names))) > _MAX_NAME:
        raise ValueError("too many or too long")
    return name, names, (*values,)


def tuple_class(name: str, fields: tuple[str, ...]) -> Any:
    """A class of named tuples; ``fields`` are as `named_parts` gives them."""
    name = name if are_fields((name,)) else "Tuple"
    return namedtuple(name, fields, module="program")


def _defined(kind: type, method: str) -> object:
    """What instances have as that method: not what a metaclass has, as that of enumerations."""
    return next((vars(each)[method] for each in kind.__mro__ if method in vars(each)), None)


_OF_MAPPINGS: Final = ("__getitem__", "items", "__len__")
_WRAPPERS: Final[dict[type, type]] = {UserList: list, UserDict: dict, UserString: str}
# Not through str(value) and the like: those a subclass may override.
_BASES: Final[dict[type, Callable[[Any], object]]] = {
    tuple: tuple,
    list: list,
    dict: dict,
    set: set,
    frozenset: frozenset,
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
}


Encode = Callable[[object], Json]


def _tagged(tag: str, parts: Callable[[Any], Any]) -> Callable[[Any, Encode], Json]:
    return lambda value, inner: [tag, *map(inner, parts(value))]


def _pairs(mapping: dict[object, object]) -> Iterator[object]:
    for key, value in mapping.items():
        yield key
        yield value


def _pairs_of_items(items: Any) -> Iterator[object]:
    return (each for pair in items for each in pair)


Table = TypeVar("Table", dict[Any, Any], set[Any])


def _mapping(kind: type[dict[Any, Any]]) -> Callable[[list[Any]], dict[Any, Any]]:
    update: Callable[..., None] = OrderedDict.update if kind is OrderedDict else dict.update

    def decode(parts: list[Any]) -> dict[Any, Any]:
        if len(parts) % 2:
            raise ValueError("a key without a value")
        keys, values = parts[::2], parts[1::2]
        return _filled(
            keys,
            kind,
            lambda table, part: update(table, zip(keys[part], values[part], strict=True)),
        )

    return decode


def _set(keys: list[Any]) -> set[Any]:
    return _filled(keys, set, lambda table, part: table.update(keys[part]))


def _frozenset(keys: list[Any]) -> frozenset[Any]:
    _set(keys)  # which is filled in the same way
    return frozenset(keys)


def _filled(
    keys: list[Any], make: Callable[[], Table], add: Callable[[Table, slice], None]
) -> Table:
    """What ``make`` gives, with all keys added, part by part.

    Numbers have hashes that anybody can foresee. Keys may be chosen to collide, by hash or by probe
    sequence: either way adding them takes time that grows with the square of their number. The
    places depend on the kind of table and on the interpreter, so what tells is CPU time: many times
    what it takes usually, here and now.

    Raises:
        ValueError: these keys take too long.
    """
    table = make()
    if len(keys) <= _FEW:
        add(table, slice(None))
        return table
    started_s = thread_time()
    hashes = sorted(map(hash, keys))
    hashing_s = _HASHED_AGAIN * (thread_time() - started_s)
    if any(map(operator.eq, hashes, hashes[_FEW:])):
        raise ValueError("keys that share their hashes")
    if _add_within(_LEAST_S + hashing_s + _USUAL_S * len(keys), table, len(keys), add):
        return table
    table = make()  # the machine may be a slow one
    started_s = thread_time()
    dict.fromkeys(range(len(keys)))
    usual_s = thread_time() - started_s
    if _add_within(_LEAST_S + hashing_s + _TOO_MANY * usual_s, table, len(keys), add):
        return table
    raise ValueError("keys that are in each other's way")


def _add_within(
    most_s: float, table: Table, num_keys: int, add: Callable[[Table, slice], None]
) -> bool:
    """Whether it was done in that CPU time."""
    end_s = thread_time() + most_s
    for start in range(0, num_keys, _PART):
        add(table, slice(start, start + _PART))
        if thread_time() > end_s:
            return False
    return True


def _sorted(tag: str) -> Callable[[Any, Encode], Json]:
    """Of no order in memory, but always the same on the way: one can be compared with another."""
    return lambda value, inner: [tag, *sorted(map(inner, value), key=json.dumps)]


def _one(parts: list[Any], kind: type) -> Any:
    if len(parts) != 1 or type(parts[0]) is not kind:
        raise ValueError(f"one {kind.__name__} expected")
    return parts[0]


def _numbers(parts: list[Any], *kinds: type) -> list[Any]:
    if len(parts) != len(kinds) or any(type(p) is not k for p, k in zip(parts, kinds, strict=True)):
        raise ValueError("wrong parts")
    return parts


def _short(numbers: list[int]) -> list[int]:
    """Numbers that are reduced to lowest terms in no time."""
    if any(number.bit_length() > _MAX_FRACTION_BITS for number in numbers):
        raise ValueError("too many digits")
    return numbers


def _date_parts(value: date) -> tuple[int, int, int]:
    return value.year, value.month, value.day


def _time_parts(value: time | datetime) -> tuple[int, ...]:
    """The last three are those of the offset, if it has a fixed one."""
    parts = value.hour, value.minute, value.second, value.microsecond, value.fold
    if value.tzinfo is None:
        return parts
    if type(value.tzinfo) is not timezone:
        raise Unsendable("a time with a zone that is more than an offset")
    return *parts, *_delta_parts(value.tzinfo.utcoffset(None))


def _delta_parts(value: timedelta) -> tuple[int, int, int]:
    return value.days, value.seconds, value.microseconds


def _time(kind: Callable[..., Any], parts: list[Any], num_parts: int) -> Any:
    numbers = _numbers(parts, *[int] * max(len(parts), num_parts))
    *parts, fold = numbers[:num_parts]
    zone = timezone(timedelta(*numbers[num_parts:])) if len(numbers) > num_parts else None
    return kind(*parts, fold=fold, tzinfo=zone)


def _defaulting(parts: list[Any]) -> defaultdict[Any, Any]:
    factory, *pairs = parts
    if factory is not None and (type(factory) is not type or factory not in _TYPE_NAMES):
        raise ValueError("nothing plain makes what is missing")
    filled: Any = _mapping(defaultdict)(pairs)
    filled.default_factory = factory
    return filled  # type: ignore[no-any-return]


def _without_values(parts: list[Any]) -> list[Any]:
    """What has these keys."""
    return [each for key in parts for each in (key, None)]


def _default_of(value: defaultdict[Any, Any]) -> object:
    """What makes its missing values, if that is a type that crosses over."""
    factory = value.default_factory
    return factory if type(factory) is type and factory in _TYPE_NAMES else None


_TYPES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        object, type, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set,
        frozenset, range, type(None), deque, Counter, OrderedDict, defaultdict, Decimal, Fraction,
        date, time, datetime, timedelta,
    )
}  # fmt: skip
_TYPE_NAMES: Final[dict[object, str]] = {kind: name for name, kind in _TYPES.items()}

_ENCODERS: Final[dict[type, Callable[[Any, Encode], Json]]] = {
    dict: _tagged("dict", _pairs),
    set: _sorted("set"),
    frozenset: _sorted("frozenset"),
    complex: _tagged("complex", lambda value: (value.real, value.imag)),
    bytes: _tagged("bytes", lambda value: (value.hex(),)),
    bytearray: _tagged("bytearray", lambda value: (value.hex(),)),
    range: _tagged("range", lambda value: (value.start, value.stop, value.step)),
    deque: _tagged("deque", lambda value: (value.maxlen, *value)),
    Counter: _tagged("Counter", _pairs),
    OrderedDict: _tagged("OrderedDict", _pairs),
    defaultdict: _tagged("defaultdict", lambda value: (_default_of(value), *_pairs(value))),
    MappingProxyType: _tagged("dict", _pairs),
    type({}.keys()): _tagged("keys", iter),
    type({}.items()): _tagged("items", _pairs_of_items),
    type(OrderedDict().keys()): _tagged("keys", iter),
    type(OrderedDict().items()): _tagged("items", _pairs_of_items),
    type(...): lambda value, inner: ["constant", "Ellipsis"],
    type(NotImplemented): lambda value, inner: ["constant", "NotImplemented"],
    Decimal: _tagged("Decimal", lambda value: (str(value),)),
    Fraction: _tagged("Fraction", lambda value: (value.numerator, value.denominator)),
    date: _tagged("date", _date_parts),
    time: _tagged("time", _time_parts),
    datetime: _tagged("datetime", lambda value: (*_date_parts(value), *_time_parts(value))),
    timedelta: _tagged("timedelta", _delta_parts),
}

# What is done with these tags where nobody says otherwise.
_OTHERS: Final[dict[str, Decoder]] = {"namedtuple": lambda parts: named_parts(parts)[2]}

_DECODERS: Final[dict[str, Decoder]] = {
    "int": lambda parts: int(_one(parts, str), 16),
    "float": lambda parts: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[_one(parts, str)],
    "str": lambda parts: bytes.fromhex(_one(parts, str)).decode("utf-32-be", "surrogatepass"),
    "type": lambda parts: _TYPES[_one(parts, str)],
    "list": list,
    "tuple": tuple,
    "dict": _mapping(dict),
    "set": _set,
    "frozenset": _frozenset,
    "complex": lambda parts: complex(*_numbers(parts, float, float)),
    "bytes": lambda parts: bytes.fromhex(_one(parts, str)),
    "bytearray": lambda parts: bytearray.fromhex(_one(parts, str)),
    "range": lambda parts: range(*_numbers(parts, int, int, int)),
    "deque": lambda parts: deque(parts[1:], parts[0]),
    "Counter": _mapping(Counter),
    "OrderedDict": _mapping(OrderedDict),
    "defaultdict": _defaulting,
    "Decimal": lambda parts: Decimal(_one(parts, str)),
    "Fraction": lambda parts: Fraction(*_short(_numbers(parts, int, int))),
    "date": lambda parts: date(*_numbers(parts, *[int] * 3)),
    "keys": lambda parts: _mapping(dict)(_without_values(parts)).keys(),
    "items": lambda parts: _mapping(dict)(parts).items(),
    "constant": lambda parts: {"Ellipsis": ..., "NotImplemented": NotImplemented}[_one(parts, str)],
    "time": lambda parts: _time(time, parts, 5),
    "datetime": lambda parts: _time(datetime, parts, 8),
    "timedelta": lambda parts: timedelta(*_numbers(parts, *[int] * 3)),
}
