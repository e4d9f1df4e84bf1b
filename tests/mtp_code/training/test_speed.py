import pytest
import torch

from mtp_code.gpus import GPUS, gpu_named
from mtp_code.model.accounting import flops_per_token
from mtp_code.recipe import load_recipe
from mtp_code.training.speed import arithmetic_figures, peak_flops_per_s

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_a_cpu_has_no_known_peak_and_no_utilization():
    recipe = load_recipe("tiny")
    figures = arithmetic_figures(recipe, (1.0,) * 4, 1000.0, CPU)
    assert figures.keys() == {"flops_per_s", "flops_ratio"}
    flops = flops_per_token(recipe.model, recipe.training.row_tokens).total
    assert figures["flops_per_s"] == 1000 * flops


def test_offsets_that_do_not_train_cost_nothing():
    recipe = load_recipe("tiny")
    rates = [
        arithmetic_figures(recipe, weights, 1000.0, CPU)["flops_per_s"]
        for weights in ((1.0, 0, 0, 0), (1.0, 0, 0.5, 0), (1.0, 1.0, 1.0, 0), (1.0,) * 4)
    ]
    assert rates[0] < rates[1] == rates[2] < rates[3]


def test_a_known_gpu_has_a_utilization(monkeypatch):
    recipe = load_recipe("tiny")
    for gpu in GPUS:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=gpu.name: name)
        flops = flops_per_token(recipe.model, recipe.training.row_tokens).total
        at_peak = gpu.bf16_flops_per_s / flops
        figures = arithmetic_figures(recipe, (1.0,) * 4, 0.4 * at_peak, GPU)
        assert figures["mfu"] == figures["hfu"] == pytest.approx(0.4)
        of_eight = arithmetic_figures(recipe, (1.0,) * 4, 8 * 0.4 * at_peak, GPU, num_devices=8)
        assert of_eight["mfu"] == pytest.approx(0.4)


def test_layers_that_run_again_are_work_of_the_hardware_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: GPUS[0].name)
    once, twice = (
        arithmetic_figures(
            load_recipe("tiny", [f"training.activation_checkpointing={kept}"]),
            (1.0,) * 4,
            1000.0,
            GPU,
        )
        for kept in ("none", "blocks")
    )
    assert {name: twice[name] for name in ("flops_per_s", "mfu")} == {
        name: once[name] for name in ("flops_per_s", "mfu")
    }
    # Forward is a third of what the trunk's layers take: all of it runs once more.
    more = twice["hardware_flops_per_s"] / twice["flops_per_s"]
    assert 1.1 < more < 4 / 3
    assert twice["hfu"] == pytest.approx(more * twice["mfu"])


def test_a_gpu_that_nobody_knows_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Unheard-of 9000")
    assert peak_flops_per_s(GPU) is None
    assert gpu_named("NVIDIA H200 and more") is None
