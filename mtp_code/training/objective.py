"""The multi-token objective: one head's loss and backward at a time.

Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2 (the loss, equation 2; the order of
forward and backward, figure 2).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from mtp_code.model.mtp import MTPModel

IGNORED = -1
"""The label of a position that has nothing to learn for an offset."""

LOGITS_BYTES = 32 * 2**20
"""Budget for the logits of one chunk of positions."""


def labels_for(offset: int, tokens_BS: Tensor, documents_BS: Tensor, num_positions: int) -> Tensor:
    """The tokens at `offset` ahead of each of the first T positions, as (B, T).

    A token of another document is no label (`IGNORED`), and padding (document −1) never is.
    """
    ahead = slice(offset, offset + num_positions)
    same = documents_BS[:, ahead] == documents_BS[:, :num_positions]
    known = same & (documents_BS[:, ahead] >= 0)
    return tokens_BS[:, ahead].masked_fill(~known, IGNORED)


def backward_by_head(
    model: MTPModel,
    tokens_BS: Tensor,
    documents_BS: Tensor,
    num_labels_K: Tensor,
    mask_documents: bool,
) -> Tensor:
    """Adds the gradients of the summed mean losses of all offsets; returns each offset's share.

    One trunk forward; then head by head forward, loss and backward into the gradient of the
    trunk's output; then one trunk backward. So no two heads' activations or logits are held at
    once. Equal to the naive sum to rounding.

    Args:
        tokens_BS: rows of T + n tokens, so that no label is lost at a row's end.
        documents_BS: the document of each token; negative is padding.
        num_labels_K: labels of each offset in the whole optimizer step, of which this may be one
            micro-batch: the losses are sums over this micro-batch ÷ these numbers.
        mask_documents: attention stays within each document.
    """
    num_positions = tokens_BS.shape[1] - model.num_mtp_heads
    inputs_BT = tokens_BS[:, :num_positions]
    documents_BT = documents_BS[:, :num_positions] if mask_documents else None
    attending = model.trunk.attend(inputs_BT, documents_BT)
    hidden_BTD = model.trunk(inputs_BT, attending)

    boundary_BTD = hidden_BTD.detach().requires_grad_()
    losses = []
    for offset, labels_BT in _labels(model, tokens_BS, documents_BS, num_positions):
        states_BTD = model.head_states(offset, boundary_BTD, attending)
        loss = linear_cross_entropy(states_BTD, model.unembedding.weight, labels_BT)
        loss = loss / num_labels_K[offset - 1].clamp(min=1)
        torch.autograd.backward(loss)
        losses.append(loss.detach())
    torch.autograd.backward(hidden_BTD, boundary_BTD.grad)
    return torch.stack(losses)


@torch.no_grad()
def losses_by_offset(
    model: MTPModel, tokens_BS: Tensor, documents_BS: Tensor, mask_documents: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss (nats) and number of labels of each offset, both (K,)."""
    num_positions = tokens_BS.shape[1] - model.num_mtp_heads
    inputs_BT = tokens_BS[:, :num_positions]
    documents_BT = documents_BS[:, :num_positions] if mask_documents else None
    attending = model.trunk.attend(inputs_BT, documents_BT)
    hidden_BTD = model.trunk(inputs_BT, attending)
    sums, counts = [], []
    for offset, labels_BT in _labels(model, tokens_BS, documents_BS, num_positions):
        states_BTD = model.head_states(offset, hidden_BTD, attending)
        sums.append(linear_cross_entropy(states_BTD, model.unembedding.weight, labels_BT))
        counts.append((labels_BT != IGNORED).sum())
    return torch.stack(sums), torch.stack(counts)


def count_labels(num_offsets: int, tokens_BS: Tensor, documents_BS: Tensor) -> Tensor:
    """Labels that a batch holds for each offset, (K,)."""
    num_positions = tokens_BS.shape[1] - num_offsets
    return torch.stack(
        [
            (labels_for(offset, tokens_BS, documents_BS, num_positions) != IGNORED).sum()
            for offset in range(1, num_offsets + 1)
        ]
    )


def linear_cross_entropy(states_BTD: Tensor, unembedding_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """Summed cross-entropy of `states @ unembedding.T`, its logits held for a chunk at a time."""
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_BTD.flatten(0, 1), unembedding_VD, labels_BT.flatten()
    )
    return loss


def _labels(
    model: MTPModel, tokens_BS: Tensor, documents_BS: Tensor, num_positions: int
) -> Iterator[tuple[int, Tensor]]:
    for offset in range(1, model.num_mtp_heads + 1):
        yield offset, labels_for(offset, tokens_BS, documents_BS, num_positions)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is taken in the forward, chunk by chunk, while the chunk's logits exist."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, states_ND: Tensor, unembedding_VD: Tensor, labels_N: Tensor
    ) -> Tensor:
        needs_states, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        states_grad_ND = torch.zeros_like(states_ND) if needs_states else None
        weight_grad_VD = torch.zeros_like(unembedding_VD) if needs_weight else None
        row_bytes = 4 * unembedding_VD.shape[0]
        chunk_rows = max(1, LOGITS_BYTES // row_bytes)
        total = states_ND.new_zeros((), dtype=torch.promote_types(states_ND.dtype, torch.float32))
        # Positions without a label cost nothing: neither logits nor gradient.
        for rows in torch.split((labels_N != IGNORED).nonzero()[:, 0], chunk_rows):
            states, labels = states_ND[rows], labels_N[rows]
            logits = (states @ unembedding_VD.T).to(total.dtype)
            log_probs = F.log_softmax(logits, dim=-1)
            total -= log_probs.gather(1, labels[:, None]).sum()
            if not (needs_states or needs_weight):
                continue
            logits_grad = log_probs.exp_()
            logits_grad[torch.arange(len(rows), device=rows.device), labels] -= 1
            logits_grad = logits_grad.to(states.dtype)
            if states_grad_ND is not None:
                states_grad_ND[rows] = logits_grad @ unembedding_VD
            if weight_grad_VD is not None:
                weight_grad_VD.addmm_(logits_grad.T, states)
        ctx.grads = states_grad_ND, weight_grad_VD  # type: ignore[attr-defined]
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, loss_grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        states_grad_ND, weight_grad_VD = ctx.grads  # type: ignore[attr-defined]
        for grad in (states_grad_ND, weight_grad_VD):
            if grad is not None:
                grad.mul_(loss_grad)
        return states_grad_ND, weight_grad_VD, None
