import errno
import json
import logging
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtp_code.config import validate
from mtp_code.data import corpora, screening
from mtp_code.data import prepare as prepare_module
from mtp_code.data.config import DataConfig
from mtp_code.data.contamination import Reference
from mtp_code.data.prepare import Progress, prepare
from mtp_code.data.shards import SPLITS, ShardWriter, open_shards
from mtp_code.errors import CorpusError, MachineError, RecipeError, ShardError, TokenizerError
from mtp_code.tokenizer import BpeConfig, BytesConfig, BytesTokenizer, HuggingFaceConfig
from tests import processes

BYTES = BytesConfig(kind="bytes")


def write_source(folder: Path, num_files: int = 40) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(num_files):
        (folder / f"f{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n")
    return folder


def config_for(folder: Path, **options: Any) -> DataConfig:
    source = {"kind": "folder", "path": str(folder)} | options.pop("source", {})
    return validate(DataConfig, {"sources": {"code": source}} | options, where="test")


@pytest.fixture
def forked() -> Iterator[None]:
    """Workers come from the tests' server of processes, and not as whoever prepares has them."""
    with processes.of_commands():
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "tokens" / "name"


def documents(folder: Path, source: str = "code") -> dict[str, list[str]]:
    shards = open_shards(folder)
    return {
        split: [
            shards.tokenizer.decode(shards.shard(source, split).framed(i).tolist())
            for i in range(shards.shard(source, split).num_documents)
        ]
        for split in SPLITS
    }


def test_shards_hold_every_document_in_one_split(source: Path, out: Path) -> None:
    prepare(config_for(source, validation_share=0.2), BYTES, out)
    found = documents(out)
    assert sorted(found["train"] + found["validation"]) == sorted(
        path.read_text() for path in source.iterdir()
    )
    assert found["train"]
    assert found["validation"]


def test_manifest_counts_documents_tokens_and_bytes(source: Path, out: Path) -> None:
    manifest = prepare(config_for(source, validation_share=0.2), BYTES, out)
    record = manifest.sources["code"]
    num_bytes = sum(path.stat().st_size for path in source.iterdir())
    assert record.train.num_documents + record.validation.num_documents == 40
    assert record.train.num_bytes + record.validation.num_bytes == num_bytes
    for split in (record.train, record.validation):
        assert split.num_tokens == split.num_bytes + split.num_documents
    assert json.loads((out / "manifest.json").read_text())["schema"] == 2
    assert manifest == open_shards(out).manifest


def test_what_is_left_out_is_counted_by_reason(
    source: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = "def double_every_other(numbers, start=0):\n    '''Double each second one.'''\n"
    long_task = " ".join(f"word{i}" for i in range(30))
    (source / "empty.py").write_text(" \n")
    (source / "bad.py").write_bytes(b"\xff")
    (source / "nul.py").write_text("a\0b")
    (source / "again.py").write_text("def f0(x):  \n    return x + 0\n\n")
    (source / "copy.py").write_text(task + "\n")
    (source / "contains.py").write_text(f"x = 1\n# {long_task}\ny = 2\n")
    references = [Reference("t/0", task), Reference("t/1", long_task)]
    with caplog.at_level(logging.INFO):
        manifest = prepare(config_for(source), BYTES, out, references)
    assert manifest.sources["code"].dropped == {
        "empty": 1,
        "undecodable": 2,
        "duplicate": 1,
        "copy of a benchmark task": 1,
        "contains benchmark text": 1,
    }
    assert "1 left out: contains benchmark text" in caplog.text


def test_decontamination_can_be_off_for_a_source_but_copies_go_all_the_same(
    source: Path, out: Path
) -> None:
    task = " ".join(f"word{i}" for i in range(30))
    (source / "copy.py").write_text(task)
    (source / "contains.py").write_text(f"{task}\nmore = 1\n")
    config = config_for(source, source={"decontaminate": False})
    manifest = prepare(config, BYTES, out, [Reference("t/0", task)])
    assert manifest.sources["code"].dropped == {"copy of a benchmark task": 1}


def test_duplicates_are_found_across_sources(tmp_path: Path, out: Path) -> None:
    first, second = write_source(tmp_path / "a", 20), write_source(tmp_path / "b", 30)
    sources = {
        name: {"kind": "folder", "path": str(path)} for name, path in (("a", first), ("b", second))
    }
    manifest = prepare(validate(DataConfig, {"sources": sources}, where="test"), BYTES, out)
    assert manifest.sources["b"].dropped == {"duplicate": 20}


def test_preparing_again_writes_nothing(source: Path, out: Path) -> None:
    before = prepare(config_for(source), BYTES, out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(config_for(source), BYTES, out) == before
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_new_weights_or_packing_need_no_new_shards(source: Path, out: Path) -> None:
    before = prepare(config_for(source), BYTES, out)
    other = config_for(source, packing="whole", source={"weight": 3})
    assert prepare(other, BYTES, out) == before


@pytest.mark.parametrize("change", ["file", "share", "tokenizer", "references", "lost shard"])
def test_changed_inputs_are_prepared_anew(source: Path, out: Path, change: str) -> None:
    before = prepare(config_for(source), BYTES, out)
    share, tokenizer, references = 0.02, BYTES, [Reference("t/0", "def f(): pass")][:0]
    match change:
        case "file":
            (source / "new.py").write_text("x = 1\n")
        case "share":
            share = 0.5
        case "tokenizer":
            tokenizer = BpeConfig(kind="bpe", vocab_size=300)  # type: ignore[assignment]
        case "references":
            references = [Reference("t/0", (source / "f0.py").read_text())]
        case "lost shard":
            (out / "code.train.bin").unlink()
    after = prepare(config_for(source, validation_share=share), tokenizer, out, references)
    assert (after == before) == (change == "lost shard")
    assert open_shards(out).manifest == after


def test_same_inputs_give_the_same_files(source: Path, tmp_path: Path) -> None:
    config, tokenizer = config_for(source), BpeConfig(kind="bpe", vocab_size=300)
    for name in ("one", "two"):
        prepare(config, tokenizer, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_trained_tokenizer_is_kept_with_its_shards(source: Path, out: Path) -> None:
    manifest = prepare(config_for(source), BpeConfig(kind="bpe", vocab_size=300), out)
    shards = open_shards(out)
    assert shards.tokenizer.fingerprint == manifest.tokenizer_fingerprint
    assert shards.tokenizer.vocab_size == manifest.vocab_size
    assert documents(out)["train"][0].startswith("def f")


def test_tokenizer_never_reads_held_out_documents_nor_benchmark_text(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def build(config: object, texts: Any) -> BytesTokenizer:
        read.extend(texts)
        return BytesTokenizer()

    monkeypatch.setattr(prepare_module, "build_tokenizer", build)
    task = (source / "f0.py").read_text()
    config = config_for(source, validation_share=0.3)
    prepare(config, BpeConfig(kind="bpe"), out, [Reference("t/0", task)])
    assert sorted(read) == sorted(documents(out)["train"])
    assert task not in read


def test_tokenizer_reads_sources_in_proportion_to_their_weights(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        prepare_module, "build_tokenizer", lambda _, texts: read.extend(texts) or BytesTokenizer()
    )
    sources = {}
    for name, weight in (("a", 1), ("b", 3)):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(99):
            (folder / f"{i}.py").write_text(f"{name} = {i:093}\n")
        sources[name] = {"kind": "folder", "path": str(folder), "weight": weight}
    config = validate(DataConfig, {"sources": sources, "validation_share": 0}, where="test")
    prepare(config, BpeConfig(kind="bpe", training_bytes=4000), out)
    assert [sum(text.startswith(name) for text in read) for name in "ab"] == [11, 31]


def test_progress_reaches_every_document(source: Path, out: Path) -> None:
    seen: list[Progress] = []
    prepare(config_for(source), BpeConfig(kind="bpe", vocab_size=300), out, (), seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == [
        "reading for the tokenizer",
        "encoding",
        "finding duplicates",
        "writing",
    ]
    num_bytes = sum(path.stat().st_size for path in source.iterdir())
    encoding = [progress for progress in seen if progress.stage == "encoding"]
    assert (encoding[0].done, encoding[-1].done) == (0, num_bytes)
    assert {progress.total for progress in encoding} == {num_bytes}


@pytest.mark.parametrize("where, what", [(ShardWriter, "append"), (np, "savez")])
def test_a_full_disk_leaves_the_earlier_shards_and_nothing_half_written(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where: Any, what: str
) -> None:
    before = prepare(config_for(source), BYTES, out)
    (source / "new.py").write_text("x = 1\n")

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, what, disk_full)
    with pytest.raises(OSError, match="No space left"):
        prepare(config_for(source), BYTES, out)
    assert open_shards(out).manifest == before
    assert set(out.parent.iterdir()) == {out, work_of(out)}
    assert not list(work_of(out).glob("*.aside"))


def work_of(out: Path) -> Path:
    """Where unfinished work is kept."""
    return out.with_name(f".{out.name}.work")


def _prepare_and_die(config: DataConfig, out: Path, num_parts: int) -> None:
    """Killed while the record of the part after these is written."""
    savez = np.savez

    def dying_savez(*args: Any, **columns: Any) -> None:
        nonlocal num_parts
        num_parts -= 1
        if num_parts < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        savez(*args, **columns)

    np.savez = dying_savez
    corpora.PART_BYTES = 500  # type: ignore[misc]
    prepare(config, BYTES, out, num_workers=1)


def test_killed_preparation_goes_on_and_does_nothing_twice(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(source)
    process = processes.that_train().Process(target=_prepare_and_die, args=(config, out, 2))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ShardError, match="no token shards there"):
        open_shards(out)
    assert list(work_of(out).glob(".*.aside"))

    done: list[Path] = []

    def screen_part(path: Path, *args: Any) -> None:
        done.append(path)
        screening.screen_part(path, *args)

    monkeypatch.setattr(corpora, "PART_BYTES", 500)
    monkeypatch.setattr(prepare_module, "screen_part", screen_part)
    before = prepare(config, BYTES, tmp_path / "whole")
    num_parts = len(done)
    manifest = prepare(config, BYTES, out)
    assert num_parts > 2
    assert len(done) == num_parts + num_parts - 2
    assert manifest == before
    assert not work_of(out).exists()


def test_work_on_other_inputs_is_not_gone_on_with(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(config_for(source), BYTES, out)
    assert work_of(out).exists()
    (source / "f0.py").write_text("changed = True\n")
    prepare(config_for(source), BYTES, out)
    assert "changed = True\n" in [text for texts in documents(out).values() for text in texts]


def test_order_does_not_depend_on_the_number_of_processes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "PART_BYTES", 500)
    monkeypatch.setattr(prepare_module, "PART_BYTES", 500)
    for num_workers in (1, 2):
        prepare(config_for(source), BYTES, tmp_path / f"out{num_workers}", num_workers=num_workers)
    for path in (tmp_path / "out1").iterdir():
        assert (tmp_path / "out2" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.usefixtures("forked")
def test_a_killed_process_is_one_line_and_what_was_finished_is_kept(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(ProcessPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
            return super().submit(os._exit, 9)

    monkeypatch.setattr(corpora, "PART_BYTES", 500)
    monkeypatch.setattr(prepare_module, "PART_BYTES", 500)
    monkeypatch.setattr(prepare_module, "ProcessPoolExecutor", Killed)
    with pytest.raises(MachineError, match="fewer workers"):
        prepare(config_for(source), BYTES, out, num_workers=2)
    assert work_of(out).exists()


def test_near_duplicates_are_left_out_where_asked(source: Path, out: Path) -> None:
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(300)]
    (source / "first.py").write_text(" ".join(words))
    (source / "again.py").write_text(" ".join(words[:-3]))
    assert prepare(config_for(source), BYTES, out).sources["code"].dropped == {}
    config = config_for(source, near_duplicates={}, filters={"min_bytes": 100})
    record = prepare(config, BYTES, out).sources["code"]
    assert record.dropped == {"near-duplicate": 1, "too few bytes": 40}


def test_a_source_may_have_filters_of_its_own(source: Path, out: Path) -> None:
    config = config_for(source, filters={"min_bytes": 10**6}, source={"filters": {}})
    assert prepare(config, BYTES, out).sources["code"].dropped == {}


def test_training_documents_are_cut_and_held_out_ones_are_not(source: Path, out: Path) -> None:
    tokenizer = BytesConfig(kind="bytes", fim_tokens=True)
    config = config_for(source, validation_share=0.3, fim={"rate": 1})
    prepare(config, tokenizer, out)
    shards = open_shards(out)
    for split in SPLITS:
        shard = shards.shard("code", split)
        for i in range(shard.num_documents):
            marks = [int(token) for token in shard.framed(i) if token > 256]
            assert sorted(marks) == ([257, 258, 259] if split == "train" else [])
    with pytest.raises(TokenizerError, match=r"set tokenizer\.fim_tokens"):
        prepare(config, BYTES, out)


def test_the_card_says_what_was_read_left_out_and_kept(source: Path, out: Path) -> None:
    (source / "again.py").write_text((source / "f0.py").read_text())
    (source / "long.py").write_text("x" * 200)
    manifest = prepare(config_for(source, filters={"max_line_length": 100}), BYTES, out)
    card = json.loads((out / "data-card.json").read_text())
    found = card["sources"]["code"]
    assert found["read"] == {
        "documents": 42,
        "bytes": sum(path.stat().st_size for path in source.iterdir()),
    }
    assert found["left_out"] == {
        "duplicate": {"documents": 1, "bytes": (source / "again.py").stat().st_size},
        "line too long": {"documents": 1, "bytes": 200},
    }
    for unit in ("documents", "bytes"):
        kept = sum(found[split][unit] for split in SPLITS)
        left_out = sum(counts[unit] for counts in found["left_out"].values())
        assert kept + left_out == found["read"][unit]
    assert found["train"]["tokens"] == manifest.sources["code"].train.num_tokens
    page = (out / "data-card.md").read_text()
    assert "| left out: line too long | 1 | 200 | |" in page
    assert "Filters: max_line_length = 100." in page


def test_two_at_once_wait_for_each_other(source: Path, out: Path) -> None:
    context = processes.that_train()
    both = [
        context.Process(target=prepare, args=(config_for(source), BYTES, out)) for _ in range(2)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert sum(map(len, documents(out).values())) == 40


def test_folder_with_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="something other than token shards"):
        prepare(config_for(source), BYTES, source)
    assert len(list(source.iterdir())) == 40


def test_source_without_documents_is_one_line(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "empty.py").write_text("")
    with pytest.raises(CorpusError, match=r"data\.sources\.code: no document .*1 left out: empty"):
        prepare(config_for(source), BYTES, out)
    assert not out.exists()


def test_vocabulary_too_large_for_the_token_type_is_one_line(
    source: Path, out: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    BytesTokenizer().save(foreign)
    definition = json.loads((foreign / "tokenizer.json").read_text())
    definition["model"]["vocab"] |= {f"filler{i}": 1000 + i for i in range(70_000)}
    (foreign / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = HuggingFaceConfig(kind="hugging-face", name=str(foreign))
    with pytest.raises(CorpusError, match=r'uint16 holds 65536 ids.* set token_type = "uint32"'):
        prepare(config_for(source), tokenizer, out)
    prepare(config_for(source, token_type="uint32"), tokenizer, out)
    assert documents(out)["train"][0].startswith("def f")


@pytest.mark.parametrize("name", ["", "a/b", "..", "A b"])
def test_source_names_are_fit_for_files(source: Path, name: str) -> None:
    sources = {name: {"kind": "folder", "path": str(source)}}
    with pytest.raises(RecipeError):
        validate(DataConfig, {"sources": sources}, where="test")


@pytest.mark.parametrize("manifest", ['{"name": "an extension"}', "[1]", "none", None])
def test_a_folder_with_a_manifest_or_files_of_others_is_left_alone(
    source: Path, out: Path, manifest: str | None
) -> None:
    if manifest is None:
        prepare(config_for(source), BYTES, out)
    else:
        out.mkdir(parents=True)
        (out / "manifest.json").write_text(manifest)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ShardError, match="something other than token shards"):
        prepare(config_for(source, validation_share=0.5), BYTES, out)
    assert (out / "thesis.tex").exists()


def test_a_manifest_of_others_alone_is_not_replaced(source: Path, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "manifest.json").write_text('{"sources": []}')
    with pytest.raises(ShardError, match="something other than token shards"):
        prepare(config_for(source), BYTES, out)


def test_what_a_kill_behind_the_last_step_left_is_removed(source: Path, out: Path) -> None:
    before = prepare(config_for(source), BYTES, out)
    (out.parent / f".{out.name}.1.old.aside").mkdir()
    work_of(out).mkdir()
    (work_of(out) / "inputs").write_text(before.inputs_sha256)
    assert prepare(config_for(source), BYTES, out) == before
    assert list(out.parent.iterdir()) == [out]
    work_of(out).mkdir()
    (work_of(out) / "inputs").write_text("of another recipe, interrupted")
    prepare(config_for(source), BYTES, out)
    assert work_of(out).exists()


def test_a_changed_tokenizer_folder_is_prepared_anew(
    source: Path, out: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    BytesTokenizer().save(folder)
    tokenizer = HuggingFaceConfig(kind="hugging-face", name=str(folder))
    before = prepare(config_for(source), tokenizer, out)
    assert prepare(config_for(source), tokenizer, out) == before
    BytesTokenizer(fim_tokens=True).save(folder)
    assert prepare(config_for(source), tokenizer, out).vocab_size == before.vocab_size + 3


@pytest.mark.usefixtures("forked")
def test_a_hub_corpus_of_several_files_is_read_by_several_processes_and_weighed_freely(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "dataset"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"x = {number}\n"}) + "\n")
    pools: list[int] = []

    class Counted(ProcessPoolExecutor):
        def __init__(self, num_workers: int, *args: Any, **options: Any) -> None:
            pools.append(num_workers)
            super().__init__(num_workers, *args, **options)

    monkeypatch.setattr(prepare_module, "ProcessPoolExecutor", Counted)

    def config(weight: float) -> DataConfig:
        hub = {"kind": "hub", "dataset": str(folder), "weight": weight}
        return validate(DataConfig, {"sources": {"code": hub}, "validation_share": 0}, where="test")

    seen: list[Progress] = []
    before = prepare(config(1), BYTES, out, (), seen.append, num_workers=2)
    assert pools == [2]
    assert [(p.done, p.total) for p in seen if p.stage == "encoding"] == [(0, 2), (1, 2), (2, 2)]
    assert prepare(config(2), BYTES, out) == before
    assert pools == [2]
