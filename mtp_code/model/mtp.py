"""Trunk, MTP heads, shared norm and unembedding."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mtp_code.model.config import ModelConfig
from mtp_code.model.heads import build_heads
from mtp_code.model.layers import Attending, RMSNorm, Rotary, choose
from mtp_code.model.trunk import Trunk


class MTPModel(nn.Module):
    """A multi-token prediction model; trunk + head 1 alone are a Llama model.

    (Where the trunk's states are head 1's, with linear and sequential heads, the trunk alone is;
    with anticausal heads, head 1 is on top of all others.)

    Source: Gloeckle et al. 2024, arXiv 2404.19737, section 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.mtp_heads = build_heads(config)
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.unembedding = _unembedding(config)
        self.later_unembeddings = nn.ModuleList(
            _unembedding(config)
            for _ in range(config.num_mtp_heads - 1 if config.replicated_unembeddings else 0)
        )
        self.token_order_unembedding: nn.Linear | None = None
        if config.token_order_unembedding:
            self.token_order_unembedding = _unembedding(config)
        if config.tied_embeddings:
            self.unembedding.weight = self.trunk.embedding.weight

    @property
    def num_mtp_heads(self) -> int:
        return len(self.mtp_heads)

    def unembedding_for(self, offset: int) -> nn.Linear:
        if offset == 1 or not self.later_unembeddings:
            return self.unembedding
        return self.later_unembeddings[offset - 2]  # type: ignore[return-value]

    def vocabulary_weights(self) -> set[nn.Parameter]:
        """Matrices with a row for each token of the vocabulary."""
        unembeddings = [self.unembedding, *self.later_unembeddings, self.token_order_unembedding]
        weights = {module.weight for module in unembeddings if module is not None}
        return {self.trunk.embedding.weight, *weights}

    def unembed(self, offset: int, states_BTD: Tensor) -> Tensor:
        """Logits of one offset from its head's states."""
        return self.unembedding_for(offset)(self.norm(states_BTD))  # type: ignore[no-any-return]

    def read(self, tokens_BT: Tensor, attending: Attending) -> "Reading":
        """The trunk's states behind tokens, and whatever heads are asked for there."""
        return Reading(self, tokens_BT, self.trunk(tokens_BT, attending), attending)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of every offset at every position, (K, B, T, V): for looking, not for training.

        Heads that read tokens find those of the text and, behind its end, the likeliest so far.
        """
        reading = self.read(tokens_BT, self.trunk.attend(tokens_BT))
        logits = []
        for offset in range(1, self.num_mtp_heads + 1):
            logits.append(reading.logits(offset))
            likeliest_B1 = logits[-1][:, -1:].argmax(dim=-1)
            reading.tokens_BS = torch.cat((reading.tokens_BS, likeliest_B1), dim=1)
        return torch.stack(logits)


class Reading:
    """One forward of the trunk, and the heads' states on it, computed when asked for.

    States that other heads read are kept, so no head runs twice.

    Attributes:
        tokens_BS: the T tokens that were read and, for the offset k of heads that read tokens, at
            least k − 1 more behind them.
        hidden_BTD: the trunk's states.
    """

    def __init__(
        self, model: MTPModel, tokens_BS: Tensor, hidden_BTD: Tensor, attending: Attending
    ) -> None:
        self._model, self._heads = model, model.mtp_heads
        self.tokens_BS, self.hidden_BTD, self.attending = tokens_BS, hidden_BTD, attending
        self._states: dict[int, Tensor] = {0: hidden_BTD}

    def states(self, offset: int) -> Tensor:
        """States of one offset at all positions, before the norm, (B, T, D)."""
        if offset in self._states:
            return self._states[offset]
        states_BTD = self._run(offset, self.attending)
        if self._heads.is_read(offset):
            self._states[offset] = states_BTD
        return states_BTD

    def states_at(self, offset: int, chosen_B: Tensor) -> Tensor:
        """States of one offset at one position of each row, before the norm, (B, 1, D).

        All positions leave their keys and values in the cache.
        """
        if offset in self._states:
            return choose(self._states[offset], chosen_B)
        return self._run(offset, self.attending.only(chosen_B))

    def logits(self, offset: int) -> Tensor:
        return self._model.unembed(offset, self.states(offset))

    def _run(self, offset: int, attending: Attending) -> Tensor:
        below_BTD, ahead_BTD = self.states(self._heads.reads(offset)), None
        if self._heads.reads_tokens and offset > 1:
            ahead = slice(offset - 1, offset - 1 + below_BTD.shape[1])
            ahead_BTD = self._model.trunk.embedding(self.tokens_BS[:, ahead])
        return self._heads(offset, below_BTD, attending, ahead_BTD)  # type: ignore[no-any-return]


def build_model(config: ModelConfig, seed: int) -> MTPModel:
    """A model with fresh weights."""
    model = MTPModel(config)
    with torch.no_grad():
        for parameter, values in fresh_weights(model, seed):
            parameter.copy_(values)
    return model


def outline(config: ModelConfig) -> MTPModel:
    """A model whose parameters have shapes and no values, on torch's meta device."""
    with torch.device("meta"):
        model = MTPModel(config)
    model.trunk.rotary = Rotary(config)  # no parameters: tables, which are small
    return model


def fresh_weights(model: MTPModel, seed: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter and its first values, whole, on the CPU: one after another.

    Normal with deviation 0.02, less where a residual stream adds up; norms are ones, biases zeros.
    They depend on seed and shape only: a process that holds a part of each parameter draws all
    values, and keeps its own.

    Source of the scaling of residual projections: Radford et al. 2019 (GPT-2), section 2.3.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / math.sqrt(2 * model.config.num_path_layers)
    for name, parameter in model.named_parameters():
        values = torch.empty(parameter.shape, dtype=parameter.dtype)
        if parameter.dim() < 2:
            values.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            is_residual = name.endswith(("attn.out.weight", "ffn.down.weight"))
            values.normal_(std=residual_std if is_residual else 0.02, generator=generator)
        yield parameter, values


def _unembedding(config: ModelConfig) -> nn.Linear:
    return nn.Linear(config.width, config.vocab_size, bias=False)
