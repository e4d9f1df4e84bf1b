"""Where training text comes from: one configuration class a kind of corpus, which also reads it.

A corpus comes in parts, each of which can be read alone, by any process. The parts, and the
documents of each, are in an order that depends on nothing but the corpus's content. What could not
be used comes as `Skipped`, so that nothing is left out unseen.
"""

import gzip
import hashlib
import io
import json
import os
import sysconfig
import tokenize
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Final, Literal, NamedTuple, cast

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from mtp_code.config import Strict
from mtp_code.data.documents import Document, Skipped
from mtp_code.data.filters import FilterConfig
from mtp_code.errors import CorpusError, MachineError, did_you_mean

# A part holds about so many bytes of text, where the corpus can be cut.
PART_BYTES: Final = 32_000_000

# A corpus up to this size is known by its bytes, a larger one by sizes and times of its files.
HASHED_BYTES: Final = 1_000_000_000


class Part(NamedTuple):
    """
    Attributes:
        num_bytes: on disk, for telling progress; None where it is unknown.
        where: what the corpus finds it by; plain data.
    """

    num_bytes: int | None
    where: tuple[Any, ...]


class Corpus(Strict):
    """What all corpora have in common.

    Attributes:
        weight: share of the training rows, relative to the other sources.
        epochs: instead of a weight, how often training reads the source while it reads the others
            as often as they say; all sources say one, or none does.
        decontaminate: drop documents that contain benchmark text; copies of a benchmark's task
            are always dropped.
        filters: for this source, instead of those of the data section.
    """

    weight: PositiveFloat = 1.0
    epochs: PositiveFloat | None = None
    decontaminate: bool = True
    filters: FilterConfig | None = None

    @property
    def knows_licences(self) -> bool:
        return False

    @abstractmethod
    def parts(self) -> list[Part]:
        """
        Raises:
            CorpusError: the corpus is missing, or not in the form that the configuration says.
        """

    @abstractmethod
    def read(self, part: Part) -> Iterator[Document | Skipped]:
        """The documents of a part, line ends as newlines.

        Raises:
            CorpusError: the corpus is not in the form that the configuration says.
        """

    def held_out_with(self, name: str) -> str | None:
        """What a document is held out with, or trained on with; None is by itself."""
        return None

    def documents(self) -> Iterator[Document | Skipped]:
        """All documents, part by part."""
        for part in self.parts():
            yield from self.read(part)

    @abstractmethod
    def content_hash(self) -> str:
        """Changes when `documents` would yield something else."""


class _LocalCorpus(Corpus):
    """A corpus in files of this machine."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """The files by name."""

    def content_hash(self) -> str:
        return hash_files(self.files())


class _SourceFiles(_LocalCorpus):
    """A corpus in which a file is a document."""

    def parts(self) -> list[Part]:
        # Shuffled by name: the first megabytes then stand for the whole corpus, which is what a
        # tokenizer is trained on, and not for its packages with a.
        files = sorted(self.files().items(), key=lambda item: _scatter(item[0]))
        parts = []
        held: list[tuple[str, str]] = []
        num_bytes = 0
        for name, path in files:
            held.append((name, str(path)))
            num_bytes += path.stat().st_size
            if num_bytes >= PART_BYTES:
                parts.append(Part(num_bytes, tuple(held)))
                held, num_bytes = [], 0
        return [*parts, Part(num_bytes, tuple(held))] if held else parts

    def read(self, part: Part) -> Iterator[Document | Skipped]:
        for name, path in part.where:
            try:
                yield Document(name, _decode(Path(path)))
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
    """The Python source of installed packages.

    Attributes:
        held_out: what is held out for validation as one: files, or whole packages, so that no file
            of a package that was trained on is among them.
        only: names of folders or modules that are imported; None is all there are.
    """

    kind: Literal["packages"]
    held_out: Literal["files", "packages"] = "packages"
    only: tuple[str, ...] | None = None

    def files(self) -> dict[str, Path]:
        folders = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
        found = {
            name: path
            for folder in sorted(folders)
            for name, path in _python_files(folder, only=self._has).items()
        }
        missing = set(self.only or ()) - {self._package(name) for name in found}
        if missing:
            raise CorpusError(f"{min(missing)}: no source of such a package is installed")
        return found

    def held_out_with(self, name: str) -> str | None:
        return self._package(name) if self.held_out == "packages" else None

    def _has(self, entry: str) -> bool:
        return self.only is None or self._package(entry) in self.only

    def _package(self, name: str) -> str:
        return name.partition("/")[0].removesuffix(".py")


class Folder(_SourceFiles):
    """The files of a folder that a pattern selects."""

    kind: Literal["folder"]
    path: Path
    pattern: str = "**/*.py"

    @field_validator("pattern")
    @classmethod
    def _stays_inside_the_folder(cls, pattern: str) -> str:
        parts = Path(pattern).parts
        if not parts or Path(pattern).is_absolute() or ".." in parts:
            raise ValueError(f'{pattern!r} selects no files of the folder; try "**/*.py"')
        if any("**" in part and part != "**" for part in parts):
            raise ValueError(
                f'** stands for folders, between slashes, as in "**/*.py": {pattern!r}'
            )
        return pattern

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
    licence_field: str | None = None

    _SUFFIXES: ClassVar[tuple[str, ...]] = ()

    def files(self) -> dict[str, Path]:
        if self.path.is_dir():
            found = {
                str(path.relative_to(self.path)): path
                for path in self.path.rglob("*")
                if path.name.endswith(self._SUFFIXES) and path.is_file()
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

    @property
    def knows_licences(self) -> bool:
        return self.licence_field is not None


class JsonLines(_Records):
    """Records in JSON Lines, perhaps packed by gzip or Zstandard."""

    kind: Literal["jsonl"]

    _SUFFIXES: ClassVar[tuple[str, ...]] = tuple(
        f"{name}{packed}" for name in (".jsonl", ".json") for packed in ("", ".gz", ".zst")
    )

    def parts(self) -> list[Part]:
        parts = []
        for name, path in sorted(self.files().items()):
            size = path.stat().st_size
            if path.suffix in {".gz", ".zst"}:
                parts.append(Part(size, (name, str(path), 0, None)))
                continue
            for start in range(0, max(size, 1), PART_BYTES):
                stop = min(start + PART_BYTES, size)
                parts.append(Part(stop - start, (name, str(path), start, stop)))
        return parts

    def read(self, part: Part) -> Iterator[Document | Skipped]:
        """The lines that begin in the part; named by number, and after how many bytes."""
        name, path, start, stop = part.where
        within = name if start == 0 else f"{name}+{start}"
        with _open(Path(path)) as lines:
            if start > 0:
                lines.seek(start - 1)
                start += len(lines.readline()) - 1  # what an earlier part has begun
            place = start
            try:
                for number, line in enumerate(lines, start=1):
                    if stop is not None and place >= stop:
                        break
                    place += len(line)
                    yield self._parse(f"{within}:{number}", line)
            except (OSError, EOFError, zlib.error) as error:
                if path.endswith((".gz", ".zst")):
                    raise CorpusError(
                        f"{path}: damaged packed file ({error}); restore it"
                    ) from None
                raise

    def _parse(self, name: str, line: bytes) -> Document | Skipped:
        if not line.strip():
            return Skipped(name, "empty")
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            return Skipped(name, "undecodable")
        except json.JSONDecodeError:
            return Skipped(name, "not JSON")
        except (ValueError, RecursionError):  # a number of thousands of digits; deep nesting
            return Skipped(name, "too large a number, or nested too deeply")
        if not isinstance(record, dict):
            return Skipped(name, "not a record")
        return _document(name, record, self.text_field, self.licence_field)


class Parquet(_Records):
    """Records in Parquet files."""

    kind: Literal["parquet"]

    _SUFFIXES: ClassVar[tuple[str, ...]] = (".parquet",)

    def parts(self) -> list[Part]:
        parts = []
        for name, path in sorted(self.files().items()):
            with _parquet_file(path) as file:
                groups: list[int] = []
                num_bytes = first_row = num_rows = 0
                for group in range(file.num_row_groups):
                    metadata = file.metadata.row_group(group)
                    groups.append(group)
                    num_bytes += metadata.total_byte_size
                    num_rows += metadata.num_rows
                    if num_bytes >= PART_BYTES or group == file.num_row_groups - 1:
                        parts.append(Part(num_bytes, (name, str(path), tuple(groups), first_row)))
                        groups, num_bytes, first_row = [], 0, num_rows
        return parts

    def read(self, part: Part) -> Iterator[Document | Skipped]:
        name, path, groups, number = part.where
        columns = [field for field in (self.text_field, self.licence_field) if field is not None]
        with _parquet_file(Path(path)) as file:
            for column in columns:
                _field(dict.fromkeys(file.schema_arrow.names), column, where=path)
            for batch in file.iter_batches(batch_size=1024, row_groups=groups, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield _document(f"{name}:{number}", record, self.text_field, self.licence_field)


class Hub(Corpus):
    """A dataset on the Hugging Face hub, or a local folder that `datasets` can load, streamed."""

    kind: Literal["hub"]
    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    licence_field: str | None = None
    max_documents: PositiveInt | None = None

    @property
    def knows_licences(self) -> bool:
        return self.licence_field is not None

    def content_hash(self) -> str:
        # Name the revision where the dataset may change: what the hub holds is not hashed.
        which = [self.dataset, self.subset, self.split, self.revision]
        folder = Path(self.dataset)
        if folder.is_dir():
            found = (path for path in folder.rglob("*") if path.is_file())
            which.append(hash_files({str(path.relative_to(folder)): path for path in found}))
        return hashlib.sha256(json.dumps(which).encode()).hexdigest()

    def parts(self) -> list[Part]:
        """The dataset's own files, unless only its first documents are asked for."""
        if self.max_documents is not None:
            return [Part(None, (0, 1))]
        with self._told_in_one_line():
            num_shards = self._stream().num_shards
        return [Part(None, (index, num_shards)) for index in range(num_shards)]

    def read(self, part: Part) -> Iterator[Document | Skipped]:
        index, num_shards = part.where
        with self._told_in_one_line():
            stream = self._stream()
            if num_shards > 1:
                stream = stream.shard(num_shards=num_shards, index=index)
            within = self.dataset if num_shards == 1 else f"{self.dataset}/{index}"
            for number, record in enumerate(stream, start=1):
                yield _document(f"{within}:{number}", record, self.text_field, self.licence_field)
                if number == self.max_documents:
                    return

    def _stream(self) -> Any:
        import datasets  # a second to import, and only this corpus needs it

        return datasets.load_dataset(
            self.dataset, self.subset, split=self.split, revision=self.revision, streaming=True
        )

    @contextmanager
    def _told_in_one_line(self) -> Iterator[None]:
        try:
            yield
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
                f"{self.dataset}: {_first_line(error)}; set subset and split to match"
            ) from None


CorpusConfig = Annotated[
    StandardLibrary | Packages | Folder | JsonLines | Parquet | Hub, Field(discriminator="kind")
]

# Where installed packages lie inside the standard library's folder.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def _python_files(
    folder: Path,
    left_out: frozenset[str] = frozenset(),
    only: Callable[[str], bool] = lambda entry: True,
) -> dict[str, Path]:
    """By name below the folder.

    Args:
        left_out: names of folders, wherever they are.
        only: which of the folder's own entries count.
    """
    skipped = left_out | {"__pycache__"}
    found: dict[str, Path] = {}
    # Thousands of folders: those that do not count are not looked into, as rglob would.
    for place, folders, names in os.walk(folder):
        is_top = place == str(folder)
        folders[:] = [
            name for name in folders if name not in skipped and (not is_top or only(name))
        ]
        inside = Path(place).relative_to(folder)
        for name in names:
            if name.endswith(".py") and (not is_top or only(name)):
                path = Path(place, name)
                if path.is_file():
                    found[str(inside / name)] = path
    return found


def _scatter(name: str) -> bytes:
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=16).digest()


def _decode(path: Path) -> str:
    """The text of a file: UTF-8 unless a Python file declares otherwise (PEP 263)."""
    data = path.read_bytes()
    encoding = "utf-8-sig"
    # Few declare one, in the first two lines, and asking takes longer than reading the file.
    if path.suffix in {".py", ".pyi"} and b"coding" in b"".join(data.split(b"\n", 2)[:2]):
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return _with_newlines(data.decode(encoding))


def _document(
    name: str, record: dict[str, Any], text_field: str, licence_field: str | None
) -> Document | Skipped:
    text = _field(record, text_field, where=name)
    if text is None:
        return Skipped(name, "empty")
    if not isinstance(text, str):
        return Skipped(name, "not text")
    licences = None if licence_field is None else _field(record, licence_field, where=name)
    return Document(name, _with_newlines(text), _names(licences, where=name))


def _names(licences: Any, where: str) -> tuple[str, ...]:
    """What a licence field holds: a name, a list of them, or nothing."""
    if licences is None or licences == "":
        return ()
    if isinstance(licences, str):
        return (licences,)
    if not isinstance(licences, list):
        raise CorpusError(
            f"{where}: the licence field holds a {type(licences).__name__}; set licence_field to "
            "one of names, or of lists of names"
        )
    return tuple(map(str, licences))


def _with_newlines(text: str) -> str:
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _field(record: dict[str, Any], field: str, where: str) -> Any:
    if field not in record:
        raise CorpusError(f"{where}: no field {field!r}{did_you_mean(field, record)}")
    return record[field]


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import pyarrow  # type: ignore[import-untyped]  # comes with datasets

        return cast(IO[bytes], io.BufferedReader(pyarrow.input_stream(path, compression="zstd")))
    return path.open("rb")


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    import pyarrow  # comes with datasets
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{path}: not a Parquet file, or damaged: {_first_line(error)}; restore it"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def hash_files(named: Mapping[str, Path]) -> str:
    """Changes with names and content, of many bytes with sizes and times."""
    files = sorted(named.items())
    stats = [path.stat() for _, path in files]
    is_small = sum(stat.st_size for stat in stats) <= HASHED_BYTES
    combined = hashlib.sha256()
    for (name, path), stat in zip(files, stats, strict=True):
        known_by = _sha256(path) if is_small else f"{stat.st_size} {stat.st_mtime_ns}"
        combined.update(f"{name}\n{known_by}\n".encode(errors="surrogateescape"))
    return combined.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
