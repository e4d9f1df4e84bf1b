"""The trunk: tokens to hidden states that every MTP head reads."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mtp_code.model.attention import DocumentMask, dense_mask
from mtp_code.model.cache import KeyValueCache, Span
from mtp_code.model.config import ModelConfig
from mtp_code.model.layers import Attending, Block, Rotary


class Trunk(nn.Module):
    """Embedding and transformer layers; no final norm, which belongs to the heads' outputs.

    Attributes:
        document_mask: how attention is kept within documents.
        recomputes_layers: of a layer only its input is kept for the backward, which runs it again.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.rotary = Rotary(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_trunk_layers))
        self.document_mask: DocumentMask = dense_mask
        self.recomputes_layers = False

    def forward(self, tokens_BT: Tensor, attending: Attending) -> Tensor:
        return self.from_embedded(self.embedding(tokens_BT), attending)

    def from_embedded(self, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        for number, layer in enumerate(self.layers):
            if self.recomputes_layers and torch.is_grad_enabled():
                # Nothing in a layer is random.
                hidden_BTD = checkpoint(
                    layer,
                    hidden_BTD,
                    attending,
                    number,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                hidden_BTD = layer(hidden_BTD, attending, number)
        return hidden_BTD

    def attend(self, tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Attending:
        """Causal attention over whole rows; with document numbers, within each document only."""
        positions_1T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        mask = None if documents_BT is None else self.document_mask(documents_BT)
        cos, sin = self.rotary(positions_1T)
        return Attending(cos, sin, mask)

    def attend_cached(self, cache: KeyValueCache, num_tokens: int) -> Attending:
        """Causal attention of each row's next tokens over what the cache holds of that row."""
        return self.attend_span(cache, Span.behind(cache, num_tokens))

    def attend_span(self, cache: KeyValueCache, span: Span) -> Attending:
        """Causal attention of tokens in any slots, by slot, over the slots before them.

        Tokens that branch see the slots before the first of them and each its own branch.
        """
        positions_BT = span.positions_BT
        if span.branches is not None:
            first_B1 = positions_BT[:, :1]
            behind_BS = torch.arange(span.end, device=positions_BT.device) - first_B1
            sees_TT = span.branches.sees_TT
            own_BTS = sees_TT[:, behind_BS.clamp(0, len(sees_TT) - 1)].transpose(0, 1)
            own_BTS = own_BTS & (behind_BS < len(sees_TT))[:, None]
            cos, sin = self.rotary(first_B1 + span.branches.depths_T)
            seen_BTS = own_BTS | (behind_BS < 0)[:, None]
            return Attending(cos, sin, _added(seen_BTS, cache), cache, span)
        mask = None
        if positions_BT.shape[1] > 1 or span.start is None:
            seen_T = torch.arange(span.end, device=positions_BT.device)
            # Each sees something, so that no softmax is over nothing.
            mask = _added(seen_T <= positions_BT[:, :, None].clamp(min=0), cache)
        if span.start is not None:
            cos, sin = self.rotary.in_a_row(span.start, positions_BT.shape[1])
        else:
            cos, sin = self.rotary(positions_BT)
        return Attending(cos, sin, mask, cache, span)


def _added(seen_BTS: Tensor, cache: KeyValueCache) -> Tensor:
    """What is added to scores so that a token looks where it may: of booleans attention would make
    the same, anew in each layer."""
    mask_BTS = torch.zeros(seen_BTS.shape, dtype=cache.keys_LBHCd.dtype, device=seen_BTS.device)
    return mask_BTS.masked_fill_(~seen_BTS, -torch.inf)
