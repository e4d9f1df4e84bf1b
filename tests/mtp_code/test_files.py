"""Folders that are replaced: the old one whole or the new one, whenever somebody is killed."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mtp_code import files
from mtp_code.errors import InputError
from mtp_code.files import (
    remove_leftovers,
    require_replaceable,
    whole_file,
    whole_folder,
    write_json,
)


class KilledError(BaseException):
    """Stands for a SIGKILL: what catches exceptions to tidy up behind them does not see it."""


def write(path: Path, text: str) -> None:
    with whole_folder(path) as folder:
        (folder / "text").write_text(text)


def kill_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Nothing reaches the disk any more from the call-th change of a name or removal on."""
    count = 0

    def dying(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count >= call:
                raise KilledError
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(Path, "replace", dying(Path.replace))
    monkeypatch.setattr(files, "_exchange", dying(files._exchange))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))


@pytest.fixture(params=["one step", "two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two steps":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return str(request.param)


def test_a_folder_takes_anothers_place_and_leaves_nothing(steps, tmp_path):
    path = tmp_path / "made"
    write(path, "old")
    write(path, "new")
    assert (path / "text").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("call", range(1, 8))
def test_killed_at_any_change_it_leaves_one_of_the_two_whole(steps, tmp_path, call):
    path = tmp_path / "made"
    write(path, "old")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, call)
        try:
            write(path, "new")
        except KilledError:
            is_missing = not path.exists()
        else:
            is_missing = False
    assert not (is_missing and steps == "one step"), "it is there all the time"
    remove_leftovers(path)
    assert (path / "text").read_text() in {"old", "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]


def test_killed_between_its_two_steps_the_next_call_finds_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "made"
    write(path, "old")
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 4)  # a removal, no exchange, the first step: the second never comes
        with pytest.raises(KilledError):
            write(path, "new")
    assert not path.exists()
    with pytest.raises(ValueError, match="stop"), whole_folder(path):
        raise ValueError("stop")
    assert (path / "text").read_text() == "old"


def test_the_file_system_of_these_tests_can_do_it_in_one_step(tmp_path):
    """Or the first of both ways above was the second."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot exchange two names")
    assert (tmp_path / "one" / "other").exists()


def test_nothing_but_a_file_is_replaced_by_one_and_nothing_but_a_folder_by_one(tmp_path):
    os.mkfifo(tmp_path / "device")
    (tmp_path / "open").touch()
    (tmp_path / "folder").mkdir()
    with (tmp_path / "open").open() as file:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{file.fileno()}")
        for name in ("device", "stdout", "folder"):
            with pytest.raises(InputError, match=f"{name}: a f"), whole_file(tmp_path / name):
                pass
            with pytest.raises(InputError, match=f"{name}: a f"):
                write_json(tmp_path / name, {})
        for name in ("device", "open"):
            with pytest.raises(InputError, match=f"{name}: no folder"):
                write(tmp_path / name, "new")
        assert (tmp_path / "device").is_fifo()
        assert (tmp_path / "stdout").is_symlink()
    write_json(tmp_path / "open", {})  # the control: a file, and a folder
    write(tmp_path / "folder", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"device", "open", "folder", "stdout"}


def test_where_nothing_may_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a place in a folder"):
        require_replaceable(tmp_path / "file" / "new")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=f"new: {tmp_path} cannot be written to"):
        require_replaceable(tmp_path / "new")


def test_a_full_disk_is_told_of_by_the_name_that_was_asked_for(tmp_path):
    for write in (whole_file, whole_folder):
        with pytest.raises(OSError, match="No space left") as caught, write(tmp_path / "new"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert caught.value.filename == str(tmp_path / "new")
    assert not list(tmp_path.iterdir())
