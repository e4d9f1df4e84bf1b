"""Heads of one matrix, without attention."""

from torch import Tensor, nn
from torch.nn import functional as F

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.base import Heads
from mtp_code.model.layers import Attending, choose


class LinearHeads(Heads):
    """The trunk's states are those of the next token; each later offset adds SiLU of a projection.

    All layers are the trunk's, so the heads leave nothing in the cache.

    Source: Medusa, Cai et al. 2024, arXiv 2401.10774, section 2.1 (there each head has an
    unembedding of its own: `replicated_unembeddings`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projections = nn.ModuleList(
            nn.Linear(config.width, config.width, bias=False)
            for _ in range(config.num_mtp_heads - 1)
        )

    def layer(self, offset: int) -> nn.Module | None:
        return None if offset == 1 else self.projections[offset - 2]

    def forward(
        self,
        offset: int,
        below_BTD: Tensor,
        attending: Attending,
        ahead_BTD: Tensor | None = None,
    ) -> Tensor:
        if attending.chosen_B is not None:
            below_BTD = choose(below_BTD, attending.chosen_B)
        if offset == 1:
            return below_BTD
        return below_BTD + F.silu(self.projections[offset - 2](below_BTD))
