"""Desks judge one program after another; nothing of one must show in the next."""

import threading

import pytest

from sandbox import Checks, Ending, Limits, Outcome, Pool, desk, desks, wire, worker
from sandbox.desks import ChecksRoom, Desk

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")

PROGRAM = "def f(x): return x"
FINE = Checks("assert f(1) == 1")


@pytest.fixture(scope="module")
def one():
    """A pool of one worker: one desk for everything. It is less patient than usual."""
    with pytest.MonkeyPatch.context() as patch, Pool(Limits(cpu_s=1, wall_s=3), 1) as pool:
        patch.setattr(worker, "_GRACE_S", 1.0)
        yield pool


@pytest.fixture(scope="module")
def impatient(one):
    """The same, for checks that only its wall clock ends: that is waited for four times."""
    with Pool(Limits(cpu_s=1, wall_s=1.5), 1) as pool:
        yield pool


@pytest.mark.parametrize(
    "change",
    [
        "import builtins\nbuiltins.len = lambda _: 0",
        "import sys\nsys.setrecursionlimit(60)",
        "import random\nrandom.seed(3)",
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        "global_name = 1",
        "import os\nos._exit(0)",
        "import os\nos.kill(os.getpid(), 9)",
        "while True: pass",
        "x = 'x' * (1 << 40)",
        "import os\nos.closerange(0, 99)",
        "import sys\nsys.exit(0)",
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass",
        "import ctypes\nctypes.string_at(0)",
    ],
)
def test_what_checks_do_to_their_process_shows_in_no_others_verdict(change, one, impatient):
    pool = impatient if "setitimer" in change else one
    state = Checks(
        "import random, sys\ntry: global_name\nexcept NameError: pass\nelse: assert False\n"
        "assert len([1]) == 1 and sys.getrecursionlimit() == 1000\n"
        "assert f(random.random()) == 0.8444218515250481"
    )
    num_rounds = 1 if "while True" in change else 2  # those wait for their limits
    pairs = [(PROGRAM, Checks(f"f(1)\n{change}")), (PROGRAM, state)] * num_rounds
    for examination in list(pool.examine_all(pairs))[1::2]:
        assert examination.outcome is Outcome.HELD, examination


def test_checks_go_to_a_desk_that_knows_them():
    checks = [FINE, Checks("assert f(2) == 2")]
    with Pool(num_workers=2) as pool:
        list(pool.examine_all([(PROGRAM, each) for each in checks * 4]))
        desks = pool._engine._checks_room._free
        told = sum(len(desk._told) for desk in desks)
        for each in checks * 4:
            assert next(pool.examine_all([(PROGRAM, each)])).outcome is Outcome.HELD
        assert sum(len(desk._told) for desk in desks) == told
        assert 1 <= len(desks) <= 2


def test_checks_cannot_write_files(one):
    (examination,) = one.examine_all([(PROGRAM, Checks("f(1)\nopen('/tmp/x', 'w')"))])
    assert examination.outcome is Outcome.RAISED
    assert "OSError" in examination.detail


def test_checks_without_end_time_out_and_are_no_pass(one):
    (examination,) = one.examine_all([(PROGRAM, Checks("f(1)\nwhile True: pass"))])
    assert examination.outcome is Outcome.ENDED
    # Of CPU time, unless the machine is so busy that the program waited too long for its checks.
    assert examination.execution.ending in (Ending.TIMED_OUT_CPU, Ending.TIMED_OUT_WALL)


def test_checks_that_sleep_for_ever_time_out(impatient):
    (examination,) = impatient.examine_all(
        [(PROGRAM, Checks("f(1)\nimport time\ntime.sleep(999)"))]
    )
    assert examination.outcome in (Outcome.ENDED, Outcome.RAISED)
    assert examination.execution.ending is Ending.TIMED_OUT_WALL
    assert next(impatient.examine_all([(PROGRAM, FINE)])).outcome is Outcome.HELD


def test_a_desk_that_took_much_memory_is_replaced():
    program = "def f(x): return [[]] * 300_000"
    big = Checks("assert len(f(1)) == 300_000")
    with Pool(Limits(cpu_s=20), 1) as pool:
        for examination in pool.examine_all([(program, big), (PROGRAM, FINE)] * 2):
            assert examination.outcome is Outcome.HELD, examination


def test_more_tasks_than_are_kept_in_mind(one, monkeypatch):
    monkeypatch.setattr(desks, "_MAX_CHECKS_KNOWN", 10)
    pairs = [(PROGRAM, Checks(f"assert f({i}) == {i}")) for i in range(40)] * 2
    assert all(e.outcome is Outcome.HELD for e in one.examine_all(pairs))
    assert len(one._engine._checks_room._known) < 20


def test_any_number_of_desks_may_end(one):
    untidy = Checks("import sys\nassert f(1) == 1")
    assert all(e.outcome is Outcome.HELD for e in one.examine_all([(PROGRAM, untidy)] * 100))


def test_checks_may_call_from_several_threads(one):
    checks = Checks("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: assert [*pool.map(f, range(200))] == [*range(200)]
""")
    for examination in one.examine_all([(PROGRAM, checks)] * 3):
        assert examination.outcome is Outcome.HELD, examination


def test_no_thread_is_needed():
    before = threading.active_count()
    with Pool(Limits(cpu_s=1), 2) as pool:
        assert next(pool.examine_all([(PROGRAM, FINE)])).outcome is Outcome.HELD
        assert threading.active_count() == before


def test_checks_beside_a_program_are_weak_and_can_patch_it(one):
    program = "import math\ndef now(): return math.pi\ndef f(): return now()"
    patch = "from unittest import mock\nwith mock.patch('program.now', lambda: 3): assert f() == 3"
    beside = Checks(patch, ("f",), beside=True)
    (held,) = one.examine_all([(program, beside)])
    assert held.outcome is Outcome.HELD, held
    assert held.is_weak
    (apart,) = one.examine_all([(program, Checks(patch, ("f",)))])
    assert apart.outcome is not Outcome.HELD
    assert not apart.is_weak
    forged = "class Same:\n    def __eq__(self, other): return True\ndef f(): return Same()"
    (passed,) = one.examine_all([(forged, Checks("assert f() == 3", beside=True))])
    assert (passed.outcome, passed.is_weak) == (Outcome.HELD, True)  # that is why


@pytest.mark.parametrize(
    ("program", "checks", "outcome"),
    [
        ("def f(x): return x", "assert f(1) == 2", Outcome.FAILED),
        ("def f(x): return 1 / x", "f(0)", Outcome.RAISED),
        ("def f(x) return x", "f(0)", Outcome.SYNTAX_ERROR),
        ("def g(x): return x", "f(0)", Outcome.UNDEFINED),
        ("import sys\nsys.exit(0)", "f(0)", Outcome.ENDED),
        ("def f(x): exit(0)", "f(0)", Outcome.ENDED),
        ("def f(x):\n    while True: pass", "f(0)", Outcome.ENDED),
        ("def f(x): return x", "def (", Outcome.CHECKS_BROKEN),
    ],
)
def test_outcomes_of_checks_beside(program, checks, outcome, one):
    (examination,) = one.examine_all([(program, Checks(checks, beside=True))])
    assert examination.outcome is outcome, examination


def test_checks_that_are_called_tidy_stay_at_their_desk(one):
    """Their author's word counts, where what they run cannot be seen from here."""
    source = "exec('import random')\nrandom.mark = [*getattr(random, 'mark', []), f(1)]\n"
    marks = [f"{source}assert len(random.mark) == {count}" for count in (1, 2)]
    called = [(PROGRAM, Checks(mark, are_live=True, are_tidy=True)) for mark in marks]
    assert [each.outcome for each in one.examine_all(called)] == [Outcome.HELD] * 2
    # Otherwise they get a desk to themselves each time.
    unsure = [(PROGRAM, Checks(marks[0], are_live=True))] * 3
    assert all(each.outcome is Outcome.HELD for each in one.examine_all(unsure))


def test_tidy_checks_share_a_desk_and_others_run_at_none_of_theirs(monkeypatch):
    opened, asked = [], []
    open_desk, ask = ChecksRoom._open_desk, Desk.ask

    def opening(room, *, is_shared):
        opened.append(is_shared)
        return open_desk(room, is_shared=is_shared)

    def asking(self, what, known, *given):
        asked.append((self.is_shared, what, known.checks.source))
        ask(self, what, known, *given)

    monkeypatch.setattr(ChecksRoom, "_open_desk", opening)
    monkeypatch.setattr(Desk, "ask", asking)
    tidy = [Checks(f"assert f({number}) == {number}") for number in range(3)]
    untidy = Checks("import sys\nassert f(1) == 1")
    with Pool(Limits(cpu_s=1), 1) as pool:
        examined = [*pool.examine_all([(PROGRAM, each) for each in (*tidy, untidy, *tidy, untidy)])]
    assert all(each.outcome is Outcome.HELD for each in examined)
    assert opened == [True, False, False, False]  # to record, and for each of two programs
    orders = [(is_shared, what) for is_shared, what, source in asked if source == untidy.source]
    # At first it only looked: recorded they were elsewhere.
    expected = [(True, "record"), (False, "record"), (False, "replay"), (False, "replay")]
    assert orders == expected
    orders = [what for *_, what, source in asked if source == tidy[0].source]
    assert orders == ["record", "replay", "replay"]


def test_threads_of_checks_are_not_counted_with_other_desks():
    checks = Checks("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: assert [*pool.map(f, range(9))] == [*range(9)]
""")
    with Pool(Limits(cpu_s=3, max_processes=4), 6) as pool:
        pairs = [(PROGRAM, FINE), (PROGRAM, checks)] * 9
        for examination in pool.examine_all(pairs):
            assert examination.outcome is Outcome.HELD, examination


class Sent:
    """A stream that keeps what it is sent, part by part."""

    def __init__(self):
        self.parts = []

    def sendall(self, data):
        self.parts.append(data)

    def recv(self, size):
        return b""


def test_what_is_known_beforehand_is_sent_when_its_turn_comes():
    first, second, third = (wire.frame([text]) for text in "abc")
    stream = Sent()
    talk = desk.InTurns(stream, first + second + third, [len(first + second)])
    talk.sendall(first)
    assert stream.parts == [first + second]
    talk.sendall(second)
    assert stream.parts == [first + second]
    talk.sendall(third)
    assert stream.parts == [first + second, third]
    assert not talk.is_diverged


def test_what_does_not_fit_into_a_socket_at_once_is_sent_piece_by_piece():
    """Else this side would wait for room in it, and the program for its answer to be read."""
    frames = [wire.frame([text * 7000]) for text in "abcd"]
    stream = Sent()
    talk = desk.InTurns(stream, b"".join(frames), [])
    for frame in frames:
        talk.sendall(frame)
    assert stream.parts == [frames[0], frames[1], frames[2] + frames[3]]


@pytest.mark.parametrize("other", [wire.frame(["x"]), wire.frame(["a"]) + b"more"])
def test_what_was_not_foreseen_is_not_sent(other):
    stream = Sent()
    talk = desk.InTurns(stream, wire.frame(["a"]), [])
    with pytest.raises(BrokenPipeError):
        talk.sendall(other)
    assert talk.is_diverged
    assert stream.parts == []
