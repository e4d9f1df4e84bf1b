import importlib.util

import pytest
import torch
from torch.nn import functional as F

from mtp_code.errors import MachineError
from mtp_code.training.losses.backends import load_backend
from mtp_code.training.losses.chunked import IGNORED


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
            load_backend(name)
        assert "\n" not in str(caught.value)
        return
    device, dtype = ("cpu", torch.float32) if name == "torch" else ("cuda", torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    states_ND = torch.randn(300, 64, generator=generator).to(device, dtype)
    weight_VD = torch.randn(500, 64, generator=generator).to(device, dtype)
    labels_N = torch.randint(0, 500, (300,), generator=generator).to(device)
    labels_N[::3] = IGNORED
    found = []
    for backend in (load_backend("chunked"), load_backend(name)):
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
        load_backend("torch")
