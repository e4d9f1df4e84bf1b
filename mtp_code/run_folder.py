"""A run folder: resolved recipe, what it was made with, metrics, checkpoints, tokenizer."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from mtp_code.checkpoint import latest_checkpoint, load_weights, save_weights
from mtp_code.config import validate
from mtp_code.data.shards import ShardSet
from mtp_code.errors import CheckpointError, RecipeError
from mtp_code.files import whole_folder, write_json
from mtp_code.machine import current_commit, describe_machine, describe_versions
from mtp_code.model.accounting import count_parameters
from mtp_code.model.config import ModelConfig
from mtp_code.model.mtp import MTPModel
from mtp_code.recipe import Recipe
from mtp_code.tokenizer import Tokenizer, load_tokenizer

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
TOKENIZER_DIR = "tokenizer"
FREE_KEYS = (
    "name",
    "training.parallel",
    "training.fsdp",
    "training.num_processes",
    "training.num_threads",
    "training.log_every",
    "training.validate_every",
    "training.validation_tokens",
    "training.checkpoint_every",
    "training.keep_checkpoints",
)
"""What a run may change between two of its steps and learn the same, to rounding."""
FIXED_KEYS = ("model", "tokenizer")
"""What no checkpoint survives."""
RUN_KEYS = {"recipe", "model", "num_threads", "tokens_sha256", "finished_at"}
IMPORT_KEYS = {"imported", "config", "model"}


@dataclass(frozen=True)
class TrainedModel:
    """What a run's newest checkpoint decodes with."""

    model: MTPModel
    tokenizer: Tokenizer
    description: dict[str, Any]
    """Name, checkpoint and its checksum: what a figure must say about the model."""


def begin_run(
    run_dir: Path,
    recipe: Recipe,
    shards: ShardSet,
    model: MTPModel,
    choose_num_threads: Callable[[], int],
    allow_changed: Sequence[str] = (),
    num_processes: int = 1,
) -> dict[str, Any]:
    """The run's record: a new one, or the one there is if it is of the same recipe and data.

    Args:
        allow_changed: keys of the recipe, or tables of them, that may differ from the run's. What
            cannot change what is learned may differ anyway.
        num_processes: that train now. Threads are chosen again where there were others before, or
            where the recipe asks for another number of them.

    Raises:
        RecipeError: the folder holds a run of another recipe, or on other tokens.
    """
    if (run_dir / RUN_FILE).exists():
        record = read_run(run_dir)
        if "recipe" not in record:
            raise RecipeError(
                f"{run_dir}: holds an imported model; give a run that begins from it its own folder"
            )
        # As read today: keys that are newer than the run have the value that they had no name for.
        before = validate(Recipe, record["recipe"], where=str(run_dir / RUN_FILE))
        changes = _changes(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
        _refuse_changes(run_dir, changes, allow_changed)
        if record["tokens_sha256"] != shards.content_sha256:
            raise RecipeError(
                f"{run_dir}: was begun on other tokens than {shards.folder} holds now; give "
                "another folder, or remove it"
            )
        if changes:
            log.info("%s: goes on with another recipe: %s", run_dir, _shown(changes))
            newest = latest_checkpoint(run_dir)
            change = {"behind": newest and newest.name, "at": _now(), "changes": changes}
            record |= {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_changes": [*record.get("recipe_changes", []), change],
                "finished_at": None,
            }
        had_processes = record.get("num_processes", 1)  # no run said so before there were several
        asks_again = "training.num_threads" in changes or had_processes != num_processes
        if asks_again:
            record |= {"num_threads": choose_num_threads(), "num_processes": num_processes}
        if changes or asks_again:
            write_json(run_dir / RUN_FILE, record)
        return record
    record = {
        "schema": 1,
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "versions": describe_versions(),
        "commit": current_commit(),
        "machine": describe_machine(),
        "num_threads": choose_num_threads(),
        "num_processes": num_processes,
        "started_at": _now(),
        "finished_at": None,
        "model": described_shape(recipe.model, sum(p.numel() for p in model.parameters())),
        "tokens_sha256": shards.content_sha256,
    }
    (run_dir / TOKENIZER_DIR).mkdir(parents=True, exist_ok=True)
    shards.tokenizer.save(run_dir / TOKENIZER_DIR)
    write_json(run_dir / RUN_FILE, record)
    return record


def write_import(
    run_dir: Path,
    name: str,
    imported: Mapping[str, Any],
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
) -> None:
    """A model that was not trained here, as a run folder at step 0 without a recipe.

    Args:
        imported: where it is from, and the checksums of what was read.
        weights: by parameter name.
    """
    with whole_folder(run_dir) as folder:
        save_weights(folder, weights)
        (folder / TOKENIZER_DIR).mkdir()
        tokenizer.save(folder / TOKENIZER_DIR)
        record = {
            "schema": 1,
            "name": name,
            "imported": dict(imported),
            "config": config.model_dump(mode="json"),
            "versions": describe_versions(),
            "commit": current_commit(),
            "machine": describe_machine(),
            "started_at": _now(),
            "finished_at": _now(),
            "model": described_shape(config, count_parameters(config).total),
        }
        write_json(folder / RUN_FILE, record)


def described_shape(config: ModelConfig, num_parameters: int) -> dict[str, int]:
    """What figures say of the size of their model."""
    return {
        "num_parameters": num_parameters,
        "num_trunk_layers": config.num_trunk_layers,
        "num_mtp_heads": config.num_mtp_heads,
        "vocab_size": config.vocab_size,
    }


def finish_run(run_dir: Path, cpu_s: float, elapsed_s: float) -> None:
    record = read_run(run_dir)
    if record["finished_at"] is not None:
        return  # called again on a finished run
    figures = {"finished_at": _now(), "cpu_s": cpu_s, "elapsed_s": elapsed_s}
    write_json(run_dir / RUN_FILE, record | figures)


def read_run(run_dir: Path) -> dict[str, Any]:
    """The content of a run's `run.json`.

    Raises:
        CheckpointError: the folder is no run, and no imported model.
    """
    try:
        record = json.loads((run_dir / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if (run_dir / "config.json").exists():
            raise CheckpointError(
                f"{run_dir}: a model of another library; take it in with mtp-code import"
            ) from None
        raise CheckpointError(f"{run_dir}: no run there; train one with mtp-code train") from None
    except ValueError as error:
        raise CheckpointError(f"{run_dir / RUN_FILE}: damaged: {error}") from None
    if not isinstance(record, dict) or not (
        record.keys() >= RUN_KEYS or record.keys() >= IMPORT_KEYS
    ):
        raise CheckpointError(f"{run_dir / RUN_FILE}: no run's record; train into another folder")
    return record


def model_config(record: Mapping[str, Any], run_dir: Path) -> ModelConfig:
    """The shape of a run's model, or of an imported one.

    Raises:
        RecipeError: the record does not hold together.
    """
    where = str(run_dir / RUN_FILE)
    if "recipe" not in record:
        return validate(ModelConfig, record["config"], where)
    return validate(Recipe, record["recipe"], where).model


def load_run(run_dir: Path) -> TrainedModel:
    """The model of a run's newest checkpoint, ready to decode.

    Raises:
        CheckpointError: the folder is no run, or holds no whole checkpoint.
    """
    record = read_run(run_dir)
    config = model_config(record, run_dir)
    path = latest_checkpoint(run_dir)
    if path is None:
        raise CheckpointError(f"{run_dir}: no checkpoint yet; train it with mtp-code train")
    model = MTPModel(config)
    sha256 = load_weights(path, model)
    model.eval().requires_grad_(False)
    description = {
        "run": record["name"],
        "checkpoint": path.name,
        "sha256": sha256,
        **record["model"],
    }
    return TrainedModel(model, load_tokenizer(run_dir / TOKENIZER_DIR), description)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[was, is] of each key that differs."""
    was, is_now = _flat(before), _flat(now)
    return {
        key: [was.get(key), is_now.get(key)]
        for key in sorted(was.keys() | is_now.keys())
        if was.get(key) != is_now.get(key)
    }


def _refuse_changes(
    run_dir: Path, changes: Mapping[str, list[Any]], allow_changed: Sequence[str]
) -> None:
    if fixed := {key: both for key, both in changes.items() if _is_in(key, FIXED_KEYS)}:
        raise RecipeError(
            f"{run_dir}: holds a run of another recipe: {_shown(fixed)}; its weights are of no use "
            "to this one: give another folder, or remove it"
        )
    refused = {
        key: both for key, both in changes.items() if not _is_in(key, [*FREE_KEYS, *allow_changed])
    }
    if refused:
        options = " ".join(f"--allow-changed {key}" for key in refused)
        raise RecipeError(
            f"{run_dir}: holds a run of another recipe: {_shown(refused)}; give another folder, "
            f"remove it, or go on with {options}"
        )


def _is_in(key: str, tables: Iterable[str]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _shown(changes: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key}: {was} -> {now}" for key, (was, now) in changes.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
