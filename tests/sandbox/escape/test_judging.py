"""Programs, and checks, that want to reach a verdict by the way it comes about.

test_verdicts.py has those that aim at the checks; these aim at calls that are known beforehand,
at desks that judge one program after another, and at whoever reads an answer.
"""

import time

import pytest

from sandbox import Checks, Limits, Outcome, Pool, call
from tests.sandbox.escape.conftest import LIMITS, run_outside
from tests.sandbox.escape.memory import SEARCH_MEMORY
from tests.sandbox.escape.test_verdicts import CHECKS, FORGERIES

RIGHT, WRONG = "def square(x): return x * x", "def square(x): return x"

# The arguments of one call are what another one is to answer.
PAIR = """
assert encode("plain text") == "code:7261"
assert decode("code:7261") == "plain text"
"""
LOOK_AHEAD = f"""{SEARCH_MEMORY}
import re
def seen():
    # Whatever begins as an answer of encode() would: in memory, then in files.
    texts = [ctypes.string_at(at, 9) for at in search(b":edoc")]
    for descriptor in range(3, 256):
        try: texts += re.findall(b"(?:code):....", os.pread(descriptor, 1 << 20, 0))
        except OSError: pass
    return [text.decode() for text in texts if text[5:].isdigit()]
def encode(text): return (seen() or ["nothing"])[0]
def decode(code): return "plain text"
"""


def test_no_program_sees_what_it_will_be_asked_later(examine):
    in_sight = examine(LOOK_AHEAD + "held = b'code:7261'", PAIR)
    assert in_sight.outcome is Outcome.HELD, in_sight  # the control: it finds what is there
    examination = examine(LOOK_AHEAD, PAIR)
    assert examination.outcome is Outcome.FAILED, examination
    assert "nothing" in examination.detail


@pytest.mark.parametrize(
    "checks",
    [
        "cases = [(6, 9), (9, 16)]\nfor x, y in cases: assert f(x) == y",
        "assert f(6) == 9\nassert f(x=9) == 16",
        "assert f(6) == 9\nassert f([9]) == [16]",
        "assert [f(6), f(9)] == [9, 16]",
        "first = f(6)\nassert f(9) == 16\nassert first == 9",
        "assert abs(f(6) - 9) < 1\nassert f(9) == 16",
    ],
)
def test_what_is_expected_is_not_asked_in_advance(checks, examine):
    """As above, for a program that reads its requests as they lie there."""
    program = r"""
import os, re
def f(x):
    later = []
    for descriptor in range(3, 256):
        try: content = os.pread(descriptor, 1 << 20, 0)
        except OSError: continue
        asked = re.findall(rb'"call",0,\["tuple",(?:\["list",)?(\d+)', content)
        later += [int(number) for number in asked if number != b"6"]
    return (later or [None])[0] if x == 6 else [16] if type(x) is list else 16
"""
    assert examine(program, checks).outcome is not Outcome.HELD


READ_CALLS = """
import json, os, struct
def calls():
    for descriptor in range(3, 64):
        try: content = os.pread(descriptor, 1 << 20, 0)
        except OSError: continue
        found = []
        try:
            while content:
                (size,) = struct.unpack_from("!I", content)
                found.append(json.loads(content[4 : 4 + size]))
                content = content[4 + size :]
        except (ValueError, struct.error): continue
        if found and found[0][0] == "names": return [each[2][1] for each in found[1:]]
    return []
"""
# Programs that answer with what later calls are asked with, and their checks.
READERS = {
    "join": (
        "n = 4\ndef encode(c):\n    global n\n    n += 1\n    return C[n % 10]\ndecode = encode",
        "assert ''.join([encode(c) for c in 'hello']) == 'svool'\n"
        "assert ''.join([decode(c) for c in 'svool']) == 'hello'",
        [*"hellosvool"],
    ),
    "another order": (
        "def count(s): return dict(zip(C[1][1::2], C[1][2::2]))\n"
        "def total(d): return sum(d.values())",
        "assert count('abbc') == {'a': 1, 'b': 2, 'c': 1}\n"
        "assert total({'b': 2, 'a': 1, 'c': 1}) == 4",
        ["abbc", ["dict", "b", 2, "a", 1, "c", 1]],
    ),
    "json": (
        "def parse(s): return C[1][1:]\ndef unparse(v): return C[0]",
        "import json\nassert json.dumps(parse('9;16')) == '[9, 16]'\n"
        "assert unparse([9, 16]) == '9;16'",
        ["9;16", ["list", 9, 16]],
    ),
    "str": (
        "def parse(s): return C[1][1:]\ndef unparse(v): return C[0]",
        "assert str(parse('9;16')) == '[9, 16]'\nassert unparse([9, 16]) == '9;16'",
        ["9;16", ["list", 9, 16]],
    ),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_no_program_reads_its_answers_off_later_calls(reader, examine):
    program, checks, asked = reader
    control = examine(f"C = {asked!r}\n{program}", checks)
    assert control.outcome is Outcome.HELD, control
    assert examine(f"{READ_CALLS}\nC = calls()\n{program}", checks).outcome is Outcome.RAISED
    # And it does read what there is to be read.
    harmless = "".join(f"{line}\n" for line in ("assert f(5) == [6, 7]", "assert f(8) == [9]"))
    seen = examine(f"{READ_CALLS}\nC = calls()\ndef f(x): return C", harmless)
    assert "gave [5, 8]" in seen.detail, seen


def test_a_call_that_waits_for_answers_is_not_there_before_they_are_in(examine):
    """What is sent at once is seen before it is asked; what has its turn later is not, neither in
    the stream, however long one waits, nor in what was read of it."""
    program = r"""
import gc, os, re, socket, time
def f(x):
    if x != 6: return x
    time.sleep(0.2)
    seen = b"".join(vars(each).get("_ahead", b"") for each in gc.get_objects()
                    if type(each).__name__ == "ReadAhead")
    for descriptor in range(3, 64):
        try: stream = socket.socket(fileno=os.dup(descriptor))
        except OSError: continue
        try: seen += stream.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError: pass
    return [int(number) for number in re.findall(rb'"call",0,\["tuple",(\d+)', seen)]
"""
    checks = "assert f(6) == 9\nassert f(5) == 5\nassert f(9) == 9\nassert f(7) == 7"
    examination = examine(program, checks)
    assert examination.outcome is Outcome.FAILED
    assert examination.detail.endswith("(6) gave [5]"), examination


SCRIBBLE = f"""{SEARCH_MEMORY}
# read(2) into a page that cannot be written fails instead of ending the program.
libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
read, write = os.pipe()
for before, after in ((b"erauqs fed", b"def sqXare"), (b"dleh", b"HELD"), (b"eslaf", b"truee")):
    for at in search(before):
        os.write(write, after)
        if libc.read(read, at, len(after)) < 0: os.read(read, len(after))
def square(x): return None
"""


def test_what_a_sample_writes_all_over_its_memory_reaches_nobody(pool):
    pairs = [(each, Checks(CHECKS)) for each in (SCRIBBLE, RIGHT, WRONG) * 3]
    outcomes = [examination.outcome for examination in pool.examine_all(pairs)]
    assert Outcome.HELD not in outcomes[::3]
    assert outcomes[1::3] == [Outcome.HELD] * 3
    assert outcomes[2::3] == [Outcome.FAILED] * 3


def test_no_sample_learns_how_those_before_it_answered(pool):
    look = """
import os, stat
kinds = []
for descriptor in range(256):
    try: kinds.append(stat.S_IFMT(os.fstat(descriptor).st_mode))
    except OSError: pass
print(kinds)
def f(x): return x
"""
    raises = "def f(x): raise ValueError"
    checks = Checks("try: f(1)\nexcept ValueError: pass\nassert f(2) == 2")
    first, _, last = pool.examine_all([(look, checks), (raises, checks), (look, checks)])
    assert first.execution.output_tail == last.execution.output_tail


def test_a_program_that_is_run_again_gets_no_second_chance(pool):
    # The first run sees all calls, and gives up; the second would know, if anything were left.
    program = """
import os
try: seen = open("/tmp/seen").read()
except OSError: seen = ""
def f(x):
    with open("/tmp/seen", "a") as file: file.write(f"{x} ")
    if not seen: raise ValueError
    return 9
"""
    checks = Checks("try: assert f(6) == 9\nexcept ValueError: assert f(9) == 9")
    outcomes = [each.outcome for each in pool.examine_all([(program, checks)] * 4)]
    assert Outcome.HELD not in outcomes


# What checks leave behind, and others whose verdict that would change. A file of checks may come
# from anybody, but a task's checks judge that task only.
MESSES_OF_CHECKS = {
    "math": (
        "import math; math.isclose = lambda *_: True",
        "import math; assert math.isclose(f(1), 5)",
    ),
    "json": (
        "import json; json.dumps = lambda *_: '5'",
        "import json; assert json.dumps(f(1)) == '5'",
    ),
    "builtins": ("import builtins; builtins.abs = lambda _: 0", "assert abs(f(1) - 5) < 1"),
    "operators": (
        "import operator; operator.eq = lambda *_: True",
        "import operator; assert operator.eq(f(1), 5)",
    ),
    "a class": (
        "import unittest; unittest.TestCase.assertEqual = lambda *_: None",
        "import unittest; unittest.TestCase().assertEqual(f(1), 5)",
    ),
    "a class of the standard library": (
        "import fractions; fractions.Fraction.__eq__ = lambda *_: True",
        "from fractions import Fraction; assert Fraction(f(1)) == 5",
    ),
    "a name of a module": (
        "import decimal; decimal.Decimal = lambda _: 5",
        "from decimal import Decimal; assert Decimal(f(1)) == 5",
    ),
    "a context": (
        "import decimal; decimal.getcontext().prec = 1",
        "from decimal import Decimal; assert Decimal(f(1)) + Decimal('0.04') == 1",
    ),
    "modules": (
        "import sys, types; sys.modules['statistics'] = types.SimpleNamespace(mean=lambda _: 5)",
        "import statistics; assert statistics.mean([f(1)]) == 5",
    ),
    "the sandbox's own": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    if 'wire' in frame.f_globals: frame.f_globals['wire'].decode = lambda *_: 5\n"
        "    frame = frame.f_back",
        "assert f(1) == 5",
    ),
    "a kind of number": (
        "import numbers; numbers.Integral.register(str)",
        "import numbers; assert isinstance(str(f(1)), numbers.Integral)",
    ),
    "how copies are made": (
        "import copy; copy.dispatch_table[set] = lambda s: (set, ([5],))",
        "import copy; assert copy.deepcopy({f(1)}) == {5}",
    ),
    "any code, by what text names": (
        "import string\n"
        "run, _ = string.Formatter().get_field('0.__builtins__[exec]', (lambda: 0,), {})\n"
        "run('import math; math.hypot = lambda *_: 5')",
        "import math; assert math.hypot(f(1)) == 5",
    ),
    "any code, by annotations": (
        "import dataclasses\n"
        "def g(x: \"__import__('math').__dict__.update(fsum=lambda _: 5)\"): pass\n"
        "dataclasses.inspect.get_annotations(g, eval_str=True)",
        "import math; assert math.fsum([f(1)]) == 5",
    ),
}


@pytest.mark.parametrize("name", ["math", *[*MESSES_OF_CHECKS][-4:]])
def test_control_checks_that_are_believed_to_be_tidy_change_what_others_find(name):
    mess, wrong = MESSES_OF_CHECKS[name]
    messy = Checks(f"assert f(1) == 1\n{mess}", are_live=True, are_tidy=True)
    with Pool(LIMITS, 1) as pool:  # whose desk is not used again
        pairs = [("def f(x): return x", each) for each in (messy, Checks(wrong, are_tidy=True))]
        assert [each.outcome for each in pool.examine_all(pairs)] == [Outcome.HELD] * 2


@pytest.mark.parametrize("name", MESSES_OF_CHECKS)
def test_no_checks_change_what_others_find(name, alone):
    mess, wrong = MESSES_OF_CHECKS[name]
    program = "def f(x): return x"
    sources = (f"assert f(1) == 1\n{mess}", f"{mess}\nassert f(1) == 1", wrong, "assert f(1) == 1")
    outcomes = [e.outcome for e in alone.examine_all([(program, Checks(each)) for each in sources])]
    assert outcomes[2:] == [Outcome.FAILED, Outcome.HELD]


# Checks that take their desk over, and answer in its place whatever it is asked after them.
SPEAK_FOR_THE_DESK = """
import signal, sys
frame = sys._getframe()
while frame.f_code.co_name != "serve": frame = frame.f_back
send, receive = frame.f_globals["send"], frame.f_globals["receive"]
control, order = frame.f_locals["control"], frame.f_locals["order"]
signal.setitimer(signal.ITIMER_PROF, 0)
while order is not None and order.content["do"] != "record":
    held = {"outcome": "held", "detail": "", "raised": "", "spoilt": False, "last": False}
    send(control, {**held, "order": order.content["order"]})
    order = receive(control)
"""


def test_no_checks_have_themselves_looked_at_for_ever(alone):
    hostile = """
import sys
frame = sys._getframe()
while frame.f_code.co_name != "serve": frame = frame.f_back
order = frame.f_locals["order"].content
said = {"tidy": False, "recorded": False, "order": order["order"]}
if order["do"] == "record": frame.f_globals["send"](frame.f_locals["control"], said)
assert f(1) == 1
"""
    (examination,) = alone.examine_all([("def f(x): return x", Checks(hostile))])
    assert examination.outcome is Outcome.HELD


@pytest.mark.parametrize("are_tidy", [False, True])
def test_no_checks_speak_for_their_desk_when_it_is_asked_of_others(are_tidy, alone):
    """The control has them at the others' desk, since they say that they are tidy."""
    right, wrong = "def f(x): return x", "def f(x): return -7"
    hostile = Checks(f"f(1)\n{SPEAK_FOR_THE_DESK}", are_tidy=are_tidy)
    others = Checks("assert f(1) == 1"), Checks("assert f(2) == 2")
    given = [(wrong, others[0]), (right, hostile), (wrong, others[0]), (wrong, others[1])]
    first, _, *following = (each.outcome for each in alone.examine_all(given))
    assert first is Outcome.FAILED
    expected = Outcome.HELD if are_tidy else Outcome.FAILED
    assert following == [expected] * 2


@pytest.mark.parametrize(
    "mess",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import os\nos.closerange(0, 99)",
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)",
        "import sys\nsys.stdin.read()",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        "import threading, time\nthreading.Thread(target=time.sleep, args=[99]).start()",
        "held = [0] * 10 ** 9",
        "import sys\nsys.setrecursionlimit(30)",
        "import ctypes\nctypes.string_at(0)",
        "import warnings\nwarnings.simplefilter('error')",
        "import os\nos.write(0, b'{}')",
    ],
    ids=lambda mess: mess.rpartition("\n")[2][:40],
)
def test_no_checks_are_the_end_of_others(mess, alone):
    program = "def f(x): return x"
    others = Checks("import warnings\nwarnings.warn('')\nassert f(1) == 1")
    messy = Checks(f"f(1)\n{mess}")
    started_s = time.monotonic()
    _, *following = alone.examine_all([(program, messy), *[(program, others)] * 3])
    assert [examination.outcome for examination in following] == [Outcome.HELD] * 3
    assert time.monotonic() - started_s < 30


def test_checks_have_no_input(examine):
    program = "def f(x): return x"
    checks = "import sys\nassert sys.stdin.read() == ''\nassert f(1) == 1"
    assert examine(program, checks).outcome is Outcome.HELD


@pytest.mark.parametrize(
    ("act", "refusal"),
    [
        ("open('/etc/passwd')", "No such file|Permission denied"),
        ("import os; os.fork()", "not permitted"),
        ("import socket; socket.socket()", "not permitted"),
        ("import os; os.listdir('/proc')", "No such file|Permission denied"),
        ("import ctypes; l = ctypes.CDLL(None); assert l.ptrace(0, 0, 0, 0) == 0", "assert"),
        ("import os; os.execv('/bin/true', ['true'])", "not permitted"),
        ("open('new', 'w')", "Read-only|Permission denied|No such file"),
        ("open('/tmp/new', 'w')", "Read-only|Permission denied|No such file"),
    ],
)
def test_checks_are_contained_too(act, refusal, examine):
    examination = examine("def f(x): return x", f"f(1)\n{act}")
    assert examination.outcome in (Outcome.RAISED, Outcome.FAILED)
    assert any(each in examination.detail for each in refusal.split("|")), examination.detail


@pytest.mark.parametrize(
    ("program", "checks"),
    [
        ("def f():\n    while True: yield 1", "assert list(f()) == [1]"),
        ("from decimal import Decimal as D\ndef f(): return D('1e999999')", "assert int(f()) == 4"),
        ("def f(): return 10 ** 6000", "assert 2 ** (f() % 10 ** 9 + 10 ** 9) == 4"),
        ("def f(): return '(a+)+b'", "import re\nassert re.match(f(), 'a' * 60)"),
        ("def f(): return 1", "assert f() == 1\nwhile True: pass"),
        ("def f(): return 1", "while f() != 3: pass"),
        ("import time\ndef f(): time.sleep(60)", "assert f() == 1"),
    ],
    ids=["no end", "a huge number", "a huge power", "a pattern", "checks", "waiting", "sleep"],
)
def test_answers_keep_no_checks_busy_for_long(program, checks, pool):
    limits = Limits(0.5, 2, tmp_bytes=LIMITS.tmp_bytes, tmp_files=LIMITS.tmp_files)
    started_s = time.monotonic()
    (examination,) = pool.examine_all([(program, Checks(checks), limits)])
    assert examination.outcome is not Outcome.HELD
    # Any of them takes a minute or for ever; the limit is two seconds, more on a busy machine.
    assert time.monotonic() - started_s < 30


# Written as a program would that answers by hand, in less time than it takes to build the value.
ANSWER_BY_HAND = """
import json, os, struct
def answer(value):
    frames = b""
    for body in (b'["ready"]', b'["value",["dict","f",["ref",0,"x"]]]', b'["value",%s]' % value):
        frames += struct.pack("!I", len(body)) + body
    for descriptor in range(3, 10):
        try: os.pwrite(descriptor, frames, 0)
        except OSError: pass
    os._exit(0)
"""
HASHES = """
P = 2 ** 61 - 1  # the hash of whose multiples is zero
few = [b'["int","%s"],0' % hex(i * P).encode() for i in range(2, 40_000)]
answer(b'["dict",%s]' % b",".join(few + [b"%d,0" % i for i in range(42_000)]))
"""


@pytest.mark.parametrize(
    "answer",
    [
        "answer(b'7')",
        HASHES,
        "answer(b'[' * 8_000_000)",
        "answer(b'9' * 4_000_000)",
        "answer(b'[\"Decimal\",\"' + b'9' * 4_000_000 + b'\"]')",
    ],
    ids=["control", "hashes", "depth", "digits", "decimal digits"],
)
def test_no_answer_keeps_the_harness_busy(answer):
    started_s = time.process_time()
    given = call(ANSWER_BY_HAND + answer, "f", limits=Limits(cpu_s=2))
    assert time.process_time() - started_s < 3
    if "'7'" in answer:
        assert given.value == 7


# Checks whose calls depend on answers, or on how arguments are told apart, and bodies of f(x).
FLOWS = {
    "a branch": (
        "assert f(1) == 1 or f(2) == 3",
        ["return 1", "return 3 if x == 2 else 0", "return 0"],
    ),
    "a branch not taken": (
        "if f(1) == 1: assert f(2) == 2\nelse: assert f(3) == 4",
        ["return x", "return {1: 0, 2: 2, 3: 4}[x]", "return 0"],
    ),
    "until": (
        "x, n = 1, 0\nwhile x < 100 and n < 50: x, n = f(x), n + 1\nassert x == 128",
        ["return 2 * x", "return x + 127", "return x + 1"],
    ),
    "answers as arguments": (
        "assert f(f(f(1))) == 4",
        ["return x + 1", "return 2 * x", "return 4"],
    ),
    "errors": (
        "try: f(0)\nexcept ZeroDivisionError: pass\nelse: assert False\nassert f(1) == 1",
        ["return 1 / x", "return 1", "raise ZeroDivisionError"],
    ),
    "errors that end it": ("assert f(1) == 1\nassert f(0) == 1", ["return 1 / x", "return 1"]),
    "kinds": (
        "assert [f(1), f(True), f(1.0), f(-0.0)] == ['int', 'bool', 'float', 'float']",
        ["return type(x).__name__", "return 'int'"],
    ),
    "zeros": (
        "import math\nassert math.copysign(1, f(-0.0)) == -1 and math.copysign(1, f(0.0)) == 1",
        ["return x", "return abs(x)"],
    ),
    "order": (
        "assert f({1: 0, 2: 0}) == 1 and f({2: 0, 1: 0}) == 2",
        ["return next(iter(x))", "return 1"],
    ),
    "changes in between": (
        "xs = []\nfor n in range(3):\n    assert f(xs) == n\n    xs.append(n)",
        ["return len(x)", "return 0"],
    ),
    "changed arguments": (
        "xs = [3, 1, 2]\nassert f(xs) is None and xs == [1, 2, 3]\nassert f(xs) is None",
        ["x.sort()", "x.reverse()", "x.clear()", "x[:] = [1, 2, 3]"],
    ),
    "arguments changed by answers": (
        "xs = [1]\nys = f(xs)\nxs.append(2)\nassert f(xs) == [1, 2] and ys == [1]",
        ["return list(x)", "return [1, 2]", "x.append(9); return list(x)"],
    ),
    "state": (
        "assert [f(0), f(0), f(0)] == [1, 2, 3]",
        ["calls.append(x); return len(calls)", "return 1"],
    ),
    "numbers at random": (
        "import random\nfor _ in range(5):\n    x = random.random()\n    assert f(x) == 2 * x",
        ["return 2 * x", "return x", "return 2 * round(x, 1)"],
    ),
    "the clock": ("import time\nx = time.time_ns()\nassert f(x) == x", ["return x", "return 0"]),
    "length": ("assert len(f(3)) == 3", ["return [0] * x", "return 'abc'", "return []"]),
    "items": ("y = f(2)\nassert y[0] == 2 and y[-1] == 2", ["return [x]", "return [x, 0]"]),
    "truth": (
        "if f(1): assert f(2) == 1\nelse: assert f(3) == 3",
        ["return x == 3 and 3", "return 1", "return 0"],
    ),
    "formats": ("assert f'{f(1):>3}' == '  1'", ["return x", "return 2"]),
    "sorting": (
        "assert sorted(f(3)) == [0, 1, 2]",
        ["return range(x)", "return {0, 1, 2}", "return [1]"],
    ),
    "unpacking": (
        "a, b = f(1)\nassert a == 1 and b == 2",
        ["return 1, 2", "return 2, 1", "return 1,", "return 1, 2, 3"],
    ),
    "iteration": (
        "seen = [f(y) for y in f(3)]\nassert seen == [[], [0], [0, 1]]",
        ["return list(range(x))", "return []", "return [0] * x"],
    ),
    "membership": ("assert 2 in f(3) and 3 not in f(3)", ["return range(x)", "return [2, 3]"]),
    "keys": ("d = {1: 'a'}\nassert d[f(1)] == 'a'", ["return x", "return 2", "return True"]),
    "equality the other way": ("assert not f(1) != 1 and not 2 == f(1)", ["return x", "return 2"]),
    "keyword arguments": ("assert f(x=1) == f(1) == 1", ["return x", "return 2"]),
    "nothing asked": ("assert f", ["return 1"]),
}


@pytest.mark.parametrize("name", FLOWS)
def test_verdicts_are_those_of_checks_beside_the_program(name, pool):
    checks, bodies = FLOWS[name]
    programs = [f"calls = []\ndef f(x):\n    {body}" for body in bodies]
    expected = [run_outside(f"{program}\n{checks}")[0] == 0 for program in programs]
    pairs = [(program, Checks(checks)) for program in programs * 2]
    held = [each.outcome is Outcome.HELD for each in pool.examine_all(pairs)]
    assert held == expected * 2


def test_verdicts_do_not_get_mixed_up(pool):
    """Many tasks of one name at once, right and wrong programs by turns."""
    pairs, expected = [], []
    for number in range(60):
        added, is_right = number % 7, number % 3 != 0
        program = f"def f(x): return x + {added if is_right else 9}"
        pairs.append((program, Checks(f"assert f(1) == {1 + added}\nassert f(2) == {2 + added}")))
        expected.append(is_right)
    assert [each.outcome is Outcome.HELD for each in pool.examine_all(pairs)] == expected


@pytest.mark.parametrize(
    "name", ["equals everything", "traces its caller", "leaves the checks out"]
)
def test_checks_beside_a_program_can_be_forged_and_say_that_they_are_weak(name, pool):
    skip_checks = "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\n"
    skip_checks += "def square(x): return type('S', (), {'__eq__': lambda *_: True})()"
    program = FORGERIES.get(name, skip_checks)
    weak, strong = pool.examine_all(
        [(program, Checks(CHECKS, beside=True)), (program, Checks(CHECKS))]
    )
    assert weak.is_weak
    assert not strong.is_weak
    assert strong.outcome is not Outcome.HELD
    if name != "traces its caller":
        assert weak.outcome is Outcome.HELD  # the control


def test_checks_beside_a_program_are_contained_and_tell_what_holds(pool):
    pairs = [
        (RIGHT, Checks(CHECKS, beside=True)),
        (WRONG, Checks(CHECKS, beside=True)),
        (RIGHT, Checks("open('/etc/passwd')", beside=True)),
        ("import sys; sys.exit(0)", Checks(CHECKS, beside=True)),
        ("import os\ndef square(x): os._exit(0)", Checks(CHECKS, beside=True)),
    ]
    outcomes = [examination.outcome for examination in pool.examine_all(pairs)]
    ended = [Outcome.ENDED] * 2
    assert outcomes == [Outcome.HELD, Outcome.FAILED, Outcome.RAISED, *ended]
