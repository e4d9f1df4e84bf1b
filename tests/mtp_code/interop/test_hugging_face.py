import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mtp_code.decoding.peek import peek
from mtp_code.decoding.plain import decode_plain
from mtp_code.decoding.requests import Request
from mtp_code.errors import InputError, InteropError, TokenizerError
from mtp_code.interop.export import export
from mtp_code.interop.hugging_face import import_model
from mtp_code.run_folder import load_run
from mtp_code.tokenizer import BytesTokenizer
from tests.mtp_code.interop.runs import TEXTS, small_bpe, write_run

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": None,
    "eos_token_id": 256,
}


def rope(kind: str, theta: float = 10_000.0, **more: float) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


# As the families publish them.
FAMILIES = {
    "Llama 2": ("Llama", {}),
    "Llama 3.1": (
        "Llama",
        rope(
            "llama3",
            500_000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    ),
    "Llama, biases": ("Llama", {"attention_bias": True}),
    "Llama, one key head": ("Llama", {"num_key_value_heads": 1}),
    "SmolLM": (
        "Llama",
        {
            "tie_word_embeddings": True,
            "hidden_size": 36,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
        },
    ),
    "DeepSeek-Coder": ("Llama", rope("linear", 100_000.0, factor=4.0)),
    "Llama, dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "Mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "Qwen2.5-Coder": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen2.5, long": (
        "Qwen2",
        rope("yarn", 1e6, factor=4.0, original_max_position_embeddings=32),
    ),
    "Qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}


def write_foreign(folder: Path, family: str, **shape: object) -> torch.nn.Module:
    """A randomly initialised model of the family, all of whose weights matter."""
    torch.manual_seed(5)
    kind, of_family = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**(SHAPE | of_family | shape))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("o_proj.bias", "mlp.gate_proj.bias")):
                parameter.copy_(
                    torch.randn(parameter.shape) * (0.15 if parameter.dim() > 1 else 0.5)
                )
    model.save_pretrained(folder)
    small_bpe().save_for_others(folder, 128)
    return model


@pytest.fixture
def llama(tmp_path):
    write_foreign(tmp_path / "llama", "Llama 2")
    return tmp_path / "llama"


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_transformers(tmp_path, family):
    foreign = write_foreign(tmp_path / "foreign", family)
    imported = import_model(str(tmp_path / "foreign"), tmp_path / "run")
    model = load_run(tmp_path / "run").model
    tokens_BT = torch.randint(320, (2, 128))
    expected = foreign(tokens_BT).logits
    assert imported.config.context == 128
    assert model.num_mtp_heads == 1
    assert expected.std() > 0.3
    torch.testing.assert_close(model(tokens_BT)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_stay_in_their_precision(tmp_path, llama, dtype):
    AutoModelForCausalLM.from_pretrained(llama, dtype=dtype).save_pretrained(llama)
    import_model(str(llama), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    before = load_file(llama / "model.safetensors")
    after = load_file(tmp_path / "out" / "main" / "model.safetensors")
    assert {tensor.dtype for tensor in before.values()} == {dtype}
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])
    assert json.loads((tmp_path / "out/main/config.json").read_text())["dtype"] in str(dtype)


@pytest.mark.parametrize(
    "shape", [{}, {"qk_norm": True}, {"qkv_bias": True}, {"tied_embeddings": True}]
)
def test_a_round_trip_changes_no_bit(tmp_path, shape):
    model = write_run(tmp_path / "run", BytesTokenizer(), **shape)
    export(tmp_path / "run", tmp_path / "out", max_shard_bytes=60_000)
    import_model(str(tmp_path / "out"), tmp_path / "back")
    back = load_run(tmp_path / "back")
    assert back.model.config == model.config
    for name, parameter in model.named_parameters():
        assert torch.equal(back.model.get_parameter(name), parameter), name
    for text in TEXTS:
        assert back.tokenizer.encode_prompt(text) == BytesTokenizer().encode_prompt(text)


def test_main_alone_comes_back_as_trunk_and_head_1(tmp_path):
    model = write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    import_model(str(tmp_path / "out" / "main"), tmp_path / "back")
    back = load_run(tmp_path / "back").model
    tokens_BT = torch.randint(257, (1, 40))
    assert back.num_mtp_heads == 1
    assert torch.equal(back(tokens_BT)[0], model(tokens_BT)[0])


def test_prompts_begin_as_transformers_begins_them(tmp_path, llama):
    foreign = AutoTokenizer.from_pretrained(llama)
    import_model(str(llama), tmp_path / "run")
    tokenizer = load_run(tmp_path / "run").tokenizer
    assert all(tokenizer.encode_prompt(text) == foreign(text).input_ids for text in TEXTS)


def test_a_family_without_a_first_token_gets_none(tmp_path, llama):
    definition = json.loads((llama / "tokenizer.json").read_text())
    (llama / "tokenizer.json").write_text(json.dumps(definition | {"post_processor": None}))
    import_model(str(llama), tmp_path / "run")
    trained = load_run(tmp_path / "run")
    assert trained.tokenizer.begin_document == []
    assert trained.tokenizer.encode_prompt("x = 1") == trained.tokenizer.encode("x = 1")
    places = peek(trained.model, trained.tokenizer, "x = 1")
    assert "".join(place.text for place in places) == "x = 1"


def test_imported_models_decode_as_transformers_generates(tmp_path, llama):
    import_model(str(llama), tmp_path / "run")
    trained = load_run(tmp_path / "run")
    tokens = trained.tokenizer.encode_prompt(TEXTS[0])
    foreign = AutoModelForCausalLM.from_pretrained(llama)
    generated = foreign.generate(torch.tensor([tokens]), max_new_tokens=30, do_sample=False)
    (completion,) = decode_plain(trained.model, trained.tokenizer, [Request(tokens, 30)])
    assert [*tokens, *completion.tokens] == generated[0].tolist()[: len(tokens) + 30]


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_an_answer_ends_at_whichever_token_the_makers_name(tmp_path, llama, name):
    """As Llama 3's and Qwen's chat models name several."""
    import_model(str(llama), tmp_path / "one end")
    trained = load_run(tmp_path / "one end")
    prompt = trained.tokenizer.encode_prompt(TEXTS[0])
    (longer,) = decode_plain(trained.model, trained.tokenizer, [Request(prompt, 30)])
    end, other = trained.tokenizer.end_of_text, longer.tokens[9]
    length = longer.tokens.index(other)
    assert length < len(longer.tokens) - 1
    if name == "config.json":
        (llama / "generation_config.json").unlink()
    edit(llama / name, eos_token_id=[other, end])
    foreign = AutoModelForCausalLM.from_pretrained(llama)
    generated = foreign.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)
    assert generated[0].tolist() == [*prompt, *longer.tokens[:length], other]  # control

    import_model(str(llama), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    import_model(str(tmp_path / "out"), tmp_path / "back")
    for file in ("generation_config.json", "config.json"):
        exported = json.loads((tmp_path / "out" / "main" / file).read_text())
        assert exported["eos_token_id"] == [end, other]
    for folder in ("run", "back"):
        trained = load_run(tmp_path / folder)
        assert trained.tokenizer.answer_ends == (end, other)
        assert trained.tokenizer.end_of_text == end
        (answer,) = decode_plain(trained.model, trained.tokenizer, [Request(prompt, 30)])
        assert (answer.tokens, answer.ended_by) == (longer.tokens[:length], "end of text")
        assert answer.num_committed == length + 1


def test_ends_that_are_asked_for_take_the_place_of_the_makers(tmp_path, llama):
    edit(llama / "config.json", eos_token_id=[256, 65])
    import_model(str(llama), tmp_path / "run", ends=["x", "y"])
    tokenizer = load_run(tmp_path / "run").tokenizer
    assert [tokenizer.spelled(end) for end in tokenizer.answer_ends] == ["x", "y"]
    assert tokenizer.encode("x") == [tokenizer.end_of_text]
    with pytest.raises(TokenizerError, match="no '<end>' to end answers with"):
        import_model(str(llama), tmp_path / "other", ends=["x", "<end>"])


def test_a_sliding_window_ends_the_context(tmp_path, caplog):
    foreign = write_foreign(tmp_path / "foreign", "Mistral", sliding_window=24)
    imported = import_model(str(tmp_path / "foreign"), tmp_path / "run")
    assert imported.config.context == 24
    assert "the context of 128 is cut to 24" in caplog.text
    tokens_BT = torch.randint(320, (1, 24))
    with torch.no_grad():
        found = load_run(tmp_path / "run").model(tokens_BT)[0]
        torch.testing.assert_close(found, foreign(tokens_BT).logits, atol=1e-5, rtol=0)


def refused(llama: Path, tmp_path: Path, match: str, kind: type[InputError] = InteropError) -> None:
    """In one line, and nothing is left behind."""
    with pytest.raises(kind, match=match) as caught:
        import_model(str(llama), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"llama"}


@pytest.mark.parametrize(
    "values, match",
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.*supported: LlamaForCausalLM"),
        ({"architectures": None}, "no architecture"),
        ({"hidden_act": "gelu"}, "hidden_act = gelu"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"vocab_size": 321}, r"lm_head.weight is \(320, 32\)"),
        ({"num_hidden_layers": 2}, "holds model.layers.2"),
        ({"num_hidden_layers": 4}, "lacks model.layers.3"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, llama, values, match):
    edit(llama / "config.json", **values)
    refused(llama, tmp_path, match)


def test_biases_that_have_an_effect_are_refused(tmp_path):
    model = write_foreign(tmp_path / "llama", "Llama, biases")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.bias[0] = 1
    model.save_pretrained(tmp_path / "llama")
    refused(tmp_path / "llama", tmp_path, "layers.1.self_attn.o_proj.bias is not zero")


def test_a_folder_without_a_configuration_is_refused(tmp_path, llama):
    (llama / "config.json").unlink()
    refused(llama, tmp_path, "has no config.json")


def test_neither_folder_nor_hub_name_is_refused(tmp_path):
    refused(tmp_path / "llama", tmp_path, "no such folder")


def test_a_missing_shard_is_named(tmp_path, llama):
    model = AutoModelForCausalLM.from_pretrained(llama)
    (llama / "model.safetensors").unlink()
    model.save_pretrained(llama, max_shard_size="40KB")
    shards = sorted(llama.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    refused(llama, tmp_path, f"the shard {shards[1].name} is missing")


def test_damaged_weights_are_refused(tmp_path, llama):
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(llama, tmp_path, "model.safetensors: cannot be read")


def test_integers_are_no_weights(tmp_path, llama):
    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, llama / "model.safetensors")
    refused(llama, tmp_path, "model.norm.weight is torch.int8")


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, llama):
    definition = json.loads((llama / "tokenizer.json").read_text())
    token = {"id": 320, "content": "<more>", "special": True, "normalized": False}
    match = {"single_word": False, "lstrip": False, "rstrip": False}
    definition["added_tokens"].append(token | match)
    definition["model"]["vocab"]["<more>"] = 320
    (llama / "tokenizer.json").write_text(json.dumps(definition))
    refused(llama, tmp_path, "ids up to 320, the model a vocabulary of 320", TokenizerError)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, llama):
    for path in llama.glob("tokenizer*"):
        path.unlink()
    refused(llama, tmp_path, "no tokenizer", TokenizerError)


def test_pickles_are_read_only_if_allowed_and_only_tensors(tmp_path, llama):
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(weights, llama / "pytorch_model.bin")
    refused(llama, tmp_path, "--allow-pickle")
    import_model(str(llama), tmp_path / "run", allow_pickle=True)
    assert load_run(tmp_path / "run").model.config.width == 32

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({**weights, "model.norm.weight": Evil()}, llama / "pytorch_model.bin")
    with pytest.raises(InteropError, match="cannot be read"):
        import_model(str(llama), tmp_path / "other", allow_pickle=True)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "other").exists()


def test_code_that_comes_with_a_model_is_not_run(tmp_path, llama):
    (llama / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    edit(llama / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    import_model(str(llama), tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    edit(llama / "config.json", architectures=["EvilForCausalLM"], model_type="evil")
    with pytest.raises(InteropError, match="never run"):
        import_model(str(llama), tmp_path / "other")
    assert not (tmp_path / "ran").exists()


def test_heads_of_another_export_are_refused(tmp_path):
    write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    path = tmp_path / "out" / "heads" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] += 1
    save_file(weights, path)
    with pytest.raises(InteropError, match="exported apart"):
        import_model(str(tmp_path / "out"), tmp_path / "back")


def test_an_import_takes_nobodys_place(tmp_path, llama):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(InteropError, match="not empty"):
        import_model(str(llama), tmp_path / "run")
