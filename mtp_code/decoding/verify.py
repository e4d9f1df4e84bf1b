"""Which drafts stand: pure functions of drafts and the model's own answers."""

from torch import Tensor


def count_accepted(drafts_Bk: Tensor, targets_BT: Tensor) -> Tensor:
    """How many drafts of each row stand, (B,): the longest prefix that plain decoding writes too.

    Args:
        targets_BT: what plain decoding writes behind the last committed token and behind each
            draft, T = k + 1.

    Source: blockwise parallel decoding, Stern et al. 2018, arXiv 1811.03115, section 3.
    """
    agrees_Bk = drafts_Bk == targets_BT[:, : drafts_Bk.shape[1]]
    return agrees_Bk.long().cumprod(dim=1).sum(dim=1)
