"""What of the host a program may see: the interpreter that runs it, libraries, chosen packages."""

import functools
import os
import sys
from pathlib import Path
from typing import Final

from sandbox import landlock
from sandbox.errors import SandboxUnavailable
from sandbox.plan import Plan
from sandbox.tier import Tier

DEVICES: Final = ("null", "zero", "random", "urandom")
PACKAGES: Final = "/packages"  # where a room with files of its own shows installed packages
_PROGRAMS: Final = ("/usr/bin", "/bin")
# What the standard library and libc look up, and nobody keeps secrets in: time zones, languages.
_DATA: Final = ("/usr/share/zoneinfo", "/usr/lib/locale")
_PACKAGE_FOLDERS: Final = ("site-packages", "dist-packages")


def package_path(plan: Plan) -> list[str]:
    """The folders that ``plan.packages`` are imported from, to be appended to sys.path."""
    if plan.tier is Tier.RESTRICTED:
        return sorted({str(Path(package).parent) for package in plan.packages})
    return [PACKAGES] if plan.packages else []


@functools.cache
def paths(plan: Plan) -> dict[str, str]:
    """Path in a room with files of its own → real path on the host, for all that can be read.

    A path inside another one shown is left out. Asked for the first time while the host is in
    sight.

    Raises:
        SandboxUnavailable: two packages have the same name.
    """
    shown = {entry for entry in sys.path if Path(entry).is_dir()}
    shown.add(sys.executable)
    libraries = _mapped_libraries()
    # Extension modules yet to be imported need libraries beside libc, or beside the interpreter's.
    shown.update(str(Path(path).parent) for path in libraries if "/libc." in path)
    shown.update(libraries)
    shown.update(map(str, Path(sys.base_prefix, "lib").glob("lib*.so*")))
    if not plan.for_checks:
        shown.update(path for path in _DATA if Path(path).is_dir())
    if plan.profile.processes:
        shown.update(path for path in _PROGRAMS if not Path(path).is_symlink())
        shown.update(_loaders())
    folders = tuple(f"{path}/" for path in shown if Path(path).is_dir())
    packages = {f"{PACKAGES}/{Path(package).name}": package for package in plan.packages}
    if len(packages) < len(plan.packages):
        raise SandboxUnavailable("two packages have the same name", "ask for one of them")
    return {
        path: os.path.realpath(path)
        for path in sorted(shown)
        if not path.startswith(tuple(f for f in folders if f != f"{path}/"))
    } | {path: os.path.realpath(package) for path, package in sorted(packages.items())}


@functools.cache
def links(plan: Plan) -> dict[str, str]:
    """Links at the top of the host's file system, without which paths shown would not be found."""
    names = ("/lib", "/lib32", "/lib64", *(["/bin"] if plan.profile.processes else []))
    return {name: str(Path(name).readlink()) for name in names if Path(name).is_symlink()}


def package_folders() -> list[str]:
    """Where packages, which are the user's own, are installed inside the standard library."""
    return [
        str(folder)
        for entry in sys.path
        for name in _PACKAGE_FOLDERS
        if (folder := Path(entry, name)).is_dir()
    ]


def rights_in_room(plan: Plan) -> dict[str, int]:
    """What Landlock is to allow in a room with files of its own, by path."""
    readable = landlock.READ | (landlock.EXECUTE if plan.profile.processes else 0)
    rights = dict.fromkeys([*paths(plan), *package_path(plan)], readable)
    rights["/tmp"] = landlock.LIST if plan.for_checks else landlock.WRITE
    return rights | _device_rights()


def rights_on_host(plan: Plan) -> dict[str, int]:
    """What Landlock is to allow where programs see the host's own paths."""
    hidden = {os.path.realpath(folder) for folder in package_folders()}
    rights = dict.fromkeys(package_path(plan), landlock.LIST)
    for path in paths(plan).values():
        _read_beneath(path, hidden, rights)
    if plan.workspace is not None:
        rights[plan.workspace] = landlock.WRITE
    return rights | _device_rights()


def _read_beneath(path: str, hidden: set[str], rights: dict[str, int]) -> None:
    """Allow reading ``path`` but what is hidden beneath it, whose names can be listed all the same:
    what is allowed of a folder is allowed of all that is in it."""
    if not any(folder.startswith(f"{path}/") for folder in hidden):
        rights[path] = landlock.READ
        return
    rights[path] = landlock.LIST
    for entry in map(str, Path(path).iterdir()):
        if entry not in hidden:
            _read_beneath(entry, hidden, rights)


def _device_rights() -> dict[str, int]:
    return {f"/dev/{name}": landlock.USE_DEVICE for name in DEVICES}


def _loaders() -> list[str]:
    """What programs name as their interpreter: often a link into another folder."""
    return [
        str(folder / loader.name)
        for folder in (Path("/lib").resolve(), Path("/lib64").resolve())
        for loader in folder.glob("ld-*.so*")
    ]


def _mapped_libraries() -> set[str]:
    """The shared libraries that this process runs on, the loader included."""
    with Path("/proc/self/maps").open(encoding="utf-8") as maps:
        fields = (line.rstrip("\n").split(maxsplit=5) for line in maps)
        return {path for *_, path in fields if path.startswith("/") and ".so" in path}
