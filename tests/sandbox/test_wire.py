import contextlib
import json
import random
import socket
import struct
import time as clock
from collections import Counter, UserDict, UserList, UserString, defaultdict, namedtuple
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import wire


def no_reference(*_):
    raise AssertionError("plain data refers to nothing")


def there_and_back(value):
    text = json.dumps(wire.encode(value, no_reference)).encode("ascii")
    return wire.decode(wire.parse(text), no_reference)


def exactly(value):
    """Equal values of equal types, all the way down; NaN equals NaN and 0.0 is not -0.0."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [exactly(part) for part in value]
    if kind is dict:
        return kind, [(exactly(key), exactly(part)) for key, part in value.items()]
    if kind in (set, frozenset):
        return kind, sorted(map(repr, map(exactly, value)))
    return kind, repr(value)


surrogates = st.characters(categories=["Cs"])
texts = st.text(st.one_of(st.characters(), surrogates))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(1 << 300), 1 << 300), texts,
    st.floats(), st.complex_numbers(), st.binary(), st.decimals(), st.fractions(), st.dates(),
    st.builds(lambda value, fold: value.replace(fold=fold), st.datetimes(), st.integers(0, 1)),
    st.timedeltas(), st.sampled_from([..., NotImplemented]),
)  # fmt: skip
keys = st.recursive(
    st.one_of(st.none(), st.integers(), texts, st.floats(allow_nan=False), st.binary(), st.dates()),
    lambda parts: st.tuples(parts, parts) | st.frozensets(parts, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.tuples(parts)
        | st.dictionaries(keys, parts, max_size=3)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_plain_data_arrives_as_it_was(value):
    assert exactly(there_and_back(value)) == exactly(value)


@settings(max_examples=80, deadline=None)
@given(values)
def test_what_comes_back_unchanged_is_told_by_its_text(value):
    """So a program need not keep another copy of what it was given to see whether it changed."""
    text = wire.dump(wire.encode(value, no_reference))
    again = wire.decode(wire.parse(text), no_reference)
    assert wire.dump(wire.encode(again, no_reference)) == text


@pytest.mark.parametrize(
    "parts",
    [
        [1, 2, 3],
        [1, 2, 1 << 53],
        [-(1 << 53), 2, 3],
        [True, False, True],
        [True, 0, 1],
        [None, None, None],
        [1.0, 2.0, float("nan")],
        [0.0, -0.0, float("-inf")],
        ["a", "b", "ä"],
        ["a", "b", "\ud800"],
        ["a", None, 1],
        [[1, 2, 3], [4.0, 5.0, 6.0], ("a", "b", "c")],
    ],
)
def test_parts_of_one_kind_arrive_as_those_of_several(parts):
    for value in (parts, tuple(parts)):
        assert exactly(there_and_back(value)) == exactly(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.sampled_from([*wire._DECODERS, "ref"]),
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.builds(
            lambda tag, rest: [tag, *rest],
            st.sampled_from([*wire._DECODERS, "ref"]),
            st.lists(parts, max_size=4),
        )
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_messages_are_written_as_json_writes_them(value):
    message = wire.encode(value, no_reference)
    assert wire.dump(message) == json.dumps(message, separators=(",", ":")).encode("ascii")


@given(json_values)
def test_any_json_is_either_plain_data_or_refused(data):
    try:
        value = wire.decode(data, lambda key, label: (key, label))
    except wire.ProtocolError:
        return
    # Whatever came through is of the exact types that can be sent back.
    wire.encode(value, no_reference)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64) | json_values.map(lambda data: json.dumps(data).encode()))
def test_any_bytes_are_either_json_or_refused(body):
    try:
        wire.parse(body)
    except wire.ProtocolError:
        return


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"a": 1}',
        b"[NaN]",
        b"[Infinity]",
        b"[" * 100_000,
        b"\xff",
        b"1" * 5000,
        b"[1]]",
    ],
)
def test_what_no_peer_sends_is_refused(body):
    with pytest.raises(wire.ProtocolError):
        wire.parse(body)


@pytest.mark.parametrize(
    "data",
    [
        [], [1], [[]], ["nothing", 1], ["int", 5], ["int", "zz"], ["float", "2"], ["float", 1],
        ["str", "0"], ["dict", 1], ["dict", ["list"], 1], ["set", ["list"]], ["type", "open"],
        ["ref", "1", "x"], ["ref", True, "x"], ["ref", 1], ["range", 1, 2, 0], ["range", 1, 2],
        ["complex", 1, 2], ["Fraction", 1, 0], ["Decimal", "x"], ["Decimal", 1], ["date", 0, 0, 0],
        ["date", 1, 1, True], ["deque"], ["deque", -1], ["bytes", "0"],
        ["timedelta", 1 << 40, 0, 0], ["defaultdict"], ["defaultdict", 1], ["defaultdict", None, 1],
        ["defaultdict", ["type", "open"]], ["defaultdict", ["list"]], ["time", 1, 2, 3, 4, 0, 2],
        ["datetime", 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0], ["time", 1, 2, 3, 4, 0, True, 0, 0],
    ],
)  # fmt: skip
def test_broken_values_are_refused(data):
    with pytest.raises(wire.ProtocolError):
        wire.decode(data, no_reference)


def test_depth_is_bounded_both_ways():
    deep = []
    data = ["list"]
    for _ in range(wire.MAX_DEPTH):
        deep, data = [deep], ["list", data]
    with pytest.raises(wire.Unsendable):
        wire.encode(deep, no_reference)
    with pytest.raises(wire.ProtocolError):
        wire.decode(data, no_reference)
    assert there_and_back(deep[0]) == deep[0]


def test_subclasses_with_their_own_equality_are_referred_to():
    class Same(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Named(str):
        __slots__ = ()

        def __str__(self):
            return "otherwise"

    refer = lambda value: wire.reference(7, type(value).__name__)  # noqa: E731
    assert wire.encode([Same(1)], refer) == ["list", ["ref", 7, "Same"]]
    assert wire.encode(object(), refer) == ["ref", 7, "object"]
    assert wire.encode(Named("plain"), refer) == "plain"


def test_what_wraps_plain_data_and_equals_it_goes_as_that():
    refer = lambda value: wire.reference(7, type(value).__name__)  # noqa: E731
    for wrapped in (UserList([1, "a"]), UserDict(a=1), UserString("text")):
        assert exactly(wire.decode(wire.encode(wrapped, refer), no_reference)) == exactly(
            wrapped.data
        )

    class Same(UserList):
        def __eq__(self, other):
            return True

        __hash__ = None

    class Listed(list):
        def __eq__(self, other):
            return True

        __hash__ = None

    class Table(UserDict):
        def total(self):
            return sum(self.values())

    class Double(UserDict):
        def __getitem__(self, key):
            return 2 * super().__getitem__(key)

    assert wire.encode(Table(a=1), refer) == ["dict", "a", 1]
    assert wire.encode(Double(a=1), refer) == ["ref", 7, "Double"]
    lying = UserList()
    lying.data = Listed()
    assert wire.encode(Same([1]), refer) == ["ref", 7, "Same"]
    assert wire.encode(lying, refer) == ["ref", 7, "UserList"]


@pytest.mark.parametrize(
    "value",
    [
        defaultdict(list, a=[1]), defaultdict(None, a=1), defaultdict(int),
        datetime(2020, 1, 2, tzinfo=UTC), time(1, 2, tzinfo=timezone(timedelta(hours=-3))),
        datetime(2020, 1, 2, 3, fold=1, tzinfo=timezone(timedelta(seconds=1))),
    ],
)  # fmt: skip
def test_what_a_missing_value_is_and_an_offset_arrive(value):
    arrived = there_and_back(value)
    assert (type(arrived), arrived, repr(arrived)) == (type(value), value, repr(value))


def test_a_mapping_that_calls_a_function_for_what_is_missing_arrives_without_it():
    assert there_and_back(defaultdict(lambda: 1, a=2)).default_factory is None


def test_a_zone_that_is_more_than_an_offset_stays():
    class Zone(tzinfo):
        def utcoffset(self, when):
            return timedelta(hours=when.month)

    with pytest.raises(wire.Unsendable):
        wire.encode(datetime(2020, 1, 2, tzinfo=Zone()), no_reference)


def test_named_tuples_go_with_their_fields():
    point = namedtuple("Point", "x y")(1, [2])
    data = wire.encode(point, no_reference)
    assert data == ["namedtuple", "Point", "x y", 1, ["list", 2]]
    assert exactly(wire.decode(data, no_reference)) == exactly((1, [2]))  # who asks for no more
    found = wire.decode(data, no_reference, others=lambda tag: wire.named_parts)
    assert found == ("Point", ("x", "y"), (1, [2]))
    made = wire.tuple_class(*found[:2])._make(found[2])
    assert made == point
    assert made._asdict() == point._asdict()


@pytest.mark.parametrize(
    "fields",
    [
        ("x", "x"),
        ("_x", "y"),
        ("class", "y"),
        ("x y", "z"),
        ("x",),
        ("x", 2),
        "xy",
        None,
        ("ä", "y"),
    ],
)
def test_what_has_no_proper_fields_goes_as_a_plain_tuple(fields):
    class Odd(tuple):
        __slots__ = ()
        _fields = fields

    assert wire.encode(Odd((1, 2)), no_reference) == ["tuple", 1, 2]


@pytest.mark.parametrize(
    "data",
    [
        ["namedtuple"], ["namedtuple", "P"], ["namedtuple", "P", "x"], ["namedtuple", 1, "x", 1],
        ["namedtuple", "P", 1, 1], ["namedtuple", "P", "x x", 1, 2], ["namedtuple", "P", "_x", 1],
        ["namedtuple", "P", "x.y", 1], ["namedtuple", "P" * 101, "x", 1],
        ["namedtuple", "P", "", 1],
        ["namedtuple", "P", " ".join(f"x{n}" for n in range(65)), *range(65)],
        ["given", 0], ["named", "builtins", "len"], ["error", 0, "E", "builtins"],
    ],
)  # fmt: skip
def test_broken_fields_are_refused_and_tags_that_nobody_asked_for(data):
    with pytest.raises(wire.ProtocolError):
        wire.decode(data, no_reference)


def test_frames_are_bounded_and_cut_ones_are_an_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, ["value", 1])
        assert wire.receive(theirs) == ["value", 1]
        with pytest.raises(wire.Unsendable):
            wire.send(ours, "x" * wire.MAX_FRAME_BYTES)
        ours.sendall(struct.pack("!I", wire.MAX_FRAME_BYTES + 1))
        with pytest.raises(wire.ProtocolError):
            wire.receive(theirs)
        ours.sendall(struct.pack("!I", 100) + b"[1")
        ours.close()
        assert wire.receive(theirs) is None


def keys_in_each_others_way(bits):
    """Keys of a mapping with two to the power of ``bits`` places: each has a hash of its own, but
    wherever some of them are looked for, others are, all the way along one chain of places."""
    mask = (1 << bits) - 1
    place, chain = 12345 & mask, []
    for _ in range(int(0.54 * (mask + 1))):
        chain.append(place)
        place = (5 * place + 1) & mask  # CPython's order of places, once no bit of the hash is left
    taken, late = set(chain), []
    for key in range(1 << bits, 1 << (bits + 5)):
        place, rest = key & mask, key
        while place in taken and rest:
            rest >>= 5
            place = (5 * place + rest + 1) & mask
        if place in taken:
            late.append(key)
        if len(late) == int(0.11 * (mask + 1)):
            return chain + late
    raise AssertionError("too few")


def seconds_to_decode(value):
    started_s = clock.thread_time()
    decoded = None
    with contextlib.suppress(wire.ProtocolError):
        decoded = wire.decode(value, no_reference)
    return decoded, clock.thread_time() - started_s


def test_keys_that_take_long_to_add_are_refused(monkeypatch):
    keys = keys_in_each_others_way(16)
    value = ["dict", *(part for key in keys for part in (key, 0))]
    decoded, took_s = seconds_to_decode(value)
    assert decoded is None
    monkeypatch.setattr(wire, "_USUAL_S", 1.0)  # the control: allow any time
    decoded, would_take_s = seconds_to_decode(value)
    assert len(decoded) == len(keys)
    assert took_s < would_take_s


@pytest.mark.parametrize("on_slow_machine", [False, True])
def test_many_keys_that_were_not_chosen_are_fine(on_slow_machine, monkeypatch):
    if on_slow_machine:
        monkeypatch.setattr(wire, "_USUAL_S", 0.0)
        monkeypatch.setattr(wire, "_LEAST_S", 0.0)
    chance = random.Random(0)
    for keys in (
        range(5000),
        [chance.getrandbits(60) for _ in range(5000)],
        [f"{number}" for number in range(5000)],
        [(number, chance.random()) for number in range(2000)],
        [float(number) for number in range(0, 320_000, 64)],
    ):
        for made in (set(keys), frozenset(keys), dict.fromkeys(keys), Counter(keys)):
            assert wire.decode(wire.encode(made, no_reference), no_reference) == made
