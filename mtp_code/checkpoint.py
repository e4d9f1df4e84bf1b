"""Checkpoints: a folder each under `checkpoints/`, whole or absent, in safetensors.

`model.safetensors` is the weights by parameter name, `optimizer.safetensors` the optimizers' state
by parameter number, `state.json` where the run stood and the checksums of both.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from mtp_code.config import Strict
from mtp_code.errors import CheckpointError
from mtp_code.files import whole_folder
from mtp_code.model.low_rank import merged
from mtp_code.model.mtp import MTPModel

CHECKPOINTS_DIR = "checkpoints"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


class TrainingState(Strict):
    """Where a run stands after `step` steps."""

    schema_: int = 1
    step: int
    num_tokens: int
    """Input positions seen."""
    cpu_s: float
    elapsed_s: float


def checkpoint_path(run_dir: Path, step: int) -> Path:
    return run_dir / CHECKPOINTS_DIR / f"step-{step:08d}"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The run's newest whole checkpoint, or None."""
    folder = run_dir / CHECKPOINTS_DIR
    if not folder.is_dir():
        return None
    names = [path for path in folder.iterdir() if re.fullmatch(r"step-\d+", path.name)]
    return max(names, default=None)


def save_checkpoint(
    run_dir: Path,
    model: MTPModel,
    optimizers: Sequence[Optimizer],
    state: TrainingState,
    keep_last: int,
) -> Path:
    """Writes a checkpoint, then removes all but the newest `keep_last`."""
    path = checkpoint_path(run_dir, state.step)
    if not path.exists():
        _write(path, _weights(model), _optimizer_tensors(optimizers), state)
    for old in sorted(path.parent.glob("step-*"))[:-keep_last]:
        shutil.rmtree(old)
    return path


def save_weights(run_dir: Path, weights: Mapping[str, Tensor]) -> Path:
    """Writes weights by parameter name as a checkpoint of step 0, without an optimizer."""
    state = TrainingState(step=0, num_tokens=0, cpu_s=0, elapsed_s=0)
    path = checkpoint_path(run_dir, state.step)
    _write(path, weights, {}, state)
    return path


def load_weights(path: Path, model: MTPModel) -> str:
    """Reads a checkpoint's weights into a model of the same shape; returns their checksum.

    Raises:
        CheckpointError: missing, damaged, or of another model.
    """
    _, sums = _read_state(path)
    _check_sum(path, MODEL_FILE, sums)
    _load_into(path / MODEL_FILE, _weights(model))
    return sums[MODEL_FILE]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's weights by parameter name, in the precision they have there; their checksum.

    Low-rank additions are in them.

    Raises:
        CheckpointError: missing or damaged.
    """
    _, sums = _read_state(path)
    _check_sum(path, MODEL_FILE, sums)
    return merged(_read_tensors(path / MODEL_FILE)), sums[MODEL_FILE]


def load_state(path: Path, optimizers: Sequence[Optimizer]) -> TrainingState:
    """Reads optimizer state and progress; the optimizers belong to a model already loaded.

    Raises:
        CheckpointError: missing, damaged, or of another model or optimizer.
    """
    training_state, sums = _read_state(path)
    _check_sum(path, OPTIMIZER_FILE, sums)
    tensors = _read_tensors(path / OPTIMIZER_FILE)
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            owner, parameter, key = name.split(".")
            if int(owner) == number:
                state.setdefault(int(parameter), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return training_state


def _write(
    path: Path,
    weights: Mapping[str, Tensor],
    optimizer_tensors: Mapping[str, Tensor],
    state: TrainingState,
) -> None:
    with whole_folder(path) as folder:
        save_file(dict(weights), folder / MODEL_FILE)
        save_file(dict(optimizer_tensors), folder / OPTIMIZER_FILE)
        sums = {name: _sha256(folder / name) for name in (MODEL_FILE, OPTIMIZER_FILE)}
        record = {"schema": 1, **state.model_dump(), "sha256": sums}
        (folder / STATE_FILE).write_text(json.dumps(record, indent=2) + "\n")


def _read_state(path: Path) -> tuple[TrainingState, dict[str, str]]:
    """Where the run stood, and the checksums of the checkpoint's other files."""
    try:
        record = json.loads((path / STATE_FILE).read_text())
        sums = {name: str(record["sha256"][name]) for name in (MODEL_FILE, OPTIMIZER_FILE)}
        fields = {name: record[name] for name in TrainingState.model_fields}
        return TrainingState.model_validate(fields), sums
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / STATE_FILE}: no checkpoint's state: {error}") from None


def _check_sum(path: Path, name: str, sums: dict[str, str]) -> None:
    try:
        found = _sha256(path / name)
    except OSError as error:
        raise CheckpointError(f"{path / name}: cannot be read: {error.strerror}") from None
    if found != sums[name]:
        raise CheckpointError(
            f"{path / name}: changed since it was written; remove {path} to go on from the "
            "checkpoint before it"
        )


def _weights(model: MTPModel) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{number}.{parameter}.{key}": tensor
        for number, optimizer in enumerate(optimizers)
        for parameter, entry in optimizer.state_dict()["state"].items()
        for key, tensor in entry.items()
    }


def _load_into(file: Path, parameters: dict[str, Tensor]) -> None:
    tensors = _read_tensors(file)
    if parameters.keys() != tensors.keys():  # low-rank additions, which a run trains apart
        tensors = merged(tensors)
    if missing := sorted(parameters.keys() ^ tensors.keys()):
        raise CheckpointError(f"{file}: holds another model's weights (differs in {missing[0]})")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise CheckpointError(
                f"{file}: {name} is {tuple(tensors[name].shape)}, the model's is "
                f"{tuple(parameter.shape)}; load it with the recipe it was trained with"
            )
        parameter.copy_(tensors[name])


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
