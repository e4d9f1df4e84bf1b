"""Ways to compute the cross-entropy of labels, by name."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.errors import MachineError
from mtp_code.training.config import LossName
from mtp_code.training.losses.chunked import (
    IGNORED,
    Labels,
    chunked_backward,
    compute_dtype,
    rows_of,
)


class Backend(Protocol):
    """The labels' summed loss and the states' gradient, as `chunked_backward` returns them."""

    def __call__(
        self,
        states_ND: Tensor,
        weight_VD: Tensor,
        weight_grad_VD: Tensor | None,
        labels_N: Tensor,
        scale: float,
        logits_bytes: int,
    ) -> tuple[Tensor, Tensor]: ...


@functools.cache
def load_backend(name: LossName, device: torch.device) -> Backend:
    """
    Args:
        device: where the run trains.

    Raises:
        MachineError: this machine, or the device, lacks what it needs.
    """
    match name:
        case "chunked":
            return _chunked
        case "torch":
            return _torch()
        case "liger":
            _require_kernels(name, "liger_kernel", device)
            return _liger()
        case "cut":
            _require_kernels(name, "cut_cross_entropy", device)
            return _cut()


def _chunked(
    states_ND: Tensor,
    weight_VD: Tensor,
    weight_grad_VD: Tensor | None,
    labels_N: Tensor,
    scale: float,
    logits_bytes: int,
) -> tuple[Tensor, Tensor]:
    target = Labels(labels_N)
    return chunked_backward(states_ND, weight_VD, weight_grad_VD, target, scale, logits_bytes)


def _torch() -> Backend:
    """torch's own chunked function.

    Always with a chunk size: its automatic one was 8 rows here, and 2.5 to 28 times slower. In
    bf16 the loss it returns is rounded to bf16, its gradients are as exact as ours.
    """
    if not hasattr(F, "linear_cross_entropy"):
        raise MachineError(
            f"training.objective.loss = torch needs torch 2.13 or newer, here is "
            f"{torch.__version__}; install it, or choose chunked"
        )
    functional, options = F, torch.nn.LinearCrossEntropyOptions

    def loss(states: Tensor, weight: Tensor, labels_N: Tensor, logits_bytes: int) -> Tensor:
        num_rows = rows_of(logits_bytes, weight.shape[0])
        result: Tensor = functional.linear_cross_entropy(
            states,
            weight,
            labels_N,
            reduction="sum",
            ignore_index=IGNORED,
            options=options(batch_chunk_size=num_rows, chunking_method=None),
        )
        return result

    return _through_autograd(loss)


def _liger() -> Backend:
    """Liger kernels: Hsu et al. 2024, arXiv 2410.10989. Chooses its chunks itself."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss(
        ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32
    )

    def loss(states: Tensor, weight: Tensor, labels_N: Tensor, logits_bytes: int) -> Tensor:
        return fused(weight, states, labels_N)  # type: ignore[no-any-return]

    return _through_autograd(loss)


def _cut() -> Backend:
    """Cut cross-entropy: Wijmans et al. 2024, arXiv 2411.09009. Its logits stay on the chip."""
    from cut_cross_entropy import linear_cross_entropy

    def loss(states: Tensor, weight: Tensor, labels_N: Tensor, logits_bytes: int) -> Tensor:
        # No filter: it leaves out gradients below a threshold.
        return linear_cross_entropy(  # type: ignore[no-any-return]
            states, weight, labels_N, ignore_index=IGNORED, reduction="sum", filter_eps=None
        )

    return _through_autograd(loss)


def _through_autograd(loss: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> Backend:
    """A backend from a differentiable loss, which makes a matrix of its own for the gradient."""

    def backend(
        states_ND: Tensor,
        weight_VD: Tensor,
        weight_grad_VD: Tensor | None,
        labels_N: Tensor,
        scale: float,
        logits_bytes: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(states_ND)
        states = states_ND.detach().to(dtype).requires_grad_()
        weight = weight_VD.detach().to(dtype).requires_grad_(weight_grad_VD is not None)
        leaves = [leaf for leaf in (states, weight) if leaf.requires_grad]
        with torch.enable_grad(), torch.autocast(states.device.type, enabled=False):
            total = loss(states, weight, labels_N, logits_bytes)
            gradients = torch.autograd.grad(total, leaves)
        # The scale is applied here and not to the loss, in whose type it would be rounded; and
        # while the gradient is added, in the wider type, so that no scaled copy of it is made.
        if weight_grad_VD is not None:
            weight_grad_VD.add_(gradients[1], alpha=scale)
        total = total.detach().to(torch.promote_types(total.dtype, torch.float32))
        return total, gradients[0].to(states_ND.dtype) * scale

    return backend


def _require_kernels(name: str, module: str, device: torch.device) -> None:
    remedy = "choose chunked, which runs anywhere"
    if device.type != "cuda":
        raise MachineError(
            f"training.objective.loss = {name} needs a GPU of CUDA's, this run trains on "
            f"{device.type}; {remedy}"
        )
    if importlib.util.find_spec(module) is None:
        raise MachineError(
            f"training.objective.loss = {name} is not installed: "
            f"pip install 'mtp-code[kernels]', or {remedy}"
        )
