"""What tells of what, of values as they cross over; that turns follow is in test_recording.py."""

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest

from sandbox import wire
from sandbox.hints import Hints, Look


def look(*values):
    return Look(wire.encode(values, None))


def tells(given, expected, known=()):
    """Whether a later call with this argument tells something of an answer to one with those."""
    hints = Hints()
    hints.add([wire.encode(expected, None)], look(*known))
    return hints.are_in(look(given))


ALIKE = [
    (9, 9.0),
    (9, "9"),
    (2**60, float(2**60)),
    (10**400, 10**400),
    (1.5, Decimal("1.50")),
    (0.1 + 0.2, 0.3),
    (Fraction(1, 4), 0.25),
    (Fraction(5, 3), 5),
    (float("inf"), Decimal("Infinity")),
    (2048, 2047),
    (-1001.0, -1000),
    (2000, 1000),
    (10**400 + 1, 10**400),
    ([1, 0, 1], "101"),
    ([3, 2], (2, 3)),
    ([3, 2], namedtuple("Pair", "x y")(2, 3)),
    ("Zed", namedtuple("Zed", "x")(2)),
    ({"a": 2, "b": 3}, defaultdict(int, b=3, a=2)),
    ([3, 2], {2, 3}),
    ([2, 2, 3], {2, 3}),
    ([2, [3]], [[3], 2]),
    (range(2, 4), [3, 2]),
    (deque([2, 3], 9), [2, 3]),
    ({"a": 2, "b": 3}, OrderedDict(b=3, a=2)),
    (Counter("aab"), {"a": 2, "b": 1}),
    ("hi", b"hi"),
    ([104, 105], b"hi"),
    ("olleh", [*"hello"]),
    ("to be", ["be", "or"]),
    ("key", "a key, somewhere"),
    ({"key": None}, "key"),
    (date(2020, 5, 6), [2020]),
    ("\ud800x", ["\ud800x"]),
    # Numbers in text, however they are written, and text in other letters.
    ("area: 3.25 m", 3.25),
    ("x=-57;", -57),
    ("2.5e-07 m", 2.5e-7),
    ("1,234,567 in all", 1234567),
    (1234, "1,234"),
    ("at 0xFF", 255),
    (0b101, "0b101"),
    ("hello", "HELLO"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=map(str, range(len(ALIKE))))
def test_values_tell_of_those_that_are_alike(one, other):
    assert tells(one, other)
    assert tells([None, (one, 8)], other)  # from inside another one


def test_a_part_tells_of_the_whole():
    assert tells(9, [9, 16])
    assert tells(["x"], {"key": ["x", "y"]})
    assert tells("s", "svool")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (8, 9),
        (9.001, 9),
        ("8", 9),
        ([2, 4], {3, 5}),
        ("hello", "bye"),
        ("a", "bc"),
        ({"a": 2}, {"b": 3}),
        # Said too often to tell anything.
        *[(value, [value, 7]) for value in (None, True, False, 0, 1, -1, 0.0, "", [], {})],
    ],
)
def test_other_values_tell_nothing(given, expected):
    assert not tells(given, expected)


def test_what_the_answering_call_was_given_is_no_news_in_parts():
    assert not tells([9], [9, 16], known=[[16, 9]])
    assert not tells("some text", ["some"], known=["some words"])
    assert not tells("h", "hello", known=["oh, hell"])
    # But the whole is, in whatever order it was known.
    assert tells([9, 16], [9, 16], known=[[16, 9]])
    assert tells("hello", "hello", known=["hello"])
