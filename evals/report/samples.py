"""Which samples the page shows, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evals.records import Verdict
from evals.report.inputs import Result, Run
from evals.report.results import benchmark_names
from evals.report.wording import shortened, size
from evals.text import one_line

NUM_PASSED_SHOWN = 2
NUM_FAILED_SHOWN = 4


@dataclass(frozen=True)
class Code:
    text: str
    notice: str  # what was left out, empty if nothing was


@dataclass(frozen=True)
class ShownSample:
    task_id: str
    index: int
    verdict: str
    passed: bool
    detail: str
    used: str
    prompt: Code | None
    code: Code


@dataclass(frozen=True)
class BenchmarkSamples:
    name: str
    samples: Sequence[ShownSample]


def samples(run: Run, prompts: Mapping[str, Mapping[str, str]]) -> list[BenchmarkSamples]:
    shown = []
    for name in benchmark_names([run]):
        result = run.results[name]
        picked = [_shown(verdict, result, prompts.get(name, {})) for verdict in _picked(result)]
        if picked:
            shown.append(BenchmarkSamples(name, picked))
    return shown


def _picked(result: Result) -> list[Verdict]:
    """A few that passed and one of each commoner way to fail, from different tasks if possible.

    By rule, so that nobody chose: those from the middle of the file, spread evenly.
    """
    there = [
        verdict for verdict in result.verdicts if (verdict.task_id, verdict.index) in result.samples
    ]
    passed = _spread(
        [verdict for verdict in there if verdict.verdict == "passed"], NUM_PASSED_SHOWN
    )
    failures = Counter(verdict.verdict for verdict in there if verdict.verdict != "passed")
    kinds = [kind for kind, _ in failures.most_common(NUM_FAILED_SHOWN)]
    seen = {verdict.task_id for verdict in passed}
    failed: list[Verdict] = []
    for place, kind in enumerate(kinds):
        # The commonest kind fills what the others leave.
        wanted = NUM_FAILED_SHOWN - len(kinds) + 1 if place == 0 else 1
        of_kind = [verdict for verdict in there if verdict.verdict == kind]
        fresh = [verdict for verdict in of_kind if verdict.task_id not in seen]
        picked = _spread(fresh or of_kind, wanted)
        seen.update(verdict.task_id for verdict in picked)
        failed += picked
    return passed + failed


def _spread(verdicts: Iterable[Verdict], num_wanted: int) -> list[Verdict]:
    by_task: dict[str, Verdict] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.task_id, verdict)
    one_a_task = list(by_task.values())
    num_picked = min(num_wanted, len(one_a_task))
    return [
        one_a_task[(2 * place + 1) * len(one_a_task) // (2 * num_picked)]
        for place in range(num_picked)
    ]


def _shown(verdict: Verdict, result: Result, prompts: Mapping[str, str]) -> ShownSample:
    sample = result.samples[verdict.task_id, verdict.index]
    code = sample.completion if sample.completion is not None else sample.solution
    prompt = prompts.get(verdict.task_id)
    used = [f"{verdict.cpu_s:.2f} s CPU"]
    if verdict.peak_memory_bytes is not None:
        used.append(size(verdict.peak_memory_bytes))
    return ShownSample(
        task_id=one_line(verdict.task_id, 80),
        index=verdict.index,
        verdict=verdict.verdict,
        passed=verdict.verdict == "passed",
        detail=one_line(verdict.detail, 240),
        used=" · ".join(used),
        # A solution is a whole program: the prompt stands in it already.
        prompt=Code(*shortened(prompt)) if prompt and sample.completion is not None else None,
        code=Code(*shortened(code or "")),
    )
