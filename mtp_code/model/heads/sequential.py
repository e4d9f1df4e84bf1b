"""Modules that read the tokens in between."""

import torch
from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads.base import Heads
from mtp_code.model.layers import Attending, Block, RMSNorm, choose


class SequentialHeads(Heads):
    """The trunk's states are those of the next token; each later offset is one module deeper.

    The head of offset k reads the states of offset k − 1 and the token k − 1 ahead, so it knows
    all tokens before the one that it predicts; a draft must be made token by token.

    Source: DeepSeek-V3, arXiv 2412.19437, section 2.2.
    """

    reads_tokens = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            SequentialModule(config) for _ in range(config.num_mtp_heads - 1)
        )

    def reads(self, offset: int) -> int:
        return offset - 1

    def layer(self, offset: int) -> nn.Module | None:
        return None if offset == 1 else self.layers[offset - 2]

    def forward(
        self,
        offset: int,
        below_BTD: Tensor,
        attending: Attending,
        ahead_BTD: Tensor | None = None,
    ) -> Tensor:
        if offset == 1:
            chosen_B = attending.chosen_B
            return below_BTD if chosen_B is None else choose(below_BTD, chosen_B)
        assert ahead_BTD is not None
        number = offset - 2
        return self.layers[number](below_BTD, ahead_BTD, attending, self.first_layer + number)  # type: ignore[no-any-return]


class SequentialModule(nn.Module):
    """One depth: states below and a token's embedding, each normed, projected to one, one layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.states_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.token_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.project = nn.Linear(2 * config.width, config.width, bias=False)
        self.block = Block(config)

    def forward(
        self, below_BTD: Tensor, ahead_BTD: Tensor, attending: Attending, layer: int
    ) -> Tensor:
        both = torch.cat((self.states_norm(below_BTD), self.token_norm(ahead_BTD)), dim=-1)
        # Under autocast a product is in bf16; the residual stream stays what it was.
        hidden_BTD = self.project(both).to(below_BTD.dtype)
        return self.block(hidden_BTD, attending, layer)  # type: ignore[no-any-return]
