"""Which calls a task's checks make, found out without any program, so that all go at once.

The checks run with stand-ins that record calls and answer with an unknown: something that agrees
with whatever it is compared with. What is recorded is a guess. When a program's answers are judged,
the checks run anew, and each request that they make is compared with the recorded one; where the
two differ, the program is run again, live.

A program that is sent several calls at once can look at the later ones before it answers the first.
So a call that tells something of what an earlier answer is compared with, as in ``assert encode(x)
== y; assert decode(y) == x``, begins another turn: it is sent when the answers to all before it are
in. What an answer is compared with is seen only where an assertion says of the answer as it is that
it is, equals or is in something, or is true. Whatever else is done with an answer hides that:

- what gives rise to something unknown again (arithmetic, an attribute, an item, a conversion) makes
  the call that was answered the last of its turn;
- what needs to be known at once (a decision, a length, an iteration; also whether a call raises,
  where the checks would go on) may be what all that follows hangs on: only the last call may have
  such an answer, or nothing is recorded.
"""

import ast
import builtins
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from sandbox import checker, named, wire
from sandbox.hints import Hints, Look

_MAX_BYTES: Final = 32 << 20
_MAX_CALLS: Final = 100_000
_MAX_TURNS: Final = 256
# Names that no checks could write.
_HOLDS, _NOT, _COMPARE, _SEEN, _WITHIN, _CONVERT = (
    f"{what} of a recording" for what in ("truth", "not", "comparison", "look", "depth", "builtins")
)


class _Unrecordable(BaseException):
    """The checks ask for something that depends on an answer."""


class Recording(NamedTuple):
    """The requests that checks make, as frames; those at an offset in ``turns`` are to be sent only
    when what was asked before them has been answered."""

    requests: bytes
    turns: tuple[int, ...]


def record(source: str, names: tuple[str, ...]) -> Recording | None:
    """What the checks ask; None where it depends on answers, or where most has its own turn."""
    recorder = _Recorder()
    try:
        _, used = checker.compile_checks(source, names)
        source = checker.without_definitions(source, names)
        tree = ast.parse(source, checker.FILE_NAME)
        watching = _Watching(looks_inside=_TELLING.search(source) is not None)
        code = compile(watching.visit(tree), checker.FILE_NAME, "exec", dont_inherit=True)
        exec(code, {"__name__": "checks", **recorder.helpers(), **recorder.load(used)})
    except (Exception, SystemExit, _Unrecordable):  # noqa: BLE001 - checks raise what they like
        # An assertion that does not hold, too: what it makes of the unknown is not understood.
        return None
    return recorder.recording() if recorder.is_possible else None


class _Watching(ast.NodeTransformer):
    """Has the recorder told what becomes of answers, where they would not notice themselves.

    Without ``looks_inside``, expressions are left alone but for those that are asserted.
    """

    def __init__(self, *, looks_inside: bool) -> None:
        self._looks_inside = looks_inside

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if self._looks_inside or not isinstance(node, ast.expr):
            return super().generic_visit(node)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test, node.msg = _call(_HOLDS, self._asserted(node.test)), None
        return node

    def _asserted(self, test: ast.expr) -> ast.expr:
        """What has to be true, or the checks have failed."""
        match test:
            case ast.BoolOp(ast.And()):
                test.values = [_call(_HOLDS, self._asserted(value)) for value in test.values]
                return test
            case ast.UnaryOp(ast.Not(), operand):
                return _call(_NOT, self.visit(operand))
            case ast.Compare(left, ops, comparators):
                kinds = ast.Constant(" ".join(type(operator).__name__ for operator in ops))
                operands = map(self.visit, (left, *comparators))
                return _call(_COMPARE, ast.copy_location(kinds, test), *operands)
        asserted: ast.expr = self.visit(test)
        return asserted

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
            node.left = _call(_SEEN, node.left)
            node.comparators = [_call(_SEEN, each) for each in node.comparators]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _CONVERTING:
            node.args.insert(0, node.func)
            node.func = ast.copy_location(ast.Name(_CONVERT, ast.Load()), node.func)
        return node

    def visit_Match(self, node: ast.Match) -> NoReturn:
        raise _Unrecordable  # patterns tell kinds apart without asking

    def _may_go_on(self, node: ast.stmt) -> ast.AST:
        """What raises, or does not hold, in here need not end the checks."""
        self.generic_visit(node)
        depth = ast.copy_location(ast.Name(_WITHIN, ast.Load()), node)
        return ast.copy_location(ast.With([ast.withitem(depth)], [node]), node)

    visit_Try = visit_TryStar = visit_With = visit_AsyncWith = _may_go_on


def _call(function: str, operand: ast.expr, *operands: ast.expr) -> ast.Call:
    """Stands where the first operand does."""
    name = ast.copy_location(ast.Name(function, ast.Load()), operand)
    return ast.copy_location(ast.Call(name, [operand, *operands], []), operand)


class _Recorder(checker.Program):
    """Takes down calls of the program's functions; answers are unknown."""

    def __init__(self) -> None:
        super().__init__(_Nobody())
        self.requests = bytearray()
        self.is_possible = True
        self._given: list[wire.Json] = []  # to each call
        self._starts: list[int] = []  # of each call, in `requests`
        self._expected: dict[int, list[wire.Json]] = {}  # by call
        self._blind: set[int] = set()  # calls whose answers went where what they meet is not seen
        self._has_escaped = False  # what an answer is; then it was the last one to be recorded
        self._depth = 0  # of what may go on after an error
        self._thread = threading.get_ident()

    def load(self, names: Iterable[str]) -> dict[str, object]:
        names = sorted(names)
        self._take_down("names", names)
        return {name: checker.RemoteObject(self, place, name) for place, name in enumerate(names)}

    def helpers(self) -> dict[str, object]:
        return {
            _HOLDS: self._holds,
            _NOT: self._is_not,
            _COMPARE: self._compare,
            _SEEN: self._look,
            _CONVERT: self._convert,
            _WITHIN: self,
        }

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def ask(self, *message: wire.Json, **_: Any) -> Any:
        if message[0] != "call" or threading.get_ident() != self._thread or self._has_escaped:
            self.give_up()
        _, _, (_, *arguments), _, names = message
        self._starts.append(len(self.requests))
        self._take_down(*message)
        self._given.append(["tuple", *arguments, *names])
        if self._depth:
            self.escape()
        return Unknown(self, len(self._given) - 1)

    def last_answer(self) -> str:
        return ""

    def refer(self, value: object) -> wire.Json:
        if (described := named.describe(value)) is None:
            self.give_up()  # it will be asked for, or is an answer
        return described

    def go_blind(self, answers: Iterable["Unknown"]) -> None:
        """What these answers are compared with is not seen any more."""
        self._blind.update(map(_call_of, answers))

    def escape(self) -> None:
        """What follows may hang on the answers so far."""
        self._has_escaped = True

    def give_up(self) -> NoReturn:
        self.is_possible = False
        raise _Unrecordable

    def recording(self) -> Recording | None:
        """What was recorded; None where so many calls have a turn of their own that it is no use
        to know them beforehand."""
        turns = [self._starts[call] for call in self._turns()]
        if turns and len(turns) > min(_MAX_TURNS, len(self._starts) / 2):
            return None
        return Recording(bytes(self.requests), tuple(turns))

    def _turns(self) -> Iterator[int]:
        """The calls that are to wait for the answers to all before them."""
        hints = Hints()  # of what is expected of the turn's calls
        for call, given in enumerate(self._given):
            look = Look(given)
            if call - 1 in self._blind or hints.are_in(look):
                yield call
                hints = Hints()
            hints.add(self._expected.get(call, ()), look)

    def _holds(self, value: Any) -> bool:
        """Whether an assertion holds for this value."""
        if self._depth:
            self.escape()
        return type(value) is Unknown or bool(value)

    def _is_not(self, value: Any) -> bool:
        return type(value) is Unknown or not value

    def _compare(self, kinds: str, *operands: Any) -> bool:
        """A comparison, or a chain of them, that is asserted."""
        return all(map(self._agree, kinds.split(), operands, operands[1:]))

    def _agree(self, kind: str, left: Any, right: Any) -> bool:
        match kind:
            case "Eq" | "NotEq" | "Is" | "IsNot" if Unknown in (type(left), type(right)):
                return self._meet(left, right)
            case "Eq" if type(left) is type(right) in (list, tuple) and len(left) == len(right):
                return all(self._agree(kind, *pair) for pair in zip(left, right, strict=True))
            case "Eq" if type(left) is type(right) is dict and left.keys() == right.keys():
                return all(self._agree(kind, value, right[key]) for key, value in left.items())
            case "In" | "NotIn" if type(left) is Unknown and type(right) in _CONTAINERS:
                return all(self._meet(left, each) for each in right)
        if Unknown in (type(left), type(right)):
            self.mingle(left, right)
            return True
        return bool(_COMPARISONS[kind](left, right))

    def _meet(self, left: Any, right: Any) -> bool:
        """Note what an answer is compared with."""
        answer, other = (left, right) if type(left) is Unknown else (right, left)
        expected, unknown = self._encoded(other)
        if unknown:  # together they are compared with what cannot be seen
            self.go_blind([answer, *unknown])
        else:
            self._expected.setdefault(_call_of(answer), []).append(expected)
        return True

    def mingle(self, *operands: object) -> None:
        """Answers give rise to something else that is unknown."""
        for operand in operands:
            self.go_blind(self._encoded(operand)[1])

    def _encoded(self, value: object) -> tuple[wire.Json, list["Unknown"]]:
        """A value, and the answers in it; of what is no plain data these cannot be told."""
        unknown: list[Unknown] = []

        def refer(inside: object) -> None:
            if type(inside) is Unknown:
                unknown.append(inside)
            else:
                self.escape()

        try:
            return wire.encode(value, refer), unknown
        except wire.Unsendable:
            self.escape()
            return None, unknown

    def _look(self, value: object) -> object:
        """Whether it is something is decided on without asking it."""
        if type(value) is Unknown:
            self.escape()
        return value

    def _convert(self, function: Any, *operands: Any, **named: Any) -> Any:
        """A call of what goes by the name of a builtin that converts or measures."""
        if function is _CONVERTING.get(getattr(function, "__name__", "")):
            given = (*operands, *named.values())
            unknown = [each for each in given if type(each) is Unknown]
            if unknown:
                if function not in _ARRANGING or len(given) > 1:
                    self.mingle(*given)
                return unknown[0]
        return function(*operands, **named)

    def _take_down(self, *message: wire.Json) -> None:
        self.requests += wire.frame(message)
        if len(self.requests) > _MAX_BYTES or len(self._given) > _MAX_CALLS:
            self.give_up()


_CONTAINERS: Final = (list, tuple, set, frozenset, dict)
_COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "Eq": lambda left, right: left == right,
    "NotEq": lambda left, right: left != right,
    "Lt": lambda left, right: left < right,
    "LtE": lambda left, right: left <= right,
    "Gt": lambda left, right: left > right,
    "GtE": lambda left, right: left >= right,
    "Is": lambda left, right: left is right,
    "IsNot": lambda left, right: left is not right,
    "In": lambda left, right: left in right,
    "NotIn": lambda left, right: left not in right,
}
_CONVERTING: Final[Mapping[str, Any]] = {
    name: getattr(builtins, name)
    for name in """
        abs all any bool bytes callable complex dict float frozenset int isinstance len list max min
        pow repr round set sorted str sum tuple type
    """.split()  # noqa: SIM905
}
# Where an expression may hide what becomes of an answer; see `_Watching`.
_TELLING: Final = re.compile(rf"\bis\b|\b(?:{'|'.join(_CONVERTING)})\s*\(")
# What they make of a container is like it, for `Hints`.
_ARRANGING: Final = (frozenset, list, set, sorted, tuple)


class _Nobody:
    """A Stream without another side."""

    def sendall(self, data: bytes) -> None:
        raise AssertionError("a recording asks nobody")

    def recv(self, size: int) -> bytes:
        raise AssertionError("a recording hears nobody")


class Unknown:
    """An answer yet to come. It is true, empty, zero and equal, and each use of it is noticed."""

    __slots__ = ("_call", "_recorder")

    def __init__(self, recorder: _Recorder, call: int) -> None:
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_call", call)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            return _changes(self)
        _recorder_of(self).escape()  # somebody wants to know what it is
        return object.__getattribute__(self, name)


def _recorder_of(unknown: Unknown) -> _Recorder:
    return object.__getattribute__(unknown, "_recorder")  # type: ignore[no-any-return]


def _call_of(unknown: Unknown) -> int:
    return object.__getattribute__(unknown, "_call")  # type: ignore[no-any-return]


def _changes(unknown: Unknown, *operands: object) -> Unknown:
    _recorder_of(unknown).mingle(unknown, *operands)
    return unknown


def _escaping(answer: Callable[[], Any]) -> Callable[..., Any]:
    def method(unknown: Unknown, *_: object) -> Any:
        _recorder_of(unknown).escape()
        return answer()

    return method


def _asking(unknown: Unknown, *_: object, **__: object) -> NoReturn:
    """Of an object that stays with the program, this would ask the program."""
    _recorder_of(unknown).give_up()


_METHODS: Final[dict[Callable[..., Any], str]] = {
    _changes: """
        abs add and ceil divmod floor floordiv getitem invert lshift matmul mod mul neg or pos pow
        radd rand rdivmod rfloordiv rlshift rmatmul rmod rmul ror round rpow rrshift rshift rsub
        rtruediv rxor sub truediv trunc xor
    """,
    _asking: """
        aenter aexit aiter anext await call copy deepcopy delattr delitem dir enter exit
        reduce reduce_ex setattr setitem sizeof
    """,
    _escaping(lambda: True): "bool contains eq ge gt le lt ne",
    _escaping(int): "hash index int len length_hint",
    _escaping(float): "float",
    _escaping(complex): "complex",
    _escaping(bytes): "bytes",
    _escaping(str): "format fspath repr str",
    _escaping(lambda: iter(())): "iter reversed",
    _escaping(lambda: next(iter(()))): "next",
}
for _method, _names in _METHODS.items():
    for _name in _names.split():
        setattr(Unknown, f"__{_name}__", _method)
