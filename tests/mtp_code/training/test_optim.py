import torch

from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.training.config import OptimConfig
from mtp_code.training.optim import build_optimizers, orthogonalised


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
