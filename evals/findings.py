"""Findings by key, in a database file: kept as they come, found again by whoever asks later."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from evals.errors import InputError

_DAYS_KEPT: Final = 30
_BUSY_S: Final = 60.0  # for which another process may hold the file

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS findings (
    key BLOB PRIMARY KEY, finding TEXT NOT NULL, day INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TEMP TABLE wanted (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""
_TODAY: Final = "CAST(julianday('now') AS INTEGER)"


class Findings:
    """What became of programs, and which of them are wanted now.

    A process that is killed loses none that it kept. Several processes may share a file. Memory
    does not grow with their number: the wanted keys lie in a temporary file. Findings are thrown
    away after 30 days.

    Raises:
        InputError: the file cannot be opened, or is no such database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{path}: cannot be opened ({error})") from None
        try:
            # What is written survives this process at once, and a power cut up to some rows.
            for setting in ("journal_mode = WAL", "synchronous = NORMAL", "temp_store = FILE"):
                self._database.execute(f"PRAGMA {setting}")
            self._database.executescript(_TABLES)
            self._database.execute(f"DELETE FROM findings WHERE day < {_TODAY} - {_DAYS_KEPT}")
        except sqlite3.Error as error:
            self._database.close()
            raise InputError(
                f"{path}: no database of findings ({error}); delete it to begin anew"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def __contains__(self, key: bytes) -> bool:
        asked = self._database.execute("SELECT 1 FROM findings WHERE key = ?", (key,))
        return asked.fetchone() is not None

    def __getitem__(self, key: bytes) -> dict[str, Any]:
        asked = self._database.execute("SELECT finding FROM findings WHERE key = ?", (key,))
        row = asked.fetchone()
        if row is None:
            raise KeyError(key)
        finding: dict[str, Any] = json.loads(row[0])
        return finding

    def keep(self, key: bytes, finding: dict[str, Any]) -> None:
        self._database.execute(
            f"INSERT OR REPLACE INTO findings VALUES (?, ?, {_TODAY})", (key, json.dumps(finding))
        )

    def want(self, key: bytes) -> None:
        """Count the key among those wanted, unless its finding is known."""
        self._database.execute(
            "INSERT OR IGNORE INTO wanted SELECT ?1 "
            "WHERE NOT EXISTS (SELECT 1 FROM findings WHERE key = ?1)",
            (key,),
        )

    @property
    def num_wanted(self) -> int:
        (count,) = self._database.execute("SELECT count(*) FROM wanted").fetchone()
        return int(count)

    def claim(self, key: bytes) -> bool:
        """Whether the key was wanted; from now on it is not."""
        return self._database.execute("DELETE FROM wanted WHERE key = ?", (key,)).rowcount == 1

    def remove(self) -> None:
        """Delete the file; nothing can be asked after that."""
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
