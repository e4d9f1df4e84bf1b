import json
import sys
from collections import (
    Counter,
    OrderedDict,
    UserDict,
    UserList,
    UserString,
    defaultdict,
    namedtuple,
)
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.oracles.answering import _LARGE_BYTES, _PART, _digest, answers, record
from evals.oracles.values import Digest, Other, decode, encode


def digest(value: object) -> str:
    return _digest([value]).sha256


NUMBERS = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)
KEYS = st.integers(-2, 2) | st.text(max_size=1)
SMALL = st.recursive(
    st.none() | st.sampled_from([0, 0.0, -0.0, False, 1, True, 1.0, 2, "", "1", "2"]) | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.frozensets(KEYS, max_size=3)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=4,
)


@given(SMALL, SMALL)
def test_digests_are_equal_where_values_are(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1] * 3 * _PART, [1.0] * 2 * _PART + [True] * _PART),
        ([2**60, 1], [2.0**60, 1.0]),
        ([(0, "a")] * _PART + [None], [(-0.0, "a")] * _PART + [None]),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": True}),
        ({1, 2, 3}, frozenset({3.0, 2, 1})),
        (["a"] * _PART, UserList(["a"] * _PART)),
        ([1, 2], [type("Number", (int,), {})(1), 2]),
        (["a", "b"], [type("Text", (str,), {})("a"), "b"]),
        ([(1, 2)], [namedtuple("Pair", "one other")(1, 2)]),
        ({"a": 1}, Counter("a")),
        ({"a": [1]}, OrderedDict(a=[1])),
        ({"a": 1}, defaultdict(int, a=1)),
        ({"a": 1}, UserDict(a=1)),
        (["ab", "c"], [UserString("ab"), "c"]),
    ],
)
def test_digests_of_equal_values_of_other_types_are_equal(one: object, other: object) -> None:
    assert one == other
    assert digest(one) == digest(other)


def test_digests_are_compared_whatever_the_type_of_all() -> None:
    assert _digest({1, 2}) == _digest(frozenset({1, 2}))
    assert _digest([1]) == _digest(UserList([1]))
    assert _digest([1]) != _digest((1,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([["a"], []], [[], ["a"]]),
        ([("a",)], [["a"]]),
        ([1] * _PART + [2], [1] * (_PART + 1)),
        ([2**60], [2**60 + 1]),
        ([2**53 + 1], [2.0**53]),
        ([{}, 1], [{1: 1}]),
        (["1"], [1]),
        ([None], [0]),
        ([set()], [{}]),
    ],
)
def test_digests_of_other_values_are_others(one: object, other: object) -> None:
    assert one != other
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [float("nan"), object(), b"1", 1j])
def test_what_has_no_digest_equals_not_even_itself(value: object) -> None:
    assert digest(value) != digest(value)


def ask(function: Callable[..., Any], *inputs: list[Any], **options: Any) -> list[Any]:
    options = {"digested": [], "as_sets": False, **options}
    found: list[Any] = decode(answers(function, encode(list(inputs)), **options))
    return found


def test_each_answer_is_told_before_the_next_call() -> None:
    shared: list[int] = []

    def append(number: int) -> list[int]:
        shared.append(number)
        return shared

    assert ask(append, [1], [2]) == [[1], [1, 2]]


def test_large_answers_are_told_by_their_digest_where_asked() -> None:
    plain, large = ask(lambda number: [number], [1], [2], digested=[1])
    assert plain == [1]
    assert large == Digest(["list", _digest([2]).sha256])


def test_generators_are_run_through_where_sets_are_asked_for() -> None:
    def count(number: int) -> Any:
        yield from range(number)

    assert ask(count, [2], as_sets=True) == [{0, 1}]
    assert type(ask(count, [2])[0]) is Other


def test_what_a_call_prints_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    def chatty() -> None:
        sys.stdout.write("x" * 10_000_000)
        sys.stdout.flush()
        sys.stderr.write("y")

    assert ask(chatty, []) == [None]
    assert capsys.readouterr() == ("", "")


def test_streams_are_put_back_where_a_call_raises() -> None:
    before = sys.stdout
    with pytest.raises(ZeroDivisionError):
        ask(lambda: 1 / 0, [])
    assert sys.stdout is before


def recorded(
    function: Callable[..., Any], *inputs: list[Any], atol: float = 0, rule: Any = None
) -> Any:
    return decode(record(function, encode(list(inputs)), atol, rule))


LARGE = list(range(_LARGE_BYTES))


def test_of_a_references_large_answers_digests_are_kept() -> None:
    assert recorded(lambda x: x, ["a" * _LARGE_BYTES], [1]) == [_digest("a" * _LARGE_BYTES), 1]
    assert recorded(lambda x: x, [LARGE], [{"a": LARGE}]) == [
        _digest(LARGE),
        _digest({"a": LARGE}),
    ]


def test_a_digest_is_never_kept_where_more_than_equality_may_be_asked_for() -> None:
    floats = [0.5] * _LARGE_BYTES
    assert recorded(lambda x: x, [LARGE], [floats], [LARGE]) == [_digest(LARGE), floats, LARGE]
    assert recorded(lambda x: x, [LARGE], atol=0.1) == [LARGE]
    assert recorded(lambda x: x, [LARGE], rule="set") == [LARGE]


def test_of_answers_that_only_have_to_be_there_it_is_kept_whether_they_are() -> None:
    assert recorded(lambda x: x, [None], [0], rule="not none") == [False, True]


def test_the_text_is_json() -> None:
    assert json.loads(answers(lambda x: x, "[[1],[2]]", [], False)) == [1, 2]
