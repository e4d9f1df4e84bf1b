"""Low-rank adaptation: what training adds to a matrix is a product of two narrow ones.

Source: Hu et al. 2021 (LoRA), arXiv 2106.09685, section 4.1.

A parametrization of the weight, not a wrapped layer: attention and the heads' stacked forms read
weights, and see the adapted ones. By parameter name, an adapted matrix is three.
"""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_ADAPTED = re.compile(r"(.+)\.parametrizations\.weight\.original")


class LowRank(nn.Module):
    """Adds up × down to a matrix, at first nothing."""

    def __init__(self, weight_OI: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        num_out, num_in = weight_OI.shape
        down_RI = torch.empty(rank, num_in).normal_(std=1 / math.sqrt(num_in), generator=generator)
        self.down = nn.Parameter(down_RI.to(weight_OI))
        self.up = nn.Parameter(weight_OI.new_zeros(num_out, rank))

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + self.up @ self.down


def add_low_rank(modules: Iterable[nn.Module], rank: int, seed: int) -> None:
    """Adapts all linear layers in these modules; the matrices themselves are trained no more."""
    generator = torch.Generator().manual_seed(seed)
    linears = [m for module in modules for m in module.modules() if isinstance(m, nn.Linear)]
    for linear in linears:
        linear.weight.requires_grad_(False)
        parametrize.register_parametrization(
            linear, "weight", LowRank(linear.weight, rank, generator)
        )


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by parameter name with each adapted matrix as one again."""
    plain = dict(weights)
    for name in weights:
        if found := _ADAPTED.fullmatch(name):
            original = plain.pop(name)
            parts = f"{found[1]}.parametrizations.weight.0"
            up, down = plain.pop(f"{parts}.up"), plain.pop(f"{parts}.down")
            plain[f"{found[1]}.weight"] = original + up @ down
    return plain
