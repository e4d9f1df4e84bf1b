import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.training import objective
from mtp_code.training.objective import (
    IGNORED,
    backward_by_head,
    count_labels,
    labels_for,
    linear_cross_entropy,
    losses_by_offset,
)


def build(num_mtp_heads: int, tied: bool = False) -> MTPModel:
    config = ModelConfig(
        vocab_size=50,
        width=24,
        num_layers=5,
        num_attn_heads=4,
        num_kv_heads=2,
        ffn_width=40,
        num_mtp_heads=num_mtp_heads,
        context=64,
        tied_embeddings=tied,
    )
    return build_model(config, seed=0).double()


def rows(num_offsets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 30 + num_offsets)
    tokens_BS = torch.randint(0, 50, shape, generator=generator)
    documents_BS = torch.randint(0, 4, shape, generator=generator).sort(-1).values
    documents_BS[-1, 20:] = -1
    return tokens_BS, documents_BS


def gradients(model: MTPModel) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def naive_backward(model: MTPModel, tokens_BS: Tensor, documents_BS: Tensor) -> Tensor:
    """All heads' logits at once, mean losses summed, one backward."""
    num_positions = tokens_BS.shape[1] - model.num_mtp_heads
    attending = model.trunk.attend(tokens_BS[:, :num_positions], documents_BS[:, :num_positions])
    hidden_BTD = model.trunk(tokens_BS[:, :num_positions], attending)
    losses = []
    for offset in range(1, model.num_mtp_heads + 1):
        labels_BT = torch.full((tokens_BS.shape[0], num_positions), -100)
        for row in range(tokens_BS.shape[0]):
            for t in range(num_positions):
                if documents_BS[row, t] == documents_BS[row, t + offset] >= 0:
                    labels_BT[row, t] = tokens_BS[row, t + offset]
        logits = model.logits(offset, hidden_BTD, attending)
        losses.append(F.cross_entropy(logits.flatten(0, 1), labels_BT.flatten()))
    torch.stack(losses).sum().backward()
    return torch.stack(losses).detach()


@pytest.mark.parametrize("num_mtp_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_head_by_head_equals_the_naive_sum(num_mtp_heads, tied, monkeypatch):
    monkeypatch.setattr(objective, "LOGITS_BYTES", 50 * 4 * 7)  # seven positions a chunk
    model = build(num_mtp_heads, tied)
    tokens_BS, documents_BS = rows(num_mtp_heads)
    naive_losses = naive_backward(model, tokens_BS, documents_BS)
    naive = gradients(model)
    model.zero_grad()
    num_labels = count_labels(num_mtp_heads, tokens_BS, documents_BS)
    losses = backward_by_head(model, tokens_BS, documents_BS, num_labels, mask_documents=True)
    torch.testing.assert_close(losses, naive_losses, rtol=1e-12, atol=0)
    for name, gradient in gradients(model).items():
        error = (gradient - naive[name]).norm() / naive[name].norm()
        assert error < 1e-12, name


def test_micro_batches_add_up_to_the_whole_batch():
    model = build(3)
    tokens_BS, documents_BS = rows(3)
    num_labels = count_labels(3, tokens_BS, documents_BS)
    backward_by_head(model, tokens_BS, documents_BS, num_labels, mask_documents=True)
    whole = gradients(model)
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 6)):
        backward_by_head(model, tokens_BS[part], documents_BS[part], num_labels, True)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-14)


def test_only_one_chunk_of_logits_is_ever_held(monkeypatch):
    monkeypatch.setattr(objective, "LOGITS_BYTES", 50 * 4 * 7)
    sizes = []
    real = F.log_softmax

    def noted(logits: Tensor, dim: int) -> Tensor:
        sizes.append(logits.shape)
        return real(logits, dim=dim)

    monkeypatch.setattr(objective.F, "log_softmax", noted)
    states = torch.randn(6, 10, 24, requires_grad=True)
    linear_cross_entropy(states, torch.randn(50, 24), torch.randint(0, 50, (6, 10))).backward()
    assert sizes == [(7, 50)] * 8 + [(4, 50)]


def test_no_label_crosses_a_document_border_and_none_is_lost_at_a_rows_end():
    tokens_BS = torch.arange(9)[None]
    documents_BS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1, -1]])
    assert labels_for(1, tokens_BS, documents_BS, 6).tolist() == [[1, 2, IGNORED, 4, 5, 6]]
    assert labels_for(3, tokens_BS, documents_BS, 6).tolist() == [
        [IGNORED, IGNORED, IGNORED, 6, IGNORED, IGNORED]
    ]


def test_an_offset_without_any_label_costs_nothing_and_breaks_nothing():
    model = build(2)
    tokens_BS = torch.arange(32)[None] % 50
    documents_BS = torch.arange(32)[None] // 2  # two tokens each: offset 2 has no label
    num_labels = count_labels(2, tokens_BS, documents_BS)
    losses = backward_by_head(model, tokens_BS, documents_BS, num_labels, mask_documents=True)
    assert num_labels.tolist() == [15, 0]
    assert losses[1] == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


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


def test_validation_losses_are_those_that_training_sees():
    model = build(3)
    tokens_BS, documents_BS = rows(3)
    num_labels = count_labels(3, tokens_BS, documents_BS)
    trained = backward_by_head(model, tokens_BS, documents_BS, num_labels, mask_documents=True)
    sums, counts = losses_by_offset(model, tokens_BS, documents_BS, mask_documents=True)
    assert counts.tolist() == num_labels.tolist()
    torch.testing.assert_close(sums / counts, trained)
