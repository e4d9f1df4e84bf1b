"""The peak memory of training, on tensors that have a shape and no content.

What runs is the training loop's own code. What it would allocate is followed storage by storage:
when each is made, and when nothing refers to it any more.

These are the operations of a CPU, one by one, in the recipe's precision. A GPU fuses some of them,
and compiled layers more; CUDA's context and the gaps between allocations come on top, and so does
what a kernel needs for itself.
"""

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtp_code.data.batches import Batch
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import Recipe
from mtp_code.training.loop import backward
from mtp_code.training.objective import LOGITS_MIB, OTHER_LOGITS_MIB
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, choose_placement, prepare_layers

Part = Literal["parameters", "gradients", "optimizer", "activations", "logits", "rest"]
"""`optimizer` is its states; `activations` is what forwards made; `rest` is what backwards, losses
and optimizers need for themselves."""

PARTS: tuple[Part, ...] = get_args(Part)

Mark = Callable[[Iterable[Tensor], Part], None]
"""Says what tensors are part of."""


@dataclass(frozen=True)
class Peak:
    """What was held when most was held at once."""

    bytes_by_part: dict[Part, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_part.values())


def predict_peak(recipe: Recipe, device_type: str = "cuda") -> Peak:
    """The peak of training a recipe, without allocating any of it.

    All offsets are trained, all positions have labels, and the loss is our chunked one, whatever
    the recipe's: others hold no more at once.

    Args:
        device_type: whose room for logits, precision and attention count where the recipe leaves
            them open.
    """
    chosen = choose_placement(recipe.training, recipe.model.head_width, torch.device(device_type))
    logits_mib = LOGITS_MIB.get(device_type, OTHER_LOGITS_MIB)
    given = recipe.training.objective
    objective = given.model_copy(
        update={"loss": "chunked", "logits_mib": given.logits_mib or logits_mib}
    )
    training = recipe.training.model_copy(update={"objective": objective})
    placement = replace(chosen, device=torch.device("cpu"), compiles=False)
    with FakeTensorMode(allow_non_fake_inputs=True), _Answering():  # type: ignore[no-untyped-call]
        return follow_steps(recipe.model_copy(update={"training": training}), placement)


def follow_steps(recipe: Recipe, placement: Placement) -> Peak:
    """The peak of `run_steps`."""
    tracker = StorageTracker(recipe.model.vocab_size)
    with tracker:
        run_steps(recipe, placement, tracker.mark)
    return tracker.peak()


def run_steps(
    recipe: Recipe, placement: Placement, mark: Mark = lambda tensors, part: None
) -> None:
    """As much of training as holds all that it will ever hold at once.

    The optimizers' states come first, as they are there in every step but the first. Then one step
    of up to two micro-batches, of which the second finds gradients; further ones are like it.
    """
    model = MTPModel(recipe.model)
    mark(model.parameters(), "parameters")
    prepare_layers(model, recipe.training, placement)
    if placement.attention == "flex" and placement.device.type == "cpu":
        # Of the scores its kernel leaves what the causal one does: a logarithm for each query.
        model.trunk.document_mask = lambda documents_BT: None
    optimizers = build_optimizers(model, recipe.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    _update(optimizers, mark)

    training, weights = recipe.training, (1.0,) * model.num_mtp_heads
    num_parts = min(2, training.micro_batches)
    rows = num_parts * training.rows // training.micro_batches
    shape = (rows, training.row_tokens + model.num_mtp_heads)
    batch = Batch(np.zeros(shape, np.int64), np.zeros(shape, np.int32), ())
    parts = {"rows": rows, "micro_batches": num_parts}
    with placement.autocast():
        backward(model, batch, training.model_copy(update=parts), weights)
    mark((p.grad for p in model.parameters() if p.grad is not None), "gradients")
    nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm or math.inf)
    _update(optimizers, mark)


def _update(optimizers: list[Optimizer], mark: Mark) -> None:
    for optimizer in optimizers:
        optimizer.step()
        mark(_tensors(optimizer.state), "optimizer")
        optimizer.zero_grad()


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation makes under it, until nothing refers to it."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocab_size = vocab_size
        self._live: dict[int, _Storage] = {}
        self._events: list[tuple[_Storage, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._add(tensor)
        return result

    def mark(self, tensors: Iterable[Tensor], part: Part) -> None:
        for tensor in tensors:
            self._live[id(tensor.untyped_storage())].part = part

    @property
    def held_bytes(self) -> int:
        """Of all storages that are still referred to."""
        return sum(storage.num_bytes for storage in self._live.values())

    def peak(self) -> Peak:
        held_bytes = list(_running_sum(self._events))
        end = held_bytes.index(max(held_bytes)) + 1
        bytes_by_part = dict.fromkeys(PARTS, 0)
        for storage, sign in self._events[:end]:
            bytes_by_part[storage.part] += sign * storage.num_bytes
        return Peak(bytes_by_part)

    def _add(self, tensor: Tensor) -> None:
        untyped = tensor.untyped_storage()
        key = id(untyped)
        if key in self._live:
            return
        storage = _Storage(untyped.nbytes(), self._part(tensor))

        def remove(_: object) -> None:
            del self._live[key]
            self._events.append((storage, -1))

        storage.reference = weakref.ref(untyped, remove)
        self._live[key] = storage
        self._events.append((storage, 1))

    def _part(self, tensor: Tensor) -> Part:
        """Where a new tensor belongs until it is marked."""
        if torch.is_grad_enabled():
            return "activations"
        in_backward = torch._C._current_graph_task_id() != -1
        if not in_backward and tensor.dim() == 2 and tensor.shape[1] == self._vocab_size:
            return "logits"
        return "rest"


@dataclass(slots=True)
class _Storage:
    num_bytes: int
    part: Part
    reference: "weakref.ref[torch.UntypedStorage] | None" = field(default=None, repr=False)


class _Answering(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what tensors without content cannot."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.nonzero.default:  # which positions have labels: all
            known = args[0]
            return torch.empty((known.numel(), known.dim()), dtype=torch.long)
        if func is torch.ops.aten._local_scalar_dense.default:  # how many labels, which step
            return 1
        return func(*args, **(kwargs or {}))


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _running_sum(events: Iterable[tuple[_Storage, int]]) -> Iterable[int]:
    held = 0
    for storage, sign in events:
        held += sign * storage.num_bytes
        yield held
