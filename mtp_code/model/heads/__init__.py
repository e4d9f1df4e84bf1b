"""MTP head architectures, by name: a small module each."""

from mtp_code.model.config import HeadsKind, ModelConfig
from mtp_code.model.heads.base import Heads
from mtp_code.model.heads.chained import AnticausalHeads, CausalHeads
from mtp_code.model.heads.linear import LinearHeads
from mtp_code.model.heads.parallel import ParallelHeads
from mtp_code.model.heads.sequential import SequentialHeads

ARCHITECTURES: dict[HeadsKind, type[Heads]] = {
    "parallel": ParallelHeads,
    "causal": CausalHeads,
    "anticausal": AnticausalHeads,
    "linear": LinearHeads,
    "sequential": SequentialHeads,
}


def build_heads(config: ModelConfig) -> Heads:
    return ARCHITECTURES[config.heads](config)
