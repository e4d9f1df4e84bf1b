import ast

import pytest

from evals.benchmarks.formats import Benchmark
from evals.program import can_fail, humaneval_checks, limits_of, mbpp_checks, program_of
from evals.records import Sample
from sandbox import Limits


def test_a_completion_continues_the_prompt_and_a_solution_stands_alone(toy: Benchmark) -> None:
    task = toy.tasks[1]
    completion = Sample(task_id=task.task_id, index=0, completion="    return x")
    solution = Sample(task_id=task.task_id, index=0, solution="add1 = abs")
    assert program_of(task, completion) == task.prompt + "    return x"
    assert program_of(task, solution) == "add1 = abs"


def test_limits_are_raised_to_what_a_task_needs(toy: Benchmark) -> None:
    limits = Limits(cpu_s=2.0, output_bytes=100)
    task = toy.tasks[0]
    assert limits_of(task, limits) == limits
    slow = task.model_copy(update={"cpu_s": 20.0, "memory_bytes": 4 << 30})
    assert limits_of(slow, limits) == Limits(cpu_s=20.0, memory_bytes=4 << 30, output_bytes=100)
    assert limits_of(slow, Limits(cpu_s=60.0)).cpu_s == 60.0


PROMPT = '''import math
from typing import List
from string import *
RATE = 2
def scale(x):
    return math.floor(x) * RATE
def unused():
    pass
def f(xs: List[int]):
    """Doubles."""
'''


def defined(source: str) -> list[str]:
    return [ast.unparse(node).split("\n")[0] for node in ast.parse(source).body]


def test_checks_hold_what_the_test_needs_of_the_prompt_but_not_its_entry_point() -> None:
    test = "def check(candidate):\n    assert candidate([1]) == scale(1)"
    source, names = humaneval_checks(PROMPT, test, "f")
    assert names == ("f",)
    assert defined(source) == [
        "import math",
        "from string import *",
        "RATE = 2",
        "def scale(x):",
        "def check(candidate):",
        "check(f)",
    ]


@pytest.mark.parametrize("ending", ["", "    ", "\n", "    if x:\n", "    for"])
def test_checks_hold_helpers_of_a_prompt_that_ends_anywhere(ending: str) -> None:
    prompt = f"def scale(x):\n    return 2 * x\ndef f(x):\n{ending}"
    test = "def check(candidate):\n    assert candidate(1) == scale(1)"
    source, _ = humaneval_checks(prompt, test, "f")
    assert "def scale(x):" in defined(source)


@pytest.mark.parametrize(
    ("setup", "asserts", "reference", "names"),
    [
        ("", ["assert f(1) == 1"], "def f(x): return x", ("f",)),
        ("", ["assert sum(1) == 1"], "def sum(x): return x", ("sum",)),
        ("", ["assert set(f(1)) == set()"], "def f(x): return []", ("f",)),
        ("", ["assert f([P(1)], int) == 1"], "class P: pass\ndef f(x, t): pass", ("f", "P")),
        ("r = P(1)\nr.n = P(2)", ["assert (f(r))"], "class P: pass\ndef f(x): pass", ("f", "P")),
        ("", ["assert f(1) == [x for x in [1]]"], "x = 1\ndef f(x): pass", ("f",)),
        ("", ["assert f(1) == 1"], "f = lambda x: x", ("f",)),
    ],
)
def test_names_of_the_program_are_those_the_checks_do_not_bind(
    setup: str, asserts: list[str], reference: str, names: tuple[str, ...]
) -> None:
    assert mbpp_checks([], setup, asserts, reference)[1] == names


def test_checks_import_what_the_tests_and_the_reference_import() -> None:
    source, names = mbpp_checks(
        ["import math"],
        "",
        ["assert math.isclose(f(1), sys.getsizeof(1))"],
        "import sys, re\nimport os\ndef f(x): pass",
    )
    assert names == ("f",)
    assert defined(source)[:2] == ["import sys, re", "import math"]


def test_asserts_that_call_nothing_of_the_solution_are_refused() -> None:
    with pytest.raises(SyntaxError, match="call no function"):
        mbpp_checks([], "", ["assert len('') == 0"], "def f(x): pass")


@pytest.mark.parametrize(
    ("checks", "fails"),
    [
        ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)", True),
        ("def check(candidate):\n    if candidate(1) != 2: raise ValueError\ncheck(f)", True),
        ("import numpy\ndef check(c):\n    numpy.testing.assert_allclose(c(1), 2)", True),
        ("from unittest import assert_equal\nassert_equal(f(1), 2)", True),
        ("def check(candidate):\n    pass\ncheck(f)", False),
        ("def check(candidate):\n    candidate(1) == 2\n    print(candidate(2))\ncheck(f)", False),
        ("f(1) == 2", False),
    ],
)
def test_checks_that_assert_nothing_cannot_fail(checks: str, fails: bool) -> None:
    assert can_fail(checks, ["f"]) is fails
