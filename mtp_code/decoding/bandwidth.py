"""What memory alone would let a round of decoding take: the bound that figures are held to."""

import statistics
import time

import torch

from mtp_code.model.accounting import elements_read
from mtp_code.model.mtp import MTPModel


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written ones, that large copies move: the median of five."""
    # On a GPU a copy takes so short that beginning and waiting for one would count.
    num_bytes, num_copies = ((1 << 30), 20) if device.type == "cuda" else ((1 << 26), 1)
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(6):  # the first is slow
        wait_for(device)
        begun_s = time.perf_counter()
        for _ in range(num_copies):
            target.copy_(source)
        wait_for(device)
        rates.append(num_copies * 2 * num_bytes / (time.perf_counter() - begun_s))
    return statistics.median(rates[1:])


def least_s(model: MTPModel, num_drafts: int, num_cached: float, bytes_per_s: float) -> float:
    """Seconds that reading what a round must read takes.

    A model that fits into a processor's caches may take less.

    Args:
        num_cached: tokens whose keys and values are looked at, all rows' together.
    """
    num_bytes = elements_read(model.config, num_drafts, num_cached)
    return num_bytes * model.unembedding.weight.element_size() / bytes_per_s


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
