"""The learning rate as a pure function of the step."""

import math
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mtp_code.config import Strict


class ScheduleConfig(Strict):
    num_steps: PositiveInt
    warmup_steps: NonNegativeInt = 0
    decay: Literal["cosine", "linear", "wsd"] = "cosine"
    """After the warm-up: `cosine` or `linear` down to the end, or `wsd` (warm-up, stable, decay:
    constant, then linear over the last `decay_share` of the steps)."""
    decay_share: float = Field(default=0.3, gt=0, le=1)
    final_share: float = Field(default=0.1, ge=0, le=1)
    """The last step's learning rate as a share of the peak."""

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} leaves nothing of num_steps = {self.num_steps}"
            )
        return self


def learning_rate_share(step: int, schedule: ScheduleConfig) -> float:
    """The share of the peak learning rate that step (from 0) uses, in 0..1."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    first = schedule.warmup_steps
    if schedule.decay == "wsd":
        first = max(first, round(schedule.num_steps * (1 - schedule.decay_share)))
    if step < first:
        return 1.0
    progress = (step - first) / max(1, schedule.num_steps - 1 - first)
    if schedule.decay == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1 - (1 - schedule.final_share) * progress
