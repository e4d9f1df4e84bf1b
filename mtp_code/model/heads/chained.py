"""Heads one on top of the other, in order of offset or against it."""

from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.base import Heads
from mtp_code.model.layers import Attending, Block


class ChainedHeads(Heads):
    """n transformer layers, of which each but the first reads another's states."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_mtp_heads))

    def forward(
        self,
        offset: int,
        below_BTD: Tensor,
        attending: Attending,
        ahead_BTD: Tensor | None = None,
    ) -> Tensor:
        number = offset - 1
        return self.layers[number](below_BTD, attending, self.first_layer + number)  # type: ignore[no-any-return]


class CausalHeads(ChainedHeads):
    """The head of offset k reads the states of offset k − 1.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, appendix on alternative architectures.
    """

    def reads(self, offset: int) -> int:
        return offset - 1


class AnticausalHeads(ChainedHeads):
    """The most distant token first, the next one last: offset k reads the states of k + 1.

    The next token passes every head, so decoding runs all of them and drafts at no more cost.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, appendix on alternative architectures.
    """

    def reads(self, offset: int) -> int:
        return 0 if offset == self.num_offsets else offset + 1
