"""The processes of one run, and tensors that they hold a part of each."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mtp_code.errors import AskedToEnd, MachineError, PeerError

PATIENCE = timedelta(days=1)
"""How long processes wait for one that prepares data. One whose connection closed is noticed
at once."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class World:
    """The processes of a run, of which this is one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this node."""
    control: dist.ProcessGroup | None = None
    """What is agreed upon goes over the CPU, so that no GPU is waited for."""

    @property
    def is_lead(self) -> bool:
        """The one that writes and tells."""
        return self.rank == 0

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes; on the CPU."""
        numbers = numbers.cpu()
        if self.size > 1:
            dist.all_reduce(numbers, group=self.control)
        return numbers

    def gather(self, value: Made) -> list[Made]:
        """Each process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def agree(self, error: Exception | None) -> None:
        """Fails everywhere if anything failed anywhere.

        Raises:
            Exception: this process's error, if it is the first that has one.
            PeerError: another process has one.
        """
        failed = [rank for rank, is_bad in enumerate(self.gather(error is not None)) if is_bad]
        if not failed:
            return
        if error is not None and failed[0] == self.rank:
            raise error
        raise PeerError(f"process {failed[0]} failed")

    def everywhere(self, make: Callable[[], Made]) -> Made:
        """What `make` makes here, once it has been made everywhere.

        It must not wait for other processes.
        """
        made, error = None, None
        try:
            made = make()
        except Exception as raised:  # noqa: BLE001 - raised again once all know of it
            error = raised
        self.agree(error)
        return cast(Made, made)

    def from_lead(self, make: Callable[[], Made]) -> Made:
        """What the lead makes, in all processes."""
        made = self.everywhere(lambda: make() if self.is_lead else None)
        if self.size > 1:
            box = [made]
            dist.broadcast_object_list(box, src=0, group=self.control)
            made = box[0]
        return cast(Made, made)


ALONE = World()


@contextmanager
def joined(device_type: str = "cpu") -> Iterator[World]:
    """The processes that torchrun, or whoever sets its variables, has started.

    Args:
        device_type: where the run trains: what tensors are sent by follows from it.

    Raises:
        MachineError: the variables are there in part, the processes do not find each other, or this
            one finds no GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    wanted = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in wanted if name not in os.environ]:
        raise MachineError(
            f"WORLD_SIZE = {size} without {', '.join(missing)}; start the processes with torchrun"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    if device_type == "cuda":
        if local_rank >= (num_gpus := torch.cuda.device_count()):
            raise MachineError(
                f"process {local_rank} of this node has no GPU, of which there "
                f"{'is' if num_gpus == 1 else 'are'} {num_gpus}; start as many processes a node "
                "as it has GPUs"
            )
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise MachineError(
            f"the {size} processes did not find each other at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']}: {first_line}"
        ) from None
    world = World(
        rank=int(os.environ["RANK"]),
        size=size,
        local_rank=local_rank,
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        control=control,
    )
    try:
        yield world
    except AskedToEnd:
        dist.destroy_process_group()
        raise
    # Behind an error, others may wait in the middle of a message, and NCCL would wait for them:
    # the process ends without, and whoever started them ends the others.
    dist.destroy_process_group()


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it; a process alone holds none."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor  # seconds, which a process alone can save

    return isinstance(tensor, DTensor)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def placed_like(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that all processes have, as `like` is sharded; nothing is sent."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
