"""The command line as its users meet it: what it says on both streams, and its exit status.

A process of its own costs seconds wherever torch is wanted, so commands run in this one; what
hangs on the process itself (its start, namespaces, signals, memory) asks for `mtp_code_process`.
"""

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from mtp_code.cli import main
from mtp_code.cli.common import named_benchmark
from mtp_code.cli.samplers import load_once
from tests.benchmarks import read_once
from tests.processes import of_commands

COMMAND = [sys.executable, "-m", "mtp_code.cli"]

Done = subprocess.CompletedProcess[str]


def mtp_code(*arguments: object, cwd: Path, **environment: str) -> Done:
    """A command in this process, which is afterwards as it was before."""
    command = ["mtp-code", *map(str, arguments)]
    stdout, stderr = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        contextlib.chdir(cwd),
        patch.object(sys, "argv", command),
        patch.dict(os.environ, environment),
        read_once(),
        of_commands(),
        _logging_as_at_start(),
        _one_thread_again(),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        finally:
            load_once.cache_clear()  # another test's files may have the same names
            named_benchmark.cache_clear()
    assert isinstance(status, int), status
    return subprocess.CompletedProcess(command, status, stdout.getvalue(), stderr.getvalue())


def mtp_code_process(
    *arguments: object, cwd: Path, wrap: tuple[str, ...] = (), **environment: str
) -> Done:
    """A command in a process of its own, started by ``wrap``."""
    return subprocess.run(
        [*wrap, *COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def complaint(done: Done, status: int) -> str:
    """The one line on stderr of a command that failed with this status."""
    assert done.returncode == status, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mtp-code: ")]
    assert "Traceback" not in done.stderr
    return line


@contextlib.contextmanager
def _logging_as_at_start() -> Iterator[None]:
    """Without pytest's handlers, beside which `logging.basicConfig` would do nothing."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    levels = {
        name: logger.level
        for name, logger in root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        for name, logger in root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger):
                level = levels.get(name, logging.NOTSET)
                if logger.level != level:  # it is forgotten in all loggers what is enabled
                    logger.setLevel(level)


@contextlib.contextmanager
def _one_thread_again() -> Iterator[None]:
    """Training and sampling choose torch's number of threads for the whole process."""
    try:
        yield
    finally:
        if "torch" in sys.modules:  # many commands need none, and its import takes seconds
            sys.modules["torch"].set_num_threads(1)
