"""A round never asks the device for a number, and computes nothing elsewhere."""

from typing import Any, get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtp_code.decoding.draft import build_drafter
from mtp_code.decoding.state import DecodeState
from mtp_code.decoding.step import Plan, advance, draft
from mtp_code.decoding.tree import Tree, tensors_of
from mtp_code.model.attention import attend_cached
from mtp_code.model.config import HeadsKind
from mtp_code.model.heads import parallel
from mtp_code.model.mtp import MTPModel, build_model

ELSEWHERE = torch.device("meta")
"""Stands in for a GPU: a device whose numbers cannot be had at all, with shapes and formats."""

TREE = Tree.product((2, 2))

PLANS = {
    "plain": Plan(0, window=1, end=64),
    "in line": Plan(3, window=6, end=64, start=12),
    "greedy": Plan(3, window=6, end=64),
    "sampled": Plan(3, window=6, end=64, is_greedy=False),
    "cut": Plan(3, window=6, end=64, is_greedy=False, is_cut=True),
    "log-probabilities": Plan(2, window=4, end=64, num_logprobs=3),
    "tree": Plan(2, window=4, end=64, tree=TREE),
    "sampled tree": Plan(2, window=4, end=64, is_greedy=False, tree=TREE, num_logprobs=2),
    "one shape": Plan(1, window=2, end=128, width=4),
}


class Watching(TorchDispatchMode):
    """Notes what asks for a number, and what has a tensor of the host's among what it takes or
    makes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.asked.append(str(func))
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, torch.Tensor)]
        if any(tensor.device != ELSEWHERE for tensor in tensors):
            self.on_host.append(str(func))
        return made


@pytest.fixture(scope="module", params=get_args(HeadsKind))
def model(request, small_config) -> MTPModel:
    config = small_config.model_copy(update={"heads": request.param})
    return build_model(config, seed=1).eval().requires_grad_(False).to(ELSEWHERE, torch.bfloat16)


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()  # inference mode would hide what composite operators are made of
def test_a_round_stays_on_its_device(model, name, monkeypatch):
    plan = PLANS[name]
    drafter = build_drafter(model, 3)
    if plan.tree is not None:
        if not drafter.can_branch:
            pytest.skip("no trees of sequential heads")
        tensors_of(plan.tree, ELSEWHERE)  # made once, before it is recorded
    state = DecodeState(model, 3, 48, 3)
    # Made on the host first, which the stand-in does not show.
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("numbers of the host's"))
    with Watching() as watching:
        outcome = advance(model, drafter, state, plan)
    monkeypatch.undo()
    assert watching.asked == []
    assert watching.on_host == []
    assert outcome.targets_BT.shape == (3, plan.num_drafts + 1)
    assert all(x.device == ELSEWHERE for x in tree_leaves(outcome) if x is not None)
    assert state.hidden_BCD.dtype is torch.bfloat16


def test_what_asks_for_a_number_or_computes_on_the_host_is_noticed():
    number_B = torch.ones(3, device=ELSEWHERE)
    with Watching() as watching, pytest.raises(RuntimeError):
        number_B[0].item()
    assert watching.asked == ["aten._local_scalar_dense.default"]
    for work in (
        lambda: torch.arange(3),
        lambda: number_B + torch.tensor(1.0),
    ):
        with Watching() as watching:
            work()
        assert watching.on_host


class Copying(TorchDispatchMode):
    """Notes how many numbers each copy has that makes a view contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.clone.default:
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_live, num_calls", [(1, 1), (3, 3), (4, 1)])
@torch.no_grad()  # inference mode would hide what composite operators are made of
def test_heads_copy_no_cache_however_many_of_its_rows_are_live(
    small_config, num_live, num_calls, monkeypatch
):
    """And attend all at once where the rows of all of them are one axis without a copy."""
    calls = []

    def noted(*args: Any) -> torch.Tensor:
        calls.append(args)
        return attend_cached(*args)

    monkeypatch.setattr(parallel, "attend_cached", noted)
    model = build_model(small_config, seed=1).eval().requires_grad_(False)
    state = DecodeState(model, 4, 48, 3)
    with Copying() as copying:
        draft(model, build_drafter(model, 3), state.rows(0, num_live), Plan(3, window=6, end=200))
    held = state.cache.keys_LBHCd[0, :num_live, :, :200]
    assert max(copying.sizes) < held.numel()
    assert len(calls) == num_calls
