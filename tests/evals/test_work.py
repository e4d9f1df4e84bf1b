"""Programs that read standard input, in the real sandbox; and which programs are tried again."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from evals.records import StdinCase, VerdictName
from evals.work import Finding, Here, Job, SecondTries
from sandbox import Checks, Ending, Examination, Execution, Heard, Limits, Pool, Program
from tests.evals.conftest import FakePool

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")

LIMITS = Limits(cpu_s=0.3)
DOUBLES = tuple(StdinCase(stdin=f"{number}\n", stdout=f"{2 * number}\n") for number in range(5))


def findings(programs: Sequence[str], cases: tuple[StdinCase, ...] = DOUBLES) -> list[Finding]:
    """In the order of the programs."""
    jobs = [
        Job(bytes([number]), program, LIMITS, None, cases)
        for number, program in enumerate(programs)
    ]
    found = {job.key: finding for job, finding in Here(LIMITS, 2).examine(iter(jobs))}
    return [found[job.key] for job in jobs]


def wrong_for(*numbers: int) -> str:
    return f"x = int(input())\nprint(2 * x if x not in {numbers} else 'no')"


def test_every_case_must_hold_and_those_that_do_are_counted() -> None:
    right, some, none = findings([wrong_for(), wrong_for(1, 3), "print('no')"])
    assert (right.verdict, right.detail, right.num_checks_passed) == ("passed", "", 5)
    assert (some.verdict, some.detail) == ("wrong answer", "case 2: wrote 'no', not '2'")
    assert (some.num_checks_passed, some.num_checks) == (3, 5)
    assert (none.verdict, none.num_checks_passed) == ("wrong answer", 0)
    assert right.isolation == "full"
    assert right.peak_memory_bytes is not None


@pytest.mark.parametrize(
    ("fault", "verdict", "said"),
    [
        ("raise ValueError('so')", "exception", "case 3: ValueError: so"),
        ("while True: pass", "timed out", "case 3: timed out (cpu)"),
        ("import ctypes; ctypes.string_at(0)", "crashed", "case 3: signalled"),
        ("import sys; sys.exit(3)", "exception", "case 3: "),
        ("print(1, end='')", "wrong answer", "case 3: wrote '14', not '4'"),
    ],
)
def test_the_first_case_that_goes_wrong_makes_the_verdict(
    fault: str, verdict: str, said: str
) -> None:
    (found,) = findings([f"x = int(input())\nif x == 2:\n    {fault}\nprint(2 * x)"])
    assert found.verdict == verdict
    assert found.detail.startswith(said)


def test_after_an_endless_loop_no_case_counts() -> None:
    (found,) = findings(["x = int(input())\nwhile x == 1: pass\nprint(2 * x)"])
    assert (found.verdict, found.num_checks_passed, found.num_checks) == ("timed out", 1, 5)
    assert found.cpu_s < 2 * LIMITS.cpu_s


def test_no_program_is_lost_where_all_end_at_their_first_case() -> None:
    loops = findings(["while True: pass"] * 5)
    assert [found.verdict for found in loops] == ["timed out"] * 5


def test_what_is_no_python_is_a_syntax_error_and_what_only_says_so_is_not() -> None:
    found = findings(["print('", "eval(input() + ' z')", "exit('SyntaxError: no')"])
    assert [each.verdict for each in found] == ["syntax error", "exception", "exception"]


@pytest.mark.parametrize("ending", [Ending.TIMED_OUT_WALL, Ending.TIMED_OUT_CPU, Ending.CRASHED])
def test_what_others_may_have_had_a_part_in_is_tried_again_alone(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crowded(Pool):
        def run_as_completed(
            self, programs: Iterable[str | Program | tuple[str | Program, Limits]]
        ) -> Iterator[tuple[int, Execution]]:
            for position, execution in super().run_as_completed(programs):
                crowded = replace(execution, ending=ending)
                yield position, execution if self.num_workers == 1 else crowded

    monkeypatch.setattr("evals.work.Pool", Crowded)
    (found,) = findings([wrong_for()])
    assert found.verdict == "passed"


def job_of(number: int, cpu_s: float = 10.0) -> Job:
    """A program that the checks of this number are for."""
    return Job(b"", "", Limits(cpu_s=cpu_s), Checks(f"assert f({number})", ("f",)))


def ran(ending: Ending, verdict: VerdictName = "timed out") -> Finding:
    """As long as a program may that has 10 s of CPU time."""
    return Finding(verdict, "", ending.value, None, 10.0, 10.0, None, "", "full")


LOOPED, WELL = ran(Ending.TIMED_OUT_CPU), ran(Ending.EXITED, "passed")


def num_tried_again(
    jobs: Iterable[Job],
    alone: Iterable[Finding],
    first: Finding = LOOPED,
    tries: SecondTries | None = None,
) -> int:
    """Of programs that all came to that beside one other, each tried again at once."""
    tries, second = tries or SecondTries(), iter(alone)
    count = 0
    for job in jobs:
        tries.note(first, 2)
        if tries.grants(job, first):
            count += 1
            tries.note_second(job, first, next(second))
    return count


def test_a_thousand_endless_loops_cost_a_quarter_more() -> None:
    loops = [job_of(number % 500) for number in range(1000)]
    first_s = 1000 * 10 / 2
    second_s = 10 * num_tried_again(loops, itertools.repeat(LOOPED))
    assert 0.25 * first_s <= second_s <= 60 + 0.25 * first_s


def test_where_three_ran_out_alone_too_the_next_of_their_checks_are_not_tried_again() -> None:
    assert num_tried_again([job_of(0)] * 1000, itertools.repeat(LOOPED)) == 3
    # Unless one did not: then three more.
    alone = [LOOPED, LOOPED, WELL, *[LOOPED] * 3]
    assert num_tried_again([job_of(0)] * 1000, alone) == 6
    # One that ends in yet another way of the machine's tells nothing.
    alone = [LOOPED, LOOPED, ran(Ending.TIMED_OUT_WALL), LOOPED]
    assert num_tried_again([job_of(0)] * 1000, alone) == 4


def test_programs_whose_time_out_was_others_fault_are_all_tried_again() -> None:
    assert num_tried_again([job_of(0)] * 1000, itertools.repeat(WELL)) == 1000


@pytest.mark.parametrize("ending", [Ending.TIMED_OUT_WALL, Ending.CRASHED])
def test_programs_that_wait_or_get_themselves_killed_pay_for_second_tries_too(
    ending: Ending,
) -> None:
    lost = ran(ending)
    assert num_tried_again([job_of(0)] * 1000, itertools.repeat(lost), lost) == 3
    many = [job_of(number % 500) for number in range(1000)]
    second_s = 10 * num_tried_again(many, itertools.repeat(lost), lost)
    assert second_s <= 60 + 0.25 * 1000 * 10 / 2
    # Those whom the machine did wrong pay nothing, and no other kind pays for these.
    assert num_tried_again([job_of(0)] * 1000, itertools.repeat(WELL), lost) == 1000
    tries = SecondTries()
    num_tried_again(many, itertools.repeat(lost), lost, tries)
    assert num_tried_again([job_of(7)], [LOOPED], LOOPED, tries) == 1


def test_a_program_is_tried_again_if_it_is_known_what_it_said() -> None:
    looped = LOOPED._replace(heard=Heard(9, "a" * 64))
    assert num_tried_again([job_of(0)] * 9, itertools.repeat(WELL), looped) == 9
    unknown = LOOPED._replace(heard=Heard(1, ""))
    assert num_tried_again([job_of(0)] * 9, itertools.repeat(WELL), unknown) == 0


def test_few_programs_are_put_off_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed loses those: no finding of theirs is kept yet."""
    handed: list[bool] = []  # alone?

    class OneByOne(FakePool):
        examined: ClassVar[list[str]] = []

        def examine_as_completed(
            self, work: Iterable[tuple[str, Checks, Limits]]
        ) -> Iterator[tuple[int, Examination]]:
            for position, (program, checks, _) in enumerate(work):
                handed.append(self.num_workers == 1)
                yield position, self.examination(program, checks)

    monkeypatch.setattr("evals.work.Pool", OneByOne)
    jobs = [job_of(number, cpu_s=0.1)._replace(program="# crowded") for number in range(100)]
    found = list(Here(LIMITS, 2).examine(jobs))
    assert [finding.verdict for _, finding in found] == ["passed"] * 100
    runs = [(alone, len(list(each))) for alone, each in itertools.groupby(handed)]
    assert runs == [(alone, count) for count in (32, 32, 32, 4) for alone in (False, True)]


def test_no_pool_is_made_for_no_jobs() -> None:
    assert list(Here(LIMITS, 0).examine([])) == []
