"""A file system of the room's own: interpreter and libraries to read, /tmp to write, no more."""

import os
import struct
import sys
from pathlib import Path
from typing import Final

from sandbox import libc, syscalls
from sandbox.errors import SandboxUnavailable
from sandbox.limits import Limits
from sandbox.namespaces import NOBODY

_MS_NOSUID: Final = 0x2
_MS_NODEV: Final = 0x4
_MS_NOEXEC: Final = 0x8
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_MNT_DETACH: Final = 2

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_ATTR_RDONLY: Final = 0x1
_ATTR_NOSUID: Final = 0x2
_ATTR_NODEV: Final = 0x4

_HOST: Final = "/.host"  # where the old root hangs until the new one is furnished
_DEVICES: Final = ("null", "zero", "random", "urandom")
_PACKAGES: Final = ("site-packages", "dist-packages")


def hide_host(limits: Limits) -> None:
    """Make a new root of what a program may see, and let go of the host's.

    Raises:
        PermissionError: mounts are not allowed to this process.
        SandboxUnavailable: the kernel lacks something, the interpreter lies in /tmp, or the new
            root is not what it should be.
    """
    seen = _what_to_show()  # before the host's paths are gone
    for path in seen:
        if path.startswith(("/tmp/", "/dev/")):
            raise SandboxUnavailable(
                f"{path} lies where the room has a folder of its own",
                "use an interpreter installed elsewhere",
            )
    links = {link: link.readlink() for link in _top_level_links()}
    try:
        _enter_new_root()
        for link, linked in links.items():
            link.symlink_to(linked)
        for target, source in seen.items():
            _bind_read_only(f"{_HOST}{source}", target)
        for packages in _package_folders():
            _mount_tmpfs(packages, "size=4k,nr_inodes=1,mode=555")
        _make_dev()
        _make_tmp(limits)
        libc.call("umount2", _HOST.encode(), _MNT_DETACH)
        Path(_HOST).rmdir()
        _set_attributes("/", _ATTR_RDONLY | _ATTR_NOSUID, recursive=False)
    except PermissionError:
        raise
    except OSError as refusal:
        raise SandboxUnavailable(
            f"could not build the room's file system ({refusal})",
            "Linux 5.14 or newer is needed, with tmpfs",
        ) from refusal
    _verify()


def _what_to_show() -> dict[str, str]:
    """Path in the room → real path on the host. A path inside another one shown is left out."""
    shown = {entry for entry in sys.path if Path(entry).is_dir()}
    shown.add(sys.executable)
    libraries = _mapped_libraries()
    # Extension modules yet to be imported need libraries beside libc, or beside the interpreter's.
    shown.update(str(Path(path).parent) for path in libraries if "/libc." in path)
    shown.update(libraries)
    shown.update(map(str, Path(sys.base_prefix, "lib").glob("lib*.so*")))
    folders = tuple(f"{path}/" for path in shown if Path(path).is_dir())
    return {
        path: os.path.realpath(path)
        for path in sorted(shown)
        if not path.startswith(tuple(f for f in folders if f != f"{path}/"))
    }


def _mapped_libraries() -> set[str]:
    """The shared libraries that this process runs on, the loader included."""
    with Path("/proc/self/maps").open(encoding="utf-8") as maps:
        fields = (line.rstrip("\n").split(maxsplit=5) for line in maps)
        return {path for *_, path in fields if path.startswith("/") and ".so" in path}


def _top_level_links() -> list[Path]:
    return [link for link in map(Path, ("/lib", "/lib32", "/lib64")) if link.is_symlink()]


def _package_folders() -> list[str]:
    """Installed packages lie inside the standard library's folder; they are the user's own."""
    return [
        str(folder)
        for entry in sys.path
        for name in _PACKAGES
        if (folder := Path(entry, name)).is_dir()
    ]


def _enter_new_root() -> None:
    """Pivot into an empty tmpfs, with the host's root at _HOST."""
    libc.call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    # Any folder will do: it is covered in this namespace only, and pivoting uncovers it.
    _mount_tmpfs("/tmp", "size=4m,nr_inodes=8192,mode=755")
    os.chdir("/tmp")
    Path(_HOST.lstrip("/")).mkdir()
    pivot_root = syscalls.number("pivot_root")
    assert pivot_root is not None
    libc.call("syscall", pivot_root, b".", _HOST.lstrip("/").encode())
    os.chdir("/")


def _make_dev() -> None:
    for name in _DEVICES:
        _bind(f"{_HOST}/dev/{name}", f"/dev/{name}")
        # What is written to a device gets there all the same; its times and mode are the host's.
        _set_attributes(f"/dev/{name}", _ATTR_RDONLY | _ATTR_NOSUID, recursive=False)
    Path("/dev/shm").symlink_to("/tmp")


def _make_tmp(limits: Limits) -> None:
    owner = os.geteuid() or NOBODY  # who the room is about to become
    size = f"size={limits.tmp_bytes},nr_inodes={limits.tmp_files}"
    Path("/tmp").mkdir()
    _mount_tmpfs("/tmp", f"{size},mode=700,uid={owner},gid={owner}")


def _bind_read_only(source: str, target: str) -> None:
    _bind(source, target)
    _set_attributes(target, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=True)


def _bind(source: str, target: str) -> None:
    path = Path(target)
    if Path(source).is_dir():
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    libc.call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)


def _mount_tmpfs(target: str, options: str) -> None:
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    libc.call("mount", b"tmpfs", os.fsencode(target), b"tmpfs", flags, options.encode())


def _set_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    """mount_setattr(2): unlike a remount it reaches mounts below too, and clears no other flag."""
    number = syscalls.number("mount_setattr")
    assert number is not None
    packed = struct.pack("=4Q", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    libc.call("syscall", number, _AT_FDCWD, os.fsencode(path), flags, packed, len(packed))


def _verify() -> None:
    for path in (_HOST, "/proc/self", "/sys/kernel", "/etc/passwd"):
        if Path(path).exists():
            raise SandboxUnavailable(f"the host's {path} is still in sight", "report this")
    folders = (entry for entry in sys.path if Path(entry).is_dir())
    for path in ("/", *(f"/dev/{name}" for name in _DEVICES), *folders):
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            raise SandboxUnavailable(f"{path} could be written in the room", "report this")
