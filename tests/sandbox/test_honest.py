"""Honest programs, however awkward, must not be told from how they run elsewhere.

Each ends with exit code 0 outside (the control) and inside, and what it prints is the same.
test_checker.py has those that checks call.
"""

import subprocess
import sys
from dataclasses import replace

import pytest

from sandbox import Ending, Limits, Pool, Profile, Program

pytestmark = pytest.mark.usefixtures("needs_sandbox")

LIMITS = Limits(cpu_s=4, wall_s=30, max_processes=32)

HONEST = {
    "threads": """
import threading
total, lock = 0, threading.Lock()
def add(n):
    global total
    for _ in range(1000):
        with lock: total += n
threads = [threading.Thread(target=add, args=(i,)) for i in range(10)]
for t in threads: t.start()
for t in threads: t.join()
print(total)
""",
    "a thread that is waited for": """
import threading, time
threading.Thread(target=lambda: (time.sleep(0.05), print("after the end"))).start()
print("the end")
""",
    "thread-local data": """
import threading, queue
local, answers = threading.local(), queue.Queue()
def work(n):
    local.n = n
    answers.put(local.n)
for n in range(4): threading.Thread(target=work, args=(n,)).start()
print(sorted(answers.get(timeout=5) for _ in range(4)), hasattr(local, "n"))
""",
    "conditions and barriers": """
import threading
barrier, seen = threading.Barrier(4), []
def meet():
    seen.append(barrier.wait(5))
threads = [threading.Thread(target=meet) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(seen))
""",
    "as many threads as there may be": """
import threading
barrier = threading.Barrier(31)
threads = [threading.Thread(target=lambda: (bytes(100_000), barrier.wait(20))) for _ in range(30)]
for t in threads: t.start()
barrier.wait(20)
for t in threads: t.join()
print("all met")
""",
    "futures": """
from concurrent.futures import ThreadPoolExecutor, as_completed
with ThreadPoolExecutor(8) as pool:
    print(sorted(f.result() for f in as_completed([pool.submit(pow, 2, n) for n in range(20)])))
""",
    "a pool of threads": """
from multiprocessing.pool import ThreadPool
with ThreadPool(4) as pool: print(pool.map(lambda x: x * x, range(10)))
""",
    "asyncio": """
import asyncio
async def work(n):
    await asyncio.sleep(0.001 * n)
    return n
async def main():
    reader, writer = asyncio.StreamReader(), asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(n)) for n in range(10)]
    print([t.result() for t in tasks])
    print(await asyncio.to_thread(sum, [1, 2, 3]))
    try: await asyncio.wait_for(asyncio.sleep(10), 0.01)
    except TimeoutError: print("timed out")
    print(await asyncio.get_running_loop().run_in_executor(None, max, 1, 2))
asyncio.run(main())
""",
    "streams over a pair of sockets": """
import asyncio, socket
async def main():
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    other, answer = await asyncio.open_connection(sock=theirs)
    writer.write(b"x" * 300_000 + b"\\n")
    print(len(await other.readexactly(300_001)))
    writer.writelines([b"a", b"b"])
    print(await other.readexactly(2))
asyncio.run(main())
""",
    "files": """
import json, os, pathlib, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "data.json").write_text(json.dumps({"ä": [1, 2]}), encoding="utf-8")
    shutil.copytree(root / "a", root / "c")
    os.replace(root / "c" / "b" / "data.json", root / "moved")
    print(json.loads((root / "moved").read_text("utf-8")), sorted(p.name for p in root.rglob("*")))
    os.chmod(root / "moved", 0o400)
    os.utime(root / "moved", (1, 2))
    print(oct((root / "moved").stat().st_mode), (root / "moved").stat().st_mtime)
    os.symlink("moved", root / "link"); os.link(root / "moved", root / "hard")
    print(os.readlink(root / "link"), (root / "hard").stat().st_nlink)
    print(shutil.make_archive(str(root / "packed"), "zip", root / "a")[-10:])
""",
    "temporary files": """
import tempfile
with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
    file.write("text"); file.flush()
    print(open(file.name).read())
with tempfile.SpooledTemporaryFile(max_size=10) as file:
    file.write(b"x" * 100); file.seek(0); print(len(file.read()))
""",
    "a thousand files": """
import os
for i in range(1000): open(f"{i}.txt", "w").write(str(i))
print(sum(int(open(name).read()) for name in os.listdir() if name.endswith(".txt")))
for i in range(1000): os.unlink(f"{i}.txt")
""",
    "a module of its own": """
import os, sys
open("helper.py", "w").write("def f(): return 'found'")
sys.path.insert(0, os.getcwd())
import helper
print(helper.f())
os.unlink("helper.py")
""",
    "deep recursion": """
import sys
sys.setrecursionlimit(50_000)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
print(depth(20_000))
""",
    "recursion without end, caught": """
def forever(): return forever()
try: forever()
except RecursionError: print("caught")
""",
    "memory without end, caught": """
try: bytearray(1 << 50)
except MemoryError: print("caught")
print(len(bytearray(50 << 20)))
""",
    "big integers": """
import math, sys
sys.set_int_max_str_digits(0)
print(math.factorial(3000) % (10 ** 9 + 7), len(str(7 ** 10_000)), pow(3, 10 ** 30, 10 ** 20 + 39))
""",
    "decimals and fractions": """
from decimal import Decimal, getcontext
from fractions import Fraction
getcontext().prec = 60
print(Decimal(2).sqrt(), Decimal("0.1") + Decimal("0.2"))
print(sum(Fraction(1, n) for n in range(1, 30)))
""",
    "a CPU second": """
import time
n = 0
while time.process_time() < 1.0: n += sum(range(1000))
print(n > 0)
""",
    "a sleep": "from time import *\nt = monotonic(); sleep(0.1); print(monotonic() - t >= 0.1)",
    "a database in memory": """
import sqlite3
with sqlite3.connect(":memory:") as base:
    base.execute("create table t (n integer, s text)")
    base.executemany("insert into t values (?, ?)", [(i, chr(97 + i)) for i in range(5)])
    print(base.execute("select sum(n), group_concat(s) from t").fetchone())
""",
    "logging": """
import io, logging
stream = io.StringIO()
logging.basicConfig(stream=stream, level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
logging.getLogger("a.b").warning("careful: %s", "ä")
try: 1 / 0
except ZeroDivisionError: logging.exception("oh")
print(stream.getvalue().splitlines()[0], "ZeroDivisionError" in stream.getvalue())
""",
    "unicode": """
import sys, unicodedata
print("grüße \\N{SNOWMAN} 🦊 עברית", unicodedata.normalize("NFD", "é") == "e\\u0301", len("🦊"))
print(sys.stdout.encoding.lower(), sys.getfilesystemencoding())
open("日本", "w").write("x"); import os; print("日本" in os.listdir()); os.unlink("日本")
""",
    "an exit after work": "print('done')\nimport sys\nsys.exit(0)",
    "exit and quit": "print('done')\nexit()",
    "work at exit": "import atexit\natexit.register(print, 'last')\nprint('first')",
    "an alarm": """
import signal, time
def ring(number, frame): raise TimeoutError("too slow")
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try: time.sleep(5)
except TimeoutError as error: print(error)
finally: signal.setitimer(signal.ITIMER_REAL, 0)
""",
    "signals of its own": """
import os, signal
seen = []
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, _: seen.append(n))
    os.kill(os.getpid(), number)
    signal.raise_signal(number)
print(seen)
""",
    "an interrupt of its own": """
import signal
try: signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt: print("caught")
""",
    "generators": """
import itertools
def primes():
    seen = []
    for n in itertools.count(2):
        if all(n % p for p in seen):
            seen.append(n)
            yield n
print(list(itertools.islice(primes(), 20)))
def echo():
    got = None
    while True: got = yield got
e = echo(); next(e); print(e.send(3)); e.close()
""",
    "dataclasses": """
from dataclasses import asdict, dataclass, field, replace
@dataclass(order=True, frozen=True, slots=True)
class P:
    x: int
    tags: list[str] = field(default_factory=list, compare=False)
print(sorted([P(2), P(1)]), asdict(replace(P(3), tags=["a"])))
""",
    "types and abstract classes": """
import abc, enum, typing
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...
class Color(enum.Flag): R, G = enum.auto(), enum.auto()
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def __class_getitem__(cls, item): return cls
print(Color.R | Color.G, typing.get_type_hints(Shape.area), Box[int] is Box)
try: Shape()
except TypeError: print("abstract")
""",
    "much output": "for i in range(5000): print(i, 'x' * 100)",
    "output without line ends": "import sys\nfor i in range(100): sys.stdout.write('x')",
    "output in bytes": "import os, sys\nsys.stdout.buffer.write(b'bytes\\n'); sys.stdout.flush()\n"
    "os.write(1, b'raw\\n')",
    "output that is never closed": """
import sys
class Answers:
    file = open(1, "w", closefd=False)
def main():
    global file
    file = open(1, "w", closefd=False)
    file.write("named\\n")
main()
sys.stdout = open("/dev/null", "w")
sys.__stdout__.write("kept aside")
""",
    "output as it is let go of": """
import atexit, sys
class Last:
    def __del__(self): print("let go of")
class Buffered:
    def __init__(self, to): self.to, self.parts = to, []
    def write(self, part): self.parts.append(part)
    def flush(self): self.to.write("".join(self.parts)); self.parts.clear(); self.to.flush()
atexit.register(print, "at exit")
last = Last()
sys.stdout = Buffered(sys.stdout)
print("buffered")
""",
    "time zones": """
import datetime, zoneinfo
try: print(datetime.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
except zoneinfo.ZoneInfoNotFoundError: print("this machine has none")
""",
    "a locale": """
import locale
try: print(locale.setlocale(locale.LC_ALL, "C.UTF-8"), locale.format_string("%d", 1234567))
except locale.Error: print("this machine has none")
""",
    "help": "print(callable(help), repr(help)[:12])",
    "a stack as large as may be": """
import resource
_, most = resource.getrlimit(resource.RLIMIT_STACK)
resource.setrlimit(resource.RLIMIT_STACK, (most, most))
print(resource.getrlimit(resource.RLIMIT_STACK)[0])
""",
    "standard input at its end": """
import sys
print(repr(sys.stdin.read()), list(sys.stdin))
try: input()
except EOFError: print("nobody")
""",
    "a main guard": "def main(): print(__name__, __file__[-3:])\nif __name__ == '__main__': main()",
    "C functions": """
import ctypes, ctypes.util
libc = ctypes.CDLL(None)
libc.strlen.restype = ctypes.c_size_t
Number = ctypes.POINTER(ctypes.c_int)
Compare = ctypes.CFUNCTYPE(ctypes.c_int, Number, Number)
numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
libc.qsort(numbers, 5, 4, Compare(lambda a, b: a[0] - b[0]))
print(libc.strlen(b"five!"), list(numbers))
""",
    "anonymous memory": """
import mmap
with mmap.mmap(-1, 1 << 20) as memory:
    memory[:5] = b"hello"
    print(memory[:5], memory.find(b"l"))
""",
    "a mapped file": """
import mmap, os
open("mapped", "wb").write(b"abc" * 1000)
with open("mapped", "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[0:3] = b"xyz"; memory.flush()
print(open("mapped", "rb").read(6)); os.unlink("mapped")
""",
    "pickles of its own classes": """
import copy, pickle
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
again = pickle.loads(pickle.dumps(Point([1, 2])))
print(again == Point([1, 2]), copy.deepcopy(again).x)
""",
    "unittest": """
import io, unittest
from unittest import mock
class Case(unittest.TestCase):
    def test_one(self):
        with self.assertRaises(KeyError): {}["x"]
    def test_two(self):
        with mock.patch("os.getcwd", return_value="x"):
            import os; self.assertEqual(os.getcwd(), "x")
suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
print(result.testsRun, result.wasSuccessful())
""",
    "unittest.main": """
import sys, unittest
class Case(unittest.TestCase):
    def test(self): self.assertEqual(1 + 1, 2)
sys.stderr = open("/dev/null", "w")
if __name__ == "__main__": unittest.main(argv=["program"])
""",
    "doctest": '''
def double(x):
    """
    >>> double(2)
    4
    >>> double("ab")
    'abab'
    """
    return 2 * x
import doctest
print(doctest.testmod())
''',
    "its own source": """
import inspect, traceback
def f(x):
    return x  # a comment
print(inspect.getsource(f).strip(), inspect.signature(f))
try: f()
except TypeError: print(traceback.format_exc().splitlines()[-2].strip())
""",
    "randomness": """
import random, secrets, uuid
random.seed(42)
print(random.random(), random.sample(range(100), 5))
print(len(secrets.token_hex(8)), uuid.uuid4().version)
""",
    "hashes": """
import hashlib, hmac, zlib, base64
print(hashlib.sha256(b"x").hexdigest()[:10], hashlib.blake2b(b"x").hexdigest()[:10])
print(zlib.crc32(b"x"))
print(hashlib.pbkdf2_hmac("sha256", b"p", b"s", 1000).hex()[:10], base64.b85encode(b"hello"))
""",
    "compression": """
import bz2, gzip, lzma, zipfile, io
data = b"compress me " * 1000
print([m.decompress(m.compress(data)) == data for m in (bz2, gzip, lzma)])
with zipfile.ZipFile(io.BytesIO(), "w") as z: z.writestr("a.txt", "x"); print(z.namelist())
""",
    "times": """
import calendar, datetime, time
print(datetime.date(2024, 2, 29).isocalendar(), calendar.monthrange(2023, 2))
utc = datetime.timezone.utc
print(datetime.datetime.fromtimestamp(0, utc).isoformat(), time.strftime("%Y", time.gmtime(0)))
print(datetime.datetime.strptime("2024-01-02", "%Y-%m-%d").weekday())
""",
    "warnings": """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always"); warnings.warn("old", DeprecationWarning)
print(caught[0].category.__name__)
""",
    "references and the collector": """
import gc, weakref
class Node: pass
a = Node(); a.me = a; ref = weakref.ref(a); gone = []
weakref.finalize(a, gone.append, 1)
del a; gc.collect(); print(ref() is None, gone)
""",
    "text and data formats": """
import configparser, csv, html.parser, io, tomllib, xml.etree.ElementTree as ET
print(list(csv.DictReader(io.StringIO("a,b\\n1,2"))), tomllib.loads("x = [1]"))
print(ET.fromstring("<a><b c='1'/></a>")[0].attrib, html.unescape("&auml;"))
""",
    "arguments parsed": """
import argparse
parser = argparse.ArgumentParser(); parser.add_argument("--n", type=int, default=3)
print(parser.parse_args([]).n)
""",
    "code made at run time": """
import ast, types
namespace = {}
exec(compile(ast.parse("def f(x): return x + 1"), "made", "exec"), namespace)
print(namespace["f"](1), eval("2 ** 8"), types.FunctionType(namespace["f"].__code__, {})(4))
""",
    "context variables": """
import contextvars, contextlib
v = contextvars.ContextVar("v", default=0)
def change(): v.set(5); return v.get()
print(contextvars.copy_context().run(change), v.get())
with contextlib.suppress(ZeroDivisionError), contextlib.ExitStack() as stack:
    stack.callback(print, "unwound"); 1 / 0
""",
    "pipes and events": """
import os, select
r, w = os.pipe(); os.write(w, b"x"); print(select.select([r], [], [], 1)[0] == [r], os.read(r, 1))
poll = select.epoll(); poll.register(r, select.EPOLLIN); print(poll.poll(0))
""",
    "a refused process, handled": """
import subprocess, sys
try: subprocess.run(["true"], check=True)
except OSError: pass
print("went on")
""",
    "questions about the system": """
import os, platform, shutil, sys, locale, getpass
print(platform.system(), platform.python_implementation(), os.cpu_count() > 0, sys.maxsize)
print(os.path.expanduser("~") != "", shutil.disk_usage(".").total > 0, os.getpid() > 0)
print(len(os.sched_getaffinity(0)) > 0, locale.getlocale() is not None)
""",
}


def _outside(program: str, folder: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-I", "program.py"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


@pytest.fixture(scope="module")
def pool(needs_sandbox):
    with Pool(LIMITS, 2) as made:
        yield made


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST.keys())
def test_an_honest_program_runs_as_it_does_outside(program, pool, tmp_path):
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    control = _outside(program, str(tmp_path))
    assert control.returncode == 0, control.stdout
    (execution,) = pool.run_all([Program(program, keeps_output=True)])
    assert execution.ending is Ending.EXITED, execution
    assert execution.exit_code == 0, execution.output_tail
    assert execution.stdout == control.stdout


def test_honest_programs_run_beside_each_other_on_a_busy_machine(needs_sandbox):
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    with Pool(replace(LIMITS, cpu_s=1, wall_s=1), 12) as pool:
        endings = [execution.ending for execution in pool.run_all([busy] * 12)]
    assert endings == [Ending.EXITED] * 12


def test_input_files_and_arguments_arrive(pool):
    program = Program(
        "import sys\nprint(input(), sys.stdin.read(), sys.argv[1:])\n"
        "print(open('a/data.bin', 'rb').read())",
        stdin="first\nrest ä".encode(),
        files={"a/data.bin": bytes(range(4))},
        argv=("--flag", "ä"),
        keeps_output=True,
    )
    (execution,) = pool.run_all([program])
    expected = f"first rest ä ['--flag', 'ä']\n{bytes(range(4))!r}\n"
    assert execution.stdout == expected.encode()


NEEDS_PROCESSES = {
    "subprocess": """
import subprocess, sys
ran = subprocess.run([sys.executable, "-c", "print(input()[::-1])"], input="abc", text=True,
                     capture_output=True, check=True)
print(ran.stdout.strip(), subprocess.getoutput("echo $((1 + 1)) | tr 2 x"))
""",
    "a pool of processes": """
import multiprocessing
def square(x): return x * x
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool: print(pool.map(square, range(10)))
""",
    "futures in processes": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
    print(list(pool.map(pow, [2, 3], [3, 2])))
""",
    "fork and pipes": """
import os
r, w = os.pipe()
pid = os.fork()
if pid == 0: os.write(w, b"child"); os._exit(7)
print(os.read(r, 5), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    "asyncio with processes": """
import asyncio, sys
async def main():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=-1)
    print((await process.communicate())[0])
asyncio.run(main())
""",
    "queues between processes": """
import multiprocessing
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=queue.put, args=([1, 2],))
process.start(); print(queue.get(timeout=5)); process.join(); print(process.exitcode)
""",
    "a child that ends by a signal": """
import os, signal, subprocess
process = subprocess.Popen(["sleep", "9"]); process.send_signal(signal.SIGTERM)
print(process.wait(5))
""",
}


@pytest.fixture(scope="module")
def pool_with_processes(needs_sandbox):
    with Pool(LIMITS, 1, profile=Profile(processes=True)) as made:
        yield made


@pytest.mark.parametrize("program", NEEDS_PROCESSES.values(), ids=NEEDS_PROCESSES.keys())
def test_an_honest_program_may_have_processes(program, pool_with_processes, tmp_path):
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    control = _outside(program, str(tmp_path))
    assert control.returncode == 0, control.stdout
    (execution,) = pool_with_processes.run_all([Program(program, keeps_output=True)])
    assert execution.exit_code == 0, execution
    assert execution.stdout == control.stdout


@pytest.mark.parametrize(
    "act",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.2)",
    ],
    ids=["SIGKILL", "SIGTERM", "alarm"],
)
def test_a_signal_of_its_own_does_not_end_a_program(act, pool, tmp_path):
    """Not as outside, and docs/security.md says so: a sample is its namespace's init."""
    program = f"import os, signal, time; {act}; print('goes on')"
    (tmp_path / "program.py").write_text(program)
    assert _outside(program, str(tmp_path)).returncode < 0
    (execution,) = pool.run_all([program])
    assert (execution.exit_code, execution.output_tail) == (0, "goes on\n")


def test_an_abort_is_told_as_a_fault(pool):
    (execution,) = pool.run_all(["import os; os.abort()"])
    assert execution.ending is Ending.SIGNALLED
    assert execution.signal == 11


def test_a_database_in_a_file_works_without_locks_only(pool):
    """Record locks are refused: on files that all rooms share they would tell of one another."""
    program = """
import sqlite3
with sqlite3.connect({name!r}, uri=True) as base:
    base.execute("create table t (n)"); base.execute("insert into t values (1)")
print(sqlite3.connect({name!r}, uri=True).execute("select n from t").fetchone())
"""
    names = ("file:base.db?nolock=1", "file:base.db")
    unlocked, locked = pool.run_all([program.format(name=name) for name in names])
    assert unlocked.output_tail == "(1,)\n"
    assert "OperationalError" in locked.output_tail
