import torch

from mtp_code.model.config import ModelConfig
from mtp_code.model.layers import Attention, FeedForward
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.training.config import OptimConfig
from mtp_code.training.optim import Muon, build_optimizers, orthogonalised


def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values():
    torch.manual_seed(0)
    for shape in ((3, 16, 48), (2, 48, 16), (1, 20, 20)):
        matrices = torch.randn(shape, dtype=torch.float64)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        inner = left.mT @ orthogonalised(matrices) @ right.mT
        values = inner.diagonal(dim1=-2, dim2=-1)
        assert ((values > 0.6) & (values < 1.3)).all()
        torch.testing.assert_close(inner, torch.diag_embed(values), atol=1e-6, rtol=0)


def model() -> MTPModel:
    config = ModelConfig(
        vocab_size=30, width=16, num_layers=3, num_attn_heads=2, ffn_width=24,
        num_mtp_heads=2, context=16, tied_embeddings=False,
    )  # fmt: skip
    return build_model(config, seed=0)


def test_every_parameter_has_exactly_one_optimizer():
    for kind in ("adamw", "muon"):
        built = model()
        optimizers = build_optimizers(built, OptimConfig(kind=kind, lr=1e-3))
        owned = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(map(id, owned)) == sorted(map(id, built.parameters()))


def test_both_kinds_learn_a_fixed_batch():
    tokens = torch.randint(0, 30, (4, 12), generator=torch.Generator().manual_seed(0))
    for kind in ("adamw", "muon"):
        built = model()
        optimizers = build_optimizers(built, OptimConfig(kind=kind, lr=1e-2, weight_decay=0))
        losses = []
        for _ in range(60):
            logits_BTV = built(tokens[:, :-1])[0]
            loss = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), tokens[:, 1:].flatten()
            )
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0]


def test_matrices_in_one_parameter_are_orthogonalised_each_for_itself():
    """As if queries, keys, values, gate and up were parameters of their own."""
    built, fused = model(), {}
    for module in built.modules():
        if isinstance(module, Attention):
            fused[module.qkv.weight] = 3
        elif isinstance(module, FeedForward):
            fused[module.gate_up.weight] = 2
    before = {parameter: parameter.detach().clone() for parameter in fused}
    for parameter in built.parameters():
        parameter.grad = torch.randn_like(parameter)
    config = OptimConfig(kind="muon", lr=1e-3, muon_lr=0.1, weight_decay=0)
    for optimizer in build_optimizers(built, config):
        optimizer.step()
    assert len(fused) == 2 * 3
    for parameter, num_parts in fused.items():
        changes = (parameter.detach() - before[parameter]).chunk(num_parts)
        for change, gradient in zip(changes, parameter.grad.chunk(num_parts), strict=True):
            alone = torch.nn.Parameter(torch.zeros_like(gradient))
            alone.grad = gradient.clone()
            Muon([alone], 0.1, 0.95, 0).step()
            torch.testing.assert_close(change, alone.detach(), rtol=1e-4, atol=1e-6)
