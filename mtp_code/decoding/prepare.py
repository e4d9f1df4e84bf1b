"""Making a model ready to decode on the machine at hand: layout of weights, memory for rows."""

import os
from pathlib import Path

import torch
from torch import nn

from mtp_code.decoding.state import row_bytes
from mtp_code.loading import load_model
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import TrainedModel


def load_for_decoding(folder: Path) -> TrainedModel:
    """A folder's model (see `load_model`), laid out for decoding: what all that decodes loads.

    Raises:
        InputError: the folder holds no model, or a damaged one.
    """
    trained = load_model(folder)
    lay_out(trained.model)
    return trained


def lay_out(model: MTPModel) -> None:
    """Lays the weights out, in place, as products of few tokens read them fastest.

    On CPUs the matrices with more outputs than inputs (queries, keys and values; gate and up; an
    unembedding of its own) are stored by input. With 12 layers of width 512 and 768 a forward of
    1 token then takes 0.75-0.81 of the CPU time, of 2 tokens 0.63-0.65, of 4 to 8 about as much as
    before; at width 128 no difference shows, and the other matrices gain nothing (AMD EPYC, fp32,
    paired in one process). Shapes and values stay; products differ from those before by rounding.
    Not for training.
    """
    if model.unembedding.weight.device.type != "cpu":
        return
    for module in model.modules():
        if not isinstance(module, nn.Linear) or module.out_features <= module.in_features:
            continue
        if module.weight is not model.trunk.embedding.weight:  # whose rows are looked up
            by_input = module.weight.detach().t().contiguous().t()
            module.weight = nn.Parameter(by_input, requires_grad=False)


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
