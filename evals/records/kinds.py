"""What a task, a sample, a verdict, a score and a baseline hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from evals.text import one_line

SAMPLES_FILE: Final = "samples.jsonl"
VERDICTS_FILE: Final = "verdicts.jsonl"
SCORES_FILE: Final = "scores.json"
SAMPLING_FILE: Final = "sampling.json"
JUDGING_FILE: Final = "judging.json"
REFERENCE_BITS_FILE: Final = "reference-bits.json"

VerdictName = Literal[
    "passed",
    "wrong answer",
    "exception",
    "syntax error",
    "undefined",
    "timed out",
    "out of memory",
    "blocked",
    "exited",
    "crashed",
]
VERDICT_NAMES: Final[tuple[VerdictName, ...]] = get_args(VerdictName)

# A letter a sample: a task's verdicts read at a glance and stay on one line.
VERDICT_LETTERS: Final[dict[VerdictName, str]] = {
    "passed": "P",
    "wrong answer": "W",
    "exception": "E",
    "syntax error": "S",
    "undefined": "U",
    "timed out": "T",
    "out of memory": "M",
    "blocked": "B",
    "exited": "X",
    "crashed": "C",
}
VERDICT_OF_LETTER: Final = {letter: name for name, letter in VERDICT_LETTERS.items()}

_PASSED: Final = VERDICT_LETTERS["passed"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class Question(Strict):
    """What a prompt can be made of: text to be put, asserts to be shown, code to go on from."""

    text: str = ""
    asserts: tuple[str, ...] = ()
    code: str = ""
    reads_stdin: bool = False


class Oracle(Strict):
    """Inputs of a task without tests of its own, and how close answers must be to the reference's.

    `inputs` are lists of arguments by part ("base", "plus"), as text of `evals.oracles.values`;
    `rule` is None or one that `evals.oracles.holding` knows.
    """

    inputs: dict[str, str]
    atol: NonNegativeFloat
    rule: str | None


class StdinCase(Strict):
    """Standard input of a program, and what it should write."""

    stdin: str
    stdout: str


class Task(Strict):
    """One benchmark problem.

    The prompt is what the model reads: its `question`, as the benchmark's prompt format puts it.
    The program judged is `program_prefix` + completion; `checks` call it through the names in
    `checked_names`, and never run in its process. `reference` is the benchmark's own solution, as
    a completion.

    Tasks with an `oracle` get their checks from `evals.oracles.with_expected_outputs`, those of
    its further inputs as `plus_checks`. Tasks with `stdin_cases` have no checks. `cpu_s` and
    `memory_bytes` are limits below which no honest solution could be expected to pass. `origin`
    is what the task was made from, where others share that. `beside` has the checks run in the
    program's own process, whose word their verdicts are then: weak ones.
    """

    task_id: str
    prompt: str
    entry_point: str
    reference: str | None
    stops: tuple[str, ...]
    program_prefix: str
    checks: str
    checked_names: tuple[str, ...]
    question: Question = Question()
    oracle: Oracle | None = None
    plus_checks: str | None = None
    stdin_cases: tuple[StdinCase, ...] = ()
    cpu_s: PositiveFloat | None = None
    memory_bytes: PositiveInt | None = None
    origin: str | None = None
    beside: bool = False


class Sample(Strict):
    """One completion drawn for a task, or (EvalPlus) a whole program that solves it.

    `raw` is the model's text as it came, before post-processing.
    """

    task_id: str
    index: NonNegativeInt = Field(strict=True)
    completion: str | None = None
    solution: str | None = None
    raw: str | None = None

    @model_validator(mode="after")
    def _is_one_program(self) -> Self:
        if (self.completion is None) == (self.solution is None):
            raise ValueError("expected one of completion and solution")
        return self


class Sampling(Strict):
    """Everything about how samples were drawn that could move a score (sampling.json).

    `model` says which model: free fields, such as its name, step and the checkpoint's sha256.
    `prompts_sha256` is of what it read, see `evals.prompts.prompts_sha256`, and `seed_rule` says
    how a sample's seed follows from `seed`. What may be None is what another harness may not know;
    docs/gate.md tells its authors of every field.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str | None = None
    prompt_format: str
    prompts_sha256: str | None = None
    post_processing: str
    num_samples: PositiveInt
    temperature: NonNegativeFloat
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: PositiveInt
    seed: int | None = None
    seed_rule: str | None = None
    model: dict[str, Any]
    versions: dict[str, str]


class Verdict(Strict):
    """What an execution means for its sample.

    `detail` says what went wrong, in words; `ending` is how the program's process ended. For +
    tasks `verdict` sums up `base` and `plus`: the first of these that did not pass. The numbers of
    checks are None where the checks were not counted.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    task_id: str
    index: NonNegativeInt
    verdict: VerdictName
    detail: str
    ending: str
    exit_code: int | None
    cpu_s: float
    wall_s: float
    peak_memory_bytes: int | None
    output_tail: str
    isolation: str
    base: VerdictName | None = None
    plus: VerdictName | None = None
    num_checks_passed: NonNegativeInt | None = None
    num_checks: PositiveInt | None = None
    weak: bool = False

    @model_validator(mode="after")
    def _checks_agree(self) -> Self:
        passed, in_all = self.num_checks_passed, self.num_checks
        if (passed is None) != (in_all is None):
            raise ValueError("expected both of num_checks_passed and num_checks, or neither")
        if passed is not None and in_all is not None and passed > in_all:
            raise ValueError(f"num_checks_passed is {passed}, but num_checks {in_all}")
        return self


class References(Strict):
    """What became of the benchmark's own solutions under the same judge: its health.

    `failed` holds the verdict of each that did not pass, by task id.
    """

    num_judged: PositiveInt
    failed: dict[str, VerdictName]


class Judging(Strict):
    """Everything about how verdicts were reached that could move a score (judging.json).

    It lies beside the verdicts and belongs to that very file: `verdicts_sha256`. `raised_limits`
    are by task id, of tasks whose own solution needs more than `limits`: only what is more.
    `sampling` is None where the samples came without a sampling.json, `references` where no
    reference solutions were judged beside them.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    samples_sha256: str
    verdicts_sha256: str
    limits: dict[str, Any]
    raised_limits: dict[str, dict[str, Any]] = {}
    isolation: str
    versions: dict[str, str]
    sampling: Sampling | None
    references: References | None = None


class ReferenceBits(Strict):
    """How many bits a model needs for the reference solutions (reference-bits.json).

    It lies beside the verdicts of the same model's samples. `tasks` holds bits and UTF-8 bytes of
    each reference solution, by task id: as the answer to its prompt that `prompt_format` makes it.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str
    model: dict[str, Any]
    tasks: dict[str, tuple[NonNegativeFloat, PositiveInt]]

    @property
    def bits_per_byte(self) -> float:
        """Of all of them together; lower is better."""
        return _per_byte(self.tasks)


class Range(Strict):
    low: float
    high: float


class Estimate(Strict):
    """A mean over tasks, such as pass@k, and its intervals, which answer different questions.

    `low` and `high` are over tasks: is it better in general? `over_samples` keeps the tasks
    fixed: did this model change? It is None where fewer than 2k samples a task were drawn.
    """

    value: float
    low: float
    high: float
    level: float
    interval: Literal["over tasks"] = "over tasks"
    over_samples: Range | None


Share = Annotated[float, Field(ge=0, le=1)]


class Measured(Strict):
    """What became of each task's samples, and all that could move it but the model.

    By task id: `tasks` holds the number of samples and of those that passed; `verdicts` a letter
    of `VERDICT_LETTERS` for each sample, in the order of their indices; `base_verdicts` the same
    by the base checks alone, for a + benchmark; `checks_passed` the share of checks that each
    passed; `reference_bits` the bits and bytes of the reference solution; `origins` what it was
    made from, where tasks share that; `raised_limits` what a task has beyond `limits`. What nobody
    recorded is None.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    benchmark: str
    data_sha256: str
    prompt_format: str | None
    prompts_sha256: str | None
    post_processing: str | None
    seed_rule: str | None
    samples_sha256: str
    limits: dict[str, Any]
    raised_limits: dict[str, dict[str, Any]] = {}
    isolation: str
    sampling: Sampling | None
    versions: dict[str, str]
    tasks: dict[str, tuple[PositiveInt, NonNegativeInt]]
    verdicts: dict[str, str]
    base_verdicts: dict[str, str] | None = None
    checks_passed: dict[str, tuple[Share, ...]] | None = None
    reference_bits: dict[str, tuple[NonNegativeFloat, PositiveInt]] | None = None
    origins: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_schema(cls, row: Any) -> Any:
        if isinstance(row, dict) and row.get("schema", 2) == 1:
            raise ValueError(
                "schema 1, of an earlier version, does not hold what is compared now; "
                "score the verdicts again (and make a baseline from that)"
            )
        return row

    @model_validator(mode="after")
    def _tasks_agree(self) -> Self:
        for field in ("verdicts", "base_verdicts", "checks_passed", "origins"):
            given = getattr(self, field)
            if given is not None and given.keys() != self.tasks.keys():
                (task_id, *_) = sorted(given.keys() ^ self.tasks.keys())
                raise ValueError(
                    f"{field} and tasks do not hold the same tasks: {one_line(task_id)}"
                )
        for task_id, (drawn, passed) in self.tasks.items():
            name = one_line(task_id)
            if passed > drawn:
                raise ValueError(f"tasks.{name}: {passed} passed of {drawn}")
            letters = self.verdicts[task_id]
            if unknown := set(letters) - VERDICT_OF_LETTER.keys():
                raise ValueError(f"verdicts.{name}: no verdict has the letter {min(unknown)}")
            if (len(letters), letters.count(_PASSED)) != (drawn, passed):
                raise ValueError(
                    f"verdicts.{name}: {one_line(letters)}, but {passed} passed of {drawn}"
                )
            if self.base_verdicts and not _may_be_base(self.base_verdicts[task_id], letters):
                raise ValueError(
                    f"base_verdicts.{name}: {one_line(self.base_verdicts[task_id])}, "
                    f"but by all checks {one_line(letters)}"
                )
            if self.checks_passed is not None and len(self.checks_passed[task_id]) != drawn:
                raise ValueError(f"checks_passed.{name}: not one for each of {drawn} samples")
        return self

    @property
    def bits_per_byte(self) -> float | None:
        """Of the reference solutions under the model; lower is better."""
        return _per_byte(self.reference_bits) if self.reference_bits else None


def _per_byte(reference_bits: Mapping[str, tuple[float, int]]) -> float:
    bits, num_bytes = map(sum, zip(*reference_bits.values(), strict=True))
    return bits / num_bytes


def _may_be_base(base: str, letters: str) -> bool:
    """Whether these can be verdicts by the base checks: what passes all checks passes those."""
    return len(base) == len(letters) and all(
        one in VERDICT_OF_LETTER and (one == _PASSED or other != _PASSED)
        for one, other in zip(base, letters, strict=True)
    )


GradedName = Literal["parsed", "checks passed"]


class Score(Measured):
    """Verdicts summed up (scores.json), those of the very file `verdicts_sha256`.

    `pass_at_k` is keyed by k; `base_pass_at_k` is by the base checks alone, for a + benchmark.
    `graded` still moves where pass@k is 0: the share of samples that are Python at all, and the
    share of checks passed where those were counted. `weak` counts the verdicts that are the
    programs' own word. `references` says how the judge fared with the
    benchmark's own solutions.
    """

    verdicts_sha256: str
    num_tasks: PositiveInt
    num_samples: PositiveInt
    pass_at_k: dict[str, Estimate]
    base_pass_at_k: dict[str, Estimate] | None = None
    graded: dict[GradedName, Estimate]
    by_verdict: dict[str, NonNegativeInt]
    timed_out: NonNegativeInt
    weak: NonNegativeInt = 0
    references: References | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        by_letter = Counter("".join(self.verdicts.values()))
        counted = {
            "num_tasks": len(self.tasks),
            "num_samples": by_letter.total(),
            "timed_out": by_letter[VERDICT_LETTERS["timed out"]],
        }
        for name, letter in VERDICT_LETTERS.items():
            if self.by_verdict.get(name, 0) != by_letter[letter]:
                raise ValueError(f"by_verdict holds other numbers than verdicts: {name}")
        for field, count in counted.items():
            if getattr(self, field) != count:
                raise ValueError(f"{field} is {getattr(self, field)}, but {count} are counted")
        return self

    @property
    def share_parsed(self) -> float:
        return self.graded["parsed"].value


class KeptSample(Strict):
    """A sample as a baseline keeps it, so that a changed task can be shown as it was.

    `text` is the completion or solution, cut where it is long.
    """

    index: NonNegativeInt
    verdict: VerdictName
    text: str


class Baseline(Measured):
    """What later scores are held to; kept in git.

    `samples` holds for each task the first that passed, or where none did the first.
    """

    samples: dict[str, KeptSample] = {}
