"""Control groups, on the harness's side: memory and processes of a whole room, counted together.

A process's own limits know nothing of its children, nor of what it keeps in files of a tmpfs, in
pipes and in socket buffers. A group's limit covers all of it. Not every user may make groups, so
this is more than containment needs; where it cannot be had, the reason is told.

On machines with cgroup v1 the hierarchies of memory and pids must be writable, as they are for
root. On those with v2 the cgroup that the harness runs in must be delegated to its user, as in
``systemd-run --user --scope -p Delegate=yes``.
"""

import contextlib
import itertools
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_NAME: Final = re.compile(r"sandbox-(\d+)-(\d+)-\d+-\d+")
# Where the harness itself goes in a cgroup of its own: v2 has limits for a folder's children only
# if no process lives in the folder itself.
_HARNESS: Final = "sandbox-harness"
_CONTROLLERS: Final = frozenset(("memory", "pids"))

_CLOSE_TRIES: Final = 50
_CLOSE_WAIT_S: Final = 0.01
_JANITOR_S: Final = 15.0  # it gives up after 10 s of trying

_DELEGATE: Final = "systemd-run --user --scope -p Delegate=yes, then the command"

# Waits for the end of its input, which is the harness's end, however that came. Its arguments:
# how the groups' names begin, then the folders that they are in.
_JANITOR: Final = """
read -r line
name=$1; shift
tries=0
while [ $tries -lt 100 ]; do
    left=
    for folder; do
        for group in "$folder/$name"-*; do
            [ ! -d "$group" ] || rmdir "$group" 2>/dev/null || left=yes
        done
    done
    [ -n "$left" ] || exit 0
    tries=$((tries + 1))
    sleep 0.1
done
"""


@dataclass(frozen=True)
class Unavailable:
    """Why this process can make no groups, and what to do about it."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class _Hierarchy:
    """Where groups are made, and how the files in them are called."""

    memory: Path
    pids: Path
    memory_limit: str
    # Written only where the kernel accounts for swap. v1 counts memory and swap together.
    swap_limit: str
    swap_with_memory: bool
    memory_events: str
    cpu: Path | None  # None where CPU time cannot be counted by groups

    @property
    def folders(self) -> list[Path]:
        """One for each hierarchy."""
        folders = (self.memory, self.pids, self.cpu)
        return list(dict.fromkeys(folder for folder in folders if folder is not None))


def find_cgroups(process: Path = Path("/proc/self")) -> "Cgroups | Unavailable":
    """What this process may make groups with.

    With v2 this may move the process into a child of its cgroup, but only if no other process
    lives there than this one and what it started: else others' memory would be accounted for
    elsewhere than their owner expects, and systemd would look for them in vain. The child stays
    until the cgroup goes, which for a scope is its last process's end.
    """
    try:
        hierarchy = _find_v1(process) or _find_v2(process)
    except OSError as refusal:
        return Unavailable(f"cgroups cannot be read ({refusal})", "mount them, as systemd does")
    if isinstance(hierarchy, Unavailable):
        return hierarchy
    for folder in hierarchy.folders:
        _sweep(folder)
    try:
        return Cgroups(hierarchy)
    except OSError as refusal:
        return Unavailable(f"no group can be made here ({refusal})", _DELEGATE)


class Group:
    """Processes whose memory and number are bounded together."""

    def __init__(self, hierarchy: _Hierarchy, name: str) -> None:
        self._hierarchy = hierarchy
        self._memory = hierarchy.memory / name
        self._pids = hierarchy.pids / name
        self._cpu = None if hierarchy.cpu is None else hierarchy.cpu / name
        self._folders = [folder / name for folder in hierarchy.folders]

    def add(self, pid: int) -> None:
        """Move a process here, with all its threads; what it starts from now on is here too.

        Raises:
            OSError: it is gone, or may not be moved.
        """
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def num_oom_kills(self) -> int:
        """How many processes the kernel has killed here because memory ran out."""
        return _count(self._memory / self._hierarchy.memory_events, "oom_kill")

    def cpu_s(self) -> float | None:
        """CPU time of all processes that were ever here; None where it is not counted."""
        if self._cpu is None:
            return None
        with contextlib.suppress(OSError):
            return int((self._cpu / "cpuacct.usage").read_text()) / 1e9
        with contextlib.suppress(OSError):
            return _count(self._cpu / "cpu.stat", "usage_usec") / 1e6
        return None

    def close(self) -> None:
        """Remove the group, whose processes have ended or are about to; the janitor removes it
        later if they take their time."""
        for folder in self._folders:
            for _ in range(_CLOSE_TRIES):
                if _remove(folder):
                    break
                time.sleep(_CLOSE_WAIT_S)

    def _make(self, memory_bytes: int, max_processes: int) -> None:
        for folder in self._folders:
            folder.mkdir()
        _write(self._memory / self._hierarchy.memory_limit, memory_bytes)
        with contextlib.suppress(FileNotFoundError):
            swap_bytes = memory_bytes if self._hierarchy.swap_with_memory else 0
            _write(self._memory / self._hierarchy.swap_limit, swap_bytes)
        _write(self._pids / "pids.max", max_processes)


class Cgroups:
    """Makes groups; `close`, or the end of this process, removes them all.

    Raises:
        OSError: no group can be made here.
    """

    _serial = itertools.count()

    def __init__(self, hierarchy: _Hierarchy) -> None:
        pid = os.getpid()
        self._hierarchy = hierarchy
        self._prefix = f"sandbox-{pid}-{_started_at(pid)}-{next(self._serial)}"
        self._numbers = itertools.count()
        alive, our_end = os.pipe()
        self._alive: int | None = our_end
        try:
            self._janitor = subprocess.Popen(
                ["/bin/sh", "-c", _JANITOR, "sh", self._prefix, *map(str, hierarchy.folders)],
                stdin=alive,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the harness
            )
        except OSError:
            os.close(our_end)
            raise
        finally:
            os.close(alive)
        try:
            self.new_group(1 << 30, 1).close()
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def new_group(self, memory_bytes: int, max_processes: int) -> Group:
        """An empty group. Its memory covers processes, their files in a tmpfs, pipes and socket
        buffers; none of it is swapped out.

        Raises:
            OSError: it cannot be made.
        """
        group = Group(self._hierarchy, f"{self._prefix}-{next(self._numbers)}")
        try:
            group._make(memory_bytes, max_processes)
        except OSError:
            group.close()
            raise
        return group

    def close(self) -> None:
        """Remove what groups are left, once their processes have ended."""
        alive, self._alive = self._alive, None
        if alive is not None:
            os.close(alive)
            try:
                self._janitor.wait(_JANITOR_S)
            except subprocess.TimeoutExpired:  # somebody stopped it
                self._janitor.kill()
                self._janitor.wait()
                for folder in self._hierarchy.folders:
                    for left in folder.glob(f"{self._prefix}-*"):
                        _remove(left)


def _find_v1(process: Path) -> _Hierarchy | Unavailable | None:
    """The hierarchies of v1, None where the controllers are not bound to any."""
    own = {
        name: path
        for line in (process / "cgroup").read_text().splitlines()
        for _, names, path in [line.split(":", 2)]
        for name in names.split(",")
    }
    if not own.keys() >= _CONTROLLERS:
        return None
    folders = {
        name: folder
        for name in sorted(_CONTROLLERS)
        if (folder := _own_folder(process, "cgroup", name, own[name])) is not None
    }
    if len(folders) < len(_CONTROLLERS):
        return Unavailable("cgroups (v1) of memory and pids are not mounted", "mount them")
    for name, folder in folders.items():
        if not os.access(folder, os.W_OK):
            return Unavailable(
                f"this user may not make cgroups (v1) in {folder}",
                f"let an administrator make one for this user in each hierarchy, "
                f"such as {name}, and start the harness in it; or use a machine with cgroup v2",
            )
    return _Hierarchy(
        memory=folders["memory"],
        pids=folders["pids"],
        memory_limit="memory.limit_in_bytes",
        swap_limit="memory.memsw.limit_in_bytes",
        swap_with_memory=True,
        memory_events="memory.oom_control",
        cpu=_v1_cpu_folder(process, own.get("cpuacct")),
    )


def _v1_cpu_folder(process: Path, own: str | None) -> Path | None:
    folder = None if own is None else _own_folder(process, "cgroup", "cpuacct", own)
    return folder if folder is not None and os.access(folder, os.W_OK) else None


def _find_v2(process: Path) -> _Hierarchy | Unavailable:
    lines = (process / "cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    folder = None if own is None else _own_folder(process, "cgroup2", None, own)
    if folder is None:
        return Unavailable("no cgroups are mounted here", "mount them, as systemd does")
    if folder.name == _HARNESS:
        folder = folder.parent
    if not _controllers(folder / "cgroup.controllers"):
        return Unavailable("memory and pids are not delegated to this cgroup", _DELEGATE)
    for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            return Unavailable("this cgroup is not delegated to this user", _DELEGATE)
    if not _controllers(folder / "cgroup.subtree_control"):
        refused = _hand_down(folder, process)
        if refused is not None:
            return refused
    return _Hierarchy(
        memory=folder,
        pids=folder,
        memory_limit="memory.max",
        swap_limit="memory.swap.max",
        swap_with_memory=False,
        memory_events="memory.events",
        cpu=folder,  # counted whether or not the controller is handed down
    )


def _controllers(path: Path) -> bool:
    """Whether those that are needed are listed in a file."""
    return set(path.read_text().split()) >= _CONTROLLERS


def _hand_down(folder: Path, process: Path) -> Unavailable | None:
    """Let a cgroup's children be limited; None if they can be from now on."""
    is_root = not (folder / "cgroup.type").exists()  # the one that may have processes all the same
    members = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    if not is_root and members:
        if not all(_is_own(pid, process.parent) for pid in members):
            return Unavailable("other processes live in this cgroup", _DELEGATE)
        (folder / _HARNESS).mkdir(exist_ok=True)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                (folder / _HARNESS / "cgroup.procs").write_text(str(pid))
    try:
        (folder / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError as refusal:
        return Unavailable(f"memory and pids cannot be handed down ({refusal})", _DELEGATE)
    return None


def _own_folder(process: Path, kind: str, option: str | None, own: str) -> Path | None:
    """The folder of the cgroup ``own``, in the file system of that kind with that option."""
    for line in (process / "mountinfo").read_text().splitlines():
        # See proc(5): the fields before the hyphen vary in number.
        place, _, source = line.partition(" - ")
        fields, (type_, _, options) = place.split(), source.split(maxsplit=2)
        if type_ != kind or (option is not None and option not in options.split(",")):
            continue
        root, mount_point = map(_unescape, fields[3:5])
        # A container may be shown its own part of the tree only, as if that were all.
        inside = Path(own).relative_to(root) if Path(own).is_relative_to(root) else "."
        return (Path(mount_point) / inside).resolve()
    return None


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def _is_own(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is this one, or was started by it directly or indirectly."""
    with contextlib.suppress(OSError):  # it may end meanwhile
        while pid > 1 and pid != os.getpid():
            pid = int(_stat(pid, proc)[1])
    return pid == os.getpid()


def _sweep(folder: Path) -> None:
    """Remove what harnesses left that ended without a janitor."""
    for entry in folder.iterdir():
        if (name := _NAME.fullmatch(entry.name)) is None:
            continue
        pid, started_at = name.groups()
        try:
            is_alive = _started_at(int(pid)) == started_at
        except OSError:
            is_alive = False
        if not is_alive:
            _remove(entry)


def _started_at(pid: int) -> str:
    """When a process started, in ticks since the machine did: with its number, nobody else's.

    Raises:
        OSError: there is no such process.
    """
    return _stat(pid)[19]


def _stat(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """The fields of a process's status after its name, which may hold spaces; see proc(5)."""
    return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _remove(folder: Path) -> bool:
    """Whether a group is gone: it cannot be removed while processes are in it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _write(path: Path, value: int) -> None:
    """Write to a file that the kernel made; it makes none of its own."""
    with path.open("r+") as file:
        file.write(str(value))


def _count(path: Path, name: str) -> int:
    fields = dict(line.split() for line in path.read_text().splitlines())
    return int(fields.get(name, 0))
