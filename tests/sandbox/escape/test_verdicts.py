"""Programs that want to pass without doing what their checks ask."""

import json

import pytest

from sandbox import Checks, Ending, Limits, Outcome, Pool
from sandbox.jobs import _finding
from tests.sandbox.escape.conftest import run_outside

CHECKS = """
def check(function):
    assert function(2) == 4
    assert function(3) == 9
check(square)
"""

# Each passes when its checks run after it in the same process; the control makes sure of that.
FORGERIES = {
    "equals everything": """
class Same:
    def __eq__(self, other): return True
def square(x): return Same()
""",
    "an int that equals everything": """
class Same(int):
    def __eq__(self, other): return True
def square(x): return Same(0)
""",
    "a str that equals everything": """
class Same(str):
    __eq__ = lambda self, other: True
    __hash__ = str.__hash__
def square(x): return Same("4")
""",
    "exits at once": "import sys\nsys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "exits when called": "def square(x): raise SystemExit(0)",
    "leaves when called": "import os\ndef square(x): os._exit(0)",
    "exits in a thread": """
import os, threading
def square(x):
    threading.Thread(target=os._exit, args=(0,)).start()
    threading.Event().wait(5)
""",
    "leaves at exit": """
import atexit, os
atexit.register(os._exit, 0)
def square(x): return None
""",
    "leaves from the hook for errors": """
import os, sys
sys.excepthook = lambda *_: os._exit(0)
def square(x): return None
""",
    "reads the answer off its caller": """
import sys
def square(x):
    constants = [c for c in sys._getframe(1).f_code.co_consts if isinstance(c, int)]
    return constants[constants.index(x) + 1]
""",
    "traces its caller": """
import sys
def leave(frame, event, argument):
    raise SystemExit(0)
def square(x):
    sys._getframe(1).f_trace = leave
    sys.settrace(leave)
""",
    "exits once it knows its caller": """
import sys
def square(x):
    frame = sys._getframe(1)
    sys.exit(0) if frame.f_code.co_name == "check" else None
""",
    "profiles its caller": """
import os, sys
def leave(frame, event, argument):
    if event == "return" and frame.f_code.co_name == "check": os._exit(0)
def square(x): sys.setprofile(leave)
""",
    "listens for its failure": """
import os, sys
sys.addaudithook(lambda event, _: os._exit(0) if event == "sys.excepthook" else None)
def square(x): return None
""",
    "leaves when it is forgotten": """
import os
class Last:
    def __del__(self, leave=os._exit): leave(0)
last = Last()
def square(x): return None
""",
    "leaves by a signal": """
import os, signal
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.1)
def square(x):
    while True: pass
""",
    "becomes another program": """
import os, sys
def square(x): os.execv(sys.executable, [sys.executable, "-c", ""])
""",
    "puts itself in its caller's place": """
import sys
def square(x):
    for frame in (sys._getframe(1), sys._getframe(2)):
        frame.f_globals["check"] = frame.f_globals["square"] = lambda *_: None
    raise SystemExit
""",
    "a tuple that equals everything": """
class Same(tuple):
    __eq__ = lambda self, other: True
    __hash__ = tuple.__hash__
def square(x): return Same()
""",
    "a number that equals what it is compared with": """
import numbers
class Same(numbers.Number):
    def __eq__(self, other): return type(other) is int
    __hash__ = None
def square(x): return Same()
""",
    "equal from the right only": """
class Same(int):
    def __eq__(self, other): return NotImplemented if type(other) is Same else True
    __req__ = __eq__
    __hash__ = int.__hash__
def square(x): return Same()
""",
}

# As above, with what their checks use beside the program.
PATCHES = {
    "abs": ("import builtins; builtins.abs = lambda _: 0", "assert abs(f(2) - 4) < 1e-6"),
    "len": ("import builtins; builtins.len = lambda _: 3", "assert len(f(2)) == 3"),
    "all": ("import builtins; builtins.all = lambda _: True", "assert all(x > 0 for x in f(2))"),
    "sorted": ("import builtins; builtins.sorted = lambda _: [1]", "assert sorted(f(2)) == [1]"),
    "isinstance": (
        "import builtins; builtins.isinstance = lambda *_: True",
        "assert isinstance(f(2), int)",
    ),
    "zip": (
        "import builtins; builtins.zip = lambda *_: ()",
        "for x, y in zip(f(2), [1]): assert x == y",
    ),
    "range": (
        "import builtins; builtins.range = lambda *_: ()",
        "for i in range(3): assert f(i) == i",
    ),
    "math": (
        "import math; math.isclose = lambda *_: True",
        "import math; assert math.isclose(f(2), 4)",
    ),
    "json": (
        "import json; json.dumps = lambda *_: 'same'",
        "import json; assert json.dumps(f(2)) == json.dumps([4])",
    ),
    "struct": (
        "import struct; struct.pack = lambda *_: b'same'",
        "import struct; assert struct.pack('I', f(2)) == struct.pack('I', 4)",
    ),
    "copy": (
        "import copy; copy.deepcopy = lambda _: []",
        "import copy; cases = copy.deepcopy([(2, 4)])\nfor x, y in cases: assert f(x) == y",
    ),
    "random": (
        "import random; random.randint = lambda *_: 0",
        "import random; x = random.randint(1, 9); assert f(x) == x * x",
    ),
    "unittest": (
        "import unittest; unittest.TestCase.assertEqual = lambda *_: None",
        "import unittest; unittest.TestCase().assertEqual(f(2), 4)",
    ),
    "a module in its place": (
        "import sys, types; sys.modules['math'] = types.SimpleNamespace(isclose=lambda *_: True)",
        "import math; assert math.isclose(f(2), 4)",
    ),
    "the import system": (
        "import builtins, types; builtins.__import__ = lambda *_: "
        "types.SimpleNamespace(isclose=lambda *_: True)",
        "import math; assert math.isclose(f(2), 4)",
    ),
    "the classes' builder": (
        "import builtins; builtins.__build_class__ = lambda *_: lambda: None",
        "class Case:\n    def __init__(self): assert f(2) == 4\nCase()",
    ),
    "the cases, by their frame": (
        "import sys\ndef f(x): sys._getframe(1).f_globals['cases'].clear()",
        "cases = {2: 4}\nfor x in [2]:\n    answer = f(x)\n    assert answer == cases.get(x)",
    ),
    "the cases, by the collector": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        if type(o) is list and o[1:] == [['two', 4]]: o[1][1] = None",
        "cases = [[], ['two', 4]]\nassert f(2) == cases[1][1]",
    ),
}


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forgery_that_passes_beside_its_checks_does_not_pass(program, examine):
    control = run_outside(f"{program}\n{CHECKS}")
    assert control[0] == 0, control
    assert examine(program, CHECKS).outcome is not Outcome.HELD


@pytest.mark.parametrize("name", PATCHES)
def test_what_a_program_patches_is_not_what_its_checks_use(name, examine):
    patch, checks = PATCHES[name]
    if "def f" not in patch:
        # An answer that no check of these wants.
        answer = "[[0]] * 2" if name in ("all", "isinstance", "len", "zip") else "0"
        patch = f"{patch}\ndef f(x): return {answer}"
    control = run_outside(f"{patch}\n{checks}")
    assert control[0] == 0, control
    assert examine(patch, checks).outcome is not Outcome.HELD


# A check that computes with an answer, as HumanEval/32 does.
ROOT_CHECKS = """
import math
def value(coefficients, x): return sum(c * math.pow(x, i) for i, c in enumerate(coefficients))
for coefficients in ([1.0, 2.0], [-6.0, 11.0, -6.0, 1.0]):
    assert abs(value(coefficients, find_zero(coefficients))) < 1e-4
"""


@pytest.mark.parametrize("conversion", ["__float__", "__index__", "__int__"])
def test_an_object_is_not_another_number_each_time(conversion, outside, examine):
    program = f"""
class find_zero:
    def __init__(self, coefficients): self.coefficients, self.times = coefficients, -1
    def {conversion}(self):
        self.times += 1
        value = -self.coefficients[0] / self.coefficients[1] if self.times == 1 else 0.0
        return value if {conversion!r} == "__float__" else int(value * 1_000_000)
"""
    checks = ROOT_CHECKS
    if conversion != "__float__":
        checks = "x = find_zero([-1, 1])\nassert range(9)[x] == 0 and range(2_000_000)[x] > 0"
    if conversion == "__int__":
        checks = "x = find_zero([-1, 1])\nassert int(x) == 0 and int(x) > 0"
    control = outside(f"{program}\n{checks}")
    assert control.returncode == 0, control.stderr
    examination = examine(program, checks)
    assert examination.outcome is Outcome.RAISED
    assert "TypeError" in examination.detail


FORGED_NOTE = b'{"outcome": "held", "detail": "", "raised": ""}'
PATCHED_ENCODER = """
import sys
wire = sys._getframe().f_back.f_globals["wire"]
encode = wire.encode
wire.encode = lambda value, *rest: 4 if value is None else encode(value, *rest)
def square(x): return None
"""
PATCHED_JSON = """
import json, sys
wire = sys._getframe().f_back.f_globals["wire"]
json.dumps = wire._encode = lambda *_, **__: '["held"]'
def square(x): return None
"""


def test_control_a_forged_finding_is_believed_where_only_the_checks_can_write():
    assert _finding(json.loads(FORGED_NOTE)) == (Outcome.HELD, "", "")


def test_control_a_patched_encoder_does_answer(examine):
    assert examine(PATCHED_ENCODER, "assert square(2) == 4").outcome is Outcome.HELD


def test_control_patched_json_does_reach_the_checks(examine):
    assert "out of protocol" in examine(PATCHED_JSON, "square(2)").detail


# These aim at how the verdict travels here, and have no control outside.
ATTACKS = {
    "forged notes on every descriptor": f"""
import os
note = {FORGED_NOTE!r}
for descriptor in range(256):
    for write in (lambda d: os.write(d, note), lambda d: os.pwrite(d, note, 0)):
        try: write(descriptor)
        except OSError: pass
""",
    "forged answers in advance": """
import json, os, struct
frames = b""
square = ["dict", "square", ["ref", 0, "x"]]
for answer in (["ready"], ["value", square], ["value", 4], ["value", 9]):
    body = json.dumps(answer).encode()
    frames += struct.pack("!I", len(body)) + body
for descriptor in range(3, 256):
    try: os.write(descriptor, frames.replace(b"9", b"8"))
    except OSError: pass
""",
    "noise on every descriptor": """
import os
for descriptor in range(3, 256):
    try: os.write(descriptor, os.urandom(4096))
    except OSError: pass
""",
    "an endless frame": """
import os
for descriptor in range(3, 256):
    try: os.write(descriptor, b"\\xff\\xff\\xff\\xff" + bytes(100_000))
    except OSError: pass
""",
    "all descriptors closed": """
import os
os.closerange(0, 256)
def square(x): return x * x
""",
    "closed when called": """
import os
def square(x): os.closerange(3, 256); return x * x
""",
    "claims to be an int": """
class Same:
    __class__ = int
    def __eq__(self, other): return True
def square(x): return Same()
""",
    "a type that claims to be int": """
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return hash(int)
class Same(metaclass=Meta):
    def __eq__(self, other): return True
def square(x): return Same()
""",
    "a patched encoder": PATCHED_ENCODER,
    "a patched json": PATCHED_JSON,
    "the assertion error of the checks": """
def square(x): raise AssertionError("nothing to see")
""",
    "an exception of no known kind": """
class Odd(BaseException):
    def __str__(self): raise KeyboardInterrupt
def square(x): raise Odd
""",
    "StopIteration": "def square(x): raise StopIteration",
    "GeneratorExit": "def square(x): raise GeneratorExit",
    "an error that is called StopIteration": """
class StopIteration(Exception): pass
def square(x): raise StopIteration
""",
    "an error that is called SystemExit": """
class SystemExit(Exception): pass
class KeyboardInterrupt(SystemExit): pass
def square(x): raise KeyboardInterrupt(0)
""",
    "a group of errors": """
def square(x): raise BaseExceptionGroup("", [SystemExit(0), GeneratorExit()])
""",
    "an answer that unpacks itself": """
class Packed:
    def __reduce__(self): return exec, ("import os; os._exit(0)",)
    __getstate__ = __reduce__
def square(x): return Packed()
""",
    "no number": "def square(x): return float('nan')",
    "a number that signals": """
from decimal import Decimal
def square(x): return Decimal("sNaN")
""",
    "names that nobody asked for": """
import sys
wire = sys._getframe().f_back.f_globals["wire"]
encode = wire.encode
def more(value, *rest):
    if type(value) is dict and "square" in value:
        value = {**value, "check": print, "__builtins__": {}, "AssertionError": 0}
    return encode(value, *rest)
wire.encode = more
def square(x): return None
""",
    "half an answer": """
import os
for descriptor in range(3, 10):
    try: os.write(descriptor, bytes([0, 0, 1, 0]) + b'["value"')
    except OSError: pass
os._exit(0)
""",
    "an answer of nothing": """
import os
for descriptor in range(3, 10):
    try: os.write(descriptor, bytes(4096))
    except OSError: pass
def square(x): return None
""",
    "its own answers, told from elsewhere": """
import os, socket
ours, theirs = socket.socketpair()
for descriptor in range(3, 10): os.dup2(theirs.fileno(), descriptor)
def square(x): return None
""",
    "answers for every mode, written by hand": """
import json, os, struct
frames = b""
names = ["dict", "square", ["ref", 0, "x"]]
for answer in (["ready"], ["value", names], ["value", 4], ["value", 8]):
    body = json.dumps(answer).encode()
    frames += struct.pack("!I", len(body)) + body
for descriptor in range(3, 10):
    for write in (lambda: os.pwrite(descriptor, frames, 0), lambda: os.write(descriptor, frames)):
        try: write()
        except OSError: pass
os._exit(0)
""",
    "less and less": """
import resource
def square(x):
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    return None
""",
    "a stolen name of the checks": """
def check(function): return None
def square(x): return None
import builtins
builtins.check = check
""",
    "an endless answer": """
def square(x):
    while True: yield x
""",
    "an answer without bottom": """
def square(x):
    answer = []
    answer.append(answer)
    return answer
""",
    "an answer too large": "def square(x): return 'x' * (9 << 20)",
    "many threads that answer": """
import os, threading
def noise():
    while True:
        for descriptor in range(3, 8):
            try: os.write(descriptor, b'\\0\\0\\0\\x0b["value",4]')
            except OSError: pass
for _ in range(4): threading.Thread(target=noise, daemon=True).start()
def square(x): return None
""",
}


# These would like the checks to be thought broken, which ends the judging of everybody.
SABOTAGE = {
    "a number": "square = 4",
    "nothing": "square = None",
    "a class": "class square: pass",
    "an error with a long name": "def square(x): raise type('E' * 1_000_000, (Exception,), {})",
    "an error with a long text": "def square(x): raise ValueError('\\U0001f600' * 1_000_000)",
    "a deep answer": """
def square(x):
    answer = x
    for _ in range(99): answer = [answer]
    return answer
""",
    "an answer that fills the memory": "def square(x): return [[]] * 2_700_000",
    "a value that fills the memory": "square = [[]] * 2_700_000",
    "an answer that takes long": """
from decimal import Decimal
def square(x): return Decimal("1e999999")
""",
    "a frame too many": """
import os
def square(x):
    for descriptor in range(3, 9):
        try: os.pwrite(descriptor, b"\\0\\0\\0\\x02[]", 0)
        except OSError:
            try: os.write(descriptor, b"\\0\\0\\0\\x02[]")
            except OSError: pass
    return 4
""",
}


@pytest.mark.parametrize("program", SABOTAGE.values(), ids=SABOTAGE.keys())
def test_no_program_makes_its_checks_look_broken(program, examine):
    ways = (CHECKS, "assert square([square(2)]) == 4", "assert int(square(2)) == 4")
    takes_seconds = "2_700_000" in program
    for checks in ways[:1] if takes_seconds else ways:
        outcome = examine(program, checks).outcome
        assert outcome not in (Outcome.CHECKS_BROKEN, Outcome.HELD)


@pytest.mark.parametrize("value", ["Decimal(4)", "Fraction(4)", "date(4, 4, 4)", "deque([4])"])
def test_no_type_of_an_answer_makes_its_checks_look_broken(value, examine):
    program = f"""
from collections import deque
from datetime import date
from decimal import Decimal
from fractions import Fraction
def square(x): return {value}
"""
    outcome = examine(program, "assert square(type(square(2))) == 4").outcome
    assert outcome is not Outcome.CHECKS_BROKEN  # and some of these do equal four


@pytest.mark.parametrize("program", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_on_the_verdict_does_not_pass(program, pool):
    right, wrong = "def square(x): return x * x", "def square(x): return x"
    pairs = [(each, Checks(CHECKS)) for each in (program, right, wrong, right, wrong)]
    attack, *following = (examination.outcome for examination in pool.examine_all(pairs))
    assert attack is not Outcome.HELD
    # What it did has no effect on the next.
    assert following == [Outcome.HELD, Outcome.FAILED] * 2


def test_what_is_expected_is_nowhere_in_the_programs_memory(examine):
    program = """
import gc, sys
def everything():
    frames, frame = [], sys._getframe()
    while frame: frames.append((frame.f_locals, frame.f_globals)); frame = frame.f_back
    return repr(frames) + repr([o for o in gc.get_objects() if isinstance(o, (list, dict, tuple))])
def ask(): return "needle" if "ylniatrec" [::-1] + "-expected" in everything() else ""
"""
    held = f"{program}\nhaystack = 'certainly-expected'"
    control = examine(held, "assert ask() == 'needle'")
    assert control.outcome is Outcome.HELD, control.detail
    examination = examine(program, "assert ask() == ''\nunused = 'certainly-expected'")
    assert examination.outcome is Outcome.HELD, examination.detail


@pytest.mark.parametrize(
    "checks",
    [
        "assert answer() - 4 == 0",
        "assert abs(answer() - 4) < 1",
        "assert answer() < 5",
        "assert answer() >= 4",
        "assert 4 in answer()",
        "assert answer() in [4]",
        "assert answer() in {4: 1}",
        "assert not answer() != 4",
        "assert [answer()] == [4]",
        "assert {'x': answer()} == {'x': 4}",
        "import math\nassert math.isclose(answer(), 4)",
        "assert int(answer()) == 4",
        "assert round(answer()) == 4",
        "assert divmod(9, answer())[0] == 2",
        "assert answer() is None or answer() == 4",
        "assert isinstance(answer(), int)",
        "assert type(answer()) is int",
    ],
)
def test_an_obliging_object_meets_no_expectation(checks, examine):
    program = """
class Obliging:
    def __getattr__(self, name): return self
    def __sub__(self, other): return 0
    __rsub__ = __sub__
    def __abs__(self): return 0
    def __hash__(self): return hash(4)
    def __float__(self): return 4.0
    __int__ = __index__ = __round__ = lambda self, *_: 4
    __rdivmod__ = lambda self, other: (2, 1)
    def __iter__(self): return iter([])
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda self, other: True
    def __ne__(self, other): return False
def answer(): return Obliging()
"""
    assert examine(program, checks).outcome is not Outcome.HELD


@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
@pytest.mark.parametrize(
    "asked",
    ["all(map(f, [1, 2]))", "all(map(len, [g]))", "all(map(bool, [g]))", "all(map(iter, [g]))"],
)
def test_an_error_from_the_program_does_not_end_the_checks_iteration(error, asked, examine):
    program = f"""
def f(*_): raise {error}
class G: __len__ = __bool__ = __iter__ = f
g = G()
"""
    assert examine(program, f"assert {asked}").outcome is Outcome.RAISED


def test_checks_that_swallow_everything_do_not_hold_for_a_program_that_is_gone(examine):
    checks = """
for _ in range(3):
    try: assert f(1) == 1
    except BaseException: pass
"""
    assert examine("import os\ndef f(x): os._exit(0)", checks).outcome is Outcome.ENDED
    cut_off = examine("import os\ndef f(x): os.closerange(0, 99)", checks)
    assert cut_off.outcome in (Outcome.ENDED, Outcome.RAISED)


def test_an_endless_answer_is_timed_out_not_stopped():
    checks = Checks("assert list(f()) == [1]")
    with Pool(Limits(cpu_s=0.3, wall_s=20), 1) as pool:
        program = "def f():\n    while True: yield 1"
        examination = next(pool.examine_all([(program, checks)]))
    assert examination.outcome is Outcome.ENDED
    assert examination.execution.ending in (Ending.TIMED_OUT_CPU, Ending.OUT_OF_MEMORY)
