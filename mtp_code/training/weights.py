"""What each offset's loss counts for, as a pure function of the step."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, Tag, model_validator

from mtp_code.config import Strict


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "number"


Weights = Annotated[
    Annotated[tuple[NonNegativeFloat, ...], Tag("list")]
    | Annotated[NonNegativeFloat, Tag("number")],
    Discriminator(_kind),
]
"""One for each offset, or a number for each but the first, which counts 1."""


class WeightsConfig(Strict):
    """A small weight for all later offsets is DeepSeek-V3's way (arXiv 2412.19437, section 2.2)."""

    initial: Weights | None = None
    """None is 1 for each."""
    final: Weights | None = None
    """What they become; None is what they are."""
    anneal: Literal["linear", "cosine", "step"] = "linear"
    """How: evenly, along half a cosine, or at once when `share` is over."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The share of the steps after which the weights are the final ones."""

    @model_validator(mode="after")
    def _comes_to_its_end(self) -> Self:
        if self.final is None and (self.anneal != "linear" or self.share != 1):
            raise ValueError("anneal and share say how weights become final; give final as well")
        if self.final is not None and self.anneal == "step" and self.share == 1:
            raise ValueError(
                "anneal = step takes final when share is over, which share = 1.0 is only at the "
                "run's end; set a share below 1"
            )
        return self

    @model_validator(mode="after")
    def _trains_the_next_token(self) -> Self:
        for name, weights in (("initial", self.initial), ("final", self.final)):
            if isinstance(weights, tuple) and not (weights and weights[0] > 0):
                raise ValueError(
                    f"{name}: offset 1 needs a weight above 0, it is what decoding answers with"
                )
        return self

    def lengths(self) -> dict[str, int]:
        """How many offsets each list is for."""
        given = {"initial": self.initial, "final": self.final}
        return {name: len(value) for name, value in given.items() if isinstance(value, tuple)}


class CurriculumConfig(Strict):
    """How many heads train, in stages of equal length: offsets beyond are left out, at no cost.

    Source: Aynetdinov and Akbik 2025, arXiv 2505.22757. Small models learn less with all heads
    from the beginning; `forward` keeps drafting, `reverse` ends as a next-token model.
    """

    order: Literal["forward", "reverse"]
    """`forward`: 1, 2, … n heads; `reverse`: n, … 2, 1."""
    share: float = Field(default=1.0, gt=0, le=1)
    """The share of the steps that the stages divide; the last stage's heads train on behind it."""


def weights_at(
    step: int,
    num_steps: int,
    num_offsets: int,
    weights: WeightsConfig,
    curriculum: CurriculumConfig | None,
) -> tuple[float, ...]:
    """The weight of each offset in a step (from 0); 0 for those that the curriculum leaves out."""
    initial = _by_offset(1.0 if weights.initial is None else weights.initial, num_offsets)
    final = initial if weights.final is None else _by_offset(weights.final, num_offsets)
    way = _way(step, num_steps, weights)
    num_active = num_offsets
    if curriculum is not None:
        num_active = num_active_heads(step, num_steps, num_offsets, curriculum)
    return tuple(
        before + (after - before) * way if offset <= num_active else 0.0
        for offset, (before, after) in enumerate(zip(initial, final, strict=True), 1)
    )


def _by_offset(weights: Weights, num_offsets: int) -> tuple[float, ...]:
    return weights if isinstance(weights, tuple) else (1.0,) + (weights,) * (num_offsets - 1)


def num_active_heads(
    step: int, num_steps: int, num_offsets: int, curriculum: CurriculumConfig
) -> int:
    stage = min(num_offsets - 1, int(step * num_offsets / (curriculum.share * num_steps)))
    return stage + 1 if curriculum.order == "forward" else num_offsets - stage


def _way(step: int, num_steps: int, weights: WeightsConfig) -> float:
    """How far from the initial weights to the final ones, in 0..1."""
    progress = min(1.0, step / max(1.0, weights.share * num_steps - 1))
    match weights.anneal:
        case "linear":
            return progress
        case "cosine":
            return (1 - math.cos(math.pi * progress)) / 2
        case "step":
            return float(step >= weights.share * num_steps)
