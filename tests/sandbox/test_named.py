"""What both sides know by name, there and back."""

import functools
import itertools
import json
import math
import operator
import random
import re
import statistics

import pytest

from sandbox import handed, named, wire


def there_and_back(value):
    data = named.describe(value)
    assert data is not None
    return wire.decode(wire.parse(wire.dump(data)), None, others=named.DECODERS.get)


@pytest.mark.parametrize(
    "value",
    [
        len, str, str.upper, int.__add__, dict.fromkeys, ValueError, math.sqrt, operator.add, print,
        functools.reduce, itertools.chain.from_iterable, statistics.mean, json.JSONDecodeError,
        exec,
    ],
)  # fmt: skip
def test_what_a_library_defines_arrives_as_itself(value):
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    ("made", "argument"),
    [
        (operator.itemgetter(1, 0), "ab"),
        (operator.attrgetter("real"), 5),
        (operator.methodcaller("split", ","), "a,b"),
        (functools.partial(max, 5, key=abs), -6),
        (functools.partial(functools.reduce, operator.add), [1, 2]),
        ("a-b".split, "-"),
    ],
)
def test_what_is_made_of_it_is_made_again(made, argument):
    assert there_and_back(made)(argument) == made(argument)


def test_patterns_and_plain_errors_are_made_again():
    pattern = re.compile("A", re.IGNORECASE)
    assert there_and_back(pattern) == pattern
    assert repr(there_and_back(KeyError("a", 2))) == "KeyError('a', 2)"


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1, there_and_back, [].append, {}.get, random.random, functools.partial(max, []),
        functools.partial(print, there_and_back), operator.methodcaller("sort", key=len), object(),
        (5).__add__, (5).__eq__, functools.partial(operator.eq, 5),
        5, operator, iter([]), KeyError([]), wire.Unsendable, named.find,
    ],
)  # fmt: skip
def test_all_else_has_no_name(value):
    assert named.describe(value) is None


@pytest.mark.parametrize(
    ("module", "name"),
    [("sandbox.wire", "encode"), ("os.path", "nothing"), ("pytest", "raises"), ("builtins", "x.y")],
)
def test_no_other_name_is_known(module, name):
    with pytest.raises(LookupError):
        named.find(module, name)


def test_what_a_powerful_function_does_is_not_for_a_program_to_say():
    """By name it runs in the program's process; lent, it would run with the checks."""
    assert handed.Handed().describe(functools.partial(exec, {})) is None
    assert handed.Handed().describe(functools.partial(max, [])) is not None
