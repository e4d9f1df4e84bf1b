"""Anonymous memory that the harness shares with a sample: what to run, what came of it."""

import contextlib
import json
import os
from typing import Any, Final

from sandbox import wire
from sandbox.limits import Limits

with contextlib.suppress(ImportError):  # on Windows, where the package can only say so
    import fcntl

_NOTE_BYTES: Final = 1 << 16
TAIL_BYTES: Final = 4096
_SPARE_BYTES: Final = 1 << 16
# Answers beyond this are given live. Nothing is taken that is not written to.
_ANSWERS_BYTES: Final = 32 << 20


class Scratch:
    """A file in memory. ``size`` is fixed; None lets whoever has it make it larger."""

    def __init__(self, name: str, size: int | None, content: bytes = b"") -> None:
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        written = 0
        while written < len(content):
            written += os.pwrite(self.descriptor, content[written:], written)
        if size is not None:
            os.ftruncate(self.descriptor, size)
            self._seal(fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    @classmethod
    def holding(cls, name: str, content: bytes) -> "Scratch":
        """Content that nobody can change any more."""
        scratch = cls(name, None, content)
        scratch.freeze()
        return scratch

    def freeze(self) -> None:
        """From now on nobody can change it, not even who has it already."""
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        self._seal(seals)

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self.descriptor, end - start, start) if end > start else b""

    def close(self) -> None:
        os.close(self.descriptor)

    def _seal(self, seals: int) -> None:
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)


class Output(Scratch):
    """Where a sample's standard output and error go: they share one position, which is its end."""

    def __init__(self, limits: Limits) -> None:
        # A write that would cross the end is refused, whole or from some page on: hence the spare.
        self._limit = limits.output_bytes
        self._most = limits.output_bytes + _SPARE_BYTES
        super().__init__("output", self._most)

    @property
    def end(self) -> int:
        """How much was written, as far as the sample left the position alone."""
        return min(max(0, os.lseek(self.descriptor, 0, os.SEEK_CUR)), self._most)

    @property
    def is_too_much(self) -> bool:
        return self.end > self._limit

    def head(self) -> str:
        return self.read(0, min(self.end, TAIL_BYTES)).decode("utf-8", "replace")

    def tail(self) -> str:
        return self.read(max(0, self.end - TAIL_BYTES), self.end).decode("utf-8", "replace")

    def content(self) -> bytes:
        return self.read(0, min(self.end, self._limit))


class Note(Scratch):
    """Where a sample's last words go: a JSON object, padded with zeros."""

    def __init__(self) -> None:
        super().__init__("note", _NOTE_BYTES)

    def content(self) -> dict[str, Any]:
        """The object, or an empty one where there is none."""
        try:
            content = json.loads(self.read(0, self.size).rstrip(b"\0"))
        except (ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def orders(*content: wire.Json) -> Scratch:
    """What a sample is to run, or a desk to check."""
    return Scratch.holding("orders", wire.dump(content))


def answers() -> Scratch:
    """Where a sample's answers to recorded calls go."""
    return Scratch("answers", _ANSWERS_BYTES)
