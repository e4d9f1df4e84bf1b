"""Checkpoints: a folder each under `checkpoints/`, whole or absent, in safetensors.

`state.json` says where the run stood and holds the checksums of the other files. Those of a model
that one process holds are `model.safetensors`, the weights by parameter name, and
`optimizer.safetensors`, the optimizers' state by parameter number. Those of a sharded model are in
the folders `model/` and `optimizer/`, a file for each process, written by torch's distributed
checkpoint: each process writes what it has, at its disk's speed, and none needs room for the whole
(13 billion parameters with AdamW's state are 156 GB). Both are read by any number of processes, and
neither holds anything but numbers: no pickle.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from mtp_code.config import Strict
from mtp_code.errors import CheckpointError
from mtp_code.files import as_os_error, sync, whole_folder
from mtp_code.model.low_rank import merged
from mtp_code.model.mtp import MTPModel
from mtp_code.processes import ALONE, World, is_sharded, placed_like

CHECKPOINTS_DIR = "checkpoints"
MODEL_FILE, OPTIMIZER_FILE = "model.safetensors", "optimizer.safetensors"
MODEL_DIR, OPTIMIZER_DIR = "model", "optimizer"
STATE_FILE = "state.json"

Losses = float | None | list[float | None]


class TrainingState(Strict):
    """Where a run stands after `step` steps."""

    schema_: int = 1
    step: int
    num_tokens: int
    """Input positions seen."""
    cpu_s: float
    elapsed_s: float
    window: tuple[dict[str, Losses], ...] = ()
    """Figures of the steps since the last logged one, None for NaN: a run may be asked to end
    between two."""


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
    world: World = ALONE,
) -> Path:
    """Writes a checkpoint, then removes all but the newest `keep_last`. Called by all processes.

    Raises:
        OSError: the disk is full, or the like; older checkpoints stand.
    """
    path = checkpoint_path(run_dir, state.step)
    if not world.from_lead(path.exists):
        weights, optimizer_state = _weights(model), _optimizer_tensors(optimizers)
        if any(is_sharded(tensor) for tensor in weights.values()):
            _save_sharded(path, weights, optimizer_state, state, world)
        else:
            world.from_lead(lambda: _save_whole(path, weights, optimizer_state, state))
    world.from_lead(lambda: _remove_old(path.parent, keep_last))
    return path


def save_weights(run_dir: Path, weights: Mapping[str, Tensor]) -> Path:
    """Writes weights by parameter name as a checkpoint of step 0, without an optimizer."""
    state = TrainingState(step=0, num_tokens=0, cpu_s=0, elapsed_s=0)
    path = checkpoint_path(run_dir, state.step)
    _save_whole(path, weights, {}, state)
    return path


def _save_whole(
    path: Path,
    weights: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Tensor],
    state: TrainingState,
) -> None:
    with whole_folder(path) as folder:
        for name, tensors in ((MODEL_FILE, weights), (OPTIMIZER_FILE, optimizer_state)):
            try:
                save_file(dict(tensors), folder / name)
            except safetensors.SafetensorError as error:
                raise as_os_error(error, path) from None
        sums = {name: _sha256(folder / name) for name in (MODEL_FILE, OPTIMIZER_FILE)}
        _write_state(folder, state, sums)


def _save_sharded(
    path: Path,
    weights: dict[str, Tensor],
    optimizer_state: dict[str, Tensor],
    state: TrainingState,
    world: World,
) -> None:
    with contextlib.ExitStack() as stack:  # on the lead, it removes what was not finished
        folder = world.from_lead(lambda: stack.enter_context(whole_folder(path)))
        sums: dict[str, str] = {}
        for name, tensors in ((MODEL_DIR, weights), (OPTIMIZER_DIR, optimizer_state)):
            sums |= _write_shards(folder, name, tensors, path, world)
        world.from_lead(lambda: _write_state(folder, state, sums))
        world.from_lead(stack.close)


def _write_shards(
    folder: Path, name: str, tensors: dict[str, Tensor], path: Path, world: World
) -> dict[str, str]:
    """The checksums of all processes' files."""
    # A tensor of no dimensions is none that can be read in slices.
    state_dict = {key: t.view(1) if t.dim() == 0 else t for key, t in tensors.items()}
    if not state_dict:
        return {}
    _shard_files().save(folder / name, state_dict, path)
    own = f"shard-{world.rank + 1:05d}-*"
    own_sums = world.everywhere(
        lambda: {f"{name}/{file.name}": _sha256(file) for file in sorted((folder / name).glob(own))}
    )
    world.from_lead(lambda: sync(folder / name))
    return {key: value for some in world.gather(own_sums) for key, value in some.items()}


def _write_state(folder: Path, state: TrainingState, sums: dict[str, str]) -> None:
    record = {"schema": 1, **state.model_dump(), "sha256": sums}
    (folder / STATE_FILE).write_text(json.dumps(record, indent=2) + "\n")


def _remove_old(folder: Path, keep_last: int) -> None:
    for old in sorted(folder.glob("step-*"))[:-keep_last]:
        shutil.rmtree(old)


def load_weights(path: Path, model: MTPModel, world: World = ALONE) -> str:
    """Reads a checkpoint's weights into a model of the same shape; returns their checksum.

    Raises:
        CheckpointError: missing, damaged, or of another model.
    """
    _, sums = _read_state(path)
    weights = _weights(model)
    if MODEL_FILE in sums:
        world.everywhere(lambda: _load_whole_weights(path, weights, sums))
        return sums[MODEL_FILE]
    _check_shards(path, MODEL_DIR, sums, world)
    shapes = _shard_files().shapes(path / MODEL_DIR)
    if weights.keys() == shapes.keys():
        _check_shapes(path / MODEL_DIR, weights, shapes)
        _shard_files().load(path / MODEL_DIR, weights)
    else:  # low-rank additions, which a run trains apart
        _copy(path / MODEL_DIR, merged(_shard_files().read(path / MODEL_DIR)), weights)
    return _sum_of_shards(sums)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's weights by parameter name, in the precision they have there; their checksum.

    Low-rank additions are in them.

    Raises:
        CheckpointError: missing or damaged.
    """
    _, sums = _read_state(path)
    if MODEL_FILE in sums:
        return merged(_read_whole(path, MODEL_FILE, sums)), sums[MODEL_FILE]
    _check_shards(path, MODEL_DIR, sums, ALONE)
    return merged(_shard_files().read(path / MODEL_DIR)), _sum_of_shards(sums)


def check_weights(path: Path) -> None:
    """Reads a checkpoint's weights through, and keeps none of them.

    Raises:
        CheckpointError: missing, or changed since they were written.
    """
    _, sums = _read_state(path)
    if MODEL_FILE in sums:
        _check_sum(path, MODEL_FILE, sums)
    else:
        _check_shards(path, MODEL_DIR, sums, ALONE)


def load_state(path: Path, optimizers: Sequence[Optimizer], world: World = ALONE) -> TrainingState:
    """Reads optimizer state and progress; the optimizers belong to a model already loaded.

    Raises:
        CheckpointError: missing, damaged, or of another model or optimizer.
    """
    training_state, sums = _read_state(path)
    if OPTIMIZER_FILE in sums:
        tensors = world.everywhere(lambda: _read_whole(path, OPTIMIZER_FILE, sums))
    else:
        _check_shards(path, OPTIMIZER_DIR, sums, world)
        tensors = _read_optimizer_shards(path / OPTIMIZER_DIR, optimizers)
    parameters = [_numbered(optimizer) for optimizer in optimizers]
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        owner, number, key = _optimizer_place(name, parameters, path)
        like = parameters[owner][number]
        placed = placed_like(tensor, like) if tensor.shape == like.shape else tensor
        states[owner].setdefault(number, {})[key] = placed
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return training_state


def _read_state(path: Path) -> tuple[TrainingState, dict[str, str]]:
    """Where the run stood, and the checksums of the checkpoint's other files."""
    try:
        record = json.loads((path / STATE_FILE).read_text())
        sums = {str(name): str(digest) for name, digest in record["sha256"].items()}
        if not sums:
            raise ValueError("no checksums")
        fields = {name: record[name] for name in TrainingState.model_fields if name in record}
        return TrainingState.model_validate(fields), sums
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / STATE_FILE}: no checkpoint's state: {error}") from None


def _load_whole_weights(path: Path, weights: dict[str, Tensor], sums: dict[str, str]) -> None:
    tensors = _read_whole(path, MODEL_FILE, sums)
    if weights.keys() != tensors.keys():  # low-rank additions, which a run trains apart
        tensors = merged(tensors)
    _copy(path / MODEL_FILE, tensors, weights)


def _copy(where: Path, tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    _check_shapes(where, weights, {name: tensor.shape for name, tensor in tensors.items()})
    for name, weight in weights.items():
        weight.copy_(placed_like(tensors[name], weight))


def _read_whole(path: Path, name: str, sums: dict[str, str]) -> dict[str, Tensor]:
    _check_sum(path, name, sums)
    try:
        return load_file(path / name)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path / name}: cannot be read: {error}") from None


def _check_shards(path: Path, name: str, sums: dict[str, str], world: World) -> None:
    """Files are read through by one process each, so that all of them are checked at once."""
    files = sorted(file for file in sums if file.startswith(f"{name}/"))
    present = {f"{name}/{file.name}" for file in (path / name).glob("*.safetensors")}
    if unknown := sorted(present - set(files)):
        raise CheckpointError(f"{path / unknown[0]}: no part of this checkpoint; remove it")

    def check() -> None:
        for file in files[world.rank :: world.size]:
            _check_sum(path, file, sums)

    world.everywhere(check)


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


def _shard_files() -> ModuleType:
    """Reading and writing of sharded tensors, whose import takes seconds that others can save."""
    from mtp_code import shard_files

    return shard_files


def _sum_of_shards(sums: Mapping[str, str]) -> str:
    shards = sorted(entry for entry in sums.items() if entry[0].startswith(f"{MODEL_DIR}/"))
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def _read_optimizer_shards(folder: Path, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    if not folder.is_dir():
        return {}  # no step has been taken
    parameters = [_numbered(optimizer) for optimizer in optimizers]
    tensors: dict[str, Tensor] = {}
    for name, shape in _shard_files().shapes(folder).items():
        owner, number, _ = _optimizer_place(name, parameters, folder)
        like = parameters[owner][number]
        tensors[name] = torch.zeros_like(like) if shape == like.shape else torch.zeros(shape)
    _shard_files().load(folder, tensors)
    return {
        name: tensor.view(()) if name.endswith(".step") else tensor
        for name, tensor in tensors.items()
    }


def _optimizer_place(
    name: str, parameters: Sequence[Mapping[int, Tensor]], where: Path
) -> tuple[int, int, str]:
    """Which optimizer, which of its parameters, and which entry of its state."""
    owner, number, key = name.split(".")
    if int(owner) >= len(parameters) or int(number) not in parameters[int(owner)]:
        raise CheckpointError(f"{where}: holds another optimizer's state ({name})")
    return int(owner), int(number), key


def _numbered(optimizer: Optimizer) -> dict[int, Tensor]:
    """Parameters as a state dict counts them."""
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    return dict(enumerate(parameters))


def _weights(model: MTPModel) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{number}.{parameter}.{key}": tensor
        for number, optimizer in enumerate(optimizers)
        for parameter, entry in optimizer.state_dict()["state"].items()
        for key, tensor in entry.items()
    }


def _check_shapes(
    where: Path, weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> None:
    if differing := sorted(weights.keys() ^ shapes.keys()):
        raise CheckpointError(f"{where}: holds another model's weights (differs in {differing[0]})")
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise CheckpointError(
                f"{where}: {name} is {tuple(shapes[name])}, the model's is "
                f"{tuple(weight.shape)}; load it with the recipe it was trained with"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
