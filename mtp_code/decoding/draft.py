"""What the heads beyond the first expect: a chain of one token an offset."""

import torch
from torch import Tensor

from mtp_code.model.heads import StackedHeads
from mtp_code.model.layers import Attending
from mtp_code.model.mtp import MTPModel


class Drafter:
    """Drafts the likeliest tokens at offsets 2 … k+1 from one position of each row."""

    def __init__(self, model: MTPModel, num_drafts: int) -> None:
        self.num_drafts = num_drafts
        self._model = model
        offsets = range(2, num_drafts + 2)
        self._heads = StackedHeads(model.mtp_heads, offsets, model.config) if offsets else None

    def draft(self, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        """(B, k) tokens.

        Args:
            attending: answers for that one position (`Attending.only`); all positions of
                `hidden_BTD` leave their keys and values in each head's cache.
        """
        if self._heads is None:
            return torch.zeros((hidden_BTD.shape[0], 0), dtype=torch.long, device=hidden_BTD.device)
        states_KBD = self._model.norm(self._heads(hidden_BTD, attending))
        return self._model.unembedding(states_KBD).argmax(dim=-1).T  # type: ignore[no-any-return]
