"""Precision, recomputation and compilation change how a step is computed, not what."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtp_code.data.batches import Batch
from mtp_code.errors import MachineError
from mtp_code.model.layers import Block
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.recipe import Recipe, load_recipe
from mtp_code.training.config import ShardingConfig
from mtp_code.training.loop import backward
from mtp_code.training.placement import choose_placement, place
from mtp_code.training.shards import Shards

HEADS = ("parallel", "causal", "anticausal", "linear", "sequential")
RNG = np.random.default_rng(0)
BATCH = Batch(
    RNG.integers(0, 300, (2, 35)),
    np.sort(RNG.integers(0, 3, (2, 35)), axis=1).astype(np.int32),
    (),
)


def recipe(**training: Any) -> Recipe:
    changes = {
        "model.vocab_size": 300, "model.width": 32, "model.num_layers": 5, "model.ffn_width": 48,
        "model.num_attn_heads": 2, "model.num_mtp_heads": 3, "model.qk_norm": "true",
        "training.rows": 2, "training.row_tokens": 32, "training.micro_batches": 1,
    }  # fmt: skip
    changes |= {key.replace("__", "."): value for key, value in training.items()}
    return load_recipe("smoke", [f"{key}={value}" for key, value in changes.items()])


def gradients(asked: Recipe, *, double: bool = False) -> dict[str, Tensor]:
    model = build_model(asked.model, seed=1)
    placement = place(model, asked.training)
    if double:
        model.double()
    with placement.autocast():
        backward(model, BATCH, asked.training, (1.0,) * 3)
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == parameter.dtype == (torch.double if double else torch.float)
        found[name] = parameter.grad.double()
    return found


def distances(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == exact.keys()
    return {name: ((found[name] - g).norm() / g.norm()).item() for name, g in exact.items()}


@pytest.mark.parametrize("heads", HEADS)
def test_gradients_in_bf16_are_within_the_rounding_of_bf16(heads):
    """The bound is on each parameter: 8 bits of mantissa are 0.4 %, and roundings add up."""
    exact = gradients(recipe(model__heads=heads), double=True)
    apart = distances(gradients(recipe(model__heads=heads, training__precision="bf16")), exact)
    assert max(apart.values()) < 0.05
    assert min(apart.values()) > 1e-5  # or nothing was computed in bf16
    assert max(distances(gradients(recipe(model__heads=heads)), exact).values()) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_that_run_again_give_the_same_gradients(precision):
    kept = gradients(recipe(training__precision=precision))
    again = gradients(
        recipe(training__precision=precision, training__activation_checkpointing="blocks")
    )
    assert all(torch.equal(kept[name], again[name]) for name in kept)


@pytest.fixture
def num_graphs(monkeypatch) -> Callable[[], int]:
    """How many graphs were compiled; layers run them as they are."""
    graphs: list[Any] = []

    def keeping(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        Block, "compile", lambda block, **kwargs: torch.nn.Module.compile(
            block, backend=keeping, **kwargs
        )
    )  # fmt: skip
    torch._dynamo.reset()
    return lambda: len(graphs)


def test_compiled_layers_give_the_same_gradients_and_are_compiled_once(num_graphs):
    eager = gradients(recipe())
    assert num_graphs() == 0
    compiled = gradients(recipe(training__compile="true"))
    assert num_graphs() == 1  # five layers, of the trunk and of heads
    assert max(distances(compiled, eager).values()) < 1e-6


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_sharded_layers_are_compiled_once_too(checkpointing, num_graphs, tmp_path):
    """As several GPUs train: FSDP2 around layers that are compiled, perhaps run again, some of them
    heads that a curriculum leaves out."""
    asked = recipe(training__activation_checkpointing=checkpointing)
    found = []
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        for compiles in (False, True):
            model = build_model(asked.model, seed=1)
            training = asked.training.model_copy(update={"compile": compiles})
            place(model, training)
            parallel = Shards(model, torch.device("cpu"), 1, ShardingConfig())
            steps = []
            for weights in ((1.0, 1.0, 0.0), (1.0, 1.0, 1.0)):
                with parallel.step():
                    backward(model, BATCH, training, weights)
                steps += [
                    p.grad.full_tensor().clone() for p in model.parameters() if p.grad is not None
                ]
            found.append(steps)
    finally:
        torch.distributed.destroy_process_group()
    assert num_graphs() == 1
    assert len(found[0]) == len(found[1])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-7)


def test_auto_is_what_the_device_is_fit_for():
    training = recipe().training
    cpu, gpu = (choose_placement(training, 16, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert (cpu.precision, cpu.attention, cpu.compiles) == ("fp32", "dense", False)
    assert (gpu.precision, gpu.attention, gpu.compiles) == ("bf16", "flex", True)


def test_flex_attention_on_a_cpu_is_refused():
    with pytest.raises(MachineError, match="no backward on a CPU; choose auto or dense"):
        choose_placement(recipe(training__attention="flex").training, 16, torch.device("cpu"))


def test_heads_too_narrow_for_flex_attention_are_dense_on_a_gpu_too():
    gpu = torch.device("cuda")
    assert choose_placement(recipe().training, 8, gpu).attention == "dense"
    with pytest.raises(MachineError, match="8 wide, and FlexAttention takes none below 16"):
        choose_placement(recipe(training__attention="flex").training, 8, gpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain():
    with pytest.raises(MachineError, match=r"training\.device = cuda: torch finds no GPU"):
        place(MTPModel(recipe().model), recipe(training__device="cuda").training)
