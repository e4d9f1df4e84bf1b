"""Run folders with weights that nobody trained."""

import json
from pathlib import Path

import torch

from mtp_code.checkpoint import TrainingState, save_checkpoint
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel, build_model
from mtp_code.tokenizer import Tokenizer, train_bpe

SMALL = {
    "width": 32,
    "num_layers": 6,
    "num_attn_heads": 4,
    "num_kv_heads": 2,
    "ffn_width": 48,
    "num_mtp_heads": 4,
    "context": 256,
}
TEXTS = (
    "def double(x):\n    return 2 * x\n",
    "<|endoftext|> stays text\n\n  x",
    "",
    '"""é 漢字"""\t\n',
    "a  b   c\n\n\n",
    "'s it's 12345 (a):\r\n",
)


def lively_model(config: ModelConfig, seed: int = 1) -> MTPModel:
    """Untrained, with weights, norms and biases large enough that all of them matter."""
    model = build_model(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def small_bpe() -> Tokenizer:
    return train_bpe(["def double(x):\n    return 2 * x\n" * 9, "hello  world '' it's"], 300)


def write_run(folder: Path, tokenizer: Tokenizer, **shape: object) -> MTPModel:
    """A run folder at step 1 of a recipe with this shape; its model."""
    config = ModelConfig.model_validate({"vocab_size": tokenizer.vocab_size, **SMALL, **shape})
    model = lively_model(config)
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    recipe = {
        "name": "small",
        "tokenizer": {"kind": "bytes"},
        "data": {"sources": {"stdlib": {"kind": "stdlib"}}},
        "model": config.model_dump(mode="json"),
        "optim": {"lr": 1e-3},
        "schedule": {"num_steps": 1},
        "training": {"row_tokens": 8, "rows": 1},
    }
    record = {
        "schema": 1,
        "name": "small",
        "recipe": recipe,
        "model": {
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "num_trunk_layers": config.num_trunk_layers,
            "num_mtp_heads": config.num_mtp_heads,
            "vocab_size": config.vocab_size,
        },
        "versions": {},
        "commit": None,
        "machine": "test",
        "started_at": "2026-01-01T00:00:00Z",
        "num_threads": 1,
        "tokens_sha256": "",
        "finished_at": None,
    }
    (folder / "run.json").write_text(json.dumps(record))
    save_checkpoint(folder, model, [], TrainingState(step=1, num_tokens=8, cpu_s=0, elapsed_s=0), 1)
    return model
