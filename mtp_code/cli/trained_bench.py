"""The part of `bench train` where a model is trained, asked, judged and decoded with."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sandbox
from mtp_code.cli.common import all_references, named_benchmark, require_sandbox

if TYPE_CHECKING:
    from evals.records import Score
    from mtp_code.data.shards import ShardSet
    from mtp_code.recipe import Recipe
    from mtp_code.run_folder import TrainedModel

log = logging.getLogger(__name__)

BYTES_SHARE: Final = 0.3
"""Of the time of the section, for the model on bytes."""
HELD_OUT_FILE: Final = "held-out.txt"
_HELD_OUT_CHARACTERS: Final = 200_000
LEAST_STEPS: Final = 6
LOG_EVERY: Final = 10
"""To log is to wait for a GPU: seldom."""
LEAST_S: Final = 60.0
"""For less it does not begin: data has to be prepared first."""
SHARE_OF_BENCH: Final = 0.38
"""Of the time of the whole bench, beside all other sections."""
SHARE_OF_TIME: Final = 0.5
"""Of what is left when the data is ready, for training; validating, saving, decoding, sampling and
judging have the rest."""


@dataclass(frozen=True)
class Trained:
    """A model that is trained: a recipe, what is other than in it, and how many heads."""

    name: str
    recipe: str
    settings: tuple[str, ...]
    num_heads: int
    is_judged: bool = True

    @property
    def about(self) -> dict[str, Any]:
        return {"num_mtp_heads": self.num_heads} | ({"model": self.name} if self.is_bytes else {})

    @property
    def is_bytes(self) -> bool:
        return self.recipe.startswith("bytes")


@dataclass(frozen=True)
class TrainedPlan:
    """What is trained, on what, and how much is asked of it.

    Attributes:
        packages: whose source is the corpus; None is all that are installed.
        validation_share: of the packages, whole ones.
        num_documents: of micro's train split, a fifth of the rows.
        of_bytes: what is other than in the recipe of eight heads on bytes.
    """

    recipe: str
    settings: tuple[str, ...]
    packages: tuple[str, ...] | None
    validation_share: float
    num_documents: int
    num_tasks: int
    num_samples: int
    max_new_tokens: int
    of_bytes: tuple[str, ...]
    max_steps: int | None = None

    @property
    def of_tokens(self) -> tuple[Trained, ...]:
        """With several heads and with one: as many layers, the same tokens in the same steps."""
        return tuple(
            Trained(f"n{n}", self.recipe, (*self.settings, f"model.num_mtp_heads={n}"), n)
            for n in (4, 1)
        )

    @property
    def on_bytes(self) -> Trained:
        return Trained("bytes8", "bytes8-tiny", self.of_bytes, 8, is_judged=False)


PLANS: Final = {
    "smoke": TrainedPlan(
        "smoke",
        ("model.num_layers=5", "training.row_tokens=64", "training.validation_tokens=1024"),
        ("click", "mdurl"), 0.3, 100, 4, 1, 16,
        ("model.width=32", "model.num_attn_heads=2", "model.ffn_width=64", "model.num_layers=9",
         "training.row_tokens=64", "training.validation_tokens=1024"), 8,
    ),
    "cpu": TrainedPlan(
        "tiny", (), ("click", "tqdm", "rich", "pydantic", "typer"), 0.3, 20_000, 200, 1, 96,
        (),
    ),
    "gpu": TrainedPlan(
        "code-130m",
        ("training.rows=64", "training.micro_batches=2", "tokenizer.training_bytes=20_000_000",
         "schedule.warmup_steps=20", "training.validation_tokens=262_144"),
        None, 0.03, 20_000, 200, 5, 96,
        # code-130m's width, and twelve layers between a byte and the next.
        ("model.width=768", "model.num_attn_heads=12", "model.ffn_width=2048",
         "model.num_layers=19", "optim.lr=3e-3", "training.row_tokens=2048", "training.rows=64",
         "training.micro_batches=2", "training.validation_tokens=262_144"),
    ),
}  # fmt: skip


class TrainedBench:
    """Trains a plan's recipe with several heads and with one, and another on bytes with eight.

    As many steps as the time allows, of which a few were timed before.
    """

    def __init__(
        self,
        plan: TrainedPlan,
        folder: Path,
        left_s: Callable[[], float],
        step_s: "Callable[[Recipe], float]",
    ) -> None:
        """
        Args:
            folder: for tokens and runs, and text of the packages that are held out.
            left_s: seconds until all of it should be done; none of its parts begins behind them.
            step_s: seconds that a step of a recipe takes.
        """
        self._plan, self._folder, self._left_s, self._step_s = plan, folder, left_s, step_s

    def rows(self) -> Iterator[dict[str, Any]]:
        """The corpus; of each number of heads, losses; acceptance; of each number, pass@1; of the
        model on bytes, losses and acceptance. What fails is a row with an `error`.

        Raises:
            OutOfTimeError: there is no time left for training, or for what comes after it.
        """
        from mtp_code.errors import AskedToEnd
        from mtp_code.training.bench import OutOfTimeError

        if self._left_s() < LEAST_S:
            raise OutOfTimeError
        on_bytes_s = BYTES_SHARE * self._left_s()
        failed: Exception | None = None
        try:
            yield from self._rows_of(self._plan.of_tokens, lambda: self._left_s() - on_bytes_s)
        except AskedToEnd:
            raise
        except Exception as error:  # noqa: BLE001 - raised again behind the model on bytes
            failed = error
        yield from self._rows_of((self._plan.on_bytes,), self._left_s)
        if failed is not None:
            raise failed

    def _rows_of(
        self, models: Sequence[Trained], left_s: Callable[[], float]
    ) -> Iterator[dict[str, Any]]:
        """Of models on the same tokens, in the same steps."""
        from mtp_code.training.bench import OutOfTimeError

        if left_s() <= 0:
            raise OutOfTimeError
        yield self._prepare(models[0])
        all_s = sum(self._step_s(self._recipe(model, LEAST_STEPS)) for model in models)
        num_steps = int(SHARE_OF_TIME * left_s() / all_s)
        if self._plan.max_steps is not None:
            num_steps = min(num_steps, self._plan.max_steps)
        if num_steps < LEAST_STEPS:
            raise OutOfTimeError
        about = {model: {**model.about, "num_steps": num_steps} for model in models}
        are_trained = []
        for model in models:
            row = _or_error(model, partial(self._trained, model, num_steps))
            yield about[model] | row
            if "error" not in row:
                are_trained.append(model)
        for model in are_trained:
            trained = self._load(model)
            # Decoding takes seconds on a GPU, judging a minute of the processor.
            parts = [self._decoded] if model.num_heads > 1 else []
            for part in [*parts, *([self._passed] if model.is_judged else [])]:
                if left_s() < 0:
                    raise OutOfTimeError
                yield about[model] | _or_error(model, partial(part, model, trained))

    def _recipe(self, model: Trained, num_steps: int) -> "Recipe":
        from mtp_code.config import validate
        from mtp_code.recipe import Recipe, load_recipe

        plan = self._plan
        values = load_recipe(model.recipe, model.settings).model_dump()
        values["data"] |= {
            "validation_share": plan.validation_share,
            "sources": {
                "packages": {"kind": "packages", "only": plan.packages, "weight": 4},
                "micro": {
                    "kind": "jsonl",
                    "path": str(self._folder / "micro.jsonl"),
                    "weight": 1,
                    "decontaminate": False,  # its test split shares phrases by design
                },
            },
        }
        warmup_steps = min(values["schedule"]["warmup_steps"], num_steps // 2)
        values["schedule"] |= {"num_steps": num_steps, "warmup_steps": warmup_steps}
        only_at_the_end = LOG_EVERY * -(-num_steps // LOG_EVERY)
        values["training"] |= {
            "log_every": LOG_EVERY,
            "validate_every": only_at_the_end,
            "checkpoint_every": only_at_the_end,
        }
        return validate(Recipe, values, where=f"bench's {model.recipe}")

    def _prepare(self, model: Trained) -> dict[str, Any]:
        from evals.benchmarks.micro import generate, to_jsonl
        from evals.files import write_whole
        from mtp_code.data.prepare import prepare
        from mtp_code.data.shards import open_shards

        begun_s = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        items = generate("train", "micro", count=self._plan.num_documents, seed=0)
        with write_whole(self._folder / "micro.jsonl") as file:
            file.write(
                to_jsonl(
                    [item | {"text": item["prompt"] + item["canonical_solution"]} for item in items]
                )
            )
        recipe = self._recipe(model, LEAST_STEPS)
        manifest = prepare(recipe.data, recipe.tokenizer, self._tokens(model), all_references())
        if not model.is_bytes:
            self._write_held_out(open_shards(self._tokens(model)))
        return {
            **({"model": model.name} if model.is_bytes else {}),
            "prepared_s": time.monotonic() - begun_s,
            "tokens": {
                name: {"train": source.train.num_tokens, "held_out": source.validation.num_tokens}
                for name, source in manifest.sources.items()
            },
        }

    def _write_held_out(self, shards: "ShardSet") -> None:
        """Text that nothing was trained on, as prompts for `bench decode`."""
        shard, texts, count = shards.shard("packages", "validation"), [], 0
        for document in range(shard.num_documents):
            texts.append(shards.tokenizer.decode(shard.framed(document).tolist()))
            count += len(texts[-1])
            if count > _HELD_OUT_CHARACTERS:
                break
        text = "\n".join(texts)[:_HELD_OUT_CHARACTERS]
        (self._folder / HELD_OUT_FILE).write_text(text, encoding="utf-8")

    def _trained(self, model: Trained, num_steps: int) -> dict[str, Any]:
        from mtp_code.data.shards import open_shards
        from mtp_code.training.loop import train
        from mtp_code.training.metrics import METRICS_FILE, read_metrics

        recipe, run_dir = self._recipe(model, num_steps), self._run_dir(model)
        train(recipe, open_shards(self._tokens(model)), run_dir)
        metrics = read_metrics(run_dir / METRICS_FILE)
        (*_, last) = [row for row in metrics if row["kind"] == "train"]
        kept = ("tokens", "elapsed_s", "loss_by_offset", "tokens_per_s", "mfu")
        return {
            "recipe": recipe.name,
            "train": {key: last[key] for key in kept if key in last},
            "held_out": {
                row["source"]: {key: row[key] for key in ("loss_by_offset", "bits_per_byte")}
                for row in metrics
                if row["kind"] == "validation"
            },
        }

    def _load(self, model: Trained) -> "TrainedModel":
        """As users decode it: on a GPU in bf16."""
        from mtp_code.decoding.prepare import load_for_decoding

        return load_for_decoding(self._run_dir(model))

    def _passed(self, model: Trained, trained: "TrainedModel") -> dict[str, Any]:
        """micro's pass@1 at temperature 0.2, or why it could not be had."""
        try:
            require_sandbox()
        except sandbox.SandboxUnavailable as error:
            return {"left_out": f"micro: {error}"}
        scored = self._scored(self._run_dir(model) / "micro", trained)
        estimate = scored.pass_at_k["1"]
        return {
            "micro_pass_at_1": {
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "tasks": self._plan.num_tasks,
                "samples": self._plan.num_samples,
            }
        }

    def _scored(self, folder: Path, trained: "TrainedModel") -> "Score":
        from dataclasses import replace

        from evals.judge import judge
        from evals.records import SAMPLES_FILE, VERDICTS_FILE
        from evals.sampling import Settings, draw_samples
        from evals.score import score
        from mtp_code.samplers.base import Drawing
        from mtp_code.samplers.ours import OurSampler

        plan, loaded = self._plan, named_benchmark("micro")
        part = replace(loaded, tasks=loaded.tasks[: plan.num_tasks])
        sampler = OurSampler(trained, batch_rows=64)
        settings = Settings(
            num_samples=plan.num_samples,
            temperature=0.2,
            top_p=0.95,
            max_new_tokens=plan.max_new_tokens,
            seed=0,
            model=sampler.model,
            versions=sampler.versions,
        )
        drawing = Drawing(settings.max_new_tokens, settings.temperature, settings.top_p)
        samples = folder / SAMPLES_FILE
        draw_samples(part, lambda asked: sampler.draw(asked, drawing), settings, samples)
        judge(samples, part, folder / VERDICTS_FILE)
        return score(folder / VERDICTS_FILE, part)

    def _decoded(self, model: Trained, trained: "TrainedModel") -> dict[str, Any]:
        """Acceptance and speed by number of drafts, on a few prompts of micro."""
        from mtp_code.decoding.bench import NUM_ROUNDS, measure
        from mtp_code.decoding.prepare import describe_place
        from mtp_code.decoding.requests import Request

        prompts = [task.prompt for task in named_benchmark("micro").tasks]
        chosen = prompts[: min(2 * NUM_ROUNDS, self._plan.num_tasks)]
        requests = [
            Request(trained.tokenizer.encode_prompt(prompt), self._plan.max_new_tokens)
            for prompt in chosen
        ]
        measured = measure(trained.model, trained.tokenizer, requests)
        return {**describe_place(trained.model), "decoding": measured}

    def _tokens(self, model: Trained) -> Path:
        return self._folder / ("tokens-bytes" if model.is_bytes else "tokens")

    def _run_dir(self, model: Trained) -> Path:
        return self._folder / model.name


def _or_error(model: Trained, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part's figures, or what it failed with: the others are worth having."""
    from mtp_code.errors import AskedToEnd

    try:
        return part()
    except AskedToEnd:
        raise
    except Exception as error:
        log.exception("%s", model.name)
        return {"error": f"{model.name}: {type(error).__name__}: {error}"}


def trained_lines(row: dict[str, Any]) -> Iterator[str]:
    """What a row says in words."""
    unit = "bytes" if "model" in row else "tokens"
    about = f"trained n={row.get('num_mtp_heads')}{', bytes' if 'model' in row else ''}"
    if "tokens" in row:
        yield f"corpus, M {unit} | " + " | ".join(
            f"{name} {tokens['train'] / 1e6:.2f}, held out {tokens['held_out'] / 1e6:.2f}"
            for name, tokens in row["tokens"].items()
        )
    for source, losses in row.get("held_out", {}).items():
        by_offset = " ".join(f"{loss:.3f}" for loss in losses["loss_by_offset"])
        yield (
            f"{about} | {row['num_steps']} steps | {source} held out: by offset {by_offset} "
            f"| {losses['bits_per_byte']:.3f} bits a byte"
        )
    if (passed := row.get("micro_pass_at_1")) is not None:
        yield (
            f"{about} | micro pass@1 {100 * passed['value']:.1f} % ({100 * passed['low']:.1f}–"
            f"{100 * passed['high']:.1f}) | {passed['tasks']} tasks × {passed['samples']} samples"
        )
    if "left_out" in row:
        yield f"{about} | left out: {row['left_out']}"
    for mode in row.get("decoding", ()):
        if mode["drafts"]:
            shares = " ".join(f"{share:.2f}" for share in mode["acceptance_by_offset"])
            yield (
                f"{about} | {mode['mode']} {mode['drafts']} drafts | accepted {shares} "
                f"| {mode['tokens_per_forward']:.2f} {unit} a forward | {mode['speed_up']:.2f}x"
            )
