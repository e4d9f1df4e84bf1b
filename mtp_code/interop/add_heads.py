"""The recipe that gives a trained model more heads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mtp_code.config import merge, merged, parse_override, read_with_base, validate
from mtp_code.recipe import Recipe, find_recipe
from mtp_code.run_folder import TOKENIZER_DIR, model_config, read_run
from mtp_code.training.init import shape_from

Trained = Literal["heads", "lora", "all"]


def heads_recipe(
    run_dir: Path,
    num_heads: int,
    recipe: str,
    train: Trained = "heads",
    distillation: float | None = 1.0,
    overrides: Sequence[str] = (),
) -> Recipe:
    """A recipe's data and training, with the run's model, more heads on it, and its tokenizer.

    Args:
        num_heads: of all, head 1 included.
        train: the new heads alone, these and low-rank additions to the layers, or all.
        distillation: how much the new heads learn from what head 1 says of the same token,
            beside the token itself; None is from that alone.

    Raises:
        RecipeError: no such recipe, or something in it does not go with the run.
        CheckpointError: the folder is no run.
    """
    path = find_recipe(recipe)
    layers = read_with_base(path, find_recipe)
    options = [parse_override(override) for override in overrides]
    values = merged(layers)
    base = model_config(read_run(run_dir), run_dir)
    model = shape_from(run_dir, num_heads)
    values["model"] = model.model_dump(mode="json")
    values["tokenizer"] = {"kind": "hugging-face", "name": str(run_dir / TOKENIZER_DIR)}
    init: dict[str, Any] = {
        "run": str(run_dir), "train": train, "num_heads_before": base.num_mtp_heads
    }  # fmt: skip
    more: dict[str, Any] = {"init": init, "name": f"{run_dir.resolve().name}-{num_heads}-heads"}
    if distillation is not None:
        more["training"] = {"objective": {"distillation": {"weight": distillation}}}
    values = merge(merge(values, more), merged(options))
    return validate(Recipe, values, str(path), [*layers, *options])
