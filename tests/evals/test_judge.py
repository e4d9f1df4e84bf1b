import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import tracemalloc
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks.formats import Benchmark, humaneval_benchmark, mbpp_benchmark
from evals.counting import COUNTS, counts_told, telling
from evals.errors import InputError
from evals.files import sole_writer
from evals.judge import judge
from evals.oracles.expected import Answered, Reference
from evals.records import Judging, References, Sample, read_record, read_verdicts, write_samples
from evals.sampling import draw_samples
from evals.score import score
from evals.work import Finding, Here, Job
from sandbox import Limits, Tier
from tests.evals.conftest import ROWS, FakePool
from tests.evals.oracles.test_expected import toy as toy_plus
from tests.evals.test_sampling import SETTINGS, by_seed
from tests.evals.test_text import HOSTILE

pytestmark = pytest.mark.usefixtures("shared_incubators")


def write(path: Path, *said: str) -> None:
    """Samples of which the fake pool finds what is said; the i-th is for task i % 3."""
    write_samples(
        path,
        [
            Sample(task_id=f"Toy/{at % 3}", index=at // 3, completion=f"    return x # {each}")
            for at, each in enumerate(said)
        ],
    )


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return tmp_path / "samples.jsonl"


@pytest.fixture
def verdicts(tmp_path: Path) -> Path:
    return tmp_path / "out" / "verdicts.jsonl"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("held", "passed"),
        ("failed", "wrong answer"),
        ("raised", "exception"),
        ("syntax error", "syntax error"),
        ("undefined", "undefined"),
        ("ended: exited", "exited"),
        ("ended: signalled", "crashed"),
        ("ended: crashed", "crashed"),
        ("ended: timed out (cpu)", "timed out"),
        ("ended: timed out (wall)", "timed out"),
        ("ended: out of memory", "out of memory"),
        ("ended: too much output", "blocked"),
        ("ended: blocked", "blocked"),
    ],
)
def test_what_the_sandbox_found_makes_the_verdict(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path, found: str, verdict: str
) -> None:
    write(samples, found)
    judge(samples, toy, verdicts)
    assert [each.verdict for each in read_verdicts(verdicts)] == [verdict]


def test_verdicts_come_in_the_order_of_the_samples(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "slow", "failed", "raised")
    judge(samples, toy, verdicts)
    assert [(each.task_id, each.index, each.verdict) for each in read_verdicts(verdicts)] == [
        ("Toy/0", 0, "passed"),
        ("Toy/1", 0, "passed"),
        ("Toy/2", 0, "wrong answer"),
        ("Toy/0", 1, "exception"),
    ]


def test_a_verdict_keeps_what_the_program_used(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "failed")
    judge(samples, toy, verdicts)
    assert json.loads(verdicts.read_text()) == {
        "schema": 1,
        "task_id": "Toy/0",
        "index": 0,
        "verdict": "wrong answer",
        "detail": "said failed",
        "ending": "exited",
        "exit_code": 0,
        "cpu_s": 0.1,
        "wall_s": 0.2,
        "peak_memory_bytes": 1000,
        "output_tail": "",
        "isolation": "full",
        "base": None,
        "plus": None,
        "num_checks_passed": 0,
        "num_checks": 1,
        "weak": False,
    }


def test_a_program_is_judged_once_however_many_samples_share_it(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, *["held"] * 9)
    judge(samples, toy, verdicts)
    assert len(pool.examined) == 3
    assert len(list(read_verdicts(verdicts))) == 9


def test_a_time_out_of_the_wall_clock_is_judged_again_alone_before_it_counts(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "slow", "ended: timed out (wall)")
    judge(samples, toy, verdicts, num_workers=2)
    assert [each.verdict for each in read_verdicts(verdicts)] == ["passed", "passed", "timed out"]
    assert len(pool.examined) == 5


def test_a_time_out_of_the_cpu_is_judged_again_alone_before_it_counts(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    # Distinct programs of two tasks: the last is the second's again, and not run again.
    write(samples, "held", "crowded", "ended: timed out (cpu)", "failed", "crowded")
    judge(samples, toy, verdicts, num_workers=2, counts_checks=False)
    assert [each.verdict for each in read_verdicts(verdicts)] == [
        "passed",
        "passed",
        "timed out",
        "wrong answer",
        "passed",
    ]
    assert len(pool.examined) == 4 + 2


def test_a_run_that_was_stopped_goes_on_without_judging_anything_twice(
    toy: Benchmark,
    pool: FakePool,
    samples: Path,
    verdicts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(samples, "held", "failed", "raised", "held", "failed", "raised")
    examine_as_completed = FakePool.examine_as_completed

    def stopped(self: FakePool, work: Any) -> Any:
        for done, examination in enumerate(examine_as_completed(self, work)):
            if done == 2:
                raise KeyboardInterrupt
            yield examination

    with monkeypatch.context() as patch:
        patch.setattr(FakePool, "examine_as_completed", stopped)
        with pytest.raises(KeyboardInterrupt):
            judge(samples, toy, verdicts)
    assert not verdicts.exists()
    pool.examined.clear()
    judge(samples, toy, verdicts)
    assert len(pool.examined) == 1
    assert len(list(read_verdicts(verdicts))) == 6


def test_findings_under_other_limits_are_not_taken_over(
    toy: Benchmark,
    pool: FakePool,
    samples: Path,
    verdicts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(samples, "held", "failed", "raised")
    with monkeypatch.context() as patch:
        patch.setattr("evals.judge.write_whole", lambda path: (_ for _ in ()).throw(OSError))
        with pytest.raises(OSError):
            judge(samples, toy, verdicts)
    pool.examined.clear()
    judge(samples, toy, verdicts, limits=Limits(cpu_s=1.5))
    assert len(pool.examined) == 3


def test_conditions_are_kept_beside_the_verdicts(
    toy: Benchmark, pool: FakePool, tmp_path: Path
) -> None:
    samples, verdicts = tmp_path / "samples.jsonl", tmp_path / "verdicts.jsonl"
    said = SETTINGS.model_copy(update={"num_samples": 1})
    draw_samples(
        toy, lambda asked: ((each, "    return x # held") for each in asked), said, samples
    )
    judge(samples, toy, verdicts, limits=Limits(cpu_s=1.5))
    judging = read_record(Judging, tmp_path / "judging.json")
    assert judging.isolation == "full"
    assert judging.limits["cpu_s"] == 1.5
    assert judging.limits["wall_s"] == 15
    assert judging.sampling is not None
    assert judging.sampling.seed == SETTINGS.seed


def test_limits_that_a_task_has_beyond_the_usual_are_kept_too(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held")
    slow, large, usual = toy.tasks
    tasks = (
        slow.model_copy(update={"cpu_s": 60.0}),
        large.model_copy(update={"memory_bytes": 4 << 30}),
        usual.model_copy(update={"cpu_s": 1.0, "memory_bytes": 1 << 20}),
    )
    judge(samples, replace(toy, tasks=tasks), verdicts)
    judging = read_record(Judging, verdicts.with_name("judging.json"))
    assert judging.raised_limits == {
        "Toy/0": {"cpu_s": 60.0, "wall_s": 600.0},
        "Toy/1": {"memory_bytes": 4 << 30},
    }
    assert score(verdicts, replace(toy, tasks=tasks[:1])).raised_limits == judging.raised_limits


def test_samples_drawn_for_another_benchmark_are_refused(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    other = replace(toy, data_sha256="0" * 64)
    draw_samples(other, by_seed, SETTINGS, samples)
    with pytest.raises(InputError, match=r"sampling.json: the samples were drawn for toy"):
        judge(samples, toy, verdicts)


def test_another_harness_need_not_know_all_of_how_samples_were_drawn(
    toy: Benchmark, pool: FakePool, tmp_path: Path
) -> None:
    samples = tmp_path / "samples.jsonl"
    write(samples, "held", "held", "held")
    said = {
        "benchmark": "toy",
        "prompt_format": "theirs",
        "post_processing": "theirs",
        "num_samples": 1,
        "temperature": 0.2,
        "top_p": 0.95,
        "max_new_tokens": 512,
        "model": {"name": "theirs"},
        "versions": {},
    }
    (tmp_path / "sampling.json").write_text(json.dumps(said))
    judge(samples, toy, tmp_path / "verdicts.jsonl")
    sampling = read_record(Judging, tmp_path / "judging.json").sampling
    assert sampling is not None
    assert (sampling.prompt_format, sampling.seed, sampling.seed_rule) == ("theirs", None, None)
    (tmp_path / "sampling.json").write_text(json.dumps(said | {"benchmark": "other"}))
    with pytest.raises(InputError, match="the samples were drawn for other"):
        judge(samples, toy, tmp_path / "verdicts.jsonl")


def test_a_broken_line_is_found_before_anything_runs(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, *["held"] * 5)
    content = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(b"".join([*content[:4], b"{}\n", *content[4:]]))
    with pytest.raises(InputError, match=r"samples.jsonl:5: has no task_id"):
        judge(samples, toy, verdicts)
    assert pool.examined == []


def test_a_last_line_cut_off_is_told_once_and_the_rest_judged(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, *["held"] * 5)
    samples.write_bytes(samples.read_bytes()[:-9])
    told: list[str] = []
    judge(samples, toy, verdicts, on_cut_off=told.append)
    assert len(list(read_verdicts(verdicts))) == 4
    assert len(told) == 1
    assert "kept the 4 samples before it" in told[0]


def test_a_last_line_that_is_broken_and_has_its_end_is_no_writers_who_was_stopped(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, *["held"] * 5)
    samples.write_bytes(samples.read_bytes()[:-9] + b"\n")
    with pytest.raises(InputError, match=r"samples.jsonl:5: not JSON"):
        judge(samples, toy, verdicts, on_cut_off=pytest.fail)
    assert pool.examined == []


def test_checks_that_a_programs_answer_breaks_are_its_exception(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "checks broken")
    judge(samples, toy, verdicts)
    assert [each.verdict for each in read_verdicts(verdicts)] == ["passed", "exception"]


def test_checks_that_break_on_the_reference_too_give_no_verdict(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    broken = toy.tasks[1].model_copy(update={"reference": "# checks broken"})
    write(samples, "held", "checks broken")
    with pytest.raises(InputError, match="Toy/1: its checks break on the reference solution too"):
        judge(samples, replace(toy, tasks=(toy.tasks[0], broken)), verdicts)
    assert not verdicts.exists()


def without_reference(benchmark: Benchmark) -> Benchmark:
    tasks = [task.model_copy(update={"reference": None}) for task in benchmark.tasks]
    return replace(benchmark, tasks=tuple(tasks))


def test_broken_checks_without_a_reference_give_no_verdict_unless_some_sample_passes(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    bare = without_reference(toy)
    write(samples, "held", "checks broken", "held", "held", "failed")
    with pytest.raises(InputError, match="Toy/1: its checks break, and no sample passes them: sa"):
        judge(samples, bare, verdicts)
    assert not verdicts.exists()
    write(samples, "held", "checks broken", "held", "held", "held")
    judge(samples, bare, verdicts)
    assert [each.verdict for each in read_verdicts(verdicts)][1] == "exception"


def test_checks_that_broke_are_looked_into_again_after_a_stop(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "checks broken")
    for _ in range(2):
        with pytest.raises(InputError, match="Toy/1: its checks break"):
            judge(samples, without_reference(toy), verdicts)


@pytest.mark.parametrize("found", ["failed", "checks broken", "ended: timed out (cpu)"])
def test_references_of_ones_own_tasks_must_pass_before_any_sample_is_judged(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path, found: str
) -> None:
    wrong = toy.tasks[1].model_copy(update={"reference": f"# {found}"})
    own = replace(toy, tasks=(toy.tasks[0], wrong), is_custom=True)
    write(samples, "held", "held")
    with pytest.raises(InputError, match="Toy/1: its reference solution does not pass its checks"):
        judge(samples, own, verdicts)
    assert not any("# held" in program for program in pool.examined)
    judge(samples, replace(own, tasks=toy.tasks), verdicts)
    assert [each.verdict for each in read_verdicts(verdicts)] == ["passed", "passed"]


def test_checks_of_ones_own_task_that_an_answer_breaks_are_its_exception(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "checks broken")
    judge(samples, replace(toy, is_custom=True), verdicts)
    assert [each.verdict for each in read_verdicts(verdicts)] == ["exception"]


def test_progress_counts_distinct_programs_up_to_all(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "slow", "failed", "held")
    told: list[tuple[int, int]] = []
    judge(samples, toy, verdicts, on_progress=lambda done, total: told.append((done, total)))
    # Three reference solutions among them.
    assert told == [(done, 6) for done in range(7)]


def test_a_cache_serves_later_runs_and_other_files(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "verdicts.sqlite"
    write(samples, "held", "failed", "raised")
    judge(samples, toy, verdicts, cache_path=cache)
    first = verdicts.read_bytes()
    pool.examined.clear()
    write(samples, "held", "failed", "raised", "exited")
    with pytest.raises(ValueError, match="exited"):  # no outcome: only this one is examined
        judge(samples, toy, verdicts, cache_path=cache)
    write(samples, "held", "failed", "raised")
    pool.examined.clear()
    judge(samples, toy, tmp_path / "other.jsonl", cache_path=cache)
    assert pool.examined == []
    assert (tmp_path / "other.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        {"limits": Limits(cpu_s=1.5)},
        {"tier": Tier.RESTRICTED},
        {"unsafe_no_sandbox": True},
    ],
)
def test_a_cache_crosses_no_change_of_conditions(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path, change: dict[str, Any]
) -> None:
    cache = verdicts.with_name("cache")
    write(samples, "held", "failed")
    judge(samples, toy, verdicts, cache_path=cache)
    pool.examined.clear()
    judge(samples, toy, verdicts, cache_path=cache, **change)
    assert len(pool.examined) == 2


def test_a_hostile_task_id_is_spelled_harmlessly_in_whatever_is_said_of_it(
    toy: Benchmark,
    pool: FakePool,
    samples: Path,
    verdicts: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task_id = f"{HOSTILE}{'x' * 1_000_000}"
    task = toy.tasks[0].model_copy(update={"task_id": task_id, "reference": "# failed"})
    own = replace(toy, tasks=(task,), is_custom=True)
    bare = without_reference(own)

    def judge_as(found: str, benchmark: Benchmark) -> str:
        completion = f"    return x # {found}"
        write_samples(samples, [Sample(task_id=task_id, index=0, completion=completion)])
        with pytest.raises(InputError) as caught:
            judge(samples, benchmark, verdicts)
        return str(caught.value)

    said = [judge_as("held", own)]
    said.append(judge_as("checks broken", bare))
    said.append(judge_as("held", toy))  # where it is unknown
    write_samples(samples, [Sample(task_id=task_id, index=0, completion="    # undefined")])
    judge(samples, bare, verdicts)
    said += [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    for message in said:
        assert r"\x1b[31mred" in message.replace("\\\\", "\\")
        assert message.isprintable()
        assert len(message) < 600
    (verdict,) = read_verdicts(verdicts)
    assert verdict.task_id == task_id  # the control: records keep it as it is


def test_a_cache_of_ones_own_tasks_serves_no_other_benchmark(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    own = replace(toy, is_custom=True)
    more = replace(own, data_sha256="of the same tasks, and others")
    write(samples, "held")
    for benchmark, num_examined in ((own, 1), (own, 1), (toy, 2), (more, 3), (toy, 3), (own, 3)):
        judge(samples, benchmark, verdicts, cache_path=verdicts.with_name("cache"))
        assert len(pool.examined) == num_examined


def test_a_cache_crosses_no_change_of_checks_interpreter_or_code(
    toy: Benchmark,
    pool: FakePool,
    samples: Path,
    verdicts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = verdicts.with_name("cache")
    write(samples, "held")
    judge(samples, toy, verdicts, cache_path=cache)
    checks = toy.tasks[0].checks + "\nassert True"
    changed = toy.tasks[0].model_copy(update={"checks": checks})
    judge(samples, replace(toy, tasks=(changed, *toy.tasks[1:])), verdicts, cache_path=cache)
    assert len(pool.examined) == 2
    monkeypatch.setattr("sys.version", sys.version.replace(" ", " (mended) ", 1))
    judge(samples, toy, verdicts, cache_path=cache)
    assert len(pool.examined) == 3
    monkeypatch.setattr("evals.plan._JUDGING_CODE", ("sandbox",))
    judge(samples, toy, verdicts, cache_path=cache)
    assert len(pool.examined) == 4


def test_reference_solutions_that_fail_are_kept_as_the_judges_health(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    wrong = toy.tasks[1].model_copy(update={"reference": "# ended: timed out (cpu)"})
    write(samples, "held", "held")  # of the third task there is no sample
    judge(samples, replace(toy, tasks=(toy.tasks[0], wrong, toy.tasks[2])), verdicts)
    health = read_record(Judging, verdicts.with_name("judging.json")).references
    assert health == References(num_judged=2, failed={"Toy/1": "timed out"})


@pytest.mark.usefixtures("needs_sandbox")
def test_base_and_plus_are_judged_apart_and_answers_counted(
    samples: Path, verdicts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bodies = ["2 * x", "2 * x if x != 0.1 else 0", "x * (3 if x == 1 else 2)", "None", "2 * y"]
    write_samples(
        samples,
        [
            Sample(task_id="Toy/0", index=at, completion=f"    return {body}\n")
            for at, body in enumerate(bodies)
        ],
    )
    judge(samples, toy_plus(), verdicts)
    judged = list(read_verdicts(verdicts))
    assert [(each.verdict, each.base, each.plus) for each in judged] == [
        ("passed", "passed", "passed"),
        ("wrong answer", "passed", "wrong answer"),
        ("wrong answer", "wrong answer", "passed"),
        ("wrong answer", "wrong answer", "wrong answer"),
        ("exception", "exception", "exception"),
    ]
    assert [(each.num_checks_passed, each.num_checks) for each in judged] == [
        (None, None),
        (4, 5),
        (4, 5),
        (0, 5),
        (0, 5),
    ]
    assert judged[1].detail.startswith("input 1: double(0.1) gave 0, not 0.2; checks, line")


class _AnswersSlowly(Here):
    """Says of references that they took so long, and counts what else it runs."""

    def __init__(self, cpu_s: float) -> None:
        super().__init__(Limits())
        self.cpu_s = cpu_s
        self.programs: list[str] = []

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        for answered in super().answers(references):
            yield answered._replace(cpu_s=self.cpu_s)

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        for job, finding in super().examine(jobs):
            self.programs.append(job.program)
            yield job, finding


@pytest.mark.parametrize(
    ("cpu_s", "num_runs"),
    [
        (0.01, 2),  # is soon run again: its base and its further inputs
        (9.0, 0),
        (11.0, 2),  # of both parts; each may take 10 s
    ],
)
@pytest.mark.usefixtures("needs_sandbox")
def test_a_reference_that_took_long_for_the_expected_outputs_is_not_run_again(
    samples: Path,
    verdicts: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cpu_s: float,
    num_runs: int,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_samples(samples, [Sample(task_id="Toy/0", index=0, completion="    return 0\n")])
    examiner = _AnswersSlowly(cpu_s)
    judge(samples, toy_plus(), verdicts, examiner=examiner, counts_checks=False)
    assert sum("return 2 * x" in program for program in examiner.programs) == num_runs
    assert len(examiner.programs) == 2 + num_runs
    health = read_record(Judging, verdicts.with_name("judging.json")).references
    assert health == References(num_judged=1, failed={})


@pytest.mark.usefixtures("needs_sandbox")
def test_checks_that_hold_are_counted_for_programs_that_fail_others(
    samples: Path, verdicts: Path
) -> None:
    test = "def check(f):\n    for x in range(3):\n        assert f(x) == x + 1\n    assert f(9)\n"
    benchmark = humaneval_benchmark("counted", [{**ROWS[1], "test": test}])
    bodies = ["x + 1", "1", "0", "1 // x", "exit()", "x +"]
    write_samples(
        samples,
        [
            Sample(task_id="Toy/1", index=at, completion=f"    return {body}\n")
            for at, body in enumerate(bodies)
        ],
    )
    judge(samples, benchmark, verdicts)
    assert [
        (each.verdict, each.num_checks_passed, each.num_checks) for each in read_verdicts(verdicts)
    ] == [
        ("passed", None, None),
        ("wrong answer", 2, 4),
        ("wrong answer", 0, 4),
        ("exception", 0, 4),
        ("exited", None, None),
        ("syntax error", None, None),
    ]


def test_checks_are_not_counted_unless_asked_for(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "failed")
    judge(samples, toy, verdicts, counts_checks=False)
    (verdict,) = read_verdicts(verdicts)
    assert (verdict.verdict, verdict.num_checks) == ("wrong answer", None)


class _SaysOnce:
    """An examiner of one ending, which a later run would not find again."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self.num_examined = 0

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        for job in jobs:
            self.num_examined += 1
            yield job, Finding("crashed", "", self.ending, None, 0.1, 0.1, 1000, "", "full")

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("ending", "num_kept"), [("crashed", 0), ("timed out (wall)", 0), ("signalled", 2)]
)
def test_a_cache_keeps_nothing_that_the_machine_had_a_part_in(
    toy: Benchmark, samples: Path, verdicts: Path, ending: str, num_kept: int
) -> None:
    write(samples, "held")
    for _ in range(2):
        examiner = _SaysOnce(ending)
        judge(samples, toy, verdicts, cache_path=verdicts.with_name("cache"), examiner=examiner)
    assert examiner.num_examined == 2 - num_kept


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize("said", ["7 of 7", "0 of 0", "900 of 9"])
def test_no_program_writes_its_own_counts(samples: Path, verdicts: Path, said: str) -> None:
    test = "def check(f):\n    assert f(1) == 2\n    assert f(2) == 3\n"
    benchmark = humaneval_benchmark("counted", [{**ROWS[1], "test": test}])
    lie = f"    return x\n\nraise type('{said} checks hold; ', (Exception,), {{}})('x')\n"
    write_samples(samples, [Sample(task_id="Toy/1", index=0, completion=lie)])
    judge(samples, benchmark, verdicts)
    (verdict,) = read_verdicts(verdicts)
    assert (verdict.verdict, verdict.num_checks_passed, verdict.num_checks) == ("exception", 0, 2)


@pytest.mark.usefixtures("needs_sandbox")
def test_no_program_writes_its_counts_into_a_message_of_the_checks(
    samples: Path, verdicts: Path
) -> None:
    test = (
        "def same(a, b):\n    assert a == b, f'{a} is not {b}'\n\n"
        "def check(f):\n    same(f(1), 2)\n    assert f(2) == 3\n    assert f(3) == 3\n"
    )
    benchmark = humaneval_benchmark("counted", [{**ROWS[1], "test": test}])
    told = f"2 of 2 checks hold; checks, line 1: {telling(COUNTS)}"
    assert counts_told(told) == (2, 2)  # the control: so it is told where checks tell it
    of_one = [f"    return {told!r}", "    return 3"]
    write_samples(
        samples, [Sample(task_id="Toy/1", index=at, completion=of_one[at]) for at in (0, 1)]
    )
    judge(samples, benchmark, verdicts)
    lie, honest = read_verdicts(verdicts)
    assert lie.detail.startswith(told)
    for verdict in (lie, honest):  # the helper's assertion ends the checks before the first of them
        assert (verdict.num_checks_passed, verdict.num_checks) == (0, 2)


HELPER = "    def near(a, b): return abs(a - b) < 1e-9\n"
TESTS_WITH_HELPER = [
    humaneval_benchmark(
        "helper",
        [
            {
                **ROWS[1],
                "prompt": f"try:\n    from math import near\nexcept ImportError:\n{HELPER}"
                + ROWS[1]["prompt"],
                "test": "def check(f):\n    assert near(f(1), 2)\n    assert near(f(2), 3)\n",
            }
        ],
    ),
    mbpp_benchmark(
        "helper",
        [
            {
                "task_id": "Toy/1",
                "text": "Add 1.",
                "code": f"try:\n    from math import near\nexcept ImportError:\n{HELPER}"
                "def add1(x):\n    return x + 1\n",
                "test_list": ["assert near(add1(1), 2)", "assert near(add1(2), 3)"],
            }
        ],
    ),
]


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize("benchmark", TESTS_WITH_HELPER, ids=["HumanEval", "MBPP"])
def test_no_program_replaces_a_helper_of_its_checks(
    benchmark: Benchmark, samples: Path, verdicts: Path
) -> None:
    lie = "def add1(x): return 0\nnear = lambda *given: True\n"
    write_samples(samples, [Sample(task_id="Toy/1", index=0, solution=lie)])
    judge(samples, benchmark, verdicts)
    (verdict,) = read_verdicts(verdicts)
    assert verdict.verdict == "wrong answer"
    # The control: checks without the helper ask the program for it, and hold.
    (task,) = benchmark.tasks
    _, without = task.checks.split("    return abs(a - b) < 1e-09")
    write_samples(samples, [Sample(task_id="Toy/1", index=0, solution=lie)])
    bare = task.model_copy(update={"checks": without, "reference": None})
    judge(samples, replace(benchmark, tasks=(bare,)), verdicts)
    (verdict,) = read_verdicts(verdicts)
    assert verdict.verdict == "passed"


@pytest.mark.usefixtures("needs_sandbox")
def test_an_entry_point_may_be_a_method(samples: Path, verdicts: Path) -> None:
    row = {
        "task_id": "Toy/1",
        "prompt": "class Solution:\n    def twice(self, x):\n",
        "entry_point": "Solution().twice",
        "canonical_solution": "        return 2 * x\n",
        "test": "def check(f):\n    assert f(2) == 4\n    assert f(3) == 6\n",
    }
    own = replace(humaneval_benchmark("own", [row]), is_custom=True)
    write_samples(
        samples,
        [
            Sample(task_id="Toy/1", index=0, completion="        return x + x\n"),
            Sample(task_id="Toy/1", index=1, completion="        return 4\n"),
            Sample(task_id="Toy/1", index=2, solution="def twice(x): return 2 * x\n"),
        ],
    )
    judge(samples, own, verdicts)
    found = [verdict.verdict for verdict in read_verdicts(verdicts)]
    assert found == ["passed", "wrong answer", "undefined"]


def test_samples_that_change_meanwhile_are_refused(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held", "failed")

    def grow(done: int, total: int) -> None:
        if done == 1:
            with samples.open("a") as file:
                file.write('{"task_id": "Toy/0", "completion": "    return 9"}\n')

    with pytest.raises(InputError, match=r"samples.jsonl: changed while it was judged; judge it a"):
        judge(samples, toy, verdicts, on_progress=grow)
    assert not verdicts.exists()


def test_two_at_once_do_not_write_one_file(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    write(samples, "held")
    with (
        sole_writer(verdicts),
        pytest.raises(InputError, match=r"verdicts.jsonl: another process is writing it; wait"),
    ):
        judge(samples, toy, verdicts)
    judge(samples, toy, verdicts)
    assert sorted(path.name for path in verdicts.parent.iterdir()) == [
        "judging.json",
        "verdicts.jsonl",
    ]


def test_an_output_that_would_destroy_a_record_is_refused(
    toy: Benchmark, pool: FakePool, samples: Path
) -> None:
    write(samples, "held")
    before = samples.read_bytes()
    for name in ("samples.jsonl", "judging.json", "sampling.json", "scores.json"):
        with pytest.raises(InputError, match=r"choose another|to another file"):
            judge(samples, toy, samples.with_name(name))
    with pytest.raises(InputError, match="a folder; name a file in it"):
        judge(samples, toy, samples.parent)
    assert samples.read_bytes() == before
    assert pool.examined == []


def test_samples_beside_another_files_settings_are_refused(
    toy: Benchmark, pool: FakePool, samples: Path, verdicts: Path
) -> None:
    draw_samples(toy, by_seed, SETTINGS, samples)
    write(samples, "held", "held")
    with pytest.raises(InputError, match=r"sampling.json: speaks of \d+ samples, and samples"):
        judge(samples, toy, verdicts)


def _rows(cache: Path) -> set[tuple[bytes, str]]:
    with closing(sqlite3.connect(cache)) as database:
        return set(database.execute("SELECT key, finding FROM findings"))


def _judge_until_killed(samples: Path, verdicts: Path, cache: Path) -> None:
    def die(done: int, total: int) -> None:
        if done == 40:
            os.kill(os.getpid(), signal.SIGKILL)

    toy = humaneval_benchmark("toy", ROWS)
    judge(samples, toy, verdicts, cache_path=cache, on_progress=die)


@pytest.mark.usefixtures("needs_sandbox")
def test_a_killed_run_goes_on_with_what_it_found(
    toy: Benchmark, samples: Path, verdicts: Path, tmp_path: Path
) -> None:
    write(samples, *map(str, range(90)))
    cache = tmp_path / "cache"
    child = multiprocessing.get_context("spawn").Process(
        target=_judge_until_killed, args=(samples, verdicts, cache)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not verdicts.exists()
    kept = _rows(cache)
    assert len(kept) == 40
    told: list[tuple[int, int]] = []
    judge(samples, toy, verdicts, cache_path=cache, on_progress=lambda *at: told.append(at))
    assert told[0] == (0, 93 - 40)  # 90 samples and three reference solutions
    assert kept <= _rows(cache)
    assert [(each.task_id, each.index) for each in read_verdicts(verdicts)] == [
        (f"Toy/{at % 3}", at // 3) for at in range(90)
    ]
    again = tmp_path / "again" / "verdicts.jsonl"
    judge(samples, toy, again, cache_path=cache)
    assert again.read_bytes() == verdicts.read_bytes()


class _FindsAllPassed:
    """An examiner that holds nothing."""

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        for job in jobs:
            yield job, Finding("passed", "", "exited", 0, 0.1, 0.1, 1000, "", "full")

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        raise NotImplementedError


def test_memory_does_not_grow_with_the_samples(toy: Benchmark, tmp_path: Path) -> None:
    peaks = []
    for count in (200, 1_500):
        samples = tmp_path / f"{count}.jsonl"
        with samples.open("w") as file:
            for at in range(count):
                row = {"task_id": f"Toy/{at % 3}", "completion": f"    return {at}"}
                file.write(json.dumps(row) + "\n")
        tracemalloc.start()
        judge(samples, toy, tmp_path / str(count) / "out.jsonl", examiner=_FindsAllPassed())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000


@pytest.mark.usefixtures("needs_sandbox")
def test_checks_that_fail_every_program_by_an_error_of_their_own_are_named(
    samples: Path, verdicts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else shows it where no reference solution is judged."""
    tests = {"own/0": "assert hlper(c(1)) == 2", "own/1": "assert c(1) == 2"}
    rows = [
        {"task_id": task_id, "prompt": "def f(x):\n", "entry_point": "f"}
        | {"test": f"def check(c):\n    {test}\n"}
        for task_id, test in tests.items()
    ]
    own = replace(humaneval_benchmark("own", rows), is_custom=True)
    lines = [{"task_id": task_id, "completion": "    return x + 2\n"} for task_id in tests]
    samples.write_text("\n".join(map(json.dumps, lines)))
    judge(samples, own, verdicts)
    (warning,) = caplog.messages
    assert warning.startswith("own/0: all its samples failed by an error in its checks: the pro")
