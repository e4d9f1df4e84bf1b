"""How many CPU threads a run should use."""

import logging
import os
import time

import torch

from mtp_code.model.mtp import MTPModel
from mtp_code.training.config import TrainingConfig
from mtp_code.training.objective import backward_by_head, count_labels

log = logging.getLogger(__name__)


def choose_num_threads(
    model: MTPModel, training: TrainingConfig, device: torch.device, num_processes: int = 1
) -> int:
    """The recipe's number, or the one that is fastest in a few steps on this machine as it is now.

    More is not always faster: threads that wait for each other at every operation are several
    times slower than one once another program takes a core from them.

    Args:
        model: an outline is not measured with: its processes get their share of the cores.
        num_processes: that share this machine; several get their share of the cores, unmeasured.
    """
    if training.num_threads is not None:
        return training.num_threads
    if device.type != "cpu":
        return torch.get_num_threads()  # they have little to do
    if num_processes > 1 or model.norm.weight.is_meta:
        return max(1, _num_cores() // num_processes)
    candidates = sorted({1, max(1, _num_cores() // 2), _num_cores()})
    times_s = {count: _step_time_s(model, training, count) for count in candidates}
    model.zero_grad()
    fastest = min(times_s, key=times_s.__getitem__)
    shown = ", ".join(f"{count}: {time_s:.3f} s" for count, time_s in times_s.items())
    log.info("threads: %d (a micro-batch takes %s)", fastest, shown)
    return fastest


def _step_time_s(model: MTPModel, training: TrainingConfig, num_threads: int) -> float:
    torch.set_num_threads(num_threads)
    rows = training.rows // training.micro_batches
    tokens_BS = torch.zeros((rows, training.row_tokens + model.num_mtp_heads), dtype=torch.long)
    num_labels_K = count_labels(model.num_mtp_heads, tokens_BS, tokens_BS)
    times_s = []
    for _ in range(3):
        begun_s = time.perf_counter()
        backward_by_head(
            model,
            tokens_BS,
            tokens_BS,
            num_labels_K,
            training.mask_documents,
            training.objective,
        )
        times_s.append(time.perf_counter() - begun_s)
    return min(times_s)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
