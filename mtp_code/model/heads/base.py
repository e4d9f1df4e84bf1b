"""What every head architecture offers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.layers import Attending, Block


class Heads(nn.Module, ABC):
    """One head for each offset, which reads the states of the trunk or of another head.

    Which of the two is all that training and decoding need to know of an architecture: heads that
    read the trunk stand side by side, heads that read each other form a chain. Layers with a cache
    are numbered behind the trunk's.
    """

    reads_tokens: ClassVar[bool] = False
    """Beside the states below, the head of offset k reads the tokens k − 1 ahead."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_offsets = config.num_mtp_heads
        self.first_layer = config.num_trunk_layers

    def __len__(self) -> int:
        return self.num_offsets

    def reads(self, offset: int) -> int:
        """The offset whose states this head reads; 0 is the trunk."""
        return 0

    def is_read(self, offset: int) -> bool:
        """Whether another head reads this one's states."""
        return any(self.reads(other) == offset for other in range(1, self.num_offsets + 1))

    def chain(self, offset: int) -> list[int]:
        """The heads between the trunk and this one's states, in the order they are computed."""
        chain = [offset]
        while (below := self.reads(chain[0])) != 0:
            chain.insert(0, below)
        return chain

    def backward_order(self, offsets: Iterable[int]) -> list[int]:
        """These heads and all on the way to them, each before the one whose states it reads."""
        needed = {step for offset in offsets for step in self.chain(offset)}
        return sorted(needed, key=lambda offset: (-len(self.chain(offset)), offset))

    @abstractmethod
    def layer(self, offset: int) -> nn.Module | None:
        """What a head has of its own; None if its states are those it reads."""

    @abstractmethod
    def forward(
        self,
        offset: int,
        below_BTD: Tensor,
        attending: Attending,
        ahead_BTD: Tensor | None = None,
    ) -> Tensor:
        """States of one offset (1 = next token), before the norm: (B, T, D).

        Where `attending` answers for one token of each row, (B, 1, D).

        Args:
            below_BTD: states of `reads(offset)`.
            ahead_BTD: embeddings of the tokens offset − 1 ahead, where `reads_tokens`.
        """


class LayerHeads(Heads):
    """One transformer layer for each offset."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_mtp_heads))

    def layer(self, offset: int) -> nn.Module:
        return self.layers[offset - 1]

    def forward(
        self,
        offset: int,
        below_BTD: Tensor,
        attending: Attending,
        ahead_BTD: Tensor | None = None,
    ) -> Tensor:
        number = offset - 1
        return self.layers[number](below_BTD, attending, self.first_layer + number)  # type: ignore[no-any-return]
