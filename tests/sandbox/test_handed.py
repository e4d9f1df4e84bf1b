"""What checks hand over works as in one process, and tells the program no more than it must."""

from dataclasses import replace

import pytest

from sandbox import Checks, Ending, Outcome, recording
from tests.sandbox.conftest import LIMITS

APPLY = "def apply(f, *given, **named): return f(*given, **named)"
# Programs and checks, all of which pass in one process, too.
HONEST = {
    "a lambda": (APPLY, "assert apply(lambda x: x + 1, 3) == 4"),
    "a closure": (
        APPLY,
        "seen = []\ndef note(x, *, y=2):\n    seen.append((x, y))\n    return len(seen)\n"
        "assert [apply(note, 1), apply(note, 5, y=6)] == [1, 2] and seen == [(1, 2), (5, 6)]",
    ),
    "builtins, types and their methods": (
        APPLY,
        "assert apply(len, [1]) == 1 and apply(str.upper, 'a') == 'A' and apply(int, '7') == 7\n"
        "assert apply(dict.fromkeys, 'ab') == {'a': None, 'b': None}\n"
        "assert apply(sorted, [2, 1], key=abs) == [1, 2] and apply(int.__add__, 1, 2) == 3",
    ),
    "functions of libraries": (
        APPLY,
        "import functools, itertools, math, operator, statistics\n"
        "assert apply(math.sqrt, 4) == 2.0 and apply(operator.add, 1, 2) == 3\n"
        "assert apply(functools.reduce, operator.mul, [2, 3, 4]) == 24\n"
        "assert apply(statistics.mean, [1, 3]) == 2\n"
        "assert apply(operator.itemgetter(1, 0), 'ab') == ('b', 'a')\n"
        "assert apply(operator.methodcaller('split', ','), 'a,b') == ['a', 'b']\n"
        "assert apply(functools.partial(max, 5, key=abs), -6) == -6\n"
        "assert apply('a-b'.split, '-') == ['a', 'b'] and apply((5).__add__, 1) == 6",
    ),
    "a key": (
        "def first(xs, key): return min(xs, key=key)",
        "assert first([(1, 9), (2, 3)], key=lambda pair: pair[1]) == (2, 3)",
    ),
    "methods that change what they belong to": (
        "def each(f, xs):\n    for x in xs: f(x)",
        "seen, table = [], {}\neach(seen.append, [1, 2])\neach(table.setdefault, 'ab')\n"
        "assert seen == [1, 2] and table == {'a': None, 'b': None}",
    ),
    "partials of the checks' own": (
        APPLY,
        "from functools import partial\nassert apply(partial(lambda a, b: a - b, 5), 3) == 2\n"
        "xs = []\napply(partial(xs.insert, 0), 4)\nassert xs == [4]",
    ),
    "classes and methods of theirs": (
        APPLY,
        "class Point:\n    def __init__(self, x): self.x = x\n    def moved(self, by=1): "
        "return Point(self.x + by)\n    @classmethod\n    def zero(cls): return cls(0)\n"
        "    def __call__(self, y): return self.x * y\n"
        "assert apply(Point, 3).x == 3 and apply(Point(3).moved, by=2).x == 5\n"
        "assert apply(Point.zero).x == 0 and apply(Point(3), 4) == 12",
    ),
    "iterators": (
        "def total(xs): return sum(xs)\ndef two(xs): return next(xs), next(xs), next(xs, None)",
        "assert total(iter([1, 2])) == 3 and total(x for x in range(4)) == 6\n"
        "assert two(map(str, [1, 2])) == ('1', '2', None)\n"
        "numbers = iter([1, 2, 3])\nassert two(numbers) == (1, 2, 3) and list(numbers) == []",
    ),
    "objects of classes of theirs": (
        "def length(node):\n    n = 0\n    while node: node, n = node.next, n + 1\n    return n\n"
        "def least(xs): return sorted(xs)[0]\n"
        "def double(box): box.x *= 2; return box\n"
        "def parts(bag): return len(bag), bag[0], 3 in bag, [*bag], str(bag), bag == 4\n",
        "class Node:\n    def __init__(self, next=None): self.next, self.x = next, 1\n"
        "    def __lt__(self, other): return self.x < other.x\n"
        "class Bag:\n    def __len__(self): return 2\n"
        "    def __getitem__(self, at): return [7, 8][at]"
        "\n    def __contains__(self, x): return x == 3\n    def __str__(self): return 'bag'\n"
        "    def __eq__(self, other): return other == 4\n"
        "assert length(Node(Node())) == 2\n"
        "a, b = Node(), Node()\nb.x = 0\nassert least([a, b]) is b\n"
        "assert double(a) is a and a.x == 2 and parts(Bag()) == (2, 7, True, [7, 8], 'bag', True)",
    ),
    "calls in calls": (
        "def Y(f): return lambda *given: f(Y(f), *given)\ndef double(f): return lambda x: f(f(x))",
        "factorial = Y(lambda self, n: 1 if n == 0 else n * self(n - 1))\n"
        "assert factorial(30) == 265252859812191058636308480000000\n"
        "assert double(double(lambda x: 2 * x))(1) == 16",
    ),
    "parameters and names": (
        "import inspect, functools\n"
        "def curry(f):\n    count = f.__code__.co_argcount\n    def more(*given):\n"
        "        if len(given) >= count: return f(*given)\n"
        "        return lambda *others: more(*given, *others)\n    return more\n"
        "def names(f): return [*inspect.signature(f).parameters]\n"
        "def look(f): return names(f), f.__name__, inspect.isfunction(f)\n"
        "def wrapped(f):\n    @functools.wraps(f)\n    def inner(*a, **k): return f(*a, **k)\n"
        "    return inner\n"
        "def call(f): return f(1, c=5), f(1, 2, 3, 4, d=7), f(1, e=8), f(1, b=3)",
        "def g(a, b=2, *c, d=4, **e): return a, b, c, d, e\n"
        "def h(a, /, b, *, c): return a, b, c\n"
        "assert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6\n"
        "assert look(g) == (['a', 'b', 'c', 'd', 'e'], 'g', True)\n"
        "assert look(h)[0] == ['a', 'b', 'c']\n"
        "assert wrapped(h)(1, 2, c=3) == (1, 2, 3) and wrapped(h).__name__ == 'h'\n"
        "assert call(g) == ((1, 2, (), 4, {'c': 5}), (1, 2, (3, 4), 7, {}), "
        "(1, 2, (), 4, {'e': 8}), (1, 3, (), 4, {}))",
    ),
    "arguments that the checks' function changes": (
        "def fill(f):\n    xs, table = [], {}\n    f(xs, table=table)\n    return xs, table",
        "def add(xs, table): xs.append(1); table['a'] = [2]\nassert fill(add) == ([1], {'a': [2]})",
    ),
    "what it raises": (
        "def safe(f, *given):\n    try: return f(*given)\n"
        "    except (KeyError, ZeroDivisionError) as error: return str(type(error)), error.args\n"
        "def let(f): return f()\ndef twice(f):\n    try: f()\n    except ValueError: return f()",
        "assert safe(lambda: {}['a']) == (str(KeyError), ('a',))\n"
        "assert safe(lambda x: 1 / x, 0)[0] == str(ZeroDivisionError)\n"
        "class Own(Exception): pass\nown = Own(3)\ndef fail(): raise own\n"
        "try: let(fail)\nexcept Own as error: assert error is own\nelse: assert False\n"
        "n = []\ndef later():\n    n.append(1)\n    if len(n) < 2: raise ValueError\n"
        "    return 'well'\n"
        "assert twice(later) == 'well'",
    ),
    "enumerations and data classes": (
        "def name(x): return x.name, x.value\n"
        "def move(p):\n    p.x += 1\n    p.note = 'moved'\n    return p.x, p == p",
        "import dataclasses, enum\nclass Color(enum.Enum): RED = 3\n"
        "@dataclasses.dataclass\nclass P:\n    x: int = 0\n"
        "p = P(1)\nassert name(Color.RED) == ('RED', 3) and move(p) == (2, True)\n"
        "assert p.x == 2 and p.note == 'moved'",
    ),
    "classes of errors": (
        "def fail(kind): raise kind('x', 2)\n"
        "def retry(f, kinds, times=3):\n    for _ in range(times):\n        try: return f()\n"
        "        except kinds: pass\n    return 'never'\n"
        "def above(kind): return issubclass(kind, ValueError), kind.__name__",
        "class Own(ValueError):\n    def __init__(self, *given): super().__init__(*given)\n"
        "class Sub(Own): pass\n"
        "def test():\n    class Inner(Exception): pass\n    for kind in Own, Inner, KeyError:\n"
        "        try: fail(kind)\n        except kind as error: assert error.args == ('x', 2)\n"
        "        else: assert False\n    n = []\n    def flaky():\n        n.append(1)\n"
        "        if len(n) < 3: raise [Inner, Sub][len(n) - 1]\n        return n\n"
        "    assert retry(flaky, (Inner, Own)) == [1, 1, 1] and retry(fail, TypeError) == 'never'\n"
        "    try: retry(lambda: fail(Own), Inner)\n    except Own: pass\n    else: assert False\n"
        "test()\nassert above(Own) == (True, 'Own')",
    ),
    "what the program raises in what it calls": (
        "def safe(f, *given):\n    try: return f(*given)\n    except ValueError: return 'no'\n"
        "def bad(): raise ValueError",
        "assert safe(lambda: bad()) == 'no' and safe(bad) == 'no'\n"
        "def call(): return bad()\nassert [safe(f) for f in (call, lambda: [bad() for _ in 'a'])] "
        "== ['no', 'no']",
    ),
    "an assertion of theirs that is let through": (
        "def let(f): return f(1)",
        "def cb(x): assert x == 2, 'no'\ntry: let(cb)\n"
        "except AssertionError as error: assert str(error) == 'no'\nelse: raise ValueError",
    ),
    "what comes back": (
        "def same(x): return x\ndef hold(xs): xs.append(xs[0]); return xs[-1]",
        "f = lambda: 5\nxs = [f, len]\n"
        "assert same(f) is f and same([f]) == [f] and hold(xs) is f and xs[2] is xs[0] is f\n"
        "assert xs[1]('ab') == 2",
    ),
    "several threads of the program's": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def pmap(f, xs):\n    with ThreadPoolExecutor(4) as pool: return list(pool.map(f, xs))",
        "assert pmap(lambda x: x * x, range(40)) == [x * x for x in range(40)]",
    ),
    "a later call of what was kept": (
        "kept = []\ndef on(f): kept.append(f); return f\ndef emit(x): return [f(x) for f in kept]",
        "@on\ndef a(x): return x + 1\non(lambda x: -x)\nassert emit(3) == [4, -3] and a(1) == 2",
    ),
    "files in memory": (
        "import json\ndef save(x, file): json.dump(x, file); print('', end='.', file=file)\n"
        "def load(file): return [line.strip() for line in file], file.read()",
        "import io\nfile = io.StringIO()\nsave([1], file)\nassert file.getvalue() == '[1].'\n"
        "assert load(io.StringIO('a\\nb')) == (['a', 'b'], '')",
    ),
    "patterns, and errors": (
        "def f(pattern, error):\n    if not pattern.match('a'): raise error",
        "import re\nf(re.compile('A', re.I), ValueError('no'))\n"
        "try: f(re.compile('b'), ValueError('no', 2))\n"
        "except ValueError as error: assert error.args == ('no', 2)\nelse: assert False\n"
        "def same(x): return x\nassert re.fullmatch('a', same('a'))",
    ),
    "an order": (
        "def f(xs, key): return sorted(xs, key=key)",
        "import functools\n"
        "assert f([1, 3, 2], functools.cmp_to_key(lambda a, b: b - a)) == [3, 2, 1]",
    ),
    "output": (APPLY, "assert apply(print, 'x') is None"),
}


@pytest.mark.parametrize("case", HONEST.values(), ids=HONEST.keys())
def test_what_passes_in_one_process_passes(case, pool):
    program, checks = case
    exec(f"{program}\n{checks}", {"__name__": "checks"})  # the control
    for counts in (False, True):
        (found,) = pool.examine_all([(program, Checks(checks, counts=counts))])
        assert found.outcome is Outcome.HELD, found


@pytest.mark.parametrize(
    ("program", "checks"),
    [
        ("def f(g, x): return g(x + 1)", "assert f(lambda x: 2 * x, 1) == 2"),
        ("def f(g, x): return x", "assert f(str.upper, 'a') == 'A'"),
        ("def f(xs): return xs", "assert f(iter([1])) == [1]"),
        ("def f(g, xs): return [g(xs[0])]", "assert f(lambda x: x, [1, 2]) == [1, 2]"),
        ("def f(g): g(3)", "seen = []\nf(seen.append)\nassert seen == [2]"),
    ],
)
def test_wrong_programs_fail(program, checks, pool):
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.FAILED, found


@pytest.mark.parametrize(
    ("argument", "is_recorded"),
    [
        ("len", True),
        ("str.upper", True),
        ("ValueError", True),
        ("operator.itemgetter(1)", True),
        ("functools.partial(max, 5, key=len)", True),
        ("'abc'.find", True),
        ("math.sqrt", True),
        ("lambda x: x", False),
        ("[].append", False),
        ("functools.partial(max, [])", False),
        ("iter([1])", False),
        ("random.random", False),  # drawn here, the same for every program
    ],
)
def test_calls_with_what_goes_by_name_are_recorded(argument, is_recorded):
    checks = f"import functools, math, operator, random\nassert f({argument}) == 1"
    assert (recording.record(checks, ("f",)) is not None) == is_recorded


def test_no_call_is_sent_ahead_of_what_a_callback_tells():
    """An answer of a callback may be what an earlier one should be: all such checks are live."""
    checks = "assert f(6) == 9\nassert f(1) == 2\nassert g(lambda: 9) == 16"
    assert recording.record(checks, ("f", "g")) is None


def test_a_failed_callback_shows_where(pool):
    checks = "def cb(x):\n    assert x == 3, 'three'\nf(cb)"
    (found,) = pool.examine_all([("def f(g): g(4)", Checks(checks))])
    assert found.outcome is Outcome.FAILED, found
    assert "three; checks, line 2: assert x == 3" in found.detail


@pytest.mark.parametrize(
    ("program", "checks", "outcome"),
    [
        # What cannot be handed over, by the program's doing or not.
        ("def f(g): g()", "import sys\nf(lambda: sys)", Outcome.RAISED),
        ("def f(g):\n    try: g()\n    except BaseException: return 1",
         "import sys\nassert f(lambda: sys)", Outcome.RAISED),
        ("def f(g): return g()", "import sys\nf(sys)", Outcome.CHECKS_BROKEN),
        ("def f(g):\n    try: g()\n    except BaseException: return 1",
         "assert f(exit) == 1\ndef g(): raise SystemExit\nassert f(g) == 1", Outcome.RAISED),
    ],
)  # fmt: skip
def test_what_ends_checks_in_a_callback(program, checks, outcome, pool):
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is outcome, found


@pytest.mark.parametrize(
    ("program", "checks", "ending"),
    [
        ("def f(g):\n    while True: g(1)", "f(lambda x: x)", None),
        ("def f(g):\n    while True: pass", "f(lambda x: x)", Ending.TIMED_OUT_CPU),
        ("def f(g): g()", "def g():\n    while True: pass\nf(g)", Ending.TIMED_OUT_CPU),
        ("import time\ndef f(g): g(); time.sleep(60)", "f(lambda: 1)", Ending.TIMED_OUT_WALL),
    ],
)
def test_whoever_goes_on_for_ever_meets_a_limit(program, checks, ending, pool):
    (found,) = pool.examine_all([(program, Checks(checks), replace(LIMITS, cpu_s=0.5, wall_s=2))])
    assert found.outcome is Outcome.ENDED, found
    timed_out = (Ending.TIMED_OUT_CPU, Ending.TIMED_OUT_WALL)
    assert found.execution.ending in ((ending,) if ending else timed_out)


@pytest.mark.parametrize(
    "checks",
    [
        "def g(): return f(g)\nf(g)",
        "def g(n): return f(g)\ng(1)",
        "def g(): f(g)\ntry: f(g)\nexcept RecursionError: pass\nassert h() == 3",
    ],
)
def test_recursion_through_both_sides_ends(checks, pool):
    program = "def f(g): return g()\ndef h(): return 2"
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome in (Outcome.RAISED, Outcome.FAILED), found
    right = "def f(g): return g()\ndef h(): return 3"
    (found,) = pool.examine_all([(right, Checks(checks))])
    assert (found.outcome is Outcome.HELD) == ("h()" in checks), found


def test_a_thread_that_goes_on_after_the_answer_cannot_call_the_checks(pool):
    program = """
import threading
told, go = [], threading.Event()
def f(g):
    def later():
        go.wait()
        try: told.append(g(1))
        except RuntimeError as error: told.append(str(error))
    global thread
    thread = threading.Thread(target=later)
    thread.start()
    threading.Timer(0.1, go.set).start()
    return 1
def h(): thread.join(); return told
"""
    checks = "import time\nassert f(lambda x: x) == 1\ntime.sleep(0.5)\nassert 'in calls' in h()[0]"
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.HELD, found


def test_assertions_are_counted_past_callbacks(pool):
    program = "def f(g, x): return g(x)"
    checks = "assert f(lambda x: x, 1) == 1\nassert f(abs, 2) == 3\nassert f(lambda x: -x, 1) == -1"
    (found,) = pool.examine_all([(program, Checks(checks, counts=True))])
    assert (found.outcome, found.counts) == (Outcome.FAILED, (2, 3)), found
