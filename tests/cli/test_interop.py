"""export, import and add-heads from a terminal: what they say, and that nothing is half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtp_code.run_folder import load_run
from mtp_code.tokenizer import BytesTokenizer
from tests.commands import complaint, mtp_code
from tests.mtp_code.interop.runs import small_bpe, write_run
from tests.mtp_code.interop.test_add_heads import RECIPE
from tests.mtp_code.interop.test_hugging_face import write_foreign

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """`run` is one of ours, `theirs` a model of transformers in shards; `exported` is `run`'s."""
    folder = tmp_path_factory.mktemp("models")
    write_run(folder / "run", BytesTokenizer())
    write_foreign(folder / "theirs", "Llama 2").save_pretrained(
        folder / "theirs", max_shard_size="40KB"
    )
    (folder / "theirs" / "model.safetensors").unlink()
    done = mtp_code("export", "run", "--out", "exported", cwd=folder)
    assert (done.returncode, done.stdout) == (
        0,
        "exported: main/ is a LlamaForCausalLM, heads/ holds 3 heads\n",
    )
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_export_comes_back_as_it_was(models, tmp_path):
    done = mtp_code("import", models / "exported", "--out", "back", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "back: LlamaForCausalLM, 6 layers, 4 heads, context 256, answers end at <|endoftext|>\n",
    )
    again = mtp_code("export", "back", "--out", "again", "--main-only", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "again: main/ is a LlamaForCausalLM\n")
    assert not (tmp_path / "again" / "heads").exists()
    before = load_file(models / "exported" / "main" / "model.safetensors")
    after = load_file(tmp_path / "again" / "main" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_tokens_that_end_answers_are_told_and_may_be_chosen(models, tmp_path):
    options = ("--end-of-text", "<|endoftext|>", "--end-of-text", "return")
    done = mtp_code("import", models / "theirs", "--out", "run", *options, cwd=tmp_path)
    assert done.stdout.endswith("answers end at <|endoftext|> or return\n"), done.stderr
    assert len(load_run(tmp_path / "run").tokenizer.answer_ends) == 2


def write_recipe(folder: Path) -> None:
    """recipe.toml: data and training of a moment."""
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"x = {i}\n" * 9}) + "\n" for i in range(60)))
    (folder / "recipe.toml").write_text(RECIPE.format(path=texts))


def test_heads_are_added_to_what_was_imported(models, tmp_path):
    """Killed and called again, add-heads goes on; here it has nothing left to do."""
    write_recipe(tmp_path)
    assert mtp_code("import", models / "theirs", "--out", "base", cwd=tmp_path).returncode == 0
    adding = ("add-heads", "base", "--num-heads", 3, "--recipe", "recipe.toml")
    settings = ("--set", "schedule.num_steps=2", "--tokens", "tokens")
    for _ in range(2):
        done = mtp_code(*adding, *settings, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("base-3-heads: 3 heads, 2 steps\n")
    base, more = (load_run(tmp_path / name).model for name in ("base", "base-3-heads"))
    tokens_BT = torch.randint(300, (1, 32))
    assert (base.num_mtp_heads, more.num_mtp_heads) == (1, 3)
    assert torch.equal(base(tokens_BT)[0], more(tokens_BT)[0])
    exported = mtp_code("export", "base-3-heads", "--out", "out", cwd=tmp_path)
    assert exported.stdout == "out: main/ is a LlamaForCausalLM, heads/ holds 2 heads\n"


def edit(name: str, **values: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def a_larger_tokenizer(folder: Path) -> None:
    """Of another model, with more tokens than this one has rows."""
    definition = json.loads((folder / "tokenizer.json").read_text())
    end = definition["added_tokens"][0]
    ids = range(max(definition["model"]["vocab"].values()) + 1, 321)
    definition["added_tokens"] += [end | {"id": n, "content": f"<{n}>"} for n in ids]
    (folder / "tokenizer.json").write_text(json.dumps(definition))


def a_shard_of_another_model(folder: Path) -> None:
    path = sorted(folder.glob("model-*.safetensors"))[0]
    save_file({f"{name}.x": x for name, x in load_file(path).items()}, path, {"format": "pt"})


def pickles(folder: Path) -> None:
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


without_config = remove("config.json")
without_a_shard = remove("model-00002-of-00005.safetensors")


@pytest.mark.parametrize(
    "damage, said",
    [
        pytest.param(without_config, "{theirs}: has no config.json", id="config"),
        pytest.param(
            edit("config.json", architectures=["MambaForCausalLM"]),
            "{theirs}/config.json: architecture MambaForCausalLM is not supported; supported: "
            "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
            id="architecture",
        ),
        pytest.param(
            without_a_shard,
            "{theirs}: the shard model-00002-of-00005.safetensors is missing, which "
            "model.safetensors.index.json names",
            id="shard",
        ),
        pytest.param(
            a_shard_of_another_model,
            "{theirs}/model-00001-of-00005.safetensors: lacks ",
            id="another's shard",
        ),
        pytest.param(
            a_larger_tokenizer,
            "{theirs}: the tokenizer has ids up to 320, the model a vocabulary of 320; they do not "
            "belong together",
            id="tokenizer",
        ),
        pytest.param(remove("tokenizer.json"), "{theirs}: no tokenizer that can be", id="none"),
        pytest.param(
            pickles, "{theirs}/pytorch_model.bin: a pickle, which could run code", id="pickle"
        ),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_nothing_is_written(models, tmp_path, damage, said):
    theirs = tmp_path / "theirs"
    shutil.copytree(models / "theirs", theirs)
    assert len(list(theirs.glob("model-*.safetensors"))) == 5
    damage(theirs)
    before = snapshot(tmp_path)
    commands: list[tuple[object, ...]] = [("import", theirs, "--out", "run")]
    if damage is without_config or damage is without_a_shard:
        commands.append(("serve", theirs, "--port", 0))  # reads it alike, in seconds
    for command in commands:
        line = complaint(mtp_code(*command, cwd=tmp_path), 2)
        is_no_model = command[0] == "serve" and not (theirs / "config.json").exists()
        expected = "{theirs}: no run there" if is_no_model else said
        assert line.startswith(f"mtp-code: {expected.format(theirs=theirs)}")
        assert snapshot(tmp_path) == before


def test_a_checkpoint_that_was_changed_is_neither_exported_nor_given_heads(models, tmp_path):
    shutil.copytree(models / "run", tmp_path / "run")
    (weights,) = (tmp_path / "run").rglob("model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    write_recipe(tmp_path)
    before = snapshot(tmp_path)
    for command in (
        ("export", "run", "--out", "out"),
        ("add-heads", "run", "--num-heads", 5, "--recipe", "recipe.toml"),
        ("serve", "run", "--port", 0),
        ("peek", "x", "--run", "run"),
    ):
        line = complaint(mtp_code(*command, cwd=tmp_path), 2)
        assert "model.safetensors: changed since it was written" in line
        assert snapshot(tmp_path) == before


def test_weights_of_another_shape_are_refused_before_tokens_are_prepared(models, tmp_path):
    write_recipe(tmp_path)
    with (tmp_path / "recipe.toml").open("a") as recipe:
        recipe.write(f'[init]\nrun = "{models / "run"}"\n')
    before = snapshot(tmp_path)
    shape = ("model.num_layers=6", "model.num_mtp_heads=4", "model.context=256")
    options = [part for value in shape for part in ("--set", value)]
    line = complaint(mtp_code("train", "recipe.toml", *options, cwd=tmp_path), 2)
    assert line.startswith("mtp-code: init.run: model.width is 32 in ")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "command, said",
    [
        (("export", "nowhere", "--out", "out"), "nowhere: no run there"),
        (("export", "theirs", "--out", "out"), "theirs: a model of another library; take it in"),
        (("export", "run", "--out", "theirs"), "theirs: holds something else than an export"),
        (("import", "nowhere", "--out", "out"), "nowhere: no such folder, and no name on the hub"),
        (("import", "theirs", "--out", "run"), "run: not empty; give a new folder"),
        (
            ("import", "theirs", "--out", "out", "--revision", "v1"),
            "theirs: a folder, which has no --revision; leave it out",
        ),
        (("add-heads", "theirs", "--num-heads", 2), "theirs: a model of another library"),
        (("add-heads", "run", "--num-heads", 3), "run: has 4 heads already"),
    ],
)
def test_folders_that_are_not_what_a_command_takes_are_named(models, command, said):
    before = snapshot(models)
    assert complaint(mtp_code(*command, cwd=models), 2).startswith(f"mtp-code: {said}")
    assert snapshot(models) == before


def test_heads_of_another_export_are_refused(models, tmp_path):
    write_run(tmp_path / "other", small_bpe(), width=48)
    assert mtp_code("export", "other", "--out", "mixed", cwd=tmp_path).returncode == 0
    shutil.rmtree(tmp_path / "mixed" / "main")
    shutil.copytree(models / "exported" / "main", tmp_path / "mixed" / "main")
    line = complaint(mtp_code("import", "mixed", "--out", "run", cwd=tmp_path), 2)
    assert line.startswith("mtp-code: mixed/heads: model.")
    assert not (tmp_path / "run").exists()
