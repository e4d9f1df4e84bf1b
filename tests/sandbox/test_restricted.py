"""The tier without namespaces: each refusal with its control, the same act by the same user."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

import sandbox
from sandbox import landlock
from sandbox.limits import Limits
from sandbox.namespaces import NOBODY
from sandbox.plan import Plan
from sandbox.profile import Profile
from sandbox.tier import Tier
from tests.sandbox.escape.attack import with_prelude
from tests.sandbox.rooms import interpreter_for_all, run_in_room

pytestmark = pytest.mark.skipif(
    landlock.abi() < landlock.TRUNCATE_SINCE, reason="needs Landlock, ABI 3 or newer"
)

USER = NOBODY if os.getuid() == 0 else os.getuid()


@pytest.fixture(scope="module")
def interpreter():
    found = interpreter_for_all()
    if found is None:
        pytest.skip("no interpreter that an ordinary user may run")
    return found


@pytest.fixture
def home():
    """A folder that belongs to whom the sample runs as, with a file; nothing protects it but us."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    (folder / "file").write_text("do not tell")
    (folder / "folder").mkdir()
    (folder / "workspace").mkdir()
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, USER, USER)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def other():
    """Another process of the same user."""
    with subprocess.Popen(["/bin/sleep", "60"], user=USER if os.getuid() == 0 else None) as process:
        yield process
        process.kill()


def plan_for(home, **changes):
    workspace = Path(tempfile.mkdtemp(dir=home))
    plan = Plan(Limits(), tier=Tier.RESTRICTED, workspace=str(workspace))
    return dataclasses.replace(plan, **changes)


def outside(program, interpreter, home):
    """The control: the same program by the same user, uncontained; so is its parent."""
    return subprocess.run(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", interpreter, "-I", "-S", "-c", program],
        cwd=home / "workspace",
        user=USER if os.getuid() == 0 else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


ACTS = {
    "read": "open(f'{home}/file').read()",
    "read by a link": "os.symlink(f'{home}/file', 'link'); open('link').read()",
    "read another user's": "open('/etc/passwd').read()",
    "list": "os.listdir(home)",
    "write": "open(f'{home}/file', 'w')",
    "append": "open(f'{home}/file', 'a')",
    "truncate": "os.truncate(f'{home}/file', 3)",
    "create": "open(f'{home}/new', 'x')",
    "make a folder": "os.mkdir(f'{home}/new')",
    "remove a folder": "os.rmdir(f'{home}/folder')",
    "rename": "os.rename(f'{home}/file', f'{home}/renamed')",
    "move in": "os.rename(f'{home}/file', 'moved')",
    "link in": "os.link(f'{home}/file', 'linked')",
    "move out": "open('own', 'w'); os.rename('own', f'{home}/own')",
    "remove": "os.unlink(f'{home}/file')",
    "change the mode": "os.chmod(f'{home}/file', 0o777)",
    "change the mode of a folder": "os.chmod(home, 0o711)",
    "change the times": "os.utime(f'{home}/file')",
    "change an attribute": "os.setxattr(f'{home}/file', 'user.name', b'x')",
    "change the owner": "os.chown(f'{home}/file', os.getuid(), os.getgid())",
    "read its own environment": "open('/proc/self/environ').read()",
    "look up processes": "os.listdir('/proc')",
    "start a process": "os.fork() or os._exit(0)",
    "run a program": "os.execv('/bin/true', ['true'])",
    "ask for a process": "os.kill(other, 0)",
    "stop a process": "os.kill(other, signal.SIGSTOP); os.kill(other, signal.SIGCONT)",
    "signal by a descriptor": "signal.pidfd_send_signal(os.pidfd_open(other), 0)",
    "signal a group": "os.kill(0, 0)",
    "signal everybody": "os.kill(-1, 0)",
    "signal the parent": "os.kill(os.getppid(), 0)",
    "limit a process": "resource.prlimit(other, resource.RLIMIT_NOFILE)",
    "slow a process down": "os.setpriority(os.PRIO_PROCESS, other, 19)",
    "move a process to a processor": "os.sched_setaffinity(other, {0})",
    "schedule a process": "os.sched_setscheduler(other, os.SCHED_OTHER, os.sched_param(0))",
    "trace": "assert libc.ptrace(0, 0, 0, 0) == 0",
    "tell where a process runs": "os.readlink(f'/proc/{other}/exe')",
    "reach the network": "socket.create_connection(('127.0.0.1', port))",
    "reach a unix socket": "socket.socket(socket.AF_UNIX).connect(f'{home}/server')",
    "offer a service": "socket.create_server(('127.0.0.1', 0))",
    "send a datagram": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'', f'{home}/server')",
    "share memory": "os.memfd_create('name')",
    "make a pipe with a name": "os.mkfifo('pipe')",
    "leave a key": "assert libc.syscall({'x86_64': 248, 'aarch64': 217}[os.uname().machine], "
    "b'user', b'name', b'x', 1, -2) > 0",
    "make a shared segment": "assert libc.shmctl(libc.shmget(0, 4096, 0o1600), 0, None) == 0",
    "write shared memory": "open('/dev/shm/sandbox-test', 'x'); os.unlink('/dev/shm/sandbox-test')",
}


@pytest.mark.parametrize("name", ACTS)
def test_it_refuses(name, home, other, interpreter):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(f"{home}/server")
        unix.listen()
        os.chmod(f"{home}/server", 0o777)  # noqa: PTH101
        places = f"home, other, port = {str(home)!r}, {other.pid}, {server.getsockname()[1]}\n"
        program = with_prelude(places + ACTS[name])
        ran = run_in_room(plan_for(home), program, interpreter=interpreter)
        assert ran.exit_code == 1, str(ran)
        assert (home / "file").read_text() == "do not tell"
        control = outside(program, interpreter, home)
        assert control.returncode == 0 or name == "send a datagram", control.stderr
        assert other.poll() is None


HONEST = {
    "files": "open('new', 'w').write('x'); os.mkdir('d'); os.rename('new', 'd/new'); "
    "assert open('d/new').read() == 'x'; os.unlink('d/new'); os.rmdir('d')",
    "tempfile": "import tempfile; tempfile.TemporaryFile().write(b'x'); "
    "tempfile.TemporaryDirectory().cleanup()",
    "threads": "import threading; t = threading.Thread(target=open, args=('new', 'w')); "
    "t.start(); t.join(); assert os.path.exists('new')",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0))",
    "itself": "import signal; signal.signal(15, print); os.kill(os.getpid(), 15); "
    "signal.raise_signal(15)",
    "imports": "import decimal, sqlite3, ssl, xml.dom.minidom, ctypes",
    "own limits": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); "
    "os.nice(0)",
    "devices": "open('/dev/null', 'w').write('x'); assert open('/dev/urandom', 'rb').read(1)",
    "library": "import os; assert os.listdir(os.path.dirname(os.__file__))",
}


@pytest.mark.parametrize("name", HONEST)
def test_it_lets_honest_programs_work(name, home, interpreter):
    ran = run_in_room(plan_for(home), f"import os\n{HONEST[name]}", interpreter=interpreter)
    assert ran.exit_code == 0, str(ran)


def test_its_steps_hold_and_no_namespace_is_among_them(home, interpreter):
    ran = run_in_room(plan_for(home), "", interpreter=interpreter)
    assert ran.exit_code == 0
    assert any(step.startswith("Landlock") for step in ran.held)
    assert not any("namespace" in step for step in ran.held)


def test_installed_packages_are_hidden_but_for_those_chosen(home, interpreter, tmp_path_factory):
    installed = Path(tempfile.mkdtemp(dir=home))
    for name in ("shown_one", "private_one"):
        (installed / f"{name}.py").write_text("name = 'x'")
    installed.chmod(0o755)
    plan = plan_for(home, packages=(str(installed / "shown_one.py"),))
    assert run_in_room(plan, "import shown_one", interpreter=interpreter).exit_code == 0
    hidden = run_in_room(plan, "import private_one", interpreter=interpreter)
    assert "Permission denied" in hidden.output
    program = "import sys, os; [os.listdir(p) for p in sys.path if p.endswith('-packages')]"
    assert run_in_room(plan_for(home), program, interpreter=interpreter).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "beforehand", "reason", "remedy"),
    [
        ({"profile": Profile(processes=True)}, "", "kept together", "full tier"),
        ({"workspace": None}, "", "no folder was made", "report"),
        ({}, "landlock.abi = lambda: 0", "has no Landlock", "CONFIG_SECURITY_LANDLOCK"),
        ({}, "landlock.abi = lambda: 2", "too old (ABI 2)", "Linux 6.2"),
    ],
)
def test_it_is_refused_where_it_cannot_hold(changes, beforehand, reason, remedy, home, interpreter):
    ran = run_in_room(
        plan_for(home, **changes),
        "",
        interpreter=interpreter,
        beforehand=f"from sandbox import landlock; landlock._call = lambda *_: 0; {beforehand}"
        if beforehand
        else "",
    )
    assert ran.exit_code is None
    assert ran.unavailable is not None
    assert reason in ran.unavailable[0]
    assert remedy in ran.unavailable[1]


def test_checks_need_no_folder(home, interpreter):
    plan = plan_for(home, workspace=None, for_checks=True)
    assert run_in_room(plan, "import json", interpreter=interpreter).exit_code == 0
    written = run_in_room(plan, f"open({str(home / 'new')!r}, 'w')", interpreter=interpreter)
    assert "Permission denied" in written.output


@pytest.mark.parametrize("ends", [True, False], ids=["", "control"])
def test_a_sample_ends_with_its_zygote(ends, home, interpreter):
    plan = plan_for(home)
    said = Path(plan.workspace, "pid")
    rooms = []

    def kill_the_zygote_when_the_sample_runs():
        while not (said.exists() and said.read_text()):
            time.sleep(0.01)
        os.kill(rooms[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_zygote_when_the_sample_runs)
    killer.start()
    program = """
import os, time
open("pid", "w").write(str(os.getpid()))
os.closerange(0, 64)  # or whoever waits for its output would wait for its end
time.sleep(20)
"""
    lets_live = "from sandbox import namespaces; namespaces.die_with = lambda parent: None"
    run_in_room(
        plan,
        program,
        interpreter=interpreter,
        beforehand="" if ends else lets_live,
        on_start=rooms.append,
    )
    killer.join()
    pid = int(said.read_text())
    deadline_s = time.monotonic() + (10 if ends else 1)
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert is_alive(pid) is not ends
    if not ends:
        os.kill(pid, signal.SIGKILL)


HARNESS = """
import sys
from sandbox import Limits, Pool, Tier, incubation
if sys.argv[1] != "removed":  # the control
    forgetful = "incubator.zygote.remove = lambda folder: None\\nincubator.main"
    incubation._BOOT = incubation._BOOT.replace("incubator.main", forgetful)
mess = "import os, time; os.makedirs('a/b'); open('a/b/c', 'w').close(); time.sleep(60)"
with Pool(Limits(cpu_s=5), 2, tier=Tier.RESTRICTED) as pool:
    print("ready", flush=True)
    list(pool.run_all([mess, mess]))
"""


@pytest.mark.parametrize("is_removed", [True, False], ids=["", "control"])
def test_no_folder_is_left_where_the_harness_is_killed(is_removed, home, interpreter):
    shutil.copytree(Path(sandbox.__file__).parent, home / "package" / "sandbox")
    temporary = home / "folder"
    with subprocess.Popen(
        [interpreter, "-B", "-c", HARNESS, "removed" if is_removed else "left"],
        env={"PYTHONPATH": str(home / "package"), "TMPDIR": str(temporary)},
        user=USER if os.getuid() == 0 else None,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: len(files_in(temporary)) == 2)
        process.kill()
    if is_removed:
        wait_until(lambda: not [*temporary.iterdir()])
    else:
        wait_until(lambda: not files_in(temporary))
        assert [*temporary.iterdir()]


def files_in(folder):
    """Unlike `rglob`, `walk` passes over folders that are removed meanwhile."""
    return [file for _, _, files in os.walk(folder) for file in files]


def wait_until(condition, timeout_s=20.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.02)


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_half_of_the_users_processes_are_left_to_the_user(home, interpreter):
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[1])"
    outer = int(outside(program, interpreter, home).stdout)
    inner = int(run_in_room(plan_for(home), program, interpreter=interpreter).output)
    soft = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"
    assert inner == int(outside(soft, interpreter, home).stdout) // 2 or outer == inner == -1


@pytest.mark.skipif(os.getuid() != 0, reason="it is root's folders that others may not read")
def test_root_is_told_where_an_ordinary_user_may_not_read_the_interpreter(home, interpreter):
    private = Path(tempfile.mkdtemp(dir=home))
    copied = private / "python"
    shutil.copy(interpreter, copied)
    private.chmod(0o700)
    ran = run_in_room(plan_for(home), "", interpreter=str(copied))
    assert ran.exit_code is None
    assert "may not read" in ran.unavailable[0]
    assert "do not run as root" in ran.unavailable[1]
