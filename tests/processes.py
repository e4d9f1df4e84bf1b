"""Processes for tests of what happens to processes, without torch's import in each of them."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def that_train() -> ForkServerContext:
    """Each is forked from one server, which has imported what training needs, once for them all."""
    context = multiprocessing.get_context("forkserver")
    # Optimizers import torch._dynamo with their first step.
    context.set_forkserver_preload(
        ["mtp_code.training.loop", "mtp_code.training.shards", "torch._dynamo"]
    )
    return context
