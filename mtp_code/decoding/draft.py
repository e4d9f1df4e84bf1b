"""What the heads beyond the first expect: tokens at offsets 2 … k+1."""

import torch
from torch import Tensor

from mtp_code.model.heads.parallel import ParallelHeads, StackedHeads
from mtp_code.model.mtp import MTPModel, Reading


class Drafter:
    """Drafts from the last position of a reading, for any heads that read states alone."""

    num_again = 0
    """Positions for each draft but the first that must be read again the next time."""

    def __init__(self, model: MTPModel, max_drafts: int) -> None:
        """
        Raises:
            ValueError: the model has too few heads for so many drafts.
        """
        if not 0 <= max_drafts < model.num_mtp_heads:
            raise ValueError(
                f"num_drafts must be in 0..{model.num_mtp_heads - 1} "
                f"(the heads beyond the first), got {max_drafts}"
            )
        self.max_drafts = max_drafts
        self._model = model

    can_branch = True
    """Whether what is drafted for an offset does not depend on the drafts before it."""

    def draft(self, reading: Reading, num_drafts: int, num_ranks: int = 1) -> Tensor:
        """The likeliest tokens of each offset, likeliest first, (B, k, ranks).

        All positions of the reading leave their keys and values in the cache of each head that is
        asked, so it begins where the heads have read to.
        """
        offsets = range(2, num_drafts + 2)
        # Heads that others read come last: their states are there by then.
        order = self._model.mtp_heads.backward_order(offsets)
        chosen_B = last_position(reading)
        states = {k: reading.states_at(k, chosen_B) for k in order if k in offsets}
        return torch.cat([self._likeliest(k, states[k], num_ranks) for k in offsets], dim=1)

    def _likeliest(self, offset: int, states_B1D: Tensor, num_ranks: int) -> Tensor:
        return _top(self._model.unembed(offset, states_B1D), num_ranks)


class ParallelDrafter(Drafter):
    """The same for parallel heads, all at once."""

    def __init__(self, model: MTPModel, max_drafts: int) -> None:
        super().__init__(model, max_drafts)
        assert isinstance(model.mtp_heads, ParallelHeads)
        self._heads: dict[int, StackedHeads] = {}
        if max_drafts:
            offsets = range(2, max_drafts + 2)
            heads = StackedHeads(model.mtp_heads, offsets, model.config)
            self._heads = {count: heads.first(count) for count in range(1, max_drafts + 1)}

    def draft(self, reading: Reading, num_drafts: int, num_ranks: int = 1) -> Tensor:
        attending = reading.attending.only(last_position(reading))
        states_KBD = self._heads[num_drafts](reading.hidden_BTD, attending)
        if self._model.config.replicated_unembeddings:
            pairs = enumerate(states_KBD[:, :, None], start=2)
            drafted = [self._likeliest(k, states_B1D, num_ranks) for k, states_B1D in pairs]
            return torch.cat(drafted, dim=1)
        logits_KBV = self._model.unembedding(self._model.norm(states_KBD))
        return _top(logits_KBV, num_ranks).transpose(0, 1)


class SequentialDrafter(Drafter):
    """Drafts token by token: each module reads the token that the one before it expects.

    What a module left in the cache for a position whose tokens ahead were only drafted is not
    what it would say of the tokens that stand. So the newest k − 1 positions are read again.
    """

    num_again = 1
    can_branch = False

    def draft(self, reading: Reading, num_drafts: int, num_ranks: int = 1) -> Tensor:
        """As for other heads; the drafts are written into the reading's line of tokens.

        Raises:
            ValueError: more than the likeliest token is wanted.
        """
        if num_ranks != 1:
            raise ValueError("sequential heads draft token by token: only the likeliest")
        chosen_B = last_position(reading)
        num_read, drafts = reading.hidden_BTD.shape[1], []
        for offset in range(2, num_drafts + 2):
            if offset <= num_drafts:
                reading.states(offset)  # of all positions: the next module reads them
            drafts.append(self._likeliest(offset, reading.states_at(offset, chosen_B), num_ranks))
            reading.tokens_BS[:, num_read - 1 + offset] = drafts[-1][:, 0, 0]
        return torch.cat(drafts, dim=1)


def _top(logits: Tensor, num_ranks: int) -> Tensor:
    """The likeliest tokens, on an axis of their own in the vocabulary's place."""
    if num_ranks == 1:
        return logits.argmax(dim=-1, keepdim=True)
    return logits.topk(num_ranks, dim=-1).indices


def last_position(reading: Reading) -> Tensor:
    """The index of each row's last position among those that were read, (B,)."""
    num_rows, num_read = reading.hidden_BTD.shape[:2]
    return torch.full((num_rows,), num_read - 1, device=reading.hidden_BTD.device)


def build_drafter(model: MTPModel, max_drafts: int) -> Drafter:
    """The drafter for the model's heads."""
    match model.config.heads:
        case "parallel":
            return ParallelDrafter(model, max_drafts)
        case "sequential":
            return SequentialDrafter(model, max_drafts)
        case _:
            return Drafter(model, max_drafts)
