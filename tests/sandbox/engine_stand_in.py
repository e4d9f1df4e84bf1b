"""Behaves as a container engine's command line does, but starts the same command without one.

    engine_stand_in.py FOLDER version | ps … | rm --force NAME … | run … IMAGE …

FOLDER holds its settings and what it knows of containers. With ``bubblewrap`` in its settings, the
command runs in namespaces as bare as a container's.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
CONTAINERS = FOLDER / "containers"
SETTINGS = json.loads((FOLDER / "settings.json").read_text())
FLAGS = {"--rm", "--interactive", "--read-only", "--no-healthcheck", "--read-only-tmpfs=false"}
OPTIONS = {
    f"--{name}"
    for name in (
        "pull", "name", "runtime", "network", "ipc", "cap-drop", "security-opt", "user",
        "pids-limit", "memory", "memory-swap", "ulimit", "tmpfs", "log-driver", "workdir",
        "http-proxy", "entrypoint",
    )
}  # fmt: skip


def main() -> int:
    verb, *arguments = sys.argv[2:]
    with (FOLDER / "asked").open("a") as asked:
        asked.write(json.dumps([verb, *arguments]) + "\n")
    if verb in SETTINGS.get("refuses", {}):
        sys.stderr.write(SETTINGS["refuses"][verb])
        return 125
    match verb:
        case "version":
            sys.stdout.write(SETTINGS.get("version", "Stand-in 1.0"))
        case "ps":
            sys.stdout.write("\n".join(path.name for path in CONTAINERS.iterdir()))
        case "rm":
            for name in arguments[1:]:
                remove(name)
        case "run":
            return run(arguments)
    return 0


def run(arguments: list[str]) -> int:
    options: dict[str, str] = {}
    folders: dict[str, Path] = {}
    while arguments[0].startswith("--"):
        argument = arguments.pop(0)
        name, _, value = argument.partition("=")
        if argument not in FLAGS and name not in OPTIONS:
            sys.stderr.write(f"unknown flag: {name}\n")
            return 125
        options[name] = value
        if name == "--tmpfs":
            path = value.partition(":")[0]
            folders[path] = FOLDER / "files" / options["--name"] / path.lstrip("/")
    image, *command = arguments
    if image in SETTINGS.get("images", {}):
        interpreter = SETTINGS["images"][image]
    else:
        sys.stderr.write(f"docker: Error response from daemon: No such image: {image}\n\n")
        sys.stderr.write("Run 'docker run --help' for more information\n")
        return 125
    for folder in folders.values():
        folder.mkdir(parents=True)
    if "bubblewrap" in SETTINGS:
        command = [*bubblewrap(list(folders)), interpreter, *command]
    else:
        command = [interpreter, *(str(folders.get(each, each)) for each in command)]
    import subprocess  # here: most of what an engine is asked needs no such import

    process = subprocess.Popen(command, start_new_session=True, cwd="/", env={})
    (CONTAINERS / options["--name"]).write_text(str(process.pid))
    status = process.wait()
    forget(options["--name"])
    return status if status >= 0 else 128 - status


def bubblewrap(folders: list[str]) -> list[str]:
    command = [
        "bwrap",
        "--unshare-all",
        "--unshare-user",
        "--as-pid-1",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
    ]
    command += ["--uid", "65534", "--gid", "65534", "--tmpfs", "/", "--chdir", "/"]
    for path in Path("/").iterdir():
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir() and path.name not in ("proc", "dev", "sys", "tmp"):
            command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for folder in folders:
        command += ["--perms", "0700", "--size", str(64 << 20), "--tmpfs", folder]
    return [*command, *SETTINGS["bubblewrap"], "--remount-ro", "/", "--remount-ro", "/dev"]


def remove(name: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((CONTAINERS / name).read_text()), signal.SIGKILL)
    forget(name)


def forget(name: str) -> None:
    import shutil

    folder = FOLDER / "files" / name
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    (CONTAINERS / name).unlink(missing_ok=True)


sys.exit(main())
