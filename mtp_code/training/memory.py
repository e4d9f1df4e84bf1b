"""The peak memory of training, on tensors that have a shape and no content.

What runs is the training loop's own code. What it would allocate is followed storage by storage:
when each is made, and when nothing refers to it any more.

These are the operations of a CPU, one by one, in the recipe's precision. A GPU fuses some of them,
and compiled layers more; CUDA's context and the gaps between allocations come on top, and so does
what a kernel or a library of collectives needs for itself.

Of several processes it is the first, whose shards are the largest; what it is sent has a shape and
no content either.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtp_code.data.batches import Batch
from mtp_code.model.mtp import MTPModel, outline
from mtp_code.processes import ALONE, World
from mtp_code.processes import is_sharded as is_shard
from mtp_code.recipe import Recipe
from mtp_code.training.config import LOGITS_MIB, OTHER_LOGITS_MIB
from mtp_code.training.distributed import (
    clip_gradients,
    is_to_be_sharded,
    parallelize,
    rows_of_process,
)
from mtp_code.training.init import choose_trained
from mtp_code.training.loop import backward
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, choose_placement, prepare_layers

Part = Literal["parameters", "gradients", "optimizer", "gathered", "activations", "logits", "rest"]
"""`optimizer` is its states; `gathered` is weights that lie whole where parameters are sharded;
`activations` is what forwards made; `rest` is what backwards, losses and optimizers need for
themselves."""

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


def predict_peak(recipe: Recipe, device_type: str = "cuda", num_processes: int = 1) -> Peak:
    """The peak of training a recipe in one of so many processes, without allocating any of it.

    All offsets are trained, all positions have labels, and the loss is our chunked one, whatever
    the recipe's: what others hold inside of their operations is not seen from here. It is more:
    for torch's, beside its chunks, two to five matrices of the unembedding's size on a CPU.

    Args:
        device_type: whose room for logits, precision and attention count where the recipe leaves
            them open.

    Raises:
        RecipeError: the recipe is not for so many processes.
    """
    chosen = choose_placement(recipe.training, recipe.model.head_width, torch.device(device_type))
    logits_mib = LOGITS_MIB.get(device_type, OTHER_LOGITS_MIB)
    given = recipe.training.objective
    objective = given.model_copy(
        update={"loss": "chunked", "logits_mib": given.logits_mib or logits_mib}
    )
    training = recipe.training.model_copy(update={"objective": objective})
    placement = replace(chosen, device=torch.device("cpu"), compiles=False)
    without_content = _WithoutContent(allow_non_fake_inputs=True)
    tracker = _Predicting(recipe.model.vocab_size, without_content)
    with _pretended(num_processes) as world, without_content, tracker:
        asked = recipe.model_copy(update={"training": training})
        run_steps(asked, placement, tracker.mark, world)
    return tracker.peak()


@contextmanager
def _pretended(num_processes: int) -> Iterator[World]:
    """The first of so many processes, the others of which are not there."""
    if num_processes == 1:
        yield ALONE
        return
    # What torch tests its own collectives' shapes with.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_processes)
    try:
        yield World(size=num_processes, local_size=num_processes)
    finally:
        dist.destroy_process_group()


def follow_steps(recipe: Recipe, placement: Placement, world: World = ALONE) -> Peak:
    """The peak of `run_steps`."""
    tracker = StorageTracker(recipe.model.vocab_size)
    with tracker:
        run_steps(recipe, placement, tracker.mark, world)
    return tracker.peak()


def run_steps(
    recipe: Recipe,
    placement: Placement,
    mark: Mark = lambda tensors, part: None,
    world: World = ALONE,
) -> None:
    """As much of training as holds all that it will ever hold at once.

    The optimizers' states come first, as they are there in every step but the first. Then one step
    of up to two micro-batches, of which the second finds gradients; further ones are like it.
    """
    training = recipe.training
    num_rows = len(rows_of_process(training.rows, world))  # first, as it may refuse
    is_sharded = is_to_be_sharded(training.parallel, world)
    model = outline(recipe.model) if is_sharded else MTPModel(recipe.model)
    if recipe.init is not None:
        choose_trained(model, recipe.init, recipe.seed)
    prepare_layers(model, training, placement)
    parallel = parallelize(model, training.parallel, world, placement.device, training.fsdp)
    mark(model.parameters(), "parameters")
    if placement.attention == "flex" and placement.device.type == "cpu":
        # Of the scores its kernel leaves what the causal one does: a logarithm for each query.
        model.trunk.document_mask = lambda documents_BT: None
    optimizers = build_optimizers(model, recipe.optim)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    _update(optimizers, mark)

    micro_rows = min(num_rows, training.rows // training.micro_batches)
    num_parts = min(2, num_rows // micro_rows)
    shape = (num_parts * micro_rows, training.row_tokens + model.num_mtp_heads)
    batch = Batch(np.zeros(shape, np.int64), np.zeros(shape, np.int32), ())
    parts = {"rows": shape[0], "micro_batches": num_parts}
    with placement.autocast(), parallel.step():
        if is_sharded:  # what heads share, whole for the step
            mark((p for p in model.parameters() if not is_shard(p)), "gathered")
        backward(
            model,
            batch,
            training.model_copy(update=parts),
            (1.0,) * model.num_mtp_heads,
        )
    mark((p.grad for p in model.parameters() if p.grad is not None), "gradients")
    clip_gradients(model.parameters(), recipe.optim.clip_norm or math.inf)
    _update(optimizers, mark)


def _update(optimizers: list[Optimizer], mark: Mark) -> None:
    for optimizer in optimizers:
        optimizer.step()
        mark(_tensors(optimizer.state), "optimizer")
        optimizer.zero_grad()


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation makes under it, until nothing refers to it.

    FSDP2 keeps a gathered weight's storage and gives it a size and none in turns.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocab_size = vocab_size
        self._live: dict[int, _Storage] = {}
        self._events: list[tuple[_Storage, int]] = []
        """Bytes that a storage took or, below 0, gave back."""

    def __enter__(self) -> Self:
        resize = self._resize_before = torch.UntypedStorage.resize_

        def followed(untyped: Any, num_bytes: int) -> Any:
            resized = resize(untyped, num_bytes)
            if (storage := self._live.get(id(untyped))) is not None:
                storage.part = "gathered"
                self._events.append((storage, num_bytes - storage.num_bytes))
                storage.num_bytes = num_bytes
            return resized

        torch.UntypedStorage.resize_ = followed  # type: ignore[method-assign, assignment]
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *exception: object) -> None:
        torch.UntypedStorage.resize_ = self._resize_before  # type: ignore[method-assign]
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _are_sharded(types):
            return NotImplemented  # they come again as the shards that they are made of
        result = func(*args, **(kwargs or {}))
        self._follow(func, result)
        return result

    def _follow(self, func: Any, result: Any) -> None:
        for tensor in _tensors(result):
            self._add(tensor, "gathered" if func.namespace == "fsdp" else None)

    def mark(self, tensors: Iterable[Tensor], part: Part) -> None:
        for tensor in map(_of_this_process, tensors):
            self._live[id(tensor.untyped_storage())].part = part

    @property
    def held_bytes(self) -> int:
        """Of all storages that are still referred to."""
        return sum(storage.num_bytes for storage in self._live.values())

    def peak(self) -> Peak:
        held_bytes = list(_running_sum(self._events))
        end = held_bytes.index(max(held_bytes)) + 1
        bytes_by_part = dict.fromkeys(PARTS, 0)
        for storage, num_bytes in self._events[:end]:
            bytes_by_part[storage.part] += num_bytes
        return Peak(bytes_by_part)

    def _add(self, tensor: Tensor, part: Part | None) -> None:
        untyped = tensor.untyped_storage()
        key = id(untyped)
        if key in self._live or tensor.is_meta:
            return
        storage = _Storage(untyped.nbytes(), part or self._part(tensor))

        def remove(_: object) -> None:
            del self._live[key]
            self._events.append((storage, -storage.num_bytes))

        storage.reference = weakref.ref(untyped, remove)
        self._live[key] = storage
        self._events.append((storage, storage.num_bytes))

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


class _WithoutContent(FakeTensorMode):
    """Sharded tensors ask the mode that is there for the shapes of whole ones."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._depth = 0

    @property
    def is_asked_for_shapes(self) -> bool:
        return self._depth > 1

    def __enter__(self) -> Self:
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._depth -= 1
        super().__exit__(*exception)


class _Predicting(StorageTracker):  # type: ignore[no-untyped-call]
    """Follows tensors without content, and answers what they cannot."""

    def __init__(self, vocab_size: int, without_content: _WithoutContent) -> None:
        super().__init__(vocab_size)
        self._without_content = without_content

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device  # two questions in three: answered here, it takes no time
        if _are_sharded(types):
            return NotImplemented
        try:
            result = func(*args, **(kwargs or {}))
        except DynamicOutputShapeException:
            if func is not torch.ops.aten.nonzero.default:
                raise
            known = args[0]  # which positions have labels: all
            result = torch.empty((known.numel(), known.dim()), dtype=torch.long)
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            return 1  # how many labels, which step
        if not self._without_content.is_asked_for_shapes:
            self._follow(func, result)
        return result


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _are_sharded(types: Iterable[type]) -> bool:
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor  # seconds, which a process alone can save

    return any(issubclass(kind, DTensor) for kind in types)


def _of_this_process(tensor: Tensor) -> Tensor:
    """What is allocated here of a tensor that may be sharded."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def _running_sum(events: Iterable[tuple[_Storage, int]]) -> Iterable[int]:
    held = 0
    for _, num_bytes in events:
        held += num_bytes
        yield held
