"""Signals that ask a run to end: it finishes its step and keeps a checkpoint first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Of a scheduler or a container; of Ctrl-C; of Slurm's `--signal=USR1@…`."""


class EndAsked:
    """Whether somebody asked, and how."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None


@contextmanager
def asked_to_end() -> Iterator[EndAsked]:
    """Notes such signals while the block runs, instead of dying of them.

    A second SIGINT does what it always does. Outside the main thread, where Python takes no
    signals, nothing is noted.
    """
    asked = EndAsked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked.by is not None:
            raise KeyboardInterrupt
        asked.by = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in ASKING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
