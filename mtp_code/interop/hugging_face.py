"""Models of transformers' plain classes in: trunk and head 1, and later heads that we exported."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtp_code.errors import InteropError, TokenizerError
from mtp_code.interop.configs import check_architecture, from_foreign
from mtp_code.interop.export import GENERATION_FILE, HEADS_DIR, MAIN_DIR
from mtp_code.interop.files import CONFIG_FILE, check_names, read_json, read_weights
from mtp_code.interop.hub import copy_of
from mtp_code.interop.names import Names, names_of_later_heads, names_of_main, shapes, to_ours
from mtp_code.interop.published import PUBLISHED, is_published, read_published
from mtp_code.interop.vllm import ARCHITECTURE
from mtp_code.model.config import ModelConfig
from mtp_code.run_folder import write_import
from mtp_code.tokenizer import Tokenizer, wrap_foreign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Foreign:
    """A model of others.

    Attributes:
        architecture: the transformers class, or what else it is.
        weights: by our parameter names, in the precision that they are stored in.
        sha256: of what was read, by the folder it lay in.
    """

    architecture: str
    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    sha256: dict[str, str]


def is_foreign(folder: Path) -> bool:
    """Whether a folder looks like something that `read_model` reads."""
    return (
        (folder / CONFIG_FILE).is_file()
        or (folder / MAIN_DIR / CONFIG_FILE).is_file()
        or is_published(folder)
    )


def import_model(
    source: str,
    out: Path,
    allow_pickle: bool = False,
    ends: Sequence[str] = (),
    revision: str | None = None,
) -> Foreign:
    """Writes a model of others as a run folder, from which everything here decodes.

    Args:
        source: a folder that `read_model` reads; or OWNER/MODEL on the hub, where that is one, or
            OWNER/MODEL/SUBFOLDER.
        allow_pickle: read pickles where there are no safetensors.
        ends: as of `read_model`.
        revision: of the hub's: a branch, tag or commit.

    Raises:
        InteropError: something about the model is not supported, or missing, or damaged.
        TokenizerError: there is no tokenizer, or it is another model's.
    """
    check_new(out)
    folder = Path(source)
    told: dict[str, Any] = {"from": source}
    if folder.is_dir():
        if revision is not None:
            raise InteropError(f"{source}: a folder, which has no --revision; leave it out")
        name = folder.resolve().name
        refuse_several(folder, source)
    else:
        copy = copy_of(source, revision)
        folder, name = copy.folder, source.rpartition("/")[2]
        told["commit"] = copy.commit
        _check_described(folder, source)
        copy.fetch_weights(allow_pickle)
    found = read_model(folder, allow_pickle, ends)
    told |= {"architecture": found.architecture, "sha256": found.sha256}
    write_import(out, name, told, found.config, found.weights, found.tokenizer)
    return found


def refuse_several(folder: Path, source: str) -> None:
    """
    Args:
        source: what the user calls the folder.

    Raises:
        InteropError: a folder of models, not a model.
    """
    if is_foreign(folder):
        return
    if inside := sorted(path.name for path in folder.iterdir() if is_foreign(path)):
        raise InteropError(
            f"{source}: no model itself, but folders of models: {', '.join(inside)}; give one, "
            f"such as {source.rstrip('/')}/{inside[0]}"
        )


def _check_described(folder: Path, source: str) -> None:
    """
    Raises:
        InteropError: no model whose weights could be of use.
    """
    refuse_several(folder, source)
    if not is_foreign(folder):
        raise InteropError(f"{source}: has no {CONFIG_FILE} that says which model it is")
    if not is_published(folder):
        path = _main_of(folder) / CONFIG_FILE
        _architecture(read_json(path), str(path))


def read_model(folder: Path, allow_pickle: bool = False, ends: Sequence[str] = ()) -> Foreign:
    """A model from transformers' format.

    Args:
        folder: transformers', one that `export` wrote (then all heads come along), or one of the
            published multi-token checkpoints.
        allow_pickle: read pickles where there are no safetensors.
        ends: tokens that end an answer; the first one also ends a text. By default the
            tokenizer's `eos_token`, and then what generation_config.json (or else config.json)
            names.

    Raises:
        InteropError: something about the model is not supported, or missing, or damaged.
        TokenizerError: there is no tokenizer, or it is another model's.
    """
    if is_published(folder):
        if ends:
            raise InteropError(
                f"{folder}: its tokenizer says which token ends a text; leave --end-of-text out"
            )
        config, weights, tokenizer = read_published(folder, allow_pickle)
        sums = {folder.resolve().name: _sha256(weights)}
        return Foreign(PUBLISHED, config, weights, tokenizer, sums)
    above, folder = folder, _main_of(folder)
    heads_dir = above / HEADS_DIR
    has_heads = folder != above and heads_dir.exists()
    foreign = _read_config(folder)
    config = from_foreign(foreign, str(folder / CONFIG_FILE))
    tokenizer = read_tokenizer(folder, config.vocab_size, ends, _ends_named(folder, foreign))
    theirs = read_weights(folder, allow_pickle)
    sums = {folder.resolve().name: _sha256(theirs)}
    weights = _taken(config, theirs, names_of_main(config), folder)
    if has_heads:
        config, later = _later_heads(heads_dir, config, weights["norm.weight"])
        sums[heads_dir.name] = _sha256(later)
        weights |= to_ours(later, names_of_later_heads(config))
    return Foreign(foreign["architectures"][0], config, weights, tokenizer, sums)


def check_new(out: Path) -> None:
    """
    Raises:
        InteropError: something is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InteropError(f"{out}: not empty; give a new folder")


def read_tokenizer(
    folder: Path, vocab_size: int, ends: Sequence[str], model_ends: Sequence[int]
) -> Tokenizer:
    """The folder's tokenizer, giving texts and prompts the ids that transformers gives them.

    Args:
        ends: as of `read_model`.
        model_ends: ids that end answers too, unless `ends` are given.

    Raises:
        TokenizerError: there is none, it has ids that the model has not, or none ends a text.
    """
    from transformers import AutoTokenizer

    try:
        foreign: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"{folder}: no tokenizer that can be read here: {reason}") from None
    tokenizer = wrap_foreign(foreign, ends, str(folder), model_ends)
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the model a "
            f"vocabulary of {vocab_size}; they do not belong together"
        )
    return tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    """With all defaults filled in."""
    from transformers import AutoConfig

    raw, where = read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE)
    architecture = _architecture(raw, where)
    if raw.get("auto_map"):
        log.info("%s: comes with code of its own, which is never run (no trust_remote_code)", where)
    try:
        parsed: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InteropError(f"{where}: {str(error).strip().partition(chr(10))[0]}") from None
    return {**parsed.to_dict(), "architectures": [architecture]}


def _architecture(raw: Mapping[str, Any], where: str) -> str:
    """
    Raises:
        InteropError: none is named, or none that is supported.
    """
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise InteropError(f"{where}: names no architecture")
    architecture = str(architectures[0])
    check_architecture(architecture, where)
    return architecture


def _main_of(folder: Path) -> Path:
    """Where the model that predicts the next token lies: here, or in an export's `main/`."""
    is_export = not (folder / CONFIG_FILE).exists() and (folder / MAIN_DIR / CONFIG_FILE).exists()
    return folder / MAIN_DIR if is_export else folder


def _ends_named(folder: Path, foreign: Mapping[str, Any]) -> list[int]:
    """Ids at which transformers would end an answer."""
    generation = folder / GENERATION_FILE
    told = read_json(generation) if generation.is_file() else {}
    ends = told.get("eos_token_id", foreign.get("eos_token_id"))
    listed = ends if isinstance(ends, list) else [ends]
    return [end for end in listed if isinstance(end, int) and end >= 0]  # -1 is none, to some


def _taken(
    config: ModelConfig, theirs: dict[str, Tensor], names: Names, folder: Path
) -> dict[str, Tensor]:
    """Our weights; what has no effect is dropped from theirs."""
    _drop_idle(config, theirs, folder)
    check_names(theirs, shapes(config, names), str(folder))
    return to_ours(theirs, names)


def _drop_idle(config: ModelConfig, theirs: dict[str, Tensor], folder: Path) -> None:
    for name in list(theirs):
        is_copy = name == "lm_head.weight" and config.tied_embeddings
        if is_copy or name.endswith("rotary_emb.inv_freq"):
            del theirs[name]
        elif name.endswith(("o_proj.bias", "gate_proj.bias", "up_proj.bias", "down_proj.bias")):
            _refuse_effect(theirs.pop(name), f"{folder}: {name}")


def _refuse_effect(bias: Tensor, where: str) -> None:
    if bias.any():
        raise InteropError(f"{where} is not zero; query, key and value alone may have biases")


def _later_heads(
    folder: Path, config: ModelConfig, norm_D: Tensor
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The shape with all heads, and the later ones' weights by their names."""
    told = read_json(folder / CONFIG_FILE)
    if told.get("architectures") != [ARCHITECTURE]:
        raise InteropError(f"{folder}: holds no heads that mtp-code export wrote")
    config = ModelConfig.model_validate(
        config.model_dump()
        | {
            "num_mtp_heads": told["num_mtp_heads"],
            "num_layers": config.num_layers + told["num_hidden_layers"],
        }
    )
    theirs = read_weights(folder)
    _drop_idle(config, theirs, folder)
    check_names(theirs, shapes(config, names_of_later_heads(config)), str(folder))
    if not torch.equal(theirs["model.norm.weight"], norm_D):
        raise InteropError(f"{folder}: its norm is not that of main/; they were exported apart")
    return config, theirs


def _sha256(weights: Mapping[str, Tensor]) -> str:
    """Of names and content, however they are spread over files."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
