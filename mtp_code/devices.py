"""Where a model runs and in which floating point: what users may name, and what it comes to here.

Importing this brings no torch along: a process that only hands names on does without.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from mtp_code.errors import MachineError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "fp32", "bf16", "fp16"]

TORCH_NAMES: Final[Mapping[DtypeName, str]] = {
    "auto": "auto",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""As torch, transformers and vLLM have them."""

_LACKING: Final = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""Words of torch's allocator of a CPU, of CUDA, and of its libraries."""


def choose_device(name: DeviceName, asked: str = "--device cuda") -> "torch.device":
    """
    Args:
        asked: how `cuda` was asked for, as the message is to say.

    Raises:
        MachineError: there is no such device here.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise MachineError(f"{asked}: torch finds no GPU of CUDA's here; choose auto or cpu")
    if name == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(name: DtypeName, device: "torch.device") -> "torch.dtype":
    """Of weights, keys, values and products. `auto` is bf16 where a GPU has it, else fp32.

    Raises:
        MachineError: the GPU has no arithmetic of that kind.
    """
    import torch

    # Emulated, bf16 is slower than fp32.
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bf16 else torch.float32
    if name == "bf16" and not has_bf16:
        raise MachineError(
            f"--dtype bf16: {describe_device(device)} has no bf16 arithmetic; choose fp16 or fp32"
        )
    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


def describe_device(device: "torch.device") -> str:
    """A GPU's name, or `cpu`."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: told by an error or by what it was raised in the course of.

    torch has a class of its own for what its allocator of a GPU lacks; libraries there, and its
    allocator of a CPU, say it in the words of a RuntimeError.
    """
    import torch

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _LACKING):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def is_failure(error: Exception, device: "torch.device") -> bool:
    """Whether work there may end with it though nobody called it wrongly.

    On a GPU that is whatever torch raises, for memory, a kernel or a graph, all of them
    RuntimeErrors. On a CPU those are our mistakes, but for memory.
    """
    if isinstance(error, MachineError) or is_out_of_memory(error):
        return True
    return device.type == "cuda" and isinstance(error, RuntimeError)
