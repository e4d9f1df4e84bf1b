"""Text to token ids and back: bytes, a byte-level BPE trained here, or any Hugging Face tokenizer.

Token borders: our own tokenizers cut at every newline and never let a token reach across one, so
a prompt and its completion that meet at a newline have the same tokens apart as joined. Training
text and sampling prompts therefore agree. A foreign tokenizer gives no such promise.
"""

from collections.abc import Iterable
from pathlib import Path

from mtp_code.tokenizer.byte_level import BYTES_DEFINITIONS, END_OF_TEXT, BytesTokenizer, train_bpe
from mtp_code.tokenizer.config import (
    BpeConfig,
    BytesConfig,
    HuggingFaceConfig,
    TokenizerConfig,
)
from mtp_code.tokenizer.foreign import CHAT_TEMPLATE_FILE, PROBES, open_hugging_face, wrap_foreign
from mtp_code.tokenizer.text import (
    DEFINITION_FILE,
    SETTINGS_FILE,
    ChatTemplate,
    FimIds,
    TokenIds,
    Tokenizer,
    read_text,
)

__all__ = [
    "CHAT_TEMPLATE_FILE",
    "DEFINITION_FILE",
    "END_OF_TEXT",
    "PROBES",
    "SETTINGS_FILE",
    "BpeConfig",
    "BytesConfig",
    "BytesTokenizer",
    "ChatTemplate",
    "FimIds",
    "HuggingFaceConfig",
    "TokenIds",
    "Tokenizer",
    "TokenizerConfig",
    "build_tokenizer",
    "load_tokenizer",
    "open_hugging_face",
    "train_bpe",
    "wrap_foreign",
]


def build_tokenizer(config: TokenizerConfig, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that the configuration asks for; only a BPE reads the training texts."""
    match config:
        case BytesConfig():
            return BytesTokenizer(config.fim_tokens)
        case BpeConfig():
            return train_bpe(training_texts, config.vocab_size, config.fim_tokens)
        case HuggingFaceConfig():
            return open_hugging_face(config.name, config.end_of_text, config.fim_tokens)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that was saved into a folder.

    Raises:
        TokenizerError: none was, or its files are damaged.
    """
    path = folder / DEFINITION_FILE
    if path.is_file() and (definition := read_text(path)) in BYTES_DEFINITIONS:
        return BytesTokenizer(fim_tokens=definition == BYTES_DEFINITIONS[True])
    return open_hugging_face(str(path))
