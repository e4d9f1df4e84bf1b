import threading
import time
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch

from mtp_code.data.batches import Batch
from mtp_code.data.loader import LoadedBatch, loading


def batch_of(step: int) -> Batch:
    return Batch(np.full((2, 3), step), np.zeros((2, 3), dtype=np.int32), ("a", "b"))


def until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    """Waits for what must come true."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_batches_come_in_order_as_tensors() -> None:
    with loading(batch_of, range(3, 9)) as loaded:
        found = list(loaded)
    assert [int(batch.tokens[0, 0]) for batch in found] == list(range(3, 9))
    assert isinstance(found[0], LoadedBatch)
    assert (found[0].tokens.dtype, found[0].documents.dtype) == (torch.int64, torch.int32)
    assert found[0].on_host.sources == ("a", "b")


def test_no_more_are_made_ahead_than_asked_for() -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return batch_of(step)

    with loading(make, range(100), ahead=2) as loaded:
        next(loaded)
        until(lambda: len(made) >= 2)
        time.sleep(0.2)
        assert len(made) <= 4  # taken, waiting, and one that waits for room


def test_they_are_made_while_the_step_computes() -> None:
    made: list[int] = []

    def make(step: int) -> Batch:
        made.append(step)
        return batch_of(step)

    with loading(make, range(8)) as loaded:
        for num_taken, _ in enumerate(loaded, 1):
            wanted = min(num_taken + 1, 8)
            until(lambda wanted=wanted: len(made) >= wanted)


def test_what_went_wrong_comes_with_its_batch() -> None:
    def make(step: int) -> Batch:
        if step == 2:
            raise ValueError("step 2")
        return batch_of(step)

    with loading(make, range(5)) as loaded:
        assert len(list(islice(loaded, 2))) == 2
        with pytest.raises(ValueError, match="step 2"):
            next(loaded)


@pytest.mark.parametrize("num_taken", [0, 1])
def test_the_thread_ends_with_the_block(num_taken: int) -> None:
    def interrupted() -> None:
        with loading(batch_of, range(1000)) as loaded:
            list(islice(loaded, num_taken))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not batch_threads()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_they_lie_there() -> None:
    with loading(batch_of, range(2), "cuda") as loaded:
        assert [batch.tokens.device.type for batch in loaded] == ["cuda", "cuda"]
