"""Files and folders that are never half-written: written aside, synced, renamed into place."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes `path`'s place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # a killed process of the same number left it
    try:
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            sync(file)
        sync(aside)
        if path.exists():
            # A folder cannot be replaced by another in one step: out of the way first, so that a
            # kill leaves a whole folder or none.
            old = path.with_name(f".{path.name}.{os.getpid()}.old.aside")
            path.replace(old)
            aside.replace(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of folders or files of this name, perhaps a pattern.

    For the one process that may make such now.
    """
    for aside in path.parent.glob(f".{path.name}.*.aside"):
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


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


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes `path`'s place when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with aside.open("wb") as file:
            yield file
        sync(aside)
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
