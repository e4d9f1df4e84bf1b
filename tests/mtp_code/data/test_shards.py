import hashlib
from pathlib import Path

import numpy as np
import pytest

from mtp_code.config import validate
from mtp_code.data import shards
from mtp_code.data.config import DataConfig
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import ShardWriter, open_shards
from mtp_code.errors import ShardError
from mtp_code.tokenizer import BytesConfig, BytesTokenizer, train_bpe

END = BytesTokenizer().end_of_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for text in ("a", "bc", "défg"):
        (source / f"{text}.txt").write_text(text, encoding="utf-8")
    corpus = {"kind": "folder", "path": str(source), "pattern": "*.txt"}
    config = {"sources": {"text": corpus}, "validation_share": 0}
    prepare(validate(DataConfig, config, where="test"), BytesConfig(kind="bytes"), tmp_path / "out")
    return tmp_path / "out"


def test_a_document_lies_between_two_ends_of_text(folder: Path) -> None:
    shard = open_shards(folder).shard("text", "train")
    framed = [shard.framed(i).tolist() for i in range(shard.num_documents)]
    assert sorted(framed) == sorted([END, *text.encode(), END] for text in ("a", "bc", "défg"))
    assert shard.framed_lengths.tolist() == [len(tokens) for tokens in framed]


def test_documents_share_the_ends_of_text_between_them(folder: Path) -> None:
    stored = np.fromfile(folder / "text.train.bin", dtype=np.uint16)
    assert len(stored) == 4 + len("abcdéfg".encode())
    assert (stored[0], stored[-1]) == (END, END)


def test_a_split_without_documents_opens_empty(folder: Path) -> None:
    assert open_shards(folder).shard("text", "validation").num_documents == 0


@pytest.mark.parametrize("name", ["text.train.bin", "text.train.idx", "text.validation.bin"])
def test_missing_and_truncated_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match=f"{name}: has .* bytes where .* were written"):
        open_shards(folder)
    path.unlink()
    with pytest.raises(ShardError, match=f"{name}: missing"):
        open_shards(folder)


@pytest.mark.parametrize("name", ["text.train.bin", "text.train.idx"])
def test_changed_files_are_named_when_content_is_checked(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ShardError, match=f"{name}: changed since it was written"):
        open_shards(folder)


def test_of_large_shards_some_pieces_are_checked_and_all_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "text.train.idx"
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(shards, "CHECKED_BYTES", shards.PIECE_BYTES)  # one piece: of the tokens
    open_shards(folder)
    with pytest.raises(ShardError, match=r"text\.train\.idx: changed .* in bytes 0 to 32;"):
        open_shards(folder, check_all=True)


def test_pieces_have_the_sums_of_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PIECE_BYTES", 10)
    written = np.arange(100, 123, dtype=np.uint16)
    with ShardWriter(tmp_path, "a", "train", BytesTokenizer(), "uint16") as writer:
        for part in np.split(written, [2, 3, 15]):
            writer.append(part, np.array([len(part)]), 1)
        record = writer.finish()
    data = (tmp_path / "a.train.bin").read_bytes()
    assert data == np.concatenate([[END], written]).astype(np.uint16).tobytes()
    assert record.tokens_sha256 == tuple(
        hashlib.sha256(data[first : first + 10]).hexdigest() for first in range(0, len(data), 10)
    )


def test_another_tokenizer_is_refused(folder: Path) -> None:
    train_bpe(["ab ab"], 300).save(folder)
    with pytest.raises(ShardError, match="its tokenizer is not the one"):
        open_shards(folder)


def test_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ShardError, match=r"no such tokenizer.*prepare the data again"):
        open_shards(folder)


def test_folder_without_a_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ShardError, match="no token shards there"):
        open_shards(folder)


def test_damaged_manifest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ShardError, match=r"manifest\.json: damaged"):
        open_shards(folder)
