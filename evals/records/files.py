"""Records in files: one a line, or one a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from evals.errors import CutOffError, RecordError, did_you_mean
from evals.files import json_line, write_whole
from evals.records.kinds import (
    Baseline,
    Judging,
    ReferenceBits,
    Sample,
    Sampling,
    Score,
    Strict,
    Verdict,
)
from evals.records.rows import rows_of
from evals.text import one_line, quoted

Model = TypeVar("Model", bound=BaseModel)


def read_samples(
    path: Path, task_ids: Collection[str], on_cut_off: Callable[[str], None]
) -> Iterator[Sample]:
    """Samples in file order, of either format, gzipped or not.

    An index left out is counted up per task. A broken last line is not yielded: `on_cut_off`
    gets the one line of text that names it.

    Raises:
        RecordError: a line is no sample, names an unknown task, or repeats a task and index;
            or the file holds no whole sample.
    """
    known = frozenset(task_ids)
    seen: dict[str, _Indices] = {}
    num_samples = 0
    try:
        for where, row in rows_of(path):
            task_id = row.get("task_id")
            if not isinstance(task_id, str):
                what = f"task_id is {quoted(task_id)}" if "task_id" in row else "has no task_id"
                raise RecordError(
                    f"{where}: {what}; expected a task's name, such as {one_line(min(known))}"
                )
            if task_id not in known:
                raise RecordError(
                    f"{where}: unknown task {quoted(task_id)}{did_you_mean(task_id, task_ids)}"
                )
            indices = seen.setdefault(task_id, _Indices())
            # Other fields pass: users of both harnesses add their own (tags, results).
            fields = {name: row[name] for name in Sample.model_fields if name in row}
            sample = validated(Sample, {"index": len(indices), **fields}, where)
            if not indices.add(sample.index):
                raise RecordError(
                    f"{where}: sample {sample.index} of {one_line(task_id)} was given before; "
                    "number each task's samples 0, 1, …, or leave index out"
                )
            num_samples += 1
            yield sample
    except CutOffError as error:
        if num_samples == 0:
            raise
        before = "sample" if num_samples == 1 else f"{num_samples} samples"
        on_cut_off(f"{error}; kept the {before} before it")
    if num_samples == 0:
        raise RecordError(f"{path}: holds no samples; expected one a line, as JSON")


class _Indices:
    """A task's indices so far: of those that come in order only the number is held."""

    def __init__(self) -> None:
        self._end = 0  # of those from 0 on that are all there
        self._beyond: set[int] = set()

    def __len__(self) -> int:
        return self._end + len(self._beyond)

    def add(self, index: int) -> bool:
        """Whether it is a new one."""
        if index < self._end or index in self._beyond:
            return False
        self._beyond.add(index)
        while self._end in self._beyond:
            self._beyond.remove(self._end)
            self._end += 1
        return True


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    with write_whole(path) as file:
        for sample in samples:
            file.write(json_line(sample.model_dump(exclude_none=True)))


def read_verdicts(path: Path) -> Iterator[Verdict]:
    """Verdicts in file order.

    Raises:
        RecordError: a line is no verdict, or the file is empty.
    """
    verdict = None
    for where, row in rows_of(path):
        verdict = validated(Verdict, row, where)
        yield verdict
    if verdict is None:
        raise RecordError(f"{path}: holds no verdicts; judge some samples first")


def read_record(kind: type[Model], path: Path) -> Model:
    """The one record of a JSON file.

    Raises:
        RecordError: the file is missing, no JSON, or not such a record.
    """
    wanted = _name_of(kind)
    try:
        row = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; expected {wanted}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON ({error}); expected {wanted}") from None
    if not isinstance(row, dict):
        raise RecordError(f"{path}: holds {type(row).__name__}; expected {wanted}")
    try:
        return validated(kind, row, str(path))
    except RecordError:
        for other in _NAMES.keys() - {kind}:
            if _is_record(other, row):
                raise RecordError(f"{path}: holds {_name_of(other)}; expected {wanted}") from None
        raise


# Of records that are files of their own, for messages.
_NAMES: Final[dict[type[BaseModel], str]] = {
    Sampling: "how samples were drawn, as mtp-code sample writes it",
    Judging: "how samples were judged, as mtp-code judge writes it",
    ReferenceBits: "reference bits, as mtp-code reference-bits writes them",
    Score: "scores, as mtp-code score writes them",
    Baseline: "a baseline, as mtp-code baseline writes it",
}


def _name_of(kind: type[BaseModel]) -> str:
    return _NAMES.get(kind, f"{kind.__name__} as JSON")


def _is_record(kind: type[BaseModel], row: dict[str, Any]) -> bool:
    try:
        kind.model_validate(row)
    except ValidationError:
        return False
    return True


def write_record(path: Path, record: Strict) -> None:
    with write_whole(path) as file:
        file.write(_indented(record.as_json()).encode("ascii") + b"\n")


def _indented(value: Any, line_start: str = "\n") -> str:
    """JSON as `json.dumps` writes it with an indent of 1, but for lists of numbers.

    These stand on one line, a task's numbers, for whoever reads the difference of two files.
    """
    inside = f"{line_start} "
    if isinstance(value, dict) and value:
        parts = (f"{_as_key(key)}: {_indented(held, inside)}" for key, held in value.items())
        return f"{{{inside}{f',{inside}'.join(parts)}{line_start}}}"
    if isinstance(value, list | tuple) and not all(map(_is_number, value)):
        parts = (_indented(held, inside) for held in value)
        return f"[{inside}{f',{inside}'.join(parts)}{line_start}]"
    return json.dumps(value)


def _as_key(key: Any) -> str:
    return json.dumps(key if isinstance(key, str) else json.dumps(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differences(ours: Any, theirs: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: dotted field and both values, None where one lacks it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours | theirs:
            place = f"{field}.{key}" if field else key
            yield from differences(ours.get(key), theirs.get(key), place)
    elif ours != theirs:
        yield field, ours, theirs


def validated(kind: type[Model], row: Mapping[str, Any], where: str) -> Model:
    """
    Raises:
        RecordError: the row is no such record; `where` begins the line that says why.
    """
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        # An unknown key first: where one is misspelt, the right one is missing too.
        errors = error.errors(include_url=False)
        first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
        field = one_line(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            known = [info.alias or name for name, info in kind.model_fields.items()]
            raise RecordError(f"{where}: unknown key {field}{did_you_mean(field, known)}") from None
        message = one_line(first["msg"].removeprefix("Value error, "), 400)
        raise RecordError(f"{where}: {field + ': ' if field else ''}{message}") from None
