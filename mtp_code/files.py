"""Files and folders that are never half-written: written aside, synced, renamed into place."""

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mtp_code.errors import InputError

log = logging.getLogger(__name__)

_LIBC = ctypes.CDLL(None, use_errno=True)
# renameat2(2), as in <fcntl.h> and <linux/fs.h>.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MOVED = ".old.aside"
"""How the name of a folder ends that another is about to replace."""


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


def as_os_error(error: Exception, path: Path) -> Exception:
    """What the system said, which safetensors tells in words."""
    found = re.search(r"os error (\d+)", str(error))
    if found is None:
        return error
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path))


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes `path`'s place when the block ends well.

    A kill at any moment leaves the old one whole or the new one: there, or where the next call or
    `remove_leftovers` finds it.

    Raises:
        InputError: something else is there, such as a file.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: no folder, and one would take its place; name another")
    _bring_back(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # a killed process of the same number left it
    try:
        with _told_of(path, aside):
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                sync(file)
            sync(aside)
        if path.exists():
            _change_places(path, aside)
        else:
            aside.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of folders or files of this name, perhaps a pattern.

    What had been moved out of a new one's way, which never came, is brought back. For the one
    process that may make such now.
    """
    _bring_back(path)
    for aside in path.parent.glob(f".{path.name}.*.aside"):
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def _change_places(path: Path, aside: Path) -> None:
    """Puts a folder in another's place, in one step where the file system can do that."""
    if _exchange(path, aside):
        shutil.rmtree(aside)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}{_MOVED}")
    path.replace(old)
    aside.replace(path)
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two paths change places in one step; False where kernel or file system cannot."""
    renameat2 = getattr(_LIBC, "renameat2", None)
    if renameat2 is None:
        return False
    status = renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if status == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # NFS, some overlays
        return False
    raise OSError(number, os.strerror(number), str(one))


def _bring_back(path: Path) -> None:
    """Undoes what a process did that was killed between the two steps of `_change_places`."""
    for old in path.parent.glob(f".{path.name}.*{_MOVED}"):
        name = old.name.removesuffix(_MOVED)[1:].rpartition(".")[0]
        place = old.with_name(name)
        if not place.exists():
            old.replace(place)
            sync(old.parent)


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool) -> Iterator[None]:
    """Holds the folder's lock.

    Raises:
        BlockingIOError: another process holds it, and `wait` is not asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            log.info("%s: waiting for another process that works there", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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


def _stands_for_an_open_file(path: Path) -> bool:
    """As /dev/stdout and /dev/fd/3 do: their place is in /proc."""
    places = [path, path.parent / path.readlink()] if path.is_symlink() else [path]
    return any(place.parent.resolve().is_relative_to("/proc") for place in places)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes `path`'s place when the block ends well.

    Raises:
        InputError: `path` is no file that could be replaced.
    """
    require_replaceable(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with _told_of(path, aside), aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by this value as JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces a file by this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(text.encode())


def sync(path: Path) -> None:
    """Waits until the disk holds a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
