"""Our recipes: each loads, and says what it costs before anybody rents a machine."""

import functools
import re
from importlib import resources
from pathlib import Path

import pytest

from mtp_code.gpus import gpu_named
from mtp_code.model.accounting import count_parameters, flops_per_token, flops_ratio
from mtp_code.recipe import load_recipe
from mtp_code.training.memory import Peak, predict_peak

NAMES = sorted(
    Path(entry.name).stem
    for entry in resources.files("mtp_code.recipes").iterdir()
    if entry.name.endswith(".toml")
)
PARAMETERS = {
    "code-130m": 134_105_856,
    "code-350m": 373_867_520,
    "code-1b": 1_364_297_728,
    "7b-200b": 6_738_415_616,  # Llama 7B's
    "13b": 13_015_864_320,  # Llama 13B's
}


@functools.cache
def peak_of(name: str, overrides: tuple[str, ...] = ()) -> Peak:
    return predict_peak(load_recipe(name, overrides))


def test_the_recipes_are_there():
    assert {"tiny", "bytes8-tiny", *PARAMETERS} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_says_what_it_costs(name):
    recipe = load_recipe(name)
    parameters = count_parameters(recipe.model)
    assert parameters.total == PARAMETERS.get(name, parameters.total)
    row_tokens = recipe.training.row_tokens
    flops = flops_per_token(recipe.model, row_tokens)
    in_layers = parameters.trunk + parameters.heads
    assert flops.trunk + flops.heads == 6 * in_layers, "6 a parameter and token"
    assert flops.total > 6 * in_layers
    assert (flops_ratio(recipe.model, row_tokens) > 1) == (recipe.model.num_mtp_heads > 1)
    # Many heads and layers are a few many times, and so are rows and chunks of logits.
    num_mtp_heads = min(2, recipe.model.num_mtp_heads)
    few = (
        f"model.num_mtp_heads={num_mtp_heads}",
        f"model.num_layers={num_mtp_heads + 1}",
        "training.rows=1",
        "training.micro_batches=1",
        "training.objective.logits_mib=100_000",
    )
    parameters = count_parameters(load_recipe(name, few).model)
    peak = peak_of(name, few)
    assert peak.bytes_by_part["parameters"] == 4 * parameters.total
    assert peak.bytes_by_part["gradients"] <= 4 * parameters.total


@pytest.mark.parametrize(
    "name, gpu",
    [
        ("code-130m", "NVIDIA A100-SXM4-40GB"),
        ("code-1b", "NVIDIA H200"),
    ],
)
@pytest.mark.thorough
def test_it_fits_where_it_says(name, gpu):
    assert peak_of(name).total_bytes < 0.9 * memory_of(gpu)


def memory_of(gpu: str) -> int:
    known = gpu_named(gpu)
    assert known is not None
    return known.memory_bytes


@functools.cache
def extrapolated_bytes(name: str) -> float:
    """The peak at the recipe's depth, from two small ones: layers are alike."""
    recipe = load_recipe(name)
    few, more = (recipe.model.num_mtp_heads + trunk for trunk in (1, 2))
    num_processes = recipe.training.num_processes or 1
    at_few, at_more = (
        predict_peak(
            load_recipe(name, [f"model.num_layers={depth}"]), num_processes=num_processes
        ).total_bytes
        for depth in (few, more)
    )
    return at_few + (at_more - at_few) / (more - few) * (recipe.model.num_layers - few)


A100 = "NVIDIA A100-SXM4"


@pytest.mark.parametrize(
    "name, gpu",
    [
        pytest.param("code-350m", f"{A100}-40GB", marks=pytest.mark.thorough),
        ("code-1b", "NVIDIA H200"),
        pytest.param("7b-200b", f"{A100}-80GB", marks=pytest.mark.thorough),
        pytest.param("13b", f"{A100}-80GB", marks=pytest.mark.thorough),
    ],
)
def test_by_its_layers_it_fits_where_it_says(name, gpu):
    """Of 7b-200b and 13b, what one of 64 processes holds."""
    assert 0.3 * memory_of(gpu) < extrapolated_bytes(name) < 0.9 * memory_of(gpu)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["code-350m", "7b-200b", "13b"])
def test_a_peak_by_two_depths_is_that_of_all_layers(name):
    recipe = load_recipe(name)
    peak = predict_peak(recipe, num_processes=recipe.training.num_processes or 1)
    assert peak.total_bytes == pytest.approx(extrapolated_bytes(name), rel=0.01)


@pytest.mark.parametrize(
    "name, width, num_layers, num_attn_heads", [("7b-200b", 4096, 32, 32), ("13b", 5120, 40, 40)]
)
def test_the_papers_recipes_have_its_hyperparameters(name, width, num_layers, num_attn_heads):
    """Gloeckle et al. 2024, arXiv 2404.19737, appendix on training hyperparameters."""
    recipe = load_recipe(name)
    model, optim, schedule, training = (
        recipe.model,
        recipe.optim,
        recipe.schedule,
        recipe.training,
    )
    shape = (model.width, model.num_layers, model.num_attn_heads, model.num_mtp_heads)
    assert shape == (width, num_layers, num_attn_heads, 4)
    assert model.context == training.row_tokens == 4096
    assert training.rows * training.row_tokens == 8 * 2**20
    assert (training.parallel, training.num_processes) == ("fsdp", 64)
    num_accumulated = training.micro_batches / training.num_processes
    assert num_accumulated == (2 if name == "7b-200b" else 4)
    assert not training.rows % training.num_processes
    assert (schedule.num_steps, schedule.warmup_steps) == (25_000, 2000)
    assert (schedule.decay, schedule.final_share) == ("cosine", 0.03)
    assert (optim.kind, optim.lr, optim.betas) == ("adamw", 3e-4, (0.9, 0.95))
    assert (optim.weight_decay, optim.clip_norm) == (0.1, 1.0)


def test_what_the_documentation_sets_is_a_recipe(tmp_path):
    """Each block of its page on training, on top of tiny."""
    page = Path(__file__).parents[2] / "docs/training.md"
    blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "documented.toml"
        path.write_text(block if block.startswith("base") else f'base = "tiny"\n{block}')
        load_recipe(str(path))


def test_the_documentation_names_every_recipe():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    listed = page.partition("### Recipes")[2].partition("###")[0]
    named = re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\|([^|]*)\|", listed, re.MULTILINE)))
    assert sorted(named) == NAMES
