import weakref
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.training.config import ObjectiveConfig
from mtp_code.training.losses.chunked import IGNORED
from mtp_code.training.objective import (
    backward_by_head,
    count_labels,
    labels_for,
    losses_by_offset,
)
from tests.reference import naive_backward

HEADS = ("parallel", "causal", "anticausal", "linear", "sequential")
SEVEN_ROWS_MIB = 50 * 4 * 7 / 2**20
BACKENDS = [
    "chunked",
    pytest.param(
        "torch",
        marks=pytest.mark.skipif(
            not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 brought it"
        ),
    ),
]


def build(num_mtp_heads: int, dtype: torch.dtype = torch.float64, **changes: object) -> MTPModel:
    values = {
        "vocab_size": 50, "width": 24, "num_layers": 5, "num_attn_heads": 4, "num_kv_heads": 2,
        "ffn_width": 40, "context": 64, "num_mtp_heads": num_mtp_heads,
    }  # fmt: skip
    model = build_model(ModelConfig.model_validate(values | changes), seed=0).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)  # answers that depend on what was read
    return model


def rows(num_offsets: int, seed: int = 0, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 30 + num_offsets)
    tokens_BS = torch.randint(0, 50, shape, generator=generator)
    documents_BS = torch.randint(0, 4, shape, generator=generator).sort(-1).values
    documents_BS[-1, 20:] = -1
    return tokens_BS, documents_BS


def gradients(model: MTPModel) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def run(
    model: MTPModel,
    batch: tuple[Tensor, Tensor],
    mask_documents: bool = True,
    weights: tuple[float, ...] | None = None,
    num_parts: int = 1,
    **objective: Any,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a batch, in so many micro-batches."""
    model.zero_grad()
    num_labels_K = count_labels(model.num_mtp_heads, *batch)
    config = ObjectiveConfig.model_validate({"logits_mib": SEVEN_ROWS_MIB} | objective)
    parts = [
        backward_by_head(model, tokens, documents, num_labels_K, mask_documents, config, weights)
        for tokens, documents in zip(*(x.chunk(num_parts) for x in batch), strict=True)
    ]
    return {name: sum(part[name] for part in parts) for name in parts[0]}, gradients(model)


def naive(
    model: MTPModel, batch: tuple[Tensor, Tensor], mask_documents: bool = True, **terms: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    model.zero_grad()
    terms = {"weights": (1.0,) * model.num_mtp_heads} | terms
    figures = naive_backward(model, *batch, mask_documents, **terms)
    return figures, gradients(model)


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative, of the worst parameter."""
    assert found.keys() == expected.keys()
    return max(
        ((found[name].double() - exact).norm() / exact.norm()).item()
        for name, exact in expected.items()
    )


@pytest.mark.parametrize(
    "heads, mask_documents",
    [*((heads, True) for heads in HEADS), ("parallel", False), ("sequential", False)],
)
def test_head_by_head_equals_the_naive_sum(heads, mask_documents):
    """Every architecture × backend × micro-batches × precision, against one graph in fp64."""
    batch = rows(4)
    model = build(4, heads=heads)
    expected_losses, expected = naive(model, batch, mask_documents)
    for loss in ("chunked", "torch") if hasattr(F, "linear_cross_entropy") else ("chunked",):
        for num_parts in (1, 3):
            figures, found = run(model, batch, mask_documents, num_parts=num_parts, loss=loss)
            for offset, exact in enumerate(expected_losses["loss_by_offset"]):
                torch.testing.assert_close(
                    figures["loss_by_offset"][offset], exact.detach(), rtol=1e-12, atol=0
                )
            torch.testing.assert_close(figures["loss"], expected_losses["loss"])
            assert largest_error(found, expected) < 1e-12, (loss, num_parts)
            single = build(4, torch.float32, heads=heads)
            _, found = run(single, batch, mask_documents, num_parts=num_parts, loss=loss)
            assert largest_error(found, expected) < 1e-5, (loss, num_parts)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("changes", [{"tied_embeddings": True}, {"replicated_unembeddings": True}])
@pytest.mark.parametrize("num_mtp_heads", [1, 2])
def test_other_unembeddings_and_fewer_heads_equal_the_naive_sum(heads, changes, num_mtp_heads):
    batch = rows(num_mtp_heads)
    model = build(num_mtp_heads, heads=heads, **changes)
    _, expected = naive(model, batch)
    _, found = run(model, batch)
    assert largest_error(found, expected) < 1e-12


@pytest.mark.parametrize("heads", HEADS)
def test_weights_and_further_losses_equal_the_naive_sum(heads):
    batch = rows(3)
    model = build(3, heads=heads, token_order_unembedding=True)
    weights = (1.0, 0.25, 0.5)
    expected_losses, expected = naive(
        model, batch, weights=weights, distillation=0.7, token_order=(0.3, 6)
    )
    for num_parts in (1, 3):
        figures, found = run(
            model,
            batch,
            weights=weights,
            num_parts=num_parts,
            distillation={"weight": 0.7},
            token_order={"weight": 0.3, "window": 6},
        )
        assert largest_error(found, expected) < 1e-12
        for name in ("loss", "token_order"):
            torch.testing.assert_close(figures[name], expected_losses[name].detach())
        divergence = torch.stack(expected_losses["distillation_by_offset"]).detach()
        torch.testing.assert_close(figures["distillation_by_offset"], divergence)
        assert divergence[0] == 0
        assert (divergence[1:] > 0).all()


@pytest.mark.parametrize("heads", HEADS)
def test_offsets_left_out_cost_and_change_nothing(heads):
    batch = rows(4, count=2)
    model = build(4, heads=heads, replicated_unembeddings=True)
    weights = (1.0, 1.0, 0.0, 0.0)
    _, expected = naive(model, batch, weights=weights)
    ran: list[int] = []
    model.mtp_heads.register_forward_pre_hook(lambda _, inputs: ran.append(inputs[0]))
    figures, found = run(model, batch, weights=weights)
    assert figures["loss_by_offset"].isnan().tolist() == [False, False, True, True]
    assert figures["loss"].isfinite()
    # Heads that nobody needs have no gradient, so no optimizer moves them.
    without = {name: grad for name, grad in expected.items() if grad.any()}
    assert largest_error({name: found[name] for name in without}, without) < 1e-12
    assert not any(grad.any() for name, grad in found.items() if name not in without)
    assert set(ran) == ({1, 2, 3, 4} if heads == "anticausal" else {1, 2})


@pytest.mark.parametrize("heads", HEADS)
def test_one_heads_activations_are_held_at_a_time(heads):
    """What autograd keeps, at its most, does not grow with the number of heads."""
    peaks = {}
    for num_mtp_heads in (2, 6):
        num_layers = {"linear": 2, "sequential": 1 + num_mtp_heads}.get(heads, 2 + num_mtp_heads)
        model = build(num_mtp_heads, heads=heads, num_layers=num_layers)
        peaks[num_mtp_heads] = peak_of_saved_elements(model, rows(num_mtp_heads))
    assert peaks[6] <= 1.02 * peaks[2]


def test_the_measure_of_held_activations_sees_a_naive_sum():
    """Control of the test above."""
    peaks = []
    for num_mtp_heads in (2, 6):
        model = build(num_mtp_heads, num_layers=2 + num_mtp_heads)
        peaks.append(peak_of_saved_elements(model, rows(num_mtp_heads), by_head=False))
    assert peaks[1] > 1.5 * peaks[0]


def peak_of_saved_elements(
    model: MTPModel, batch: tuple[Tensor, Tensor], by_head: bool = True
) -> int:
    alive, peak = 0, 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def forget(size: int) -> None:
        nonlocal alive
        alive -= size

    def pack(tensor: Tensor) -> Saved:
        nonlocal alive, peak
        saved = Saved(tensor)
        alive += tensor.numel()
        peak = max(peak, alive)
        weakref.finalize(saved, forget, tensor.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        if by_head:
            run(model, batch)
        else:
            tokens_BT, documents_BT = (x[:, : -model.num_mtp_heads] for x in batch)
            attending = model.trunk.attend(tokens_BT, documents_BT)
            reading = model.read(tokens_BT, attending)
            sum(reading.states(k).sum() for k in range(1, model.num_mtp_heads + 1)).backward()
    return peak


def test_frozen_parts_get_no_gradient_and_leave_the_others_alone():
    """A trunk that stays as it is while heads are trained on it."""
    batch = rows(3, count=2)
    model = build(3)
    _, expected = run(model, batch)
    model.trunk.requires_grad_(False)
    model.unembedding.requires_grad_(False)
    _, found = run(model, batch)
    assert {name.split(".")[0] for name in found} == {"mtp_heads", "norm"}
    assert largest_error(found, {name: expected[name] for name in found}) < 1e-12


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("loss", BACKENDS)
def test_bf16_stays_near_and_its_losses_are_fp32(heads, loss):
    batch = rows(3)
    _, exact = run(build(3, heads=heads), batch)
    model = build(3, torch.bfloat16, heads=heads)
    figures, found = run(model, batch, loss=loss)
    assert figures["loss_by_offset"].dtype == torch.float32
    assert largest_error(found, exact) < 0.06
    model = build(3, torch.float32, heads=heads)
    with torch.autocast("cpu", torch.bfloat16):
        _, found = run(model, batch, loss=loss)
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert largest_error(found, exact) < 0.06


def test_a_loss_that_is_no_number_is_told_as_such():
    batch, model = rows(3, count=2), build(3)
    with torch.no_grad():
        model.mtp_heads.layers[1].ffn.down.weight[0] = torch.nan
    for objective in ({}, {"distillation": {"weight": 0.5}}):
        figures, _ = run(model, batch, **objective)
        assert figures["loss_by_offset"].isnan().tolist() == [False, True, False]
        assert figures["loss"].isnan()


@pytest.mark.parametrize("heads", HEADS)
def test_under_autocast_all_losses_train_in_bf16(heads):
    """Distillation too, whose teacher's products are those of the student."""
    batch, further = rows(3), {"distillation": {"weight": 0.5}, "token_order": {}}
    changes = {"heads": heads, "token_order_unembedding": True}
    _, exact = run(build(3, **changes), batch, **further)
    with torch.autocast("cpu", torch.bfloat16):
        figures, found = run(build(3, torch.float32, **changes), batch, **further)
    assert {figure.dtype for figure in figures.values()} == {torch.float32}
    assert 1e-4 < largest_error(found, exact) < 0.06


def test_no_label_crosses_a_document_border_and_none_is_lost_at_a_rows_end():
    tokens_BS = torch.arange(9)[None]
    documents_BS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1, -1]])
    assert labels_for(1, tokens_BS, documents_BS, 6).tolist() == [[1, 2, IGNORED, 4, 5, 6]]
    assert labels_for(3, tokens_BS, documents_BS, 6).tolist() == [
        [IGNORED, IGNORED, IGNORED, 6, IGNORED, IGNORED]
    ]


@pytest.mark.parametrize("heads", HEADS)
def test_an_offset_without_any_label_costs_nothing_and_breaks_nothing(heads):
    model = build(2, heads=heads, token_order_unembedding=True)
    tokens_BS = torch.arange(32)[None] % 50
    documents_BS = torch.arange(32)[None] // 2  # two tokens each: offset 2 has no label
    num_labels = count_labels(2, tokens_BS, documents_BS)
    figures, found = run(
        model, (tokens_BS, documents_BS), distillation={"weight": 1}, token_order={}
    )
    assert num_labels.tolist() == [15, 0]
    assert figures["loss_by_offset"].isnan().tolist() == [False, True]
    assert figures["distillation_by_offset"].isnan().tolist() == [False, True]
    assert figures["loss"].isfinite()
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_attention_stays_within_a_document():
    model = build(2)
    tokens_BS, documents_BS = rows(2)
    first = documents_BS == documents_BS[:, :1]
    changed_BS = torch.where(first, tokens_BS, (tokens_BS + 1) % 50)
    ours = model.trunk(tokens_BS, model.trunk.attend(tokens_BS, documents_BS))
    # What a later document says changes nothing in the first, nor the first in a later one.
    theirs = model.trunk(changed_BS, model.trunk.attend(changed_BS, documents_BS))
    torch.testing.assert_close(ours[first], theirs[first])
    swapped_BS = torch.where(first, (tokens_BS + 1) % 50, tokens_BS)
    theirs = model.trunk(swapped_BS, model.trunk.attend(swapped_BS, documents_BS))
    torch.testing.assert_close(ours[~first], theirs[~first])
    # Control: without the border it does.
    open_rows = model.trunk(tokens_BS, model.trunk.attend(tokens_BS))
    assert not torch.allclose(open_rows[~first], ours[~first])


@pytest.mark.parametrize("heads", HEADS)
def test_validation_losses_are_those_that_training_sees(heads):
    model = build(3, heads=heads)
    batch = rows(3)
    figures, _ = run(model, batch)
    sums, counts = losses_by_offset(model, *batch, mask_documents=True)
    assert counts.tolist() == count_labels(3, *batch).tolist()
    torch.testing.assert_close(sums / counts, figures["loss_by_offset"])


def test_an_objective_that_the_model_is_not_made_for_is_refused():
    model = ModelConfig(
        vocab_size=50, width=24, num_layers=5, num_attn_heads=4, ffn_width=40, context=64,
        num_mtp_heads=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"weights\.final has 3 weights .*num_mtp_heads = 2"):
        ObjectiveConfig.model_validate({"weights": {"final": [1, 1, 1]}}).check(model)
    with pytest.raises(ValueError, match="token_order_unembedding = true need each other"):
        ObjectiveConfig.model_validate({"token_order": {}}).check(model)
    alone = model.model_copy(update={"num_mtp_heads": 1})
    for name, values in (("curriculum", {"order": "forward"}), ("distillation", {"weight": 1})):
        objective = ObjectiveConfig.model_validate({name: values})
        objective.check(model)  # control
        with pytest.raises(ValueError, match=rf"{name} is for later heads, .* = 1 has none"):
            objective.check(alone)
    reading_back = model.model_copy(update={"heads": "anticausal"})
    with pytest.raises(ValueError, match="curriculum leaves later heads out, but head 1"):
        ObjectiveConfig.model_validate({"curriculum": {"order": "reverse"}}).check(reading_back)
    with pytest.raises(ValidationError, match="loss"):
        ObjectiveConfig.model_validate({"loss": "chunky"})
