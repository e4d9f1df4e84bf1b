"""Models in Hugging Face's format, on disk or on the hub: their tokenizers, and what tells them
apart. No code that comes with a model is run (`trust_remote_code` is off)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from mtp_code.errors import InputError, first_line
from mtp_code.interop.hub import check_name
from mtp_code.samplers.base import Chat, Question

CONTENT = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""What answers depend on: a chat template, merges and SentencePiece may be files of their own."""
ENOUGH_BEFORE = 8
"""Tokens before an answer that decide how its first one is spelled."""


class HubTokenizer:
    """A model's own tokenizer, used as its makers mean it to be.

    A prompt begins with whatever the tokenizer begins texts with. Special tokens are never read
    out of a prompt's text, chats excepted, as with `mtp_code.tokenizer.Tokenizer`.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        """
        Raises:
            InputError: there is no such tokenizer.
        """
        if not Path(name).is_dir():
            check_name(name, revision)
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no tokenizer to load: {first_line(error)}") from None
        has_template = getattr(self._tokenizer, "chat_template", None) is not None
        self.chat: Chat | None = self._chat if has_template else None

    def encode(self, question: Question) -> list[int]:
        """The ids of a question's prompt."""
        encoded = self._tokenizer(
            question.prompt,
            add_special_tokens=not question.is_chat,
            split_special_tokens=not question.is_chat,
        )
        return list(encoded["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text of ids that go on where others ended.

        Alone, it might lack a space: some tokenizers take one off the start of a text.
        """
        before = list(before)[-ENOUGH_BEFORE:]
        known, text = self.decode(before), self.decode([*before, *ids])
        return text.removeprefix(known) if text.startswith(known) else self.decode(ids)

    @property
    def eos_token_id(self) -> int | None:
        eos: int | None = self._tokenizer.eos_token_id
        return eos

    def _chat(self, message: str, answer_begins: str) -> str:
        try:
            asked = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise anything
            raise InputError(f"the model's chat template fails: {first_line(error)}") from error
        return f"{asked}{answer_begins}"


def describe(name: str, revision: str | None, commit: str | None) -> dict[str, Any]:
    """Which model this is: a folder's by its content, the hub's by its commit.

    Args:
        commit: the hub's, of what was loaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return {"model": name, "sha256": _content_sha256(folder)}
    return {"model": name, "revision": commit or revision}


def _content_sha256(folder: Path) -> str:
    """Of the configuration, the weights and the tokenizer of a model's folder."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CONTENT for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
