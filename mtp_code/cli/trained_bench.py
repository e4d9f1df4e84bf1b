"""The part of `bench train` where a model is trained, asked, judged and decoded with."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sandbox
from mtp_code.cli.common import all_references, named_benchmark, require_sandbox

if TYPE_CHECKING:
    from evals.records import Score
    from mtp_code.recipe import Recipe
    from mtp_code.run_folder import TrainedModel

NUM_HEADS: Final = (4, 1)
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
class TrainedPlan:
    """What is trained, on what, and how much is asked of it.

    Attributes:
        packages: whose source is the corpus; None is all that are installed.
        validation_share: of the packages, whole ones.
        num_documents: of micro's train split, a fifth of the rows.
    """

    recipe: str
    settings: tuple[str, ...]
    packages: tuple[str, ...] | None
    validation_share: float
    num_documents: int
    num_tasks: int
    num_samples: int
    max_new_tokens: int
    max_steps: int | None = None


PLANS: Final = {
    "smoke": TrainedPlan(
        "smoke",
        ("model.num_layers=5", "training.row_tokens=64", "training.validation_tokens=1024"),
        ("click", "mdurl"), 0.3, 100, 4, 1, 16, 8,
    ),
    "cpu": TrainedPlan(
        "tiny", (), ("click", "tqdm", "rich", "pydantic", "typer"), 0.3, 20_000, 200, 1, 96,
    ),
    "gpu": TrainedPlan(
        "code-130m",
        ("training.rows=64", "training.micro_batches=2", "tokenizer.training_bytes=20_000_000",
         "schedule.warmup_steps=20", "training.validation_tokens=262_144"),
        None, 0.03, 20_000, 200, 5, 96,
    ),
}  # fmt: skip


class TrainedBench:
    """Trains a plan's recipe with several heads and with one, on the same tokens in the same steps.

    Both have as many layers. As many steps as the time allows, of which a few were timed before.
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
            folder: for tokens and runs.
            left_s: seconds until all of it should be done; none of its parts begins behind them.
            step_s: seconds that a step of a recipe takes.
        """
        self._plan, self._folder, self._left_s, self._step_s = plan, folder, left_s, step_s

    def rows(self) -> Iterator[dict[str, Any]]:
        """The corpus; of each number of heads, losses; acceptance; of each number, pass@1.

        Raises:
            OutOfTimeError: there is no time left for training, or for what comes after it.
        """
        from mtp_code.training.bench import OutOfTimeError

        if self._left_s() < LEAST_S:
            raise OutOfTimeError
        yield self._prepare()
        both_s = sum(self._step_s(self._recipe(n, LEAST_STEPS)) for n in NUM_HEADS)
        num_steps = int(SHARE_OF_TIME * self._left_s() / both_s)
        if self._plan.max_steps is not None:
            num_steps = min(num_steps, self._plan.max_steps)
        if num_steps < LEAST_STEPS:
            raise OutOfTimeError
        about = {n: {"num_mtp_heads": n, "num_steps": num_steps} for n in NUM_HEADS}
        for n in NUM_HEADS:
            yield about[n] | self._trained(n, num_steps)
        for n in NUM_HEADS:
            trained = self._load(n)
            # Decoding takes seconds on a GPU, judging a minute of the processor.
            for part in [self._passed] if n == 1 else [self._decoded, self._passed]:
                if self._left_s() < 0:
                    raise OutOfTimeError
                yield about[n] | part(n, trained)

    def _recipe(self, num_heads: int, num_steps: int) -> "Recipe":
        from mtp_code.config import validate
        from mtp_code.recipe import Recipe, load_recipe

        plan = self._plan
        settings = [*plan.settings, f"model.num_mtp_heads={num_heads}"]
        values = load_recipe(plan.recipe, settings).model_dump()
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
        return validate(Recipe, values, where=f"bench's {plan.recipe}")

    def _prepare(self) -> dict[str, Any]:
        from evals.benchmarks.micro import generate, to_jsonl
        from evals.files import write_whole
        from mtp_code.data.prepare import prepare

        begun_s = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        items = generate("train", "micro", count=self._plan.num_documents, seed=0)
        with write_whole(self._folder / "micro.jsonl") as file:
            file.write(
                to_jsonl(
                    [item | {"text": item["prompt"] + item["canonical_solution"]} for item in items]
                )
            )
        recipe = self._recipe(NUM_HEADS[0], LEAST_STEPS)
        manifest = prepare(recipe.data, recipe.tokenizer, self._tokens, all_references())
        return {
            "prepared_s": time.monotonic() - begun_s,
            "tokens": {
                name: {"train": source.train.num_tokens, "held_out": source.validation.num_tokens}
                for name, source in manifest.sources.items()
            },
        }

    def _trained(self, num_heads: int, num_steps: int) -> dict[str, Any]:
        from mtp_code.data.shards import open_shards
        from mtp_code.training.loop import train
        from mtp_code.training.metrics import METRICS_FILE, read_metrics

        recipe, run_dir = self._recipe(num_heads, num_steps), self._run_dir(num_heads)
        train(recipe, open_shards(self._tokens), run_dir)
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

    def _load(self, num_heads: int) -> "TrainedModel":
        """As users decode it: on a GPU in bf16."""
        from mtp_code.decoding.prepare import load_for_decoding

        return load_for_decoding(self._run_dir(num_heads))

    def _passed(self, num_heads: int, trained: "TrainedModel") -> dict[str, Any]:
        """micro's pass@1 at temperature 0.2, or why it could not be had."""
        try:
            require_sandbox()
        except sandbox.SandboxUnavailable as error:
            return {"left_out": f"micro: {error}"}
        scored = self._scored(self._run_dir(num_heads) / "micro", trained)
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

    def _decoded(self, num_heads: int, trained: "TrainedModel") -> dict[str, Any]:
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

    @property
    def _tokens(self) -> Path:
        return self._folder / "tokens"

    def _run_dir(self, num_heads: int) -> Path:
        return self._folder / f"n{num_heads}"


def trained_lines(row: dict[str, Any]) -> Iterator[str]:
    """What a row says in words."""
    about = f"trained n={row.get('num_mtp_heads')}"
    if "tokens" in row:
        yield "corpus, M tokens | " + " | ".join(
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
                f"| {mode['tokens_per_forward']:.2f} tokens a forward | {mode['speed_up']:.2f}x"
            )
