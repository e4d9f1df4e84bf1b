"""What a run tells of itself while it goes on: figures of its steps, how fast it is, how far."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtp_code.checkpoint import Losses, TrainingState
from mtp_code.recipe import Recipe
from mtp_code.training.metrics import MetricsLog
from mtp_code.training.objective import Figures
from mtp_code.training.speed import arithmetic_figures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever watches it."""

    step: int
    num_steps: int
    loss: float
    loss_by_offset: list[float]
    lr: float
    tokens_per_s: float
    left_s: float

    def __str__(self) -> str:
        offsets = " ".join(f"{loss:.2f}" for loss in self.loss_by_offset)
        return (
            f"step {self.step}/{self.num_steps} | loss {self.loss:.3f} "
            f"| by offset {offsets} | lr {self.lr:.1e} | {self.tokens_per_s / 1000:.1f}k tok/s "
            f"| {self.left_s / 60:.1f} min left"
        )


class Logbook:
    """Gathers the figures of steps, and writes down what they come to.

    Of several processes that train together, each gathers; the lead writes.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        device: torch.device,
        num_processes: int,
        metrics: MetricsLog | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._recipe, self._device, self._num_processes = recipe, device, num_processes
        self._metrics, self._on_progress = metrics, on_progress
        self._window = [_as_tensors(figures, device) for figures in state.window]
        self.clock = Clock(state)

    def note(self, num_tokens: int, figures: Figures | None) -> None:
        """Counts a step.

        Args:
            figures: None if nothing in it had a label.
        """
        self.clock.num_tokens += num_tokens
        if figures is not None:
            self._window.append(figures)

    def log_steps(self, done: int, weights: Sequence[float], lr: float, grad_norm: Tensor) -> None:
        """Writes a row of the steps since the last one, `done` being the newest."""
        rate, window = self.clock.tokens_per_s(), self._window
        self._window = []
        if not window:
            log.warning("no label in the steps up to %d", done)
            return
        if self._metrics is None:
            return
        means, num_steps = _means(window), self._recipe.schedule.num_steps
        left_s = self.clock.elapsed_s / done * (num_steps - done)
        loss, by_offset = means["loss"], means["loss_by_offset"]
        self._on_progress(Progress(done, num_steps, loss, by_offset, lr, rate, left_s))
        if set(weights) != {1.0}:
            means["weight_by_offset"] = list(weights)
        self._metrics.append(
            self.clock.stamp("train", done)
            | means
            | {"lr": lr, "grad_norm": grad_norm.item(), "tokens_per_s": round(rate, 1)}
            | arithmetic_figures(self._recipe, weights, rate, self._device, self._num_processes)
        )

    def log_validation(self, done: int, source: str, losses: dict[str, Any]) -> None:
        if self._metrics is not None:
            stamp = self.clock.stamp("validation", done)
            self._metrics.append(stamp | {"source": source, **losses})

    def state(self, done: int) -> TrainingState:
        """For a checkpoint, which is not ahead of the rows on the disk."""
        if self._metrics is not None:
            self._metrics.sync()
        return self.clock.state(done, [_as_numbers(figures) for figures in self._window])


class Clock:
    """CPU and wall time of a run, over the calls that worked on it.

    Of several processes that train together, CPU time is the lead's alone.
    """

    def __init__(self, state: TrainingState) -> None:
        self.num_tokens = state.num_tokens
        self._cpu_s = state.cpu_s - time.process_time()
        self._elapsed_s = state.elapsed_s - time.monotonic()
        self._last = (self.num_tokens, self.elapsed_s)

    @property
    def cpu_s(self) -> float:
        return self._cpu_s + time.process_time()

    @property
    def elapsed_s(self) -> float:
        return self._elapsed_s + time.monotonic()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that takes no part in `tokens_per_s`: of validation and of checkpoints."""
        begun_s = self.elapsed_s
        yield
        num_tokens, last_s = self._last
        self._last = (num_tokens, last_s + self.elapsed_s - begun_s)

    def tokens_per_s(self) -> float:
        """Since this was last asked, but for what was done aside."""
        before, self._last = self._last, (self.num_tokens, self.elapsed_s)
        return (self._last[0] - before[0]) / max(self._last[1] - before[1], 1e-9)

    def state(self, step: int, window: Sequence[dict[str, Losses]]) -> TrainingState:
        return TrainingState(
            step=step,
            num_tokens=self.num_tokens,
            cpu_s=self.cpu_s,
            elapsed_s=self.elapsed_s,
            window=tuple(window),
        )

    def stamp(self, kind: str, step: int) -> dict[str, Any]:
        return {
            "schema": 1,
            "kind": kind,
            "step": step,
            "tokens": self.num_tokens,
            "cpu_s": round(self.cpu_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
        }


def _as_numbers(figures: Figures) -> dict[str, Losses]:
    """For JSON, which has no NaN; fp32 comes back as it was."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    values = {name: figure.tolist() for name, figure in figures.items()}
    return {
        name: [number(v) for v in value] if isinstance(value, list) else number(value)
        for name, value in values.items()
    }


def _as_tensors(numbers: dict[str, Losses], device: torch.device) -> Figures:
    """The inverse of `_as_numbers`."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return {
        name: torch.tensor(
            [number(v) for v in value] if isinstance(value, list) else number(value), device=device
        )
        for name, value in numbers.items()
    }


def _means(window: Sequence[Figures]) -> dict[str, Any]:
    """Means over steps that have labels, by name; of each offset over the steps that trained it.

    Lists end at the last offset that was trained at all, on a label.
    """
    means: dict[str, Any] = {}
    for name in window[0]:
        values = torch.stack([figures[name] for figures in window]).nanmean(0).tolist()
        while isinstance(values, list) and values and math.isnan(values[-1]):
            values.pop()
        means[name] = values
    return means
