import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.oracles.values import Digest, Other, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
)
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.frozensets(KEYS)
        | st.sets(KEYS)
        | st.dictionaries(KEYS, st.integers()).map(Counter)
    ),
)


@given(VALUES)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    back = decode(encode(value))
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize(
    "value",
    [True, 1, 1.0, (1,), [1], {1}, frozenset({1}), [[True, 1, 1.0], (True, 1.0)], -0.0, math.inf],
)
def test_types_are_kept_where_equality_does_not_tell_them_apart(value: object) -> None:
    assert repr(decode(encode(value))) == repr(value)


def test_numbers_of_any_size_come_back() -> None:
    assert decode(encode([10**5000, [-(10**5000)], (10**5000,)])) == [
        10**5000,
        [-(10**5000)],
        (10**5000,),
    ]
    assert math.isnan(decode(encode(math.nan)))


class Evil:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class EvilInt(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Level(IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, 2), (1, 2)),
        (Level.LOW, 1),
        ([Level.LOW], [1]),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        ({1: 2}.keys(), {1}),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 2), 0.5),
    ],
)
def test_what_equals_a_plain_value_arrives_as_what_equals_it(value: object, plain: object) -> None:
    assert decode(encode(value)) == plain == value


@pytest.mark.parametrize("value", [Evil(), EvilInt(0), object(), iter(()), range(2), len, b"1"])
def test_what_is_no_plain_data_arrives_as_something_that_equals_nothing(value: object) -> None:
    (back,) = decode(encode([value]))
    assert type(back) is Other
    assert back not in (0, 1, [], (0, 1), {})


def test_sets_are_told_in_an_order_that_no_hash_seed_changes() -> None:
    assert encode({"b", "a", "c"}) == '{"set":["a","b","c"]}'


def test_a_digest_equals_digests_only() -> None:
    digest = Digest(["list", "00"])
    assert decode(encode(digest)) == digest
    assert digest == Digest(["its type is for messages", "00"])
    assert digest != Digest(["list", "01"])
    assert digest != ["list", "00"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        '{"tag":1}',
        '{"int":1}',
        '{"list":[],"int":"1"}',
        "{}",
        '{"digest":[1]}',
        "[" * 99999,
    ],
)
def test_text_that_nobody_encoded_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, LookupError, TypeError, RecursionError)):
        decode(text)
