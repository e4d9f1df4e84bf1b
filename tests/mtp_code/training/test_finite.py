"""What is no number is found at its step, and told with where it came from."""

import functools
from pathlib import Path

import pytest
import torch

from mtp_code.errors import TrainingError
from mtp_code.training.finite import FiniteWatch


class Places:
    def places(self, step: int) -> str:
        return f"step {step}'s rows"


def figures(*by_offset: float) -> dict[str, torch.Tensor]:
    losses = torch.tensor(by_offset)
    return {
        "loss": losses.nansum() if losses[0] == losses[0] else losses[0],
        "loss_by_offset": losses,
    }


def test_numbers_go_by_and_a_loss_that_is_none_is_told_with_step_offset_and_rows():
    watch = FiniteWatch(Path("run"), Places(), steps_late=0)  # type: ignore[arg-type]
    watch.see(1, figures(2.0, 3.0), torch.tensor(1.0))
    watch.see(2, figures(2.0, float("nan")), torch.tensor(1.0))  # an offset that is left out
    with pytest.raises(TrainingError, match=r"\[nan, 3.0\] at step 3 .*rows: step 2's rows$"):
        watch.see(3, figures(float("nan"), 3.0), torch.tensor(1.0))


def test_gradients_that_are_none_are_told_too():
    watch = FiniteWatch(Path("run"), Places(), steps_late=0)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="gradient norm inf"):
        watch.see(1, figures(2.0), torch.tensor(torch.inf))
    watch.settle()


@pytest.mark.parametrize("asks", ["see", "settle"])
def test_a_step_late_it_is_told_with_the_step_where_it_was(asks):
    watch = FiniteWatch(Path("run"), Places(), steps_late=1)  # type: ignore[arg-type]
    watch.see(1, figures(2.0), torch.tensor(1.0))
    watch.see(2, figures(2.0), torch.tensor(torch.nan))
    see = functools.partial(watch.see, 3, figures(2.0), torch.tensor(1.0))
    with pytest.raises(TrainingError, match=r"at step 2 .*: step 1's rows"):
        (see if asks == "see" else watch.settle)()


def test_only_on_a_gpu_it_is_late():
    for device, late in (("cpu", 0), ("cuda", 1)):
        watch = FiniteWatch.on(torch.device(device), Path("run"), Places())  # type: ignore[arg-type]
        for step in (1, 2):
            watch.see(step, figures(2.0), torch.tensor(1.0))
        assert len(watch._pending) == late
