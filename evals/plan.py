"""What a task's samples are held to, as jobs whose keys are the same for the same work."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from evals.files import json_line
from evals.oracles.shipping import counting_source
from evals.program import checks_of, plus_checks_of, program_of
from evals.records import Sample, StdinCase, Task
from evals.work import Job
from sandbox import Checks, Limits

# Findings hang on how these run programs and what they make of it.
_JUDGING_CODE: Final = ("sandbox", "evals/work.py", "evals/stdin_cases.py")


class _Part(NamedTuple):
    """Checks, or cases; `hashed` stands for these and the conditions."""

    checks: Checks | None
    cases: tuple[StdinCase, ...]
    hashed: hashlib._Hash


class Plan:
    """The jobs of a task's samples: one, or for a + task two, of its base and its further checks.

    `conditions` is whatever else may change what is found, besides program, checks and limits.
    """

    def __init__(
        self, task: Task, limits: Limits, conditions: list[Any], *, counts_checks: bool
    ) -> None:
        self.task = task
        self.is_counted_apart = counts_checks and task.plus_checks is not None
        self._limits = limits
        self._conditions = [*conditions, limits.as_dict()]
        if task.stdin_cases:
            self._parts = [self._part(None, task.stdin_cases)]
        else:
            base, plus = checks_of(task), plus_checks_of(task)
            if plus is None:
                self._parts = [self._part(replace(base, counts=counts_checks and not base.beside))]
            else:
                self._parts = [self._part(base), self._part(plus)]

    def jobs(self, sample: Sample) -> list[Job]:
        return [self._job(sample, part) for part in self._parts]

    def counting_job(self, sample: Sample) -> Job | None:
        """Says how many checks of both parts hold; None where a sample's other jobs say it, or
        nobody wants to know."""
        if not self.is_counted_apart:
            return None
        # What each of the parts may take, for all of them together.
        limits = replace(self._limits, cpu_s=len(self._parts) * self._limits.cpu_s)
        return self._job(sample, self._counting_part)._replace(limits=limits)

    @cached_property
    def num_inputs(self) -> int:
        """Of both parts."""
        assert self.task.oracle is not None
        return sum(len(json.loads(inputs)) for inputs in self.task.oracle.inputs.values())

    @cached_property
    def _counting_part(self) -> _Part:
        assert self.task.plus_checks is not None
        source = counting_source([self.task.checks, self.task.plus_checks])
        return self._part(replace(checks_of(self.task), source=source))

    def _part(self, checks: Checks | None, cases: tuple[StdinCase, ...] = ()) -> _Part:
        held_to = [case.as_json() for case in cases] if checks is None else asdict(checks)
        return _Part(checks, cases, hashlib.sha256(json_line([*self._conditions, held_to])))

    def _job(self, sample: Sample, part: _Part) -> Job:
        program = program_of(self.task, sample)
        hashed = part.hashed.copy()
        hashed.update(program.encode("utf-8", "surrogatepass"))
        return Job(hashed.digest(), program, self._limits, part.checks, part.cases)


def fingerprint() -> list[str]:
    """Of the interpreter that runs programs and the code that judges them."""
    root = resources.files("evals") / ".."
    hashed = hashlib.sha256()
    for name in _JUDGING_CODE:
        for content in _contents(root / name):
            hashed.update(content)
    return [sys.implementation.name, sys.version, platform.machine(), hashed.hexdigest()]


def machine() -> list[str]:
    """What else of this machine may move a finding: its kernel, and the C library's arithmetic.

    The nodes of a cluster may differ in these; findings are kept under those of the caller.
    """
    return [platform.release(), *platform.libc_ver()]


def _contents(place: Traversable) -> Iterator[bytes]:
    if place.is_file():
        yield place.read_bytes()
        return
    for each in sorted(place.iterdir(), key=lambda entry: entry.name):
        if each.is_dir() or each.name.endswith((".py", ".bpf")):
            yield from _contents(each)
