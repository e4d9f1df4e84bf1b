"""A run as folders that transformers and vLLM load: `main/`, and `heads/` as a draft for it."""

import inspect
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from mtp_code.checkpoint import latest_checkpoint, read_weights
from mtp_code.errors import CheckpointError, InteropError
from mtp_code.files import as_os_error, whole_folder
from mtp_code.interop.card import Measured, model_card
from mtp_code.interop.configs import to_foreign
from mtp_code.interop.names import main_layers, names_of_later_heads, names_of_main, to_theirs
from mtp_code.interop.vllm import ARCHITECTURE
from mtp_code.model.config import ModelConfig
from mtp_code.run_folder import TOKENIZER_DIR, model_config, read_run
from mtp_code.tokenizer import Tokenizer, load_tokenizer

MAIN_DIR: Final = "main"
HEADS_DIR: Final = "heads"
CONFIG_FILE: Final = "config.json"
GENERATION_FILE: Final = "generation_config.json"
CARD_FILE: Final = "README.md"
SHARD_BYTES: Final = 5_000_000_000


@dataclass(frozen=True)
class Exported:
    """What was written: the transformers class of `main/`, and how many heads `heads/` holds."""

    architecture: str
    num_heads: int


def export(
    run_dir: Path,
    out: Path,
    measured: Sequence[Measured] = (),
    main_only: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes a run's newest checkpoint to `out/main` and, if it has later heads, `out/heads`.

    Weights keep the precision they have in the checkpoint.

    Args:
        measured: what the model card tells of scores.
        main_only: leaves the later heads out.

    Raises:
        CheckpointError: the folder is no run, or its checkpoint is damaged.
        InteropError: no plain class computes what the model does, its later heads are no draft
            that the plugin could run, or `out` is something else than an export.
    """
    record = read_run(run_dir)
    config = model_config(record, run_dir)
    if (checkpoint := latest_checkpoint(run_dir)) is None:
        raise CheckpointError(f"{run_dir}: no checkpoint yet; train it with mtp-code train")
    has_heads = config.num_mtp_heads > 1 and not main_only
    if has_heads:
        _check_draft(config)
    _check_out(out)
    weights, sha256 = read_weights(checkpoint)
    tokenizer = load_tokenizer(run_dir / TOKENIZER_DIR)
    dtype = weights["norm.weight"].dtype
    foreign = to_foreign(config, len(main_layers(config)), dtype) | _token_ids(tokenizer)
    architecture: str = foreign["architectures"][0]
    with whole_folder(out) as folder:
        main = folder / MAIN_DIR
        main.mkdir()
        _save_weights(main, to_theirs(config, weights, names_of_main(config)), max_shard_bytes)
        _write_json(main / CONFIG_FILE, foreign)
        _write_json(main / GENERATION_FILE, _generation(tokenizer))
        tokenizer.save_for_others(main, config.context)
        if has_heads:
            heads = folder / HEADS_DIR
            heads.mkdir()
            later = to_theirs(config, weights, names_of_later_heads(config))
            _save_weights(heads, later, max_shard_bytes)
            _write_json(heads / CONFIG_FILE, _draft_config(config, foreign))
            card = model_card(record, config, checkpoint.name, sha256, architecture, measured)
            (heads / CARD_FILE).write_text(card, encoding="utf-8")
    return Exported(architecture, config.num_mtp_heads - 1 if has_heads else 0)


def _check_draft(config: ModelConfig) -> None:
    remedy = "export with --main-only, which leaves the later heads out"
    if config.heads != "parallel":
        raise InteropError(
            f"model.heads = {config.heads}: only parallel heads can be served as a draft; {remedy}"
        )
    if config.replicated_unembeddings:
        raise InteropError(
            f"model.replicated_unembeddings: a draft shares the main model's unembedding; {remedy}"
        )
    if config.num_trunk_layers == 0:
        raise InteropError(
            f"model.num_layers: the trunk has none that a draft could read; {remedy}"
        )


def _check_out(out: Path) -> None:
    """A folder is replaced only by what replaces it in kind."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InteropError(f"{out}: a file; give a folder")
    found = {path.name for path in out.iterdir()}
    is_export = found <= {MAIN_DIR, HEADS_DIR} and (out / MAIN_DIR / CONFIG_FILE).is_file()
    if found and not is_export:
        raise InteropError(f"{out}: holds something else than an export; give another folder")


def _save_weights(folder: Path, weights: dict[str, Tensor], max_shard_bytes: int) -> None:
    # Its logger goes by its file's path, so the level of "huggingface_hub" does not reach it.
    logging.getLogger(inspect.getfile(save_torch_state_dict)).setLevel(logging.WARNING)
    try:
        save_torch_state_dict(
            weights, folder, max_shard_size=max_shard_bytes, metadata={"format": "pt"}
        )
    except safetensors.SafetensorError as error:
        raise as_os_error(error, folder) from None


def _draft_config(config: ModelConfig, foreign: Mapping[str, Any]) -> dict[str, Any]:
    num_later = config.num_mtp_heads - 1
    return {
        **foreign,
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "main_architecture": foreign["architectures"][0],
        "num_hidden_layers": num_later,
        "trunk_hidden_size": config.width,
        "hidden_size": num_later * config.width,
        # The states that enter the last layer of main/ are the trunk's.
        "eagle_aux_hidden_state_layer_ids": [foreign["num_hidden_layers"] - 1],
        "num_mtp_heads": config.num_mtp_heads,
        "mtp_schema": 1,
    }


def _token_ids(tokenizer: Tokenizer) -> dict[str, int | list[int] | None]:
    begin, ends = tokenizer.begin_document, tokenizer.answer_ends
    return {
        "bos_token_id": begin[0] if begin else None,
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
    }


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {name: value for name, value in _token_ids(tokenizer).items() if value is not None}
    return {"_from_model_config": False, **ids, "pad_token_id": tokenizer.end_of_text}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
