"""Rows of JSON Lines files that anybody may have written, plain or gzipped, each with its place."""

from __future__ import annotations

import codecs
import gzip
import json
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from evals.errors import CutOffError, RecordError

# A gzip file of kilobytes may hold gigabytes: what no file of records needs is not waited for.
_MOST_LINE_BYTES: Final = 512 << 20  # APPS has lines of a hundred MB
_MOST_BLANK_LINES: Final = 1_000_000
_MOST_ROWS: Final = 1_000_000


class FileRow(dict[str, Any]):
    """A row of a file that knows its place there, "file:line", for whoever finds fault with it."""

    def __init__(self, where: str, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.where = where


class LongInteger:
    """Stands for a whole number of more digits than Python reads; no field takes one."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __repr__(self) -> str:
        return f"<a number of {len(self.digits)} digits>"


def _integer(digits: str) -> int | LongInteger:
    try:
        return int(digits)
    except ValueError:
        return LongInteger(digits)


def read_rows(
    path: Path, keep: Callable[[dict[str, Any]], bool] = lambda row: True
) -> list[FileRow]:
    """The rows of a JSON Lines file, gzipped or not, that are to be kept.

    Raises:
        RecordError: the file cannot be read, or a line of it, or they are too many to be held.
    """
    rows = []
    for where, row in rows_of(path):
        if keep(row):
            rows.append(FileRow(where, row))
        if len(rows) > _MOST_ROWS:
            raise RecordError(f"{where}: more than {_MOST_ROWS:,} rows; split the file")
    return rows


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place ("file:line") and JSON object; blank lines are passed over.

    Raises:
        CutOffError: the last line is broken and has no end, as of a writer that was stopped; all
            lines before it have been yielded.
        RecordError: another line is broken, or the file cannot be read.
    """
    for where, line in _lines(path):
        try:
            row = _parsed(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            broken = f"{where}: not JSON ({error})"
            if isinstance(error, UnicodeDecodeError):
                broken = f"{where}: not UTF-8 text (byte {error.start + 1} of the line)"
            if not line.endswith(b"\n"):  # so it is the last
                raise CutOffError(broken) from None
            raise RecordError(f"{broken}; expected one JSON object a line") from None
        if not isinstance(row, dict):
            raise RecordError(f"{where}: {type(row).__name__}; expected one JSON object a line")
        yield where, row


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # no JSON, or numbers that want the slower way, by a call for each
        return json.loads(text, parse_int=_integer)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of each line that is not blank, without a byte order mark."""
    number = num_blank = 0
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # Opening a pipe could wait forever; and the files here are read several times.
            raise RecordError(f"{path}: no regular file; write it to one first")
        with path.open("rb") as plain:
            # By its magic number: a name is easily wrong.
            is_gzip = plain.peek(2)[:2] == b"\x1f\x8b"
            file = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            while line := file.readline(_MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > _MOST_LINE_BYTES:
                    raise RecordError(
                        f"{path}:{number}: longer than {_MOST_LINE_BYTES >> 20} MiB; expected JSON "
                        "Lines, one record a line"
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    num_blank = 0
                    yield f"{path}:{number}", line
                elif (num_blank := num_blank + 1) > _MOST_BLANK_LINES:
                    raise RecordError(
                        f"{path}:{number}: more than {_MOST_BLANK_LINES:,} blank lines in a row; "
                        "leave them out"
                    )
    except EOFError:
        raise CutOffError(f"{path}:{number + 1}: the gzip file ends early") from None
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"broken gzip file ({error})"
        raise RecordError(f"{path}: {reason}; expected JSON Lines, plain or gzip") from None
