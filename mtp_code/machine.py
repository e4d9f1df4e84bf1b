"""What a figure was measured with: machine, versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def describe_machine() -> str:
    """Processor, cores usable here, memory and system in one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{cores} × {_processor()}, {memory_gib:.0f} GiB, {system}"


def describe_versions() -> dict[str, str]:
    """Of Python and what figures depend on; a package that is not installed is left out.

    Our own is none where the source runs from an unpacked archive: `current_commit` tells it then.
    """
    versions = {"python": platform.python_version()}
    for package in ("mtp-code", "torch", "transformers", "tokenizers", "datasets", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def current_commit() -> str | None:
    """The source's commit, marked where the tree differs from it; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if git("status", "--porcelain", "-uno") else commit


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
