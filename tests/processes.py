"""Processes for tests of what happens to processes, without the imports in each of them."""

import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from unittest.mock import patch


def that_train() -> ForkServerContext:
    """Each is forked from one server, which has imported what training needs, once for them all."""
    context = multiprocessing.get_context("forkserver")
    # Optimizers import torch._dynamo with their first step.
    context.set_forkserver_preload(
        [
            "mtp_code.data.prepare",
            "mtp_code.training.loop",
            "mtp_code.training.shards",
            "torch._dynamo",
            "mtp_code.decoding.engine",
        ]
    )
    return context


@contextlib.contextmanager
def of_commands() -> Iterator[None]:
    """Those that prepare and that serve are such ones."""
    that_train()
    with (
        patch("mtp_code.data.prepare._START_METHOD", "forkserver"),
        patch("mtp_code.serving.hosting._START_METHOD", "forkserver"),
    ):
        yield
