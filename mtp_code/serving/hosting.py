"""Where the engine runs: apart from the event loop, in a process of its own.

Of one process Python runs one thread at a time, so that beside an event loop the engine would stand
still for whatever HTTP takes. Apart, they meet in a connection: requests and what is given up go
one way, all that a step brought comes back in one message.
"""

import logging
import multiprocessing
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from mtp_code.decoding.requests import Completion, Request, TokenLogprobs
from mtp_code.devices import DeviceName, DtypeName
from mtp_code.errors import InputError, MachineError
from mtp_code.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is the engine's process's alone
    from mtp_code.decoding.engine import Engine, NumDrafts

logger = logging.getLogger(__name__)

_START_METHOD: Final = "spawn"  # threads of torch do not survive a fork
_END_S: Final = 10.0
"""For an engine to end the step that it is in."""


class Asked(NamedTuple):
    """An answer that is wanted; the number is its asker's."""

    number: int
    request: Request
    wants_pieces: bool
    """Else the whole answer comes as one, which takes less."""


class Dropped(NamedTuple):
    """An answer that nobody wants any more."""

    number: int


class Ended(NamedTuple):
    """How an answer ended, and what it took. Times are of the machine's monotonic clock."""

    by: Literal["end of text", "stop", "length"]
    num_generated: int
    """Tokens, an end of text included."""
    drafted: Sequence[int]
    accepted: Sequence[int]
    started_s: float
    """When it got a row."""
    first_token_s: float


class Told(NamedTuple):
    """What is new of an answer."""

    number: int
    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    ended: Ended | None = None
    refusal: str | None = None
    """Why there will be none: what is wrong with the request."""
    failure: str | None = None
    """Why there will be no more: what the machine lacks."""


@dataclass(frozen=True)
class Host:
    """An engine that runs elsewhere, as the event loop knows it.

    `connection` takes lists of `Asked` and `Dropped`; lists of `Told` come back, and None, or its
    end, where the engine has failed.
    """

    tokenizer: Tokenizer
    context: int
    num_rows: int
    max_drafts: int
    connection: Connection


@contextmanager
def in_thread(engine: "Engine") -> Iterator[Host]:
    """An engine of this process, which answers until the context ends."""
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=answer, args=(engine, there), name="engine", daemon=True)
    thread.start()
    try:
        yield Host(*_described(engine), here)
    finally:
        here.close()
        thread.join(_END_S)


@contextmanager
def in_process(
    folder: Path,
    num_rows: int,
    num_drafts: "NumDrafts",
    num_threads: int,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    *,
    prepare: Callable[[], None],
) -> Iterator[Callable[[], Host]]:
    """A process that begins to load an engine, and ends with the context.

    Args:
        prepare: a function of a module, called in the process before all else, as for its logs.

    Yields:
        What waits until it is loaded. It raises what `Engine.load` does; MachineError where the
        process was killed; RuntimeError where it failed, and said why.
    """
    context = multiprocessing.get_context(_START_METHOD)
    here, there = context.Pipe()
    settings = (there, folder, num_rows, num_drafts, num_threads, device, dtype, prepare)
    process = context.Process(target=_load_and_answer, args=settings, name="engine")
    process.start()
    there.close()  # so that the process's end is the end of the connection
    try:
        yield lambda: _when_loaded(here, process)
    except BaseException:
        process.kill()
        raise
    finally:
        here.close()
        process.join(_END_S)
        if process.is_alive():
            process.kill()
            process.join()


def _when_loaded(connection: Connection, process: BaseProcess) -> Host:
    try:
        found = connection.recv()
    except EOFError:
        process.join()
        assert process.exitcode is not None
        if process.exitcode < 0:
            raise MachineError(
                f"the process that loads the model was ended by signal {-process.exitcode}; "
                "memory may have run out"
            ) from None
        raise RuntimeError("the process that loads the model failed, as it says above") from None
    if isinstance(found, Exception):
        raise found
    tokenizer, context, num_rows, max_drafts = found
    return Host(tokenizer, context, num_rows, max_drafts, connection)


def _load_and_answer(
    connection: Connection,
    folder: Path,
    num_rows: int,
    num_drafts: "NumDrafts",
    num_threads: int,
    device: DeviceName,
    dtype: DtypeName,
    prepare: Callable[[], None],
) -> None:
    # Whoever ends a whole group of processes means the server, which lets live requests finish
    # and then closes the connection; so does its death.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prepare()
    import torch

    from mtp_code.decoding.engine import Engine

    torch.set_num_threads(num_threads)
    try:
        engine = Engine.load(folder, num_rows, num_drafts, device=device, dtype=dtype)
    except (InputError, MachineError, OSError) as error:
        connection.send(error)
        return
    connection.send(_described(engine))
    answer(engine, connection)


def _described(engine: "Engine") -> tuple[Tokenizer, int, int, int]:
    return engine.tokenizer, engine.model.config.context, engine.num_rows, engine.max_drafts


def answer(engine: "Engine", connection: Connection) -> None:
    """Answers what comes down a connection, until that is closed or the engine fails."""
    import torch

    # What was set for other threads binds ATen here, but not the BLAS below it.
    torch.set_num_threads(torch.get_num_threads())
    desk = Desk(engine)
    # Read on while the engine is in a step, or who asks would wait for its end.
    come: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, come), daemon=True).start()
    try:
        while (messages := _all_of(come, waits=not desk.has_work)) is not None:
            told = desk.take(messages) + desk.step()
            if told:
                try:
                    send(connection, told)
                except OSError:
                    return  # nobody listens any more
    except Exception:  # whatever it is, nobody may be left waiting
        logger.exception("the engine failed; restart the server")
        with suppress(OSError):
            connection.send(None)


def send(connection: Connection, messages: Sequence[Asked | Dropped] | Sequence[Told]) -> None:
    """As the connection's own `send`, which takes four times as long: it can hand over more."""
    connection.send_bytes(pickle.dumps(messages))


def _receive(connection: Connection, come: "SimpleQueue[Any]") -> None:
    try:
        while True:
            for message in connection.recv():
                come.put(message)
    except (EOFError, OSError):
        come.put(None)


def _all_of(come: "SimpleQueue[Any]", waits: bool) -> list[Any] | None:
    """Messages that are there, or None if there will be no more.

    Args:
        waits: for the first.
    """
    messages: list[Any] = []
    try:
        while True:
            message = come.get(block=waits and not messages)
            if message is None:
                return None
            messages.append(message)
    except Empty:
        return messages


@dataclass
class _Live:
    """An answer that has a row."""

    asked: Asked
    started_s: float
    first_token_s: float | None = None


class Desk:
    """Gives an engine as many requests as it has rows, first come first served."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._waiting: deque[Asked] = deque()
        self._live: dict[int, _Live] = {}  # by the engine's number

    @property
    def has_work(self) -> bool:
        return bool(self._live or self._waiting)

    def take(self, messages: Iterable[Asked | Dropped]) -> list[Told]:
        """Takes messages, and gives free rows away; what is refused thereby."""
        for message in messages:
            if isinstance(message, Asked):
                self._waiting.append(message)
            else:
                self._drop(message.number)
        refused = []
        while self._waiting and len(self._live) < self._engine.num_rows:
            asked = self._waiting.popleft()
            try:
                self._live[self._engine.submit(asked.request)] = _Live(asked, time.monotonic())
            except InputError as error:  # this one's; the others go on
                refused.append(Told(asked.number, refusal=str(error)))
        return refused

    def step(self) -> list[Told]:
        """One of the engine's; what it brought."""
        if not self._live:
            return []
        told = []
        for event in self._engine.step():
            live = self._live[event.id]
            if live.first_token_s is None:
                live.first_token_s = time.monotonic()
            if event.completion is not None and event.completion.error is not None:
                del self._live[event.id]
                told.append(Told(live.asked.number, failure=event.completion.error))
            elif event.completion is not None:
                del self._live[event.id]
                told.append(_last(live, event.tokens, event.logprobs, event.completion))
            elif live.asked.wants_pieces:
                told.append(Told(live.asked.number, event.tokens, event.logprobs or ()))
        return told

    def _drop(self, number: int) -> None:
        for asked in self._waiting:
            if asked.number == number:
                self._waiting.remove(asked)
                return
        for id_, live in self._live.items():
            if live.asked.number == number:
                self._engine.cancel(id_)
                del self._live[id_]
                return


def _last(
    live: _Live,
    newest: Sequence[int],
    logprobs: Sequence[TokenLogprobs] | None,
    done: Completion,
) -> Told:
    if not live.asked.wants_pieces:
        newest, logprobs = done.tokens, done.logprobs
    assert done.ended_by is not None
    assert live.first_token_s is not None
    ended = Ended(
        done.ended_by, done.num_committed, done.drafted, done.accepted,
        live.started_s, live.first_token_s,
    )  # fmt: skip
    return Told(live.asked.number, newest, logprobs or (), ended)
