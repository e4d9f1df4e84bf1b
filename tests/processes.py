"""Processes for tests of what happens to processes, without the imports in each of them."""

import contextlib
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from unittest.mock import patch

from tests import workers


def that_train() -> ForkServerContext:
    """Each is forked from one server, which has imported what training needs, once for them all."""
    return workers.context()


@contextlib.contextmanager
def of_commands() -> Iterator[None]:
    """Those that prepare and that serve are such ones."""
    that_train()
    with (
        patch("mtp_code.data.prepare._START_METHOD", "forkserver"),
        patch("mtp_code.serving.hosting._START_METHOD", "forkserver"),
    ):
        yield
