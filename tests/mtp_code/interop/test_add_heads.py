import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from mtp_code.checkpoint import checkpoint_path
from mtp_code.cli.interop import folder_with_heads
from mtp_code.data.prepare import prepare
from mtp_code.data.shards import ShardSet, open_shards
from mtp_code.errors import RecipeError
from mtp_code.interop.add_heads import heads_recipe
from mtp_code.interop.export import export
from mtp_code.interop.hugging_face import import_model
from mtp_code.recipe import Recipe
from mtp_code.run_folder import load_run
from mtp_code.tokenizer import BytesTokenizer
from mtp_code.training.loop import train
from mtp_code.training.metrics import read_metrics
from tests.mtp_code.interop.runs import write_run

RECIPE = """
[tokenizer]
kind = "bytes"
[data]
validation_share = 0.2
[data.sources.texts]
kind = "jsonl"
path = "{path}"
[model]
width = 8
num_layers = 1
num_attn_heads = 1
ffn_width = 8
context = 8
[optim]
lr = 3e-3
[schedule]
num_steps = 12
[training]
row_tokens = 32
rows = 4
num_threads = 1
log_every = 1
validate_every = 6
checkpoint_every = 6
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A recipe, and a model of somebody else's, imported: trunk of two layers, head 1."""
    folder = tmp_path_factory.mktemp("add-heads")
    lines = [{"text": f"def f{i}(x):\n    return x + {i}\n" * 3} for i in range(80)]
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.toml").write_text(RECIPE.format(path=texts))
    write_run(folder / "made", BytesTokenizer(), num_layers=3, num_mtp_heads=1, context=64)
    export(folder / "made", folder / "exported")
    import_model(str(folder / "exported" / "main"), folder / "base")
    return folder


def recipe_for(folder: Path, how: str = "heads", *overrides: str) -> Recipe:
    return heads_recipe(
        folder / "base", 3, str(folder / "recipe.toml"), how, 1.0, overrides  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def shards(folder: Path) -> ShardSet:
    recipe = recipe_for(folder)
    prepare(recipe.data, recipe.tokenizer, folder / "tokens")
    return open_shards(folder / "tokens")


@pytest.fixture(scope="module")
def run_of(folder: Path, shards: ShardSet) -> Callable[[str], Path]:
    """The run of a way to train, which nobody disturbed."""

    @cache
    def run(how: str) -> Path:
        train(recipe_for(folder, how), shards, folder / how)
        return folder / how

    return run


@pytest.fixture(scope="module", params=["heads", "lora", "all"])
def trained(request, run_of: Callable[[str], Path]) -> tuple[str, Path]:
    return request.param, run_of(request.param)


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return dict(load_run(run_dir).model.named_parameters())


def test_new_heads_learn(trained):
    _, run_dir = trained
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "train"]
    first, last = (rows[at]["loss_by_offset"] for at in (0, -1))
    assert all(after < before for after, before in zip(last[1:], first[1:], strict=True))
    assert len(rows[0]["distillation_by_offset"]) == 3


def test_frozen_is_bit_for_bit_what_it_was(folder, trained):
    how, run_dir = trained
    before, after = weights_of(folder / "base"), weights_of(run_dir)
    is_same = all(torch.equal(after[name], weight) for name, weight in before.items())
    assert is_same == (how == "heads")
    tokens_BT = torch.randint(257, (2, 40))
    base, model = load_run(folder / "base").model, load_run(run_dir).model
    assert torch.equal(model(tokens_BT)[0], base(tokens_BT)[0]) == (how == "heads")


def test_low_rank_additions_have_that_rank_and_spare_the_vocabulary(folder, trained):
    how, run_dir = trained
    if how != "lora":
        pytest.skip("only of these")
    before, after = weights_of(folder / "base"), weights_of(run_dir)
    for name, weight in before.items():
        change = after[name] - weight
        if name.startswith(("trunk.layers", "mtp_heads")) and weight.dim() == 2:
            assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-4) <= 16, name
        else:
            assert not change.any(), name


def test_all_ways_export_and_come_back(tmp_path, trained):
    _, run_dir = trained
    export(run_dir, tmp_path / "out")
    import_model(str(tmp_path / "out"), tmp_path / "back")
    before, after = weights_of(run_dir), weights_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_new_heads_begin_as_head_1(folder, shards, tmp_path):
    recipe = recipe_for(folder, "heads", "optim.lr=1e-30", "schedule.num_steps=1")
    train(recipe, shards, tmp_path / "run")
    model = load_run(tmp_path / "run").model
    for name, weight in model.mtp_heads.layers[0].named_parameters():
        for later in model.mtp_heads.layers[1:]:
            torch.testing.assert_close(later.get_parameter(name), weight)


@pytest.mark.parametrize("how", ["heads", "lora"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(folder, shards, run_of, tmp_path, how):
    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe_for(folder, how), shards, tmp_path / "run", stop)
    train(recipe_for(folder, how), shards, tmp_path / "run")
    stopped, whole = (
        (checkpoint_path(run, 12) / "model.safetensors").read_bytes()
        for run in (tmp_path / "run", run_of(how))
    )
    assert stopped == whole


@pytest.mark.parametrize(
    "num_heads, overrides, match",
    [
        (0, (), "has 1 heads already"),
        (1, (), "trains heads that are new"),
        (3, ("training.row_tokens=128",), "longer than model.context = 64"),
        (3, ("model.width=64",), "model.width is 32 in .*, 64 in the recipe"),
    ],
)
def test_what_does_not_go_with_the_run_is_refused(
    folder, shards, tmp_path, num_heads, overrides, match
):
    def begin() -> None:
        distillation = None if num_heads == 1 else 1.0
        given = (folder / "base", num_heads, str(folder / "recipe.toml"), "heads")
        train(heads_recipe(*given, distillation, overrides), shards, tmp_path / "run")

    with pytest.raises(RecipeError, match=match):
        begin()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("given", [".", "../small", "deeper/.."])
def test_more_heads_go_next_to_the_run_however_it_is_given(tmp_path, monkeypatch, given):
    (tmp_path / "small" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "small")
    assert folder_with_heads(Path(given), 4) == tmp_path.resolve() / "small-4-heads"
