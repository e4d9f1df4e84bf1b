"""Reading other people's model folders: safetensors, pickles only if asked for, no code at all."""

import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from mtp_code.errors import InteropError

CONFIG_FILE: Final = "config.json"
SAFETENSORS: Final = "model.safetensors"
PICKLE: Final = "pytorch_model.bin"

log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        InteropError: the file is missing or no JSON table.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InteropError(f"{path.parent}: has no {path.name}; give a model's folder") from None
    except (OSError, ValueError) as error:
        raise InteropError(f"{path}: cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise InteropError(f"{path}: not a JSON table")
    return table


def read_weights(folder: Path, allow_pickle: bool = False) -> dict[str, Tensor]:
    """All weights of a transformers folder, by their names, in the precision they are stored in.

    Raises:
        InteropError: a file is missing or damaged, or they are pickles and nobody allowed those.
    """
    for whole in (SAFETENSORS, PICKLE):
        index = folder / f"{whole}.index.json"
        if not (folder / whole).is_file() and not index.is_file():
            continue
        if whole == PICKLE:
            refuse_pickle(folder / whole, allow_pickle)
        if (folder / whole).is_file():
            return read_file(folder / whole)
        return _read_shards(folder, index)
    raise InteropError(f"{folder}: has no {SAFETENSORS} and no index of shards")


def refuse_pickle(path: Path, allow_pickle: bool) -> None:
    """
    Raises:
        InteropError: pickles are not allowed.
    """
    if not allow_pickle:
        raise InteropError(
            f"{path}: a pickle, which could run code; take safetensors, or read it with "
            "weights_only=True by mtp-code import --allow-pickle"
        )


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        InteropError: it is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InteropError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise InteropError(f"{path}: holds something else than tensors by name")
    return found


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise InteropError(f"{index}: has no weight_map")
    for name in sorted(set(files.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise InteropError(f"{folder}: the shard {name} is missing, which {index.name} names")
    weights: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        weights |= read_file(folder / name)
    if lost := sorted(files.keys() - weights.keys()):
        raise InteropError(f"{folder / files[lost[0]]}: lacks {lost[0]}, which {index.name} names")
    return weights


def check_names(found: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], where: str) -> None:
    """
    Raises:
        InteropError: a tensor is missing, one too many, of another shape, or no floating point.
    """
    if missing := sorted(wanted.keys() - found.keys()):
        raise InteropError(f"{where}: lacks {_listed(missing)}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise InteropError(f"{where}: holds {_listed(extra)}, which this architecture has not")
    for name, tensor in found.items():
        if tensor.shape != wanted[name]:
            raise InteropError(
                f"{where}: {name} is {tuple(tensor.shape)}, its configuration says "
                f"{tuple(wanted[name])}"
            )
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            raise InteropError(
                f"{where}: {name} is {tensor.dtype}; supported: float32, bfloat16, float16"
            )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
