"""What is rehearsed before samples are forked shows in none of them."""

import subprocess
import sys

from sandbox import Checks, Ending, Limits, Outcome, Pool

REHEARSE = """
import linecache, sys
from sandbox import candidate, checker, rehearsal
before = set(sys.modules)
rehearsal.rehearse()
assert set(sys.modules) <= before | {"_socket", "socket"}, set(sys.modules) - before
assert not linecache.cache
assert checker.compile_checks.cache_info().currsize == 0
"""


def test_nothing_of_it_stays():
    ran = subprocess.run(
        [sys.executable, "-c", REHEARSE], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_it_needs_nothing_of_what_samples_are_limited_in():
    smallest = Limits(tmp_bytes=1, tmp_files=1, max_open_files=16)
    with Pool(smallest, 1) as pool:
        (examination,) = pool.examine_all([("def f(): return 1", Checks("assert f() == 1"))])
    assert examination.outcome is Outcome.HELD


def test_a_sample_is_the_only_thread_and_may_have_more(inside):
    program = """
import threading
assert threading.enumerate() == [threading.main_thread()]
assert threading.current_thread() is threading.main_thread()
threads = [threading.Thread(target=done.append, args=(1,)) for done in [[]] for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    execution = inside(program)
    assert (execution.ending, execution.exit_code) == (Ending.EXITED, 0), execution.output_tail
