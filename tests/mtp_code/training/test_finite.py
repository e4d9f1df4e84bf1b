"""What is no number is found at its step, and told with where it came from."""

from pathlib import Path

import pytest
import torch

from mtp_code.errors import TrainingError
from mtp_code.training.finite import FiniteWatch


class Places:
    def places(self, step: int) -> str:
        return f"tokens texts row {4 * step} to {4 * step + 3}"


def figures(*by_offset: float) -> dict[str, torch.Tensor]:
    losses = torch.tensor(by_offset)
    return {
        "loss": losses.nansum() if losses[0] == losses[0] else losses[0],
        "loss_by_offset": losses,
    }


def test_numbers_go_by_and_a_loss_that_is_none_is_told_with_step_offset_and_rows():
    watch = FiniteWatch(Path("run"), Places())  # type: ignore[arg-type]
    watch.see(1, figures(2.0, 3.0), torch.tensor(1.0))
    watch.see(2, figures(2.0, float("nan")), torch.tensor(1.0))  # an offset that is left out
    with pytest.raises(TrainingError, match=r"\[nan, 3.0\] at step 3 .* texts row 8 to 11; the la"):
        watch.see(3, figures(float("nan"), 3.0), torch.tensor(1.0))


def test_gradients_that_are_none_are_told_too():
    watch = FiniteWatch(Path("run"), Places())  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="gradient norm inf"):
        watch.see(1, figures(2.0), torch.tensor(torch.inf))
    watch.settle()
