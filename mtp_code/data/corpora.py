"""Where training text comes from: one configuration class a kind of corpus, which also reads it.

A corpus yields its documents in an order that depends on nothing but its content, and yields what
it could not use as `Skipped`, so that nothing is left out unseen.
"""

import gzip
import hashlib
import io
import json
import sysconfig
import tokenize
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt

from mtp_code.config import Strict
from mtp_code.errors import CorpusError, MachineError, did_you_mean


class Document(NamedTuple):
    """`name` says where in its source the text stands: a path, or a file and line."""

    name: str
    text: str


class Skipped(NamedTuple):
    name: str
    reason: str


class Corpus(Strict):
    """What all corpora have in common.

    Attributes:
        weight: share of the training rows, relative to the other sources.
        decontaminate: drop documents that contain benchmark text; copies of a benchmark's task
            are always dropped.
    """

    weight: PositiveFloat = 1.0
    decontaminate: bool = True

    @abstractmethod
    def documents(self) -> Iterator[Document | Skipped]:
        """All documents, line ends as newlines.

        Raises:
            CorpusError: the corpus is missing, or not in the form that the configuration says.
        """

    @abstractmethod
    def content_hash(self) -> str:
        """Changes when `documents` would yield something else."""


class _LocalCorpus(Corpus):
    """A corpus in files of this machine."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """The files by name."""

    def content_hash(self) -> str:
        combined = hashlib.sha256()
        for name, path in sorted(self.files().items()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            combined.update(f"{name}\n{digest}\n".encode())
        return combined.hexdigest()


class _SourceFiles(_LocalCorpus):
    """A corpus in which a file is a document."""

    def documents(self) -> Iterator[Document | Skipped]:
        # Shuffled by name: the first megabytes then stand for the whole corpus, which is what a
        # tokenizer is trained on, and not for its packages with a.
        files = sorted(self.files().items(), key=lambda item: _scatter(item[0]))
        for name, path in files:
            try:
                yield Document(name, _decode(path))
            except (UnicodeDecodeError, SyntaxError, LookupError):
                yield Skipped(name, "undecodable")


class StandardLibrary(_SourceFiles):
    """The running interpreter's own standard library."""

    kind: Literal["stdlib"]
    include_tests: bool = False

    # Tests, programs with their tests, vendored packages, and documentation in string literals.
    _LEFT_OUT: ClassVar[frozenset[str]] = frozenset(
        {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
        | {"pydoc_data"}
    )

    def files(self) -> dict[str, Path]:
        folder = Path(sysconfig.get_path("stdlib"))
        left_out = _INSTALLED if self.include_tests else _INSTALLED | self._LEFT_OUT
        return _python_files(folder, left_out)


class Packages(_SourceFiles):
    """The Python source of all installed packages."""

    kind: Literal["packages"]

    def files(self) -> dict[str, Path]:
        folders = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
        return {
            name: path
            for folder in sorted(folders)
            for name, path in _python_files(folder, frozenset()).items()
        }


class Folder(_SourceFiles):
    """The files of a folder that a pattern selects."""

    kind: Literal["folder"]
    path: Path
    pattern: str = "**/*.py"

    def files(self) -> dict[str, Path]:
        if not self.path.is_dir():
            raise CorpusError(f"{self.path}: no such folder; set path to a folder of source files")
        found = {
            str(path.relative_to(self.path)): path
            for path in self.path.glob(self.pattern)
            if path.is_file()
        }
        if not found:
            raise CorpusError(f"{self.path}: no file matches pattern {self.pattern!r}; change it")
        return found


class _Records(_LocalCorpus):
    """A corpus in which a file holds many documents; `path` is a file or a folder of them."""

    path: Path
    text_field: str = "text"

    _SUFFIXES: ClassVar[tuple[str, ...]] = ()

    def files(self) -> dict[str, Path]:
        if self.path.is_dir():
            found = {
                str(path.relative_to(self.path)): path
                for path in self.path.rglob("*")
                if path.name.endswith(self._SUFFIXES)
            }
            if not found:
                raise CorpusError(
                    f"{self.path}: no file ends in {' or '.join(self._SUFFIXES)}; set path to a "
                    "folder with such files"
                )
            return found
        if not self.path.is_file():
            raise CorpusError(f"{self.path}: no such file; set path to a file or a folder of them")
        return {self.path.name: self.path}

    def _document(self, name: str, record: Any) -> Document | Skipped:
        if not isinstance(record, dict):
            return Skipped(name, "not a record")
        text = _field(record, self.text_field, where=name)
        return _document(name, text)


class JsonLines(_Records):
    """Records in JSON Lines, perhaps gzipped."""

    kind: Literal["jsonl"]

    _SUFFIXES: ClassVar[tuple[str, ...]] = (".jsonl", ".jsonl.gz", ".json.gz")

    def documents(self) -> Iterator[Document | Skipped]:
        for name, path in sorted(self.files().items()):
            with _open(path) as lines:
                try:
                    for number, line in enumerate(lines, start=1):
                        yield self._parse(f"{name}:{number}", line)
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise CorpusError(f"{path}: damaged gzip file ({error}); restore it") from None

    def _parse(self, name: str, line: bytes) -> Document | Skipped:
        if not line.strip():
            return Skipped(name, "empty")
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            return Skipped(name, "undecodable")
        except json.JSONDecodeError:
            return Skipped(name, "not JSON")
        return self._document(name, record)


class Parquet(_Records):
    """Records in Parquet files."""

    kind: Literal["parquet"]

    _SUFFIXES: ClassVar[tuple[str, ...]] = (".parquet",)

    def documents(self) -> Iterator[Document | Skipped]:
        # Comes with datasets.
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet

        for name, path in sorted(self.files().items()):
            try:
                with parquet.ParquetFile(path) as file:
                    _field(dict.fromkeys(file.schema_arrow.names), self.text_field, where=str(path))
                    number = 0
                    for batch in file.iter_batches(batch_size=1024, columns=[self.text_field]):
                        for text in batch.column(0).to_pylist():
                            number += 1
                            yield _document(f"{name}:{number}", text)
            except pyarrow.ArrowException as error:
                raise CorpusError(f"{path}: not a Parquet file: {error}; restore it") from None


class Hub(Corpus):
    """A dataset on the Hugging Face hub, or a local folder that `datasets` can load, streamed."""

    kind: Literal["hub"]
    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    max_documents: PositiveInt | None = None

    def content_hash(self) -> str:
        # Name the revision where the dataset may change: what the hub holds is not hashed.
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def documents(self) -> Iterator[Document | Skipped]:
        for number, record in enumerate(self._records(), start=1):
            name = f"{self.dataset}:{number}"
            yield _document(name, _field(record, self.text_field, where=name))
            if number == self.max_documents:
                return

    def _records(self) -> Iterator[dict[str, Any]]:
        import datasets  # a second to import, and only this corpus needs it

        try:
            yield from datasets.load_dataset(
                self.dataset,
                self.subset,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
        except FileNotFoundError:
            raise CorpusError(
                f"{self.dataset}: no such dataset on the hub, or it asks for a login; "
                "check its name, or use a corpus of files"
            ) from None
        except ConnectionError:
            raise MachineError(
                f"{self.dataset}: the hub is out of reach; connect, or use a corpus of files"
            ) from None
        except ValueError as error:
            raise CorpusError(
                f"{self.dataset}: {str(error).splitlines()[0]}; set subset and split to match"
            ) from None


CorpusConfig = Annotated[
    StandardLibrary | Packages | Folder | JsonLines | Parquet | Hub, Field(discriminator="kind")
]

# Where installed packages lie inside the standard library's folder.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def _python_files(folder: Path, left_out: frozenset[str]) -> dict[str, Path]:
    skipped = left_out | {"__pycache__"}
    names = ((path.relative_to(folder), path) for path in folder.rglob("*.py"))
    return {str(name): path for name, path in names if skipped.isdisjoint(name.parts)}


def _scatter(name: str) -> bytes:
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).digest()


def _decode(path: Path) -> str:
    """The text of a file: UTF-8 unless a Python file declares otherwise (PEP 263)."""
    data = path.read_bytes()
    encoding = "utf-8-sig"
    if path.suffix in {".py", ".pyi"}:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return _with_newlines(data.decode(encoding))


def _document(name: str, text: Any) -> Document | Skipped:
    if text is None:
        return Skipped(name, "empty")
    if not isinstance(text, str):
        return Skipped(name, "not text")
    return Document(name, _with_newlines(text))


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _field(record: dict[str, Any], field: str, where: str) -> Any:
    if field not in record:
        raise CorpusError(f"{where}: no text_field {field!r}{did_you_mean(field, record)}")
    return record[field]


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
