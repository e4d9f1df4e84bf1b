import time

import pytest

from sandbox import Ending, Limits, Pool


def test_memory_is_bounded(inside, outside):
    program = "print(len(bytearray(1 << 30)))"
    assert outside(program).returncode == 0
    execution = inside(program)
    assert execution.ending is Ending.OUT_OF_MEMORY
    assert execution.peak_memory_bytes < 1 << 29


@pytest.mark.parametrize(
    "call",
    [
        "memfd_create(b'x', 0)",
        "shmget(0, 1 << 20, 0o1600)",
        "msgget(0, 0o1600)",
        "semget(0, 1, 0o1600)",
        "inotify_init()",
    ],
)
def test_memory_outside_the_address_space_cannot_be_had(call, inside, outside):
    # What was made outside is removed again: System V objects outlive their process.
    program = f"""
import ctypes
libc = ctypes.CDLL(None)
made = libc.{call}
assert made >= 0
for name in ("shm", "msg", "sem"):
    if "{call}".startswith(name):
        remove = (made, 0, 0) if name == "sem" else (made, 0, None)
        assert getattr(libc, name + "ctl")(*remove) == 0
"""
    control = outside(program)
    assert control.returncode == 0, control.stderr
    assert inside(program).exit_code != 0


def test_the_disk_is_bounded(tmp_path, inside, outside):
    fill = "with open('{}/big', 'wb') as file:\n    for _ in range(8): file.write(bytes(1 << 20))"
    assert outside(fill.format(tmp_path)).returncode == 0
    assert inside(fill.format("/tmp")).exit_code == 1
    several = """
for index in range(8):
    with open(f"{}/{{index}}", "wb") as file: file.write(bytes(1 << 20))
"""
    assert outside(several.format(tmp_path)).returncode == 0
    assert "No space left" in inside(several.format("/tmp")).output_tail


def test_the_number_of_files_is_bounded(tmp_path, inside, outside):
    program = "import os\nfor index in range(300): os.mkdir(f'{}/{{index}}')"
    assert outside(program.format(tmp_path)).returncode == 0
    assert "No space left" in inside(program.format("/tmp")).output_tail


def test_open_files_are_bounded(inside):
    execution = inside("held = [open('/dev/null') for _ in range(300)]")
    assert "Too many open files" in execution.output_tail


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(4): threading.Thread(target=spin).start()",
        "10 ** 10 ** 10",
    ],
    ids=["loop", "signal ignored", "threads", "one long operation"],
)
def test_cpu_time_is_bounded(program):
    with Pool(Limits(cpu_s=0.5, wall_s=60), 1) as pool:
        execution = next(pool.run_all([program]))
    assert execution.ending is Ending.TIMED_OUT_CPU
    assert 0.5 <= execution.cpu_s < 1.5


@pytest.mark.parametrize(
    "program",
    ["import time; time.sleep(60)", "import threading; threading.Event().wait()"],
)
def test_waiting_is_bounded(program):
    with Pool(Limits(cpu_s=1, wall_s=0.5), 1) as pool:
        started_s = time.monotonic()
        execution = next(pool.run_all([program]))
        assert time.monotonic() - started_s < 5
    assert execution.ending is Ending.TIMED_OUT_WALL
    assert execution.cpu_s < 0.5


@pytest.mark.parametrize(
    "program",
    [
        "while True: print('x' * 1000)",
        "print('x' * 50_000_000)",
        "import os\nwhile True: os.write(2, bytes(65536))",
    ],
)
def test_output_is_bounded(program, inside):
    execution = inside(program)
    assert execution.ending is Ending.TOO_MUCH_OUTPUT
    assert len(execution.output_head) == len(execution.output_tail) == 4096


def test_a_program_that_goes_on_after_too_much_output_still_ends(inside):
    execution = inside("""
while True:
    try: print("x" * 1000)
    except OSError: pass
""")
    assert execution.ending is Ending.TIMED_OUT_CPU


def test_no_core_is_dumped_and_a_crash_is_told(inside):
    execution = inside("import ctypes; ctypes.string_at(0)")
    assert execution.ending is Ending.SIGNALLED
    assert execution.signal == 11
