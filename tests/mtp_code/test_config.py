from pathlib import Path

import pytest

from mtp_code.config import merge, parse_override
from mtp_code.errors import RecipeError
from mtp_code.recipe import Recipe, load_recipe

MINIMAL = """
[tokenizer]
kind = "bytes"
[data.sources.code]
kind = "stdlib"
[model]
width = 32
num_layers = 4
num_attn_heads = 2
ffn_width = 64
num_mtp_heads = 2
context = 64
[optim]
lr = 1e-3
[schedule]
num_steps = 10
[training]
row_tokens = 32
rows = 2
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


def complaint(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), overrides or [])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "tiny-next-token", "smoke", "bytes8-tiny"])
def test_our_recipes_load_by_name(name):
    assert load_recipe(name).name == name


def test_the_twin_differs_from_tiny_in_heads_and_length_only():
    tiny, twin = (load_recipe(name).model_dump() for name in ("tiny", "tiny-next-token"))
    assert twin["model"] == tiny["model"] | {"num_mtp_heads": 1}
    for section in ("tokenizer", "data", "optim"):
        assert twin[section] == tiny[section]
    assert twin["schedule"] == tiny["schedule"] | {"num_steps": twin["schedule"]["num_steps"]}


def test_a_recipe_survives_being_written_down(path):
    recipe = load_recipe(str(path))
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_the_vocabulary_comes_from_the_tokenizer(path):
    assert load_recipe(str(path)).model.vocab_size == 257
    bpe = ["tokenizer.kind=bpe", "tokenizer.vocab_size=300"]
    assert load_recipe(str(path), bpe).model.vocab_size == 300
    assert load_recipe(str(path), ["tokenizer.fim_tokens=true"]).model.vocab_size == 260


def test_values_override_those_of_the_base(path, tmp_path):
    child = tmp_path / "child.toml"
    child.write_text('base = "mine.toml"\n[model]\nwidth = 64\n')
    recipe = load_recipe(str(child), ["optim.lr=0.5", "name=other"])
    assert (recipe.model.width, recipe.model.num_layers) == (64, 4)
    assert (recipe.optim.lr, recipe.name) == (0.5, "other")


def test_an_unknown_key_is_named_with_its_nearest(path):
    path.write_text(MINIMAL.replace("num_mtp_heads", "num_mtp_head"))
    found = complaint(path)
    assert found == (f"{path}: unknown key model.num_mtp_head; did you mean num_mtp_heads?")


def test_an_unknown_key_is_named_in_the_depths_of_a_union(path):
    path.write_text(MINIMAL.replace('kind = "stdlib"', 'kind = "stdlib"\nwaight = 2'))
    assert "unknown key data.sources.code.waight; did you mean weight?" in complaint(path)


def test_an_unknown_section_is_named_with_its_nearest(path):
    assert "unknown key modle; did you mean model?" in complaint(path, ["modle.width=3"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.width=-3", "model.width: input should be greater than 0 (given -3)"),
        ("model.width=wide", "model.width: "),
        ("model.num_mtp_heads=9", "num_mtp_heads = 9 needs at least as many num_layers"),
        ("model.num_attn_heads=3", "width = 32 is no multiple of num_attn_heads = 3"),
        ("training.row_tokens=128", "training.row_tokens = 128 is longer than"),
        ("schedule.warmup_steps=10", "leaves nothing of num_steps"),
        ("optim.lr=nan", "optim.lr: "),
        ("data.sources.code.kind=stdlibb", "stdlibb"),
        ("tokenizer.vocab_size=3", "tokenizer"),
        ("model.heads=paralel", "model.heads: "),
        ("training.objective.loss=chunky", "training.objective.loss: "),
        ("training.objective.weights.initial=[1, 1, 1]", "has 3 weights for model.num_mtp_heads"),
        ("training.objective.weights.initial=[1, -1]", "weights.initial.1: input should be"),
        ("training.objective.weights.initial=much", "objective.weights.initial: input should be"),
        ("training.objective.weights.initial=[0, 1]", "offset 1 needs a weight above 0"),
        ("training.objective.token_order.window=8", "token_order_unembedding = true need each"),
        ("training.objective.curriculum.order=up", "training.objective.curriculum.order: "),
        ("training.objective.curiculum.order=forward", "did you mean curriculum?"),
    ],
)
def test_a_wrong_value_is_one_clear_line(path, override, expected):
    found = complaint(path, [override])
    assert found.startswith((f"--set {override}: ", f"{path} with --set {override}: "))
    assert expected in found


def test_what_is_wrong_is_blamed_on_the_file_or_option_that_says_it(path, tmp_path):
    child = tmp_path / "child.toml"
    child.write_text('base = "mine.toml"\n[optim]\nlr = -1\n')
    assert complaint(child).startswith(f"{child}: optim.lr: ")
    assert complaint(child, ["optim.lr=x", "seed=1"]).startswith("--set optim.lr=x: optim.lr: ")
    path.write_text(MINIMAL.replace("rows = 2", "rows = 0"))
    assert complaint(child, ["optim.lr=1"]).startswith(f"{path}: training.rows: ")
    path.write_text(MINIMAL.replace("num_steps = 10", "num_steps = 10\nwarmup_steps = 10"))
    assert complaint(child, ["optim.lr=1", "schedule.num_steps=5"]).startswith(
        f"{child} with --set schedule.num_steps=5: schedule: "
    )


def test_a_missing_key_is_named(path):
    path.write_text(MINIMAL.replace("lr = 1e-3", ""))
    assert complaint(path) == f"{path}: optim.lr is missing"


def test_files_that_are_no_recipes_are_named(tmp_path):
    assert "no such recipe; did you mean tiny?" in complaint(Path("tiney"))
    assert "no.toml: no such recipe; known: " in complaint(tmp_path / "no.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    assert "broken.toml: not TOML" in complaint(broken)
    circle = tmp_path / "circle.toml"
    circle.write_text('base = "circle.toml"\n')
    assert "leads back" in complaint(circle)


def test_an_override_without_a_value_is_refused(path):
    assert "not of the form" in complaint(path, ["model.width"])


def test_tables_merge_and_values_replace():
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
    }
    assert parse_override("a.b=[1, 2]").values == {"a": {"b": [1, 2]}}
    assert parse_override("a=text").values == {"a": "text"}
