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


def committed_tokens(targets_BT: Tensor, accepted_B: Tensor) -> list[list[int]]:
    """The accepted drafts of each row and the bonus token behind them.

    A draft that was accepted equals the target at its place, so the targets hold both.
    """
    pairs = zip(targets_BT.tolist(), accepted_B.tolist(), strict=True)
    return [targets[: accepted + 1] for targets, accepted in pairs]
