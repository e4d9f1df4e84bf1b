"""Honest programs, however awkward, and what their checks find."""

import pytest

from sandbox import Checks, Ending, Outcome
from sandbox.checker import _free_names, without_definitions

HONEST = {
    "threads": (
        """
import threading
def total(n):
    parts = []
    workers = [threading.Thread(target=parts.append, args=(i,)) for i in range(n)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    return sum(parts)
""",
        "assert total(10) == 45",
    ),
    "a thread pool": (
        """
from concurrent.futures import ThreadPoolExecutor
def squares(n):
    with ThreadPoolExecutor(4) as pool: return list(pool.map(lambda x: x * x, range(n)))
""",
        "assert squares(4) == [0, 1, 4, 9]",
    ),
    "asyncio": (
        """
import asyncio
async def later(x):
    await asyncio.sleep(0.001)
    return x
def gather(n):
    async def main(): return await asyncio.gather(*map(later, range(n)))
    return asyncio.run(main())
""",
        "assert gather(3) == [0, 1, 2]",
    ),
    "tempfile": (
        """
import tempfile
def through_a_file(text):
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(text); file.seek(0)
        return file.read()
""",
        "assert through_a_file('ä\\n') == 'ä\\n'",
    ),
    "deep recursion": (
        """
import sys
sys.setrecursionlimit(30_000)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
""",
        "assert depth(20_000) == 20_000",
    ),
    "big integers": (
        "def power(n): return 2 ** n",
        "assert power(200_000) == 1 << 200_000\nassert power(60) == 2 ** 60",
    ),
    "a generator": (
        "def count(n):\n    for i in range(n): yield i",
        "assert list(count(3)) == [0, 1, 2]\nassert next(count(3)) == 0\nassert 2 in count(3)",
    ),
    "in-place changes": (
        """
def sort(numbers, seen, table):
    numbers.sort(); seen.add(1); table['new'] = [numbers[0]]; table['old'].append(2)
""",
        """
numbers, seen, inner = [3, 1], set(), []
table = {'old': inner}
assert sort(numbers, seen, table=table) is None
assert (numbers, seen, table) == ([1, 3], {1}, {'old': [2], 'new': [1]})
assert inner == [2]
""",
    ),
    "one object passed twice": (
        "def swap(a, b, *, c): a.append(1); return a is b, b is c",
        """
x, y = [], []
assert swap(x, x, c=y) == (True, False)
assert x == [1]
assert swap(x, [1], c=x) == (False, False)
assert x == [1, 1]
assert swap(c=y, b=y, a=y) == (True, True)
assert y == [1]
""",
    ),
    "enumerations of numbers and text": (
        """
import enum
class Number(enum.IntEnum): ONE = 1
class Text(enum.StrEnum): A = "a"
class Bits(enum.IntFlag): X, Y = 1, 2
def all_of(): return Number.ONE, Text.A, {Number.ONE: Text.A}, Bits.X | Bits.Y
""",
        "assert all_of() == (1, 'a', {1: 'a'}, 3)",
    ),
    "the name of a class": (
        "class Node: pass\nclass Leaf(Node): pass\ndef f(x): return Leaf() if x else Node()",
        "assert f(0).__class__.__name__ == 'Node' and f(1).__class__.__name__ == 'Leaf'\n"
        "assert f(1).__class__ == f(2).__class__ != f(0).__class__\n"
        "assert not isinstance(f(1), (int, str, type, BaseException)) and isinstance(f(1), Node)",
    ),
    "an iterator at its end": (
        "def count(): return iter([1])",
        """
numbers = count()
assert next(numbers) == 1 and next(numbers, None) is None and list(numbers) == []
""",
    ),
    "expected exceptions": (
        """
class TooSmall(ValueError): pass
def root(x):
    if x < 0: raise TooSmall("no")
    return x ** 0.5
def key(): return {}['missing']
""",
        """
assert root(4) == 2.0
try: root(-1)
except ValueError as error: assert "no" in str(error)
else: assert False
try: key()
except LookupError: pass
try: root(None)
except TypeError: pass
""",
    ),
    "instances": (
        """
class Node:
    def __init__(self, value): self.value, self.left = value, None
    def depth(self): return 1 + (self.left.depth() if self.left else 0)
def find(root): return root.left
""",
        """
root = Node(1)
root.left = Node(2)
assert root.left.value == 2 and root.depth() == 2
assert find(root) is root.left and find(root) == root.left and find(root) != root
assert isinstance(root, Node) and not isinstance(3, Node)
assert root.left.left is None
""",
    ),
    "containers of every kind": (
        """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
import datetime
Point = namedtuple("Point", "x y")
def all_kinds():
    table = defaultdict(list); table[1].append(2)
    return [Counter("aab"), OrderedDict(a=1), table, deque([1], 3), Point(1, 2), Decimal("1.10"),
            Fraction(1, 3), datetime.date(2020, 2, 29), datetime.timedelta(days=-1), range(0, 9, 2),
            frozenset({1}), b"\\xff", bytearray(b"x"), 1j, -0.0, {(1, 2): {3}}, int, "\\ud800"]
def infinite(): return float("inf"), float("-inf"), float("nan")
""",
        """
from collections import deque
from decimal import Decimal
from fractions import Fraction
import datetime, math
assert all_kinds() == [{"a": 2, "b": 1}, {"a": 1}, {1: [2]}, deque([1], 3), (1, 2),
    Decimal("1.1"), Fraction(1, 3), datetime.date(2020, 2, 29), datetime.timedelta(days=-1),
    range(0, 9, 2), frozenset({1}), b"\\xff", b"x", 1j, 0.0, {(1, 2): {3}}, int, "\\ud800"]
assert math.copysign(1, all_kinds()[14]) == -1
assert infinite()[:2] == (math.inf, -math.inf) and math.isnan(infinite()[2])
""",
    ),
    "a match object": (
        "import re\ndef has_digit(text): return re.search(r'\\d', text)",
        "assert has_digit('a1')\nassert not has_digit('a')\nassert has_digit('a1').group() == '1'",
    ),
    "output": (
        "def f(x):\n    print('x' * 1000)\n    return x",
        "for i in range(100): assert f(i) == i",
    ),
    "a closed standard input": (
        "def ask():\n    try: return input()\n    except EOFError: return 'nobody'",
        "assert ask() == 'nobody'",
    ),
    "a main guard": ("def f(): return 1\nif __name__ == '__main__': input()", "assert f() == 1"),
    "a name of a builtin": ("def sum(a, b): return a * b", "assert sum(2, 3) == 6"),
    "a cache": (
        "import functools\n@functools.lru_cache(None)\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
        "assert fib(80) == 23416728348467685",
    ),
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "def make(x): return P(x)",
        "assert make(3).x == 3\nassert str(make(3)) == 'P(x=3)'",
    ),
    "one CPU-heavy half second": (
        "def spin(n):\n    for _ in range(n): pass\n    return n",
        "assert spin(3_000_000) == 3_000_000",
    ),
    "a refused process, handled": (
        "import os\ndef f():\n    try: os.fork()\n    except PermissionError: return 'refused'",
        "assert f() == 'refused'",
    ),
    "warnings": ("import warnings\ndef f(): warnings.warn('x'); return '\\d'", "assert f()"),
    "text that looks like a tag": (
        "def f(x): return x",
        "assert f(['int', '0x1']) == ['int', '0x1']",
    ),
    "what an error was raised with": (
        "def f(*given):\n    raise ValueError(*given)\ndef g(x): return {}[x]",
        "def raised(call, *given):\n"
        "    try: call(*given)\n"
        "    except Exception as error: return type(error), error.args, str(error)\n"
        "assert raised(g, 'a') == (KeyError, ('a',), \"'a'\")\n"
        "assert raised(g, 5) == (KeyError, (5,), '5')\n"
        "assert raised(f, 'no', 3) == (ValueError, ('no', 3), \"('no', 3)\")\n"
        "assert raised(f) == (ValueError, (), '')\n"
        "assert raised(f, 10 ** 5000)[0] is ValueError\n",
    ),
    "views of a dictionary": (
        "from collections import OrderedDict\n"
        "from types import MappingProxyType\n"
        "def ordered(x): return OrderedDict(x).keys(), OrderedDict(x).items()\n"
        "def keys(x): return dict.fromkeys(x).keys()\n"
        "def items(x): return {each: None for each in x}.items()\n"
        "def shown(x): return MappingProxyType(dict(x))",
        "assert keys([2, 1]) == {1, 2} and list(keys([2, 1])) == [2, 1]\n"
        "assert items('b') == {('b', None)} and keys({3: 4}.keys()) == {3}\n"
        "assert ordered({1: 2}) == ({1}, {(1, 2)})\n"
        "assert shown([(1, 2)]) == {1: 2}",
    ),
    "constants": (
        "def f(x): return ... if x else NotImplemented",
        "assert f(1) is ... and f(0) is NotImplemented",
    ),
    "the second of two equal hours": (
        "def f(x): return x.replace(fold=1)",
        "from datetime import datetime, time\n"
        "assert f(time(2)).fold == f(datetime(2026, 10, 25, 2)).fold == 1",
    ),
    "a context manager, told that all is well": (
        "from contextlib import contextmanager\n"
        "ended = []\n"
        "@contextmanager\n"
        "def f(x):\n    yield x + 1\n    ended.append(x)\n"
        "class Held:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *error): ended.append(error)\n"
        "    def total(self): return len(ended)\n"
        "def all_ended(): return ended",
        "with f(1) as x: assert x == 2\n"
        "try:\n"
        "    with Held() as held:\n        assert held.total() == 1\n"
        "        raise KeyError('secret')\n"
        "except KeyError: pass\n"
        "assert all_ended() == [1, (None, None, None)]",
    ),
    "classes of classes, and attributes that go": (
        "class A: pass\nclass B(A):\n    def __init__(self): self.x = 1\n"
        "def has(a): return hasattr(a, 'x')",
        "assert issubclass(B, A) and not issubclass(A, B)\nb = B()\ndel b.x\nassert not has(b)",
    ),
    "what a function says of itself": (
        "def f(x):\n    'Says.'\n    return x",
        "assert f.__doc__ == 'Says.' and f.__name__ == 'f'",
    ),
}


@pytest.mark.parametrize("case", HONEST.values(), ids=HONEST.keys())
def test_an_honest_program_passes(case, pool):
    program, checks = case
    names = ("sum",) if "def sum" in program else ()
    examination = next(pool.examine_all([(program, Checks(checks, names))]))
    assert examination.outcome is Outcome.HELD, examination


# As above; these pass in one process too.
FIELDS = {
    "fields of named tuples": (
        "from collections import namedtuple\nfrom typing import NamedTuple\n"
        "P = namedtuple('P', 'x y')\n"
        "class Q(NamedTuple):\n    a: int\n    b: str = 'z'\n"
        "    def double(self): return 2 * self.a\n"
        "def f(x): return P(x, [Q(x)])\ndef g(q): return q.double(), type(q) is Q\n"
        "def h(p): return p.left + p.right, type(p).__name__, p._fields\n"
        "def add(points): points.append(P(5, 6))\nORIGIN = P(0, 0)",
        "from collections import namedtuple\nR = namedtuple('R', 'left right')\n"
        "assert f(1).x == 1 and f(1) == (1, [(1, 'z')]) and f(1).y[0].b == 'z'\n"
        "assert f(1)._fields == ('x', 'y') and f(1)._asdict()['x'] == 1 and f(2)[0] == 2\n"
        "assert f(1)._replace(y=3) == (1, 3) and P(1, 2).y == 2 and len(f(1)) == 2\n"
        "x, y = f(3)\nassert x == 3 and y == [(3, 'z')] and f(4) in [(4, [(4, 'z')])]\n"
        "assert g(f(2).y[0]) == (4, True) and g(f(2).y[0]._replace(a=5)) == (10, True)\n"
        "assert h(R(1, 2)) == (3, 'R', ('left', 'right'))\n"
        "points = [R(1, 2)]\nadd(points)\nassert ORIGIN.y == 0\n"
        "assert points == [(1, 2), (5, 6)] and points[0].left == 1\n"
        "assert str(f(1)) == \"P(x=1, y=[Q(a=1, b='z')])\"",
    ),
}


@pytest.mark.parametrize("case", FIELDS.values(), ids=FIELDS.keys())
def test_what_passes_in_one_process_passes(case, pool):
    program, checks = case
    exec(f"{program}\n{checks}", {"__name__": "checks"})  # the control
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.HELD, found


@pytest.mark.parametrize("checks", ["assert f(1).x == 2", "assert f(1).z == 1", "assert f(1) == 1"])
def test_fields_of_a_wrong_program_fail(checks, pool):
    program = (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)"
    )
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome in (Outcome.FAILED, Outcome.RAISED), found


def test_classes_of_named_tuples_are_bounded(pool):
    """Beyond that they are plain tuples."""
    program = (
        "from collections import namedtuple\n"
        "def f(n): return [namedtuple(f'P{i}', 'x')(i) for i in range(n)]"
    )
    checks = "many = f(500)\nassert many == [(n,) for n in range(500)] and many[0].x == 0\n"
    checks += "assert not hasattr(many[-1], 'x')"
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.HELD, found


SWALLOWING = """
class Held:
    def __enter__(self): return self
    def __exit__(self, *error): return True
class Replaced(Held):
    def __exit__(self, *error): raise KeyError
def f(x): return x
def g(x): return 1 / 0
"""

OUTCOMES = [
    ("def f(x): return x", "assert f(1) == 1", Outcome.HELD, ""),
    ("def f(x): return x", "assert f(1) == 2", Outcome.FAILED, "line 1: assert f(1) == 2"),
    ("def f(x): return [x]", "assert f(1) == 2", Outcome.FAILED, "(1) gave [1]"),
    ("def f(x): return x.y", "f(1)", Outcome.RAISED, "AttributeError"),
    ("def f(x): return None", "assert f(1) > 0", Outcome.RAISED, "TypeError"),
    ("def f(x):\n    raise KeyError('k')", "\nf(1)", Outcome.RAISED, "KeyError: 'k' (line 2)"),
    ("def f(x): assert False", "f(1)", Outcome.RAISED, "AssertionError"),
    ("1 / 0", "f(1)", Outcome.RAISED, "ZeroDivisionError: division by zero (line 1)"),
    ("import no_such_module", "f(1)", Outcome.RAISED, "ModuleNotFoundError"),
    ("def f(x) return x", "f(1)", Outcome.SYNTAX_ERROR, "line 1"),
    ("x = '\0'", "f(1)", Outcome.SYNTAX_ERROR, ""),
    ("def g(x): return x", "f(1)", Outcome.UNDEFINED, "does not define f"),
    ("", "f(1)", Outcome.UNDEFINED, "f"),
    ("eval('1 +')", "f(1)", Outcome.RAISED, "SyntaxError"),
    ("import sys\nsys.exit(3)", "f(1)", Outcome.ENDED, ""),
    ("def f(x): exit()", "f(1)", Outcome.ENDED, ""),
    ("def f(x): return x", "def f(:", Outcome.CHECKS_BROKEN, ""),
    ("def f(x): return x", "f({}.values())", Outcome.CHECKS_BROKEN, "dict_values"),
    # What is handed over may come of an answer, or of what a name was bound to.
    ("def f(x): return x", "f(1)\nf({}.values())", Outcome.RAISED, "no plain data"),
    (
        "def f(x): raise ValueError",
        "try: f(1)\nexcept: f({}.values())",
        Outcome.RAISED,
        "plain data",
    ),
    ("f, Basket = len, dict", "f(Basket(a=1).values())", Outcome.RAISED, "dict_values"),
    ("def f(x): return x", "import os\nf(1)\nos._exit(0)", Outcome.RAISED, "ended before"),
    ("f = 1", "f(1)", Outcome.RAISED, "not callable"),
    ("f = None", "assert f > 1", Outcome.RAISED, "TypeError"),
    # What is told of an answer asks the program nothing.
    (
        "class A: pass\ndef f(x): return {A(): x}.keys()",
        "assert f(1) == {1}",
        Outcome.FAILED,
        "gave dict_keys([<A>])",
    ),
    (
        "class A: pass\ndef f(x): return {x: A()}.items()",
        "assert f(1) == {1}",
        Outcome.FAILED,
        "gave dict_items([(1, <A>)])",
    ),
    # A context manager of the program's swallows no error, neither the checks' nor its own.
    (SWALLOWING, "with Held(): assert f(1) == 2", Outcome.FAILED, "assert f(1) == 2"),
    (SWALLOWING, "with Held(): assert g(1) == 2", Outcome.RAISED, "ZeroDivisionError"),
    # Nor does it put one in its place that the checks expect; without any, its own is its own.
    (
        SWALLOWING,
        "try:\n    with Replaced(): assert f(1) == 2\nexcept KeyError: pass",
        Outcome.FAILED,
        "assert f(1) == 2",
    ),
    (SWALLOWING, "with Replaced(): pass", Outcome.RAISED, "KeyError"),
    ("def f(x): return f", "import copy\ncopy.deepcopy(f(1))", Outcome.RAISED, "stays with it"),
    ("def f(x):\n    raise ValueError('a\\ud800\\n\\x1bb')", "f(1)", Outcome.RAISED, "a b"),
]


@pytest.mark.parametrize(("program", "checks", "outcome", "detail"), OUTCOMES)
def test_the_outcome_says_what_happened(program, checks, outcome, detail, examine):
    examination = examine(program, checks)
    assert examination.outcome is outcome, examination
    assert detail in examination.detail


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("def sum(x): return x[0] + x[1]", Outcome.HELD),  # the control
        ("def sum(x): return 4", Outcome.FAILED),
        ("def total(x): return 3", Outcome.UNDEFINED),
        ("", Outcome.UNDEFINED),
    ],
)
@pytest.mark.parametrize("how", [{}, {"counts": True}, {"are_live": True}, {"beside": True}])
def test_no_builtin_takes_the_place_of_what_is_asked_for(program, outcome, how, pool):
    """Or a program without any function would pass."""
    checks = "def check(candidate):\n    assert candidate([1, 2]) == 3\ncheck(sum)"
    (found,) = pool.examine_all([(program, Checks(checks, ("sum",), **how))])
    assert found.outcome is outcome, found


@pytest.mark.parametrize(
    ("program", "ending"),
    [
        ("def f():\n    while True: pass", Ending.TIMED_OUT_CPU),
        ("def f(): return len(bytearray(1 << 40))", Ending.OUT_OF_MEMORY),
        ("import os\ndef f(): os.fork()", Ending.BLOCKED),
        ("def f():\n    while True: print('x' * 1000)", Ending.TOO_MUCH_OUTPUT),
        ("import os\ndef f(): os._exit(3)", Ending.EXITED),
        ("import ctypes\ndef f(): ctypes.string_at(0)", Ending.SIGNALLED),
    ],
)
def test_a_limit_met_in_a_call_is_the_ending(program, ending, examine):
    examination = examine(program, "f()")
    assert examination.outcome is Outcome.ENDED, examination
    assert examination.execution.ending is ending


def test_names_stand_for_the_program_even_where_the_checks_define_them(pool):
    checks = Checks(
        'def helper(x):\n    return x\ndef f(x):\n    """A stub."""\nassert f(1) == helper(2)',
        ("f",),
    )
    assert next(pool.examine_all([("def f(x): return x + 1", checks)])).outcome is Outcome.HELD


def test_blanking_a_definition_keeps_the_lines():
    source = "import os\n@decorator\ndef f():\n    pass\nx = 1\n"
    assert without_definitions(source, ("f",)) == "import os\n\n\n\nx = 1\n"
    odd = "text = 'a\x0cb'\r\ndef f(): pass\r\n"
    assert without_definitions(odd, ("f",)) == "text = 'a\x0cb'\n\n"


def test_free_names_are_those_that_only_the_program_can_define():
    import symtable

    source = """
import os
from math import sqrt as root
limit = 3
def check(function, own=given):
    local = [element for element in other]
    def inner(): return local, outer_name, function
    class Own:
        field = used_in_class
    return len(local) + limit + root(1)
check(program)
"""
    table = symtable.symtable(source, "checks.py", "exec")
    assert _free_names(table) == {"given", "other", "outer_name", "used_in_class", "program"}
