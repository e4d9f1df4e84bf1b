"""Making a model ready to decode on the machine at hand: layout of weights, memory for rows."""

import os
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtp_code.decoding.state import row_bytes
from mtp_code.devices import (
    DeviceName,
    DtypeName,
    choose_device,
    choose_dtype,
    describe_device,
    is_out_of_memory,
)
from mtp_code.errors import MachineError
from mtp_code.loading import load_model
from mtp_code.model.heads.parallel import ParallelHeads
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import TrainedModel

_MOST_FROM_BEHIND: Final = 8
"""Tokens up to which the product from the other side is faster."""


def load_for_decoding(
    folder: Path, device: DeviceName = "auto", dtype: DtypeName = "auto"
) -> TrainedModel:
    """A folder's model (see `load_model`), laid out for decoding: what all that decodes loads.

    Caches, and what is measured beside it, follow the model to its device and number format.

    Raises:
        InputError: the folder holds no model, or a damaged one.
        MachineError: there is no such device here, or it has no such arithmetic, or no memory.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    trained = load_model(folder)
    try:
        trained.model.to(place, kind)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(
            f"{folder}: its weights do not fit into what memory {describe_device(place)} has "
            "free; choose --device cpu, or a smaller --dtype"
        ) from None
    lay_out(trained.model)
    return trained


def describe_place(model: MTPModel) -> dict[str, str]:
    """Where a model decodes and in which number format, for what is recorded of it."""
    weight = model.unembedding.weight
    return {
        "device": describe_device(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
    }


class FewTokens(nn.Linear):
    """A linear layer that takes products of few tokens the way that a CPU is fastest at.

    Stored by input, a matrix is read once for 1 to 3 tokens, and is what products of many want as
    well; for 4 to 8 tokens the product from the other side, of rows stored one after the other, is
    faster. Both are kept where memory allows. Values are those of the layer it replaces, products
    to rounding. Not for training.

    Args:
        by_input: how `weight` is stored; else by output, as torch does.
        keeps_rows: the matrix by output is kept beside `weight`.
    """

    def __init__(self, linear: nn.Linear, by_input: bool, keeps_rows: bool) -> None:
        nn.Module.__init__(self)  # Linear's own would make a matrix first
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._rows_OI: Tensor | None = linear.weight.detach()
        self._least = 2
        if by_input:
            transposed = linear.weight.detach().t().contiguous().t()
            self.weight = nn.Parameter(transposed, requires_grad=False)
            self._rows_OI, self._least = self._rows_OI if keeps_rows else None, 4

    def forward(self, x: Tensor) -> Tensor:
        num_tokens = x.numel() // self.in_features
        if self._rows_OI is None or not self._least <= num_tokens <= _MOST_FROM_BEHIND:
            return F.linear(x, self.weight, self.bias)
        y_OT = self._rows_OI @ x.reshape(num_tokens, self.in_features).t()
        y = y_OT.t().reshape(*x.shape[:-1], self.out_features).contiguous()
        return y if self.bias is None else y + self.bias


def lay_out(model: MTPModel) -> None:
    """Has the model's matrices stored and multiplied, in place, as products of few tokens want it.

    On CPUs the matrices with more outputs than inputs (queries, keys and values; gate and up; an
    unembedding of its own) are stored by input, and by output as well where all such copies take
    less than a quarter of the memory that is free. Shapes and values stay; products differ from
    those before by rounding. Not for training.
    """
    if model.unembedding.weight.device.type != "cpu":
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    embedding = model.trunk.embedding.weight  # whose rows are looked up
    wide = {c.weight for _, _, c in places if c.out_features > c.in_features} - {embedding}
    free_bytes = _free_bytes(model.unembedding.weight.device)
    keeps_rows = free_bytes is not None and 4 * sum(w.nbytes for w in wide) < free_bytes
    # Parallel heads draft all at once, from matrices of their own.
    drafting: set[nn.Module] = set()
    if isinstance(model.mtp_heads, ParallelHeads):
        drafting = set(model.mtp_heads.layers[1:].modules())
    for parent, name, child in places:
        layer = FewTokens(child, child.weight in wide, keeps_rows and child not in drafting)
        setattr(parent, name, layer)


def largest_num_rows(model: MTPModel, num_spare: int, max_drafts: int) -> int | None:
    """Rows whose keys, values and states fit into free memory; None where nobody can tell.

    A tenth is left for what a step needs besides.
    """
    weight = model.unembedding.weight
    free_bytes = _free_bytes(weight.device)
    if free_bytes is None:
        return None
    each = row_bytes(model.config, num_spare, max_drafts, weight.element_size())
    return int(0.9 * free_bytes) // each


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        # What torch has taken and holds ready counts as taken there.
        ready_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + ready_bytes
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
