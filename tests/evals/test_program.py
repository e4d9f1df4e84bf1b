import ast
import contextlib
import random
import time

import pytest

from evals.benchmarks.formats import Benchmark
from evals.errors import UnusableRowError
from evals.program import (
    _parse,
    _parse_unfinished,
    can_fail,
    humaneval_checks,
    limits_of,
    mbpp_checks,
    program_of,
    undeclared_names,
)
from evals.records import Sample
from sandbox import Checks, Limits


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


def statements_line_by_line(prompt: str) -> list[ast.stmt]:
    """`_parse_unfinished`, slow and obvious: every end is tried."""
    lines = prompt.split("\n")
    for end in range(len(lines), 0, -1):
        for ending in ([], ["    pass"]):
            try:
                return _parse("\n".join([*lines[:end], *ending])).body
            except SyntaxError:
                continue
    return []


DAMAGES = ["(", "'''", "\\", ":", "\n@d", "\ntry:", "\n    # c", "\n\n", "\n  x", "\n    def g():"]


def test_a_prompt_is_read_as_if_every_end_were_tried() -> None:
    rng = random.Random(0)
    whole = (
        PROMPT + "    if xs:\n        return [\n            x\n            for x in xs\n        ]\n"
    )
    prompts = [whole[:end] for end in range(0, len(whole), 2)]
    for _ in range(200):
        at = rng.randrange(len(whole))
        prompts.append(whole[:at] + rng.choice(DAMAGES) + whole[at:])
    found = [[*map(ast.dump, _parse_unfinished(prompt))] for prompt in prompts]
    assert found == [[*map(ast.dump, statements_line_by_line(prompt))] for prompt in prompts]
    assert len({len(each) for each in found}) > 5  # the control: they break off in many places


def test_a_helper_of_the_prompt_keeps_its_text() -> None:
    prompt = "def same(a):\n    return a == 'one\x0ctwo\u2028three'\ndef f(x):\n"
    test = "def check(candidate):\n    assert same(candidate(1))"
    source, _ = humaneval_checks(prompt, test, "f")
    exec(source, {"f": lambda x: "one\x0ctwo\u2028three"})  # it holds: no line ended in the string


@pytest.mark.parametrize(
    ("prompt", "is_refused"),
    [
        ("def f(x):\n    y = (\n" + "    1,\n" * 3000, False),
        ("def f(x):\n" + "\n" * 3000, False),
        ("".join(f"a{at} = a{at + 1}\n" for at in range(1500)) + "def f(x):\n", False),
        ("1 + \\\n" * 3000, True),
        ("@a\n" + "# b\n" * 3000, True),
    ],
    ids=["bracket", "blank lines", "chain", "continued lines", "decorated comments"],
)
def test_a_prompt_made_to_take_long_does_not(prompt: str, is_refused: bool) -> None:
    test = "def check(candidate):\n    assert candidate(1) == a0\n"
    began_s = time.process_time()
    with (
        pytest.raises(UnusableRowError, match="may break off at too many of them")
        if is_refused
        else contextlib.nullcontext()
    ):
        humaneval_checks(prompt, test, "f")
    assert time.process_time() - began_s < 5  # a hundred and more, if every end is tried


IN_TRY = "try:\n    from m import same\nexcept ImportError:\n    def same(a, b): return a == b\n"


@pytest.mark.parametrize(
    "binding",
    [
        IN_TRY,
        "import sys\nif sys.maxsize:\n    def same(a, b): return a == b\n",
        "while True:\n    class same: pass\n    break\n",
        "with open('x') as same: pass\n",
        "try:\n    import os\nfinally:\n    import os.path as same\n",
        "match [1]:\n    case [*same]: pass\n",
        "match {1: 2}:\n    case {**same}: pass\n",
        "if (same := 1): pass\n",
    ],
)
def test_helpers_bound_in_compound_statements_are_the_checks_own(binding: str) -> None:
    test = "def check(candidate):\n    assert same(candidate(1), 1)"
    source, names = humaneval_checks(f"{binding}def f(x):\n", test, "f")
    assert ast.unparse(ast.parse(binding)) in source
    assert Checks(source, names).names_taken() == {"f"}
    # The control: without them, it is the program that says what they are.
    assert Checks(test, names).names_taken() == {"f", "same"}


def test_names_inside_functions_of_the_prompt_are_not_its_modules() -> None:
    prompt = "def other():\n    same = 1\n    class same: pass\ndef f(x):\n"
    test = "def check(candidate):\n    assert same(candidate(1), 1)"
    assert "other" not in humaneval_checks(prompt, test, "f")[0]


def test_a_helper_in_one_statement_with_the_entry_point_is_refused() -> None:
    prompt = "if True:\n    def same(a, b): return a == b\n    def f(x): return x\n"
    test = "def check(candidate):\n    assert same(candidate(1), 1)"
    with pytest.raises(UnusableRowError, match="prompt: binds same, which the test needs, in one"):
        humaneval_checks(prompt, test, "f")
    assert humaneval_checks(prompt, "def check(c):\n    assert c(1)", "f")[1] == ("f",)


def test_what_nobody_but_the_program_binds_is_told(toy: Benchmark) -> None:
    def undeclared(checks: str) -> set[str]:
        task = toy.tasks[0]
        return undeclared_names(task.model_copy(update={"checks": checks}))

    assert undeclared(toy.tasks[0].checks) == set()
    assert undeclared("def check(f):\n    assert near(f(1), len('a'))\ncheck(add0)") == {"near"}
    assert undeclared("from m import *\nassert near(add0(1), 1)") == set()  # it may be of m


@pytest.mark.parametrize(
    ("entry_point", "names"),
    [("f", ("f",)), ("Solution().f", ("Solution",)), ("partial(f, B)", ("B", "f", "partial"))],
)
def test_an_entry_point_may_be_made_of_names(entry_point: str, names: tuple[str, ...]) -> None:
    test = "def check(candidate):\n    assert candidate(1)"
    source, found = humaneval_checks(f"def {names[0]}(): pass\n", test, entry_point)
    assert (source, found) == (f"{test}\ncheck({entry_point})", names)


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("f); import os; os._exit(0)#", "such as f"),
        ("f\nimport os", r"'f\\nimport os'; expected what check is to be called with"),
        ("", "''; expected"),
        ("1", "'1'; expected"),
        ("class", "'class'; expected"),
        ("check", "'check'; expected"),  # the program's would take the place of the test's
        ("f\x1b]0;", r"'f\\x1b\]0;'; expected"),
        ("f" * 1_000_000, "1,000,000 characters; at most 200"),
    ],
)
def test_an_entry_point_that_is_none_is_refused(entry_point: str, message: str) -> None:
    with pytest.raises(UnusableRowError, match=message):
        humaneval_checks("def f(x):\n", "def check(c):\n    assert c(1)", entry_point)


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


def test_what_the_reference_imports_in_a_try_is_the_checks_own() -> None:
    reference = f"try:\n    import math\nexcept ImportError:\n    math = None\n{IN_TRY}"
    asserts = ["assert math.isclose(f(1), 1)", "assert same(f(1), 1)"]
    source, names = mbpp_checks([], "", asserts, f"{reference}def f(x): return x\n")
    assert names == ("f",)
    assert Checks(source, names).names_taken() == {"f"}
    assert source.startswith(ast.unparse(ast.parse(reference)))


def test_an_import_in_one_statement_with_a_definition_is_refused() -> None:
    reference = "if True:\n    import math\n    def f(x): return x\n"
    with pytest.raises(UnusableRowError, match="code: imports math, which the tests need, in one"):
        mbpp_checks([], "", ["assert math.isclose(f(1), 1)"], reference)
    assert mbpp_checks(["import math"], "", ["assert math.isclose(f(1), 1)"], reference)[1] == (
        "f",
    )
    assert mbpp_checks([], "", ["assert f(1) == 1"], reference)[1] == ("f",)


def test_asserts_that_call_nothing_of_the_solution_are_refused() -> None:
    with pytest.raises(UnusableRowError, match="call no function"):
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
        ("assert (f(1) == 2, 'one')", False),
        ("assert True, f(1)", False),
        ("assert lambda: f(1) == 2", False),
        ("assert ()", True),
        ("assert False, f(1)", True),
        ("assert (f(1) == 2, 'one')\nassert f(1) == 2", True),
    ],
)
def test_checks_that_assert_nothing_cannot_fail(checks: str, fails: bool) -> None:
    assert can_fail(checks, ["f"]) is fails
