"""What training costs on this machine: time and memory by heads and vocabulary, and its accuracy.

The same code runs on a GPU and, at a small size, on a CPU. Each section stands alone: what goes
wrong in one is written into its place, and the others go on.
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from mtp_code.data.batches import Batch
from mtp_code.data.loader import LoadedBatch
from mtp_code.errors import AskedToEnd, MachineError
from mtp_code.model.accounting import flops_per_token, flops_ratio, model_flops_utilization
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import Recipe, load_recipe
from mtp_code.training.loop import backward
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.memory import predict_peak
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, choose_device, choose_placement, place
from mtp_code.training.speed import peak_flops_per_s

log = logging.getLogger(__name__)

Size = Literal["smoke", "cpu", "gpu"]
Section = Callable[[], Iterator[dict[str, Any]]]
NUM_HEADS: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        shapes: recipes whose models are measured, by name, and what is set in them.
        vocab_sizes: of the grid of memory and time.
        num_rounds: of interleaved steps, behind one that warms up and compiles.
    """

    shapes: Mapping[str, tuple[str, ...]]
    vocab_sizes: tuple[int, ...]
    num_rounds: int


_SMALL = ("optim.kind=adamw", "training.mask_documents=false", "training.micro_batches=1")
_GPU = ("training.mask_documents=false", "training.micro_batches=1")

PLANS: Final[Mapping[Size, Plan]] = {
    "smoke": Plan(
        {"smoke": (*_SMALL, "model.num_layers=8", "training.rows=1", "training.row_tokens=32")},
        (256, 1000),
        1,
    ),
    "cpu": Plan(
        {"tiny": (*_SMALL, "model.num_layers=10", "training.rows=2", "training.row_tokens=256")},
        (256, 4096, 32_000),
        5,
    ),
    "gpu": Plan(
        {
            "code-350m": (*_GPU, "training.rows=8", "training.row_tokens=2048"),
            "code-1b": (*_GPU, "training.rows=2", "training.row_tokens=4096"),
        },
        (256, 32_000, 128_000),
        5,
    ),
}


class OutOfTimeError(Exception):
    """There is no time left for a further measurement."""


class Bench:
    """One call's measurements."""

    def __init__(
        self,
        size: Size | None,
        limit_s: float,
        on_progress: Callable[[str], None],
        num_rounds: int | None = None,
    ) -> None:
        """
        Args:
            size: None is what the device is fit for.
            limit_s: no measurement begins behind it.
            num_rounds: instead of the plan's.
        """
        from torch._dynamo import config as dynamo  # seconds, which others can save

        self._device = choose_device("auto")
        self.size: Size = size or ("gpu" if self._device.type == "cuda" else "cpu")
        plan = PLANS[self.size]
        self._plan = plan if num_rounds is None else replace(plan, num_rounds=num_rounds)
        self._ends_at_s = time.monotonic() + limit_s
        self._on_progress = on_progress
        # Blocks share one code object, and each shape of them that is measured is a compilation of
        # it. Behind torch's limit of 8, Dynamo would leave them uncompiled.
        dynamo.recompile_limit = 64

    def sections(self) -> dict[str, Section]:
        """All that can be measured here, by name, the most wanted first."""
        return {
            "gradients": self.gradients,
            "steps": self.steps,
            "losses": self.losses,
            "attention": self.attention,
            "vocabulary": self.vocabulary,
        }

    def left_s(self) -> float:
        return self._ends_at_s - time.monotonic()

    def run(
        self,
        sections: Mapping[str, Section],
        on_row: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> dict[str, Any]:
        """A record with a table of rows, or an `error`, for each section.

        Args:
            on_row: sees the record as it is so far, whenever there is more of it.
        """
        record: dict[str, Any] = {"size": self.size, "device": self._device_name()}
        for name, section in sections.items():
            rows: list[dict[str, Any]] = []
            record[name] = {"rows": rows}
            try:
                for row in section():
                    rows.append(row)
                    self._on_progress(f"{name}: {row}")
                    on_row(record)
            except AskedToEnd:
                raise
            except OutOfTimeError:
                record[name]["error"] = "no time was left for the rest"
            except Exception as error:  # whatever it is, the other sections are worth having
                log.exception("%s", name)
                record[name]["error"] = f"{type(error).__name__}: {error}"
            on_row(record)
            self._tidy()
        return record

    def gradients(self) -> Iterator[dict[str, Any]]:
        """Relative distance of gradients from those in fp64, the worst parameter's and all."""
        for name in self._plan.shapes:
            recipe = self._recipe(name, "model.num_layers=8", "model.num_mtp_heads=4")
            batch = self._batch(recipe, num_rows=1)
            states: dict[str, Any] = {}
            exact: dict[str, torch.Tensor] = {}
            for precision in ("fp64", "fp32", "bf16"):
                asked = "fp32" if precision == "fp64" else precision
                training = recipe.training.model_copy(
                    update={"precision": asked, "tf32": False, "rows": 1}
                )
                model = self._model(recipe)
                if states:
                    model.load_state_dict(states)
                states = {key: value.clone() for key, value in model.state_dict().items()}
                off = {"compile": False} if precision == "fp64" else {}
                placement = place(model, training.model_copy(update=off), self._device)
                if precision == "fp64":
                    model.double()
                with placement.autocast():
                    backward(model, batch, training, (1.0,) * 4)
                found = {
                    key: p.grad.double()
                    for key, p in model.named_parameters()
                    if p.grad is not None
                }
                if not exact:
                    exact = found
                    continue
                apart = {key: (found[key] - grad).norm() for key, grad in exact.items()}
                every = (
                    torch.stack(list(apart.values())).norm()
                    / torch.stack([grad.norm() for grad in exact.values()]).norm()
                )
                worst = max((apart[key] / grad.norm()).item() for key, grad in exact.items())
                yield {
                    "shape": name,
                    "precision": precision,
                    "distance": every.item(),
                    "worst_parameter": worst,
                }

    def steps(self) -> Iterator[dict[str, Any]]:
        """Whole steps by number of heads at equal layers, in turns with the next-token twin's.

        `overhead` is the step's time ÷ the twin's, `flops_ratio` how much of that is arithmetic,
        and `over_flop_matched` what is left. `unembedding_share` is the part of the additional
        arithmetic that is logits: that, and not the heads, is what a table of overheads by number
        of heads shows (Gloeckle et al. 2024, arXiv 2404.19737, appendix on training speed).
        """
        for name in self._plan.shapes:
            # Four, the paper's choice, comes first, should time run out.
            for n in sorted(NUM_HEADS[1:], key=lambda number: (number != 4, number)):
                ratios = [
                    ratio
                    for _ in range(2 if self.size == "gpu" else 1)
                    for ratio in self._ratios_to_twin(name, n)
                ]
                recipe = self._recipe(name, f"model.num_mtp_heads={n}")
                own = flops_per_token(recipe.model, recipe.training.row_tokens)
                twin_recipe = self._recipe(name, "model.num_mtp_heads=1")
                twin = flops_per_token(twin_recipe.model, recipe.training.row_tokens)
                overhead = statistics.median(ratios)
                arithmetic = flops_ratio(recipe.model, recipe.training.row_tokens)
                more = own.total - twin.total
                yield {
                    "shape": name,
                    "vocab_size": recipe.model.vocab_size,
                    "num_mtp_heads": n,
                    "overhead": overhead,
                    "flops_ratio": arithmetic,
                    "over_flop_matched": overhead / arithmetic,
                    "over_flop_matched_each": [ratio / arithmetic for ratio in ratios],
                    "unembedding_share": (own.unembedding - twin.unembedding) / more,
                }

    def _ratios_to_twin(self, name: str, num_heads: int) -> list[float]:
        """Time of a step ÷ that of the next-token twin's beside it, of models made anew."""
        runs = [_Run(self, self._recipe(name, f"model.num_mtp_heads={n}")) for n in (1, num_heads)]
        for run in runs:
            run.step()
        ratios = []
        for _ in range(self._plan.num_rounds):
            twin_s, own_s = (run.timed_step() for run in runs)
            ratios.append(own_s / twin_s)
        del run, runs  # the loop's too, or it holds a model
        self._tidy()
        return ratios

    def losses(self) -> Iterator[dict[str, Any]]:
        """Steps of four heads with each way to compute the loss, in turns."""
        for name in self._plan.shapes:
            runs: dict[str, _Run] = {}
            for loss in ("chunked", "torch", "liger", "cut"):
                try:
                    load_backend(loss, self._device)
                except (MachineError, ImportError) as error:
                    yield {"shape": name, "loss": loss, "left_out": str(error)}
                    continue
                recipe = self._recipe(
                    name, "model.num_mtp_heads=4", f"training.objective.loss={loss}"
                )
                try:
                    runs[loss] = _Run(self, recipe)
                    runs[loss].step()
                except OutOfTimeError:
                    raise
                except Exception as error:  # noqa: BLE001 - a kernel's own; the others go on
                    runs.pop(loss, None)
                    yield {"shape": name, "loss": loss, "left_out": repr(error)}
            times_s: dict[str, list[float]] = {loss: [] for loss in runs}
            for _ in range(self._plan.num_rounds):
                for loss in runs:
                    times_s[loss].append(runs[loss].timed_step())
            for loss, found_s in times_s.items():
                yield {"shape": name, "loss": loss, "step_s": statistics.median(found_s)}
            del runs
            self._tidy()

    def attention(self) -> Iterator[dict[str, Any]]:
        """Rows of several documents, kept apart by booleans and by blocks."""
        kinds = ("dense", "flex") if self._device.type == "cuda" else ("dense",)
        for name in self._plan.shapes:
            norms: list[float] = []
            for kind in kinds:
                recipe = self._recipe(
                    name,
                    "model.num_mtp_heads=4",
                    "training.mask_documents=true",
                    f"training.attention={kind}",
                )
                run = _Run(self, recipe)
                norms.append(run.step())
                row = {"shape": name, "attention": kind, "grad_norm": norms[-1]}
                step_s = statistics.median(run.timed_step() for _ in range(self._plan.num_rounds))
                yield row | {"step_s": step_s} | run.measured_peak()
                del run
                self._tidy()

    def vocabulary(self) -> Iterator[dict[str, Any]]:
        """Peak memory beside what was predicted, step time and MFU: heads × vocabulary."""
        for name in self._plan.shapes:
            for vocab_size in self._plan.vocab_sizes:
                for n in NUM_HEADS:
                    recipe = self._recipe(
                        name, f"model.num_mtp_heads={n}", f"model.vocab_size={vocab_size}"
                    )
                    run = _Run(self, recipe)
                    run.step()
                    times_s = [run.timed_step() for _ in range(self._plan.num_rounds)]
                    step_s = statistics.median(times_s)
                    rate = recipe.training.rows * recipe.training.row_tokens / step_s
                    row = {
                        "shape": name,
                        "vocab_size": vocab_size,
                        "num_mtp_heads": n,
                        "step_s": step_s,
                        "tokens_per_s": rate,
                        "predicted_peak_bytes": predict_peak(recipe, self._device.type).total_bytes,
                    } | run.measured_peak()
                    flops = flops_per_token(recipe.model, recipe.training.row_tokens)
                    mfu = model_flops_utilization(rate, flops, peak_flops_per_s(self._device))
                    yield row if mfu is None else row | {"mfu": mfu}
                    del run
                    self._tidy()

    def _recipe(self, name: str, *overrides: str) -> Recipe:
        return load_recipe(name, [*self._plan.shapes[name], *overrides])

    def _model(self, recipe: Recipe) -> MTPModel:
        """With torch's own fresh weights, which a GPU draws itself.

        Raises:
            OutOfTimeError: it is too late for a further model.
        """
        if self.left_s() < 0:
            raise OutOfTimeError
        with self._device:
            model = MTPModel(recipe.model)
            for weight in model.vocabulary_weights():
                nn.init.normal_(weight, std=0.02)
        return model

    def _batch(self, recipe: Recipe, num_rows: int) -> LoadedBatch:
        """Random tokens in about four documents a row."""
        rng = np.random.default_rng(0)
        shape = (num_rows, recipe.training.row_tokens + recipe.model.num_mtp_heads)
        on_host = Batch(
            rng.integers(0, recipe.model.vocab_size, shape),
            np.sort(rng.integers(0, 4, shape), axis=1).astype(np.int32),
            (),
        )
        tokens, documents = (
            torch.from_numpy(array).to(self._device)
            for array in (on_host.tokens, on_host.documents)
        )
        return LoadedBatch(tokens, documents, on_host)

    def _device_name(self) -> str:
        is_gpu = self._device.type == "cuda"
        return torch.cuda.get_device_name(self._device) if is_gpu else "cpu"

    def _tidy(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _Run:
    """A model with its optimizers, a step of which can be timed."""

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self._recipe = recipe
        self._placement: Placement = choose_placement(recipe.training, recipe.model.head_width)
        if self._placement.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._placement.device)
            self._held_before = torch.cuda.memory_allocated(self._placement.device)
        self._model = bench._model(recipe)
        place(self._model, recipe.training, self._placement.device)
        self._optimizers: list[Optimizer] = build_optimizers(self._model, recipe.optim)
        self._batch = bench._batch(recipe, recipe.training.rows)

    def step(self) -> float:
        """One step; the gradient's norm."""
        weights = (1.0,) * self._model.num_mtp_heads
        with self._placement.autocast():
            backward(self._model, self._batch, self._recipe.training, weights)
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return norm.item()

    def timed_step(self) -> float:
        """Seconds of a step: of the processor on a CPU, which others may use too."""
        if self._placement.device.type == "cpu":
            begun_s = time.process_time()
            self.step()
            return time.process_time() - begun_s
        torch.cuda.synchronize(self._placement.device)
        begun_s = time.perf_counter()
        self.step()
        torch.cuda.synchronize(self._placement.device)
        return time.perf_counter() - begun_s

    def measured_peak(self) -> dict[str, int]:
        """What torch's allocator had handed out at most, on a GPU."""
        if self._placement.device.type == "cpu":
            return {}
        peak = torch.cuda.max_memory_allocated(self._placement.device)
        return {"peak_bytes": peak - self._held_before}
