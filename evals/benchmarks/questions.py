"""Questions that nobody judges here: what decoders are usually timed on, next to code.

MT-bench (Zheng et al. 2023, arXiv 2306.05685), first turns, and GSM8K (Cobbe et al. 2021, arXiv
2110.14168), 80 of each as Spec-Bench (Xia et al. 2024, arXiv 2401.07851) asks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from evals.benchmarks.sources import rows_from_url
from evals.errors import RecordError

STEM: Final = "spec-bench-mtbench-gsm8k"
URL: Final = (
    "https://raw.githubusercontent.com/hemingkx/Spec-Bench/"
    "fd2c1cd7d2201ef71db4c5f4e455008f017967bf/data/spec_bench/question.jsonl"
)
_MT_BENCH: Final = frozenset(
    ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
)
_GSM8K: Final = frozenset(("math_reasoning",))
QUESTIONS: Final[Mapping[str, frozenset[str]]] = {
    "mt-bench": _MT_BENCH,
    "gsm8k": _GSM8K,
    "spec-bench": _MT_BENCH | _GSM8K,
}
"""Names of sets, and the categories that each holds."""


def load_questions(name: str) -> list[str]:
    """The first turn of each question of a set.

    Raises:
        BenchmarkUnavailable: it is neither in the user's folder nor to be had online.
        RecordError: the file holds no such questions.
    """
    categories = QUESTIONS[name]
    source, rows = rows_from_url(name, STEM, URL, lambda row: row.get("category") in categories)
    questions = []
    for row in rows:
        turns = row.get("turns")
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
            raise RecordError(
                f"{source}: a question without turns; expected Spec-Bench's question.jsonl"
            )
        questions.append(turns[0])
    if not questions:
        raise RecordError(f"{source}: no question of {name}; expected Spec-Bench's question.jsonl")
    return questions
