"""The published multi-token checkpoints in.

The layout is that of Llama's first release with the later heads beside it. `n_layers` counts all
layers: `layers` are the trunk's and, last of them, head 1; `extra_heads` are offsets 2 to n. Every
head reads the trunk's states, those *before* head 1.

There are four, a folder each, beside the one tokenizer of all:

    7B_200B_1/  7B_200B_4/  7B_1T_1/  7B_1T_4/    consolidated.pth, params.json
    tokenizer.model

Source: facebook/multi-token-prediction on the hub; Gloeckle et al. 2024, arXiv 2404.19737.
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mtp_code.config import validate
from mtp_code.errors import InteropError, MachineError, TokenizerError
from mtp_code.interop.files import check_names, read_file, read_json, refuse_pickle
from mtp_code.model.config import ModelConfig
from mtp_code.tokenizer import PROBES, Tokenizer

PUBLISHED: Final = "a published multi-token checkpoint"
WEIGHTS_FILE: Final = "consolidated.pth"
PARAMS_FILE: Final = "params.json"
TOKENIZER_FILE: Final = "tokenizer.model"

CONTEXT: Final = 4096
"""The models' in the paper (appendix on training details), where params.json says none."""
ROPE_THETA: Final = 10_000.0

_READ: Final = ("dim", "n_layers", "n_heads", "norm_eps", "n_future_tokens", "vocab_size")
_READ_TOO: Final = ("n_kv_heads", "rope_theta", "max_seq_len", "multiple_of", "ffn_dim_multiplier")

# A file may hold the table of rotations, which follows from params.json.
_IGNORED: Final = frozenset({"rope.freqs"})

_SPACE: Final = "\u2581"

log = logging.getLogger(__name__)


def is_published(folder: Path) -> bool:
    return (folder / PARAMS_FILE).is_file() and not (folder / "config.json").exists()


def read_published(
    folder: Path, allow_pickle: bool
) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer]:
    """Shape, our weights in the precision of theirs, and the tokenizer.

    Raises:
        InteropError: a file or tensor is missing, one too many, damaged, or of another shape.
        TokenizerError: the tokenizer is of another vocabulary.
        MachineError: `sentencepiece` is not installed.
    """
    path = folder / WEIGHTS_FILE
    params = read_json(folder / PARAMS_FILE)
    if not path.is_file():
        raise InteropError(f"{folder}: has no {WEIGHTS_FILE} beside its {PARAMS_FILE}")
    refuse_pickle(path, allow_pickle)
    tokenizer_path = _tokenizer_of(folder)
    theirs = {name: x for name, x in read_file(path).items() if name not in _IGNORED}
    config = _config(params, theirs, folder)
    check_names(theirs, _shapes(config), str(path))
    tokenizer = _tokenizer(tokenizer_path, config.vocab_size)
    return config, _ours(config, theirs), tokenizer


def _config(params: Mapping[str, Any], theirs: Mapping[str, Tensor], folder: Path) -> ModelConfig:
    where = str(folder / PARAMS_FILE)
    if missing := [key for key in _READ[:4] if key not in params]:
        raise InteropError(f"{where}: lacks {missing[0]}")
    if unread := sorted(params.keys() - {*_READ, *_READ_TOO}):
        log.warning("%s: not read: %s", where, ", ".join(unread))
    embedding, feed_forward = "tok_embeddings.weight", "layers.0.feed_forward.w1.weight"
    for name in (embedding, feed_forward):
        if name not in theirs:
            raise InteropError(f"{folder / WEIGHTS_FILE}: lacks {name}")
    num_extra = len(
        {found[1] for name in theirs if (found := re.match(r"extra_heads\.(\d+)", name))}
    )
    told = params.get("n_future_tokens", num_extra + 1)
    if told != num_extra + 1:
        raise InteropError(
            f"{where}: n_future_tokens = {told}, but {WEIGHTS_FILE} holds {num_extra} extra_heads"
        )
    return validate(
        ModelConfig,
        {
            "vocab_size": theirs[embedding].shape[0],
            "width": params["dim"],
            "num_layers": params["n_layers"],
            "num_attn_heads": params["n_heads"],
            "num_kv_heads": params.get("n_kv_heads"),
            "ffn_width": theirs[feed_forward].shape[0],
            "num_mtp_heads": num_extra + 1,
            "context": params.get("max_seq_len") or CONTEXT,
            "rope_theta": params.get("rope_theta") or ROPE_THETA,
            "norm_eps": params["norm_eps"],
        },
        where,
    )


def _layers(config: ModelConfig) -> dict[str, str]:
    """Our layers by theirs."""
    num_trunk = config.num_trunk_layers
    layers = {f"layers.{number}": f"trunk.layers.{number}" for number in range(num_trunk)}
    layers[f"layers.{num_trunk}"] = "mtp_heads.layers.0"
    for number in range(config.num_mtp_heads - 1):
        layers[f"extra_heads.{number}"] = f"mtp_heads.layers.{number + 1}"
    return layers


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    width, queries = config.width, config.num_attn_heads * config.head_width
    keys, ffn = config.kv_heads * config.head_width, config.ffn_width
    of_layer = {
        "attention_norm": (width,),
        "attention.wq": (queries, width),
        "attention.wk": (keys, width),
        "attention.wv": (keys, width),
        "attention.wo": (width, queries),
        "ffn_norm": (width,),
        "feed_forward.w1": (ffn, width),
        "feed_forward.w2": (width, ffn),
        "feed_forward.w3": (ffn, width),
    }
    vocabulary = torch.Size((config.vocab_size, width))
    found = {"tok_embeddings.weight": vocabulary, "output.weight": vocabulary}
    found["norm.weight"] = torch.Size((width,))
    for layer in _layers(config):
        found |= {f"{layer}.{name}.weight": torch.Size(x) for name, x in of_layer.items()}
    return found


def _ours(config: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = {
        "trunk.embedding.weight": theirs["tok_embeddings.weight"],
        "norm.weight": theirs["norm.weight"],
        "unembedding.weight": theirs["output.weight"],
    }
    for their_layer, layer in _layers(config).items():

        def weight(name: str, layer: str = their_layer) -> Tensor:
            return theirs[f"{layer}.{name}.weight"]

        query = _halves(weight("attention.wq"), config.head_width)
        key = _halves(weight("attention.wk"), config.head_width)
        ours |= {
            f"{layer}.attn_norm.weight": weight("attention_norm"),
            f"{layer}.attn.qkv.weight": torch.cat((query, key, weight("attention.wv"))),
            f"{layer}.attn.out.weight": weight("attention.wo"),
            f"{layer}.ffn_norm.weight": weight("ffn_norm"),
            f"{layer}.ffn.gate_up.weight": torch.cat(
                (weight("feed_forward.w1"), weight("feed_forward.w3"))
            ),
            f"{layer}.ffn.down.weight": weight("feed_forward.w2"),
        }
    # Tensors of a pickle may share a storage, which safetensors refuses.
    return {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in ours.items()
    }


def _halves(weight_OD: Tensor, head_width: int) -> Tensor:
    """Rows whose rotated pairs are neighbours, as rows whose pairs are half a head apart."""
    by_pair = weight_OD.view(-1, head_width // 2, 2, weight_OD.shape[1])
    return by_pair.transpose(1, 2).reshape_as(weight_OD)


def _tokenizer_of(folder: Path) -> Path:
    """In the checkpoint's folder, or in the one that holds several checkpoints.

    Raises:
        TokenizerError: in neither.
    """
    places = (folder, folder.resolve().parent)
    for place in places:
        if (place / TOKENIZER_FILE).is_file():
            return place / TOKENIZER_FILE
    raise TokenizerError(f"{folder}: has no {TOKENIZER_FILE}, nor has {places[1]}")


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MachineError(
            f"{path}: reading it needs sentencepiece; pip install mtp-code[interop]"
        ) from None
    from transformers import LlamaTokenizer

    try:
        original = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(f"{path}: no SentencePiece model: {error}") from None
    if original.vocab_size() != vocab_size:
        raise TokenizerError(
            f"{path}: holds {original.vocab_size()} tokens, the model a vocabulary of "
            f"{vocab_size}; they do not belong together"
        )
    with tempfile.TemporaryDirectory() as alone:  # nothing else that lies beside it is read
        shutil.copy(path, alone)
        foreign: Any = LlamaTokenizer.from_pretrained(alone)
    definition = json.loads(foreign.backend_tokenizer.to_str())
    # Vocabulary and merges are right; but transformers leaves out the space before a text that
    # begins with one, and sentencepiece does not.
    definition["pre_tokenizer"] = None
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prefix = {"type": "Prepend", "prepend": _SPACE}
    definition["normalizer"] = {"type": "Sequence", "normalizers": [prefix, spaces]}
    begin, end = (original.id_to_piece(i) for i in (original.bos_id(), original.eos_id()))
    tokenizer = Tokenizer(json.dumps(definition), end, begin_document=[begin])
    for text in PROBES:
        if tokenizer.encode(text) != original.encode(text):
            raise TokenizerError(f"{path}: {text!r} is not read as sentencepiece reads it")
    return tokenizer
