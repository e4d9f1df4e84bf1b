import copy

import pytest
import torch
from torch import nn

from mtp_code.decoding import prepare
from mtp_code.decoding.engine import Engine
from mtp_code.decoding.prepare import (
    FewTokens,
    _free_bytes,
    describe_place,
    lay_out,
    load_for_decoding,
)
from mtp_code.decoding.requests import Request
from mtp_code.decoding.state import DecodeState, row_bytes
from mtp_code.errors import CheckpointError, MachineError
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.run_folder import load_run
from tests.mtp_code.interop.runs import small_bpe, write_run


def stored_by_input(model: MTPModel) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_contiguous()
    }


@pytest.mark.parametrize("is_tied", [False, True])
def test_matrices_with_more_outputs_than_inputs_are_stored_by_input(small_config, is_tied):
    config = small_config.model_copy(update={"tied_embeddings": is_tied})
    before = build_model(config, seed=0).eval().requires_grad_(False)
    model = copy.deepcopy(before)
    lay_out(model)
    kinds = {name.rpartition(".")[2] for name in stored_by_input(model)}
    assert kinds == {"qkv", "gate_up"} | ({"unembedding"} if not is_tied else set())
    assert model.trunk.embedding.weight.is_contiguous()
    assert (model.unembedding.weight is model.trunk.embedding.weight) == is_tied
    weights = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert not parameter.requires_grad
    tokens_BT = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(model(tokens_BT), before(tokens_BT))


@pytest.mark.parametrize("num_tokens", range(1, 11))
@pytest.mark.parametrize("by_input, keeps_rows", [(False, True), (True, False), (True, True)])
def test_products_of_few_tokens_are_the_layer_s(num_tokens, by_input, keeps_rows):
    linear = nn.Linear(24, 40).requires_grad_(False)
    few = FewTokens(linear, by_input, keeps_rows)
    for shape in ((num_tokens, 24), (1, num_tokens, 24), (num_tokens, 1, 24)):
        x = torch.randn(shape)
        found = few(x)
        assert found.is_contiguous()
        torch.testing.assert_close(found, linear(x))


def rows_kept(model: MTPModel) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, FewTokens)
        and module._rows_OI is not None
        and not module.weight.is_contiguous()
    }


def test_matrices_are_kept_twice_where_memory_allows_and_they_are_used(small_config, monkeypatch):
    model = build_model(small_config, seed=0).eval().requires_grad_(False)
    wide_bytes = sum(
        module.weight.nbytes
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features > module.in_features
    )
    monkeypatch.setattr(prepare, "_free_bytes", lambda device: 4 * wide_bytes)
    poor, rich = copy.deepcopy(model), copy.deepcopy(model)
    lay_out(poor)
    assert rows_kept(poor) == set()
    monkeypatch.setattr(prepare, "_free_bytes", lambda device: 4 * wide_bytes + 1)
    lay_out(rich)
    assert rows_kept(rich) == {
        name
        for name in stored_by_input(rich)
        if not name.startswith(tuple(f"mtp_heads.layers.{number}." for number in (1, 2, 3)))
    }
    assert stored_by_input(rich) == stored_by_input(poor)


def test_what_decodes_a_run_loads_it_laid_out(tmp_path):
    write_run(tmp_path, small_bpe())
    assert not stored_by_input(load_run(tmp_path).model)
    trained = load_for_decoding(tmp_path)
    engine = Engine.load(tmp_path, num_rows=2)
    assert stored_by_input(engine.model) == stored_by_input(trained.model) != set()
    requests = [Request([5, 6, 7], 12), Request([9] * 5, 8)]
    expected = Engine(load_run(tmp_path).model, engine.tokenizer, 1, 0).generate(requests)
    found = engine.generate(requests)
    assert [c.tokens for c in found.completions] == [c.tokens for c in expected.completions]


@pytest.mark.parametrize("name, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_caches_and_answers_are_in_the_format_asked_for(tmp_path, name, dtype):
    write_run(tmp_path, small_bpe())
    engine = Engine.load(tmp_path, num_rows=2, dtype=name)
    floating = [p for p in engine.model.parameters() if p.is_floating_point()]
    state = engine._state
    assert {p.dtype for p in floating} == {dtype}
    assert {state.cache.keys_LBHCd.dtype, state.cache.values_LBHCd.dtype} == {dtype}
    assert state.hidden_BCD.dtype is dtype
    assert describe_place(engine.model) == {
        "device": "cpu",
        "dtype": str(dtype).removeprefix("torch."),
    }
    (found,) = engine.generate([Request([5, 6, 7], 12)]).completions
    assert found.num_committed > 0
    assert describe_place(load_for_decoding(tmp_path).model)["dtype"] == "float32"


def test_weights_without_memory_are_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 TiB.")

    write_run(tmp_path, small_bpe())
    monkeypatch.setattr(MTPModel, "to", full)
    with pytest.raises(MachineError, match=r"its weights do not fit .* choose --device cpu"):
        load_for_decoding(tmp_path)


def test_rows_take_the_memory_that_is_told_and_masks_of_whole_rows_are_aligned(small_config):
    model = build_model(small_config, seed=0)
    for num_spare in (2, 8, 40):
        state = DecodeState(model, 3, num_spare, max_drafts=2)
        tensors = (
            state.cache.keys_LBHCd, state.cache.values_LBHCd, state.hidden_BCD, state.tokens_BC,
            state.uniforms_BC,
        )  # fmt: skip
        num_bytes = sum(tensor.nbytes for tensor in tensors)
        assert num_bytes == 3 * row_bytes(small_config, num_spare, 2, bytes_each=4)
        assert state.cache.capacity >= small_config.context + num_spare
        assert state.cache.capacity % 8 == 0


def test_a_run_without_the_heads_asked_for_is_one_line(tmp_path):
    write_run(tmp_path, small_bpe())
    heads = load_run(tmp_path).model.num_mtp_heads
    line = rf"{heads} drafts: it has heads for 0\.\.{heads - 1}"
    with pytest.raises(CheckpointError, match=line):
        Engine.load(tmp_path, num_drafts=heads)


def test_memory_that_torch_holds_ready_on_a_gpu_is_free(monkeypatch):
    figures = {"mem_get_info": (5, 100), "memory_reserved": 40, "memory_allocated": 30}
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    assert _free_bytes(torch.device("cuda")) == 5 + 40 - 30
