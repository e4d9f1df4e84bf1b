import os
import shutil
import subprocess
import sys

import pytest

import sandbox


@pytest.mark.usefixtures("needs_sandbox")
def test_this_machine_enforces_every_mechanism():
    found = sandbox.probe()
    assert found.holds, str(found)
    assert found.isolation == "full"
    assert str(found).splitlines()[-1] == "isolation: full"
    sandbox.require()


def without_namespaces(*arguments):
    """Run the command line where the number of user namespaces is limited to none."""
    own = f"--map-user={os.getuid()}"
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    return subprocess.run(
        ["unshare", "-U", own, "--keep-caps", "sh", "-c", script, "sh",
         sys.executable, "-m", "sandbox", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.skipif(not shutil.which("unshare"), reason="the control needs util-linux")
@pytest.mark.skipif(os.getuid() == 0, reason="root needs no user namespace to begin with")
def test_where_user_namespaces_are_off_nothing_runs_and_the_remedy_is_named(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print('it ran')")
    refused = without_namespaces("run", str(program))
    assert refused.returncode == 3
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "user namespaces are switched off; sudo sysctl user.max_user_" in refused.stderr
    probed = without_namespaces("probe")
    assert probed.returncode == 3
    assert "DOES NOT HOLD" in probed.stdout
    assert "not tried" in probed.stdout


@pytest.mark.usefixtures("needs_sandbox")
@pytest.mark.skipif(not shutil.which("unshare"), reason="util-linux is not on this machine")
def test_root_of_a_namespace_without_other_users_is_refused():
    refused = subprocess.run(
        ["unshare", "-U", "-r", sys.executable, "-c", "import sandbox; sandbox.require()"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "run as an ordinary user" in refused.stderr


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_other_systems_are_refused_with_a_pointer(system, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: system)
    with pytest.raises(sandbox.SandboxUnavailable, match="Linux virtual machine"):
        sandbox.run("pass")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sandbox", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.usefixtures("needs_sandbox")
def test_the_command_line_runs_a_file(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print('hello'); raise SystemExit(4)")
    ran = command("run", str(program))
    assert ran.returncode == 1
    assert ran.stdout == "hello\n"
    assert "exit code 4" in ran.stderr
    assert "isolation full" in ran.stderr
    missing = command("run", str(tmp_path / "missing.py"))
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
