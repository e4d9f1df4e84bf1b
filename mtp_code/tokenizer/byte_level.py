"""Tokenizers of our own: plain bytes, and a byte-level BPE trained here.

They cut at every newline and never let a token reach across one, so a prompt and its completion
that meet at a newline have the same tokens apart as joined.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mtp_code.tokenizer.config import FIM_TOKENS, NUM_BYTES, least_vocab_size
from mtp_code.tokenizer.text import TokenIds, Tokenizer, byte_level_spelling, utf8

END_OF_TEXT: Final = "<|endoftext|>"

# What BPE merges stay inside. A newline stands alone, and so does the indentation after it: what
# follows a newline is cut the same whether or not the text before it is there. Digits stand alone,
# so that numbers are spelled, not memorised. Runs of punctuation can become one token: `):`, `"""`.
PIECES: Final = (
    r"\n"
    r"| {2,}"
    r"|\t+"
    r"| ?[\p{L}\p{M}_]+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}_]+"
    r"|\s"
)


class BytesTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, and end of text.

    It is a byte-level BPE without merges, so others can load its files; here a byte needs no
    search for its id.
    """

    def __init__(self, fim_tokens: bool = False) -> None:
        super().__init__(BYTES_DEFINITIONS[fim_tokens], END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        return list(utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.frombuffer(utf8(text), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(byte for byte in ids if byte < NUM_BYTES).decode("utf-8", errors="replace")


def train_bpe(texts: Iterable[str], vocab_size: int, fim_tokens: bool = False) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` ids, fewer if the texts run out of pairs.

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    if vocab_size < (least := least_vocab_size(fim_tokens)):
        raise ValueError(f"vocab_size must be at least {least} (bytes, specials), got {vocab_size}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *(FIM_TOKENS if fim_tokens else ())],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_checked(texts), trainer)
    return Tokenizer(backend.to_str(), END_OF_TEXT)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        utf8(text)
        yield text


def _bytes_definition(fim_tokens: bool) -> str:
    """A tokenizer.json for plain bytes, spelled out so that no library version changes it."""
    spelling = byte_level_spelling()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    special_tokens = (END_OF_TEXT, *(FIM_TOKENS if fim_tokens else ()))
    match_anywhere = {"single_word": False, "lstrip": False, "rstrip": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [
                {"id": 256 + i, "content": token, "special": True, "normalized": False}
                | match_anywhere
                for i, token in enumerate(special_tokens)
            ],
            "pre_tokenizer": byte_level | {"use_regex": False},
            "decoder": byte_level | {"use_regex": False},
            "model": {
                "type": "BPE",
                "vocab": {spelling[byte]: byte for byte in range(256)},
                "merges": [],
            },
        }
    )


# Without and with fill-in-the-middle.
BYTES_DEFINITIONS: Final = (_bytes_definition(False), _bytes_definition(True))
