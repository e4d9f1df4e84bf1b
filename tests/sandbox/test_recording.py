"""Recorded calls lead to the same outcomes as calls made one by one."""

import random
from dataclasses import replace

import pytest

from sandbox import Checks, Outcome, recording, wire
from tests.sandbox.conftest import LIMITS


def turns(source, names=("f",)):
    """The calls that were recorded, by turn: name's place and arguments; None if they were not."""
    recorded = recording.record(source, names)
    if recorded is None:
        return None
    ends = [*recorded.turns, len(recorded.requests)]
    parts = [recorded.requests[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    found = [[*frames(part)] for part in parts]
    assert found[0].pop(0)[0] == "names"
    return [[(key, wire.decode(data, None)) for _, key, data, *_ in turn] for turn in found]


def frames(part):
    while part:
        size = int.from_bytes(part[:4], "big")
        yield wire.parse(part[4 : 4 + size])
        part = part[4 + size :]


@pytest.mark.parametrize(
    ("checks", "calls"),
    [
        ("assert f(1) == 2\nassert f(3) == 4", [(0, (1,)), (0, (3,))]),
        ("assert not f(1)\nassert not f(2)", [(0, (1,)), (0, (2,))]),
        ("assert abs(f(1) - 2.5) < 1e-6 and round(f(2), 2) == 1", [(0, (1,)), (0, (2,))]),
        ("assert set(f(1)) == {1}\nassert sorted(f(2)) == [2]", [(0, (1,)), (0, (2,))]),
        ("import math\nf(5)\nassert math.isclose(f(1), 2)", [(0, (5,)), (0, (1,))]),
        ("assert len(f(3)) == 2 and isinstance(f(4), (list, str))", [(0, (3,)), (0, (4,))]),
        ("assert f(6) == 9\nassert f(8) == 16", [(0, (6,)), (0, (8,))]),
        ("assert f(0) == 1\nassert f(1) == 0", [(0, (0,)), (0, (1,))]),
        ("for x in range(3): assert f(x) == x", [(0, (0,)), (0, (1,)), (0, (2,))]),
        ("def check(g):\n    assert g([1]) is True\n    assert g([]) is False\ncheck(f)",
         [(0, ([1],)), (0, ([],))]),
        ("import random\nassert f(random.Random(42).random()) > 0",
         [(0, (random.Random(42).random(),))]),
        ("assert f({'b', 'a', 'c'}) == 1", [(0, ({"a", "b", "c"},))]),
        ("try:\n    f(-1)\n    assert False\nexcept ValueError: pass", [(0, (-1,))]),
    ],
)  # fmt: skip
def test_calls_that_do_not_depend_on_answers_are_recorded(checks, calls):
    assert turns(checks) == [calls]


@pytest.mark.parametrize(
    "checks",
    [
        "assert f(f(1)) == 1",
        "x = f(1)\nassert f([x]) == 1",
        "assert f.name == 1",
        "node = f(1)\nnode.value = 3\nassert f(node) == 3",
        "while True: f(1)",
        "assert f(f) == 1",
        "assert f(lambda: 1) == 1",
        "raise ValueError",
        "def (",
        # What an answer is compared with is not seen.
        "import math\nassert math.isclose(f(1), 2)\nf(5)",
        "assert f(1) * 2 == 50\nf(25)",
        "for x in f(1): assert x == 5\nf(5)",
        "assert {1: 2}[f(1)] == 2\nf(5)",
        "x = f(1)\nassert f(2) == '%d' % x * 9\nf(9)",
        # Answers are compared together: 8 is no secret once both are in, but before that.
        "x, y = f(1), f(2)\nassert x == 2 and x - y == 8\nf(8)\nf(3)",
        "x, y = f(1), f(2)\nassert x == 2 and max(x, y) == 8\nf(8)\nf(3)",
        "x, y = f(1), f(2)\nassert x == 2 and sorted([x, y]) == [2, 8]\nf(8)\nf(3)",
        # Most calls have to wait.
        "for x in 1, 2, 3: assert f(x) == x + 1",
    ],
)
def test_calls_that_depend_on_answers_are_left_to_be_made_live(checks):
    assert turns(checks) is None


def test_a_recording_knows_nothing_of_what_is_expected():
    recorded = recording.record("assert f(1) == 'certainly-expected'", ("f",))
    assert b"certainly" not in recorded.requests


@pytest.mark.parametrize(
    ("checks", "first", "second"),
    [
        # A later call gives away what an earlier answer is compared with, or may be.
        ("assert f(6) == 9\nassert f(9) == 16", [6], [9]),
        ("assert [f(6), f(9)] == [9, 16]", [6], [9]),
        ("assert abs(f(6) - 9.0) < 1e-6\nassert f([9]) == 16", [6], [[9]]),
        ("assert f('x') == 'code'\nassert f('a code') == 'x'", ["x"], ["a code"]),
        ("assert sorted(f(1)) == [2, 3]\nassert f([[2, 3]]) == 4", [1], [[[2, 3]]]),
        ("assert len(f(1)) == 7\nf(7)", [1], [7]),
        ("assert f('h') == b'aGVsbG8='\nassert f('aGVsbG8=') == b'h'", ["h"], ["aGVsbG8="]),
        ("assert f(1) == (2, 3)\nassert f([2, 3]) == 1", [1], [[2, 3]]),
        # As many as can be are sent at once.
        ("assert f(1) == 5\nassert f(2) == 6\nassert f(3) == 7\nf(6)\nf(8)", [1, 2, 3], [6, 8]),
        # What was given away before it was expected is no secret; nor what is known by then.
        ("assert f(9) == 1\nassert f(6) == 9\nf(2)\nf([9])\nf(9)", [9, 6, 2], [[9], 9]),
        # Expected once before the turn, once in it.
        ("assert f(1) == 9\nf(9)\nassert f(2) == 8\nassert f(3) == 7\nf(4)", [1], [9, 2, 3, 4]),
    ],
)
def test_a_call_that_gives_an_answer_away_waits_for_it(checks, first, second):
    assert turns(checks) == [[(0, (x,)) for x in part] for part in (first, second)]


def test_what_is_expected_again_is_given_away_again():
    checks = "assert f(1) == 9\nf(9)\nassert f(2) == 9\nf(3)\nf(4)\nf(9)"
    assert turns(checks) == [[(0, (x,)) for x in part] for part in ([1], [9, 2, 3, 4], [9])]


PAIRS = [
    ("def f(x): return x", "assert f(1) == 1\nassert f(2) == 2", Outcome.HELD),
    ("def f(x): return x", "assert f(1) == 1\nassert f(2) == 3", Outcome.FAILED),
    # What comes after the check that fails is as if it had not been asked.
    ("def f(x): return 1 / x", "assert f(1) == 2\nassert f(0) == 0", Outcome.FAILED),
    ("import os\ndef f(x): x or os._exit(0)", "assert f(1) == 2\nassert f(0) == 0", Outcome.FAILED),
    ("def f(x):\n    while not x: pass", "assert f(1) == 2\nassert f(0) == 0", Outcome.FAILED),
    ("def f(x): return 1 / x", "assert f(1) == 1\nassert f(0) == 0", Outcome.RAISED),
    # An exception that the checks expect, with more to come.
    ("def f(x): return 1 / x",
     "try: f(0)\nexcept ZeroDivisionError: pass\nelse: assert False\nassert f(2) == 0.5",
     Outcome.HELD),
    # Other calls than recorded: it changes what it was given.
    ("def f(x): x.append(1); return x", "x = []\nassert f(x) == [1]\nassert f(x) == [1, 1]",
     Outcome.HELD),
    ("def f(x): return x", "x = f(3)\nfor i in range(x): assert f(i) == i", Outcome.HELD),
    ("def f(x): return x", "x = f(3)\nfor i in range(x): assert f(i) == 0", Outcome.FAILED),
    ("f = 4", "assert f == 4", Outcome.HELD),
    ("f = 4", "assert f(1) == 4", Outcome.RAISED),
    ("def g(x): return x", "assert f(1) == 1", Outcome.UNDEFINED),
    ("def f(x): return 'x' * (7 << 20)",
     "for i in range(6): assert len(f(i)) == 7 << 20", Outcome.HELD),
    ("def f(x): return 'x' * (9 << 20)", "assert f(1)\nassert f(2)", Outcome.RAISED),
    # In turns.
    ("def f(x): return x + 3", "assert f(6) == 9\nassert f(9) == 12", Outcome.HELD),
    ("def f(x): return x + 3", "assert f(6) == 9\nassert f(9) == 13", Outcome.FAILED),
    ("def f(x): return x + 3", "assert f(6) == 8\nassert f(8) == 11", Outcome.FAILED),
    ("import os\ndef f(x): return x if x < 9 else os._exit(0)",
     "assert f(6) == 8\nassert f(9) == 9\nassert f(8) == 8\nf(1)", Outcome.FAILED),
    ("def f(x):\n    while x == 9: pass\n    return x",
     "assert f(6) == 8\nassert f(9) == 9\nassert f(8) == 8\nf(1)", Outcome.FAILED),
    ("def f(x): x.append(9); return 9",
     "x = []\nassert f(x) == 9\nassert f([9]) == 9\nassert f(x) == 9\nassert x == [9, 9]",
     Outcome.HELD),
    ("def f(x): return 1 / x",
     "assert f(2) == 0.5\ntry: f(0)\nexcept ZeroDivisionError: pass\nassert f(0.5) == 2\nf(1)",
     Outcome.HELD),
    ("def f(x): return x",
     "s = 'x' * 30000\nassert f(s) == s\nassert f(1) == 2 - 1\nassert f([s]) == [s]\nf(s + 'y')",
     Outcome.HELD),
    ("def f(x): return x[0] * 3000000",
     "assert f('ab') == 'a' * 3000000\nassert f('cd') == 'c' * 3000000\n"
     "assert f('ef') == 'e' * 3000000\nf('a' * 3000000)", Outcome.HELD),
    ("n = 0\ndef f():\n    global n\n    n += 1\n    return n",
     "assert f() == 1 and f() == 2 and f() == 3", Outcome.HELD),
]  # fmt: skip


@pytest.mark.parametrize(("program", "checks", "outcome"), PAIRS)
def test_recorded_and_live_lead_to_the_same(program, checks, outcome, pool, needs_sandbox):
    names = ("f",)
    live = Checks(f"{checks}\ndef never(): f(f)\n[].__len__() and never()", names)
    recorded = Checks(checks, names)
    # Twice: what was recorded for the first is used for the second.
    limits = replace(LIMITS, cpu_s=0.4)  # some never end
    found = [next(pool.examine_all([(program, c, limits)])) for c in (recorded, recorded, live)]
    assert [each.outcome for each in found] == [outcome] * 3, found


def test_a_sample_leaves_no_mark_on_the_requests_of_the_next(pool, needs_sandbox):
    program = """
import os
def f(x):
    found = []
    for d in range(3, 9):
        try: found.append(os.lseek(d, 0, os.SEEK_CUR)); os.lseek(d, 4242, os.SEEK_SET)
        except OSError: pass
    return bool(found) and 4242 in found
"""
    checks = Checks("assert f(5) is False", ("f",))
    outcomes = [e.outcome for e in pool.examine_all([(program, checks)] * 8)]
    assert outcomes == [Outcome.HELD] * 8


def test_checks_that_draw_at_random_draw_the_same_each_time(pool, needs_sandbox):
    checks = Checks("import random\nx = random.random()\nassert f(x) == x")
    program = "seen = []\ndef f(x): seen.append(x); return x"
    for examination in pool.examine_all([(program, checks)] * 5):
        assert examination.outcome is Outcome.HELD
