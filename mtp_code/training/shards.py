"""A model whose parameters are spread over the processes (see `mtp_code.training.distributed`).

Source: FSDP: Zhao et al. 2023, arXiv 2304.11277; sharding of optimizer state, gradients and
weights: Rajbhandari et al. 2020 (ZeRO), arXiv 1910.02054.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed.tensor
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.utils._python_dispatch import _disable_current_modes

from mtp_code.model.mtp import MTPModel
from mtp_code.training.config import ShardingConfig


class Shards:
    """A slice of each parameter's rows in each process.

    A layer's weights are gathered for its forward and again for its backward, those of the layers
    that come next while it computes, and its gradients are reduced while the next one's are made:
    so no process holds all layers' weights or gradients, unless `ShardingConfig` says so. A head
    that no other head reads runs backward right behind its forward, and is gathered once for both.
    What the heads share lies whole in each process for as long as a step's forwards and backwards
    take.

    The model that comes in is an outline, whose shards then hold no values yet; or a whole one,
    wherever it lies, of which each process keeps its shards.
    """

    def __init__(
        self, model: MTPModel, device: torch.device, num_processes: int, config: ShardingConfig
    ) -> None:
        self.model = model
        self._config = config
        self._device = device
        with _disable_current_modes():  # under which memory is predicted: no tensor has content
            self._mesh = init_device_mesh(device.type, (num_processes,))
        trunk = list(model.trunk.layers)
        order = model.mtp_heads.backward_order(range(1, model.num_mtp_heads + 1))
        found = [model.mtp_heads.layer(offset) for offset in order]
        heads = [layer for layer in found if layer is not None]
        for layer in (*trunk, *heads):
            _shard_layer(layer, self._mesh, device)
        self._layers = cast(list[FSDPModule], [*trunk, *heads])
        is_chain = any(map(model.mtp_heads.is_read, order))
        # In a chain, heads run without a backward first.
        self._gathered_once = self._layers if config.keep_weights else []
        if not self._gathered_once and not is_chain:
            self._gathered_once = cast(list[FSDPModule], heads)
        _prefetch(cast(list[FSDPModule], trunk), cast(list[FSDPModule], heads), config.prefetch)
        self._places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        self._shard_rest()
        model.trunk.rotary.to(device)
        self._root = self._rooted()

    @contextmanager
    def weights(self) -> Iterator[None]:
        with self._shared():
            yield

    @contextmanager
    def step(self) -> Iterator[None]:
        for layer in self._gathered_once:
            layer.set_reshard_after_forward(False, recurse=False)
        with self._shared() as shared:
            yield
        self._end_backwards()
        for layer in self._gathered_once:
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()
        for sharded, whole in shared:
            if whole.grad is not None:
                summed = DTensor.from_local(whole.grad, self._mesh, [Partial("sum")])
                sharded.grad = summed.redistribute(placements=[Shard(0)])
                whole.grad = None

    def _rooted(self) -> FSDPModule:
        """FSDP2's root over all layers, which share streams and buffers through it.

        A step has many backwards, a head's each and the trunk's; none of them is FSDP2's last one.
        """
        root = fully_shard(_Root(self._layers), mesh=self._mesh)
        with torch.no_grad():
            root(torch.zeros((), device=self._device))  # type: ignore[operator]  # finds its layers
        root.set_is_last_backward(False)
        root.set_requires_gradient_sync(not self._config.reduce_once)
        root.set_reshard_after_backward(not self._config.keep_weights)
        return root

    def _end_backwards(self) -> None:
        """Waits for reductions under way, reduces what was not, and drops what nobody came for.

        FSDP2 does all that behind its last backward, whatever that is of.
        """
        self._root.set_is_last_backward(True)
        self._root.set_requires_gradient_sync(True)
        end: Tensor = self._root(torch.zeros((), device=self._device, requires_grad=True))  # type: ignore[operator]
        end.backward()  # type: ignore[no-untyped-call]
        self._root.set_is_last_backward(False)
        self._root.set_requires_gradient_sync(not self._config.reduce_once)

    @contextmanager
    def _shared(self) -> Iterator[list[tuple[nn.Parameter, nn.Parameter]]]:
        """What heads share, whole: each parameter as it is sharded and as the model sees it."""
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
            if parameter.is_meta:
                values = torch.distributed.tensor.empty(
                    parameter.shape,
                    dtype=parameter.dtype,
                    device_mesh=self._mesh,
                    placements=[Shard(0)],
                )
            else:
                values = distribute_tensor(
                    parameter.detach(), self._mesh, [Shard(0)], src_data_rank=None
                )
            sharded = nn.Parameter(values, requires_grad=parameter.requires_grad)
            self._places[sharded] = where
            _put(sharded, where)


class _Root(nn.Module):
    """Layers under FSDP2's root; forward and backward of its own do nothing."""

    def __init__(self, layers: Sequence[FSDPModule]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cast(Sequence[nn.Module], layers))

    def forward(self, nothing: Tensor) -> Tensor:
        return nothing.clone()


def _shard_layer(layer: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    is_outline = any(parameter.is_meta for parameter in layer.parameters())
    sharded = fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    if is_outline:
        layer.to_empty(device=device)
    # The losses are parts of one mean already, so gradients add up.
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def _prefetch(trunk: Sequence[FSDPModule], heads: Sequence[FSDPModule], ahead: int) -> None:
    """Says of each layer which ones are gathered while it computes.

    Args:
        heads: in the order of their backwards, each behind its own forward.
    """
    forward = [*trunk, *heads[:1]]
    for place, layer in enumerate(trunk):
        layer.set_modules_to_forward_prefetch(forward[place + 1 : place + 1 + ahead])
    backward = [*heads, *reversed(trunk)]
    for place, layer in enumerate(backward):
        # Where there is none, a layer names itself, which is there: without any, FSDP2 guesses from
        # the order of forwards, and between heads there is a backward.
        coming = backward[place + 1 : place + 1 + ahead] or [layer]
        layer.set_modules_to_backward_prefetch(coming)


def _put(parameter: nn.Parameter, places: Sequence[tuple[nn.Module, str]]) -> None:
    for module, name in places:
        module.register_parameter(name, parameter)
