"""Token-order prediction: an unembedding of its own ranks what comes next by how soon it comes.

Source: Zuhri et al. 2025, arXiv 2508.19228.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mtp_code.training.losses.chunked import Rows, blank_, chunks_of, log_probs


class TokenOrder:
    """The share of each token that comes within the window: softmax of −(distance of its first).

    The loss is the cross-entropy with these shares (listwise ranking: Cao et al. 2007, ListNet).
    Tokens of another document do not count, nor do those behind the row's end.
    """

    def __init__(
        self, window: int, tokens_BS: Tensor, documents_BS: Tensor, num_positions: int
    ) -> None:
        self._window, self._num_positions = window, num_positions
        self._tokens_BS, self._documents_BS = tokens_BS, documents_BS
        here_BT, next_BT = documents_BS[:, :num_positions], documents_BS[:, 1 : num_positions + 1]
        self._known_N = ((here_BT == next_BT) & (here_BT >= 0)).flatten()

    def chunks(self, num_rows: int) -> Iterator[Rows]:
        return chunks_of(self._known_N, num_rows)

    def loss_and_gradient(
        self, states_RD: Tensor, weight_VD: Tensor, rows: Rows
    ) -> tuple[Tensor, Tensor]:
        log_probs_RV = log_probs(states_RD, weight_VD)
        tokens_RW, shares_RW = self._shares(rows, log_probs_RV)
        loss = -(log_probs_RV.gather(1, tokens_RW) * shares_RW).sum()
        log_probs_RV.exp_().scatter_add_(1, tokens_RW, -shares_RW)
        blank_(log_probs_RV, self._known_N, rows)
        return loss, log_probs_RV

    def _shares(self, rows: Rows, like: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ahead of each row and their shares, 0 for a token that came before."""
        places_N = torch.arange(len(self._known_N), device=like.device)
        row_R1 = (places_N[rows] // self._num_positions)[:, None]
        place_R1 = (places_N[rows] % self._num_positions)[:, None]
        distance_W = torch.arange(1, self._window + 1, device=like.device)
        ahead_RW = place_R1 + distance_W
        last = self._tokens_BS.shape[1] - 1
        counts_RW = (ahead_RW <= last) & self._known_N[rows, None]
        ahead_RW = ahead_RW.clamp(max=last)
        counts_RW &= self._documents_BS[row_R1, ahead_RW] == self._documents_BS[row_R1, place_R1]
        tokens_RW = self._tokens_BS[row_R1, ahead_RW]
        same_RWW = tokens_RW[:, :, None] == tokens_RW[:, None]
        counts_RW &= ~same_RWW.tril(-1).any(dim=-1)
        scores_RW = -distance_W.to(like.dtype).expand_as(tokens_RW)
        shares_RW = scores_RW.masked_fill(~counts_RW, -torch.inf).softmax(dim=-1)
        return tokens_RW, shares_RW.nan_to_num()  # no token ahead: nothing to learn
