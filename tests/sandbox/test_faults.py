"""Errors of classes that the program defines, as checks catch and look at them."""

import pytest

from sandbox import Checks, Outcome, faults

PROGRAM = """
import decimal, json
class Base(Exception):
    LIMIT = 3
    def __init__(self, message, code=0):
        super().__init__(message)
        self.code = code
    @classmethod
    def named(cls): return cls.__name__
class Low(Base, ValueError): pass
class Missing(KeyError): pass
class Stop(StopIteration): pass
class Odd(BaseException): pass
class Parse(json.JSONDecodeError): pass
class Said(Exception):
    def __str__(self): return "said"
    def hint(self): return self.args[0] + 1
Alias = LookupError
def f(x):
    if x < 0: raise Low("low", code=x)
    if x == 0: raise Missing("zero")
    if x == 1: raise Stop(1)
    if x == 2: raise Odd(2)
    if x == 3: json.loads("{")
    if x == 4: raise Said(4)
    if x == 5: raise OSError(2, "no")
    if x == 6: return decimal.Decimal(1) / 0
    if x == 7: return [][1]
    return x
def catch(call, *given):
    try: return call(*given)
    except Base as error: return error.code
    except Missing: return "missing"
def let(call): return call()
def is_low(error): return type(error) is Low
"""

HONEST = {
    "except": "try: f(-3)\nexcept Low as error: assert str(error) == 'low' and error.code == -3\n"
    "else: assert False",
    "a base of the program's": "try: f(-3)\nexcept Base as error: assert type(error) is Low\n"
    "else: assert False",
    "a builtin base": "try: f(-3)\nexcept ValueError as error: assert isinstance(error, Base)\n"
    "else: assert False",
    "one of several": "try: f(0)\nexcept (Low, Missing) as error: assert error.args == ('zero',)\n"
    "else: assert False",
    "the nearest first": "try: f(-1)\nexcept Missing: assert False\nexcept Low: pass\n"
    "except ValueError: assert False",
    "a context manager of the checks'": """
class raises:
    def __init__(self, kind): self.kind = kind
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        assert kind is not None and issubclass(kind, self.kind)
        self.error = error
        return True
with raises(Low) as caught: f(-2)
assert caught.error.code == -2
with raises(Base): f(-1)
""",
    "unittest": "import unittest\ncase = unittest.TestCase()\n"
    "with case.assertRaises(Low) as caught: f(-1)\nassert caught.exception.code == -1\n"
    "case.assertRaisesRegex(Low, 'l.w', f, -1)",
    "contextlib.suppress": "import contextlib\nwith contextlib.suppress(Low): f(-1)\n"
    "assert f(9) == 9",
    "classes of each other": "assert issubclass(Low, Base) and issubclass(Low, ValueError)\n"
    "assert not issubclass(Base, Low) and not issubclass(Missing, Base) and Low.__name__ == 'Low'\n"
    "assert Low.LIMIT == 3 and Low.named() == 'Low' and Low.__mro__[1] is Base",
    "what no Exception is": "try: f(2)\nexcept Odd as error: assert str(error) == '2'\n"
    "else: assert False",
    "what ends an iteration": "try: f(1)\nexcept Stop: pass\nelse: assert False",
    "of a library": "import json\ntry: f(3)\nexcept json.JSONDecodeError as error: "
    "assert error.pos == 1 and 'property' in error.msg\nelse: assert False",
    "of a library, in C": "import decimal\ntry: f(6)\nexcept decimal.DivisionByZero: pass\n"
    "else: assert False",
    "text of its own": "try: f(4)\nexcept Said as error: assert str(error) == f'{error}' == 'said' "
    "and error.hint() == 5 and error.args == (4,)\nelse: assert False",
    "another name of a builtin class": "try: f(7)\nexcept Alias as error: "
    "assert type(error) is IndexError\nelse: assert False\nassert issubclass(KeyError, Alias)",
    "builtin ones": "try: f(5)\nexcept OSError as error: assert error.errno == 2\n"
    "else: assert False\ntry: f(7)\nexcept IndexError: pass\nelse: assert False",
    "made by the checks": "error = Low('x', 7)\nassert error.code == 7 and str(error) == 'x'\n"
    "assert isinstance(error, Low) and error.args == ('x',) and is_low(error)\n"
    "try: raise Low('y')\nexcept Base as again: assert str(again) == 'y'\n"
    "try: raise Missing\nexcept KeyError: pass",
    "raised by the checks, in a call": "def g(): raise Low('x', 7)\nassert catch(g) == 7\n"
    "try: let(g)\nexcept Low as error: assert error.code == 7\nelse: assert False",
    "raised by the program, through both": "assert catch(lambda: f(-4)) == -4\n"
    "try: let(lambda: f(0))\nexcept Missing: pass\nelse: assert False",
    "handed back": "try: f(-1)\nexcept Low as error: assert is_low(error)",
    "builtin ones, handed back": "def raised():\n    try: f(7)\n"
    "    except IndexError as error: return error\n"
    "assert not is_low(raised()) and is_low(Low('x'))",
    "a class of the checks' below one": "class Own(Low): pass\n"
    "try: raise Own('x', 2)\nexcept Base as error: assert isinstance(error, Own)\n"
    "assert Own.LIMIT == 3 and issubclass(Own, Low) and not isinstance(f(9), Own)\n"
    "class Lost(KeyError): pass\nassert hasattr(Low('a'), 'code')\n"
    "assert not hasattr(Lost('a'), 'code')\n"
    "try: f(-1)\nexcept Own: assert False\nexcept Low: pass",
    "that do not happen": "try: x = f(9)\nexcept Low: assert False\nassert x == 9",
    "of what is returned": "assert not isinstance(f(9), Low) and not isinstance(ValueError(), Low)",
}


@pytest.mark.parametrize("checks", HONEST.values(), ids=HONEST.keys())
def test_what_passes_in_one_process_passes(checks, pool):
    exec(f"{PROGRAM}\n{checks}", {"__name__": "checks"})  # the control
    (found,) = pool.examine_all([(PROGRAM, Checks(checks))])
    assert found.outcome is Outcome.HELD, found


def test_classes_that_checks_and_program_both_have_of_a_prompt_are_one(pool):
    prompt = """
from typing import NamedTuple
class Low(Exception):
    def __new__(cls, message, code): return super().__new__(cls, message)
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code
    def twice(self): return 2 * self.code
class Point(NamedTuple):
    x: int
    def up(self): return self.x + 1
"""
    program = """
def f(x):
    if x < 0: raise Low("low", code=x)
    return Point(x)
def g(call):
    try: return call()
    except Low as error: return error.args, error.code, type(error) is Low
"""
    checks = """
try: f(-3)
except Low as error: assert (error.code, error.twice(), str(error)) == (-3, -6, "low")
else: assert False
assert isinstance(f(2), Point) and f(2).up() == 3
def fail(): raise Low("no", 7)
assert g(fail) == (("no",), 7, True)
"""
    exec(f"{prompt}{program}{checks}", {"__name__": "checks"})  # the control
    (found,) = pool.examine_all([(prompt + program, Checks(prompt + checks, ("f", "g")))])
    assert found.outcome is Outcome.HELD, found
    wrong = program.replace("if x < 0", "if x < -3")
    (found,) = pool.examine_all([(prompt + wrong, Checks(prompt + checks, ("f", "g")))])
    assert found.outcome is Outcome.FAILED, found


@pytest.mark.parametrize(
    "checks",
    [
        "try: f(-1)\nexcept Missing: pass",
        "try: f(-1)\nexcept Low as error: assert error.code == 1",
        "try: f(9)\nexcept Low: pass\nelse: assert False",
        "try: assert f(9) == 8\nexcept (Low, Base, Missing, Stop, Odd, Said, Alias): pass",
        "f(-1)",
    ],
)
def test_wrong_programs_fail(checks, pool):
    (found,) = pool.examine_all([(PROGRAM, Checks(checks))])
    assert found.outcome in (Outcome.FAILED, Outcome.RAISED), found


def test_errors_raised_in_a_row_are_let_go(pool):
    """Each holds what its frames did: together they would be too much."""
    program = """
class E(Exception): pass
def f(x):
    large = bytearray(4 << 20)
    raise E(x)
"""
    checks = "for n in range(300):\n    try: f(n)\n    except E as error: assert error.args == (n,)"
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.HELD, found


def test_classes_are_bounded(pool):
    program = f"""
def f(x):
    raise type(f"E{{x}}", (ValueError,), {{}})(x)
LIMIT = {faults.MAX_CLASSES}
"""
    checks = """
for n in range(3 * LIMIT):
    try: f(n)
    except ValueError as error: assert error.args == (n,)
"""
    (found,) = pool.examine_all([(program, Checks(checks))])
    assert found.outcome is Outcome.HELD, found
