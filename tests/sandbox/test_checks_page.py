"""What docs/checks.md says does not work, and what it says to write instead."""

import pytest

from sandbox import Checks, Outcome

OBJECT = """
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def __add__(self, other): return Point(self.x + other.x)
    def __float__(self): return float(self.x)
    def __repr__(self): return f"Point(x={self.x})"
    def __contains__(self, x): return x == self.x
    def __iter__(self):
        while True: yield 0
    def has(self, x): return x in self
def f(x=1): return Point(x)
"""
# A program, checks that pass beside it and not from afar, and what to write instead of these.
CASES = {
    "objects": (OBJECT, "assert f() == Point(1)", "assert f().x == 1 and str(f()) == 'Point(x=1)'"),
    "operators": (OBJECT, "assert (f(1) + f(2)).x == 3", "assert f(1).x + f(2).x == 3"),
    "conversion": (OBJECT, "assert float(f()) == 1.0", "assert float(f().x) == 1.0"),
    "membership": (OBJECT, "assert 1 in f()", "assert f().has(1) and next(iter(f())) == 0"),
    "identity": ("def f(x): return x", "x = [1]\nassert f(x) is x", "x = [1]\nassert f(x) == x"),
    "a function": (
        "def f(): return len",
        "assert f() is len",
        "assert f()([1]) == 1 and f().__name__ == 'len'",
    ),
    "order of a set": (
        "def f(): return {8, 1, 16}",
        "assert list(f()) == list({8, 1, 16})",
        "assert sorted(f()) == [1, 8, 16] and f() == {8, 1, 16}",
    ),
    "a UUID": (
        "import uuid\ndef f(): return uuid.UUID(int=5)",
        "import uuid\nassert f() == uuid.UUID(int=5)",
        "import uuid\nassert str(f()) == str(uuid.UUID(int=5))",
    ),
    "a path": (
        "from pathlib import Path\ndef f(): return Path('a/b')",
        "from pathlib import Path\nassert f() == Path('a/b')",
        "assert str(f()) == 'a/b' and f().name == 'b'",
    ),
    "an array": (
        "from array import array\ndef f(): return array('i', [1, 2])",
        "from array import array\nassert f() == array('i', [1, 2])",
        "assert list(f()) == [1, 2]",
    ),
    "numbers with names": (
        "import enum\nclass E(enum.IntEnum): A = 1\nclass C(enum.Enum): B = 2\n"
        "def f(): return E.A\ndef g(): return C.B",
        "assert f().name == 'A'",
        "assert f() == 1 and g().name == 'B' and g() is g() and g() == C.B and C['B'] == g()",
    ),
    "a module": (
        "def f(m): return getattr(m, 'sqrt', m)(4)",
        "import math\nassert f(math) == 2",
        "import math\nassert f(math.sqrt) == 2",
    ),
    "an error that is returned": (
        "class E(ValueError): code = 3\ndef f(): return E(1)",
        "assert isinstance(f(), ValueError)",
        "assert isinstance(f(), E) and f().code == 3",
    ),
    "a builtin class by another name": (
        "E = Exception\ndef f(): raise KeyError",
        "try: f()\nexcept E: pass",
        "try: f()\nexcept KeyError: pass",
    ),
    "a default of one's own": (
        "from collections import defaultdict\ndef f(g): return defaultdict(g)",
        "assert f(lambda: 5)['a'] == 5",
        "assert f(int)['a'] == 0",
    ),
    "what is printed": (
        "def f(write=print): write('x')",
        "import contextlib, io\nfile = io.StringIO()\n"
        "with contextlib.redirect_stdout(file): f()\nassert file.getvalue() == 'x\\n'",
        "written = []\nf(written.append)\nassert written == ['x']",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_does_not_work_has_something_instead(case, pool):
    program, apart, instead = case
    for checks, holds in (apart, False), (instead, True):
        exec(f"{program}\n{checks}", {"__name__": "checks"})  # the control
        (found,) = pool.examine_all([(program, Checks(checks))])
        assert (found.outcome is Outcome.HELD) == holds, found
