"""What data sheets say of GPUs: memory, and dense bf16 arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """
    Attributes:
        name: what `torch.cuda.get_device_name` says.
        memory_bytes: in the data sheet's 10^9 bytes; a driver reports a little more, and CUDA's
            context takes about that.
        bf16_flops_per_s: of tensor cores, dense, summed in fp32. Where a data sheet gives the
            rate with structured sparsity only, half of it.
    """

    name: str
    memory_bytes: int
    bf16_flops_per_s: float


GB, TFLOPS = 10**9, 1e12

# Source: NVIDIA's data sheet of each product (of the RTX 4090: the Ada architecture's whitepaper,
# appendix A). In order of memory.
GPUS = (
    Gpu("NVIDIA GeForce RTX 4090", 24 * GB, 165.2 * TFLOPS),
    Gpu("NVIDIA A10", 24 * GB, 125 * TFLOPS),
    Gpu("NVIDIA L4", 24 * GB, 121 * TFLOPS),
    Gpu("NVIDIA A100-SXM4-40GB", 40 * GB, 312 * TFLOPS),
    Gpu("NVIDIA A100-PCIE-40GB", 40 * GB, 312 * TFLOPS),
    Gpu("NVIDIA L40S", 48 * GB, 362 * TFLOPS),
    Gpu("NVIDIA A100-SXM4-80GB", 80 * GB, 312 * TFLOPS),
    Gpu("NVIDIA A100 80GB PCIe", 80 * GB, 312 * TFLOPS),
    Gpu("NVIDIA H100 PCIe", 80 * GB, 756 * TFLOPS),
    Gpu("NVIDIA H100 80GB HBM3", 80 * GB, 989 * TFLOPS),
    Gpu("NVIDIA H200", 141 * GB, 989 * TFLOPS),
    Gpu("NVIDIA B200", 180 * GB, 2250 * TFLOPS),
)


def gpu_named(device_name: str) -> Gpu | None:
    """The product that a driver calls so; None if it is none of these."""
    return next((gpu for gpu in GPUS if gpu.name == device_name), None)
