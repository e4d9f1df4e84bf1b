"""A run that begins from another's weights, and trains all of them or some."""

from pathlib import Path

import torch
from torch import Tensor

from mtp_code.checkpoint import check_weights, latest_checkpoint, read_weights
from mtp_code.errors import CheckpointError, RecipeError
from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.parallel import ParallelHeads
from mtp_code.model.low_rank import add_low_rank
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import model_config, read_run
from mtp_code.training.config import InitConfig


def shape_from(run_dir: Path, num_mtp_heads: int) -> ModelConfig:
    """The shape of a run's model with that many heads; a head of its own layer each.

    Raises:
        CheckpointError: the folder is no run.
        RecipeError: its heads are no parallel ones, or it has more than that.
    """
    base = model_config(read_run(run_dir), run_dir)
    if base.heads != "parallel" or base.replicated_unembeddings:
        raise RecipeError(f"{run_dir}: heads can be added beside parallel ones that share all else")
    if num_mtp_heads < base.num_mtp_heads:
        raise RecipeError(
            f"{run_dir}: has {base.num_mtp_heads} heads already; ask for at least as many, "
            f"not {num_mtp_heads}"
        )
    num_more = num_mtp_heads - base.num_mtp_heads
    values = base.model_dump()
    values |= {"num_mtp_heads": num_mtp_heads, "num_layers": base.num_layers + num_more}
    return ModelConfig.model_validate(values)


def check_init(config: ModelConfig, init: InitConfig) -> None:
    """Whether there are weights to take, whole: before hours go into whatever else training needs.

    Raises:
        CheckpointError: the folder is no run, or has no whole checkpoint.
        RecipeError: its model is another one.
    """
    check_weights(_checkpoint_for(config, init))


@torch.no_grad()
def take_weights(model: MTPModel, init: InitConfig) -> None:
    """Gives a model another run's weights; heads that are missing there begin as its head 1.

    Raises:
        CheckpointError: the folder is no run, or has no whole checkpoint.
        RecipeError: its model is another one.
    """
    weights, _ = read_weights(_checkpoint_for(model.config, init))
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[_source(name, weights)])


def _checkpoint_for(config: ModelConfig, init: InitConfig) -> Path:
    """Where the weights of a model of this shape come from."""
    run_dir = Path(init.run)
    expected = shape_from(run_dir, config.num_mtp_heads).model_dump()
    for key, value in config.model_dump().items():
        if value != expected[key]:
            raise RecipeError(
                f"init.run: model.{key} is {expected[key]} in {run_dir}, {value} in the recipe"
            )
    if (checkpoint := latest_checkpoint(run_dir)) is None:
        raise CheckpointError(f"{run_dir}: no checkpoint yet; train it first")
    return checkpoint


def choose_trained(model: MTPModel, init: InitConfig, seed: int) -> None:
    """Freezes what is not trained; for "lora", adapts the layers that were there."""
    if init.train == "all":
        return
    assert isinstance(model.mtp_heads, ParallelHeads)
    layers = list(model.mtp_heads.layers)
    before, new = layers[: init.num_heads_before], layers[init.num_heads_before :]
    model.requires_grad_(False)
    for layer in new:
        layer.requires_grad_(True)
    if init.train == "lora":
        add_low_rank([model.trunk.layers, *before], init.rank, seed)


def _source(name: str, weights: dict[str, Tensor]) -> str:
    if name in weights:
        return name
    _, _, _, in_layer = name.split(".", 3)  # mtp_heads.layers.N.…
    return f"mtp_heads.layers.0.{in_layer}"
