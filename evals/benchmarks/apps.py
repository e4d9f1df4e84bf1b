"""APPS (Hendrycks et al. 2021, arXiv 2105.09938): contest problems of three levels, test split.

Programs either read standard input, or have a function (or a method of a class Solution) called.
Held to be right are answers that equal the expected ones up to white space and the rounding of
floats; the original's metric also takes lines and words in any order, which we do not. Problems
that come without any tests are left out.
"""

from __future__ import annotations

import json
from decimal import Decimal
from functools import partial
from typing import Any, Final

from pydantic import AliasChoices, Field

from evals.benchmarks.formats import DEFAULT_LIMITS, Benchmark, Row, make_benchmark
from evals.benchmarks.sources import rows_from_url
from evals.errors import RecordError
from evals.oracles.shipping import function_of
from evals.oracles.values import encode
from evals.prompts import APPS, CHAT, CHAT_PLAIN
from evals.records import Question, StdinCase, Task

LEVELS: Final = ("introductory", "interview", "competition")

# The hub's data set is a script, which `datasets` no longer runs; this is the file that it reads.
URL: Final = "hf://datasets/codeparrot/apps/test.jsonl"

# Sequences are lists in JSON, whatever the program makes of them.
_AGREE: Final = """
def __mtp_code_agree__(answer, expected):
    answer = list(answer) if type(answer) is tuple else answer
    if type(answer) is list and answer and type(answer[0]) is tuple:
        answer = [list(each) if type(each) is tuple else each for each in answer]
    return any(answer == each for each in expected)
"""


class AppsRow(Row):
    """As on the hub, where tests and solutions are JSON within JSON."""

    problem_id: int = Field(validation_alias=AliasChoices("problem_id", "id"))
    question: str
    input_output: str
    solutions: str = ""
    starter_code: str = ""

    def task(self) -> Task:
        tests = _parsed(self.input_output)
        name = (tests.get("fn_name") or "").strip()
        inputs, outputs = tests.get("inputs"), tests.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list):
            raise SyntaxError("input_output has no lists of inputs and outputs")
        if len(inputs) != len(outputs):
            raise SyntaxError(f"{len(inputs)} inputs, but {len(outputs)} outputs")
        solutions = _parsed(self.solutions) if self.solutions else []
        cases = () if name else tuple(map(_stdin_case, inputs, outputs))
        return Task(
            task_id=f"APPS/{self.problem_id}",
            prompt="",
            entry_point=name,
            reference=solutions[0] if solutions else None,
            stops=(),
            program_prefix="",
            checks=_call_checks(name, inputs, outputs) if name else "",
            checked_names=(),
            question=Question(text=self.question, code=self.starter_code, reads_stdin=not name),
            stdin_cases=cases,
        )


def load(level: str) -> Benchmark:
    """From apps-test.jsonl.gz in the user's folder, or the hub: about 1 GB.

    Raises:
        BenchmarkUnavailable: it is in neither.
        RecordError: the file holds no problem of that level, or one of another format.
    """
    name = f"apps-{level}"
    source, rows = rows_from_url(name, "apps-test", URL, partial(_is_of_level, level))
    if not rows:
        raise RecordError(f"{source}: holds no problem with tests of difficulty {level}")
    return make_benchmark(name, rows, AppsRow, (APPS, CHAT, CHAT_PLAIN), source, DEFAULT_LIMITS)


def _is_of_level(level: str, row: dict[str, Any]) -> bool:
    return row.get("difficulty") == level and bool(row.get("input_output"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise SyntaxError(f"no JSON ({error})") from None


def _int(digits: str) -> int:
    # Some have more digits than int() takes.
    return int(digits) if len(digits) < 4000 else int(Decimal(digits))


def _stdin_case(stdin: Any, stdout: Any) -> StdinCase:
    """Some come as lists of lines."""
    return StdinCase(stdin=_text(stdin), stdout=_text(stdout))


def _text(lines: Any) -> str:
    return "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines)


def _call_checks(name: str, inputs: list[Any], outputs: list[Any]) -> str:
    arguments = [_with_int_keys(each) for each in inputs]
    expected = [_alternatives(each) for each in outputs]
    return (
        f"{_AGREE}"
        f"__mtp_code_decode__ = {function_of('values', 'decode')}\n"
        "try:\n"
        f"    __mtp_code_called__ = Solution().{name}\n"
        "except NameError:\n"
        f"    __mtp_code_called__ = {name}\n"
        "for arguments, expected in zip(\n"
        f"    __mtp_code_decode__({encode(arguments)!r}),\n"
        f"    __mtp_code_decode__({encode(expected)!r}),\n"
        "):\n"
        "    assert __mtp_code_agree__(__mtp_code_called__(*arguments), expected)\n"
    )


def _with_int_keys(arguments: Any) -> Any:
    """Numbers as keys are strings in JSON."""
    return [_int_keys(arguments[0])] if len(arguments) == 1 else arguments


def _int_keys(value: Any) -> Any:
    if not isinstance(value, dict) or not all(key.lstrip("-").isdecimal() for key in value):
        return value
    return {int(key): held for key, held in value.items()}


def _alternatives(output: Any) -> list[Any]:
    """What the answer may be: many outputs are wrapped into a list once more."""
    wrapped = [output[0]] if isinstance(output, list) and output else []
    return [_int_keys(each) for each in (output, *wrapped)]
