"""What the heads beyond the first expect: a chain of one token an offset."""

import torch
from torch import Tensor

from mtp_code.model.heads.parallel import ParallelHeads, StackedHeads
from mtp_code.model.mtp import MTPModel, Reading


class Drafter:
    """Drafts the likeliest tokens at offsets 2 … k+1 from one position of each row.

    For any heads that read states alone.
    """

    def __init__(self, model: MTPModel, num_drafts: int) -> None:
        self.num_drafts = num_drafts
        self._model = model

    def draft(self, reading: Reading, chosen_B: Tensor, next_B: Tensor) -> Tensor:
        """(B, k) tokens.

        All positions that were read leave their keys and values in each head's cache.

        Args:
            reading: the trunk's newest positions, not yet committed.
            chosen_B: the position of each row, among these, that the draft is from.
            next_B: the token behind it, which stands already.
        """
        if self.num_drafts == 0:
            return next_B.new_zeros((len(next_B), 0))
        # Heads that others read come last: their states are there by then.
        states = {
            offset: reading.states_at(offset, chosen_B)
            for offset in self._model.mtp_heads.backward_order(self._offsets())
            if offset in self._offsets()
        }
        return torch.cat([self._likeliest(k, states[k]) for k in self._offsets()], dim=1)

    def _offsets(self) -> range:
        return range(2, self.num_drafts + 2)

    def _likeliest(self, offset: int, states_B1D: Tensor) -> Tensor:
        return self._model.unembed(offset, states_B1D).argmax(dim=-1)


class ParallelDrafter(Drafter):
    """The same for parallel heads, all at once."""

    def __init__(self, model: MTPModel, num_drafts: int) -> None:
        super().__init__(model, num_drafts)
        assert isinstance(model.mtp_heads, ParallelHeads)
        offsets = self._offsets()
        self._heads = StackedHeads(model.mtp_heads, offsets, model.config) if offsets else None

    def draft(self, reading: Reading, chosen_B: Tensor, next_B: Tensor) -> Tensor:
        if self._heads is None:
            return super().draft(reading, chosen_B, next_B)
        states_KBD = self._heads(reading.hidden_BTD, reading.attending.only(chosen_B))
        if self._model.config.replicated_unembeddings:
            pairs = zip(self._offsets(), states_KBD[:, :, None], strict=True)
            return torch.cat([self._likeliest(k, states_B1D) for k, states_B1D in pairs], dim=1)
        states_KBD = self._model.norm(states_KBD)
        return self._model.unembedding(states_KBD).argmax(dim=-1).T  # type: ignore[no-any-return]


class SequentialDrafter(Drafter):
    """Drafts token by token: each module reads the token that the one before it expects.

    What a module left in the cache for a position whose tokens ahead were only drafted is not
    what it would say of the tokens that stand. So the newest k − 1 positions are read again.
    """

    def draft(self, reading: Reading, chosen_B: Tensor, next_B: Tensor) -> Tensor:
        if self.num_drafts == 0:
            return super().draft(reading, chosen_B, next_B)
        cache, span = reading.attending.cache, reading.attending.span
        assert cache is not None
        assert span is not None
        num_read, num_again = reading.hidden_BTD.shape[1], self.num_drafts - 1
        cache.remember(span, reading.tokens_BS, reading.hidden_BTD)
        attending = self._model.trunk.attend_cached(cache, num_read, num_again)
        assert attending.span is not None
        tokens_BT, hidden_BTD = cache.recall(attending.span)
        # What was read, then room; behind the chosen place the token that stands, then the drafts.
        room_Bk = tokens_BT.new_zeros((len(next_B), self.num_drafts + 1))
        line_BS = torch.cat((tokens_BT, room_Bk), dim=1)
        chosen_B = chosen_B + num_again
        line_BS.scatter_(1, chosen_B[:, None] + 1, next_B[:, None])
        again = Reading(self._model, line_BS, hidden_BTD, attending)
        drafts: list[Tensor] = []
        for offset in self._offsets():
            if offset <= self.num_drafts:
                again.states(offset)  # of all positions: the next module reads them
            drafts.append(self._likeliest(offset, again.states_at(offset, chosen_B)))
            line_BS.scatter_(1, chosen_B[:, None] + offset, drafts[-1])
        return torch.cat(drafts, dim=1)


def build_drafter(model: MTPModel, num_drafts: int) -> Drafter:
    """The drafter for the model's heads."""
    match model.config.heads:
        case "parallel":
            return ParallelDrafter(model, num_drafts)
        case "sequential":
            return SequentialDrafter(model, num_drafts)
        case _:
            return Drafter(model, num_drafts)
