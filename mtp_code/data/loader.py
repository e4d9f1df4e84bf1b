"""Batches made ahead of the step that needs them, by a thread beside the training loop."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mtp_code.data.batches import Batch

# Enough to even out the reading of pages that are not in memory.
BATCHES_AHEAD: Final = 4


class LoadedBatch(NamedTuple):
    """A `Batch` as tensors, (B, T + n) both, on the device; and as it was made.

    What is counted of a batch is counted `on_host`: to ask a GPU is to wait for it.
    """

    tokens: Tensor
    documents: Tensor
    on_host: Batch


@contextmanager
def loading(
    make_batch: Callable[[int], Batch],
    steps: Iterable[int],
    device: torch.device | str = "cpu",
    ahead: int = BATCHES_AHEAD,
) -> Iterator[Iterator[LoadedBatch]]:
    """The batches of these steps, in order, on the device.

    For CUDA they lie in pinned memory, and the host goes on without waiting for their copy.

    Args:
        make_batch: of a step; a process that trains on a share of the rows makes only those.
        ahead: how many are made before they are asked for.

    Raises:
        Exception: whatever `make_batch` raised, when its batch is asked for.
    """
    device = torch.device(device)
    made: queue.Queue[LoadedBatch | BaseException | None] = queue.Queue(maxsize=ahead)
    is_over = threading.Event()

    def make_all() -> None:
        try:
            for step in steps:
                if is_over.is_set():
                    return
                made.put(_as_tensors(make_batch(step), pinned=device.type == "cuda"))
            made.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            made.put(error)

    def take_all() -> Iterator[LoadedBatch]:
        while (found := made.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield LoadedBatch(
                found.tokens.to(device, non_blocking=True),
                found.documents.to(device, non_blocking=True),
                found.on_host,
            )

    maker = threading.Thread(target=make_all, name="batches", daemon=True)
    maker.start()
    try:
        yield take_all()
    finally:
        is_over.set()
        while maker.is_alive():  # it may wait for room
            try:
                made.get(timeout=0.01)
            except queue.Empty:
                continue
        maker.join()


def _as_tensors(batch: Batch, pinned: bool) -> LoadedBatch:
    tokens, documents = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    if pinned:
        tokens, documents = tokens.pin_memory(), documents.pin_memory()
    return LoadedBatch(tokens, documents, batch)
