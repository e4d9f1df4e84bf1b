import pytest
import torch

from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.tokenizer import BytesTokenizer, Tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return BytesTokenizer()


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    return ModelConfig(
        vocab_size=257,
        width=32,
        num_layers=6,
        num_attn_heads=4,
        num_kv_heads=2,
        ffn_width=48,
        num_mtp_heads=4,
        context=256,
    )


@pytest.fixture(scope="session")
def small_model(small_config: ModelConfig) -> MTPModel:
    """Untrained, with weights large enough that its answers depend on what it read."""
    model = build_model(small_config, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return model.eval().requires_grad_(False)
