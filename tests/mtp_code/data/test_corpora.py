import gzip
import json
import os
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from mtp_code.config import validate
from mtp_code.data import corpora
from mtp_code.data.config import DataConfig
from mtp_code.data.contamination import Contamination
from mtp_code.data.corpora import (
    Corpus,
    Folder,
    Hub,
    JsonLines,
    Packages,
    Parquet,
    StandardLibrary,
)
from mtp_code.data.documents import Document, Skipped
from mtp_code.data.screening import Counts, screen
from mtp_code.errors import CorpusError, MachineError, RecipeError


def texts(corpus: Corpus) -> list[str]:
    return [found.text for found in corpus.documents() if isinstance(found, Document)]


def skipped(corpus: Corpus) -> dict[str, str]:
    return dict(found for found in corpus.documents() if isinstance(found, Skipped))


def write_lines(path: Path, *records: Any) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_standard_library_is_megabytes_of_source_without_tests() -> None:
    corpus = StandardLibrary(kind="stdlib")
    files = corpus.files()
    assert "argparse.py" in files
    assert not any("test" in Path(name).parts for name in files)
    assert 8e6 < sum(path.stat().st_size for path in files.values()) < 14e6
    assert len(StandardLibrary(kind="stdlib", include_tests=True).files()) > len(files)


def test_standard_library_holds_no_installed_packages() -> None:
    files = StandardLibrary(kind="stdlib", include_tests=True).files()
    assert not any({"site-packages", "dist-packages"} & set(Path(name).parts) for name in files)


def test_packages_are_those_of_this_interpreter() -> None:
    files = Packages(kind="packages").files()
    assert "pydantic/main.py" in files
    assert files["pydantic/main.py"].is_relative_to(sysconfig.get_path("purelib"))


def test_installed_source_is_what_looking_everywhere_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "one.py", "two/__init__.py", "two/deep/er.py", "two/__pycache__/two.py", "three.txt",
        "test/one.py", "two/test/one.py", "site-packages/four.py", "two/folder.py/five.py",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "two/link").symlink_to(tmp_path / "two/deep")
    (tmp_path / "two/broken.py").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr("mtp_code.data.corpora.sysconfig.get_path", lambda kind: str(tmp_path))

    def everywhere(left_out: set[str], only: set[str] | None = None) -> set[str]:
        names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py") if path.is_file()}
        return {
            str(name)
            for name in names
            if not {"__pycache__", *left_out} & set(name.parts)
            if only is None or name.parts[0].removesuffix(".py") in only
        }

    standard = StandardLibrary(kind="stdlib")
    assert set(standard.files()) == everywhere({"site-packages", "test"})
    assert {"one.py", "two/deep/er.py", "two/folder.py/five.py"} == set(standard.files()) - {
        "two/__init__.py"
    }
    assert set(Packages(kind="packages").files()) == everywhere(set())
    for only in ({"one"}, {"two"}, {"one", "test"}):
        found = Packages(kind="packages", only=tuple(only)).files()
        assert set(found) == everywhere(set(), only)


def test_packages_are_held_out_whole_unless_files_are_asked_for() -> None:
    corpus = Packages(kind="packages", only=("pydantic", "typing_extensions"))
    assert {name.partition("/")[0] for name in corpus.files()} == {
        "pydantic",
        "typing_extensions.py",
    }
    assert corpus.held_out_with("pydantic/v1/main.py") == "pydantic"
    assert corpus.held_out_with("typing_extensions.py") == "typing_extensions"
    assert Packages(kind="packages", held_out="files").held_out_with("pydantic/main.py") is None

    def places(**options: Any) -> set[bool]:
        corpus = Packages(kind="packages", only=("pluggy",), **options)
        config = DataConfig(sources={"some": corpus}, validation_share=0.5)
        batches = screen(corpus, corpus.documents(), config, Contamination([]), Counts())
        return {kept.is_validation for batch in batches for kept in batch}

    assert len(places()) == 1
    assert places(held_out="files") == {False, True}
    with pytest.raises(CorpusError, match="nowhere: no source of such a package is installed"):
        Packages(kind="packages", only=("pydantic", "nowhere")).files()


def test_folder_yields_the_files_of_its_pattern_in_an_order_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.py", "b.py", "deep/c.py", "notes.txt"):
        (tmp_path / name).write_text(name)
    corpus = Folder(kind="folder", path=tmp_path)
    assert sorted(texts(corpus)) == ["a.py", "b.py", "deep/c.py"]
    assert texts(corpus) == texts(corpus)
    assert texts(Folder(kind="folder", path=tmp_path, pattern="*.txt")) == ["notes.txt"]


def test_python_files_are_read_in_the_encoding_they_declare(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r")
    assert sorted(texts(Folder(kind="folder", path=tmp_path))) == [
        "# coding: latin-1\nx = 'é'\n",
        "x = 1\ny = 2\n",
    ]


def test_undecodable_files_are_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / "bad.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "odd.py").write_bytes(b"# coding: no-such-encoding\n")
    corpus = Folder(kind="folder", path=tmp_path)
    assert texts(corpus) == ["x = 1\n"]
    assert skipped(corpus) == {"bad.py": "undecodable", "odd.py": "undecodable"}


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_json_lines_are_read_packed_or_not(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / name, {"code": "a\r\nb"}, {"code": "c", "more": 1})
    assert texts(JsonLines(kind="jsonl", path=path, text_field="code")) == ["a\nb", "c"]
    assert texts(JsonLines(kind="jsonl", path=tmp_path, text_field="code")) == ["a\nb", "c"]


def test_unusable_lines_are_skipped_by_number(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b'{"text": "a"}\n\n{"text": "b\n{"text": null}\n{"text": 3}\n[1]\n{"text": "\xff"}\n'
    )
    corpus = JsonLines(kind="jsonl", path=path)
    assert texts(corpus) == ["a"]
    assert skipped(corpus) == {
        "data.jsonl:2": "empty",
        "data.jsonl:3": "not JSON",
        "data.jsonl:4": "empty",
        "data.jsonl:5": "not text",
        "data.jsonl:6": "not a record",
        "data.jsonl:7": "undecodable",
    }


def test_parquet_is_read_field_by_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "code": ["a", None, "c\r\n"]}), path)
    corpus = Parquet(kind="parquet", path=path, text_field="code")
    assert texts(corpus) == ["a", "c\n"]
    assert skipped(corpus) == {"data.parquet:2": "empty"}
    with pytest.raises(CorpusError, match=r"no field 'text'; known: code, id"):
        texts(Parquet(kind="parquet", path=path))


def test_hub_datasets_are_streamed_up_to_a_number_of_documents(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", *({"content": f"text {i}"} for i in range(9)))
    corpus = Hub(kind="hub", dataset=str(tmp_path), text_field="content", max_documents=3)
    assert texts(corpus) == ["text 0", "text 1", "text 2"]
    with pytest.raises(CorpusError, match="Bad split"):
        texts(Hub(kind="hub", dataset=str(tmp_path), split="none"))


@pytest.mark.parametrize(
    "error, expected, message",
    [
        (ConnectionError("no route"), MachineError, "the hub is out of reach"),
        (FileNotFoundError("no such"), CorpusError, "no such dataset on the hub"),
    ],
)
def test_missing_dataset_or_hub_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[Exception],
    message: str,
) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(expected, match=f"nobody/nothing: {message}"):
        texts(Hub(kind="hub", dataset="nobody/nothing"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: Folder(kind="folder", path=path / "none"), "none: no such folder"),
        (lambda path: Folder(kind="folder", path=path), "no file matches pattern"),
        (lambda path: JsonLines(kind="jsonl", path=path / "none.jsonl"), "none.jsonl: no such"),
        (lambda path: JsonLines(kind="jsonl", path=path), "no file ends in .jsonl"),
        (lambda path: Parquet(kind="parquet", path=path / "x.parquet"), "x.parquet: no such file"),
    ],
)
def test_missing_corpus_is_one_line(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        texts(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_wrong_text_field_names_the_fields_there_are(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"content": "a", "id": 1})
    with pytest.raises(CorpusError, match=r"data\.jsonl:1: no field 'contents'; did you mean"):
        texts(JsonLines(kind="jsonl", path=path, text_field="contents"))


@pytest.mark.parametrize("name, kind", [("x.jsonl.gz", JsonLines), ("x.parquet", Parquet)])
def test_damaged_files_are_named(tmp_path: Path, name: str, kind: Any) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a"}\n' * 9)[:-9])
    with pytest.raises(CorpusError, match=f"{name}: .* restore it"):
        texts(kind(kind="jsonl" if kind is JsonLines else "parquet", path=tmp_path / name))


def test_content_hash_changes_with_content_and_names_only(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    corpus = Folder(kind="folder", path=tmp_path)
    before = corpus.content_hash()
    (tmp_path / "a.py").touch()
    assert corpus.content_hash() == before
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = corpus.content_hash()
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, corpus.content_hash()}) == 3


def names_and_texts(corpus: Corpus) -> list[tuple[str, str]]:
    return [(found.name, found.text) for found in corpus.documents() if isinstance(found, Document)]


@pytest.mark.parametrize("part_bytes", [1, 7, 20, 50, 1000])
def test_json_lines_cut_anywhere_are_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    expected = [f"text {'x' * (i % 7)} {i}" for i in range(20)]
    path = write_lines(tmp_path / "data.jsonl", *({"text": text} for text in expected))
    monkeypatch.setattr(corpora, "PART_BYTES", part_bytes)
    corpus = JsonLines(kind="jsonl", path=path)
    found = names_and_texts(corpus)
    assert [text for _, text in found] == expected
    assert len({name for name, _ in found}) == 20
    assert sum(part.num_bytes for part in corpus.parts()) == path.stat().st_size


def test_json_lines_are_read_from_zstandard(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "data.jsonl.zst"
    with pyarrow.output_stream(path, compression="zstd") as file:
        file.write(b'{"text": "a"}\n{"text": "b"}\n')
    assert texts(JsonLines(kind="jsonl", path=tmp_path)) == ["a", "b"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorpusError, match=r"data\.jsonl\.zst: damaged .* restore it"):
        texts(JsonLines(kind="jsonl", path=tmp_path))


def test_parquet_parts_are_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"text": [f"t{i}" for i in range(10)], "licence": ["mit", None] * 5})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=3)
    monkeypatch.setattr(corpora, "PART_BYTES", 1)
    corpus = Parquet(kind="parquet", path=tmp_path, licence_field="licence")
    assert len(corpus.parts()) == 4
    assert names_and_texts(corpus) == [(f"data.parquet:{i + 1}", f"t{i}") for i in range(10)]
    licences = [found.licences for found in corpus.documents() if isinstance(found, Document)]
    assert licences == [("mit",), ()] * 5


def test_folder_parts_hold_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        (tmp_path / f"{i}.py").write_text(f"x = {i}\n")
    corpus = Folder(kind="folder", path=tmp_path)
    whole = names_and_texts(corpus)
    monkeypatch.setattr(corpora, "PART_BYTES", 20)
    assert len(corpus.parts()) > 3
    assert names_and_texts(corpus) == whole


def test_hub_parts_are_the_datasets_own_files(tmp_path: Path) -> None:
    for number in range(3):
        write_lines(tmp_path / f"{number}.jsonl", *({"text": f"{number} {i}"} for i in range(4)))
    corpus = Hub(kind="hub", dataset=str(tmp_path))
    assert len(corpus.parts()) == 3
    assert sorted(texts(corpus)) == [f"{number} {i}" for number in range(3) for i in range(4)]


@pytest.mark.parametrize(
    "licence, expected", [("mit", ("mit",)), (["mit", "bsd"], ("mit", "bsd")), (None, ()), ("", ())]
)
def test_licences_are_read_from_their_field(
    tmp_path: Path, licence: Any, expected: tuple[str, ...]
) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"text": "a", "licence": licence})
    (found,) = JsonLines(kind="jsonl", path=path, licence_field="licence").documents()
    assert isinstance(found, Document)
    assert found.licences == expected


def test_licences_cannot_be_filtered_where_none_are_known(tmp_path: Path) -> None:
    values = {
        "sources": {"a": {"kind": "folder", "path": str(tmp_path)}},
        "filters": {"licences": ["mit"]},
    }
    with pytest.raises(RecipeError, match=r"sources\.a: filters\.licences needs the licence_field"):
        validate(DataConfig, values, where="test")


def test_a_large_corpus_is_known_by_sizes_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(corpora, "HASHED_BYTES", 1)
    corpus = Folder(kind="folder", path=tmp_path)
    before = corpus.content_hash()
    assert corpus.content_hash() == before
    os.utime(tmp_path / "a.py", ns=(1, 1))
    assert corpus.content_hash() != before


def test_numbers_and_nesting_beyond_the_reader_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f'{{"text": "a", "id": {"1" * 5000}}}\n{"[" * 200_000}\n{{"text": "b"}}\n')
    corpus = JsonLines(kind="jsonl", path=path)
    assert texts(corpus) == ["b"]
    reason = "too large a number, or nested too deeply"
    assert skipped(corpus) == {"data.jsonl:1": reason, "data.jsonl:2": reason}


def test_a_licence_field_without_names_is_one_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", {"text": "a", "stars": 3})
    with pytest.raises(CorpusError, match=r"data\.jsonl:1: the licence field holds a int; set"):
        texts(JsonLines(kind="jsonl", path=path, licence_field="stars"))


def test_a_parquet_file_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    table = pyarrow.table({"text": [f"text {i}" for i in range(1000)]})
    parquet.write_table(table, path, compression="snappy", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:600] = b"\xff" * 596
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"data\.parquet: .*damaged.*; restore it"):
        texts(Parquet(kind="parquet", path=path))


@pytest.mark.parametrize("pattern", ["", ".", "/abs/*.py", "**.py", "a/**b/*.py", "../*"])
def test_patterns_that_select_nothing_of_the_folder_are_refused(
    tmp_path: Path, pattern: str
) -> None:
    source = {"kind": "folder", "path": str(tmp_path), "pattern": pattern}
    with pytest.raises(RecipeError, match="pattern") as caught:
        validate(DataConfig, {"sources": {"a": source}}, where="test")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_hub_without_words_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(CorpusError, match="nobody/nothing: ValueError; set subset"):
        texts(Hub(kind="hub", dataset="nobody/nothing"))


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    write_lines(tmp_path / "a.jsonl", {"text": "a"})
    assert texts(JsonLines(kind="jsonl", path=tmp_path)) == ["a"]
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert set(Packages(kind="packages").files()) == {"a.py"}


def test_a_hub_corpus_is_known_by_what_it_reads_not_by_how_it_is_used(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", {"text": "a"})
    before = Hub(kind="hub", dataset=str(tmp_path)).content_hash()
    assert Hub(kind="hub", dataset=str(tmp_path), weight=3).content_hash() == before
    assert Hub(kind="hub", dataset=str(tmp_path), split="test").content_hash() != before
    write_lines(tmp_path / "data.jsonl", {"text": "b"})
    assert Hub(kind="hub", dataset=str(tmp_path)).content_hash() != before
