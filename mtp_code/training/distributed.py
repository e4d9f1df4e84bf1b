"""Several processes that train one model: as replicas of it, or with a shard of it each.

Neither wraps the model: what wraps a forward expects one backward behind it, and head by head there
are several (with DistributedDataParallel, gradients are silently wrong). Replicas add up their
gradients once a step. Shards are FSDP2's for the layers, which are used as other layers are; what
all heads share (embedding, norm, unembeddings) is gathered once and reduced once a step, however
many heads and micro-batches use it.

Source: FSDP: Zhao et al. 2023, arXiv 2304.11277; sharding of optimizer state, gradients and
weights: Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from mtp_code.errors import RecipeError
from mtp_code.model.mtp import MTPModel
from mtp_code.processes import World

ParallelName = Literal["auto", "none", "ddp", "fsdp"]
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


def parallelize(model: MTPModel, name: ParallelName, world: World, device_type: str) -> Parallel:
    """The model as this process holds it from now on; optimizers come after.

    Raises:
        RecipeError: `none` with several processes.
    """
    if name == "none" and world.size > 1:
        raise RecipeError(
            f"training.parallel = none, but there are {world.size} processes; choose ddp or fsdp"
        )
    if name == "fsdp" or (name == "auto" and world.size > 1):
        if world.size == 1:
            return Replicas(model, world)  # one shard is the model
        return Shards(model, init_device_mesh(device_type, (world.size,)))
    return Replicas(model, world)


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


class Shards:
    """A slice of each parameter's rows in each process.

    A layer is gathered for its forward and again for its backward, and its gradient reduced with
    each micro-batch, so that no process ever holds all layers' weights or gradients. What the heads
    share lies whole in each process for as long as a step's forwards and backwards take.
    """

    def __init__(self, model: MTPModel, mesh: DeviceMesh) -> None:
        self.model = model
        self._mesh = mesh
        for layer in _layers_of(model):
            _shard_layer(layer, mesh)
        self._places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        self._shard_rest()

    @contextmanager
    def weights(self) -> Iterator[None]:
        with self._gathered():
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        with self._gathered() as gathered:
            yield
        for sharded, whole in gathered:
            if whole.grad is not None:
                summed = DTensor.from_local(whole.grad, self._mesh, [Partial("sum")])
                sharded.grad = summed.redistribute(placements=[Shard(0)])
                whole.grad = None

    @contextmanager
    def _gathered(self) -> Iterator[list[tuple[nn.Parameter, nn.Parameter]]]:
        pairs = []
        for sharded, places in self._places.items():
            with torch.no_grad():
                values = cast(DTensor, sharded.detach()).full_tensor()
            whole = nn.Parameter(values, requires_grad=sharded.requires_grad)
            pairs.append((sharded, whole))
            _put(whole, places)
        try:
            yield pairs
        finally:
            for sharded, places in self._places.items():
                _put(sharded, places)

    def _shard_rest(self) -> None:
        """Shards the parameters that no layer has; a tied one stays one."""
        places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for module in self.model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not isinstance(parameter, DTensor):
                    places.setdefault(parameter, []).append((module, name))
        for parameter, where in places.items():
            values = distribute_tensor(
                parameter.detach(), self._mesh, [Shard(0)], src_data_rank=None
            )
            sharded = nn.Parameter(values, requires_grad=parameter.requires_grad)
            self._places[sharded] = where
            _put(sharded, where)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the gradients of the whole model down to this norm; returns what it was."""
    trained = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
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


def _layers_of(model: MTPModel) -> list[nn.Module]:
    """The modules that come in numbers: transformer layers and heads."""
    parts = (model.trunk, model.mtp_heads)
    lists = [child for part in parts for child in part.children()]
    return [layer for child in lists if isinstance(child, nn.ModuleList) for layer in child]


def _shard_layer(layer: nn.Module, mesh: DeviceMesh) -> None:
    fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    sharded = cast(FSDPModule, layer)
    # The losses are parts of one mean already, so gradients add up.
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def _put(parameter: nn.Parameter, places: Sequence[tuple[nn.Module, str]]) -> None:
    for module, name in places:
        module.register_parameter(name, parameter)


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
