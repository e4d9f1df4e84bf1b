import os
import sysconfig
from pathlib import Path

import pytest


def assert_only_outside(program, inside, outside):
    """The program reaches its end outside, and inside it does not."""
    control = outside(program)
    assert control.returncode == 0, control.stderr
    assert inside(program).exit_code != 0


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_no_file_of_the_host_can_be_read(mode, tmp_path, inside, outside):
    secret = tmp_path / "secret"
    secret.write_text("do not tell")
    secret.chmod(mode)
    tmp_path.chmod(0o755)
    assert_only_outside(f"print(open({str(secret)!r}).read())", inside, outside)


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/status", "/sys"])
def test_no_view_of_the_system_is_there(path, inside, outside):
    assert_only_outside(f"import os; os.stat({path!r})", inside, outside)


def test_no_home_is_there(inside, outside):
    # The folder of a home may be there, if the interpreter lives below it, but nothing else of it.
    home = Path.home()
    entries = [str(entry) for entry in home.iterdir() if entry.is_file()]
    if not entries:
        pytest.skip("this user's home holds no file to look for")
    assert_only_outside(f"import os; os.stat({entries[0]!r})", inside, outside)


def test_no_installed_package_is_there(inside, outside):
    packages = sysconfig.get_path("purelib")
    assert_only_outside(f"import os; assert os.listdir({packages!r})", inside, outside)


def test_nothing_can_be_written_but_tmp(tmp_path, inside, outside):
    tmp_path.chmod(0o777)
    assert_only_outside(f"open({str(tmp_path / 'new')!r}, 'w').write('x')", inside, outside)
    (tmp_path / "new").unlink()
    for folder in ("/", "/dev", "/usr", str(Path(os.__file__).parent)):
        execution = inside(f"open({folder + '/new'!r}, 'w')")
        assert execution.exit_code == 1
        assert "FileNotFoundError" in execution.output_tail or "Read-only" in execution.output_tail
    assert list(tmp_path.iterdir()) == []


def test_the_interpreter_cannot_be_changed(inside):
    execution = inside("import os; os.chmod(os.__file__, 0o777)")
    assert "Read-only file system" in execution.output_tail


@pytest.mark.parametrize("device", ["null", "zero", "random", "urandom"])
def test_the_times_of_a_device_of_the_host_cannot_be_changed(device, inside, outside):
    program = f"import os; os.utime('/dev/{device}')"
    control = outside(program)
    assert control.returncode == 0, control.stderr
    before = Path(f"/dev/{device}").stat().st_mtime_ns
    assert "Read-only file system" in inside(program).output_tail
    assert Path(f"/dev/{device}").stat().st_mtime_ns == before


def test_mounts_cannot_be_changed(inside, outside):
    program = """
import ctypes
libc = ctypes.CDLL(None)
assert libc.unshare(0x10000000 | 0x20000) == 0  # own user and mount namespace
assert libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0
"""
    assert_only_outside(program, inside, outside)


def test_a_file_in_tmp_cannot_be_loaded_as_a_library(inside, outside):
    # A control outside needs the same bytes; the interpreter's own libraries will do.
    program = """
import _ctypes, ctypes, shutil, sys, tempfile
source = getattr(_ctypes, "__file__", None)
if source is None:  # built into the interpreter
    ctypes.CDLL(None), sys.exit(0 if {outside} else 1)
folder = tempfile.mkdtemp()
ctypes.CDLL(shutil.copy(source, folder))
"""
    control = outside(program.format(outside=True))
    assert control.returncode == 0, control.stderr
    assert inside(program.format(outside=False)).exit_code == 1


def test_tmp_works(inside):
    execution = inside("""
import tempfile, os
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("text"); file.seek(0); assert file.read() == "text"
with tempfile.TemporaryDirectory() as folder:
    os.symlink("x", folder + "/link"); os.rename(folder + "/link", folder + "/other")
open("/dev/null", "w").write("gone")
assert len(open("/dev/urandom", "rb").read(8)) == 8
""")
    assert execution.exit_code == 0, execution.output_tail
