"""Devices and number formats by their names."""

import pytest
import torch

from mtp_code.devices import (
    TORCH_NAMES,
    choose_device,
    choose_dtype,
    describe_device,
    is_failure,
    is_out_of_memory,
)
from mtp_code.errors import MachineError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(params=[True, False])
def with_bf16(request, monkeypatch) -> bool:
    """A GPU, with arithmetic in bf16 or without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: request.param)
    return bool(request.param)


def test_auto_is_a_gpu_in_bf16_if_it_has_that(with_bf16):
    assert choose_device("auto") == choose_device("cuda") == GPU
    assert choose_device("cpu") == CPU
    assert choose_dtype("auto", GPU) is (torch.bfloat16 if with_bf16 else torch.float32)
    assert choose_dtype("auto", CPU) is torch.float32
    assert (describe_device(GPU), describe_device(CPU)) == ("Tesla T4", "cpu")
    if with_bf16:
        assert choose_dtype("bf16", GPU) is torch.bfloat16
    else:
        with pytest.raises(MachineError, match="Tesla T4 has no bf16 arithmetic; choose fp16"):
            choose_dtype("bf16", GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_in_fp32_and_cuda_an_error():
    assert choose_device("auto") == CPU
    with pytest.raises(MachineError, match="--device cuda: torch finds no GPU"):
        choose_device("cuda")
    with pytest.raises(MachineError, match=r"^training\.device = cuda: torch finds"):
        choose_device("cuda", "training.device = cuda")


@pytest.mark.parametrize("name", sorted(TORCH_NAMES.keys() - {"auto"}))
def test_a_cpu_takes_all_formats(name):
    assert choose_dtype(name, CPU) is getattr(torch, TORCH_NAMES[name])


def test_memory_that_torch_really_lacks_is_seen():
    with pytest.raises(RuntimeError) as lacking:
        torch.empty(1 << 60)
    assert not isinstance(lacking.value, torch.OutOfMemoryError)
    assert is_out_of_memory(lacking.value)
    assert is_failure(lacking.value, CPU)


def test_what_was_raised_while_memory_lacked_counts_and_our_mistakes_do_not():
    capture = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    assert not is_out_of_memory(capture)
    capture.__context__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert is_out_of_memory(capture)
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"))
    mistake = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(mistake)
    assert not is_failure(mistake, CPU)
    assert is_failure(mistake, GPU)
    assert is_failure(MachineError("no"), CPU)
