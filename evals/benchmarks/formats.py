"""Two record formats of code benchmarks, HumanEval's and MBPP's: rows → tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from evals.errors import RecordError, UnusableRowError
from evals.program import can_fail, humaneval_checks, mbpp_checks, require_compiles
from evals.prompts import (
    CHAT,
    CHAT_PLAIN,
    CHAT_REPLY,
    HUMANEVAL_RAW,
    HUMANEVAL_STRIPPED,
    MBPP_3_SHOT,
    MBPP_DOCSTRING,
    Example,
    PromptFormat,
    put,
)
from evals.records import FileRow, LongInteger, Question, Task, validated
from evals.text import one_line
from sandbox import Limits


@dataclass(frozen=True)
class Benchmark:
    """Tasks, and what a score must keep of where they come from and how they are put.

    `data_sha256` is of the rows, whatever file they came in; see `fingerprint`. `is_custom` says
    that they are a user's own, of which no test holds that the references pass. `formats` are
    those that its questions can be put in, see `evals.prompts.with_format`; some show `examples`.
    """

    name: str
    tasks: tuple[Task, ...]
    data_sha256: str
    prompt_format: str
    stops: tuple[str, ...]
    post_processing: str
    limits: Limits
    is_custom: bool = False
    formats: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()


# CPU time, so that a busy machine changes no verdict. The slowest reference solution (MBPP 123)
# takes 5 s on a slow machine, all others about 1 s at most.
DEFAULT_LIMITS: Final = Limits(cpu_s=10.0)


_ASSERTS_NOTHING: Final = "asserts nothing, so that every program would pass; add an assert"


class Row(BaseModel):
    """A row of a foreign file: strict on what is read, fields beyond it pass."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def task(self) -> Task | None:
        """The task, before its question is put in some format; None if it is to be left out.

        Raises:
            UnusableRowError: its fields make no task.
            SyntaxError: its tests are no Python.
            ValueError, RecursionError, MemoryError: Python cannot read them.
        """
        raise NotImplementedError


class HumanEvalRow(Row):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str | None = None
    test: str
    origin: str | None = None
    beside: Annotated[bool, Field(strict=True)] = False

    def task(self) -> Task:
        checks, names = humaneval_checks(self.prompt, self.test, self.entry_point)
        if not can_fail(self.test, names):
            raise UnusableRowError(f"test: {_ASSERTS_NOTHING}")
        return Task(
            task_id=self.task_id,
            prompt="",
            entry_point=self.entry_point,
            reference=self.canonical_solution,
            stops=(),
            program_prefix=self.prompt,
            checks=checks,
            checked_names=names,
            question=Question(code=self.prompt),
            origin=self.origin,
            beside=self.beside,
        )


class MbppRow(Row):
    """Either edition: the sanitized one names the text `prompt`, and has imports."""

    task_id: Annotated[int, Field(strict=True)] | str  # or true would be 1
    text: str = Field(validation_alias=AliasChoices("text", "prompt"))
    code: str
    test_list: tuple[str, ...] = Field(min_length=1)
    test_setup_code: str = ""
    test_imports: tuple[str, ...] = ()
    origin: str | None = None
    beside: Annotated[bool, Field(strict=True)] = False

    def task(self) -> Task:
        # 972 of the 974 solutions have CRLF line ends, as have the set-up and some texts.
        text, code, setup = map(with_unix_ends, (self.text, self.code, self.test_setup_code))
        asserts = [*map(with_unix_ends, self.test_list)]
        checks, names = mbpp_checks(self.test_imports, setup, asserts, code)
        if not can_fail("\n".join([setup, *asserts]), names):
            raise UnusableRowError(f"test_list: {_ASSERTS_NOTHING}")
        return Task(
            # As EvalPlus spells it, so that its users' samples fit.
            task_id=f"Mbpp/{self.task_id}" if isinstance(self.task_id, int) else self.task_id,
            prompt="",
            entry_point=names[0],
            reference=code,
            stops=(),
            program_prefix="",
            checks=checks,
            checked_names=names,
            question=Question(text=text, asserts=tuple(asserts)),
            origin=self.origin,
            beside=self.beside,
        )


def humaneval_benchmark(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    source: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Benchmark:
    """A benchmark from rows in HumanEval's format.

    Raises:
        RecordError: a row is not of that format; told as a line of `source`.
    """
    formats = (HUMANEVAL_RAW, HUMANEVAL_STRIPPED, CHAT, CHAT_PLAIN, CHAT_REPLY)
    return make_benchmark(name, rows, HumanEvalRow, formats, source or name, limits)


def mbpp_benchmark(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    source: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    examples: Sequence[Mapping[str, Any]] = (),
) -> Benchmark:
    """A benchmark from rows in MBPP's format; `examples` are rows that prompts may show.

    Raises:
        RecordError: a row is not of that format; told as a line of `source`.
    """
    source = source or name
    shown = [_task_of(MbppRow, row, f"{source}, examples") for row in examples]
    formats = (MBPP_DOCSTRING, *([MBPP_3_SHOT] if shown else []), CHAT, CHAT_PLAIN, CHAT_REPLY)
    return make_benchmark(
        name,
        rows,
        MbppRow,
        formats,
        source,
        limits,
        tuple(Example(task.question, task.reference or "") for task in shown if task),
    )


def make_benchmark(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    kind: type[Row],
    formats: Sequence[PromptFormat],
    source: str,
    limits: Limits,
    examples: tuple[Example, ...] = (),
) -> Benchmark:
    """A benchmark from rows of any kind that makes tasks, put in the first of the formats.

    Raises:
        RecordError: a row is not of that kind; told by its place in its file, or in `source`.
    """
    tasks: dict[str, Task] = {}
    for number, row in enumerate(rows, start=1):
        where = row.where if isinstance(row, FileRow) else f"{source}:{number}"
        task = _task_of(kind, row, where)
        if task is None:
            continue
        if task.task_id in tasks:
            raise RecordError(f"{where}: task {one_line(task.task_id)} was given before")
        tasks[task.task_id] = put(task, formats[0], examples)
    return Benchmark(
        name=name,
        tasks=tuple(tasks.values()),
        data_sha256=fingerprint(rows),
        prompt_format=formats[0].name,
        stops=formats[0].stops,
        post_processing=formats[0].post_processing,
        limits=limits,
        formats=tuple(each.name for each in formats),
        examples=examples,
    )


def _task_of(kind: type[Row], row: Mapping[str, Any], where: str) -> Task | None:
    try:
        task = validated(kind, row, where).task()
        if task is not None and task.beside:
            # What such checks break by is taken for a program's doing, so these would fail all.
            require_compiles(task.checks)
        return task
    except UnusableRowError as error:
        raise RecordError(f"{where}: {error}") from None
    except SyntaxError as error:
        raise RecordError(
            f"{where}: its tests are no Python: {one_line(str(error), 200)}"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        # Half of a surrogate pair, say, or a sum of ten thousand terms.
        reason = one_line(str(error), 200) or "too long or too deep"
        raise RecordError(f"{where}: Python cannot read its tests: {reason}") from None


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of the rows as such: packing, key order and spacing of their file leave it alone."""
    digest = hashlib.sha256()
    for row in rows:
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), default=_digits)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _digits(value: Any) -> str:
    assert isinstance(value, LongInteger)  # all else in rows is plain
    return value.digits


def with_unix_ends(text: str) -> str:
    # Some texts end in half of one.
    return text.replace("\r\n", "\n").replace("\r", "\n")
