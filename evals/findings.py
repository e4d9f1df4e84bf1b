"""Findings by key, in a database file: kept as they come, found again by whoever asks later."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from evals.errors import InputError

_DAYS_KEPT: Final = 30
_MOST_BYTES: Final = 4 << 30  # of the file; beyond it, what was not used today goes
_LEAST_FREE_BYTES: Final = 1 << 16  # with less a database cannot go on
_BUSY_S: Final = 60.0  # for which another process may hold the file

_TODAY: Final = "CAST(julianday('now') AS INTEGER)"
_OPENING: Final = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    # What is written survives this process at once, and a power cut up to some rows.
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA temp_store = FILE",
    "CREATE TABLE IF NOT EXISTS findings"
    " (key BLOB PRIMARY KEY, finding TEXT NOT NULL, day INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TEMP TABLE transient (key BLOB PRIMARY KEY, finding TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TEMP TABLE wanted (key BLOB PRIMARY KEY) WITHOUT ROWID",
    f"DELETE FROM findings WHERE day < {_TODAY} - {_DAYS_KEPT}",
    f"DELETE FROM findings WHERE day < {_TODAY} AND (SELECT page_count * page_size"
    f" FROM pragma_page_count, pragma_page_size) > {_MOST_BYTES}",
    "PRAGMA incremental_vacuum",
)


class Findings:
    """What became of programs, and which of them are wanted now.

    A process that is killed loses none that it kept. Several processes may share a file: the first
    finding stands. Memory does not grow with their number: the wanted keys lie in a temporary file.
    Findings that nobody wanted for 30 days are thrown away.

    Raises:
        InputError: the file cannot be opened, or is no such database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"{path}: cannot be opened ({error}); mend that, or judge with --no-cache"
            ) from None
        try:
            for statement in _OPENING:
                self._execute(statement)
        except sqlite3.Error as error:
            self._database.close()
            raise InputError(
                f"{path}: no database of findings ({error}); delete it to begin anew"
            ) from None
        except OSError:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def __getitem__(self, key: bytes) -> dict[str, Any]:
        asked = self._execute(
            "SELECT finding FROM transient WHERE key = ? "
            "UNION ALL SELECT finding FROM findings WHERE key = ?",
            (key, key),
        )
        row = asked.fetchone()
        if row is None:
            raise KeyError(key)
        finding: dict[str, Any] = json.loads(row[0])
        return finding

    def keep(self, key: bytes, finding: dict[str, Any], *, is_transient: bool = False) -> None:
        """Keep it for good, or for this process only."""
        if is_transient:
            statement = "INSERT OR IGNORE INTO transient VALUES (?, ?)"
        else:
            statement = f"INSERT OR IGNORE INTO findings VALUES (?, ?, {_TODAY})"
        self._execute(statement, (key, json.dumps(finding)))

    def want(self, key: bytes) -> None:
        """Count the key among those wanted, unless its finding is known."""
        inserted = self._execute(
            "INSERT OR IGNORE INTO wanted SELECT ? "
            "WHERE NOT EXISTS (SELECT 1 FROM findings WHERE key = ?)"
            " AND NOT EXISTS (SELECT 1 FROM transient WHERE key = ?)",
            (key, key, key),
        )
        if inserted.rowcount == 0:
            self._execute(
                f"UPDATE findings SET day = {_TODAY} WHERE key = ? AND day < {_TODAY}", (key,)
            )

    @property
    def num_wanted(self) -> int:
        (count,) = self._execute("SELECT count(*) FROM wanted").fetchone()
        return int(count)

    def claim(self, key: bytes) -> bool:
        """Whether the key was wanted; from now on it is not."""
        return self._execute("DELETE FROM wanted WHERE key = ?", (key,)).rowcount == 1

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """
        Raises:
            OSError: as where a plain file could not be written or read.
        """
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise self._as_os_error(error) from None

    def _as_os_error(self, error: sqlite3.OperationalError) -> OSError:
        # What is mapped into memory meets a full disk as an error of input and output.
        is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL or (
            error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR
            and shutil.disk_usage(self.path.parent).free < _LEAST_FREE_BYTES
        )
        return OSError(errno.ENOSPC if is_full else errno.EIO, str(error), str(self.path))

    def remove(self) -> None:
        """Delete the file; nothing can be asked after that."""
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
