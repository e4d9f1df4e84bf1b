"""The host's side of an attack: what it is after, and what shows that it was there."""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ENVIRONMENT = "SANDBOX_ESCAPE_BAIT"
_SECRET = "the crown jewels"
_IPC_CREAT = 0o1000
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PTRACER = 0x59616D61
_PR_SET_CHILD_SUBREAPER = 36
_VICTIM = f"""
import ctypes
ctypes.CDLL(None).prctl({_PR_SET_PTRACER}, ctypes.c_ulong(-1))  # anybody may trace it
secret = b"{_SECRET}"
print(id(secret), flush=True)
input()
"""


class Bait:
    """Made anew for each attack; attributes in `known` are what its program knows as ``bait``.

    What costs time is made only for programs that mention it.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program
        self._token = secrets.token_hex(8)
        self._victim: subprocess.Popen[bytes] | None = None
        self._listeners: list[socket.socket] = []
        self.known: dict[str, object] = {}
        folder.chmod(0o777)
        self._lay_out()

    def _lay_out(self) -> None:
        folder, token = self._folder / "bait", self._token
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "secret").write_text(_SECRET)
        (folder / "secret").chmod(0o666)
        (folder / "private").write_text(_SECRET)
        (folder / "private").chmod(0o600)
        self.known = {
            "says": _SECRET,
            "secret": str(folder / "secret"),
            "private": str(folder / "private"),
            "folder": str(folder),
            "environment": ENVIRONMENT,
            "hostname": socket.gethostname(),
            "harness": os.getpid(),
            "token": token,
            "shm": f"/dev/shm/{token}",
            "key": int(token[:7], 16),
        }
        if any(f"bait.{kind}" in self._program for kind in ("tcp", "udp", "abstract", "path")):
            self._listen(folder)
        if "bait.victim" in self._program:
            self._make_victim()
        self._before = self._look()

    def _listen(self, folder: Path) -> None:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        abstract, path, datagram = (
            socket.socket(socket.AF_UNIX, kind)
            for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)
        )
        abstract.bind(f"\0{self._token}")
        path.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        datagram.bind(f"\0{self._token}-datagram")
        for listener in (abstract, path):
            listener.listen()
        self._listeners = [tcp, udp, abstract, path, datagram]
        for listener in self._listeners:
            listener.setblocking(False)
        self.known |= {
            "tcp": tcp.getsockname(),
            "udp": udp.getsockname(),
            "abstract": f"\0{self._token}",
            "abstract_datagram": f"\0{self._token}-datagram",
            "path": str(folder / "socket"),
        }

    def _make_victim(self) -> None:
        self._victim = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _VICTIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._victim.stdout is not None
        self.known["victim"] = self._victim.pid
        self.known["victim_secret_at"] = int(self._victim.stdout.readline())

    def renew(self) -> None:
        """After the control, which may have taken or destroyed it."""
        self.clear_away()
        self._lay_out()

    def as_code(self) -> str:
        return f"bait = SimpleNamespace(**{self.known!r})\n"

    def touched(self) -> list[str]:
        """What somebody did to it."""
        found = self._look()
        return [f"{what}: {found[what]}" for what in found if found[what] != self._before.get(what)]

    def _look(self) -> dict[str, object]:
        folder = self._folder / "bait"
        status = folder.stat()
        found: dict[str, object] = {
            "the folder": (stat.filemode(status.st_mode), status.st_uid, status.st_mtime_ns),
            "files beside it": sorted(entry.name for entry in self._folder.iterdir()),
            "connections": self._num_connections(),
            "shared memory": Path(f"/dev/shm/{self._token}").exists(),
            "System V shared memory": _LIBC.shmget(self.known["key"], 0, 0) >= 0,
            "a message queue": Path(f"/dev/mqueue/{self._token}").exists(),
            "host name": socket.gethostname(),
            "the harness's descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "the harness's priority": os.getpriority(os.PRIO_PROCESS, 0),
            "the harness's limits": Path("/proc/self/limits").read_text(),
            "mounts": Path("/proc/self/mountinfo").read_text(),
        }
        for entry in sorted(folder.iterdir()):
            status = entry.lstat()
            content = entry.read_bytes() if entry.is_file() else b""
            about = status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns
            found[entry.name] = (content, os.listxattr(entry, follow_symlinks=False), *about)
        found["files"] = sorted(entry.name for entry in folder.iterdir())
        if self._victim is not None:
            found["the victim"] = _look_at_process(self._victim.pid)
        return found

    def _num_connections(self) -> int:
        number = 0
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(1)
                else:
                    listener.accept()[0].close()
                number += 1
        return number

    def clear_away(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self._victim is not None:
            self._victim.send_signal(signal.SIGCONT)
            self._victim.kill()
            self._victim.communicate()
            self._victim = None
        shared = _LIBC.shmget(self.known["key"], 0, 0)
        if shared >= 0:
            _LIBC.shmctl(shared, 0, None)
        Path(f"/dev/shm/{self._token}").unlink(missing_ok=True)
        _remove(self._folder / "bait")
        for moved in self._folder.iterdir():
            _remove(moved)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        for entry in path.iterdir():
            _remove(entry)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _look_at_process(pid: int) -> object:
    """What others can do to a process: end, stop, trace, slow down or limit it."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        limits = Path(f"/proc/{pid}/limits").read_text()
        kept = ("TracerPid", "Uid", "Cpus_allowed:", "SigPnd", "ShdPnd")
        # It sleeps on its input; priority, nice level and policy are fields 18, 19 and 41.
        return (
            state in "SR",
            (rest[14], rest[15], rest[37]),
            [line for line in status if line.startswith(kept)],
            limits,
            Path(f"/proc/{pid}/oom_score_adj").read_text(),
        )
    except OSError:
        return "gone"


def descendants(pid: int) -> set[int]:
    """All processes below one, as the host sees them."""
    parents: dict[int, int] = {}
    with os.scandir("/proc") as entries:  # paths would take most of an attack's time
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as entry:  # noqa: PTH123
            state, parent, *_ = entry.read().rpartition(") ")[2].split(maxsplit=2)
            if state != "Z":
                parents[int(name)] = int(parent)
    below: set[int] = set()
    found = {pid}
    while found:
        below |= found
        found = {child for child, parent in parents.items() if parent in below} - below
    return below - {pid}


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether it came to pass in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """Daemons become children of this process meanwhile, so that none goes unseen."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def end_all_but(known: set[int]) -> None:
    """End what a control left running."""
    for pid in descendants(os.getpid()) - known:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def do_everything_to(bait: dict[str, object]) -> None:
    """What attacks would like to do; for the test of `Bait.touched`."""
    Path(str(bait["secret"])).write_text("x")
    Path(str(bait["folder"]), "new").touch()
    Path(str(bait["shm"])).touch()
    with socket.create_connection(bait["tcp"]):  # type: ignore[arg-type]
        pass
    os.kill(int(str(bait["victim"])), signal.SIGSTOP)
    _LIBC.shmget(bait["key"], 4096, _IPC_CREAT | 0o600)
