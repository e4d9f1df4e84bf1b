"""Two record formats of code benchmarks, HumanEval's and MBPP's: rows → tasks.

Prompt formats and stop strings have names, kept with every score: a prompt's last line end alone
has moved published scores by tens of points.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from evals.errors import RecordError
from evals.program import CUT_AT_STOPS, humaneval_checks, mbpp_checks
from evals.records import Task, validated
from sandbox import Limits


@dataclass(frozen=True)
class Benchmark:
    """Tasks, and what a score must keep of where they come from and how they are put.

    `data_sha256` is of the rows, whatever file they came in; see `fingerprint`. `is_custom` says
    that they are a user's own, of which no test holds that the references pass.
    """

    name: str
    tasks: tuple[Task, ...]
    data_sha256: str
    prompt_format: str
    stops: tuple[str, ...]
    post_processing: str
    limits: Limits
    is_custom: bool = False


@dataclass(frozen=True)
class PromptFormat:
    name: str
    stops: tuple[str, ...]


# The prompt as it is, with its line end. Stops: Chen et al. 2021, arXiv 2107.03374, section 2.
HUMANEVAL_RAW: Final = PromptFormat("humaneval raw", ("\nclass", "\ndef", "\n#", "\nif", "\nprint"))

# Zero-shot: a docstring of the task's text and its first assert. Prompt: Fried et al. 2022
# (InCoder), arXiv 2204.05999, section 5.2; stops as bigcode-evaluation-harness has them.
MBPP_DOCSTRING: Final = PromptFormat(
    "mbpp docstring with one assert",
    ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
)

# CPU time, so that a busy machine changes no verdict. The slowest reference solution (MBPP 123)
# takes 5 s on a slow machine, all others about 1 s at most.
DEFAULT_LIMITS: Final = Limits(cpu_s=10.0)


class Row(BaseModel):
    """A row of a foreign file: strict on what is read, fields beyond it pass."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class HumanEvalRow(Row):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str | None = None
    test: str

    def task(self) -> Task:
        checks, names = humaneval_checks(self.prompt, self.test, self.entry_point)
        return Task(
            task_id=self.task_id,
            prompt=self.prompt,
            entry_point=self.entry_point,
            reference=self.canonical_solution,
            stops=HUMANEVAL_RAW.stops,
            program_prefix=self.prompt,
            checks=checks,
            checked_names=names,
        )


class MbppRow(Row):
    """Either edition: the sanitized one names the text `prompt`, and has imports."""

    task_id: int | str
    text: str = Field(validation_alias=AliasChoices("text", "prompt"))
    code: str
    test_list: tuple[str, ...] = Field(min_length=1)
    test_setup_code: str = ""
    test_imports: tuple[str, ...] = ()

    def task(self) -> Task:
        # 972 of the 974 solutions have CRLF line ends, as have the set-up and some texts.
        text, code, setup = map(_with_unix_ends, (self.text, self.code, self.test_setup_code))
        asserts = [*map(_with_unix_ends, self.test_list)]
        checks, names = mbpp_checks(self.test_imports, setup, asserts, code)
        return Task(
            # As EvalPlus spells it, so that its users' samples fit.
            task_id=f"Mbpp/{self.task_id}" if isinstance(self.task_id, int) else self.task_id,
            prompt=f'"""\n{text}\n{asserts[0]}\n"""\n',
            entry_point=names[0],
            reference=code,
            stops=MBPP_DOCSTRING.stops,
            program_prefix="",
            checks=checks,
            checked_names=names,
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
    return _benchmark(name, rows, HumanEvalRow, HUMANEVAL_RAW, source or name, limits)


def mbpp_benchmark(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    source: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Benchmark:
    """A benchmark from rows in MBPP's format.

    Raises:
        RecordError: a row is not of that format; told as a line of `source`.
    """
    return _benchmark(name, rows, MbppRow, MBPP_DOCSTRING, source or name, limits)


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of the rows as such: packing, key order and spacing of their file leave it alone."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _benchmark(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    kind: type[HumanEvalRow] | type[MbppRow],
    prompt_format: PromptFormat,
    source: str,
    limits: Limits,
) -> Benchmark:
    tasks: dict[str, Task] = {}
    for number, row in enumerate(rows, start=1):
        try:
            task = validated(kind, row, f"{source}:{number}").task()
        except SyntaxError as error:
            raise RecordError(f"{source}:{number}: its tests are no Python: {error}") from None
        if task.task_id in tasks:
            raise RecordError(f"{source}:{number}: task {task.task_id} was given before")
        tasks[task.task_id] = task
    return Benchmark(
        name=name,
        tasks=tuple(tasks.values()),
        data_sha256=fingerprint(rows),
        prompt_format=prompt_format.name,
        stops=prompt_format.stops,
        post_processing=CUT_AT_STOPS,
        limits=limits,
    )


def _with_unix_ends(text: str) -> str:
    return text.replace("\r\n", "\n")
