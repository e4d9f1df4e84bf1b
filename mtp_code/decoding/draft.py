"""What the heads beyond the first expect: a chain of one token an offset."""

import torch
from torch import Tensor

from mtp_code.model.layers import Attending
from mtp_code.model.mtp import MTPModel


def draft(model: MTPModel, hidden_BTD: Tensor, attending: Attending, num_drafts: int) -> Tensor:
    """The likeliest tokens at offsets 2 … k+1 from one position of each row, (B, k).

    Args:
        attending: answers for that one position (`Attending.only`); all positions of
            `hidden_BTD` leave their keys and values in each head's cache.
    """
    if num_drafts == 0:
        return torch.zeros((hidden_BTD.shape[0], 0), dtype=torch.long, device=hidden_BTD.device)
    offsets = range(2, num_drafts + 2)
    states_BkD = torch.cat(
        [model.head_states(offset, hidden_BTD, attending) for offset in offsets], dim=1
    )
    return model.unembedding(states_BkD).argmax(dim=-1)  # type: ignore[no-any-return]
