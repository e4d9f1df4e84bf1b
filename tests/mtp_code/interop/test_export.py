import errno
import json
import re

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mtp_code.errors import CheckpointError, InteropError
from mtp_code.interop.card import Measured
from mtp_code.interop.export import export
from mtp_code.interop.vllm import speculative_config
from mtp_code.model.mtp import MTPModel
from mtp_code.tokenizer import BytesTokenizer
from tests.mtp_code.interop.runs import TEXTS, small_bpe, write_run

YARN = {"kind": "yarn", "factor": 4.0, "original_context": 64}
LLAMA3 = {
    "kind": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_context": 64,
}


def next_token_logits(model: MTPModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    return model.read(tokens_BT, model.trunk.attend(tokens_BT)).logits(1)


@torch.no_grad()
def assert_answers_alike(model: MTPModel, foreign: torch.nn.Module) -> None:
    """To 1e-5, at all positions of the whole context."""
    vocab_size, context = model.config.vocab_size, model.config.context
    tokens_BT = torch.randint(vocab_size, (2, context), generator=torch.Generator().manual_seed(3))
    expected = next_token_logits(model, tokens_BT)
    assert expected.std() > 0.3
    torch.testing.assert_close(foreign(tokens_BT).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "shape, architecture",
    [
        ({}, "LlamaForCausalLM"),
        ({"qk_norm": True, "attn_head_width": 12}, "Qwen3ForCausalLM"),
        ({"qkv_bias": True}, "LlamaForCausalLM"),
        ({"tied_embeddings": True}, "LlamaForCausalLM"),
        ({"num_mtp_heads": 1}, "LlamaForCausalLM"),
        ({"rope_scaling": YARN}, "LlamaForCausalLM"),
        ({"rope_scaling": LLAMA3}, "LlamaForCausalLM"),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0}}, "LlamaForCausalLM"),
    ],
)
def test_main_is_a_plain_model_with_the_same_logits(tmp_path, shape, architecture):
    model = write_run(tmp_path / "run", BytesTokenizer(), **shape)
    written = export(tmp_path / "run", tmp_path / "out")
    foreign, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out" / "main", output_loading_info=True
    )
    assert type(foreign).__name__ == written.architecture == architecture
    assert not any(loading.values())
    assert_answers_alike(model, foreign)


@pytest.mark.parametrize("heads", ["causal", "anticausal", "linear", "sequential"])
def test_other_heads_leave_a_plain_model(tmp_path, heads):
    model = write_run(tmp_path / "run", BytesTokenizer(), heads=heads)
    with pytest.raises(InteropError, match=f"heads = {heads}.*--main-only"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", tmp_path / "out", main_only=True)
    assert not (tmp_path / "out" / "heads").exists()
    assert_answers_alike(model, AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "main"))


def test_replicated_unembeddings_are_no_draft(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer(), replicated_unembeddings=True)
    with pytest.raises(InteropError, match=r"replicated_unembeddings.*--main-only"):
        export(tmp_path / "run", tmp_path / "out")


def test_what_no_class_computes_is_refused(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer(), qk_norm=True, qkv_bias=True)
    with pytest.raises(InteropError, match="qk_norm"):
        export(tmp_path / "run", tmp_path / "out")


@pytest.mark.parametrize("make", [BytesTokenizer, small_bpe])
@pytest.mark.parametrize("shape", [{}, {"qk_norm": True}, {"qkv_bias": True}])
def test_transformers_reads_prompts_as_we_do(tmp_path, make, shape):
    tokenizer = make()
    write_run(tmp_path / "run", tokenizer, **shape)
    export(tmp_path / "run", tmp_path / "out")
    foreign = AutoTokenizer.from_pretrained(tmp_path / "out" / "main")
    for text in TEXTS:
        ids = tokenizer.encode_prompt(text)
        assert foreign(text).input_ids == ids
        assert foreign(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
        assert foreign.decode(ids, skip_special_tokens=True) == text
    assert foreign.eos_token_id == tokenizer.end_of_text


def test_greedy_answers_are_those_of_transformers(tmp_path):
    tokenizer = small_bpe()
    model = write_run(tmp_path / "run", tokenizer, qk_norm=True)
    export(tmp_path / "run", tmp_path / "out")
    foreign = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "main")
    tokens = tokenizer.encode_prompt(TEXTS[0])
    found = foreign.generate(torch.tensor([tokens]), max_new_tokens=40, do_sample=False)[0]
    expected = list(tokens)
    for _ in range(40):
        logits = next_token_logits(model, torch.tensor([expected]))[0, -1]
        expected.append(int(logits.argmax()))
        if expected[-1] == tokenizer.end_of_text:
            break
    assert found.tolist() == expected


def test_heads_hold_the_later_layers_by_the_names_of_the_main_model(tmp_path):
    model = write_run(tmp_path / "run", BytesTokenizer(), qkv_bias=True)
    written = export(tmp_path / "run", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "heads" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "heads" / "config.json").read_text())
    main = load_file(tmp_path / "out" / "main" / "model.safetensors")
    num_main = model.config.num_trunk_layers + 1
    assert written.num_heads == config["num_hidden_layers"] == 3
    assert config["hidden_size"] == 3 * model.config.width
    assert config["eagle_aux_hidden_state_layer_ids"] == [num_main - 1]
    in_layer = {name.removeprefix("model.layers.0.") for name in main if ".layers.0." in name}
    assert weights.keys() == {"model.norm.weight"} | {
        f"model.layers.{number}.{name}" for number in range(3) for name in in_layer
    }
    for number in range(3):
        qkv = [weights[f"model.layers.{number}.self_attn.{part}_proj.weight"] for part in "qkv"]
        block = model.mtp_heads.layers[number + 1]
        assert torch.equal(torch.cat(qkv), block.attn.qkv.weight)
        assert torch.equal(
            weights[f"model.layers.{number}.mlp.down_proj.weight"], block.ffn.down.weight
        )
        assert not weights[f"model.layers.{number}.self_attn.o_proj.bias"].any()


def test_large_models_are_cut_into_shards(tmp_path):
    model = write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out", max_shard_bytes=50_000)
    main = tmp_path / "out" / "main"
    index = json.loads((main / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert_answers_alike(model, AutoModelForCausalLM.from_pretrained(main))


def test_the_card_tells_scores_and_whose_they_are(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer())
    measured = [
        Measured("micro", "pass@1 36.8 % (30.9–43.2)", "200 tasks × 5 samples"),
        Measured("humaneval", "pass@1 0.0 % (0.0–2.3)", "164 tasks × 1 samples", "0" * 64),
    ]
    export(tmp_path / "run", tmp_path / "out", measured)
    card = (tmp_path / "out" / "heads" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| micro | pass@1 36.8 % (30.9–43.2) | 200 tasks × 5 samples |" in card
    assert "| humaneval (of another checkpoint of the run) |" in card


def test_the_card_s_command_drafts_as_the_plugin_wants_it(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    heads = tmp_path / "out" / "heads"
    (told,) = re.findall(r"--speculative-config '(.*)'", (heads / "README.md").read_text())
    assert json.loads(told) == speculative_config(heads) | {"model": "heads"}


def test_a_full_disk_is_named_and_leaves_what_was_exported_before(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    monkeypatch.setattr("mtp_code.interop.export.save_torch_state_dict", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        export(tmp_path / "run", tmp_path / "out")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out"))
    assert (tmp_path / "out" / "main" / "model.safetensors").exists()


def test_a_damaged_checkpoint_leaves_what_was_exported_before(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    before = (tmp_path / "out" / "main" / "model.safetensors").read_bytes()
    (weights,) = (tmp_path / "run").rglob("model.safetensors")
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        export(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out" / "main" / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


@pytest.mark.parametrize("name", ["thesis.tex", "main/thesis.tex", "heads/thesis.tex"])
def test_only_an_export_is_replaced(tmp_path, name):
    write_run(tmp_path / "run", BytesTokenizer())
    thesis = tmp_path / "out" / name
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    with pytest.raises(InteropError, match="something else than an export"):
        export(tmp_path / "run", tmp_path / "out")
    assert thesis.exists()
    thesis.unlink()
    if thesis.parent != tmp_path / "out":
        thesis.parent.rmdir()
    export(tmp_path / "run", tmp_path / "out")
    export(tmp_path / "run", tmp_path / "out")  # control: an export is
