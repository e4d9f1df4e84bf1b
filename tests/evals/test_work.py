"""Programs that read standard input, held to their cases in the real sandbox."""

from collections.abc import Sequence

import pytest

from evals.records import StdinCase
from evals.work import Finding, Here, Job
from sandbox import Limits

pytestmark = pytest.mark.usefixtures("needs_sandbox")

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


def test_what_is_no_python_is_a_syntax_error() -> None:
    (found,) = findings(["print('"])
    assert found.verdict == "syntax error"


def test_a_wait_for_others_is_tried_again_alone() -> None:
    limits = Limits(cpu_s=0.5, wall_s=0.5)
    job = Job(b"k", "import time; time.sleep(9)", limits, None, DOUBLES[:1])
    ((_, finding),) = Here(limits, 2).examine([job])
    assert finding.verdict == "timed out"


def test_no_pool_is_made_for_no_jobs() -> None:
    assert list(Here(LIMITS, 0).examine([])) == []
