"""The program's side, inside the room: run it, then answer the calls that the checks make of it.

Nothing here decides anything. The program shares this process, and may make it answer whatever it
likes; what it cannot do is see or touch the checks that its answers are compared with.
"""

import atexit
import contextlib
import errno
import gc
import json
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn

from sandbox import wire

FILE_NAME: Final = "program.py"
MODULE: Final = "program"
_MAX_SAID: Final = 1000  # of an error
_MAX_ARGUMENTS: Final = 8
_MAX_BITS: Final = 64
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
    # The checks are through, or know that there is nothing to call. What is left is to be killed.
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

    def answer(self, requests: Iterable[wire.Json], *, until_raised: bool = False) -> bool:
        """Answer all of them, or up to one that raised something; whether it was all."""
        for message in requests:
            raised = False
            try:
                answer = self._answer(message)
            except SystemExit as exit_:
                leave(exit_code(exit_))
            except BaseException as error:  # noqa: BLE001 - it belongs to the checks
                answer, raised = self._raised(error), True
            try:
                wire.send(self._stream, answer)
            except wire.Unsendable as error:
                wire.send(self._stream, self._raised(error))
                raised = True
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
                return ["value", self._encode(found)]
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
            after = self._encode(given)
            if wire.dump(after) != before:
                answer.append(after)
        return answer

    def _encode(self, value: object) -> wire.Json:
        return wire.encode(value, self._refer)

    def _decode(self, data: wire.Json) -> Any:
        return wire.decode(data, self._resolve)

    def _resolve(self, key: int, label: str) -> object:
        return self._held[key]

    def _refer(self, value: object) -> wire.Json:
        if (plain := _plain_number(value)) is not None:
            return self._encode(plain)
        key = self._keys.get(id(value))
        if key is None:
            key = self._keys[id(value)] = len(self._held)
            self._held.append(value)  # and so its id stays its own
        return wire.reference(key, type(value).__name__[:100])

    def _raised(self, error: BaseException) -> wire.Json:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        said = _text_of(error)[:_MAX_SAID], kind_of(error), describe(error)
        return ["raised", kinds, *said, *_plain_arguments(error)]


def _plain_arguments(error: BaseException) -> tuple[wire.Json, ...]:
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
    text = f"{type(error).__name__}: {_text_of(error)}"[:_MAX_SAID].removesuffix(": ")
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__, limit=-50)
        if frame.filename == FILE_NAME
    ]
    return f"{text} (line {lines[-1]})" if lines else text


def _text_of(error: BaseException) -> str:
    """What it says; nothing where that raises, as with a number of too many digits."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the program's own, and an error about an error
        return ""


def kind_of(error: BaseException) -> str:
    """What an uncaught error says about containment, else the name of its type."""
    if isinstance(error, MemoryError):
        return "MemoryError"
    if isinstance(error, PermissionError) and error.errno == errno.EPERM:
        return "EPERM"
    if isinstance(error, BlockingIOError) or "can't start new thread" in _text_of(error)[:100]:
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
