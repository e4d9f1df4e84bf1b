"""HumanEval+ and MBPP+ (Liu et al. 2023, arXiv 2305.01210): many inputs, and reference solutions.

What is not in the data is EvalPlus 0.3.1's: which tasks are held to their reference in a way of
their own (evalplus/eval/_special_oracle.py), and of which types MBPP+'s inputs are, which JSON has
lost (evalplus/data/mbpp.py). The tasks of MBPP+ are from all splits of MBPP, its training split
included, and among them are those that few-shot prompts show.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from evals.benchmarks.formats import (
    DEFAULT_LIMITS,
    Benchmark,
    Row,
    make_benchmark,
)
from evals.benchmarks.sources import rows_from_url
from evals.errors import RecordError, UnusableRowError
from evals.oracles.shipping import ANSWERS
from evals.oracles.values import encode
from evals.prompts import (
    CHAT,
    CHAT_PLAIN,
    CHAT_REPLY,
    HUMANEVAL_RAW,
    HUMANEVAL_STRIPPED,
    MBPP_DOCSTRING,
)
from evals.records import Oracle, Question, Task
from evals.text import quoted


class PlusRow(Row):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    base_input: list[list[Any]]
    plus_input: list[list[Any]] | dict[str, Any]  # Mbpp/793 has an empty object for none
    atol: float

    def inputs(self) -> dict[str, list[Any]]:
        return {"base": self.base_input, "plus": list(self.plus_input)}

    def oracle(self, rules: dict[str, str], to_types: Callable[[list[Any]], list[Any]]) -> Oracle:
        return Oracle(
            inputs={
                part: encode([to_types(arguments) for arguments in each])
                for part, each in self.inputs().items()
            },
            atol=self.atol,
            rule=rules.get(self.entry_point),
        )


class HumanEvalPlusRow(PlusRow):
    def task(self) -> Task:
        return Task(
            task_id=self.task_id,
            prompt="",
            entry_point=self.entry_point,
            reference=self.canonical_solution,
            stops=(),
            program_prefix=self.prompt,
            checks="",
            checked_names=(self.entry_point, ANSWERS),
            question=Question(code=self.prompt),
            oracle=self.oracle(HUMANEVAL_RULES, list),
            cpu_s=SLOW_REFERENCES.get(self.task_id),
        )


class MbppPlusRow(PlusRow):
    def task(self) -> Task:
        number = self.task_id.removeprefix("Mbpp/")
        if not re.fullmatch(r"[0-9]{1,9}", number):
            raise UnusableRowError(f"task_id: {quoted(self.task_id)}; expected one such as Mbpp/2")
        shown = re.fullmatch(r'"""\n(.*)\n(assert .*)\n"""\n', self.prompt, re.DOTALL)
        if shown is None:
            raise UnusableRowError("prompt: no docstring with an assert")
        return Task(
            task_id=self.task_id,
            prompt="",
            entry_point=self.entry_point,
            reference=self.canonical_solution,
            stops=(),
            program_prefix="",
            checks="",
            checked_names=(self.entry_point, ANSWERS),
            question=Question(text=shown[1], asserts=(shown[2],)),
            oracle=self.oracle(MBPP_RULES, _MBPP_TYPES.get(int(number), list)),
            cpu_s=SLOW_REFERENCES.get(self.task_id),
            memory_bytes=LARGE_REFERENCES.get(self.task_id),
        )


# How answers are held to the reference's, by entry point: see `evals.oracles.holding`.
HUMANEVAL_RULES: Final = {"find_zero": "root"}
MBPP_RULES: Final = {
    "are_equivalent": "any",
    "sum_div": "or 0",
    "surface_Area": "pyramid",
    "digit_distance_nums": "digits",
    **dict.fromkeys(
        (
            "similar_elements",
            "find_char_long",
            "common_in_nested_lists",
            "extract_singly",
            "larg_nnum",
            "intersection_array",
            "find_dissimilar",
            "Diff",
        ),
        "set",
    ),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), "not none"),
}

# Seconds of CPU time for either part, where the reference takes over 1 s: about six times that.
SLOW_REFERENCES: Final = {
    "HumanEval/15": 20.0,
    "HumanEval/139": 20.0,
    "Mbpp/255": 60.0,
    "Mbpp/271": 20.0,
    "Mbpp/392": 20.0,
    "Mbpp/599": 120.0,
}

# Lists of 1.7 million tuples of 77 (1.1 GB).
LARGE_REFERENCES: Final = {"Mbpp/255": 4 << 30}


def _tuples(values: Any) -> Any:
    return [tuple(value) for value in values]


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(each) for each in value) if isinstance(value, list) else value


def _set_or_dict(value: Any) -> Any:
    return set(value) if isinstance(value, list) and value else {}


def _first(convert: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda arguments: [convert(arguments[0]), *arguments[1:]]


_TYPES_OF_IDS: Final[tuple[tuple[Callable[[list[Any]], list[Any]], tuple[int, ...]], ...]] = (
    # Every argument is a tuple,
    (
        _tuples,
        (
            *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616),
            *(630, 726, 740, 744, 809),
        ),
    ),
    # a list of tuples,
    (
        lambda arguments: [_tuples(each) for each in arguments],
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    ),
    # a tuple of tuples,
    (lambda arguments: [tuple(_tuples(each)) for each in arguments], (259, 401, 445)),
    # or tuples at any depth.
    (lambda arguments: [_deep_tuple(each) for each in arguments], (580, 615, 791)),
    # The first is a tuple,
    (_first(tuple), (250, 307, 405, 446, 617, 720, 763, 808)),
    # a list of tuples,
    (_first(_tuples), (75, 413, 444, 753)),
    # sets, and an empty dict for the empty one,
    (_first(lambda values: [_set_or_dict(value) for value in values]), (115,)),
    # a tuple of which some are tuples,
    (
        _first(lambda values: tuple(tuple(v) if isinstance(v, list) else v for v in values)),
        (278,),
    ),
    # a dict of tuples,
    (_first(lambda held: {key: tuple(value) for key, value in held.items()}), (722,)),
    # or a complex number. Or the second is a tuple,
    (_first(complex), (252,)),
    (lambda arguments: [arguments[0], tuple(arguments[1])], (106, 750)),
    # or a complex number.
    (lambda arguments: [float(arguments[0]), complex(arguments[1])], (124,)),
)
_MBPP_TYPES: Final = {number: convert for convert, ids in _TYPES_OF_IDS for number in ids}


@dataclass(frozen=True)
class Edition:
    """A release of EvalPlus's data; `data_sha256` is its fingerprint."""

    release: str
    file: str
    version: str
    kind: type[PlusRow]
    data_sha256: str


_HUMANEVAL: Final = "humanevalplus_release"
_MBPP: Final = "mbppplus_release"

HUMANEVAL_PLUS: Final = Edition(
    _HUMANEVAL,
    "HumanEvalPlus",
    "v0.1.10",
    HumanEvalPlusRow,
    "c7b62636d76dc7a462e6928996c1193850ab899411be9eb5000eb01d93e51e9d",
)
HUMANEVAL_PLUS_0_1_9: Final = Edition(
    _HUMANEVAL,
    "HumanEvalPlus",
    "v0.1.9",
    HumanEvalPlusRow,
    "c26471de111c0afdeff64953b1ea37bcfb5d2716371494b58b51092f29e582d2",
)
HUMANEVAL_PLUS_MINI: Final = Edition(
    _HUMANEVAL,
    "HumanEvalPlus-Mini",
    "v0.1.10",
    HumanEvalPlusRow,
    "381774b43e8eee6754db12703d21d42a6a1203f2981ce2fb9337a35e7010355e",
)
MBPP_PLUS: Final = Edition(
    _MBPP,
    "MbppPlus",
    "v0.2.0",
    MbppPlusRow,
    "cb088ea309f08b1d161ff85fac8a367c4366006c5ae64add122c738f7f5f57d4",
)
MBPP_PLUS_0_1_0: Final = Edition(
    _MBPP,
    "MbppPlus",
    "v0.1.0",
    MbppPlusRow,
    "6dc688378d1cfd8b9ad470cc7074a0252302cfff945e1b26274eb8fcf3ef7a2c",
)


def load(name: str, edition: Edition) -> Benchmark:
    """From a file such as MbppPlus-v0.2.0.jsonl.gz in the user's folder, or EvalPlus's releases.

    Raises:
        BenchmarkUnavailable: it is in neither.
        RecordError: the file is of another release.
    """
    source, rows = rows_from_url(
        name,
        f"{edition.file}-{edition.version}",
        f"https://github.com/evalplus/{edition.release}/releases/download/{edition.version}/"
        f"{edition.file}.jsonl.gz",
    )
    formats = (
        (HUMANEVAL_RAW, HUMANEVAL_STRIPPED, CHAT, CHAT_PLAIN, CHAT_REPLY)
        if edition.kind is HumanEvalPlusRow
        else (MBPP_DOCSTRING, CHAT, CHAT_PLAIN, CHAT_REPLY)
    )
    benchmark = make_benchmark(name, rows, edition.kind, formats, source, DEFAULT_LIMITS)
    if benchmark.data_sha256 != edition.data_sha256:
        raise RecordError(
            f"{source}: is not {edition.file} {edition.version} as it was released; get it anew"
        )
    return benchmark
