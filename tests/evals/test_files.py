import errno
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from evals.errors import InputError, RecordError
from evals.files import (
    Journal,
    cache_folder,
    require_near,
    require_replaceable,
    sole_writer,
    write_whole,
)

WRITERS: tuple[Any, ...] = (write_whole, sole_writer)


def journal(path: Path) -> Journal:
    return Journal(path, lambda row: row["key"])


def test_a_file_is_replaced_only_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.json"
    with write_whole(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(TypeError), write_whole(path) as file:
        file.writelines([b"second", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "scores[1].json"
    leftover = tmp_path / f".{path.name}.99.aside"
    other = tmp_path / ".scores1.json.99.aside"
    leftover.touch()
    other.touch()
    with write_whole(path) as file:
        (aside,) = set(tmp_path.iterdir()) - {other}
        aside = aside.rename(aside.with_name(f".{path.name}.77.aside"))  # as of another process
        with write_whole(path) as second:
            second.write(b"second")
        assert aside.exists()
        file.write(b"first")
        aside.rename(aside.with_name(f".{path.name}.{os.getpid()}.aside"))
    assert path.read_bytes() == b"first"
    assert {*tmp_path.iterdir()} == {path, other}


def not_to_be_replaced(folder: Path) -> list[tuple[Path, str]]:
    """What no file may take the place of, and a part of what is said of it."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "device")
    (folder / "link").symlink_to("device")
    (folder / "open").touch()
    descriptor = os.open(folder / "open", os.O_RDONLY)
    (folder / "stdout").symlink_to(f"/proc/self/fd/{descriptor}")
    return [
        (folder / "folder", "a folder; name a file in it"),
        (folder / "device", "it is no regular file"),
        (folder / "link", "it is no regular file"),
        (folder / "stdout", "it is no regular file"),
        (Path(f"/proc/self/fd/{descriptor}"), "it is no regular file"),
        (Path(f"/dev/fd/{descriptor}"), "it is no regular file"),
    ]


def test_nothing_but_a_file_is_replaced_by_one(tmp_path: Path) -> None:
    before = [
        (path, message, path.lstat().st_mode, path.stat().st_ino)
        for path, message in not_to_be_replaced(tmp_path)
    ]
    for path, message, mode, number in before:
        for write in WRITERS:
            with pytest.raises(InputError, match=message), write(path):
                pass
        assert (path.lstat().st_mode, path.stat().st_ino) == (mode, number)
    (tmp_path / "to a file").symlink_to("open")
    for write in WRITERS:
        for name in ("open", "new", "to a file"):  # the control: these may be
            with write(tmp_path / name) as file:
                if file is not None:
                    file.write(b"new")
    left = {"folder", "device", "link", "open", "stdout", "new", "to a file"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_one_folder_is_made_for_a_file_that_was_asked_for_and_no_tree_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (Path("new/file"), tmp_path / "new" / "file", Path("file")):
        require_near(place)
    for place in (Path("new/folders/file"), tmp_path / "new" / "folders" / "file"):
        with pytest.raises(InputError, match=f"{place}: there is no {tmp_path}/new; make that"):
            require_near(place)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_may_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a place in a folder"):
        require_replaceable(tmp_path / "file" / "new")
    require_replaceable(tmp_path / "new" / "folders" / "file")  # the control: they can be made
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=f"new: {tmp_path} cannot be written to"):
        require_replaceable(tmp_path / "new")


def test_a_full_disk_is_told_of_by_the_name_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, write_whole(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_journal_keeps_its_rows_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with journal(path) as rows:
        rows.append({"key": "a", "value": 1})
        rows.append({"key": "b", "value": "\ud800"})
        assert rows["a"] == {"key": "a", "value": 1}
        rows.append({"key": "c", "value": 3})
    with journal(path) as rows:
        assert len(rows) == 3
        assert "c" in rows
        assert "d" not in rows
        assert rows["b"]["value"] == "\ud800"


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_journal_cut_off_anywhere_keeps_every_whole_row(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows"
    with journal(path) as rows:
        rows.append({"key": "a"})
        rows.append({"key": "bbbbbbbbbbbbb"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with journal(path) as rows:
        assert len(rows) == 1
        rows.append({"key": "bbbbbbbbbbbbb"})
    assert path.read_bytes() == whole


def test_a_journal_with_a_broken_line_before_its_last_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    content = b'{"key": "a"}\n{"key": "b\n{"key": "c"}\n'
    path.write_bytes(content)
    with pytest.raises(RecordError, match="rows:2: no row of this journal"), journal(path):
        pass
    assert path.read_bytes() == content


def _append_until_killed(path: Path) -> None:
    with journal(path) as rows:
        for number in range(1_000_000):
            rows.append({"key": number})
            if number == 1000:
                os.kill(os.getpid(), signal.SIGKILL)


def test_a_journal_loses_nothing_to_sigkill(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_append_until_killed, args=(tmp_path / "rows",)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with journal(tmp_path / "rows") as rows:
        assert len(rows) == 1001


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    with (
        journal(tmp_path / "rows"),
        pytest.raises(InputError, match="another process is writing it"),
        journal(tmp_path / "rows"),
    ):
        pass
    with journal(tmp_path / "rows"):
        pass


def test_the_folder_for_caches_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/mtp-code")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/mtp-code"
