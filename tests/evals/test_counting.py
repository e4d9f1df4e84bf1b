"""How many checks hold: counted by checks that are run to their end."""

import ast

import pytest

from evals.counting import counting, counts_told, telling
from sandbox import Checks

HUMANEVAL = """
METADATA = {}

def check(candidate):
    assert candidate(1) == 1, "one"
    for number in (2, 3):
        assert candidate(number) == number
    try:
        candidate(-1)
        assert False
    except ValueError:
        pass

check(candidate)
"""


def counts(source: str, **names: object) -> tuple[int, int] | None:
    """What the counting checks tell of these functions, called right here."""
    checks = counting(Checks(source, tuple(names))).checks
    assert checks is not None
    with pytest.raises(AssertionError) as failure:
        exec(checks.source, dict(names))
    return counts_told(f"{failure.value}; checks, line 1")


def same(x: int) -> int:
    if x < 0:
        raise ValueError
    return x


def test_each_assert_counts_as_often_as_it_is_met() -> None:
    assert counts(HUMANEVAL, candidate=same) == (3, 3)
    assert counts(HUMANEVAL, candidate=lambda x: 2 if x > 0 else same(x)) == (1, 3)


def test_an_error_is_a_check_that_does_not_hold_and_those_after_it_go_on() -> None:
    asserts = "assert f(1) == 1\nassert f(0) == 1\nassert f(2) == 0\n"
    assert counts(asserts, f=lambda x: 1 // x) == (2, 3)


def test_what_is_not_an_assert_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="set-up"):
        exec(
            counting(Checks("assert f()\nraise ValueError('set-up')\nassert f()")).checks.source,  # type: ignore[union-attr]
            {"f": lambda: True},
        )


@pytest.mark.parametrize(
    ("source", "num_checks"),
    [("assert f(1)", 1), ("f(1)", 0), ("def g():\n    assert f(1)\n    assert f(2)\ng()", 0)],
)
def test_fewer_than_two_need_no_counting(source: str, num_checks: int) -> None:
    assert counting(Checks(source)) == (None, num_checks)


def test_one_assert_in_a_loop_counts() -> None:
    assert counts("for x in range(9):\n    assert f(x)", f=lambda x: x % 2) == (4, 9)


def test_names_stay_the_programs() -> None:
    checks = counting(Checks("assert sum(1)\nassert sum(2)", ("sum",))).checks
    assert checks is not None
    assert checks.names == ("sum",)


@pytest.mark.parametrize(
    "detail", ["", "3 of 4 checks", "f gave '3 of 4 checks hold; '", "x3 of 4 checks hold; at"]
)
def test_nothing_else_is_taken_for_counts(detail: str) -> None:
    assert counts_told(detail) is None


def test_what_tells_is_a_statement() -> None:
    ast.parse(telling("counts"))
