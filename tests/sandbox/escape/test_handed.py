"""Programs that want to pass by what their checks hand over, by errors, or by names of fields."""

import time
from dataclasses import replace

import pytest

from sandbox import Checks, Outcome
from tests.sandbox.escape.conftest import LIMITS, run_outside

# Checks, and a program that passes them in one process: the control.
FORGERIES = {
    "swallows an assertion in a callback": (
        "def f(g):\n    try: g(5)\n    except BaseException: pass\n    return 1",
        "def g(x): assert x == 3\nassert f(g) == 1",
    ),
    "swallows one in a thread": (
        "import threading\ndef f(g):\n    threading.excepthook = lambda *_: None\n"
        "    t = threading.Thread(target=g, args=(5,))\n    t.start()\n    t.join()\n    return 1",
        "def g(x): assert x == 3\nassert f(g) == 1",
    ),
    "swallows one in an iterator": (
        "def f(xs):\n    try: return sum(xs)\n    except AssertionError: return 7",
        "def numbers():\n    yield 7\n    assert False\nassert f(numbers()) == 7",
    ),
    "swallows one of a class of its own": (
        "def f(g):\n    try: g()\n    except Exception: pass",
        "class Bad(AssertionError): pass\ndef g(): raise Bad\nf(g)",
    ),
    "makes another error of it": (
        "def f(g):\n    try: g(5)\n    except AssertionError: raise KeyError",
        "def g(x): assert x == 3\ntry: f(g)\nexcept KeyError: pass",
    ),
    "swallows one in a call in a call": (
        "def f(g): return g()\ndef h(g):\n    try: g()\n    except BaseException: return 1",
        "def bad(): assert f(lambda: 1) == 2\nassert f(lambda: h(bad)) == 1",
    ),
    "lets a later one through in its place": (
        "def f(g):\n    try: g(5)\n    except AssertionError: pass\n    g(6)",
        "def g(x): assert x == 3, x\ntry: f(g)\nexcept AssertionError as error:\n"
        "    assert str(error) == '6'",
    ),
    "raises while one is tried, and swallows that": (
        "def double(x): raise KeyError\ndef f(g):\n    try: return g(3)\n"
        "    except KeyError: return 1",
        "def g(x):\n    assert double(x) == 2 * x\n    return 1\nassert f(g) == 1",
    ),
    "raises while its message is made, and swallows that": (
        "class X:\n    def __repr__(self): raise KeyError\ndef f(g):\n    try: g(X())\n"
        "    except KeyError: return 1",
        "def say(x): return f'not {x!r}'\ndef g(x): assert x == 3, say(x)\nassert f(g) == 1",
    ),
    "raises in a generator that is asserted, and swallows that": (
        "def double(x): raise KeyError\ndef f(g):\n    try: return g(3)\n"
        "    except KeyError: return 1",
        "def g(x):\n    assert all(double(y) == 2 * y\n        for y in [x])\nassert f(g) == 1",
    ),
    "swallows one by the name of its error": (
        "E = AssertionError\ndef f(x): return x",
        "try: assert f(1) == 2\nexcept E: pass",
    ),
    "swallows all by the name of its error": (
        "E = BaseException\ndef f(x): return x",
        "try: assert f(1) == 2\nexcept E: pass",
    ),
    "swallows most by the name of its error": (
        "E = Exception\ndef f(x): return x",
        "try: assert f(1) == 2\nexcept (ValueError, E): pass",
    ),
    "swallows one by the name of its error, in a context": (
        "class K(type): __subclasscheck__ = lambda self, other: True\n"
        "class E(metaclass=K): pass\ndef f(x): return x",
        "class raises:\n    def __init__(self, kind): self.kind = kind\n"
        "    def __enter__(self): pass\n"
        "    def __exit__(self, kind, *_): return kind and issubclass(kind, self.kind)\n"
        "with raises(E): assert f(1) == 2",
    ),
    "is above all errors, by the word of its class": (
        "class K(type):\n    __subclasscheck__ = __instancecheck__ = lambda self, other: True\n"
        "class E(Exception, metaclass=K): pass\ndef f(x): return x",
        "try: assert f(1) == 2\nexcept Exception as error: assert isinstance(error, E)",
    ),
    "has its test skipped": (
        "import unittest\nclass E(unittest.SkipTest): pass\n"
        "def f(x): raise unittest.SkipTest\ndef g(x): raise E",
        "import io, unittest\nclass Test(unittest.TestCase):\n"
        "    def test_f(self): self.assertEqual(f(1), 2)\n"
        "    def test_g(self): self.assertEqual(g(1), 2)\n"
        "tests = unittest.defaultTestLoader.loadTestsFromTestCase(Test)\n"
        "assert unittest.TextTestRunner(io.StringIO()).run(tests).wasSuccessful()",
    ),
    "skips the test that it is handed": (
        "def f(case): case.skipTest('')",
        "import io, unittest\nclass Test(unittest.TestCase):\n"
        "    def test(self): self.assertEqual(f(self), 2)\n"
        "tests = unittest.defaultTestLoader.loadTestsFromTestCase(Test)\n"
        "assert unittest.TextTestRunner(io.StringIO()).run(tests).wasSuccessful()",
    ),
    "changes the test that it is handed": (
        "def f(case): case.assertEqual = lambda *_: None",
        "import io, unittest\nclass Test(unittest.TestCase):\n"
        "    def test(self):\n        answer = f(self)\n        self.assertEqual(answer, 2)\n"
        "tests = unittest.defaultTestLoader.loadTestsFromTestCase(Test)\n"
        "assert unittest.TextTestRunner(io.StringIO()).run(tests).wasSuccessful()",
    ),
    "puts a method of its own in place of one": (
        "def f(judge): judge.same = lambda *_: True",
        "class Judge:\n    def same(self, x, y): return x == y\n"
        "judge = Judge()\nanswer = f(judge)\nassert judge.same(answer, 2)",
    ),
    "swallows one by suppress": (
        "E = AssertionError\ndef f(x): return x",
        "import contextlib\nwith contextlib.suppress(E): assert f(1) == 2",
    ),
    "swallows one by a class that is made anew": (
        "class E(Exception): pass\ndef f(x):\n    global E\n    E = AssertionError\n    return x",
        "try: assert f(1) == 2\nexcept E: pass",
    ),
    "reads the checks off a function": (
        "import gc\n"
        "def f(g): return [c for c in g.__code__.co_consts if type(c) is int and c > 1000][0]",
        "def g(x): return x == 4242\nassert f(g) == 4242",
    ),
    "reads what a function refers to": (
        "def f(g):\n    inside = g.__closure__\n"
        "    return inside[0].cell_contents if inside else g.__globals__['want']",
        "want = 4242\ndef g(): return want\nassert f(g) == 4242",
    ),
    "reads the frame of a generator": (
        "def f(xs): return xs.gi_frame.f_globals['want']",
        "want = 4242\nassert f(x for x in [want]) == 4242",
    ),
    "reads defaults": (
        "def f(g): return g.__defaults__[0]",
        "assert f(lambda x=4242: x) == 4242",
    ),
    "reads private attributes": (
        "def f(x): return x._want",
        "class Thing:\n    def __init__(self): self._want = 4242\nassert f(Thing()) == 4242",
    ),
    "reads attributes of Python's": (
        "def f(x): return x.get.__func__.__globals__['want']",
        "want = 4242\nclass Thing:\n    def get(self): return want\nassert f(Thing()) == 4242",
    ),
    "hands a powerful function back": (
        "def f(g, *given): return g",
        "run = f(exec)\nrun('import builtins; builtins.held = True')\n"
        "import builtins\nassert builtins.held",
    ),
    "has checks read what an assertion says": (
        "def f(g):\n    try: g(0)\n    except AssertionError as error: return int(str(error))",
        "def g(x): assert x == 4242, '4242'\nassert f(g) == 4242",
    ),
    "has a tuple of the checks' say what it equals": (
        "from collections import namedtuple\nClose = namedtuple('Close', 'value margin')\n"
        "def f(x): return Close(0, float('inf'))",
        "from typing import NamedTuple\nclass Close(NamedTuple):\n"
        "    value: float\n    margin: float\n"
        "    def __eq__(self, other): return abs(self.value - other) <= self.margin\n"
        "assert f(4) == 2.0",
    ),
    "swallows a group of assertions": (
        "def f(g):\n    try: g(5)\n    except BaseException: pass\n    return 1",
        "def g(x):\n    try: assert x == 3\n    except AssertionError as error: failed = error\n"
        "    raise ExceptionGroup('soft', [KeyError(x), ExceptionGroup('more', [failed])])\n"
        "assert f(g) == 1",
    ),
    "reads what a bound comparison compares with": (
        "def f(g): return g.__self__",
        "assert f((4242).__eq__) == 4242",
    ),
    "reads what a partial comparison compares with": (
        "def f(g): return g.args[0]",
        "import functools, operator\nassert f(functools.partial(operator.eq, 4242)) == 4242",
    ),
    "says that its tuple is something else": (
        "from collections import namedtuple\nclass Same(namedtuple('Same', 'x')):\n"
        "    __eq__ = lambda *_: True\ndef f(): return Same(1)",
        "assert f() == (5,)",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_passes_in_one_process_does_not_pass(name, pool):
    program, checks = FORGERIES[name]
    assert run_outside(f"{program}\n{checks}")[0] == 0
    for counts in (False, True):
        (found,) = pool.examine_all([(program, Checks(checks, counts=counts))])
        assert found.outcome in (Outcome.FAILED, Outcome.RAISED, Outcome.ENDED), found


# As a program that speaks the protocol by itself; `say` sends a message and has what follows.
SPEAKS = """
import gc
server = None
def say(message):
    global server
    server = server or [o for o in gc.get_objects() if type(o).__name__ == "_Server"][0]
    wire = type(server)._answer.__globals__["wire"]
    wire.send(server._stream, message)
    return wire.receive(server._stream)
class E(Exception): pass
"""
CHECKS = """
def g(x):
    assert x == 3, 'three'
    return 4242
assert f(g) == 4242
assert h() == 4242
"""
SAID = {
    "a handle that there is not": 'say(["callback", 9, "__call__", ["tuple", 3], []])',
    "a negative one": 'say(["callback", -1, "__call__", ["tuple", 3], []])',
    "no handle": 'say(["callback", "g", "__call__", ["tuple", 3], []])',
    "a truth": 'say(["callback", False, "__call__", ["tuple", 3], []])',
    "another method": 'say(["callback", 0, "__getattribute__", ["tuple", "__globals__"], []])',
    "an attribute": 'say(["callback", 0, "__getattr__", ["tuple", "__globals__"], []])',
    "no arguments": 'say(["callback", 0, "__call__"])',
    "arguments that are none": 'say(["callback", 0, "__call__", 3, []])',
    "a list of arguments": 'say(["callback", 0, "__call__", ["list", 3], []])',
    "more names than arguments": 'say(["callback", 0, "__call__", ["tuple", 3], ["x", "y"]])',
    "names that are none": 'say(["callback", 0, "__call__", ["tuple", 3], [3]])',
    "a broken argument": 'say(["callback", 0, "__call__", ["tuple", ["set", ["list"]]], []])',
    "an error that was not told": 'say(["raised again", 1, ["AssertionError"], "", "", ""])',
    "a function that was not handed over": 'say(["value", ["given", 1]])',
    "a name of its own": 'say(["value", ["named", "builtins", "all"]])',
    "something made": 'say(["value", ["made", ["named", "builtins", "len"], ["tuple"], ["dict"]]])',
    "a class in a value": 'say(["value", ["error", 7, "E", "builtins"]])',
    "a class above all":
        'say(["raised own", ["error", 7, "E", "x", "BaseException"], 8, [], "", "", ""])',
    "a class of the judge's":
        'say(["raised own", ["error", 7, "ProgramLost", "sandbox.checker"], 8, [], "", "", ""])',
    "a class that cannot be": 'say(["raised own", ["error", 7, "E", "x", "OSError", "KeyError",'
        ' "SyntaxError"], 8, [], "", "", ""])',
    "a class of numbers":
        'say(["raised own", ["error", 7, "E", "x", ["type", "int"]], 8, [], "", "", ""])',
    "a tuple for a class":
        'say(["raised own", ["error", 7, "E", "x", ["tuple"]], 8, [], "", "", ""])',
    "a class that is its own base":
        'say(["raised own", ["error", 7, "E", "x", ["error", 7, "E", "x"]], 8, [], "", "", ""])',
    "a class of errors that makes what is missing":
        'say(["value", ["defaultdict", ["given", 0]]])',
    "a function for a class":
        'say(["raised own", ["error", 7, "E", "x", ["given", 0]], 8, [], "", "", ""])',
    "no class": 'say(["raised own", ["ref", 7, "E"], 8, [], "", "", ""])',
    "an error among what it was given":
        'say(["raised own", ["error", 7, "E", "x"], 8, [], "", "", "", ["ref", 0, "x"]])',
    "fields that are none": 'say(["value", ["namedtuple", "T", "x __class__", 1, 2]])',
    "fields of Python's": 'say(["value", ["namedtuple", "T", "class", 1]])',
    "one field for two": 'say(["value", ["namedtuple", "T", "x x", 1, 2]])',
    "its own error again": 'say(["raised again", 0, [], "", "", ""])',
    "an answer behind a call":
        'say(["callback", 0, "__call__", ["tuple", 3], []]); say(["value", 4242])',
    "a failed call, and an answer":
        'say(["callback", 0, "__call__", ["tuple", 4], []]); say(["value", 4242])',
    "a failed call, then another error":
        'say(["callback", 0, "__call__", ["tuple", 4], []]);'
        ' say(["raised again", 2, [], "", "", ""])',
    "a request": 'say(["call", 0, ["tuple"], [], []])',
    "a greeting": 'say(["ready"])',
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_whatever_is_said_in_a_call_it_does_not_pass(name, pool):
    program = f"{SPEAKS}\ndef f(g):\n    {SAID[name]}\n    return 4241\ndef h(): return 4241"
    (found,) = pool.examine_all([(program, Checks(CHECKS))])
    assert found.outcome in (Outcome.FAILED, Outcome.RAISED, Outcome.ENDED), found


def test_control_a_program_that_speaks_by_itself_can_pass(pool):
    program = f"""{SPEAKS}
def f(g):
    assert say(["callback", 0, "__call__", ["tuple", 3], []]) == ["returned", 4242]
    return 4242
def h(): return 4242
"""
    (found,) = pool.examine_all([(program, Checks(CHECKS))])
    assert found.outcome is Outcome.HELD, found


@pytest.mark.parametrize(
    "said",
    [
        '["value", ["list", *(["namedtuple", f"T{n}", "x", 1] for n in range(100_000))]]',
        '["raised own", ["error", 1, "E", "x", *(["error", n, "E", "x"] for n in range(2, 200000))]'
        ', 8, ["E"], "", "", ""]',
        '["value", ["namedtuple", "int", "x", ["namedtuple", "RemoteObject", "bit_length", 1]]]',
    ],
    ids=["classes of tuples", "classes of errors", "names that mislead"],
)
def test_no_classes_keep_the_checks_busy(said, pool):
    program = f"{SPEAKS}\ndef f(x): say({said})"
    started_s = time.monotonic()
    limits = replace(LIMITS, cpu_s=2)
    checks = "assert f(lambda: 1) == 3"
    (found,) = pool.examine_all([(program, Checks(checks), limits)])
    assert found.outcome in (Outcome.FAILED, Outcome.RAISED, Outcome.ENDED), found
    assert time.monotonic() - started_s < 30  # the limit is two seconds; a busy machine takes more


def test_what_misleads_is_shown_as_it_is(pool):
    program = (
        "from collections import namedtuple\n"
        "int = namedtuple('int', 'x')\nclass RemoteObject(Exception): pass\n"
        "def f(x): return int([int(1), RemoteObject(2)])"
    )
    (found,) = pool.examine_all([(program, Checks("assert f(1) == 3"))])
    assert found.outcome is Outcome.FAILED, found
    assert "gave" in found.detail
