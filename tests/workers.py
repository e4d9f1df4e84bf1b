"""Workers of pytest-xdist that are forked from one process, which imported what they all need.

Started one by one, as they are otherwise, each takes ten seconds of CPU to import torch and what
else is tested. Processes that train and serve in tests (tests.processes) come from it too.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, Final

IMPORTED: Final = (
    "datasets",
    "fastapi",
    "matplotlib.pyplot",
    "mtp_code.data.prepare",
    "mtp_code.decoding.engine",
    "mtp_code.interop.hugging_face",
    "mtp_code.training.loop",
    "mtp_code.training.shards",
    "openai",
    "scipy.stats",
    "torch._dynamo",  # by optimizers, with their first step
    "torch.distributed.tensor",
    "transformers.models.auto.modeling_auto",
)


def context() -> ForkServerContext:
    """Its processes are forked from one server: this session's, or a worker's own without xdist."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([*IMPORTED])
    return made


def are_forked() -> None:
    """From now on execnet forks workers where it would start them."""
    from execnet import gateway_base, gateway_io

    class Forked(gateway_base.Popen2IO):
        """Our side of a worker, which reads and writes as one that was started."""

        process: BaseProcess

        def __init__(self, args: object, execmodel: Any) -> None:
            (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
            with (
                Connection(theirs_in, writable=False) as stdin,
                Connection(theirs_out, readable=False) as stdout,
            ):
                made = context()  # first, as it says what the server imports when it starts
                forkserver.ensure_running()
                address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
                self.process = made.Process(target=_work, args=(stdin, stdout, address))
                self.process.start()
            super().__init__(os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb"), execmodel)

        def wait(self) -> int | None:
            self.process.join()
            return self.process.exitcode

        def kill(self) -> None:
            self.process.kill()

    gateway_io.Popen2IOMaster = Forked  # type: ignore[misc, assignment]


def _work(stdin: Connection, stdout: Connection, address: str) -> None:
    """What a started one does."""
    from execnet.gateway_io import popen_bootstrapline

    # A child would start a server of its own, as nobody tells it where its parent's is.
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_address, server.ensure_running = address, lambda: None
    for place, end in enumerate((stdin, stdout)):
        os.dup2(end.fileno(), place)
        end.close()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    exec(popen_bootstrapline, {})
