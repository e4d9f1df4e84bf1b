"""The program's side, inside the room: run it, then answer the calls that the checks make of it.

Nothing here decides anything. The program shares this process, and may make it answer whatever it
likes; what it cannot do is see or touch the checks that its answers are compared with.
"""

import atexit
import builtins
import contextlib
import errno
import gc
import json
import linecache
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn

from sandbox import given, named, wire
from sandbox.crossing import as_builtin, bare, kinds_of, plain_arguments, take_on, text_of

FILE_NAME: Final = "program.py"
MODULE: Final = "program"
_MAX_SAID: Final = 1000  # of an error
_PARTS_OF_MADE: Final = 3
_MAX_HELD: Final = 64  # of what was raised last
_MUTABLE: Final = frozenset(
    "list dict set bytearray deque Counter OrderedDict defaultdict".split()  # noqa: SIM905
)

# What a proxy may ask of an object beyond calling it and reading its attributes. No conversion to a
# number: an object could be another number each time that a check computes with it.
SPECIAL: Final[dict[str, Callable[..., object]]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__bool__": bool,
    "__str__": str,
    "__repr__": repr,
    "__getitem__": lambda held, key: held[key],
    "__setitem__": lambda held, key, value: held.__setitem__(key, value),
    "__delitem__": lambda held, key: held.__delitem__(key),
    "__delattr__": delattr,
    "__instancecheck__": lambda held, other: isinstance(other, held),
    "__subclasscheck__": lambda held, other: issubclass(other, held),
    "__enter__": lambda held: type(held).__enter__(held),
    "__exit__": lambda held: type(held).__exit__(held, None, None, None),
}


def run_program(
    source: str, note: int, *, files: dict[str, str] | None = None, argv: list[str] | None = None
) -> int:
    """Run a whole program as ``__main__``; its exit code. What it raised is told in ``note``.

    ``files`` are placed in the working folder first; their contents come in base 64.
    """
    _place(files or {})
    module = make_module("__main__", source)
    sys.argv += argv or []
    try:
        exec(compile(source, FILE_NAME, "exec", dont_inherit=True), module.__dict__)
        code = 0
    except SystemExit as exit_:
        code = exit_code(exit_)
    except BaseException as error:  # noqa: BLE001 - a traceback is what Python would print too
        code = 1
        os.pwrite(note, json.dumps({"raised": kind_of(error)}).encode(), 0)
        print_traceback(error)
    _end(module)
    return code


def _end(module: ModuleType) -> None:
    """As the interpreter ends: wait for threads, then let go of all that the program holds. Files
    that it left open, of standard output for one, are written by that."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush(sys.stdout, sys.stderr)  # while what stands in for them can still find its names
    module.__dict__.clear()
    gc.collect()
    _flush(sys.__stdout__, sys.__stderr__)


def _flush(*streams: Any) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # closed, or anything that a program made of it
            stream.flush()


def _place(files: dict[str, str]) -> None:
    if not files:
        return
    import base64  # a compression library comes with it, for every fork to map

    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def answer(source: str, stream: wire.Stream) -> None:
    """Run a program as a module, then answer calls to it as long as there are any."""
    if _load(source, stream):
        requests = iter(lambda: wire.receive(stream), None)
        _Server(stream, sys.modules[MODULE]).answer(requests)


def serve(source: str, stream: wire.Stream) -> NoReturn:
    """Run a program as a module, then answer calls to it until killed."""
    with contextlib.suppress(ConnectionError):
        answer(source, wire.ReadAhead(stream))
    wait_for_the_end()


def wait_for_the_end() -> NoReturn:
    """The checks are through, or know that there is nothing to call: all else is to be killed."""
    while True:
        threading.Event().wait()


def answer_recorded(source: str, files: wire.Files, *, goes_on: bool) -> None:
    """Run a program as a module, then answer the calls of a recording, up to one that raises.

    What checks make of an exception decides how they go on; the recording does not know. But those
    that count always go on: for them it ``goes_on``.
    """
    if _load(source, files):
        server, requests = _Server(files, sys.modules[MODULE]), files.messages()
        try:
            if not server.answer(requests, until_raised=True):
                files.cut()
                if goes_on:
                    server.answer(requests)
        except OSError:  # more answers than there is room for
            files.cut()


def _load(source: str, stream: wire.Stream) -> bool:
    """Run the program; whether it can be called now. The checks are told."""
    module = make_module(MODULE, source)
    try:
        exec(compile(source, FILE_NAME, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as exit_:
        leave(exit_code(exit_))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the checks are told
        print_traceback(error)
        flaw = "syntax error" if is_syntax_error(error) else "raised"
        wire.send(stream, ["broken", flaw, kind_of(error), describe(error)])
        return False
    wire.send(stream, ["ready"])
    return True


class _Server:
    """Answers one message at a time; keeps the objects that were referred to."""

    def __init__(self, stream: wire.Stream, module: ModuleType) -> None:
        self._stream = stream
        self._module = module
        self._held: list[object] = []
        self._keys: dict[int, int] = {}
        self._num_asked = 0  # what the checks wait for
        # None for most: each page of memory that is touched has to be copied.
        self._lent: _Lent | None = None
        self._raised_last: list[BaseException] | None = None

    def answer(self, requests: Iterable[wire.Json], *, until_raised: bool = False) -> bool:
        """Answer all of them, or up to one that raised something; whether it was all."""
        for message in requests:
            raised = False
            self._num_asked += 1
            try:
                answer = self._answer(message)
            except SystemExit as exit_:
                leave(exit_code(exit_))
            except BaseException as error:  # noqa: BLE001 - it belongs to the checks
                answer, raised = self._raised(error), True
            if self._lent is not None:  # no thread may be asking for something of the checks'
                self._lent.turn.acquire()
            self._num_asked -= 1
            try:
                wire.send(self._stream, answer)
            except wire.Unsendable as error:
                wire.send(self._stream, self._raised(error))
                raised = True
            if self._lent is not None:
                self._lent.turn.release()
            if raised and until_raised:
                return False
        return True

    def _answer(self, request: wire.Json) -> wire.Json:
        match request:
            case ["call", key, given, places, names]:
                return self._call(self._held[key], given, places, names)
            case ["names", names]:
                known = vars(self._module)
                # Each name's object is known by the name's place, so that calls can be recorded.
                self._held = [known.get(name) for name in names]
                places = range(len(names) - 1, -1, -1)
                self._keys = {id(self._held[place]): place for place in places}
                found = {name: known[name] for name in names if name in known}
                refer = self._refer
                for each in found.values():
                    if isinstance(each, type):
                        refer = self._refer_or_describe
                return ["value", wire.encode(found, refer)]
            case ["getattr", key, name]:
                return ["value", self._encode(getattr(self._held[key], name))]
            case ["setattr", key, name, value]:
                setattr(self._held[key], name, self._decode(value))
                return ["value", None]
            case ["special", key, method, *operands]:
                operation = SPECIAL[method]
                answer = operation(self._held[key], *map(self._decode, operands))
                return ["value", self._encode(answer)]
        raise wire.ProtocolError(f"unknown request {request[0]!r}")

    def _call(
        self, function: Any, data: wire.Json, places: list[int], names: list[str]
    ) -> wire.Json:
        """Call; where it changed its arguments, their new state goes with the answer.

        ``data`` holds each argument once, ``places`` the place therein of each one passed, those
        with ``names`` last.
        """
        given = self._decode(data)
        may_change = _holds_mutable(data)
        before = wire.dump(data) if may_change else b""
        arguments = [given[place] for place in places]
        num_positional = len(places) - len(names)
        named = dict(zip(names, arguments[num_positional:], strict=True))
        result = function(*arguments[:num_positional], **named)
        answer = ["value", self._encode(result)]
        if may_change:
            refer = self._refer if self._lent is None else self._refer_as_sent
            after = wire.encode(given, refer)
            if wire.dump(after) != before:
                answer.append(after if self._lent is None else self._encode(given))
        return answer

    def _ask(
        self, handle: int, method: str, positional: tuple[Any, ...], by_name: dict[str, Any]
    ) -> Any:
        """Use something of the checks', who wait for an answer of this program.

        Raises:
            Exception: what they raised.
            RuntimeError: they do not wait.
        """
        assert self._lent is not None
        with self._lent.turn:
            if not self._num_asked:
                raise RuntimeError("what the checks hand over can be used in calls of theirs only")
            passed = (*positional, *by_name.values())
            request = ["callback", handle, method, self._encode(passed), [*by_name]]
            wire.send(self._stream, request)
            while True:
                match wire.receive(self._stream):
                    case None:
                        wait_for_the_end()
                    case ["returned", result, *after]:
                        if after:
                            take_on(passed, self._decode(after[0]))
                        return self._decode(result)
                    case ["threw", number, kinds, said, given, *more]:
                        error = self._thrown(kinds, said, given, *more)
                        self._lent.told.append((error, number))
                        raise error
                    case request:
                        self.answer((request,))

    def _thrown(
        self, kinds: list[Any], said: str, given: list[Any], more: wire.Json = None
    ) -> BaseException:
        """What the checks raised: one of the program's by its key; else of the nearest class that
        there is, by the name that it has in the program, or handle. ``more`` is that key, or what
        attributes it has."""
        if type(more) is int:
            held = self._held[more]
            return held if isinstance(held, BaseException) else as_builtin(kinds, said, given)
        assert self._lent is not None
        for name in kinds:
            if name in vars(builtins):
                break
            by_handle = type(name) is int
            kind = self._lent.given[name] if by_handle else vars(self._module).get(name)
            if isinstance(kind, type) and issubclass(kind, Exception):
                error = bare(kind, said, given)
                vars(error).update(self._decode(more) or {})
                return error
        return as_builtin(kinds, said, given)

    def _encode(self, value: object) -> wire.Json:
        return wire.encode(value, self._refer)

    def _decode(self, data: wire.Json) -> Any:
        return wire.decode(data, self._resolve, 0, self._decoder)

    def _resolve(self, key: int, label: str) -> object:
        return self._held[key]

    def _refer(self, value: object) -> wire.Json:
        if (plain := _plain_number(value)) is not None:
            return self._encode(plain)
        if self._lent is not None and (data := self._lent.of_checks(value)) is not None:
            return data
        key = self._keys.get(id(value))
        if key is None:
            key = self._keys[id(value)] = len(self._held)
            self._held.append(value)  # and so its id stays its own
        return wire.reference(key, type(value).__name__[:100])

    def _refer_as_sent(self, value: object) -> wire.Json:
        """As `_refer`, but what was sent by name is told by that."""
        assert self._lent is not None
        sent = self._lent.sent_as.get(id(value))
        return self._refer(value) if sent is None else sent[1]

    def _refer_or_describe(self, value: object) -> wire.Json:
        """As `_refer`, but classes of errors are described."""
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        return self._describe_class(value) if is_error else self._refer(value)

    def _describe_class(self, kind: Any) -> wire.Json:
        """A class of errors: key, name, module, and its bases unless it is a builtin one."""
        key, name = self._key_of(kind), kind.__name__[:100]
        if _is_builtin(kind):
            return ["error", key, name, "builtins"]
        of_checks = self._lent and self._lent.of_checks(kind)
        bases = [each for each in kind.__bases__ if issubclass(each, BaseException)]
        told = [e.__name__ if _is_builtin(e) else self._describe_class(e) for e in bases]
        return [
            "error",
            key,
            name,
            str(kind.__module__)[:100],
            *([of_checks] if of_checks else told),
        ]

    def _key_of(self, value: object) -> int:
        if id(value) not in self._keys:
            self._keys[id(value)] = len(self._held)
            self._held.append(value)
        return self._keys[id(value)]

    def _decoder(self, tag: str) -> wire.Decoder | None:
        """Of tags that only the checks send, or whose values are of the program's classes."""
        if tag == "namedtuple":
            return self._named_tuple
        if self._lent is None:
            self._lent = _Lent(self._ask)
        return self._lent.decoders.get(tag)

    def _named_tuple(self, parts: list[Any]) -> object:
        """Of the program's own class, if it is one; else of a class that is like it."""
        name, fields, values = wire.named_parts(parts)
        kind: Any = vars(self._module).get(name)
        if not (isinstance(kind, type) and issubclass(kind, tuple)):
            kind = None
        if getattr(kind, "_fields", None) != fields:
            kind = wire.tuple_class(name, fields)
        return tuple.__new__(kind, values)

    def _raised(self, error: BaseException) -> wire.Json:
        told = kinds_of(error), text_of(error), kind_of(error), describe(error)
        number = None if self._lent is None else self._lent.number_of(error)
        if number is not None:
            return ["raised again", number, *told, *plain_arguments(error)]
        if _is_builtin(type(error)):
            return ["raised", *told, *plain_arguments(error)]
        described = self._describe_class(type(error))
        return ["raised own", described, self._hold(error), *told, *plain_arguments(error)]

    def _hold(self, error: BaseException) -> int:
        """Its key, for as long as it is one of the last ones: it holds all that its frames did."""
        self._raised_last = self._raised_last or []
        if id(error) not in self._keys:
            self._raised_last.append(error)
            if len(self._raised_last) > _MAX_HELD:
                gone = self._raised_last.pop(0)
                self._held[self._keys.pop(id(gone))] = None
        return self._key_of(error)


class _Lent:
    """What came from the checks, and stays with them."""

    def __init__(self, ask: given.Ask) -> None:
        # Threads of the program may all ask for something, while the checks wait for an answer.
        self.turn = threading.RLock()
        self.given: dict[int, object] = {}  # stand-ins, by handle
        self.sent_as: dict[int, tuple[object, wire.Json]] = {}  # by identity
        # Errors that the checks raised when they were asked, and the numbers that these have there.
        self.told: deque[tuple[BaseException, int]] = deque(maxlen=_MAX_HELD)
        self.decoders: dict[str, wire.Decoder] = {
            "given": self._stand_in,
            "named": self._named,
            "made": self._named,
        }
        self._ask = ask

    def of_checks(self, value: object) -> wire.Json | None:
        """What it was sent as, if it stands for something that stays with the checks."""
        sent = self.sent_as.get(id(value))
        return sent[1] if sent is not None and sent[1][0] == "given" else None

    def number_of(self, error: BaseException) -> int | None:
        """None where it is not one that the checks raised."""
        return next((number for known, number in self.told if known is error), None)

    def _stand_in(self, parts: list[Any]) -> object:
        found = self.given.get(parts[0])
        if found is None:
            found = self.given[parts[0]] = given.stand_in(parts, self._ask)
            self.sent_as[id(found)] = found, ["given", *parts]
        return found

    def _named(self, parts: list[Any]) -> object:
        """What goes by its name here, too."""
        is_made = len(parts) == _PARTS_OF_MADE
        found = named.DECODERS["made" if is_made else "named"](parts)
        if (described := named.describe(found)) is not None:
            self.sent_as[id(found)] = found, described
        return found


def _is_builtin(kind: type) -> bool:
    return vars(builtins).get(kind.__name__) is kind


def _plain_number(value: Any) -> object:
    """The number (or truth, or text) that a scalar of numpy's stands for; None for all else."""
    if any(
        kind.__name__ == "generic" and kind.__module__ == "numpy" for kind in type(value).__mro__
    ):
        plain = value.item()
        return plain if type(plain) in (bool, int, float, complex, str, bytes) else None
    return None


def _holds_mutable(data: wire.Json) -> bool:
    return type(data) is list and (data[0] in _MUTABLE or any(map(_holds_mutable, data[1:])))


def make_module(name: str, source: str) -> ModuleType:
    """A module as the program should find it, with its source where tracebacks look for it."""
    linecache.cache[FILE_NAME] = (len(source), None, source.splitlines(keepends=True), FILE_NAME)
    module = ModuleType(name)
    module.__file__ = FILE_NAME
    sys.modules[name] = module
    sys.argv = [FILE_NAME]
    return module


def describe(error: BaseException) -> str:
    """The error, with the line of the program where it arose."""
    if isinstance(error, SyntaxError) and error.filename == FILE_NAME:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    text = f"{type(error).__name__}: {text_of(error)}"[:_MAX_SAID].removesuffix(": ")
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__, limit=-50)
        if frame.filename == FILE_NAME
    ]
    return f"{text} (line {lines[-1]})" if lines else text


def kind_of(error: BaseException) -> str:
    """What an uncaught error says about containment, else the name of its type."""
    if isinstance(error, MemoryError):
        return "MemoryError"
    if isinstance(error, PermissionError) and error.errno == errno.EPERM:
        return "EPERM"
    if isinstance(error, BlockingIOError) or "can't start new thread" in text_of(error)[:100]:
        return "EAGAIN"
    return type(error).__name__[:100]


def is_syntax_error(error: BaseException) -> bool:
    """Whether the program itself could not be compiled: not what it compiled or parsed later."""
    frames: TracebackType | None = error.__traceback__
    return (
        isinstance(error, SyntaxError | ValueError)
        and frames is not None
        and frames.tb_next is None
    )


def print_traceback(error: BaseException) -> None:
    """To standard error, from the program's first frame on."""
    own = error.__traceback__
    sys.stdout.flush()
    traceback.print_exception(type(error), error, own.tb_next if own else None)
    sys.stderr.flush()


def exit_code(exit_: SystemExit) -> int:
    """As the interpreter has it: none is 0, an integer is itself, all else is printed and 1."""
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code & 0xFF
    sys.stderr.write(f"{exit_.code}\n")
    return 1


def leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
