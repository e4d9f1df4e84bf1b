import platform

import pytest

from sandbox import Ending


@pytest.mark.parametrize(
    "call",
    [
        "unshare(0x10000000)",
        "ptrace(0, 0, 0, 0)",
        "personality(0x0040000)",
        "flock(libc.open(b'/dev/null', 0), 2)",
        "inotify_init1(0)",
        "prctl(4, 1)",
    ],
)
def test_the_kernel_refuses(call, inside, outside):
    program = f"""
import ctypes
libc = ctypes.CDLL(None)
assert libc.{call} >= 0
"""
    control = outside(program)
    assert control.returncode == 0, control.stderr
    assert inside(program).exit_code != 0


@pytest.mark.parametrize("command", ["F_GETLK", "F_SETLK", "F_SETLKW"])
def test_no_lock_on_a_file_that_rooms_share_tells_of_one_another(command, inside, outside):
    program = f"""
import fcntl, os, struct
lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 1, 0)
fcntl.fcntl(open(os.__file__), fcntl.{command}, lock)
"""
    control = outside(program)
    assert control.returncode == 0, control.stderr
    assert inside(program).exit_code != 0


def test_a_process_hidden_in_clone3_is_refused(inside, outside):
    # libc falls back to clone where there is no clone3; so threads work, and this does not.
    program = """
import ctypes, os, struct
arguments = struct.pack("=8Q", 0, 0, 0, 0, 17, 0, 0, 0)  # exit signal SIGCHLD
pid = ctypes.CDLL(None).syscall(435, arguments, len(arguments))
if pid == 0: os._exit(0)
assert pid > 0
os.waitpid(pid, 0)
"""
    control = outside(program)
    assert control.returncode == 0, control.stderr
    assert inside(program).exit_code != 0


def test_a_thread_with_a_namespace_is_refused(inside):
    program = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
clone = {"x86_64": 56, "aarch64": 220}[__import__("platform").machine()]
for flags in (0x10000000 | 17, 0x20000000 | 17, 0x10000 | 0x10000000, 17, 0x4000 | 0x100 | 17):
    assert libc.syscall(clone, flags, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM
"""
    execution = inside(program)
    assert execution.exit_code == 0, execution.output_tail


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is an x86-64 matter")
def test_a_foreign_system_call_ends_the_program(inside, outside):
    program = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)"
    assert outside(program).returncode == 0
    execution = inside(program)
    assert execution.ending is Ending.BLOCKED
    assert execution.signal == 31


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is an x86-64 matter")
def test_a_32_bit_system_call_ends_the_program(inside, outside):
    program = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    control = outside(program)
    if control.returncode != 0:
        pytest.skip("this kernel has no 32-bit system calls")
    assert inside(program).ending is Ending.BLOCKED
