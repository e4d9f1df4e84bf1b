"""The checks' side: run them with stand-ins for what the program defines, and say what they found.

This process never executes the program, nor anything else that the program sends: answers are
rebuilt as plain data of exact types by `wire.decode`, and compared here.
"""

import ast
import builtins
import functools
import json
import linecache
import os
import re
import reprlib
import symtable
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, Final, NamedTuple, NoReturn, SupportsIndex

from sandbox import faults, named, wire
from sandbox.candidate import SPECIAL
from sandbox.crossing import (
    TOLD,
    as_builtin,
    attributes_of,
    plain_arguments,
    take_on,
    text_of,
)
from sandbox.handed import MODULE, Handed
from sandbox.outcome import Outcome

FILE_NAME: Final = "checks.py"
_MAX_DETAIL: Final = 2000
_MAX_MESSAGE: Final = 600
# Of the attributes that are Python's own, those that a check may want to know.
_TELLING: Final = frozenset(
    """
    __annotations__ __dict__ __doc__ __module__ __name__ __qualname__ __version__ _name_ _value_
    """.split()  # noqa: SIM905
)
_MAX_SHOWN_BITS: Final = 1000
OUT_OF_PROTOCOL: Final = "the program answered out of protocol"
_GONE: Final = "the program ended before its checks were through"
# Calls in calls: each takes half a dozen of the thousand that the interpreter allows.
_MAX_NESTED: Final = 100
_CODE_UNIT: Final = 2  # bytes of an instruction
_KINDS_ASKED: Final = ("__instancecheck__", "__subclasscheck__")
_STOPS: Final = (StopIteration, StopAsyncIteration)
_MAX_TUPLE_CLASSES: Final = 64  # to make one takes 0.2 ms


class ProgramLost(BaseException):
    """The program's process ended, or answers out of protocol: no check can go on."""


class _Told(NamedTuple):
    """What the program said of an error that it raised."""

    kind: str
    detail: str


class NotData(Exception):  # noqa: N818
    """The checks hand over something that cannot be sent: their own fault, unless the program had
    answered something before."""


class _Broken(Exception):  # noqa: N818
    """The program could not even be loaded."""

    def __init__(self, outcome: Outcome, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome, self.kind, self.detail = outcome, kind, detail


def as_finding(outcome: Outcome, detail: str, kind: str | None) -> dict[str, str]:
    """What is told of an examination; short, since the program chose these texts."""
    return {
        "outcome": outcome.value,
        "detail": detail[:_MAX_DETAIL],
        "raised": (kind or "")[:100],
    }


def write_finding(note: int, outcome: Outcome, detail: str, kind: str | None) -> None:
    os.pwrite(note, json.dumps(as_finding(outcome, detail, kind)).encode("ascii"), 0)


def examine(
    source: str, names: tuple[str, ...], stream: wire.Stream
) -> tuple[Outcome, str, str | None]:
    """The outcome, a line on what led to it, and the kind of error that the program raised."""
    try:
        code, used = compile_checks(source, names)
    except (SyntaxError, ValueError, RecursionError) as error:
        return Outcome.CHECKS_BROKEN, f"the checks do not compile: {error}", None
    return run(code, used, source, stream, {})


def run(
    code: CodeType, used: set[str], source: str, stream: wire.Stream, given: Mapping[str, object]
) -> tuple[Outcome, str, str | None]:
    """As `examine`, of checks that were compiled; they find ``given`` among their names."""
    program = Program(stream)
    namespace, program.source = program.names, source
    namespace |= {"__name__": MODULE, **given}
    ended: BaseException | None = None
    try:
        namespace |= program.load(used)
        hide_builtins(namespace, used)
        exec(code, namespace)
    except _Broken as broken:
        return broken.outcome, broken.detail, broken.kind
    except BaseException as error:  # noqa: BLE001 - whatever ended the checks, it has an outcome
        ended = error
    if program.is_lost is not None:
        return program.is_lost, program.why, None
    if (ended := program.swallowed or ended) is not None:
        return _outcome(ended, program, used - namespace.keys(), source)
    return Outcome.HELD, "", None


def hide_builtins(namespace: dict[str, Any], used: set[str]) -> None:
    """Let none take the place of what checks that run in this namespace use and it lacks."""
    if absent := (used - namespace.keys()) & vars(builtins).keys():
        kept = vars(builtins).keys() - absent
        namespace["__builtins__"] = {name: vars(builtins)[name] for name in kept}


def _outcome(
    error: BaseException, program: "Program", missing: set[str], source: str
) -> tuple[Outcome, str, str | None]:
    """What it means that the checks ended in ``error``.

    Only what no program can bring about is called the checks' own fault: else one could end the
    judging of all the others.
    """
    at = where(error, source)
    if isinstance(told := getattr(error, TOLD, None), _Told):
        return Outcome.RAISED, f"{told.detail}; {at}", told.kind
    if isinstance(error, NotData):
        # What was handed over may be made of an answer, by what the checks expected that to be.
        outcome = Outcome.RAISED if program.has_answered else Outcome.CHECKS_BROKEN
        return outcome, f"{error}; {at}", None
    if isinstance(error, NameError) and error.name in missing:
        return Outcome.UNDEFINED, f"the program does not define {error.name}", None
    if isinstance(error, AssertionError):
        return Outcome.FAILED, f"{_message(error)}{at}{program.last_answer()}", None
    said = "".join(traceback.format_exception_only(error)).strip()
    return Outcome.RAISED, f"{said} in the checks; {at}{program.last_answer()}", None


def _message(error: AssertionError) -> str:
    """What the checks say of it themselves."""
    said = error.args[0] if error.args else None
    return f"{said[:_MAX_MESSAGE]}; " if type(said) is str else ""


def where(error: BaseException, source: str) -> str:
    """The line of the checks where it arose."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == FILE_NAME and frame.lineno
    ]
    if not lines:
        return "before the first check"
    # Compiling kept the numbers of the source's lines.
    text = _lines(source)[lines[-1] - 1].strip()
    return f"checks, line {lines[-1]}: {text[:300]}"


def _is_failure(error: BaseException) -> bool:
    """Whether it is an assertion of the checks' that failed, or a group that holds one."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_failure, error.exceptions))
    return isinstance(error, AssertionError) and TOLD not in vars(error)


def _arose_in_assertion(error: BaseException, source: str) -> bool:
    """Whether it arose while an assertion of the checks was being tried, or its message made: what
    the program raises there in place of an answer keeps it from being tried at all."""
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_filename == FILE_NAME:
            place = [*code.co_positions()][step.tb_lasti // _CODE_UNIT]
            if _is_asserted(source, place):
                return True
        step = step.tb_next
    return False


def _is_asserted(source: str, place: tuple[int | None, ...]) -> bool:
    """Whether what stands there is of an assertion, and not of a function within one."""
    first_line, last_line, first_column, last_column = place
    if first_line is None or last_line is None or first_column is None or last_column is None:
        return False
    start, end = (first_line, first_column), (last_line, last_column)
    around = [each for each in _assertions(source) if each[0] <= start and end <= each[1]]
    return bool(around) and max(around)[2]


@functools.lru_cache(maxsize=8)
def _assertions(source: str) -> list[tuple[tuple[int, int], tuple[int, int], bool]]:
    """Where assertions, and functions that are expressions, begin and end; whether it is one of the
    former."""
    return [
        (
            (node.lineno, node.col_offset),
            (node.end_lineno or 0, node.end_col_offset or 0),
            isinstance(node, ast.Assert),
        )
        for node in ast.walk(ast.parse(source, FILE_NAME))
        if isinstance(node, ast.Assert | ast.Lambda)
    ]


# Both parts of a + benchmark's 164 tasks are 328, and samples may come in turns.
@functools.lru_cache(maxsize=512)
def compile_checks(source: str, names: tuple[str, ...]) -> tuple[CodeType, set[str]]:
    """The checks' code without their own definitions of ``names``, and the names that it takes
    from the program."""
    source = without_definitions(source, names)
    linecache.cache[FILE_NAME] = (len(source), None, source.splitlines(keepends=True), FILE_NAME)
    return compile(source, FILE_NAME, "exec", dont_inherit=True), _taken(source, names)


def names_taken(source: str, names: tuple[str, ...]) -> set[str]:
    """The names that these checks take from the program.

    Raises:
        SyntaxError, ValueError, RecursionError: they do not compile.
    """
    return _taken(without_definitions(source, names), names)


def _taken(source: str, names: tuple[str, ...]) -> set[str]:
    return _free_names(symtable.symtable(source, FILE_NAME, "exec")) | set(names)


def without_definitions(source: str, names: tuple[str, ...]) -> str:
    """The source with top-level functions and classes of these names blanked out, line for line."""
    if not any(_may_define(source, name) for name in names):
        return source  # so that few need to be parsed twice
    lines = _lines(source)
    for node in ast.parse(source, FILE_NAME).body:
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.name in names
        ):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or node.lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(lines)


def _may_define(source: str, name: str) -> bool:
    # By itself each keyword is found fast, in checks of megabytes too; as an alternative neither.
    patterns = (rf"{keyword}\s+{re.escape(name)}\b" for keyword in ("def", "class"))
    return any(re.search(pattern, source) for pattern in patterns)


def _lines(source: str) -> list[str]:
    """Lines as the compiler counts them; str.splitlines() knows more ends of lines."""
    return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _free_names(module: symtable.SymbolTable) -> set[str]:
    """Names that are read somewhere as globals, but neither assigned at top level nor builtins."""
    assigned = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    read: set[str] = set()
    tables = deque([module])
    while tables:
        table = tables.popleft()
        tables.extend(table.get_children())
        read.update(
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or table is module)
        )
    return read - assigned - vars(builtins).keys()


class Program:
    """The program as the checks see it: one request at a time, and what came of the last call."""

    def __init__(self, stream: wire.Stream) -> None:
        self._stream = stream
        self._objects: dict[int, Any] = {}  # stand-ins by the program's keys
        self._last_call: tuple[str, tuple[Any, ...], dict[str, Any], object] | None = None
        self.has_answered = False  # more than that it has what it was asked for
        self.is_lost: Outcome | None = None  # once set, nothing makes the checks hold
        self.why = ""
        self.names: dict[str, object] = {}  # of the checks
        self.source = ""  # of the checks
        self._turn = threading.RLock()  # checks may call from several threads
        self._num_nested = 0  # calls in calls
        self._handed = Handed()
        self._kinds: dict[int, faults.ErrorKind] = {}  # of errors, by the key of the class
        self._tuples: dict[tuple[Any, ...], Any] = {}  # classes, by name and fields
        # An assertion that failed where the program called the checks, and went on.
        self.swallowed: Exception | None = None
        self._decoders: dict[str, wire.Decoder] = {
            "namedtuple": self._named_tuple,
            "given": self._handed.find,
        }

    def load(self, names: Iterable[str]) -> dict[str, object]:
        """Wait until the program is loaded; what it defines of ``names``."""
        match self._receive():
            case ["ready"]:
                pass
            case ["broken", str(flaw), str(kind), str(detail)]:
                outcome = Outcome.SYNTAX_ERROR if flaw == "syntax error" else Outcome.RAISED
                raise _Broken(outcome, kind, detail)
            case _:
                self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        decoders = self._decoders | {"error": self._error_class}
        found = self.ask("names", sorted(names), others=decoders)
        if type(found) is not dict or not found.keys() <= set(names):
            self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        self.has_answered = any(self.key_of(each) is None for each in found.values())
        return found

    def call(self, key: int, label: str, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        passed = objects = (*positional, *named.values())
        places = [*range(len(passed))]
        if len(set(map(id, passed))) < len(passed):
            # Each object once: what is passed twice has to arrive as one object.
            given = {id(value): value for value in passed}
            place_of = {identity: place for place, identity in enumerate(given)}
            objects, places = (*given.values(),), [place_of[id(value)] for value in passed]
        encoded = self._encode(objects)
        answer = self.ask("call", key, encoded, places, [*named], changes=objects)
        self._last_call = label, positional, named, answer
        return answer

    def get_attribute(self, key: int, name: str) -> Any:
        return self.ask("getattr", key, name)

    def set_attribute(self, key: int, name: str, value: object) -> None:
        self.ask("setattr", key, name, self._encode(value))

    def special(self, key: int, method: str, operands: tuple[Any, ...]) -> Any:
        if method in _KINDS_ASKED and any(map(self._is_own_error, operands)):
            return False  # or a context manager of the checks' could swallow one by its word
        encoded = map(self._encode, operands)
        return self.ask("special", key, method, *encoded, may_stop=method == "__next__")

    def _is_own_error(self, value: object) -> bool:
        """Whether it is an error, or a class of some, that is none of the program's."""
        kind = value if isinstance(value, type) else type(value)
        return issubclass(kind, BaseException) and type(kind) is not faults.ErrorKind

    def last_answer(self) -> str:
        """The last call and its answer, for people."""
        if self._last_call is None:
            return ""
        label, positional, named, answer = self._last_call
        arguments = [*map(_SHORT.repr, positional)]
        arguments += [f"{name}={_SHORT.repr(value)}" for name, value in named.items()]
        return f"; {label}({', '.join(arguments)}) gave {_SHORT.repr(answer)}"

    def ask(
        self,
        *message: wire.Json,
        changes: object = None,
        may_stop: bool = False,
        others: Mapping[str, wire.Decoder] | None = None,
    ) -> Any:
        """The answer to one request; ``changes`` takes on the state that a call left it in.

        ``may_stop`` says that StopIteration is a proper answer, ``others`` what else may be in it
        (see `wire.decode`).

        Raises:
            Exception: what the program raised, as the nearest builtin class, else RemoteError.
            ProgramLost: there is no answer, nor will there be one.
        """
        with self._turn:
            if self.is_lost is not None:
                raise ProgramLost(self.why)
            if self._num_nested >= _MAX_NESTED:
                raise RecursionError("calls of the program and of the checks in each other")
            answer = self._exchange(wire.frame(message))
        self.has_answered = True
        match answer:
            case ["value", data]:
                return self._decode(data, others)
            case ["value", data, after]:
                take_on(changes, self._decode(after))
                return self._decode(data)
            case ["raised" | "raised own" | "raised again", *_]:
                raise self._error(answer, may_stop=may_stop)
        return self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)

    def _exchange(self, request: bytes) -> wire.Json:
        """Ask, run what the program asks for meanwhile, and have its answer.

        Raises:
            Exception: an assertion failed in what was run, and the program did not pass it on.
        """
        failed: list[Exception] = []
        try:
            self._send(request)
            while (answer := self._receive())[:1] == ["callback"]:
                self._send(wire.frame(self._call_back(answer, failed)))
        except BaseException as error:  # or the next answer would be taken for another request's
            if self.is_lost is None:
                self.is_lost = Outcome.RAISED
                self.why = f"{_said_of(error)}, when the program called the checks"
            raise
        if failed and any(each is not self._raised_again(answer) for each in failed):
            self.swallowed = self.swallowed or failed[0]
            raise self.swallowed
        return answer

    def _call_back(self, request: wire.Json, failed: list[Exception]) -> wire.Json:
        """Run a method of what was handed over; what there is to answer. What was raised by an
        assertion, or in one, is added to ``failed``.

        Raises:
            NotData: it cannot be told what that returned.
        """
        self.has_answered = True
        match request:
            case [_, handle, name, data, [*names]]:
                given = self._decode(data)
            case _:
                self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        if type(given) is not tuple or not all(type(each) is str for each in names):
            self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        if len(names) > len(given):
            self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        try:
            method = self._handed.method(handle, name)
        except LookupError as error:
            self._lose(Outcome.RAISED, f"{OUT_OF_PROTOCOL}: {error}")
        num_positional = len(given) - len(names)
        by_name = dict(zip(names, given[num_positional:], strict=True))
        self._num_nested += 1
        try:
            result = method(*given[:num_positional], **by_name)
        except (NotData, wire.Unsendable):
            raise
        except Exception as error:  # noqa: BLE001 - the program is told, as its own call would
            answer = self._thrown(error)
            if _is_failure(error) or _arose_in_assertion(error, self.source):
                failed[:] = [*failed[:1], error]  # two are enough to tell
        else:
            answer = ["returned", self._encode(result)]
            after = self._encode(given)
            if wire.dump(after) != wire.dump(data):
                answer.append(after)
        finally:
            self._num_nested -= 1
        if self.is_lost is not None:  # whatever the checks made of that
            raise ProgramLost(self.why)
        return answer

    def _thrown(self, error: Exception) -> wire.Json:
        """What the program is told of an error: its own by its key."""
        number = self._handed.keep_error(error)
        key = faults.key_of(error)
        if isinstance(error, AssertionError) and key is None:  # may say what is expected
            return ["threw", number, self._handed.kinds_of(error), "", []]
        kinds = self._handed.kinds_of(error)
        told = number, kinds, text_of(error), [*plain_arguments(error)]
        if key is not None:
            return ["threw", *told, key]
        return ["threw", *told, self._encode(attributes_of(error))]

    def _raised_again(self, answer: wire.Json) -> BaseException | None:
        """The checks' own error that the program let through, if that is its answer."""
        match answer:
            case ["raised again", int(number), *_] if type(number) is int:
                try:
                    return self._handed.error(number)
                except LookupError as error:
                    self._lose(Outcome.RAISED, f"{OUT_OF_PROTOCOL}: {error}")
        return None

    def _error(self, answer: wire.Json, *, may_stop: bool) -> BaseException:
        """What the program raised, as it is to be raised here."""
        own = self._raised_again(answer)
        if own is not None and (may_stop or not isinstance(own, _STOPS)):
            return own
        kind, key = None, 0
        match answer:
            case ["raised", [*kinds], str(said), str(name), str(detail), *given]:
                pass
            case ["raised again", _, [*kinds], str(said), str(name), str(detail), *given]:
                pass
            case ["raised own", described, int(key), [*kinds], str(said), str(name), str(detail),
                  *given] if type(key) is int:  # fmt: skip
                decoders = {"error": self._error_class, "given": self._handed.find}
                kind = self._decode(described, decoders)
            case _:
                self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        if any(type(each) is list for each in given):
            self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        is_stop = any(each.__name__ in kinds for each in _STOPS)
        if type(kind) is faults.ErrorKind and not (is_stop and may_stop):
            error = self._objects.get(key)
            if type(error) is not kind:
                error = faults.make(kind, key, said, given)
                self._objects.setdefault(key, error)
            assert isinstance(error, Exception)
        else:
            error = as_builtin(kinds, said, given)
        if isinstance(error, _STOPS) and not may_stop:
            # As from a generator (PEP 479): `all(map(f, cases))` would end there, and hold.
            error = RuntimeError(f"the program raised {type(error).__name__}")
        setattr(error, TOLD, _Told(name, detail))
        return error

    def _error_class(self, parts: list[Any]) -> Any:
        """The stand-in for a class of errors, or an object's where that would be too many.

        Raises:
            ValueError, TypeError: it is not described as one.
        """
        key, name, module, *bases = parts
        if type(key) is not int or type(name) is not str or type(module) is not str:
            raise ValueError("no class of errors")
        if (known := self._kinds.get(key)) is not None:
            return known
        if module == "builtins":
            found = faults.known_base(name, module)
            # Not where an assertion of the checks' own could be taken for the program's error.
            harmless = found not in (None, Exception, AssertionError)
            return found if harmless else self._resolve(key, name)
        if len(self._kinds) >= faults.MAX_CLASSES:
            return self._resolve(key, name)
        above = [faults.known_base(name, module)]
        if (own := self._own_class(name, Exception)) is not None:
            above = [own]
        elif above == [None]:
            above = [_base(each) for each in bases]
        made = faults.make_class(self, key, name[:100], [each for each in above if each])
        self._kinds[key] = made
        self._objects[key] = made
        return made

    def _named_tuple(self, parts: list[Any]) -> object:
        """A tuple with the names that the program has for its fields, of the checks' own class if
        they have one.

        Raises:
            ValueError: it is not described as one.
        """
        known: Any = self._tuples.get((*parts[:2],))
        if known is not None and len(known._fields) == len(parts) - 2:
            return tuple.__new__(known, parts[2:])
        name, fields, values = wire.named_parts(parts)
        if len(self._tuples) >= _MAX_TUPLE_CLASSES:
            return values
        kind: Any = self._own_class(name, tuple)
        # Else what it equals would be for the program to say, by what it has in its fields.
        is_plain = kind is not None and wire.compares_alike(kind, tuple)
        if not is_plain or getattr(kind, "_fields", None) != fields:
            kind = wire.tuple_class(name, fields)
        self._tuples[name, parts[1]] = kind
        return tuple.__new__(kind, values)

    def _own_class(self, name: str, above: type) -> Any:
        """The class that the checks define by that name, as where both have it of the prompt."""
        found = self.names.get(name)
        is_one = type(found) is type and issubclass(found, above)
        return found if is_one and found.__module__ == MODULE else None

    def _send(self, request: bytes) -> None:
        try:
            self._stream.sendall(request)
        except OSError:
            self._lose(Outcome.ENDED, _GONE)

    def _receive(self) -> wire.Json:
        try:
            message = wire.receive(self._stream)
        except wire.ProtocolError as error:
            self._lose(Outcome.RAISED, f"{OUT_OF_PROTOCOL}: {error}")
        if message is None:
            self._lose(Outcome.ENDED, _GONE)
        if type(message) is not list:
            self._lose(Outcome.RAISED, OUT_OF_PROTOCOL)
        return message

    def _encode(self, value: object) -> wire.Json:
        return wire.encode(value, self.refer)

    def _decode(self, data: wire.Json, others: Mapping[str, wire.Decoder] | None = None) -> Any:
        try:
            return wire.decode(data, self._resolve, 0, (others or self._decoders).get)
        except wire.ProtocolError as error:
            self._lose(Outcome.RAISED, f"{OUT_OF_PROTOCOL}: {error}")

    def refer(self, value: object) -> wire.Json:
        if type(value) is RemoteObject:
            return value._reference()
        if (key := faults.key_of(value)) is not None:
            return wire.reference(key, type(value).__name__)
        described = named.describe(value) or self._handed.describe(value)
        if described is None:
            raise NotData(f"the checks hand over a {type(value).__name__}, which is no plain data")
        return described

    def key_of(self, value: object) -> int | None:
        """What the program knows it by, if it stands for something of the program's."""
        return value._reference()[1] if type(value) is RemoteObject else faults.key_of(value)

    def _resolve(self, key: int, label: str) -> object:
        held = self._objects.get(key)
        if held is None:
            held = self._objects[key] = RemoteObject(self, key, label)
        return held

    def _lose(self, outcome: Outcome, why: str) -> NoReturn:
        self.is_lost, self.why = outcome, why
        raise ProgramLost(why)


class RemoteObject:
    """Stands for an object that stays in the program's process; equals nothing but itself.

    Calls, attributes, iteration and other questions that give nothing away are passed on. Operators
    are not: asked whether it equals what is expected, or to subtract it, the program would see it.
    Nor is conversion to a number: it could be another one each time that a check computes with it.
    Nor are attributes by which libraries ask for a protocol: some believe what they are told there,
    an address in memory included (``__array_interface__``).
    """

    __slots__ = ("__key", "__label", "__program")

    def __init__(self, program: Program, key: int, label: str) -> None:
        object.__setattr__(self, "_RemoteObject__program", program)
        object.__setattr__(self, "_RemoteObject__key", key)
        object.__setattr__(self, "_RemoteObject__label", label)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """One that has the name of the program's, and is no other class."""
        return _class_called(self.__label[:100])

    def __call__(self, /, *positional: Any, **named: Any) -> Any:
        return self.__program.call(self.__key, self.__label, positional, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name.endswith("_") and name not in _TELLING:
            raise AttributeError(f"{name} is not asked of the program's {self.__label}", name=name)
        return self.__program.get_attribute(self.__key, name)

    def __setattr__(self, name: str, value: object) -> None:
        self.__program.set_attribute(self.__key, name, value)

    def __exit__(self, *error: object) -> None:
        """The program is not told of an error, which may say what is expected; nor may it swallow
        one, or put its own in its place: the assertions behind it would not be tried."""
        try:
            self.__program.special(self.__key, "__exit__", ())
        except Exception:
            if error[:1] == (None,):
                raise

    def __reduce_ex__(self, version: SupportsIndex) -> NoReturn:
        raise TypeError(f"the program's {self.__label} stays with it and cannot be copied")

    def _reference(self) -> wire.Json:
        return wire.reference(self.__key, self.__label)


@functools.lru_cache(maxsize=256)
def _class_called(name: str) -> type:
    return type(name if name.isidentifier() else "object", (), {})


def _special(method: str) -> Callable[..., Any]:
    def forward(self: RemoteObject, /, *operands: Any) -> Any:
        program: Program = self._RemoteObject__program
        return program.special(self._RemoteObject__key, method, operands)

    return forward


for _method in SPECIAL.keys() - {"__exit__"}:
    setattr(RemoteObject, _method, _special(_method))
# Or the class' own would be found first.
RemoteObject.__doc__ = property(lambda self: self.__getattr__("__doc__"))  # type: ignore[assignment]


class _Short(reprlib.Repr):
    """Never asks the program, nor fails, whatever the value."""

    def repr1(self, x: Any, level: int) -> str:
        # By its class: a program chooses names of classes, and what their objects say.
        if isinstance(x, tuple):
            return self.repr_tuple(x, level)
        if isinstance(x, BaseException | type):
            return f"<{getattr(x, '__name__', type(x).__name__)}>"
        return super().repr1(x, level)

    def repr_RemoteObject(self, value: RemoteObject, level: int) -> str:  # noqa: N802
        return f"<{value._reference()[2]}>"

    def repr_int(self, value: int, level: int) -> str:
        # Of more digits than the interpreter lets be written, repr() raises.
        if value.bit_length() > _MAX_SHOWN_BITS:
            return f"<an integer of {value.bit_length()} bits>"
        return super().repr_int(value, level)

    def repr_dict_keys(self, value: Iterable[object], level: int) -> str:
        return f"dict_keys({self.repr_list([*value], level)})"

    def repr_dict_items(self, value: Iterable[object], level: int) -> str:
        return f"dict_items({self.repr_list([*value], level)})"

    # Subclasses of dict may hold objects of the program's too.
    repr_Counter = repr_OrderedDict = repr_defaultdict = reprlib.Repr.repr_dict

    def repr_instance(self, value: object, level: int) -> str:
        try:
            # Where it is in memory would make a verdict another one each time.
            return re.sub(" at 0x[0-9a-f]+", "", super().repr_instance(value, level))
        except ValueError:  # an integer inside, as of a range
            return f"<a {type(value).__name__}>"


_SHORT: Final = _Short()
_SHORT.maxstring = _SHORT.maxother = 100


def _base(described: object) -> type | None:
    """A class of errors: a builtin one by its name, a stand-in, or one that was handed over."""
    if type(described) is str:
        return faults.known_base(described, "builtins")
    is_one = isinstance(described, type) and issubclass(described, Exception)
    return described if is_one else None  # type: ignore[return-value]


def _said_of(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
