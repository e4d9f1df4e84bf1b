"""MTP head architectures: from the trunk's hidden states to the states of each offset.

A head architecture is a module with `forward(offset, hidden_BTD, attending) -> states_BTD`
(offsets from 1) that owns one layer for each offset.
"""

from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.layers import Attending, Block


class ParallelHeads(nn.Module):
    """n independent transformer layers over the trunk's hidden states.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.first_layer = config.num_trunk_layers
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_mtp_heads))

    def __len__(self) -> int:
        return len(self.layers)

    def forward(self, offset: int, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        number = offset - 1
        return self.layers[number](hidden_BTD, attending, self.first_layer + number)  # type: ignore[no-any-return]
