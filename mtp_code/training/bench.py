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
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from mtp_code.data.batches import Batch
from mtp_code.data.loader import LoadedBatch
from mtp_code.devices import choose_device, describe_device
from mtp_code.errors import AskedToEnd, MachineError
from mtp_code.model.accounting import flops_per_token, flops_ratio, model_flops_utilization
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import Recipe, load_recipe
from mtp_code.training.config import LossName
from mtp_code.training.distributed import clip_gradients
from mtp_code.training.loop import backward
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.memory import predict_peak
from mtp_code.training.optim import build_optimizers
from mtp_code.training.placement import Placement, choose_placement, place
from mtp_code.training.speed import peak_flops_per_s

log = logging.getLogger(__name__)

Size = Literal["smoke", "cpu", "gpu"]
NUM_HEADS: Final = (4, 1, 2, 8)
"""Four, the paper's choice, and the next-token model come first, should time run out."""
GRID_STEPS: Final = 2
"""Timed steps of each model of the grid, which has many."""
BOUNDS: Final = {"fp32": 1e-4, "bf16": 0.05}
"""On the relative distance of a gradient from fp64's."""
LOSS_BOUNDS: Final = {"fp32": 1e-4, "bf16": 0.01}
"""The same of a loss alone, whose results are rounded once."""
ATTENTION_BOUND: Final = 1e-2
"""On the relative distance of all gradients by blocks from those by booleans."""


class Section(NamedTuple):
    """A table of rows, one after another.

    A row with an `error` is of a measurement that failed, or broke a bound.

    Attributes:
        share: of the time; what a section leaves over, those behind it have.
    """

    rows: Callable[[], Iterator[dict[str, Any]]]
    share: float


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        shapes: recipes whose models are measured, by name, and what is set in them.
        vocab_sizes: of the grid of memory and time.
        num_rounds: of interleaved steps, behind one that warms up and compiles.
        step_vocab_sizes: of steps against the next-token twin's; none is the recipe's own.
    """

    shapes: Mapping[str, tuple[str, ...]]
    vocab_sizes: tuple[int, ...]
    num_rounds: int
    step_vocab_sizes: tuple[int, ...] = ()


_SMALL = ("optim.kind=adamw", "training.mask_documents=false", "training.micro_batches=1")
_GPU = ("training.mask_documents=false", "training.micro_batches=1")

PLANS: Final[Mapping[Size, Plan]] = {
    "smoke": Plan(
        {"smoke": (*_SMALL, "model.num_layers=8", "training.rows=1", "training.row_tokens=32")},
        (256, 1000),
        1,
        (256, 1000),
    ),
    "cpu": Plan(
        {"tiny": (*_SMALL, "model.num_layers=10", "training.rows=2", "training.row_tokens=256")},
        (256, 4096, 32_000),
        5,
        (1024, 256, 8192, 32_000),
    ),
    "gpu": Plan(
        {
            "code-350m": (*_GPU, "training.rows=8", "training.row_tokens=2048"),
            "code-1b": (*_GPU, "training.rows=4", "training.row_tokens=4096"),
        },
        (32_000, 256, 128_000),
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
        self._ends_at_s = self._section_ends_at_s = time.monotonic() + limit_s
        self._peaks: dict[tuple[str, int, int], int | None] = {}
        self._on_progress = on_progress
        # Blocks share one code object, and each shape of them that is measured is a compilation of
        # it. Behind torch's limit of 8, Dynamo would leave them uncompiled.
        dynamo.recompile_limit = 64

    def sections(self) -> dict[str, Section]:
        """All that can be measured here, by name, the most wanted first."""
        return {
            "gradients": Section(self.gradients, 0.12),  # with what is compiled first of all
            "steps": Section(self.steps, 0.18),
            "vocabulary": Section(self.vocabulary, 0.15),
            "losses": Section(self.losses, 0.09),
            "attention": Section(self.attention, 0.05),
            "predictions": Section(self.predictions, 0.03),
        }

    def left_s(self) -> float:
        """Until the section that runs should have ended."""
        return self._section_ends_at_s - time.monotonic()

    def run(
        self,
        sections: Mapping[str, Section],
        on_row: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> dict[str, Any]:
        """A record with a table of rows, or an `error`, for each section.

        Args:
            on_row: sees the record as it is so far, whenever there is more of it.
        """
        all_s = max(0.0, self._ends_at_s - time.monotonic())
        shares = {name: section.share for name, section in sections.items()}
        planned_s = {name: all_s * share / sum(shares.values()) for name, share in shares.items()}
        self._on_progress(
            "planned: " + ", ".join(f"{name} {each_s:.0f} s" for name, each_s in planned_s.items())
        )
        record: dict[str, Any] = {
            "size": self.size,
            "device": describe_device(self._device),
            "planned_s": planned_s,
        }
        later_s = sum(planned_s.values())
        for name, section in sections.items():
            later_s -= planned_s[name]
            self._section_ends_at_s = self._ends_at_s - later_s
            begun_s = time.monotonic()
            rows: list[dict[str, Any]] = []
            record[name] = {"rows": rows}
            try:
                for row in section.rows():
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
            record[name]["elapsed_s"] = time.monotonic() - begun_s
            on_row(record)
            self._tidy()
        return record

    def gradients(self) -> Iterator[dict[str, Any]]:
        """Relative distance of gradients from those in fp64, the worst parameter's and all."""
        for name in self._plan.shapes:
            recipe = self._recipe(name, "model.num_layers=8", "model.num_mtp_heads=4")
            batch = self._batch(recipe, num_rows=1)
            exact: Gradients = {}
            for precision in ("fp64", "fp32", "bf16"):
                asked = {
                    "precision": "fp32" if precision == "fp64" else precision,
                    "tf32": False,
                    "rows": 1,
                }
                if precision != "bf16":  # what training uses is what has to be compiled
                    asked["compile"] = False
                training = recipe.training.model_copy(update=asked)
                model = self._model(recipe)
                placement = place(model, training, self._device)
                if precision == "fp64":
                    model.double()
                with placement.autocast():
                    backward(model, batch, training, (1.0,) * 4)
                found = _gradients_of(model)
                if precision == "fp64":
                    exact = found
                    continue
                every, worst = _distances(found, exact)
                row = {
                    "shape": name,
                    "precision": precision,
                    "distance": every,
                    "worst_parameter": worst,
                }
                yield row | _beyond("a parameter's gradient", worst, BOUNDS[precision])

    def steps(self) -> Iterator[dict[str, Any]]:
        """Whole steps by number of heads at equal layers, in turns with the next-token twin's.

        `overhead` is the step's time ÷ the twin's, `flops_ratio` how much of that is arithmetic,
        and `over_flop_matched` what is left. `unembedding_share` is the part of the additional
        arithmetic that is logits: that, and not the heads, is what a table of overheads by number
        of heads shows (Gloeckle et al. 2024, arXiv 2404.19737, appendix on training speed).
        """
        for n in NUM_HEADS:
            if n == 1:
                continue
            for name in self._plan.shapes:
                for vocab_size in self._plan.step_vocab_sizes or (None,):
                    set_vocab = () if vocab_size is None else (f"model.vocab_size={vocab_size}",)
                    yield self._against_twin(name, n, set_vocab)

    def _against_twin(self, name: str, num_heads: int, more: tuple[str, ...]) -> dict[str, Any]:
        recipes = [self._recipe(name, f"model.num_mtp_heads={n}", *more) for n in (1, num_heads)]
        times_s: list[tuple[float, float]] = []
        peaks: list[dict[str, int]] = []
        for _ in range(2 if self.size == "gpu" else 1):  # models made anew
            peaks = []
            runs = []
            for recipe in recipes:  # while one warms up, the others hold what they hold
                runs.append(_Run(self, recipe))
                runs[-1].warm_up()
                runs[-1].step()
                peaks.append(runs[-1].measured_peak())
            for _ in range(self._plan.num_rounds):
                twin_s, own_s = (run.timed_step() for run in runs)
                times_s.append((twin_s, own_s))
            del runs
            self._tidy()
        training = recipes[0].training
        twin, own = (flops_per_token(recipe.model, training.row_tokens) for recipe in recipes)
        ratios = [own_s / twin_s for twin_s, own_s in times_s]
        overhead = statistics.median(ratios)
        arithmetic = flops_ratio(recipes[1].model, training.row_tokens)
        speeds = [
            self._speed(recipe, statistics.median(each_s)) | peak
            for recipe, each_s, peak in zip(recipes, zip(*times_s, strict=True), peaks, strict=True)
        ]
        return {
            "shape": name,
            "vocab_size": recipes[1].model.vocab_size,
            "num_mtp_heads": num_heads,
            **speeds[1],
            "twin": speeds[0],
            "overhead": overhead,
            "flops_ratio": arithmetic,
            "over_flop_matched": overhead / arithmetic,
            "over_flop_matched_each": [ratio / arithmetic for ratio in ratios],
            "unembedding_share": (own.unembedding - twin.unembedding) / (own.total - twin.total),
        }

    def losses(self) -> Iterator[dict[str, Any]]:
        """Steps of four heads with each way to compute the loss, in turns.

        With the peak of each, and how far its gradients are from fp64's on states at random.
        """
        for name in self._plan.shapes:
            run: _Run | None = None
            runs: dict[LossName, _Run] = {}
            rows: dict[LossName, dict[str, Any]] = {}
            for loss in get_args(LossName):
                row = rows[loss] = {"shape": name, "loss": loss}
                recipe = self._recipe(
                    name, "model.num_mtp_heads=4", f"training.objective.loss={loss}"
                )
                try:
                    load_backend(loss, self._device)
                    row |= self._loss_distances(recipe)
                    run = _Run(self, recipe)
                    run.warm_up()
                    run.step()
                    row |= run.measured_peak()
                    runs[loss] = run
                except OutOfTimeError:
                    raise
                except (MachineError, ImportError) as error:
                    row["left_out"] = str(error)
                except Exception as error:
                    log.exception("%s", loss)  # a kernel's own; the others go on
                    row["error"] = f"{type(error).__name__}: {error}"
            times_s: dict[LossName, list[float]] = {loss: [] for loss in runs}
            for _ in range(self._plan.num_rounds):
                for loss, run in runs.items():
                    times_s[loss].append(run.timed_step())
            for loss, row in rows.items():
                yield row | ({"step_s": statistics.median(times_s[loss])} if loss in runs else {})
            run = None  # the loop's too, or it holds a model
            runs.clear()
            self._tidy()

    def _loss_distances(self, recipe: Recipe) -> dict[str, Any]:
        """One loss alone, in the precision of training: gradients by states and unembedding."""
        model, training = recipe.model, recipe.training
        precision = choose_placement(training, model.head_width, self._device).precision
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        num_states = training.rows * training.row_tokens
        generator = torch.Generator(self._device).manual_seed(0)
        options: dict[str, Any] = {"device": self._device, "generator": generator}
        states_ND = torch.randn(num_states, model.width, **options).to(dtype)
        weight_VD = 0.02 * torch.randn(model.vocab_size, model.width, **options)
        weight_VD = weight_VD.to(dtype).float()  # as the product reads it
        labels_N = torch.randint(0, model.vocab_size, (num_states,), **options)
        logits_bytes = training.objective.logits_bytes(self._device.type)
        found = []
        for name, kind in (("chunked", torch.float64), (training.objective.loss, dtype)):
            weight = weight_VD.to(torch.promote_types(kind, torch.float32))
            weight_grad_VD = torch.zeros_like(weight)
            _, states_grad_ND = load_backend(name, self._device)(
                states_ND.to(kind), weight, weight_grad_VD, labels_N, 1 / num_states, logits_bytes
            )
            found.append(
                {"states": states_grad_ND.double(), "unembedding": weight_grad_VD.double()}
            )
        exact, own = found
        _, worst = _distances(own, exact)
        return {"distance": worst} | _beyond("a gradient", worst, LOSS_BOUNDS[precision])

    def attention(self) -> Iterator[dict[str, Any]]:
        """Rows of several documents, kept apart by booleans and by blocks."""
        kinds = ("dense", "flex") if self._device.type == "cuda" else ("dense",)
        for name in self._plan.shapes:
            dense: Gradients = {}
            for kind in kinds:
                recipe = self._recipe(
                    name,
                    "model.num_mtp_heads=4",
                    "training.mask_documents=true",
                    f"training.attention={kind}",
                )
                run = _Run(self, recipe)
                row: dict[str, Any] = {"shape": name, "attention": kind}
                run.backward()
                found = run.gradients_on_host()
                run.update()
                run.reset_peak()
                step_s = statistics.median(run.timed_step() for _ in range(self._plan.num_rounds))
                row |= {"step_s": step_s} | run.measured_peak()
                if kind == "dense":
                    dense = found
                else:
                    every, worst = _distances(found, dense, self._device)
                    row |= {"distance": every, "worst_parameter": worst}
                    row |= _beyond("the gradient", every, ATTENTION_BOUND)
                yield row
                del run
                self._tidy()

    def vocabulary(self) -> Iterator[dict[str, Any]]:
        """Peak memory, step time and MFU: heads × vocabulary."""
        for name, vocab_size, n in self._grid():
            recipe = self._recipe(
                name, f"model.num_mtp_heads={n}", f"model.vocab_size={vocab_size}"
            )
            run = _Run(self, recipe)
            run.warm_up()
            step_s = min(run.timed_step() for _ in range(GRID_STEPS))
            peak = run.measured_peak()
            self._peaks[name, vocab_size, n] = peak.get("peak_bytes")
            key = {"shape": name, "vocab_size": vocab_size, "num_mtp_heads": n}
            yield key | self._speed(recipe, step_s) | peak
            del run
            self._tidy()

    def fastest_step_s(self, recipe: Recipe) -> float:
        """Seconds on the clock of a recipe's step, of random tokens; the model is gone after it.

        Raises:
            OutOfTimeError: it is too late for a further model.
        """
        run = _Run(self, recipe)
        run.warm_up()
        fastest_s = min(run.clocked_step()[0] for _ in range(GRID_STEPS))
        del run
        self._tidy()
        return fastest_s

    def predictions(self) -> Iterator[dict[str, Any]]:
        """The peaks of the grid as they are predicted, beside what was measured.

        A matter of the processor alone, seconds for each: as many as there is time for.
        """
        for name, vocab_size, n in self._grid():
            if self.left_s() < 0:
                return
            recipe = self._recipe(
                name, f"model.num_mtp_heads={n}", f"model.vocab_size={vocab_size}"
            )
            predicted = predict_peak(recipe, self._device.type).total_bytes
            yield {
                "shape": name,
                "vocab_size": vocab_size,
                "num_mtp_heads": n,
                "predicted_peak_bytes": predicted,
                "peak_bytes": self._peaks.get((name, vocab_size, n)),
            }

    def _grid(self) -> Iterator[tuple[str, int, int]]:
        """Shape, vocabulary and number of heads, the most wanted first."""
        for pair in (NUM_HEADS[:2], NUM_HEADS[2:]):
            for name in self._plan.shapes:
                for vocab_size in self._plan.vocab_sizes:
                    for n in pair:
                        yield name, vocab_size, n

    def _speed(self, recipe: Recipe, step_s: float) -> dict[str, float]:
        """A step's time as what it is worth."""
        training = recipe.training
        rate = training.rows * training.row_tokens / step_s
        flops = flops_per_token(recipe.model, training.row_tokens)
        mfu = model_flops_utilization(rate, flops, peak_flops_per_s(self._device))
        speed = {"step_s": step_s, "tokens_per_s": rate}
        return speed if mfu is None else speed | {"mfu": mfu}

    def _recipe(self, name: str, *overrides: str) -> Recipe:
        return load_recipe(name, [*self._plan.shapes[name], *overrides])

    def _model(self, recipe: Recipe) -> MTPModel:
        """With torch's own fresh weights, which a GPU draws itself: the same for each of a shape.

        Raises:
            OutOfTimeError: it is too late for a further model.
        """
        if self.left_s() < 0:
            raise OutOfTimeError
        torch.manual_seed(0)
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
            self._held_before = torch.cuda.memory_allocated(self._placement.device)
        self._model = bench._model(recipe)
        place(self._model, recipe.training, self._placement.device)
        self._optimizers: list[Optimizer] = build_optimizers(self._model, recipe.optim)
        self._batch = bench._batch(recipe, recipe.training.rows)

    def backward(self) -> None:
        weights = (1.0,) * self._model.num_mtp_heads
        with self._placement.autocast():
            backward(self._model, self._batch, self._recipe.training, weights)

    def gradients_on_host(self) -> "Gradients":
        """Copies, which take no room of the peak."""
        gradients = _gradients_of(self._model)
        return {name: grad.to("cpu", copy=True) for name, grad in gradients.items()}

    def update(self) -> None:
        clip_gradients(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def step(self) -> None:
        self.backward()
        self.update()

    def warm_up(self) -> None:
        """A step that compiles, and tries kernels out; the peak is counted behind it."""
        self.step()
        self.reset_peak()

    def reset_peak(self) -> None:
        if self._placement.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._placement.device)

    def timed_step(self) -> float:
        """Seconds of a step: of the processor on a CPU, which others may use too."""
        clock_s, processor_s = self.clocked_step()
        return processor_s if self._placement.device.type == "cpu" else clock_s

    def clocked_step(self) -> tuple[float, float]:
        """Seconds of a step by the clock and, of this process, of the processor."""
        self._wait()
        begun_s, processor_begun_s = time.perf_counter(), time.process_time()
        self.step()
        self._wait()
        return time.perf_counter() - begun_s, time.process_time() - processor_begun_s

    def _wait(self) -> None:
        if self._placement.device.type == "cuda":
            torch.cuda.synchronize(self._placement.device)

    def measured_peak(self) -> dict[str, int]:
        """What torch's allocator had handed out at most since the warm-up, on a GPU."""
        if self._placement.device.type == "cpu":
            return {}
        peak = torch.cuda.max_memory_allocated(self._placement.device)
        return {"peak_bytes": peak - self._held_before}


Gradients = dict[str, torch.Tensor]
"""By parameter."""


def _gradients_of(model: MTPModel) -> Gradients:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _distances(
    found: Gradients, exact: Gradients, device: torch.device | None = None
) -> tuple[float, float]:
    """Relative distance (norm of the difference ÷ norm) of all together, and the largest of one.

    Args:
        device: to compute on, a parameter at a time; None is where the gradients are.
    """
    norms, apart = [], []
    for key, grad in exact.items():
        exactly = grad.to(device).double()
        norms.append(exactly.norm())
        apart.append((found[key].to(device).double() - exactly).norm())
    all_norms, all_apart = torch.stack(norms), torch.stack(apart)
    return (all_apart.norm() / all_norms.norm()).item(), (all_apart / all_norms).max().item()


def _beyond(what: str, distance: float, bound: float) -> dict[str, str]:
    """An `error` for the row, if rounding does not explain the distance."""
    if distance <= bound:  # NaN is not
        return {}
    return {"error": f"{what} is {distance:.2g} from what it should be, {bound:g} at most"}
