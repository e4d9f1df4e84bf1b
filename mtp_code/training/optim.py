"""AdamW, and Muon for the matrices inside the layers."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from mtp_code.model.mtp import MTPModel
from mtp_code.processes import is_sharded, placed_like, whole_tensor
from mtp_code.training.config import OptimConfig


def build_optimizers(model: MTPModel, config: OptimConfig) -> list[Optimizer]:
    """One optimizer for each update rule; every group keeps its peak rate as `peak_lr`."""
    trained = [p for p in model.parameters() if p.requires_grad]
    outer = {p for p in model.vocabulary_weights() if p.requires_grad}
    vectors = [p for p in trained if p.dim() < 2]
    matrices = [p for p in trained if p.dim() >= 2 and p not in outer]
    decayed = list(outer) if config.kind == "muon" else [*outer, *matrices]
    # In the model's own order, which a checkpoint's state relies on.
    decayed = [p for p in trained if any(p is d for d in decayed)]
    optimizers: list[Optimizer] = [
        AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            # In one pass over each matrix, without temporaries of its size.
            fused=True,
        )
    ]
    if config.kind == "muon":
        optimizers.append(Muon(matrices, config.muon_lr, config.momentum, config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


class Muon(Optimizer):
    """Momentum whose update is orthogonalised, in the parameters' own precision.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
    update's scale, sqrt(max(1, rows / columns)), is that text's too.

    torch's own orthogonalises in bf16, which CPUs emulate.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                # Sharded ones are gathered for it: one at a time, so that they never lie whole
                # beside each other.
                num_together = 1 if is_sharded(parameters[0]) else len(parameters)
                for first in range(0, len(parameters), num_together):
                    self._step_together(parameters[first : first + num_together], group)

    def _step_together(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised in one batch."""
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient = parameter.grad
            assert gradient is not None
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            update = torch.lerp(gradient, state["momentum"], group["momentum"])
            updates.append(whole_tensor(update))  # a shard alone has other singular vectors
        scale = max(1.0, parameters[0].shape[0] / parameters[0].shape[1]) ** 0.5
        for parameter, update in zip(parameters, orthogonalised(torch.stack(updates)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(placed_like(update, parameter), alpha=-group["lr"] * scale)


def orthogonalised(matrices_BRC: Tensor, num_steps: int = 5) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1 (about 0.7 to 1.2).

    A quintic Newton-Schulz iteration with Jordan et al.'s coefficients.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x: Tensor = matrices_BRC
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
