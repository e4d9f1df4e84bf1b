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
        ("assert set(f(1)) == {1}\nassert sorted(f(2)) == [2]", [(0, (1,)), (0, (2,))]),
        ("assert tuple(f(1)) == (1,) and list(f(2)) == [2] and f(3)",
         [(0, (x,)) for x in (1, 2, 3)]),
        ("assert f(3) is None\nassert f(4) is not True\nassert f(5) in (6, 7)",
         [(0, (x,)) for x in (3, 4, 5)]),
        ("f(5)\nassert len(f(3)) == 2", [(0, (5,)), (0, (3,))]),  # of the last one all may be asked
        ("f(5)\nfor x in f(3): assert x", [(0, (5,)), (0, (3,))]),
        ("assert {'a': [f(1), f(2)]} == {'a': [5, 6]}", [(0, (1,)), (0, (2,))]),
        # What the answering call was given is no news in another one.
        ("assert f([7, 8, 9]) == [7, 9]\nassert f([9]) == [9]", [(0, ([7, 8, 9],)), (0, ([9],))]),
        ("assert f('some text') == ['some']\nassert f('someone') == []",
         [(0, ("some text",)), (0, ("someone",))]),
        ("assert f(6) == 9\nassert f(8) == 16", [(0, (6,)), (0, (8,))]),
        ("assert f(0) == 1\nassert f(1) == 0", [(0, (0,)), (0, (1,))]),
        ("for x in range(3): assert f(x) == x", [(0, (0,)), (0, (1,)), (0, (2,))]),
        ("def check(g):\n    assert g([1]) is True\n    assert g([]) is False\ncheck(f)",
         [(0, ([1],)), (0, ([],))]),
        ("import random\nassert f(random.Random(42).random()) > 0",
         [(0, (random.Random(42).random(),))]),
        ("assert f({'b', 'a', 'c'}) == 1", [(0, ({"a", "b", "c"},))]),
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
        # Where an error is expected, no guess is right.
        "try:\n    f(-1)\n    assert False\nexcept ValueError: pass",
        # What follows may hang on an answer.
        "import math\nassert math.isclose(f(1), 2)\nf(5)",
        "for x in f(1): assert x == 5\nf(5)",
        "assert {1: 2}[f(1)] == 2\nf(5)",
        "x = f(1)\nassert f(2) == '%d' % x * 9\nf(9)",
        "assert f(2) == (9 if f(1) else 8)\nf(9)",
        "if f(1) == 2: f(3)\nelse: f(2)",
        "if f(1) is None: f(3)\nelse: f(2)",
        "assert f(1) == 2 or f(1) == 3\nf(3)",
        "x = f(1)\nassert any(x == y for y in (2, 3))\nf(3)",
        "assert [3, 4].index(f(1)) >= 0\nf(4)",
        "match f(1):\n    case [3, 4]: pass\n    case _: f(5)",
        "try: assert f(1) == 2\nexcept AssertionError: assert f(1) == 3\nf(3)",
        "import contextlib\nwith contextlib.suppress(ValueError): f(1)\nf(2)",
        "assert f(1).upper() == 'A'\nf('a')",
        "assert isinstance(f(1), str) and f(2) == isinstance(f(1), int)\nf(3)",
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
        # What it is compared with is not seen, since it is changed first.
        ("assert abs(f(1) - 2.5) < 1e-6\nf(7)", [1], [7]),
        ("assert len(f(3)) == 2 and isinstance(f(4), (list, str))", [3], [4]),
        ("x = f(1)\nf(2)\nassert [x, 8][0] + 1 == 3\nf(3)\nf(4)", [1], [2, 3, 4]),
        # With another answer: which of the two a later argument tells of cannot be said.
        ("x, y = f(1), f(2)\nassert x == y", [1], [2]),
        ("assert [f(1), 9] == f(2)", [1], [2]),
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


@pytest.mark.parametrize(
    "joint", ["x - y == 8", "max(x, y) == 8", "x + [y] == [8]", "x == [y, 8]", "x < [y]"]
)
def test_of_answers_that_are_compared_together_each_has_a_turn(joint):
    checks = f"x, y = f(1), f(2)\nassert {joint}\nf(8)\nf(3)\nf(4)\nf(5)"
    assert turns(checks) == [[(0, (x,)) for x in part] for part in ([1], [2], [8, 3, 4, 5])]


# Ways to compare an answer to f(4), or the argument of g() that gives it away, which once were
# recorded in one turn: a program that was asked for f(4) could read what was expected of it.
TELLING = {
    "a mapping in another order": "assert f(4) == {'a': 2, 'b': 1}\ng({'b': 1, 'a': 2})",
    "a set against a list": "assert f(4) == {3, 5}\ng([5, 3])",
    "parts of a list": "assert f(4) == [9, 16]\ng(9)\ng(16)",
    "characters": "assert f(4) == 'svool'\nassert [g(c) for c in 'svool'] == [*'hello']",
    "text of characters": "assert list(f(4)) == ['s', 'v', 'l']\ng('lvs')",
    "a format": "assert f'{f(4):.1f}' == '16.5'\ng(16.5)",
    "join": "assert ''.join([f(c) for c in 'ab']) == 'yz'\nassert [g(c) for c in 'yz']",
    "join, lazily": "assert ''.join(f(c) for c in 'ab') == 'yz'\nassert [g(c) for c in 'yz']",
    "json": "import json\nassert json.dumps(f(4)) == '[16, 7]'\ng([16, 7])",
    "a pattern": "import re\nassert re.fullmatch('zeb.a', f(4))\ng('zebra')",
    "str": "assert str(f(4)) == '[9, 16]'\ng([9, 16])",
    "hex": "assert hex(f(4)) == '0xff'\ng(255)",
    "minus": "assert f(4) - 2 == 14\ng(16)",
    "a sign": "assert -f(4) == -16\ng(16)",
    "upper": "assert f(4).upper() == 'ABC'\ng('abc')",
    "a copy": "import copy\nassert copy.deepcopy(f(4)) == 16\ng(16)",
    "the name of an argument": "assert f(4) == 'alpha'\ng(alpha=3)",
    "the name of a class": "assert type(f(4)).__name__ == 'Zed'\ng('Zed')",
    "an integer as a float": "assert f(4) == 2**60\ng(float(2**60))",
    "a huge integer": "assert f(4) == 10**400\ng(10**400)",
    "Decimal": "from decimal import Decimal\nassert f(4) == Decimal('1.50')\ng(1.5)",
    "range": "assert list(f(4)) == [5, 6]\ng(range(5, 7))",
    "Counter": "from collections import Counter\nassert Counter(f(4)) == Counter('aab')\n"
    "g([*'aab'])",
    "isclose": "import math\nassert math.isclose(f(4), 16.5)\ng(16.5)",
    "percent": "assert '%.1f' % f(4) == '16.5'\ng(16.5)",
    "sum": "assert sum(f(4)) == 16\ng(16)",
    "a look-up": "assert {16: 1}[f(4)] == 1\ng(16)",
    "an order of one's own": "assert sorted(f(4), key=lambda x: -x) == [3, 2]\ng([2, 3])",
    "what raises": "assert [1, 2, 3][f(4)] == 2\ng(1)",
    "an error, expected": "try: assert f(4).foo + 'x' == 'q'\nexcept TypeError: pass\ng(16)",
    "zip": "assert all(a == b for a, b in zip(f(4), [16, 7]))\ng([16, 7])",
    "set": "assert set(f(4)) == {16, 7}\ng((16, 7))",
    "bytes as hex": "assert f(4).hex() == '10'\ng(b'\\x10')",
    "bytes as numbers": "assert list(f(4)) == [104, 105]\ng(b'hi')",
    "words": "assert f(4).split() == ['to', 'be']\ng('to be')",
    "words, as they are": "assert f(4) == ['to', 'be']\ng('be or to')",
    "Fraction": "from fractions import Fraction\nassert Fraction(f(4)) == Fraction(5, 3)\ng(5, 3)",
    "a date": "from datetime import date\nassert f(4) == date(2020, 5, 6)\ng(2020, 5, 6)",
    "int of text": "assert int(f(4)) == 255\ng('255')",
    "digits": "assert f(4) == '255'\ng(255)",
    "the mean": "import statistics\nassert statistics.mean(f(4)) == 5\ng([5, 5])",
    "one of two": "assert f(4) in (17, 16)\ng(16)",
    "one of two, the second": "assert f(4) == 17 or f(4) == 16\ng(16)",
    "bounds": "assert 15 < f(4) < 17\ng(16)",
    "a helper": "def same(a, b): return repr(a) == repr(b)\nassert same(f(4), [16])\ng([16])",
    "unittest": "import unittest\nunittest.TestCase().assertEqual(f(4), 16)\ng(16)",
    "almost": "import unittest\nunittest.TestCase().assertAlmostEqual(f(4), 16.5)\ng(16.5)",
    "in any order": "import unittest\nunittest.TestCase().assertCountEqual(f(4), [16, 5])\ng([5])",
    "what is not reached": "x = f(4)\nif isinstance(x, list): assert x == [7]\n"
    "else: assert x == 16\ng([7])",
    "a sort of": "x = f(4)\nwant = 17 if x.__class__ is int else 16\nassert x == want\ng(17)",
}


@pytest.mark.parametrize("checks", TELLING.values(), ids=TELLING.keys())
def test_no_call_stands_beside_one_that_it_gives_away(checks, monkeypatch):
    recorded = turns(checks, ("f", "g"))
    for turn in recorded or []:
        assert len({place for place, _ in turn}) == 1, recorded


def test_control_most_of_these_are_recorded_in_one_turn_if_nothing_guards_them(monkeypatch):
    for guard in ("escape", "go_blind"):
        monkeypatch.setattr(recording._Recorder, guard, lambda *_: None)
    monkeypatch.setattr(recording.Hints, "are_in", lambda *_: False)
    monkeypatch.setattr(recording._Recorder, "_holds", lambda *_: True)
    recorded = [turns(checks, ("f", "g")) for checks in TELLING.values()]
    assert sum(each is not None and len(each) == 1 for each in recorded) > 0.6 * len(recorded)


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
