import importlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox
from sandbox import cgroup, container, incubation, landlock, namespaces

probing = importlib.import_module("sandbox.probe")  # whose name in the package is the function's


@pytest.mark.usefixtures("needs_sandbox")
def test_this_machine_enforces_every_mechanism():
    found = sandbox.probe()
    assert found.holds, str(found)
    assert found.isolation == "full"
    assert str(found).splitlines()[-1] == "isolation: full"
    assert dict(found.tiers)[sandbox.Tier.FULL] == ""
    sandbox.require()


def test_where_nothing_is_contained_nothing_can_be_tried():
    with pytest.raises(ValueError, match="none"):
        sandbox.probe(sandbox.Tier.NONE)


def told(found, name):
    """What the probe's text says of a mechanism or tier."""
    return next(line for line in str(found).splitlines() if line.startswith(name))


@pytest.mark.usefixtures("needs_sandbox")
def test_what_is_weaker_but_holds_is_told_with_its_remedy(monkeypatch):
    missing = cgroup.Unavailable("no cgroups today", "come back tomorrow")
    monkeypatch.setattr(cgroup, "find_cgroups", lambda: missing)
    monkeypatch.setattr(probing, "_TASK", Path("/nowhere"))
    monkeypatch.setattr(container, "_ENGINES", ())
    found = sandbox.probe()
    assert found.holds
    memory = told(found, "memory and processes")
    assert "no cgroups today; memory is bounded for each process only" in memory
    assert "come back tomorrow" in memory
    assert "CONFIG_SCHED_INFO" in told(found, "waiting")
    assert "cannot be had: neither docker nor podman" in told(found, "tier container")


@pytest.mark.usefixtures("needs_sandbox")
def test_a_kernel_without_landlock_is_told_and_programs_run_all_the_same(monkeypatch):
    # As where the call is refused: rooms are told by what runs before they are contained.
    boot = incubation._BOOT.replace("from sandbox import incubator", ABSENT)
    monkeypatch.setattr(incubation, "_BOOT", boot)
    missing = landlock.NotThere("this kernel has no Landlock", "a newer one is needed")
    monkeypatch.setattr(landlock, "why_missing", lambda least_abi=1: missing)
    found = sandbox.probe()
    assert found.holds
    assert found.isolation == "full"
    assert "the first layer holds alone" in told(found, "Landlock")
    assert "this kernel has no Landlock" in told(found, "tier restricted") or os.getuid() == 0


ABSENT = "from sandbox import landlock, incubator; landlock.why_missing = lambda least_abi=1: "
ABSENT += "landlock.NotThere('this kernel has no Landlock', 'a newer one is needed')"


SETTINGS = {
    "sys/user/max_user_namespaces": ("0", "switched off", "sysctl user.max_user_namespaces"),
    "sys/kernel/unprivileged_userns_clone": ("0", "for root only", "unprivileged_userns_clone=1"),
    "sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "AppArmor", "`userns,`"),
    None: ("", "a container's policy refuses", "seccomp=unconfined"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_refused_namespace_is_explained_by_what_the_machine_says(name, tmp_path):
    value, reason, remedy = SETTINGS[name]
    if name is not None:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"{value}\n")
    proc = os.open(tmp_path, os.O_PATH)
    try:
        unavailable = namespaces.explain(PermissionError(1, "Operation not permitted"), proc)
    finally:
        os.close(proc)
    assert reason in unavailable.reason
    assert remedy in unavailable.remedy


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


def on_terminal(*arguments):
    """What it shows there."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-X", "utf8", "-m", "sandbox", *arguments],
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.usefixtures("needs_sandbox")
def test_the_command_line_runs_a_file(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print('hello'); raise SystemExit(4)")
    ran = command("run", str(program))
    assert ran.returncode == 1
    assert ran.stdout == "hello\n"
    assert "exit code 4" in ran.stderr
    assert "isolation full" in ran.stderr
    program.write_text("print('\\x1b]52;c;aGk=\\x07 \\u202e ä')", encoding="utf-8")
    assert command("run", str(program)).stdout == "\x1b]52;c;aGk=\x07 \u202e ä\n"
    assert on_terminal("run", str(program)) == "\\x1b]52;c;aGk=\\x07 \\u202e ä\r\n"
    missing = command("run", str(tmp_path / "missing.py"))
    assert missing.returncode == 2
    assert missing.stderr == f"{tmp_path / 'missing.py'}: No such file or directory\n"
    wrong = command("run", str(program), "--cpu-s", "-1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Limits.cpu_s must be")  # it is not the file's fault
