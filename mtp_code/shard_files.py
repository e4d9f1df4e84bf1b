"""Files of tensors that several processes wrote, a file each, in safetensors."""

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def save(folder: Path, tensors: dict[str, Tensor], shown: Path) -> None:
    """Writes what this process has of the tensors. Called by all processes.

    Args:
        shown: what an error names.

    Raises:
        OSError: the disk is full, or the like.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save(tensors, storage_writer=writer)
    except CheckpointException as failure:
        causes = [error for error, _ in failure.failures.values()]
        for cause in causes:
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(shown)) from None
        raise causes[0] from None


def load(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors, whole or sharded, from all processes' files; each reads what it needs."""
    _load(folder, tensors, no_dist=not dist.is_initialized())


def _load(folder: Path, tensors: dict[str, Tensor], no_dist: bool) -> None:
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        # That this is one process alone, which it may be.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        state_dict_loader.load(tensors, storage_reader=reader, no_dist=no_dist)


def read(folder: Path) -> dict[str, Tensor]:
    """Whole tensors, as they were written. Waits for no other process: each reads for itself."""
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _entries(folder).items()
    }
    _load(folder, tensors, no_dist=True)
    return tensors


def shapes(folder: Path) -> dict[str, torch.Size]:
    """Of the whole tensors."""
    return {name: entry.size for name, entry in _entries(folder).items()}


def _entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    entries = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)
    }
