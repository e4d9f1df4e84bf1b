"""A model to decode with, from whatever folder holds one: a run, or a model of others."""

import hashlib
import json
from pathlib import Path

import torch

from mtp_code.model.accounting import count_parameters
from mtp_code.model.mtp import MTPModel
from mtp_code.run_folder import RUN_FILE, TrainedModel, described_shape, load_run


def load_model(folder: Path) -> TrainedModel:
    """A run's newest checkpoint, or a model in transformers' format as `import` would take it.

    A folder of `export` brings all its heads; another brings head 1. Pickles are not read: they
    want `mtp-code import --allow-pickle`.

    Raises:
        CheckpointError: the folder is neither, or a run without a whole checkpoint.
        InteropError: something about the model is not supported, or missing, or damaged; or the
            folder holds models in folders.
        TokenizerError: there is no tokenizer, or it is another model's.
    """
    if (folder / RUN_FILE).exists():
        return load_run(folder)
    # Brings the hub's client along, which runs have no use for.
    from mtp_code.interop.hugging_face import is_foreign, read_model, refuse_several

    if not is_foreign(folder):
        if folder.is_dir():
            refuse_several(folder, str(folder))
        return load_run(folder)  # says what it lacks
    found = read_model(folder)
    model = MTPModel(found.config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(found.weights.pop(name))
    model.eval().requires_grad_(False)
    sums = json.dumps(found.sha256, sort_keys=True).encode()
    description = {
        "model": folder.resolve().name,
        "architecture": found.architecture,
        "sha256": hashlib.sha256(sums).hexdigest(),
        **described_shape(found.config, count_parameters(found.config).total),
    }
    return TrainedModel(model, found.tokenizer, description)
