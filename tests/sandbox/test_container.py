"""Tier.CONTAINER, with a stand-in for the engine; what that cannot show is told in its module."""

import asyncio
import http.server
import io
import json
import logging
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest

from sandbox import (
    AsyncPool,
    Checks,
    ContainerOptions,
    Ending,
    Limits,
    Outcome,
    Pool,
    Profile,
    Program,
    SandboxUnavailable,
    Tier,
    call,
    container,
    probe,
    run,
)

IMAGE = "python:3.12-slim"
INTERPRETER = sys._base_executable
LIMITS = Limits(cpu_s=0.5, wall_s=10, tmp_bytes=4 << 20, tmp_files=256, max_processes=16)

pytestmark = pytest.mark.usefixtures("needs_sandbox")
needs_bubblewrap = pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not here")


class StandIn:
    """An engine on PATH, its settings, and what it knows."""

    def __init__(self, folder: Path, name: str = "docker") -> None:
        self.folder = folder
        self.settings = {"images": {IMAGE: INTERPRETER}}
        folder.chmod(0o755)
        for inner in ("containers", "files", "bin"):
            (folder / inner).mkdir()
        self.set()
        script = Path(__file__).with_name("engine_stand_in.py")
        started = f'exec {INTERPRETER} -I -S {script} {folder} "$@"'
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{started}\n")
        (folder / "bin" / name).chmod(0o755)

    def set(self, **changes: object) -> None:
        self.settings |= changes
        (self.folder / "settings.json").write_text(json.dumps(self.settings))

    @property
    def containers(self) -> dict[str, int]:
        """Names of those that run, with their first processes' numbers."""
        paths = [*(self.folder / "containers").iterdir()]
        return {path.name: int(text) for path in paths if (text := path.read_text())}

    @property
    def is_empty(self) -> bool:
        return not any((self.folder / "containers").iterdir()) and not any(
            (self.folder / "files").iterdir()
        )

    def asked(self, verb: str) -> list[list[str]]:
        lines = map(json.loads, (self.folder / "asked").read_text().splitlines())
        return [arguments for said, *arguments in lines if said == verb]


def install(stand_in: StandIn, patch: pytest.MonkeyPatch) -> None:
    for name in ("ENGINE", "IMAGE", "RUNTIME"):
        patch.delenv(f"SANDBOX_{name}", raising=False)
    patch.setenv("PATH", str(stand_in.folder / "bin"), prepend=":")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path)
    install(stand_in, monkeypatch)
    return stand_in


@pytest.fixture(scope="module")
def container_pool(tmp_path_factory):
    stand_in = StandIn(tmp_path_factory.mktemp("engine"))
    with pytest.MonkeyPatch.context() as patch:
        install(stand_in, patch)
        made = Pool(LIMITS, 2, tier=Tier.CONTAINER)
    with made:
        yield made
    assert stand_in.is_empty


def one(limits=LIMITS, **options):
    return Pool(limits, 1, tier=Tier.CONTAINER, **options)


def ask_for_one(engine, **options):
    """All that is asked of an engine for a container, which then has no image for it."""
    engine.set(images={})
    with pytest.raises(SandboxUnavailable, match="No such image"):
        one(**options)


def wait_until(condition, timeout_s=15.0):
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.02)


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# What an examination comes to in a room must be what it comes to in a container.
EXAMINED = {
    "right": ("def f(x): return x", "assert f(1) == 1", Outcome.HELD),
    "wrong": ("def f(x): return x + 1", "assert f(1) == 1", Outcome.FAILED),
    "raises": ("def f(x): raise KeyError(x)", "assert f(1) == 1", Outcome.RAISED),
    "no syntax": ("def f(x) return x", "assert f(1) == 1", Outcome.SYNTAX_ERROR),
    "undefined": ("def g(x): return x", "assert f(1) == 1", Outcome.UNDEFINED),
    "calls that depend on answers": (
        "def f(x): return [*range(x)]",
        "for x in f(3):\n    assert f(x) == [*range(x)]",
        Outcome.HELD,
    ),
    "broken checks": ("def f(x): return x", "assert f(1 ==", Outcome.CHECKS_BROKEN),
    "beside": ("x = [1]", "assert x.pop() == 1", Outcome.HELD),
    "exits": ("import os\ndef f(x): os._exit(0)", "assert f(1) == 1", Outcome.ENDED),
    "loops": ("def f(x):\n    while True: pass", "assert f(1) == 1", Outcome.ENDED),
    "takes all memory": ("def f(x): return bytearray(1 << 40)", "assert f(1) == 1", Outcome.ENDED),
    "equals everything": (
        "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
        "assert f(1) == 1",
        Outcome.FAILED,
    ),
    "says what checks say": (
        "import json, os\n"
        "for fd in range(3, 64):\n"
        "    try: os.write(fd, json.dumps({'outcome': 'held', 'detail': '', 'raised': ''})"
        ".encode())\n"
        "    except OSError: pass\n"
        "def f(x): os._exit(0)",
        "assert f(1) == 1",
        Outcome.ENDED,
    ),
    "says what relays say": (
        "import json, os, struct\n"
        "for number in range(1000):\n"
        "    body = json.dumps({'job': number, 'examination': {'outcome': 'held', 'detail': ''},"
        " 'execution': {}}).encode()\n"
        "    for fd in range(64):\n"
        "        try: os.write(fd, struct.pack('!I', len(body)) + body)\n"
        "        except OSError: pass\n"
        "def f(x): os._exit(0)",
        "assert f(1) == 1",
        Outcome.RAISED,  # one of them is where its answers go, which make no sense now
    ),
    "ends whoever judges it": (
        "import os, signal\n"
        "for pid in (os.getppid(), 0, -1, *range(2, 400)):\n"
        "    try: os.kill(pid, signal.SIGTERM)\n"
        "    except OSError: pass\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def f(x): return 0",
        "assert f(1) == 1",
        Outcome.FAILED,
    ),
}


@pytest.mark.parametrize("name", EXAMINED)
def test_an_examination_comes_to_the_same_as_in_a_room(name, pool, container_pool):
    source, checks, outcome = EXAMINED[name]
    pair = source, Checks(checks, beside=name == "beside")
    (inside,) = container_pool.examine_all([pair])
    (in_room,) = pool.examine_all([pair])
    assert (inside.outcome, inside.detail) == (in_room.outcome, in_room.detail)
    assert inside.outcome is outcome
    if outcome is not Outcome.CHECKS_BROKEN:  # the program may or may not have ended by then
        assert inside.execution.ending is in_room.execution.ending
    assert inside.is_weak is in_room.is_weak is (name == "beside")
    assert inside.execution.isolation == "container"


RUN = {
    "exits": ("print('out'); raise SystemExit(3)", Ending.EXITED),
    "is ended by a signal": ("import ctypes; ctypes.string_at(0)", Ending.SIGNALLED),
    "takes too long": ("while True: pass", Ending.TIMED_OUT_CPU),
    "waits too long": ("import time; time.sleep(60)", Ending.TIMED_OUT_WALL),
    "takes too much memory": ("bytearray(1 << 40)", Ending.OUT_OF_MEMORY),
    "says too much": ("while True: print('x' * 10000)", Ending.TOO_MUCH_OUTPUT),
    "starts a process": ("import os; os.fork()", Ending.BLOCKED),
    "opens a socket": ("import socket; socket.socket()", Ending.BLOCKED),
}


@pytest.mark.parametrize("name", RUN)
def test_a_program_ends_as_in_a_room(name, pool, container_pool):
    source, ending = RUN[name]
    limits = Limits(cpu_s=0.5, wall_s=1, tmp_bytes=LIMITS.tmp_bytes, tmp_files=LIMITS.tmp_files)
    (inside,) = container_pool.run_all([(source, limits)])
    (in_room,) = pool.run_all([(source, limits)])
    assert inside.ending is in_room.ending is ending, inside.output_tail
    assert (inside.exit_code, inside.signal) == (in_room.exit_code, in_room.signal)
    assert inside.output_head == in_room.output_head
    assert inside.peak_memory_bytes > 0


def test_what_a_program_is_given_arrives_however_large_it_is(container_pool):
    program = Program(
        "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[-1000000:]);"
        "print(open('in/file').read(), sys.argv[1:], ascii('ä'), file=sys.stderr)",
        stdin=bytes(range(256)) * 20_000,
        files={"in/file": b"content"},
        argv=("a", "ä"),
        keeps_output=True,
    )
    (execution,) = container_pool.run_all([program])
    assert execution.exit_code == 0, execution.output_tail
    assert execution.stdout == (bytes(range(256)) * 20_000)[-1_000_000:]
    assert execution.output_tail == "content ['a', 'ä'] '\\xe4'\n"


def test_a_function_is_called_with_plain_data_and_answers_it(engine):
    source = "class A: pass\ndef f(*given): return [given, {1: (2.5, b'x')}, A]"
    answer = call(source, "f", {1, 2}, "\ud800", tier=Tier.CONTAINER)
    assert answer.value[:2] == [({1, 2}, "\ud800"), {1: (2.5, b"x")}]
    assert answer.value[2].kind == "type"
    assert (answer.raised, answer.execution.isolation) == ("", "container")
    assert call("", "f", tier=Tier.CONTAINER).raised == "the program does not define f"
    with pytest.raises(ValueError, match="plain data"):
        call(source, "f", object(), tier=Tier.CONTAINER)
    assert engine.is_empty


def test_many_programs_come_in_order_and_an_iteration_may_be_left(container_pool):
    programs = [f"import time; time.sleep({0.1 * (i % 3)}); print({i})" for i in range(12)]
    executions = container_pool.run_all(programs)
    assert [e.output_tail for e in executions] == [f"{i}\n" for i in range(12)]
    for _ in container_pool.run_all(["pass", *["import time; time.sleep(60)"] * 3]):
        break
    started_s = time.monotonic()
    assert next(container_pool.run_all(["print(1)"])).output_tail == "1\n"
    assert time.monotonic() - started_s < 30


def test_an_asynchronous_pool_works_too(engine):
    async def work():
        async with AsyncPool(LIMITS, 2, tier=Tier.CONTAINER) as pool:
            return await asyncio.gather(*(pool.run(f"print({i})") for i in range(6)))

    assert [e.output_tail for e in asyncio.run(work())] == [f"{i}\n" for i in range(6)]
    assert engine.is_empty


def test_packages_are_those_of_the_image(engine):
    pytest.importorskip("numpy")
    engine.set(images={IMAGE: sys.executable})
    profile = Profile(imports=("numpy",))
    execution = run("import numpy; print(numpy.arange(3))", tier=Tier.CONTAINER, profile=profile)
    assert execution.output_tail == "[0 1 2]\n"
    profile = Profile(imports=("no_such_module",))
    with pytest.raises(SandboxUnavailable, match=r"in a container: .*no_such_module is not"):
        run("pass", tier=Tier.CONTAINER, profile=profile)


# What containment inside comes to


def change_package(monkeypatch, **additions):
    """Let other code run in containers, by what is added to each module."""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(container._package())) as whole,
        zipfile.ZipFile(changed, "w") as archive,
    ):
        for name in whole.namelist():
            more = additions.get(name.removesuffix(".py"), "")
            archive.writestr(name, whole.read(name) + more.encode())
    monkeypatch.setattr(container, "_package", changed.getvalue)


NO_LANDLOCK = """
def abi():
    return 0
"""
NO_NAMESPACES = """
def enter_outer(proc):
    raise SandboxUnavailable("no namespaces today", "come back tomorrow")
"""
DIES = """
def job_of(order, tier):
    raise SystemExit(1)
"""
LIES = """
def result_of(job):
    return {"job": job.number, "execution": {"ending": "exited"}}
"""


# What a program could do to its judge in the same container, but for its room …
ATTACKS = {
    "write to the relay's output": "os.open('/proc/1/fd/1', os.O_WRONLY)",
    "write its memory": "open('/proc/1/mem', 'r+b')",
    "write any process's memory": "hit = []\n"
    "for pid in {*os.listdir('/proc')} - {str(os.getpid()), 'self', 'thread-self'}:\n"
    "    try: hit += open(f'/proc/{pid}/mem', 'r+b'),\n"
    "    except OSError: pass\n"
    "assert hit",
    "read its environment": "open('/proc/1/environ', 'rb').read()",
    "signal it": "assert os.getpid() != 1; os.kill(1, 0)",
    "change this code": "open('/sandbox/relay.py', 'r+')",
    "make way for other code": "os.chmod('/sandbox', 0o700)",
    "start a process": "os.fork()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "open a socket": "socket.socket()",
}
# … and what the container's own walls are there for.
LEFT = {
    "a file": "open('/left', 'w')",
    "a file in memory": "assert not os.path.islink('/dev/shm'); open('/dev/shm/left', 'w')",
    "a file where all may write": "open('/var/tmp/left', 'w')",
}


@needs_bubblewrap
@pytest.mark.parametrize("kind", ["namespaces", "landlock", "neither"])
def test_the_strongest_tier_is_used_that_a_container_allows(kind, engine, monkeypatch):
    engine.set(bubblewrap=[] if kind == "namespaces" else ["--disable-userns"])
    if kind == "neither":
        change_package(monkeypatch, landlock=NO_LANDLOCK)
    with one() as pool:
        steps = pool._engine.steps_held
        assert steps[0].startswith(f"the {'full' if kind == 'namespaces' else 'restricted'} tier")
        assert any("Landlock" in step for step in steps) is (kind != "neither")
        acts = ATTACKS | LEFT
        programs = [f"import os, socket\n{act}" for act in acts.values()]
        for name, execution in zip(acts, pool.run_all(programs), strict=True):
            assert execution.exit_code == 1 or execution.ending is Ending.BLOCKED, name
        left, found = pool.run_all(["open('left', 'w')", "import os; print(os.listdir('.'))"])
        assert left.exit_code == 0
        assert found.output_tail == "[]\n"
        pairs = [(source, Checks(checks)) for source, checks, _ in EXAMINED.values()][:3]
        outcomes = [examination.outcome for examination in pool.examine_all(pairs)]
        assert outcomes == [outcome for *_, outcome in EXAMINED.values()][:3]
    assert engine.is_empty


@needs_bubblewrap
@pytest.mark.parametrize("name", ATTACKS)
def test_without_a_room_the_attack_succeeds_in_the_same_container(name, engine):
    """The control: as the same user, beside the container's first process."""
    engine.set(bubblewrap=["--disable-userns"])
    client = container.find_engine()
    start = container.command(client, ContainerOptions(), LIMITS, Profile(), "control")
    start[start.index(container._BOOT)] = textwrap.dedent("""
        import os, socket
        open("/sandbox/relay.py", "w").close()
        if os.fork() == 0:
            exec({!r})
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """).format(ATTACKS[name])
    subprocess.run(start, stdin=subprocess.DEVNULL, check=True, timeout=60)


def test_a_container_with_more_to_write_is_refused_without_landlock(engine, monkeypatch):
    # As nothing is around this one, all that the host has can be written in it.
    change_package(monkeypatch, landlock=NO_LANDLOCK, namespaces=NO_NAMESPACES)
    with pytest.raises(SandboxUnavailable) as refused:
        one()
    assert "not full: no namespaces today; not restricted: " in str(refused.value)
    may_write = "without Landlock, programs may be able to write"
    assert may_write in str(refused.value) or "may not read" in str(refused.value)
    assert engine.is_empty


@needs_bubblewrap
@pytest.mark.parametrize("kind", ["landlock", "neither"])
def test_a_volume_of_the_image_is_out_of_reach_or_refused(kind, engine, monkeypatch):
    engine.set(bubblewrap=["--disable-userns", "--tmpfs", "/volume"])
    if kind == "landlock":
        execution = run("open('/volume/left', 'w')", tier=Tier.CONTAINER)
        assert "Permission denied: '/volume/left'" in execution.output_tail
        return
    change_package(monkeypatch, landlock=NO_LANDLOCK)
    with pytest.raises(SandboxUnavailable, match="programs may be able to write /volume"):
        one()


def test_processes_are_allowed_where_they_can_be_kept_together(engine, monkeypatch):
    profile = Profile(processes=True)
    forking = "import os; os.wait() if os.fork() else os._exit(0)"
    execution = run(forking, LIMITS, profile=profile, tier=Tier.CONTAINER)
    assert execution.exit_code == 0, execution.output_tail
    change_package(monkeypatch, namespaces=NO_NAMESPACES)
    with pytest.raises(SandboxUnavailable, match="cannot be kept together"):
        one(profile=profile)


# The engine


def test_the_command_line_is_this():
    docker = container.Client("/usr/bin/docker", is_podman=False)
    limits = Limits(memory_bytes=100, output_bytes=10, tmp_bytes=1000, tmp_files=7, max_processes=5)
    assert container.command(docker, ContainerOptions(), limits, Profile(), "name") == [
        "/usr/bin/docker",
        "run",
        "--rm",
        "--interactive",
        "--pull=never",
        "--name=name",
        "--network=none",
        "--ipc=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--user=65534:65534",
        "--pids-limit=37",
        "--memory=402654404",
        "--memory-swap=402654404",
        "--ulimit=nofile=1024:1024",
        "--tmpfs=/tmp:size=1000,nr_inodes=7,mode=700,uid=65534,gid=65534,noexec,nosuid,nodev",
        "--tmpfs=/sandbox:size=8388608,nr_inodes=1024,mode=700,uid=65534,gid=65534"
        ",noexec,nosuid,nodev",
        "--log-driver=none",
        "--no-healthcheck",
        "--workdir=/",
        "--entrypoint=python3",
        "python:3.12-slim",
        "-I",
        "-S",
        "-c",
        container._BOOT,
        "/sandbox",
        "/tmp",
    ]
    podman = container.Client("podman", is_podman=True)
    options = ContainerOptions(image="mine", runtime="runsc")
    profile = Profile(imports=("numpy",), interpreter="/opt/python")
    command = container.command(podman, options, limits, profile, "name")
    assert "--runtime=runsc" in command
    assert "--tmpfs=/tmp:size=1000,mode=1777,notmpcopyup,noexec,nosuid,nodev" in command
    assert {"--read-only-tmpfs=false", "--http-proxy=false"} <= {*command}
    after = command[command.index("--entrypoint=/opt/python") :]
    assert after[1:4] == ["mine", "-I", "-c"]


class Daemon(http.server.BaseHTTPRequestHandler):
    """As much of docker's as it takes to be asked for a container, and to refuse it."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[dict[str, object]]]

    def do_GET(self):
        self.answer(200, {"ApiVersion": "1.43", "Version": "25.0"})

    do_HEAD = do_GET

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(404, {"message": f"No such image: {IMAGE}"})

    def answer(self, status, content):
        body = json.dumps(content).encode() if self.command != "HEAD" else b""
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Api-Version": "1.43",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.skipif(not shutil.which("docker"), reason="docker's client is not here")
def test_dockers_own_client_asks_its_daemon_for_what_is_meant(tmp_path, monkeypatch):
    address = tmp_path / "docker.sock"
    Daemon.asked = []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("SANDBOX_ENGINE", "docker")
    monkeypatch.setenv("SANDBOX_RUNTIME", "runsc")
    with socketserver.ThreadingUnixStreamServer(str(address), Daemon) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(SandboxUnavailable) as refused:
                one()
        finally:
            server.shutdown()
    assert f"Error response from daemon: No such image: {IMAGE})" in refused.value.reason
    assert refused.value.remedy == f"docker pull {IMAGE}"
    asked = Daemon.asked[0]
    mounts = asked["HostConfig"]["Tmpfs"]
    assert [*mounts] == ["/sandbox", "/tmp"]
    assert all(mount.endswith(",noexec,nosuid,nodev") for mount in mounts.values())
    expected = {
        "User": "65534:65534", "Entrypoint": ["python3"], "Image": IMAGE, "Env": None,
        "OpenStdin": True, "StdinOnce": True, "Tty": False, "Volumes": {},
        "Healthcheck": {"Test": ["NONE"]},
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected
    host = {
        "AutoRemove": True, "CapAdd": None, "CapDrop": ["ALL"], "IpcMode": "none",
        "NetworkMode": "none", "ReadonlyRootfs": True, "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": 48, "Memory": 1482686464, "MemorySwap": 1482686464, "Runtime": "runsc",
        "LogConfig": {"Type": "none", "Config": {}}, "Binds": None, "Privileged": False,
        "Ulimits": [{"Name": "nofile", "Hard": 1024, "Soft": 1024}],
    }  # fmt: skip
    assert {name: asked["HostConfig"][name] for name in host} == host


def test_the_environment_and_the_profile_say_what_is_started(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBOX_IMAGE", "a")
    monkeypatch.setenv("SANDBOX_RUNTIME", "runsc")
    monkeypatch.setenv("SANDBOX_ENGINE", str(tmp_path / "bin" / "docker"))
    ask_for_one(engine)
    ask_for_one(engine, profile=Profile(container=ContainerOptions(image="b", runtime="runc")))
    first, second = engine.asked("run")
    assert {"a", "--runtime=runsc"} <= {*first}
    assert {"b", "--runtime=runc"} <= {*second}


def test_podman_is_known_by_what_it_says_not_by_its_name(engine):
    engine.set(version="Client:       Podman Engine\nVersion:      5.4.2")
    ask_for_one(engine)
    engine.set(version="Client: Docker Engine\nServer: linux/amd64\n Podman Engine:")
    ask_for_one(engine)
    podman, docker = engine.asked("run")
    assert "--read-only-tmpfs=false" in podman
    assert "--read-only-tmpfs=false" not in docker


def test_an_engine_that_does_not_answer_is_passed_over_for_one_that_does(engine, monkeypatch):
    engine.set(refuses={"version": "Is the docker daemon running?"})
    other = engine.folder / "other"
    other.mkdir()
    podman = StandIn(other, name="podman")
    monkeypatch.setenv("PATH", str(other / "bin"), prepend=":")
    ask_for_one(podman)
    assert len(podman.asked("run")) == 1


DAEMON = "Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?\n"
REFUSED = "docker: Error response from daemon: unknown or invalid runtime name: runsc\n\n"


@pytest.mark.parametrize(
    ("changes", "environment", "reason", "remedy"),
    [
        ({"refuses": {"version": DAEMON}}, {}, f"docker says: {DAEMON.strip()}", "docker version"),
        ({}, {"ENGINE": "no-such"}, "no-such is not installed", "SANDBOX_ENGINE"),
        (
            {"refuses": {"run": f"{REFUSED}Run 'docker run --help' for more information\n"}},
            {"RUNTIME": "runsc"},
            f"docker cannot start a container ({REFUSED.strip()})",
            "`docker run --rm python:3.12-slim python3 --version` must work",
        ),
        ({}, {"IMAGE": "mine"}, "No such image: mine", "docker pull mine"),
        ({"images": {IMAGE: "/bin/false"}}, {}, "it says nothing", "3.11 or newer"),
        ({"images": {IMAGE: "/bin/echo"}}, {}, "it says nothing", "3.11 or newer"),
        ({"images": {IMAGE: "{folder}/old"}}, {}, "its Python is 3.9", "3.11 or newer"),
    ],
)  # fmt: skip
def test_what_an_engine_refuses_is_told_in_a_line(
    changes, environment, reason, remedy, engine, monkeypatch
):
    old = engine.folder / "old"
    boot = "import sys; sys.version_info = (3, 9); exec(sys.argv[4])"
    old.write_text(f"#!/bin/sh\nexec {INTERPRETER} -c '{boot}' \"$@\"\n")
    old.chmod(0o755)
    engine.set(**json.loads(json.dumps(changes).replace("{folder}", str(engine.folder))))
    for name, value in environment.items():
        monkeypatch.setenv(f"SANDBOX_{name}", value)
    with pytest.raises(SandboxUnavailable) as refused:
        one()
    assert reason in refused.value.reason
    assert remedy in refused.value.remedy
    assert "\n" not in str(refused.value)
    assert engine.is_empty


def test_without_any_engine_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="neither docker nor podman is installed; make"):
        run("pass", tier=Tier.CONTAINER)


def test_the_probe_says_what_holds_inside(engine):
    found = probe(Tier.CONTAINER)
    assert found.holds, str(found)
    assert found.isolation == "container"
    assert "inside: the full tier, by Python" in str(found)
    assert dict(found.tiers)[Tier.CONTAINER] == ""
    engine.set(images={})
    refused = probe(Tier.CONTAINER)
    assert not refused.holds
    assert f"DOES NOT HOLD: docker cannot start a container ({NO_IMAGE}" in str(refused)
    assert str(refused).splitlines()[-1].startswith("isolation: container cannot be had")
    assert engine.is_empty


NO_IMAGE = f"docker: Error response from daemon: No such image: {IMAGE}"


# Loss


def test_a_container_that_dies_is_replaced_and_its_program_run_again(engine, caplog):
    with one() as pool:
        (pid,) = engine.containers.values()
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        executions = list(pool.run_all(["import time; time.sleep(1); print(1)", "print(2)"]))
        assert [execution.output_tail for execution in executions] == ["1\n", "2\n"]
        (pid,) = engine.containers.values()
        os.kill(pid, signal.SIGKILL)  # while it has nothing to do
        assert next(pool.run_all(["print(3)"])).output_tail == "3\n"
    assert caplog.text.count("a container was lost and is replaced") == 2
    assert engine.is_empty


def test_a_program_whose_container_dies_twice_is_given_up(engine, monkeypatch, caplog):
    change_package(monkeypatch, frames=DIES)
    with one() as pool:
        (execution,) = pool.run_all(["pass"])
        assert (execution.ending, execution.isolation) == (Ending.CRASHED, "container")
        (examination,) = pool.examine_all([("pass", Checks(""))])
        assert examination.outcome is Outcome.ENDED
    assert caplog.text.count("a container was lost and is replaced") == 4
    assert engine.is_empty


def test_a_container_that_hangs_is_replaced(engine, monkeypatch):
    change_package(monkeypatch, frames="PULSE_S = 0.2")
    monkeypatch.setattr(container, "_GRACE_S", 2.0)
    with one() as pool:
        (pid,) = engine.containers.values()
        waiting = "import time; time.sleep(2.5); print(1)"  # longer than that, and no hang
        assert next(pool.run_all([waiting])).output_tail == "1\n"
        threading.Timer(0.5, os.kill, (pid, signal.SIGSTOP)).start()
        executions = list(pool.run_all(["import time; time.sleep(1); print(1)", "print(2)"]))
        assert [execution.output_tail for execution in executions] == ["1\n", "2\n"]
        assert not is_alive(pid)
        assert len(engine.asked("rm")) == 1
    assert engine.is_empty


def test_one_that_says_what_no_relay_says_is_replaced(engine, monkeypatch, caplog):
    change_package(monkeypatch, frames=LIES)
    with one() as pool:
        (execution,) = pool.run_all(["pass"])
    assert execution.ending is Ending.CRASHED
    assert caplog.text.count("a container was lost and is replaced") == 2
    assert engine.is_empty


# What is left


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_harness_is_ended(number, engine):
    harness = textwrap.dedent("""
        import signal
        from sandbox import Limits, Pool, Tier
        # Ignored where the tests run in the background of a shell.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Pool(Limits(cpu_s=60), 2, tier=Tier.CONTAINER) as pool:
            print("ready", flush=True)
            list(pool.run_all(["import time; time.sleep(600)", "while True: pass"]))
    """)
    with subprocess.Popen(
        [sys.executable, "-c", harness],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        pids = engine.containers.values()
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        process.send_signal(number)
        process.wait(20)
    wait_until(lambda: engine.is_empty)
    assert not any(map(is_alive, pids))


def test_what_a_dead_harness_left_is_removed_and_nothing_else(engine, caplog):
    machine = container._machine()
    living = f"sandbox-{machine}-{os.getpid()}-{container._started_at(os.getpid())}-7"
    elsewhere = "sandbox-0123456789ab-1-1-0"
    for name in (f"sandbox-{machine}-1-1-0", living, elsewhere, "sandbox-of-somebody-else"):
        (engine.folder / "containers" / name).touch()
    with caplog.at_level(logging.WARNING):
        ask_for_one(engine)
    assert {path.name for path in (engine.folder / "containers").iterdir()} == {
        living,
        elsewhere,
        "sandbox-of-somebody-else",
    }
    assert "1 containers of a harness that has ended" in caplog.text


def test_no_descriptor_is_left(engine):
    def num_descriptors():
        return len([*Path("/proc/self/fd").iterdir()])

    run("pass", tier=Tier.CONTAINER)
    before = num_descriptors()
    with one() as pool:
        iteration = pool.run_all(["pass", "import time; time.sleep(60)"])
        next(iteration)
        os.kill(next(iter(engine.containers.values())), signal.SIGKILL)
        del iteration
    assert num_descriptors() == before
