from datetime import datetime, timedelta, tzinfo

import pytest

from sandbox import Ending, Limits, Opaque, call

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")

LIMITS = Limits(cpu_s=1, wall_s=5)


class Zone(tzinfo):
    def utcoffset(self, when):
        return timedelta(hours=when.month)


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("def f(x): return [x, {1: (2.5, 'a')}]", [[1, 2], {1: (2.5, "a")}]),
        ("class C: pass\ndef f(x): return [C()]", [Opaque("C")]),
        ("def f(x): return None", None),
    ],
)
def test_what_a_function_answers(program, value):
    answer = call(program, "f", [1, 2], limits=LIMITS)
    assert (answer.value, answer.raised) == (value, "")
    assert answer.execution.ending is Ending.STOPPED


@pytest.mark.parametrize(
    ("program", "raised"),
    [
        ("def f(x): return x.y", "AttributeError"),
        ("def g(x): return x", "does not define f"),
        ("f = 3", "TypeError"),
        ("def f(x) return x", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os\nos._exit(0)", "ended before it answered"),
        ("import os\ndef f(x): os._exit(0)", "ended before it answered"),
        ("import os\nos.pwrite(5, b'\\0\\0\\0\\5nope!', 0)\nos._exit(0)", "out of protocol"),
        ("from fractions import Fraction\ndef f(x): return Fraction(2 ** 40_000, 3)", "digits"),
        ("def f(x): return {n * (2 ** 61 - 1) for n in range(1000)}", "share their hashes"),
    ],
)
def test_why_there_is_no_answer(program, raised):
    answer = call(program, "f", 1, limits=LIMITS)
    assert answer.value is None
    assert raised in answer.raised


def test_limits_hold_for_a_call():
    assert call("def f():\n    while True: pass", "f", limits=LIMITS).execution.ending is (
        Ending.TIMED_OUT_CPU
    )


def test_only_plain_data_is_handed_over():
    with pytest.raises(ValueError, match="plain data only, not a object"):
        call("def f(x): return x", "f", object())


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        (nested(200), "nested deeper than 100"),
        ("x" * (9 << 20), "larger than 8 MB"),
        (datetime(2024, 1, 1, tzinfo=Zone()), "a time with a zone"),
    ],
    ids=["deep", "large", "zone"],
)
def test_what_cannot_be_handed_over_is_told(argument, why):
    with pytest.raises(ValueError, match=f"call.. cannot hand over its arguments: .*{why}"):
        call("def f(x): return x", "f", argument)
