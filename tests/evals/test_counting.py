"""How many checks hold: told by checks that always fail."""

import ast

import pytest

from evals.counting import COUNTS, counts_told, telling


def test_counts_are_told() -> None:
    said = f"2 of 3 checks hold; checks, line 9: {telling(COUNTS)}"
    assert counts_told(f"{said}; f(3) gave 4") == (2, 3)


@pytest.mark.parametrize(
    "detail",
    [
        "",
        "3 of 4 checks",
        "f gave '3 of 4 checks hold; '",
        "3 of 4 checks hold; : so; checks, line 2: assert f(1)",
        f"5 of 4 checks hold; checks, line 9: {telling(COUNTS)}",
        f"0 of 0 checks hold; checks, line 9: {telling(COUNTS)}",
        f"1 of {10**12} checks hold; checks, line 9: {telling(COUNTS)}",
    ],
)
def test_nothing_else_is_taken_for_counts(detail: str) -> None:
    assert counts_told(detail) is None


def test_what_tells_is_a_statement() -> None:
    ast.parse(telling("counts"))
