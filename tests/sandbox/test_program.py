"""What a program can be given, and what of it is kept."""

import ctypes

import pytest

from sandbox import (
    Checks,
    Ending,
    Limits,
    Outcome,
    Pool,
    Profile,
    Program,
    SandboxUnavailable,
    checker,
    run,
)

pytestmark = pytest.mark.usefixtures("needs_sandbox", "shared_incubators")


def output_of(pool, program):
    execution = next(pool.run_all([program]))
    assert execution.exit_code == 0, execution.output_tail
    return execution.output_tail


def test_standard_input_is_read_to_its_end(pool):
    program = "import sys\nprint(ascii([input(), sys.stdin.read()]))"
    stdin = "erste ä\nzweite\n".encode()
    assert output_of(pool, Program(program, stdin)) == "['erste \\xe4', 'zweite\\n']\n"
    assert "EOFError" in next(pool.run_all([Program("input()")])).output_tail


def test_standard_input_of_one_sample_is_not_the_next_ones(pool):
    programs = [Program("print(input())", stdin=f"{n}\n".encode()) for n in range(6)]
    assert [e.output_tail for e in pool.run_all(programs)] == [f"{n}\n" for n in range(6)]


def test_files_and_arguments_are_there(pool):
    program = "import sys\nprint(open('a/b.txt').read(), open('c', 'rb').read(), sys.argv[1:])"
    files = {"a/b.txt": b"text", "c": bytes(range(3))}
    said = output_of(pool, Program(program, files=files, argv=("-x", "1")))
    assert said == "text b'\\x00\\x01\\x02' ['-x', '1']\n"
    assert output_of(pool, "import os; print(os.listdir())") == "[]\n"  # and gone


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b"])
def test_no_file_is_placed_outside_of_the_working_folder(name):
    with pytest.raises(ValueError, match="inside the working folder"):
        Program("", files={name: b""})


def test_standard_output_is_kept_whole_and_apart_if_asked_for(pool):
    text = "import sys\nfor i in range(20_000): print(i)\nprint('err', file=sys.stderr)"
    (execution,) = pool.run_all([Program(text, keeps_output=True)])
    assert execution.stdout == "".join(f"{i}\n" for i in range(20_000)).encode()
    assert execution.output_tail == "err\n"
    (execution,) = pool.run_all([Program(text)])
    assert execution.stdout is None
    assert execution.output_tail.endswith("19999\nerr\n")


def test_kept_output_has_its_limit_too():
    with Pool(Limits(cpu_s=2, output_bytes=1000), 1) as pool:
        (execution,) = pool.run_all([Program("print('x' * 5000)", keeps_output=True)])
    assert execution.ending is Ending.TOO_MUCH_OUTPUT
    assert len(execution.stdout) == 1000


def test_the_order_of_a_set_is_the_same_each_time():
    program = "print({str(n) for n in range(50)})"
    assert len({run(program).output_tail for _ in range(3)}) == 1


def test_warm_imports_are_there_and_their_control_is_not(pool):
    program = "import numpy; print(numpy.arange(4).sum())"
    assert "ModuleNotFoundError" in next(pool.run_all([program])).output_tail
    profile = Profile(imports=("numpy",))
    with Pool(Limits(memory_bytes=2 << 30), 1, profile=profile) as warm:
        execution = next(warm.run_all([program]))
        assert execution.output_tail == "6\n"
        assert execution.cpu_s < 0.1  # it was imported before
        written = "import numpy; open(numpy.__file__, 'a')"
        assert next(warm.run_all([written])).exit_code == 1
        checks = Checks("import numpy\nassert numpy.allclose(f(), [1, 2])")
        (examination,) = warm.examine_all([("def f(): return [1.0, 2.0]", checks)])
        assert examination.outcome is Outcome.HELD


@pytest.fixture(scope="module")
def with_numpy(needs_sandbox):
    pytest.importorskip("numpy")
    with Pool(Limits(memory_bytes=2 << 30), 1, profile=Profile(imports=("numpy",))) as warm:
        yield warm


def test_scalars_of_numpy_are_the_numbers_that_they_stand_for(with_numpy):
    program = "import numpy as np\ndef f(x): return np.mean(x), np.int64(3), np.bool_(True)"
    checks = Checks("assert f([1, 2, 3]) == (2.0, 3, True)\nassert abs(f([1])[0] - 1) < 1e-6")
    (examination,) = with_numpy.examine_all([(program, checks)])
    assert examination.outcome is Outcome.HELD, examination


def test_arrays_are_compared_item_by_item(with_numpy):
    checks = Checks("""
import numpy as np
assert np.allclose(f(2), [[0, 1], [2, 3]]) and (f(2) == np.array([[0, 1], [2, 3]])).all()
assert f(2).shape == (2, 2) and f(2).tolist() == [[0, 1], [2, 3]] and f(2)[1][0] == 2
np.testing.assert_array_equal(f(1), [[0]])
""")
    right = "import numpy as np\ndef f(n): return np.arange(n * n, dtype=float).reshape(n, n)"
    wrong = right.replace("n * n,", "1, n * n + 1,")
    held, failed = with_numpy.examine_all([(right, checks), (wrong, checks)])
    assert held.outcome is Outcome.HELD, held
    assert failed.outcome is Outcome.FAILED, failed


# How numpy asks an object for what it holds; the second one is an address, to be believed.
INTERFACES = {
    "as bytes": "'data': __import__('struct').pack('4d', 0, 1, 2, 3)",
    "at an address": "'data': (id(A), False)",
}


@pytest.mark.parametrize("data", INTERFACES.values(), ids=INTERFACES.keys())
def test_numpy_asks_no_program_where_its_memory_is(data, with_numpy):
    program = f"""
class A: pass
def f(n):
    a = A()
    a.__array_interface__ = {{'version': 3, 'shape': (4,), 'typestr': '<f8', {data}}}
    return a
"""
    checks = "import numpy as np\nassert np.asarray(f(4)).dtype == object"
    believed = "import numpy as np\nassert np.array_equal(f(4), [0, 1, 2, 3])"
    asked, refused = with_numpy.examine_all(
        [(program, Checks(checks)), (program, Checks(believed))]
    )
    assert asked.outcome is Outcome.HELD, asked
    assert refused.outcome is Outcome.FAILED, refused


def test_control_numpy_believes_an_address_that_it_is_told(monkeypatch):
    numpy = pytest.importorskip("numpy")
    buffer = (ctypes.c_double * 2)(4.0, 5.0)

    class Program:
        def get_attribute(self, key, name):
            data = ctypes.addressof(buffer), False
            return {"version": 3, "shape": (2,), "typestr": "<f8", "data": data}

        def special(self, key, method, operands):
            raise TypeError

    answer = checker.RemoteObject(Program(), 0, "A")
    assert numpy.asarray(answer).dtype == object
    monkeypatch.setattr(checker, "_TELLING", {"__array_interface__"})
    assert numpy.asarray(answer).tolist() == [4.0, 5.0]


def test_a_missing_import_or_interpreter_is_told_in_a_line(tmp_path):
    with pytest.raises(SandboxUnavailable, match="no_such_module is not installed"):
        run("pass", profile=Profile(imports=("no_such_module",)))
    with pytest.raises(SandboxUnavailable, match="cannot start"):
        run("pass", profile=Profile(interpreter=str(tmp_path / "python")))
    with pytest.raises(SandboxUnavailable, match=r"sh runs no room; name an interpreter"):
        run("pass", profile=Profile(interpreter="/bin/sh"))


@pytest.fixture(scope="module")
def processes(needs_sandbox):
    limits = Limits(cpu_s=2, wall_s=20, max_processes=16)
    with Pool(limits, 1, profile=Profile(processes=True)) as made:
        yield made


class TestProcesses:
    """The profile that allows them."""

    @pytest.mark.parametrize(
        "program",
        [
            "import subprocess, sys\n"
            "print(subprocess.check_output([sys.executable, '-c', 'print(3)'], text=True).strip())",
            "import subprocess\n"
            "print(subprocess.check_output('echo 1 | cat; echo 2', shell=True, text=True)[2:3])",
            "import os\npid = os.fork()\npid or os._exit(7)\n"
            "print(os.waitstatus_to_exitcode(os.wait()[1]))",
            "import multiprocessing as m\ndef f(x): return x * x\n"
            "with m.get_context('fork').Pool(2) as pool: print(sum(pool.map(f, range(5))))",
        ],
        ids=["subprocess", "shell", "fork", "multiprocessing"],
    )
    def test_they_run(self, program, processes, pool):
        assert output_of(processes, program).strip() in ("3", "2", "7", "30")
        (refused,) = pool.run_all([program])
        assert refused.ending is Ending.BLOCKED

    def test_too_many_are_refused_and_told(self, processes):
        program = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
        (execution,) = processes.run_all([program])
        assert execution.ending is Ending.TOO_MANY_PROCESSES

    def test_their_cpu_time_is_counted_together(self, processes):
        program = "import os\nfor _ in range(4): os.fork()\nwhile True: pass"
        (execution,) = processes.run_all([program])
        assert execution.ending is Ending.TIMED_OUT_CPU
        assert execution.wall_s < 15
        assert output_of(processes, "print('next')") == "next\n"


def test_too_many_threads_are_told(pool):
    program = """
import threading
for _ in range(1000): threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
    (execution,) = pool.run_all([program])
    assert execution.ending is Ending.TOO_MANY_PROCESSES
