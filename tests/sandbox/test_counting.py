"""How many assertions hold: the same checks, which go on after one that does not."""

import pytest

from sandbox import Checks, Limits, Outcome, Pool
from sandbox.counting import compile_counting

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

check(f)
"""
THREE = "assert f(1) == 1\nassert f(0) == 1\nassert f(2) == 0\n"
SAME = "def f(x):\n    if x < 0:\n        raise ValueError\n    return x\n"
# The answer to the first call is in the second: such calls go in turns.
TURNS = "assert f(1) == 70707\nassert f(70707) == 1\nassert f(3) == 3\n"
LIVE = "y = f(1)\nassert f(y + 1) == 5\nassert f(y + 2) == y + 2\n"


@pytest.fixture(scope="module")
def one():
    with Pool(Limits(cpu_s=0.5, wall_s=5), 1) as pool:
        yield pool


def counted(pool, program, source):
    (examination,) = pool.examine_all([(program, Checks(source, ("f",), counts=True))])
    (alone,) = pool.examine_all([(program, Checks(source, ("f",)))])
    found = examination.outcome, examination.detail, examination.execution.ending
    assert found == (alone.outcome, alone.detail, alone.execution.ending)
    assert alone.counts is None
    return examination.counts


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize(
    ("program", "source", "counts"),
    [
        (SAME, HUMANEVAL, None),
        ("def f(x): return 2 if x > 0 else 1 // 0", HUMANEVAL, (0, 2)),  # met none to the end
        (SAME.replace("return x", "return 2"), HUMANEVAL, (1, 3)),
        ("def f(x): return x // 2", THREE, (0, 3)),
        ("def f(x): return 1 // x", THREE, (2, 3)),  # by an answer, an error, and an answer
        ("def f(x): return 1", TURNS, (1, 3)),
        ("def f(x): return x", LIVE, (1, 2)),
        ("def f(x): return [] + x", LIVE, (0, 2)),  # the first call is no assertion's
        ("raise ValueError", THREE, (0, 3)),
        ("def f(x): return 0", "assert f(1)", (0, 1)),
        ("def f(x): return x % 2", "for x in range(4, 9):\n    assert f(x)", (2, 5)),
        ("def f(x): return 0", "if f(1) == 1:\n    raise ValueError\nf(2).real\n1 // f(0)", None),
    ],
)
def test_assertions_that_hold_are_counted(program, source, counts, one):
    assert counted(one, program, source) == counts


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.parametrize(
    ("after", "num_held"),
    [("import os\n        os._exit(0)", 0), ("while True: pass", 0), ("bytearray(1 << 40)", 1)],
)
def test_what_a_program_does_while_it_is_counted_changes_no_verdict(after, num_held, one):
    program = f"def f(x):\n    if x == 0:\n        {after}\n    return 0\n"
    recorded = "assert f(1) == 1\nassert f(2) == 0\nassert f(0) == 0\n"
    raising = program.replace("return 0", "return 1 // (x - 1)")
    assert counted(one, program, recorded) == (num_held, 3)
    assert counted(one, raising, recorded) == (0, 3)
    live = "y = f(1)\nassert f(2) == y + 9\nassert f(0) == 0\nassert f(y + 1) == 0\n"
    assert counted(one, program, live) == (num_held, 3)


@pytest.mark.usefixtures("needs_sandbox")
def test_no_program_writes_its_own_counts(one):
    lie = "def f(x): raise AssertionError('7 of 7')\nglobals()['counts of assertions'] = [7, 7]\n"
    assert counted(one, lie, THREE) == (0, 3)


@pytest.mark.parametrize(
    ("source", "num_asserts", "may_hold"),
    [
        ("assert f(1)", 1, False),
        ("f(1)", 0, False),
        ("assert f(1); assert f(2)", 2, True),
        ("while f(1):\n    assert f(2)", 1, True),
        ("while f(1):\n    pass\nassert f(2)", 1, False),
        ("if f(1):\n    assert f(2)\nelse:\n    assert f(3)", 2, True),
        ("with f(1):\n    assert f(2)\nmatch f(3):\n    case 4:\n        assert f(4)", 2, True),
        ("def g():\n    assert f(1)\n    assert f(2)\ng()", 2, True),
        ("def g():\n    assert f(1)\n    assert f(2)\nx = g()", 0, False),
        ("class A:\n    assert f(1)\nA()", 0, False),
        ("try:\n    assert f(1)\nexcept Exception:\n    pass", 0, False),
        ("def f():\n    assert False\nf()\nassert f(1)", 1, False),  # the program's, by name
    ],
)
def test_which_assertions_count(source, num_asserts, may_hold):
    *_, number, possible = compile_counting(source, ("f",))
    assert (number, possible) == (num_asserts, may_hold)


@pytest.mark.usefixtures("needs_sandbox")
def test_what_never_came_to_its_checks_is_not_counted(one):
    checks = Checks(THREE, ("f",), counts=True)
    for program in ("def f(", "exit()", "x = 1"):
        (examination,) = one.examine_all([(program, checks)])
        assert examination.outcome not in (Outcome.FAILED, Outcome.RAISED)
        assert examination.counts is None


@pytest.mark.usefixtures("needs_sandbox")
def test_live_checks_are_counted_on_answers_given_before(one):
    once = "n = 0\ndef f(x):\n    global n\n    n += 1\n    return n\n"
    live = "y = f(0)\nassert f(y) == 9\nassert f(y) == 3\nassert f(y) == 4\n"
    assert counted(one, once, live) == (2, 3)


@pytest.mark.usefixtures("needs_sandbox")
def test_more_than_a_tape_holds_is_counted_by_another_run(one):
    long = "y = f(0)\nassert f(len(y)) == 0\nassert f(1) == f(2)\n"
    assert counted(one, "def f(x): return 'x' * (3 << 20)", long) == (1, 2)
