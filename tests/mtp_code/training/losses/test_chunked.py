import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mtp_code.training.losses import chunked
from mtp_code.training.losses.chunked import (
    IGNORED,
    Labels,
    Rows,
    chunked_backward,
    chunked_loss,
    loss_and_gradient_of_logits,
)
from mtp_code.training.losses.distillation import Teacher
from mtp_code.training.losses.token_order import TokenOrder

VOCAB_SIZE, WIDTH = 50, 24
SEVEN_ROWS = VOCAB_SIZE * 4 * 7


def problem(rows: int = 6, positions: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """States (N, D), unembedding (V, D) and labels (N,), some of them ignored."""
    generator = torch.Generator().manual_seed(0)
    states_ND = torch.randn(rows * positions, WIDTH, generator=generator, dtype=torch.float64)
    weight_VD = torch.randn(VOCAB_SIZE, WIDTH, generator=generator, dtype=torch.float64)
    labels_N = torch.randint(0, VOCAB_SIZE, (rows * positions,), generator=generator)
    labels_N[::3] = IGNORED
    return states_ND, weight_VD, labels_N


def by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """All positions, known or not, as on a GPU."""

    def all_rows(known_N: Tensor, num_rows: int) -> Iterator[Rows]:
        for start in range(0, len(known_N), num_rows):
            yield slice(start, min(start + num_rows, len(known_N)))

    for module in ("chunked", "distillation", "token_order"):
        monkeypatch.setattr(f"mtp_code.training.losses.{module}.chunks_of", all_rows)


def targets() -> dict[str, Any]:
    states_ND, weight_VD, labels_N = problem()
    tokens_BT = labels_N.clamp(min=0).view(6, 10)
    tokens_BS = torch.cat((tokens_BT, tokens_BT[:, :2]), dim=1)
    documents_BS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, -1]]).expand(6, -1)
    teacher_BTD = states_ND.view(6, 10, WIDTH).flip(0)
    return {
        "labels": Labels(labels_N),
        "teacher": Teacher(
            3, teacher_BTD, weight_VD, labels_N.view(6, 10) != IGNORED, torch.float64
        ),
        "order": TokenOrder(4, tokens_BS, documents_BS, num_positions=10),
    }


def test_labels_cost_what_torch_says():
    states_ND, weight_VD, labels_N = problem()
    states_ND.requires_grad_()
    weight_VD.requires_grad_()
    expected = F.cross_entropy(
        states_ND @ weight_VD.T, labels_N, ignore_index=IGNORED, reduction="sum"
    )
    (expected * 0.25).backward()
    weight_grad_VD = torch.ones_like(weight_VD)  # what was there stays
    loss, states_grad_ND = chunked_backward(
        states_ND.detach(), weight_VD, weight_grad_VD, Labels(labels_N), 0.25, SEVEN_ROWS
    )
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(states_grad_ND, states_ND.grad)
    torch.testing.assert_close(weight_grad_VD - 1, weight_VD.grad)
    alone = chunked_loss(states_ND.detach(), weight_VD, Labels(labels_N), SEVEN_ROWS)
    assert torch.equal(alone, loss)


@pytest.mark.parametrize("name", ["labels", "teacher", "order"])
def test_all_positions_in_slices_give_the_same_as_the_known_ones(name, monkeypatch):
    states_ND, weight_VD, _ = problem()
    found = []
    for sliced in (False, True):
        if sliced:
            by_slices(monkeypatch)
        weight_grad_VD = torch.zeros_like(weight_VD)
        target = targets()[name]
        loss, grad_ND = chunked_backward(
            states_ND, weight_VD, weight_grad_VD, target, 0.5, SEVEN_ROWS
        )
        found.append((loss, grad_ND, weight_grad_VD))
    for ours, theirs in zip(*found, strict=True):
        assert ours.any()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["labels", "teacher", "order"])
def test_gradients_are_those_of_the_loss(name):
    """Against differences of the loss itself."""
    states_ND, weight_VD, _ = problem()
    target = targets()[name]
    weight_grad_VD = torch.zeros_like(weight_VD)
    _, states_grad_ND = chunked_backward(
        states_ND, weight_VD, weight_grad_VD, target, 1.0, SEVEN_ROWS
    )
    generator = torch.Generator().manual_seed(1)
    for values, grad in ((states_ND, states_grad_ND), (weight_VD, weight_grad_VD)):
        step = torch.randn(values.shape, generator=generator, dtype=torch.float64) * 1e-5
        ends = []
        for sign in (1, -1):
            moved = {id(values): values + sign * step}
            ends.append(
                chunked_loss(
                    moved.get(id(states_ND), states_ND),
                    moved.get(id(weight_VD), weight_VD),
                    target,
                    SEVEN_ROWS,
                )
            )
        slope = (grad * step).sum() * 2
        torch.testing.assert_close(ends[0] - ends[1], slope, rtol=1e-6, atol=1e-9)


def peak_of_held_bytes(run: Callable[[], object], at_least: int) -> int:
    """Bytes of all storages so large, made in a run, that were there at once."""
    held: dict[int, int] = {}
    peak = 0

    class Held(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal peak
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                inputs = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
                is_new = storage.data_ptr() not in inputs
                if is_new and storage.nbytes() >= at_least:
                    held[storage.data_ptr()] = storage.nbytes()
                    weakref.finalize(storage, held.pop, storage.data_ptr())
            peak = max(peak, sum(held.values()))
            return result

    with Held():
        run()
    return peak


def test_only_one_chunk_of_logits_is_ever_held():
    """And its log-probabilities, for the moment that they are computed from them."""
    states_ND, weight_VD, labels_N = problem(rows=2)
    weight_VD = weight_VD.repeat(20, 1)
    chunk_bytes = 5 * 1000 * 8

    def backward(target: Labels) -> Callable[[], object]:
        return lambda: chunked_backward(states_ND, weight_VD, None, target, 1.0, 5 * 1000 * 4)

    assert peak_of_held_bytes(backward(Labels(labels_N)), chunk_bytes // 2) == 2 * chunk_bytes

    class Keeping(Labels):
        def loss_and_gradient(
            self, states_RD: Tensor, weight_VD: Tensor, rows: Rows
        ) -> tuple[Tensor, Tensor]:
            loss, gradient_RV = super().loss_and_gradient(states_RD, weight_VD, rows)
            kept.append(gradient_RV)
            return loss, gradient_RV

    kept: list[Tensor] = []  # control: what is kept is seen
    assert peak_of_held_bytes(backward(Keeping(labels_N)), chunk_bytes // 2) > 2 * chunk_bytes


@pytest.mark.parametrize("name", ["labels", "teacher"])
def test_under_autocast_all_products_are_in_bf16_and_the_results_in_fp32(name):
    states_ND, weight_VD, labels_N = problem()
    states_ND, weight_VD = states_ND.float(), weight_VD.float()
    products: list[tuple[torch.dtype, ...]] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function is torch.ops.aten.mm.default:
                products.append(tuple(x.dtype for x in args))
            return function(*args, **(kwargs or {}))

    target: Any = Labels(labels_N)
    if name == "teacher":
        known_BT = labels_N.view(6, 10) != IGNORED
        teacher_BTD = states_ND.view(6, 10, WIDTH)
        target = Teacher(2, teacher_BTD, weight_VD, known_BT, torch.bfloat16)
    weight_grad_VD = torch.zeros_like(weight_VD)
    with torch.autocast("cpu", torch.bfloat16), Noted():
        loss, grad_ND = chunked_backward(
            states_ND, weight_VD, weight_grad_VD, target, 1.0, SEVEN_ROWS
        )
        chunked_loss(states_ND, weight_VD, target, SEVEN_ROWS)
    assert set(products) == {(torch.bfloat16, torch.bfloat16)}
    assert loss.dtype == grad_ND.dtype == torch.float32
    assert weight_grad_VD.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_second_matrix_of_the_vocabularys_size_is_made(dtype):
    """With weights in fp32; states in bf16 need the weights in bf16 beside them, once."""
    states_ND, weight_VD, labels_N = problem(rows=2)
    weight_VD = weight_VD.float().repeat(20, 1)
    made: list[tuple[int, torch.dtype]] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            inputs = {x.data_ptr() for x in args if isinstance(x, Tensor)}
            if isinstance(result, Tensor) and result.data_ptr() not in inputs:
                made.append((result.numel(), result.dtype))
            return result

    weight_grad_VD = torch.zeros_like(weight_VD)
    with Noted():
        chunked_backward(
            states_ND.to(dtype), weight_VD, weight_grad_VD, Labels(labels_N), 1.0, 1000 * 4 * 5
        )
    assert weight_grad_VD.any()
    large = [kind for size, kind in made if size >= weight_VD.numel()]
    assert large == ([] if dtype == torch.float32 else [torch.bfloat16])
    assert max(size for size, _ in made) >= 5 * 1000  # control: a chunk's logits are seen


def test_sums_over_many_chunks_keep_fp32_under_states_in_bf16():
    """Added up in bf16, small gradients would be lost beside the sum of those before."""
    states_ND, weight_VD, labels_N = problem(rows=100)
    states, weight = states_ND.bfloat16(), weight_VD.bfloat16().float()
    exact = torch.zeros_like(weight_VD)
    chunked_backward(states.double(), weight.double(), exact, Labels(labels_N), 1.0, SEVEN_ROWS)
    errors = []
    for rows in (1, 1000):
        summed = torch.zeros_like(weight)
        chunked_backward(states, weight, summed, Labels(labels_N), 1.0, VOCAB_SIZE * 4 * rows)
        errors.append(((summed - exact).norm() / exact.norm()).item())
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_give_torchs_loss_and_gradient_in_their_own_type(dtype):
    """What is compiled on a GPU; rows without a label give nothing."""
    states_ND, weight_VD, labels_N = problem()
    logits_RV = (states_ND @ weight_VD.T).to(dtype)
    wide_RV = logits_RV.double().requires_grad_()
    expected = F.cross_entropy(wide_RV, labels_N, ignore_index=IGNORED, reduction="sum")
    expected.backward()
    loss, gradient_RV = loss_and_gradient_of_logits(logits_RV, labels_N[:, None])
    assert (loss.dtype, gradient_RV.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=0)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(gradient_RV.double(), wide_RV.grad, rtol=tolerance, atol=1e-6)
    assert not gradient_RV[labels_N == IGNORED].any()


@pytest.mark.thorough
def test_compiled_it_gives_the_same():
    """By the compiler of a CPU; kernels for a GPU are made on one."""
    states_ND, weight_VD, labels_N = problem()
    logits_RV = (states_ND @ weight_VD.T).bfloat16()
    compiled = torch.compile(loss_and_gradient_of_logits)
    for rows in (slice(0, 40), slice(40, 60)):  # the last chunk has fewer
        for ours, theirs in zip(
            loss_and_gradient_of_logits(logits_RV[rows], labels_N[rows, None]),
            compiled(logits_RV[rows], labels_N[rows, None]),
            strict=True,
        ):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "add, is_exact",
    [
        (lambda total, left, right: total + left.float() @ right.float() / 2, True),
        (lambda total, left, right: (total.bfloat16() + left @ right / 2).float(), False),
        (lambda total, left, right: (total + left.float() @ right.float() / 2).bfloat16(), False),
        (lambda total, left, right: total + left.float() @ right.float(), False),  # not scaled
    ],
)
def test_a_kernel_that_rounds_sums_is_not_taken(add, is_exact, monkeypatch):
    """Adding a product in place in a wider type is a kernel of GPUs; what it answers is tried."""

    def addmm(total, left, right, *, alpha, out_dtype, out):
        assert (alpha, out_dtype) == (0.5, torch.float32)
        assert left.dtype == right.dtype == torch.bfloat16
        out.copy_(add(total, left, right))

    monkeypatch.setattr(torch, "addmm", addmm)
    chunked._adds_to_fp32.cache_clear()
    assert chunked._adds_to_fp32(torch.device("cpu"), torch.bfloat16) == is_exact
    chunked._adds_to_fp32.cache_clear()


def test_on_a_gpu_the_gradient_by_the_logits_is_rounded_once(monkeypatch):
    """Both products take what the loss wrote in their own type."""
    by_slices(monkeypatch)
    states_ND, weight_VD, labels_N = problem()
    rounded: list[Tensor] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten._to_copy.default and result.dtype == torch.bfloat16:
                rounded.append(result)
            return result

    weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
    target = Labels(labels_N)
    narrow = (states_ND.bfloat16(), weight_VD.bfloat16(), weight_grad_VD)
    with Noted():
        chunked_backward(*narrow, target, 1.0, VOCAB_SIZE * 4 * 20)
    assert [tuple(each.shape) for each in rounded] == [(20, VOCAB_SIZE)] * 3
