import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from mtp_code.data.batches import Batch
from mtp_code.data.loader import LoadedBatch, loading


def batch_of(step: int) -> Batch:
    return Batch(np.full((2, 3), step), np.zeros((2, 3), dtype=np.int32), ("a", "b"))


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
        time.sleep(0.2)
        assert 2 <= len(made) <= 4  # taken, waiting, and one that waits for room


def test_they_are_made_while_the_step_computes() -> None:
    def make(step: int) -> Batch:
        time.sleep(0.05)
        return batch_of(step)

    with loading(make, range(8)) as loaded:
        begun_s = time.monotonic()
        for _ in loaded:
            time.sleep(0.05)
    assert time.monotonic() - begun_s < 8 * 0.1 - 0.1


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
