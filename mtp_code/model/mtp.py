"""Trunk, MTP heads, shared norm and unembedding."""

import math

import torch
from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads import ParallelHeads
from mtp_code.model.layers import Attending
from mtp_code.model.trunk import Trunk


class MTPModel(nn.Module):
    """A multi-token prediction model; trunk + head 1 alone are a Llama model.

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.mtp_heads = ParallelHeads(config)
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.unembedding.weight = self.trunk.embedding.weight

    @property
    def num_mtp_heads(self) -> int:
        return len(self.mtp_heads)

    def head_states(self, offset: int, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        """What the unembedding reads for one offset (1 = next token), normed."""
        return self.norm(self.mtp_heads(offset, hidden_BTD, attending))  # type: ignore[no-any-return]

    def logits(self, offset: int, hidden_BTD: Tensor, attending: Attending) -> Tensor:
        return self.unembedding(self.head_states(offset, hidden_BTD, attending))  # type: ignore[no-any-return]

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of every offset at every position, (K, B, T, V): for looking, not for training."""
        attending = self.trunk.attend(tokens_BT)
        hidden_BTD = self.trunk(tokens_BT, attending)
        offsets = range(1, self.num_mtp_heads + 1)
        return torch.stack([self.logits(offset, hidden_BTD, attending) for offset in offsets])


def build_model(config: ModelConfig, seed: int) -> MTPModel:
    """A model with fresh weights: normal with deviation 0.02, less where a residual stream adds up.

    Source of the scaling of residual projections: Radford et al. 2019 (GPT-2), section 2.3.
    """
    model = MTPModel(config)
    generator = torch.Generator().manual_seed(seed)
    # A path from input to output passes the trunk's layers and one head.
    residual_std = 0.02 / math.sqrt(2 * (config.num_trunk_layers + 1))
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        is_residual = name.endswith(("attn.out.weight", "ffn.down.weight"))
        nn.init.normal_(parameter, std=residual_std if is_residual else 0.02, generator=generator)
    return model
