"""APPS (Hendrycks et al. 2021, arXiv 2105.09938): contest problems of three levels, test split.

Programs either read standard input, or have a function (or a method of a class Solution) called.
What is written has to be as expected up to white space and the rounding of numbers, see
`evals.stdin_cases`; what is returned, up to the rounding of floats, and lists may be tuples. There
the original's metric asks for the same floats, and takes True for 1.

Problems are left out that come without any tests, which all programs would pass, or with unlike
numbers of inputs and outputs: with fewer outputs than inputs no program passes the original's
metric, and outputs beyond are ignored.
"""

from __future__ import annotations

import builtins
import json
import keyword
import re
from decimal import Decimal
from functools import partial
from typing import Any, Final

from pydantic import AliasChoices, Field

from evals.benchmarks.formats import (
    DEFAULT_LIMITS,
    Benchmark,
    Row,
    make_benchmark,
)
from evals.benchmarks.sources import rows_from_url
from evals.errors import RecordError, UnusableRowError
from evals.oracles.shipping import function_of
from evals.oracles.values import encode
from evals.prompts import APPS, CHAT, CHAT_PLAIN, CHAT_REPLY
from evals.records import Question, StdinCase, Task
from evals.stdin_cases import ATOL, RTOL

LEVELS: Final = ("introductory", "interview", "competition")

# The hub's data set is a script, which `datasets` no longer runs; this is the file that it reads.
URL: Final = "hf://datasets/codeparrot/apps/test.jsonl"

# Sequences are lists in JSON, whatever the program makes of them. Only where both sides are plain
# data of known types is anything asked but `==`: a recording (sandbox.recording) sees no more.
_AGREE: Final = f"""
def __mtp_code_agree__(answer, right):
    if type(right) is list and (type(answer) is list or isinstance(answer, tuple)):
        return len(answer) == len(right) and all(map(__mtp_code_agree__, answer, right))
    if type(right) is dict and type(answer) is dict:
        return (
            answer.keys() == right.keys()
            and not any(type(key) is bool for key in answer)
            and all(__mtp_code_agree__(answer[key], right[key]) for key in right)
        )
    if type(right) is bool or type(answer) is bool:
        return answer is right
    if type(right) is float and (type(answer) is float or type(answer) is int):
        margin = {ATOL} + {RTOL} * abs(right)
        return answer == right or right - margin <= answer <= right + margin
    return answer == right
"""


class AppsRow(Row):
    """As on the hub, where tests and solutions are JSON within JSON."""

    problem_id: int = Field(validation_alias=AliasChoices("problem_id", "id"))
    question: str
    input_output: str
    solutions: str = ""
    starter_code: str = ""

    def task(self) -> Task | None:
        name, inputs, outputs = _tests(self.input_output)
        if not inputs or len(inputs) != len(outputs):
            return None
        cases = () if name else tuple(map(_stdin_case, inputs, outputs))
        return Task(
            task_id=f"APPS/{self.problem_id}",
            prompt="",
            entry_point=name,
            reference=_first_solution(self.solutions),
            stops=(),
            program_prefix="",
            checks=_call_checks(name, inputs, outputs) if name else "",
            checked_names=(name,) if name else (),
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
    formats = (APPS, CHAT, CHAT_PLAIN, CHAT_REPLY)
    benchmark = make_benchmark(name, rows, AppsRow, formats, source, DEFAULT_LIMITS)
    if not benchmark.tasks:
        raise RecordError(f"{source}: holds no problem with tests of difficulty {level}")
    return benchmark


def _is_of_level(level: str, row: dict[str, Any]) -> bool:
    return row.get("difficulty") == level and bool(row.get("input_output"))


def _tests(text: str) -> tuple[str, list[Any], list[Any]]:
    """The name of the function to call, empty if there is none; inputs, and outputs."""
    tests = _parsed("input_output", text)
    if not isinstance(tests, dict):
        raise UnusableRowError(f"input_output: {type(tests).__name__}; expected a JSON object")
    name, inputs, outputs = (tests.get(key) for key in ("fn_name", "inputs", "outputs"))
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise UnusableRowError("input_output: has no lists of inputs and outputs")
    if name is None or name == "":
        return "", inputs, outputs
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise UnusableRowError(f"input_output: fn_name is {str(name)[:60]!r}; expected a name")
    for arguments in inputs:
        if not isinstance(arguments, list):
            raise UnusableRowError(
                f"input_output: {type(arguments).__name__} among the inputs; "
                f"expected a list of arguments for each call of {name}"
            )
    return name, inputs, outputs


def _first_solution(text: str) -> str | None:
    solutions = _parsed("solutions", text) if text else []
    if not isinstance(solutions, list) or not all(isinstance(each, str) for each in solutions):
        raise UnusableRowError("solutions: expected a JSON list of programs")
    return solutions[0] if solutions else None


def _parsed(field: str, text: str) -> Any:
    try:
        return json.loads(text, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise UnusableRowError(f"{field}: not JSON ({error})") from None


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
        # Whether there is such a class: what goes wrong in it is an error of the program.
        "try:\n"
        "    Solution\n"
        "except NameError:\n"
        f"    __mtp_code_called__ = {name}\n"
        "else:\n"
        f"    __mtp_code_called__ = Solution().{name}\n"
        # From here on it is Python's again: a program may be asked for a `sum`, or a `len`.
        f"{f'from builtins import {name}' if hasattr(builtins, name) else ''}\n"
        "for arguments, expected in zip(\n"
        f"    __mtp_code_decode__({encode(arguments)!r}),\n"
        f"    __mtp_code_decode__({encode(expected)!r}),\n"
        "):\n"
        "    __mtp_code_answer__ = __mtp_code_called__(*arguments)\n"
        "    assert any(__mtp_code_agree__(__mtp_code_answer__, each) for each in expected)\n"
    )


def _with_int_keys(arguments: Any) -> Any:
    """Numbers as keys are strings in JSON."""
    return [_int_keys(arguments[0])] if len(arguments) == 1 else arguments


def _int_keys(value: Any) -> Any:
    if not isinstance(value, dict) or not all(re.fullmatch("-?[0-9]+", key) for key in value):
        return value
    return {_int(key): held for key, held in value.items()}


def _alternatives(output: Any) -> list[Any]:
    """What the answer may be: many outputs are wrapped into a list once more."""
    wrapped = [output[0]] if isinstance(output, list) and output else []
    return [_int_keys(each) for each in (output, *wrapped)]
