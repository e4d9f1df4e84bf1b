"""What our post-processing takes for the code of an answer, beside EvalPlus's `sanitize`."""

from __future__ import annotations

import ast
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.benchmarks import load_benchmark
from evals.files import Progress
from evals.judge_bench.answers import ChatAnswer, chat_answers
from evals.judge_bench.harness_runner import SANITIZED
from evals.judge_bench.harnesses import EVALPLUS_SANITIZE, Harness, HarnessAbsent, Question
from evals.postprocess import longest_span


def measure(
    num_answers: int,
    evalplus_python: Path | None,
    scratch: Path,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Of how many answers to HumanEval's tasks both take the same code, and where they do not.

    The same is what Python reads alike, whatever its spaces and comments; or, where Python reads
    neither, the same text.
    """
    answers = chat_answers(load_benchmark("humaneval").tasks, num_answers)
    harness = Harness(EVALPLUS_SANITIZE, scratch, evalplus_python)
    try:
        with harness.open() as opened:
            version = opened.version
        theirs = _ask(harness, answers, on_progress)
    except HarnessAbsent as reason:
        return {"absent": str(reason)}
    differing = []
    for answer, their_code in zip(answers, theirs, strict=True):
        our_code = longest_span(answer.text, answer.entry_point)
        if not are_alike(our_code, their_code):
            differing.append(
                {
                    "task_id": answer.task_id,
                    "kind": answer.kind,
                    "text": answer.text,
                    "ours": our_code,
                    "theirs": their_code,
                }
            )
    shapes = Counter(answer.kind.partition(",")[0] for answer in answers)
    return {
        "harness": harness.name,
        "version": version,
        "num_answers": len(answers),
        "answers_by_shape": dict(shapes.most_common()),
        "num_alike": len(answers) - len(differing),
        "differing": differing,
    }


def are_alike(one: str, other: str) -> bool:
    trees = [_tree(code) for code in (one, other)]
    return one.strip() == other.strip() if trees == [None, None] else trees[0] == trees[1]


def _tree(code: str) -> str | None:
    """As text; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\w"
            return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError):
        return None


def _ask(harness: Harness, answers: Sequence[ChatAnswer], on_progress: Progress) -> list[str]:
    """In the order of the answers."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for at, answer in enumerate(answers):
        by_task[answer.task_id].append(at)
    questions = [
        Question(
            task_id,
            tuple(answers[at].text for at in places),
            {"entry_point": answers[places[0]].entry_point},
        )
        for task_id, places in by_task.items()
    ]
    said = harness.judge(questions, len(os.sched_getaffinity(0)), on_progress=on_progress)
    found = [""] * len(answers)
    for task_id, places in by_task.items():
        for at, words in zip(places, said[task_id], strict=True):
            found[at] = words[SANITIZED]
    return found
