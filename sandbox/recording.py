"""Which calls a task's checks make, found out without any program, so that all go at once.

The checks run with stand-ins that record calls and answer with an unknown: something that agrees
with whatever it is compared with. What is recorded is a guess. When a program's answers are judged,
the checks run anew, and each request that they make is compared with the recorded one; where the
two differ, the program is run again, live.

A program that is sent several calls at once can look at the later ones before it answers the first.
So a call that gives away what an earlier answer is compared with, as in ``assert encode(x) == y;
assert decode(y) == x``, begins another turn: it is sent when the answers to all before it are in.
Nothing is recorded where what an answer is compared with cannot be seen, since the unknown went
into code that is not Python; nor in turns where it cannot be told of which answer it is expected.
"""

import ast
import bisect
import builtins
import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import checker, wire

_MAX_BYTES: Final = 32 << 20
_MAX_CALLS: Final = 100_000
_MAX_TURNS: Final = 256
# Said too often to give anything away.
_TRIVIAL: Final = frozenset(("null", "true", "false", "0.0", "1.0", "-1.0", '""'))
_SHORT_TEXT: Final = 3


class _Unrecordable(BaseException):
    """The checks ask for something that depends on an answer."""


class Recording(NamedTuple):
    """The requests that checks make, as frames; those at an offset in ``turns`` are to be sent only
    when what was asked before them has been answered."""

    requests: bytes
    turns: tuple[int, ...]


def record(source: str, names: tuple[str, ...]) -> Recording | None:
    """What the checks ask; None where it depends on answers, or where most has its own turn."""
    try:
        code, used = checker.compile_checks(source, names)
    except (SyntaxError, ValueError, RecursionError):
        return None
    # Unknowns do not meet every assertion; then once more, going on after those that fail.
    with contextlib.suppress(Exception):
        return _record(code, used)
    with contextlib.suppress(Exception):
        return _record(_tolerant(source, names), used)
    return None


def _record(code: Any, used: set[str]) -> Recording | None:
    """The requests; None if they cannot be known beforehand, or it would be no use.

    Raises:
        Exception: what the checks raised.
    """
    recorder = _Recorder()
    stand_ins = {name: _Builtin(known) for name, known in _CONVERTING.items()}
    try:
        exec(code, {"__name__": "checks", **stand_ins, **recorder.load(used)})
    except (_Unrecordable, SystemExit):
        return None
    return recorder.recording() if recorder.is_possible else None


def _tolerant(source: str, names: tuple[str, ...]) -> Any:
    """The checks' code, with each assertion evaluated but not insisted on."""
    tree = ast.parse(checker.without_definitions(source, names), checker.FILE_NAME)
    return compile(ast.fix_missing_locations(_Tolerant().visit(tree)), checker.FILE_NAME, "exec")


class _Tolerant(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        handler = ast.ExceptHandler(
            type=ast.Name(id="Exception", ctx=ast.Load()), name=None, body=[ast.Pass()]
        )
        attempt = ast.Try(
            body=[ast.Expr(value=node.test)], handlers=[handler], orelse=[], finalbody=[]
        )
        return ast.copy_location(attempt, node)


class _Recorder(checker.Program):
    """Takes down calls of the program's functions; answers are unknown."""

    def __init__(self) -> None:
        super().__init__(_Nobody())
        self.requests = bytearray()
        self.is_possible = True
        self._arguments: list[wire.Json] = []  # of each call
        self._starts: list[int] = []  # of each call, in `requests`
        self._expected: dict[str, list[int]] = {}  # as `_atoms` has it, with its calls in order
        self._blind_from: int | None = None
        self._is_entangled = False  # the answer to one call met that to another
        self._thread = threading.get_ident()

    def load(self, names: Iterable[str]) -> dict[str, object]:
        names = sorted(names)
        self._take_down("names", names)
        return {name: checker.RemoteObject(self, place, name) for place, name in enumerate(names)}

    def ask(self, *message: wire.Json, changes: object = None, may_stop: bool = False) -> Any:
        if message[0] != "call" or threading.get_ident() != self._thread:
            self._give_up()
        self._starts.append(len(self.requests))
        self._take_down(*message)
        self._arguments.append(message[2])
        return Unknown(self, len(self._arguments) - 1)

    def last_answer(self) -> str:
        return ""

    def refer(self, value: object) -> wire.Json:
        self._give_up()

    def note(self, call: int, operands: Iterable[object]) -> None:
        """Remember what the answer to a call met."""
        for operand in operands:
            if type(operand) is Unknown:
                self._is_entangled |= operand._call != call
                continue
            if callable(operand):
                continue
            try:
                text = _as_text(wire.encode(operand, _refuse))
            except (wire.Unsendable, ValueError, RecursionError):
                self.go_blind(call)
                continue
            if text not in _TRIVIAL:
                calls = self._expected.setdefault(text, [])
                if not _is_one_of(calls, range(call, call + 1)):
                    bisect.insort(calls, call)

    def go_blind(self, call: int) -> None:
        """The answer to a call went where what it meets is not seen."""
        self._blind_from = call if self._blind_from is None else min(call, self._blind_from)

    def recording(self) -> Recording | None:
        """What was recorded; None where it may give away too much, or where so many calls have a
        turn of their own that it is no use to know them beforehand."""
        if self._blind_from is not None and self._blind_from < len(self._starts) - 1:
            return None
        turns = [self._starts[call] for call in self._turns()]
        # What two answers are compared with together is noted for one of them only.
        if turns and (self._is_entangled or len(turns) > min(_MAX_TURNS, len(self._starts) / 2)):
            return None
        return Recording(bytes(self.requests), tuple(turns))

    def _turns(self) -> Iterator[int]:
        """The calls that are to wait for the answers to all before them."""
        inside = {text[1:-1]: of for text, of in self._expected.items() if _is_long_text(text)}
        first = 0  # of the turn
        for call, arguments in enumerate(self._arguments):
            if self._shows(arguments, range(first, call), inside):
                yield call
                first = call

    def _shows(
        self, arguments: wire.Json, calls: range, inside: Mapping[str, Sequence[int]]
    ) -> bool:
        """Whether arguments give away what the answer to one of these calls may be compared with.

        ``inside`` are texts, with their calls, that give it away as a part of a longer one.
        """
        if not calls or not self._expected:
            return False
        return any(
            _is_one_of(self._expected.get(given, ()), calls)
            or any(text in given and _is_one_of(of, calls) for text, of in inside.items())
            for given in _atoms(arguments)
        )

    def _take_down(self, *message: wire.Json) -> None:
        self.requests += wire.frame(message)
        if len(self.requests) > _MAX_BYTES or len(self._arguments) > _MAX_CALLS:
            self._give_up()

    def _give_up(self) -> NoReturn:
        self.is_possible = False
        raise _Unrecordable


def _is_one_of(numbers: Sequence[int], wanted: range) -> bool:
    """Whether one of the numbers, which are in order, is in the range."""
    place = bisect.bisect_left(numbers, wanted.start)
    return place < len(numbers) and numbers[place] in wanted


def _atoms(data: wire.Json) -> Iterator[str]:
    """Each value in ``data``, whole and in parts, as text."""
    yield _as_text(data)
    if type(data) is list:
        for part in data[1:]:
            yield from _atoms(part)


def _as_text(data: wire.Json) -> str:
    """The same for numbers that are equal, for sequences of equal parts, for text and bytes."""
    if type(data) in (int, float):
        return repr(float(data))
    if type(data) is not list:
        return json.dumps(data)
    tag, *parts = data
    if not parts:
        return '""'  # empty, of whatever kind
    if tag in ("bytes", "bytearray"):
        return json.dumps(bytes.fromhex(parts[0]).decode("latin-1"))
    if tag in ("int", "float", "str", "Decimal"):
        return json.dumps(parts)
    texts = map(_as_text, parts)
    return f"[{', '.join(sorted(texts) if tag in ('set', 'frozenset') else texts)}]"


def _is_long_text(text: str) -> bool:
    return text.startswith('"') and len(text) > _SHORT_TEXT


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"no plain data: {type(value).__name__}")


class _Nobody:
    """A Stream without another side."""

    def sendall(self, data: bytes) -> None:
        raise AssertionError("a recording asks nobody")

    def recv(self, size: int) -> bytes:
        raise AssertionError("a recording hears nobody")


class Unknown:
    """An answer yet to come. It agrees, is empty, is zero, and gives rise to unknowns only."""

    def __init__(self, recorder: _Recorder, call: int) -> None:
        self._recorder = recorder
        self._call = call

    def _agrees(self, *operands: object) -> bool:
        self._recorder.note(self._call, operands)
        return True

    def _stays(self, *operands: object, **named: object) -> "Unknown":
        self._recorder.note(self._call, (*operands, *named.values()))
        return self

    def _blindly(self, value: Any) -> Any:
        self._recorder.go_blind(self._call)
        return value

    def _changes(self, *_: object) -> "Unknown":
        """What comes of a calculation meets the rest of the checks in another guise."""
        self._recorder.go_blind(self._call)
        return self

    def __getattr__(self, name: str) -> "Unknown":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return int(self._blindly(0))

    def __iter__(self) -> Iterator[object]:
        return iter(self._blindly(()))

    def __next__(self) -> NoReturn:
        self._recorder.go_blind(self._call)
        raise StopIteration

    def __hash__(self) -> int:
        return int(self._blindly(0))

    def __float__(self) -> float:
        return float(self._blindly(0.0))

    def __complex__(self) -> complex:
        return complex(self._blindly(0j))

    def __int__(self) -> int:
        return int(self._blindly(0))

    def __str__(self) -> str:
        return str(self._blindly(""))

    __repr__ = __str__

    __index__ = __trunc__ = __floor__ = __ceil__ = __int__
    __contains__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _agrees
    __call__ = __getitem__ = __round__ = __abs__ = __neg__ = __pos__ = __invert__ = _stays
    __reversed__ = __enter__ = __exit__ = __sub__ = __rsub__ = _stays
    __add__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __mod__ = _changes
    __divmod__ = __pow__ = __lshift__ = __rshift__ = __and__ = __xor__ = __or__ = _changes
    __radd__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = _changes
    __rmod__ = __rdivmod__ = __rpow__ = __rlshift__ = __rrshift__ = _changes
    __rand__ = __rxor__ = __ror__ = _changes


class _Builtin:
    """Stands for a builtin that converts or measures: of something unknown it makes an unknown."""

    def __init__(self, known: Callable[..., Any]) -> None:
        self._known = known

    def __call__(self, *operands: Any, **named: Any) -> Any:
        for operand in (*operands, *named.values()):
            if type(operand) is Unknown:
                others = [each for each in (*operands, *named.values()) if each is not operand]
                if self._known in (isinstance, issubclass):
                    return True
                return operand._stays(*others)
        known = [each._known if type(each) is _Builtin else each for each in operands]
        if self._known in (isinstance, issubclass) and type(known[-1]) is tuple:
            known[-1] = tuple(each._known if type(each) is _Builtin else each for each in known[-1])
        return self._known(*known, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known, name)

    def __getitem__(self, parameters: Any) -> Any:
        return self

    def __or__(self, other: object) -> "_Builtin":
        return self


_CONVERTING: Final = {
    name: getattr(builtins, name)
    for name in """
        abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate filter float
        format frozenset hash hex int isinstance issubclass iter len list map max min next oct ord
        pow range repr reversed round set slice sorted str sum tuple type zip
    """.split()  # noqa: SIM905
}
