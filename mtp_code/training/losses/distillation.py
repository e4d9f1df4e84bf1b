"""Later heads learn from what head 1 says of the same token, once it has read up to it."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.training.losses.chunked import Rows, blank_, chunks_of, log_probs


class Teacher:
    """Head 1's distribution k − 1 positions on, which is of the same token as offset k here.

    The loss is the divergence KL(head 1 ‖ head k). Both heads' logits are of one chunk of
    positions only.

    Source: knowledge distillation, Hinton et al. 2015, arXiv 1503.02531.
    """

    def __init__(
        self,
        offset: int,
        states_BTD: Tensor,
        weight_VD: Tensor,
        known_BT: Tensor,
        dtype: torch.dtype,
    ) -> None:
        """
        Args:
            states_BTD: head 1's normed states.
            weight_VD: head 1's unembedding.
            known_BT: positions that have a label at this offset.
            dtype: what the student's products are computed in, and so the teacher's.
        """
        self._shift = offset - 1
        self._states_ND, self._weight_VD = states_BTD.flatten(0, 1).to(dtype), weight_VD.to(dtype)
        has_teacher_BT = known_BT.clone()
        has_teacher_BT[:, max(0, known_BT.shape[1] - self._shift) :] = False
        self._known_N = has_teacher_BT.flatten()

    def chunks(self, num_rows: int) -> Iterator[Rows]:
        # Two heads' logits share a chunk's room.
        return chunks_of(self._known_N, max(1, num_rows // 2))

    def loss_and_gradient(
        self, states_RD: Tensor, weight_VD: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        log_probs_RV = log_probs(states_RD, weight_VD)
        places_R = torch.arange(len(self._known_N), device=log_probs_RV.device)[rows]
        ahead_R = (places_R + self._shift).clamp(max=len(self._known_N) - 1)
        teacher_RV = log_probs(self._states_ND[ahead_R], self._weight_VD)
        loss_RV = F.kl_div(log_probs_RV, teacher_RV, log_target=True, reduction="none")
        if isinstance(rows, slice):
            loss_RV = loss_RV * self._known_N[rows, None]
        log_probs_RV.exp_().sub_(teacher_RV.exp_())
        blank_(log_probs_RV, self._known_N, rows)
        return loss_RV.sum(), log_probs_RV
