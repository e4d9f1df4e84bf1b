"""Several processes that train one model: as replicas of it, or with a shard of it each.

Neither wraps the model: what wraps a forward expects one backward behind it, and head by head there
are several (with DistributedDataParallel, gradients are silently wrong). Replicas add up their
gradients once a step. Shards are FSDP2's for the layers, which are used as other layers are; what
all heads share (embedding, norm, unembeddings) is gathered once and reduced once a step, however
many heads and micro-batches use it.

Source: FSDP: Zhao et al. 2023, arXiv 2304.11277; sharding of optimizer state, gradients and
weights: Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtp_code.errors import RecipeError
from mtp_code.model.mtp import MTPModel, fresh_weights
from mtp_code.processes import World, placed_like, whole_tensor
from mtp_code.training.config import ParallelName, ShardingConfig

BY_LAYER = ShardingConfig()
BUCKET_BYTES = 64 * 2**20
"""Gradients of replicas that are added up in one message: its copy is all the memory it takes."""


class Parallel(Protocol):
    """How the processes share a model."""

    model: MTPModel

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Weights to read in the block, for forwards without a backward."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Weights to read, and gradients to add to; behind the block, the gradients are the sum of
        all processes', each at the parameters that the optimizers know."""


def is_to_be_sharded(name: ParallelName, world: World) -> bool:
    """Whether each process holds a part of the model; one shard is the model."""
    return world.size > 1 and name in ("fsdp", "auto")


def parallelize(
    model: MTPModel,
    name: ParallelName,
    world: World,
    device: torch.device,
    sharding: ShardingConfig = BY_LAYER,
) -> Parallel:
    """The model as this process holds it from now on; optimizers come after.

    Args:
        model: on the device; to be sharded, wherever it lies, or an outline, whose shards get no
            values here.

    Raises:
        RecipeError: `none` with several processes.
    """
    if name == "none" and world.size > 1:
        raise RecipeError(
            f"training.parallel = none, but there are {world.size} processes; choose ddp or fsdp"
        )
    if is_to_be_sharded(name, world):
        from mtp_code.training.shards import Shards  # seconds, which one process can save

        return Shards(model, device, world.size, sharding)
    return Replicas(model, world)


@torch.no_grad()
def give_fresh_weights(model: MTPModel, seed: int) -> None:
    """Those of `build_model`, bit for bit, to a model of which each process may hold a part.

    One parameter after another lies whole on each host. Nothing is sent.
    """
    for parameter, values in fresh_weights(model, seed):
        parameter.copy_(placed_like(values, parameter))


class Replicas:
    """The whole model in each process."""

    def __init__(self, model: MTPModel, world: World) -> None:
        self.model = model
        self._size = world.size

    @contextmanager
    def weights(self) -> Iterator[None]:
        yield

    @contextmanager
    def step(self) -> Iterator[None]:
        yield
        if self._size > 1:
            parameters = self.model.parameters()
            for bucket in _buckets(p.grad for p in parameters if p.grad is not None):
                together = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(together)
                parts = torch.split(together, [gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the gradients of the whole model down to this norm; returns what it was."""
    trained = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    norm = whole_tensor(norm)
    nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return norm


def rows_of_process(num_rows: int, world: World) -> range:
    """Which of a step's rows this process reads.

    Raises:
        RecipeError: they cannot be shared evenly.
    """
    if num_rows % world.size:
        raise RecipeError(
            f"training.rows = {num_rows} is no multiple of the {world.size} processes; start "
            "another number of them, or change it"
        )
    share = num_rows // world.size
    return range(world.rank * share, (world.rank + 1) * share)


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type, as many as a bucket takes, but at least one."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        num_bytes = gradient.numel() * gradient.element_size()
        if bucket and (size + num_bytes > BUCKET_BYTES or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += num_bytes
    if bucket:
        yield bucket
