import importlib.util
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtp_code.errors import MachineError
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.losses.chunked import IGNORED

CPU = torch.device("cpu")


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None and torch.cuda.is_available()


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("torch", hasattr(F, "linear_cross_entropy")),
        ("liger", installed("liger_kernel")),
        ("cut", installed("cut_cross_entropy")),
    ],
)
def test_every_backend_agrees_with_ours_or_says_what_is_missing(name, is_there):
    if not is_there:
        with pytest.raises(MachineError, match=rf"objective\.loss = {name} .*chunked") as caught:
            load_backend(name, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        assert "\n" not in str(caught.value)
        return
    device, dtype = CPU, torch.float32
    if name != "torch":
        device, dtype = torch.device("cuda"), torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    states_ND = torch.randn(300, 64, generator=generator).to(device, dtype)
    weight_VD = torch.randn(500, 64, generator=generator).to(device, dtype)
    labels_N = torch.randint(0, 500, (300,), generator=generator).to(device)
    labels_N[::3] = IGNORED
    found = []
    for backend in (load_backend("chunked", device), load_backend(name, device)):
        weight_grad_VD = torch.zeros_like(weight_VD)
        loss, grad_ND = backend(states_ND, weight_VD, weight_grad_VD, labels_N, 0.1, 500 * 4 * 64)
        found.append((loss, grad_ND, weight_grad_VD))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(*found, strict=True):
        error = (ours.double() - theirs.double()).norm() / ours.double().norm()
        assert error < tolerance


def test_torch_before_2_13_is_named(monkeypatch):
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    load_backend.cache_clear()
    with pytest.raises(MachineError, match=r"needs torch 2\.13 or newer, here is .*chunked"):
        load_backend("torch", CPU)


@pytest.mark.parametrize("name", ["liger", "cut"])
def test_kernels_for_gpus_are_refused_where_training_is_on_the_cpu(name, monkeypatch):
    """Though the machine has a GPU, and they are installed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())
    with pytest.raises(MachineError, match=f"{name} needs a GPU of CUDA's, this run trains on cpu"):
        load_backend(name, CPU)


needs_torch_2_13 = pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 brought it"
)


@needs_torch_2_13
def test_torch_is_told_how_many_rows_a_chunk_has(monkeypatch):
    """Its own choice is 8 rows, and many times slower."""
    load_backend.cache_clear()
    asked: list[Any] = []
    options = torch.nn.LinearCrossEntropyOptions

    def spy(**given: Any) -> Any:
        asked.append(given)
        return options(**given)

    monkeypatch.setattr(torch.nn, "LinearCrossEntropyOptions", spy)
    backend = load_backend("torch", CPU)
    load_backend.cache_clear()
    states_ND, weight_VD, labels_N = torch.ones(60, 16), torch.ones(40, 16), torch.arange(60) % 40
    for rows in (7, 20):
        backend(states_ND, weight_VD, torch.zeros_like(weight_VD), labels_N, 1.0, rows * 40 * 4)
    assert [(given["batch_chunk_size"], given["chunking_method"]) for given in asked] == [
        (7, None), (20, None)
    ]  # fmt: skip


@needs_torch_2_13
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_is_scaled_while_it_is_added(dtype):
    """Of the unembedding's size are torch's own matrices only: its gradient; in 2.13 that × 1."""
    load_backend.cache_clear()
    states_ND, weight_VD, labels_N = torch.ones(60, 16), torch.ones(40, 16), torch.arange(60) % 40
    made: list[torch.dtype] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            known = {x.data_ptr() for x in tree_leaves(args) if isinstance(x, torch.Tensor)}
            made.extend(
                x.dtype
                for x in tree_leaves(result)
                if isinstance(x, torch.Tensor)
                and x.shape == weight_VD.shape
                and x.data_ptr() not in known
            )
            return result

    weight_grad_VD = torch.zeros_like(weight_VD)
    backend = load_backend("torch", CPU)
    with Noted():
        backend(states_ND.to(dtype), weight_VD, weight_grad_VD, labels_N, 0.5, 2**20)
    assert weight_grad_VD.any()
    cast = [dtype] if dtype != torch.float32 else []
    assert made in ([*cast, dtype], [*cast, dtype, dtype])


@needs_torch_2_13
def test_a_losss_scale_is_not_rounded_to_bf16():
    load_backend.cache_clear()
    generator = torch.Generator().manual_seed(0)
    states_ND = torch.randn(60, 16, generator=generator).bfloat16()
    weight_VD = torch.randn(40, 16, generator=generator)
    labels_N = torch.randint(0, 40, (60,), generator=generator)
    scale = 1 + 2**-8 - 2**-12  # to 1 in bf16
    grads = []
    for factor in (1.0, scale):
        weight_grad_VD = torch.zeros_like(weight_VD)
        load_backend("torch", CPU)(
            states_ND, weight_VD, weight_grad_VD, labels_N, factor, 40 * 4 * 64
        )
        grads.append(weight_grad_VD)
    torch.testing.assert_close(grads[1], grads[0] * scale, rtol=1e-5, atol=0)
