"""Folders of others that decode as they are."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from mtp_code.decoding.engine import Engine
from mtp_code.decoding.requests import Request
from mtp_code.errors import CheckpointError, InputError, InteropError
from mtp_code.interop.export import export
from mtp_code.loading import load_model
from mtp_code.run_folder import load_run
from mtp_code.tokenizer import BytesTokenizer
from tests.mtp_code.interop.runs import TEXTS, write_run
from tests.mtp_code.interop.test_hugging_face import write_foreign


@pytest.mark.parametrize("family", ["Llama 2", "Qwen2.5-Coder", "Qwen3"])
def test_a_folder_of_transformers_decodes_as_there(tmp_path, family):
    foreign = write_foreign(tmp_path / "theirs", family)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").iterdir()}
    engine = Engine.load(tmp_path / "theirs", num_rows=2)
    prompts = [engine.tokenizer.encode_prompt(text) for text in TEXTS[:2]]
    found = engine.generate([Request(prompt, 24) for prompt in prompts]).completions
    for prompt, answer in zip(prompts, found, strict=True):
        expected = foreign.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert [*prompt, *answer.tokens] == expected[0].tolist()[: len(prompt) + 24]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "theirs").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_what_it_is_follows_from_its_content(tmp_path):
    write_foreign(tmp_path / "theirs", "Llama 2")
    first = load_model(tmp_path / "theirs").description
    assert first["model"] == "theirs"
    assert first["architecture"] == "LlamaForCausalLM"
    assert first["num_mtp_heads"] == 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "theirs")
    assert load_model(tmp_path / "theirs").description["sha256"] != first["sha256"]


def test_an_export_brings_all_heads_and_a_run_is_a_run(tmp_path):
    model = write_run(tmp_path / "run", BytesTokenizer())
    export(tmp_path / "run", tmp_path / "out")
    back = load_model(tmp_path / "out").model
    assert back.num_mtp_heads == 4
    for name, parameter in model.named_parameters():
        assert torch.equal(back.get_parameter(name), parameter), name
        assert not back.get_parameter(name).requires_grad
    assert load_model(tmp_path / "out" / "main").model.num_mtp_heads == 1
    run = load_run(tmp_path / "run")
    assert load_model(tmp_path / "run").description == run.description


def test_weights_of_half_precision_are_computed_with_in_single(tmp_path):
    model = write_foreign(tmp_path / "theirs", "Llama 2")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs").model
    tokens_BT = torch.randint(320, (1, 64))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(tokens_BT).logits
    torch.testing.assert_close(ours(tokens_BT)[0], expected, atol=1e-5, rtol=0)


def test_folders_that_hold_no_model_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no run there"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no run there"):
        load_model(tmp_path / "empty")


def test_pickles_want_an_import(tmp_path):
    model = write_foreign(tmp_path / "theirs", "Llama 2")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    with pytest.raises(InteropError, match="by mtp-code import --allow-pickle"):
        load_model(tmp_path / "theirs")
