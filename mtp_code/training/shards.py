"""A model whose parameters are spread over the processes (see `mtp_code.training.distributed`).

Source: FSDP: Zhao et al. 2023, arXiv 2304.11277; sharding of optimizer state, gradients and
weights: Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from mtp_code.model.mtp import MTPModel


class Shards:
    """A slice of each parameter's rows in each process.

    A layer is gathered for its forward and again for its backward, and its gradient reduced with
    each micro-batch, so that in training no process holds all layers' weights or gradients. Each
    layer is a root of its own: its weights are gathered when it needs them, and computing waits.
    What the heads share lies whole in each process for as long as a step's forwards and backwards
    take.

    The model that comes in is whole, and so it is where it lies: on a GPU, if it was placed there.
    """

    def __init__(self, model: MTPModel, device_type: str, num_processes: int) -> None:
        self.model = model
        self._mesh = init_device_mesh(device_type, (num_processes,))
        for layer in _layers_of(model):
            _shard_layer(layer, self._mesh)
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
