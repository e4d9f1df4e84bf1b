"""Files that are never half-written: whole ones by rename, growing ones line by line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from evals.errors import InputError, RecordError

Progress = Callable[[int, int], None]  # done so far, in all


@contextlib.contextmanager
def _told_of(path: Path, aside: Path | None = None) -> Iterator[None]:
    """What goes wrong is told of by the name that was asked for.

    A write to a full disk names no file, and whoever writes aside knows nothing of that.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or error.filename == str(aside):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes `path`'s place when the block ends well, and leaves it alone otherwise.

    What killed processes left of such files is removed.

    Raises:
        InputError: `path` is no file that could be replaced.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with _told_of(path, aside), _held(aside) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def require_replaceable(path: Path) -> None:
    """See to it that a file may take `path`'s place, best before there is anything to be lost.

    Root would put one in the place of /dev/null, for every program on the machine.

    Raises:
        InputError: something is there that is no regular file, or it stands for an open one, or
            nothing may be written there.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file in it")
    if (path.exists() and not path.is_file()) or _stands_for_an_open_file(path):
        raise InputError(
            f"{path}: a file would take its place, and it is no regular file; name one, in /tmp if "
            "nobody needs it"
        )
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir():
        raise InputError(f"{path}: {folder} is a file; name a place in a folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: {folder} cannot be written to; name a place that can")


def require_near(path: Path) -> None:
    """See to it that no folder but the file's own has to be made for it.

    Where more are missing a name was most likely mistyped.

    Raises:
        InputError: they are, or no file may take `path`'s place.
    """
    require_replaceable(path)
    above = path.absolute().parent.parent
    if not above.exists():
        raise InputError(f"{path}: there is no {above}; make that folder, or name another place")


def _stands_for_an_open_file(path: Path) -> bool:
    """As /dev/stdout and /dev/fd/3 do: their place is in /proc."""
    places = [path, path.parent / path.readlink()] if path.is_symlink() else [path]
    return any(place.parent.resolve().is_relative_to("/proc") for place in places)


def _held(aside: Path) -> IO[bytes]:
    """The file, empty and locked: nobody else takes it for a leftover."""
    while True:
        file = aside.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # removed as a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*.aside"):
        # Not there any more, being written, or another user's: no leftover of ours.
        gone_or_taken = FileNotFoundError, BlockingIOError, PermissionError
        with contextlib.suppress(*gone_or_taken), aside.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside.unlink()


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keeps other processes of this machine from writing `path` in the meantime.

    Raises:
        InputError: another process is writing it, or it is no file that could be replaced.
    """
    require_replaceable(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    except BlockingIOError:
        raise InputError(
            f"{path}: another process is writing it; wait for it, or choose another file"
        ) from None
    except OSError as error:
        error.filename = str(path)
        raise
    with file:
        try:
            yield
        finally:
            lock.unlink()


def _locked(path: Path) -> IO[bytes]:
    while True:
        file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink > 0:
            return file
        file.close()  # who held it before has removed it


def cache_folder() -> Path:
    """Where what can be found out anew is kept: as other programs of this user have it."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mtp-code"


def json_line(row: object) -> bytes:
    # ASCII: a completion may hold half of a surrogate pair, which UTF-8 cannot carry.
    return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Journal:
    """Rows kept by key in an append-only file, so that a process killed at any point loses none.

    Only keys and offsets stay in memory. A last line that a kill cut off is dropped on opening;
    one process at a time may hold a journal.

    Raises:
        InputError: another process holds the journal.
        RecordError: a line of it is broken, and more follow.
    """

    def __init__(self, path: Path, key_of: Callable[[dict[str, Any]], Hashable]) -> None:
        self.path = path
        self._key_of = key_of
        self._offsets: dict[Hashable, int] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"{self.path}: another process is writing it; wait for it, or choose another folder"
            ) from None
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._offsets

    def __getitem__(self, key: Hashable) -> dict[str, Any]:
        self._file.seek(self._offsets[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def append(self, row: dict[str, Any]) -> None:
        with _told_of(self.path):
            self._offsets[self._key_of(row)] = self._file.seek(0, os.SEEK_END)
            self._file.write(json_line(row))
            # To the kernel, not the disk: a kill loses nothing, and a power cut only rows to redo.
            self._file.flush()

    def remove(self) -> None:
        self.path.unlink()

    def _recover(self) -> None:
        self._file.seek(0)
        start = 0
        broken_at: int | None = None
        for number, line in enumerate(self._file, start=1):
            if broken_at is not None:
                raise RecordError(
                    f"{self.path}:{broken_at}: no row of this journal, but not the last line "
                    "either; mend it, or delete the file to begin anew"
                )
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                self._offsets[self._key_of(json.loads(line))] = start
            except (ValueError, KeyError, TypeError):
                broken_at = number
            else:
                start += len(line)
        self._file.truncate(start)
