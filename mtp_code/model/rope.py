"""How fast rotary embeddings turn, and what families stretch them by for longer contexts."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mtp_code.config import Strict

if TYPE_CHECKING:
    from torch import Tensor


class LinearScaling(Strict):
    """All positions ÷ factor.

    Source: Chen et al. 2023, arXiv 2306.15595.
    """

    kind: Literal["linear"]
    factor: PositiveFloat

    def stretch(
        self, frequencies_d: "Tensor", head_width: int, theta: float
    ) -> "tuple[Tensor, float]":
        return frequencies_d / self.factor, 1.0


class Llama3Scaling(Strict):
    """Slow turns ÷ factor, fast ones as they are, and a way from one to the other in between.

    Source: the Llama 3.1 models (Grattafiori et al. 2024, arXiv 2407.21783) and their code.
    """

    kind: Literal["llama3"]
    factor: PositiveFloat
    low_freq_factor: PositiveFloat
    high_freq_factor: PositiveFloat
    original_context: PositiveInt

    def stretch(
        self, frequencies_d: "Tensor", head_width: int, theta: float
    ) -> "tuple[Tensor, float]":
        turns_d = self.original_context * frequencies_d / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        kept_d = ((turns_d - self.low_freq_factor) / span).clamp(0, 1)
        return kept_d * frequencies_d + (1 - kept_d) * frequencies_d / self.factor, 1.0


class YarnScaling(Strict):
    """As Llama 3's, with a ramp over the pairs, and attention sharpened.

    Source: Peng et al. 2023, arXiv 2309.00071, sections 3.2 to 3.4.
    """

    kind: Literal["yarn"]
    factor: PositiveFloat
    original_context: PositiveInt
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    attention_factor: PositiveFloat | None = None
    """What cosine and sine are multiplied by; None is what follows from the two below."""
    mscale: NonNegativeFloat | None = None
    mscale_all_dim: NonNegativeFloat | None = None
    truncate: bool = True
    """The ramp begins and ends at whole pairs."""

    def stretch(
        self, frequencies_d: "Tensor", head_width: int, theta: float
    ) -> "tuple[Tensor, float]":
        def pair_that_turns(times: float) -> float:
            wavelength = self.original_context / (times * 2 * math.pi)
            return head_width * math.log(wavelength) / (2 * math.log(theta))

        low, high = pair_that_turns(self.beta_fast), pair_that_turns(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_width - 1)
        pairs_d = frequencies_d.new_tensor(range(len(frequencies_d)))
        # A ramp of no length is a step.
        stretched_d = ((pairs_d - low) / max(high - low, 1e-3)).clamp(0, 1)
        kept_d = 1 - stretched_d
        return (
            kept_d * frequencies_d + stretched_d * frequencies_d / self.factor,
            self._attention_factor(),
        )

    def _attention_factor(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharper(self.mscale) / self._sharper(self.mscale_all_dim)
        return self._sharper(1.0)

    def _sharper(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1 if self.factor > 1 else 1.0


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="kind")]


def turns(
    head_width: int, theta: float, scaling: LinearScaling | Llama3Scaling | YarnScaling | None
) -> "tuple[Tensor, float]":
    """Radians that each pair of a head turns by a position, (d ÷ 2,), and the factor of all."""
    import torch  # seconds, which those who only read a configuration can save

    half_d = torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
    frequencies_d = theta**-half_d
    return (
        (frequencies_d, 1.0)
        if scaling is None
        else scaling.stretch(frequencies_d, head_width, theta)
    )
