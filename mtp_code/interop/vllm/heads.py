"""Parallel heads as an Eagle 3 draft model of vLLM. Imported by vLLM, in its own processes.

vLLM asks an Eagle 3 draft for one token at a time: the first call reads the target's states of all
new positions, each later one what the call before it handed back for the one position that is
drafted from. Parallel heads have all answers after the first call, so a row of states has a slot
for each head: the first call fills the slots, later ones only move up the next.

    combine_hidden_states  [trunk state |             |            ]
    first call           → [head 2      | head 3      | head 4     ]  unembeds slot 1: offset 2
    second call          → [head 3      | head 4      | 0          ]  unembeds slot 1: offset 3
    third call           → [head 4      | 0           | 0          ]  unembeds slot 1: offset 4

The heads are ordinary decoder layers with pages of vLLM's own cache. What the first call writes
there for drafts that are rejected is written again, as the target's is, when their positions come
up next.

Which call is the first is a flag in Python, set by `combine_hidden_states`, which vLLM calls once
a draft. A captured graph would replay one of the two branches for both, so drafts must run eagerly.
(Without a branch all heads would have to run in each call: (n − 1)² layers a draft, not n − 1.)
"""

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mtp_code.interop.vllm import TESTED, require_vllm

log = logging.getLogger(__name__)

VERSION = require_vllm()
try:
    from vllm.config import VllmConfig, get_current_vllm_config
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.models.llama import LlamaDecoderLayer
    from vllm.model_executor.models.llama_eagle3 import Eagle3LlamaForCausalLM
    from vllm.model_executor.models.qwen3 import Qwen3DecoderLayer
    from vllm.model_executor.models.utils import (
        AutoWeightsLoader,
        WeightsMapper,
        get_draft_quant_config,
        maybe_prefix,
    )
    from vllm.platforms import current_platform
except ImportError as error:
    raise ImportError(
        f"vLLM {VERSION} lacks what mtp-code's heads stand on ({error}), though it is {TESTED}; "
        "please report it"
    ) from error


class _LlamaLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """Quantized as the draft is, not as the target."""

    def get_quant_config(self, vllm_config: VllmConfig) -> Any:
        return get_draft_quant_config(vllm_config)


def _llama(vllm_config: VllmConfig, config: Any, prefix: str) -> nn.Module:
    return _LlamaLayer(vllm_config, prefix=prefix, config=config)


def _qwen3(vllm_config: VllmConfig, config: Any, prefix: str) -> nn.Module:
    quantized = get_draft_quant_config(vllm_config)
    return Qwen3DecoderLayer(config, vllm_config.cache_config, quantized, prefix)  # type: ignore[no-any-return]


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "LlamaForCausalLM": _llama,
    "Qwen3ForCausalLM": _qwen3,
}
"""How a layer is built, by `main_architecture`: the class of the exported trunk with head 1."""


class _Heads(nn.Module):
    """The layers of offsets 2 … k+1 and the norm behind them."""

    def __init__(self, config: Any, num_heads: int, first_layer: int, prefix: str) -> None:
        super().__init__()
        config = copy.copy(config)
        config.hidden_size = config.trunk_hidden_size
        build = LAYERS[config.main_architecture]
        # vLLM tells the caches of layers apart by these numbers: the target's come before.
        self.layers = nn.ModuleList(
            build(
                get_current_vllm_config(), config, maybe_prefix(prefix, f"layers.{first_layer + i}")
            )
            for i in range(num_heads)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # vLLM puts the target's in its place, and looks at this one's weight before.
        self.embed_tokens = nn.Identity()
        self.embed_tokens.register_parameter("weight", None)

    def forward(self, positions_N: Tensor, hidden_ND: Tensor) -> list[Tensor]:
        """Each head's normed states of N positions, whichever requests they belong to."""
        states = []
        for layer in self.layers:
            # A copy: vLLM's fused norms add to the residual in place.
            output_ND, residual_ND = layer(positions_N, hidden_ND.clone(), None)
            states.append(self.norm(output_ND, residual_ND)[0])
        return states


class ParallelHeadsEagle3(Eagle3LlamaForCausalLM):  # type: ignore[misc]
    """Drafts with the heads in the folder `heads/` of an export.

    An `Eagle3LlamaForCausalLM` for vLLM's sake, which asks for one by class; nothing that it has is
    used but the unembedding of `get_top_tokens`.

    Args:
        vllm_config: its target is the export's folder `main/`.

    Raises:
        ValueError: heads of another target, or a setting under which they would draft wrongly.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        self.config = vllm_config.speculative_config.draft_model_config.hf_config
        check(vllm_config, self.config)
        if current_platform.is_cpu():
            log.warning(
                "vLLM %s on a CPU does not keep the temperature of tokens that were drafted: ask "
                "for temperature 0, or serve without a speculative config",
                VERSION,
            )
        self.width = self.config.trunk_hidden_size
        self.num_slots = self.config.num_hidden_layers
        self.model = _Heads(
            self.config,
            vllm_config.speculative_config.num_speculative_tokens,
            vllm_config.model_config.get_total_num_hidden_layers(),
            maybe_prefix(prefix, "model"),
        )
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        self.has_own_embed_tokens = self.has_own_lm_head = False
        self._is_first_call = True

    def combine_hidden_states(self, hidden_states: Tensor) -> Tensor:
        """Rows with the trunk's states in the first slot; vLLM calls this once before each draft.

        Args:
            hidden_states: (N, D), of all new positions.
        """
        self._is_first_call = True
        rows = hidden_states.new_zeros(len(hidden_states), self.num_slots * self.width)
        rows[:, : self.width] = hidden_states
        return rows

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        hidden_states: Tensor,
        inputs_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What to unembed for the next offset, (N, D), and the rows to hand back for the one after.

        Parallel heads read states alone, so the tokens drafted so far are of no use to them.
        """
        rows = torch.zeros_like(hidden_states)
        if self._is_first_call:
            self._is_first_call = False
            states = self.model(positions, hidden_states[:, : self.width].contiguous())
            rows[:, : len(states) * self.width] = torch.cat(states, dim=-1)
        else:
            rows[:, : -self.width] = hidden_states[:, self.width :]
        return rows[:, : self.width].contiguous(), rows

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return self.logits_processor(self.lm_head, hidden_states)  # type: ignore[no-any-return]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The names of what was loaded, which vLLM holds to be everything there is.

        Embedding and unembedding are not among it: vLLM shares the target's with a draft that has
        none of its own.
        """
        num_heads = len(self.model.layers)
        unused = {f"model.layers.{number}.": None for number in range(num_heads, self.num_slots)}
        mapper = WeightsMapper(
            orig_to_new_prefix=unused,
            orig_to_new_stacked={
                ".q_proj": (".qkv_proj", "q"),
                ".k_proj": (".qkv_proj", "k"),
                ".v_proj": (".qkv_proj", "v"),
                ".gate_proj": (".gate_up_proj", 0),
                ".up_proj": (".gate_up_proj", 1),
            },
        )
        return AutoWeightsLoader(self).load_weights(weights, mapper=mapper)  # type: ignore[no-any-return]


def check(vllm_config: VllmConfig, heads: Any) -> None:
    """
    Raises:
        ValueError: heads of another target, or a setting under which they would draft wrongly.
    """
    speculative, target = vllm_config.speculative_config, vllm_config.model_config
    folder = speculative.draft_model_config.model
    if heads.main_architecture not in LAYERS:
        raise ValueError(
            f"{folder}: heads for {heads.main_architecture}; known: {', '.join(LAYERS)}"
        )
    num_layers = target.get_total_num_hidden_layers()
    expected = {
        "hidden_size": (heads.trunk_hidden_size, target.get_hidden_size()),
        "vocab_size": (heads.vocab_size, target.get_vocab_size()),
        "architecture": (heads.main_architecture, target.architecture),
        "num_hidden_layers": (heads.eagle_aux_hidden_state_layer_ids, [num_layers - 1]),
    }
    for name, (wanted, found) in expected.items():
        if wanted != found:
            raise ValueError(
                f"{folder}: heads of another model than {target.model}: its {name} asks for "
                f"{found}, they are for {wanted}; take heads/ and main/ of the same export"
            )
    if speculative.num_speculative_tokens > heads.num_hidden_layers:
        raise ValueError(
            f"{folder}: num_speculative_tokens = {speculative.num_speculative_tokens}, but there "
            f"are {heads.num_hidden_layers} heads to draft with"
        )
    if not (speculative.enforce_eager or target.enforce_eager):
        raise ValueError(
            f'{folder}: its drafts cannot be captured in graphs; add "enforce_eager": true to '
            "the speculative config (the target may still be captured)"
        )
    if vllm_config.use_v2_model_runner:
        raise ValueError(f"{folder}: needs vLLM's model runner V1; set VLLM_USE_V2_MODEL_RUNNER=0")
