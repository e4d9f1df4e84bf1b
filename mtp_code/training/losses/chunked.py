"""Cross-entropy against any target, a chunk of positions at a time, with its gradients.

The gradients are taken while a chunk's logits exist, so no logits are kept or computed twice, and
the unembedding's goes straight to where it is wanted: no second matrix of its size is made.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -1
"""The label of a position that has nothing to learn."""

PRODUCT_ROWS = 8192
"""Rows of the unembedding's gradient that are made at once where they cannot be added in place."""

Rows = Tensor | slice
"""Some of N positions."""


class Target(Protocol):
    """What the logits of N positions should say."""

    def chunks(self, num_rows: int) -> Iterator[Rows]:
        """The positions that have something to learn, so many at a time."""

    def loss_and_gradient(
        self, states_RD: Tensor, weight_VD: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """Summed loss in nats, and its gradient by the logits `states @ weight.T`, (R, V).

        In fp32 at least, or in the states' type.
        """


class Labels:
    """One right token for each position, or `IGNORED`."""

    def __init__(self, labels_N: Tensor) -> None:
        self._labels_N = labels_N
        self._known_N = labels_N != IGNORED

    def chunks(self, num_rows: int) -> Iterator[Rows]:
        return chunks_of(self._known_N, num_rows)

    def loss_and_gradient(
        self, states_RD: Tensor, weight_VD: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        labels_R1 = self._labels_N[rows, None]
        if isinstance(rows, slice):
            in_few_passes = _compiled() if states_RD.is_cuda else loss_and_gradient_of_logits
            return in_few_passes(states_RD @ weight_VD.T, labels_R1)
        log_probs_RV = log_probs(states_RD, weight_VD)
        loss = -log_probs_RV.gather(1, labels_R1).sum()
        # In place: operations of a CPU are not fused, and a matrix of each would be held.
        log_probs_RV.exp_().scatter_add_(1, labels_R1, -torch.ones_like(log_probs_RV[:, :1]))
        return loss, log_probs_RV


def loss_and_gradient_of_logits(logits_RV: Tensor, labels_R1: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and its gradient, (R, V), in the logits' type; `IGNORED` rows give 0.

    Computed in fp32 at least. Made for a compiler: behind the sums over each row, all that has
    (R, V) elements is one pass that reads logits and writes the gradient.
    """
    wide_RV = logits_RV.to(_at_least_fp32(logits_RV.dtype))
    known_R1 = labels_R1 != IGNORED
    log_sum_R1 = wide_RV.logsumexp(dim=-1, keepdim=True)
    right_R1 = wide_RV.gather(1, labels_R1.clamp(min=0))
    loss = ((log_sum_R1 - right_R1) * known_R1).sum()
    is_right_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) == labels_R1
    gradient_RV = ((wide_RV - log_sum_R1).exp() - is_right_RV.to(wide_RV.dtype)) * known_R1
    return loss, gradient_RV.to(logits_RV.dtype)


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    # By shape, of which a recipe has two (full chunks, and the last): a kernel made for any size is
    # another one, and which it is would hang on what ran before.
    return torch.compile(loss_and_gradient_of_logits, dynamic=False)


def chunks_of(known_N: Tensor, num_rows: int) -> Iterator[Rows]:
    """The known positions, so many at a time.

    On a GPU all positions: to ask it which are known would be to wait for it.
    """
    if known_N.device.type == "cpu":
        yield from torch.split(known_N.nonzero()[:, 0], num_rows)
    else:
        for start in range(0, len(known_N), num_rows):
            yield slice(start, min(start + num_rows, len(known_N)))


def blank_(gradient_RV: Tensor, known_N: Tensor, rows: Rows) -> None:
    """Takes out positions that are not known, if there can be any among the rows."""
    if isinstance(rows, slice):
        gradient_RV.mul_(known_N[rows, None])


@torch.no_grad()
def chunked_backward(
    states_ND: Tensor,
    weight_VD: Tensor,
    weight_grad_VD: Tensor | None,
    target: Target,
    scale: float,
    logits_bytes: int,
) -> tuple[Tensor, Tensor]:
    """The target's summed loss (nats) of `states @ weight.T`, and the states' gradient, (N, D).

    Products are computed in the states' type, or autocast's if it is on; the softmax, the loss and
    the sum of the unembedding's gradient in fp32 at least.

    Args:
        weight_grad_VD: is added to; None where nobody wants it.
        scale: what the loss is multiplied by; so are the gradients, but not the loss returned.
        logits_bytes: of a chunk's logits in fp32.
    """
    total, states_grad_ND = _new_total(states_ND), torch.zeros_like(states_ND)
    summed_VD = weight_grad_VD
    if weight_grad_VD is not None and weight_grad_VD.dtype.itemsize < 4:
        summed_VD = torch.zeros_like(weight_grad_VD, dtype=torch.float32)
    compute_ND, weight_VD = _to_compute(states_ND, weight_VD)
    with torch.autocast(states_ND.device.type, enabled=False):
        for rows in target.chunks(rows_of(logits_bytes, len(weight_VD))):
            loss, grad_RD = _chunk_backward(
                compute_ND[rows], weight_VD, summed_VD, target, rows, scale
            )
            total += loss
            states_grad_ND[rows] = grad_RD.to(states_ND.dtype)
    if weight_grad_VD is not None and summed_VD is not None and summed_VD is not weight_grad_VD:
        weight_grad_VD += summed_VD
    return total, states_grad_ND.mul_(scale)


@torch.no_grad()
def chunked_loss(states_ND: Tensor, weight_VD: Tensor, target: Target, logits_bytes: int) -> Tensor:
    """The target's summed loss alone."""
    total = _new_total(states_ND)
    states_ND, weight_VD = _to_compute(states_ND, weight_VD)
    with torch.autocast(states_ND.device.type, enabled=False):
        for rows in target.chunks(rows_of(logits_bytes, len(weight_VD))):
            total += target.loss_and_gradient(states_ND[rows], weight_VD, rows)[0]
    return total


def rows_of(logits_bytes: int, vocab_size: int) -> int:
    """Positions whose logits fit into so many bytes in fp32; at least one."""
    return max(1, logits_bytes // (4 * vocab_size))


def compute_dtype(states: Tensor) -> torch.dtype:
    """What products are computed in: the states' type, or autocast's if it is on."""
    kind = states.device.type
    on = torch.is_autocast_enabled(kind) and states.dtype == torch.float32
    return torch.get_autocast_dtype(kind) if on else states.dtype


def _to_compute(states_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of products; to be asked before autocast is turned off."""
    dtype = compute_dtype(states_ND)
    return states_ND.to(dtype), weight_VD.to(dtype)


def _chunk_backward(
    states_RD: Tensor,
    weight_VD: Tensor,
    summed_VD: Tensor | None,
    target: Target,
    rows: Rows,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One chunk's loss and its gradient by the states, not scaled; its logits end with the call."""
    loss, grad_RV = target.loss_and_gradient(states_RD, weight_VD, rows)
    narrow_RV = grad_RV.to(weight_VD.dtype)
    if summed_VD is not None:
        # A CPU multiplies in the sum's type, and takes the gradient as exact as there is one.
        left_RV = narrow_RV if summed_VD.is_cuda else grad_RV
        _add_product(summed_VD, left_RV, states_RD, scale)
    return loss, narrow_RV @ weight_VD


def log_probs(states_RD: Tensor, weight_VD: Tensor) -> Tensor:
    """Of `states @ weight.T`, in fp32 at least."""
    logits_RV = states_RD @ weight_VD.T
    return F.log_softmax(logits_RV, dim=-1, dtype=_at_least_fp32(logits_RV.dtype))


def _new_total(states_ND: Tensor) -> Tensor:
    return states_ND.new_zeros((), dtype=_at_least_fp32(states_ND.dtype))


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_product(total_VD: Tensor, left_RV: Tensor, right_RD: Tensor, scale: float) -> None:
    """total += scale · leftᵀ @ right, summed in the total's type."""
    dtype = total_VD.dtype
    if right_RD.dtype == dtype or not total_VD.is_cuda:
        total_VD.addmm_(left_RV.to(dtype).T, right_RD.to(dtype), alpha=scale)
        return
    # Tensor cores multiply in bf16 and add up in fp32.
    left_VR = left_RV.to(right_RD.dtype).T
    if dtype == torch.float32 and _adds_to_fp32(total_VD.device, right_RD.dtype):
        torch.addmm(total_VD, left_VR, right_RD, alpha=scale, out_dtype=dtype, out=total_VD)
        return
    for part_PD, left_PR in zip(
        torch.split(total_VD, PRODUCT_ROWS), torch.split(left_VR, PRODUCT_ROWS), strict=True
    ):
        part_PD.add_(torch.mm(left_PR, right_RD, out_dtype=dtype), alpha=scale)


@functools.cache
def _adds_to_fp32(device: torch.device, factors: torch.dtype) -> bool:
    """Whether this torch adds a product of narrower factors to a matrix in fp32, and keeps all of
    it; not all that multiply do."""
    # Small integers, and a total that a narrower sum would round: an exact answer is the only one.
    options: Any = {"device": device, "dtype": torch.float32}
    left_RV, right_RD = (
        (torch.arange(rows * 32, **options) % number - number // 2).view(32, rows)
        for rows, number in ((48, 7), (16, 5))
    )
    total_VD = torch.full((48, 16), 1 + 2**-12, **options)
    exact_VD = total_VD + 0.5 * (left_RV.double().T @ right_RD.double()).float()
    try:
        torch.addmm(
            total_VD, left_RV.to(factors).T, right_RD.to(factors),
            alpha=0.5, out_dtype=torch.float32, out=total_VD,
        )  # fmt: skip
    except (RuntimeError, TypeError):
        return False
    return torch.equal(total_VD, exact_VD)
