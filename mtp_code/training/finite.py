"""Stops a run whose loss or gradients are no numbers any more, without making a GPU wait."""

import math
from collections import deque
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mtp_code.data.batches import TrainingBatches
from mtp_code.errors import TrainingError
from mtp_code.training.objective import Figures


class _Seen(NamedTuple):
    """One step's losses on their way from the device."""

    step: int
    loss: Tensor
    by_offset: Tensor
    grad_norm: Tensor
    copied: torch.cuda.Event | None


class FiniteWatch:
    """Looks at each step's losses and gradient norm, perhaps a step late.

    A step that went wrong is written into the weights by then, so what is pending has to be
    settled before figures are logged and before a checkpoint.
    """

    @classmethod
    def on(cls, device: torch.device, run_dir: Path, batches: TrainingBatches) -> Self:
        """As late as nobody has to wait for the device."""
        return cls(run_dir, batches, steps_late=int(device.type == "cuda"))

    def __init__(self, run_dir: Path, batches: TrainingBatches, steps_late: int) -> None:
        self._run_dir, self._batches, self._steps_late = run_dir, batches, steps_late
        self._pending: deque[_Seen] = deque()

    def see(self, step: int, figures: Figures, grad_norm: Tensor) -> None:
        """
        Args:
            step: counted from 1.

        Raises:
            TrainingError: this step, or the one so many steps before it, went wrong.
        """
        on_gpu = grad_norm.is_cuda
        # To pinned memory, where the copy needs nobody to wait for it.
        loss, by_offset, norm = (
            tensor.to("cpu", non_blocking=on_gpu)
            for tensor in (figures["loss"], figures["loss_by_offset"], grad_norm)
        )
        copied = None
        if on_gpu:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._pending.append(_Seen(step, loss, by_offset, norm, copied))
        while len(self._pending) > self._steps_late:
            self._check(self._pending.popleft())

    def settle(self) -> None:
        """Waits for all steps that were seen.

        Raises:
            TrainingError: one went wrong.
        """
        while self._pending:
            self._check(self._pending.popleft())

    def _check(self, seen: _Seen) -> None:
        if seen.copied is not None:
            seen.copied.synchronize()
        if math.isfinite(seen.loss.item()) and math.isfinite(seen.grad_norm.item()):
            return
        raise TrainingError(
            f"{self._run_dir}: loss by offset {seen.by_offset.tolist()} at step {seen.step} "
            f"(gradient norm {seen.grad_norm.item():.3g}); the last checkpoint stands: lower "
            f"optim.lr, or look at the step's rows: {self._batches.places(seen.step - 1)}"
        )
