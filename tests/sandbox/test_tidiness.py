"""Checks that share a process leave nothing in it, or are not called tidy.

That they would change others' verdicts otherwise is in escape/test_judging.py.
"""

import importlib
import operator
import os
from types import ModuleType
from typing import Any

import pytest

from evals.program import checks_of
from sandbox.tidiness import _ATTRIBUTES, _MODULES, is_tidy
from tests.evals.loaded import loaded

TIDY = [
    "assert f(1) == 2",
    "def check(g):\n    for x, y in [(1, 2), (3, 4)]:\n        assert g(x) == y, f'{x}'\ncheck(f)",
    "import math\nassert math.isclose(f(1), math.pi)",
    "from math import isclose as near\nassert near(f(1), 2)",
    "import random\nrandom.seed(1)\nassert f([random.randint(0, 9) for _ in range(9)])",
    "table = {}\ntable['x'] = f(1)\ntable.setdefault('y', []).append(2)\nassert sorted(table)",
    "try: f(-1)\nexcept ValueError as error: assert 'no' in str(error)\nelse: assert False",
    "assert type(f(1)) is int and type(f(2)) == type(3)",
    "assert sorted(f(1), key=lambda pair: -pair[1])[:2] == [*map(tuple, [[1, 2]])]",
    "import copy\nx = [1]\ny = copy.deepcopy(x)\nf(x)\nassert x != y",
    "if __name__ == 'checks': assert f(1)",
]
# Every name of that module is a builtin of the functions that follow.
REBINDING = "import operator as __builtins__\ndef reach(): return attrgetter"
UNTIDY = [
    # What a red team found to be called tidy when what is not was listed.
    "import numbers\nnumbers.Integral.register(str)",
    "import copy\ncopy.dispatch_table[set] = lambda s: (set, ([5],))",
    "import string\nstring.Formatter().get_field('0.__globals__', (f,), {})",
    "import dataclasses\ndataclasses.inspect.get_annotations(f, eval_str=True)",
    # Others of these kinds, and what reaches further.
    "from numbers import Integral\nregister = Integral.register\nregister(str)",
    "import math\nmath.isclose = lambda *_: True",
    "import math as m\ndel m.isclose",
    "import math\nfor math.isclose in [lambda *_: True]: pass",
    "__builtins__['abs'] = lambda _: 0",
    "import json.decoder",
    "from json import decoder",
    "from math import *",
    "from . import math",
    "import os",
    "import sys as math",
    "getattr(f, 'x')",
    "lookup = vars",
    "eval('1')",
    "'{0.__class__}'.format(f)",
    "form = str.format",
    "(lambda: 0).__globals__",
    "try: 1 / 0\nexcept Exception as e: e.__traceback__.tb_frame",
    "class Same:\n    def __eq__(self, other): return True",
    "Same = type('Same', (str,), {'__eq__': lambda *_: True})",
    "Same = type(int)('Same', (str,), {'__eq__': lambda *_: True})",
    "kind = [type][0]",
    "assert type(type(int)('Same', (str,), {})) is type",
    "assert type(*[int]) is type",
    "assert type(x := 3) is (kind := type)",
    "def later():\n    try: yield\n    finally:\n        while True: pass\nnext(later())",
    "import operator\noperator.attrgetter('x')",
    "import functools\nfunctools.lru_cache()",
    "async def later(): pass",
    "with f(1): pass",
    "match f(1):\n    case int(real=x): pass",
    "import random\nrandom.Random.random = 1",
    # What a second one found.
    REBINDING,
    "def __builtins__(): pass",
    "try: f(1)\nexcept ValueError as __builtins__: pass",
    "def g():\n    global __builtins__",
    "def (",
    "(" * 5000 + ")" * 5000,
    "x" + ".y" * 100_000,
]


@pytest.mark.parametrize("source", TIDY)
def test_checks_that_compute_and_compare_are_tidy(source):
    assert is_tidy(source, ("f",))


@pytest.mark.parametrize("source", UNTIDY, ids=lambda source: source[-60:])
def test_checks_that_might_reach_what_others_find_are_not(source):
    assert not is_tidy(source, ("f",))


def test_control_what_is_bound_as_builtins_gives_its_names_away():
    namespace: dict[str, Any] = {}
    exec(REBINDING, namespace)
    assert namespace["reach"]() is operator.attrgetter


def test_what_the_program_defines_is_not_looked_at():
    """A stub in the checks is blanked out; it would have had the name of an attribute patched."""
    assert is_tidy("class f: pass\nassert f(1) == 2", ("f",))
    assert not is_tidy("class g: pass\nassert f(1) == 2", ("f",))


@pytest.mark.parametrize("module", _MODULES)
def test_no_listed_name_leads_to_what_could_be_changed(module):
    """Whichever module it is asked of: which one a name in the checks stands for is not known."""
    held = vars(importlib.import_module(module))
    for name in _ATTRIBUTES & held.keys():
        kind = type(held[name])
        if issubclass(kind, ModuleType):
            assert held[name].__name__ in _MODULES, name
        else:
            assert kind not in (list, dict, set), name
    assert _MODULES[module] <= held.keys() | {"cbrt", "exp2"}  # which Python 3.11 brought


@pytest.mark.parametrize(
    ("name", "num_untidy"),
    [
        ("humaneval", 0),
        ("micro", 0),
        pytest.param(
            "mbpp@all",
            3,
            marks=pytest.mark.skipif(
                not os.environ.get("MTP_CODE_DATA"), reason="MBPP's data: MTP_CODE_DATA is not set"
            ),
        ),
    ],
)
def test_nearly_all_checks_of_benchmarks_are_tidy(name, num_untidy):
    given = map(checks_of, loaded(name).tasks)
    assert sum(not is_tidy(checks.source, checks.names) for checks in given) == num_untidy
