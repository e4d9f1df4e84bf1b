"""Text to token ids and back, by a tokenizer's definition and the token that ends a text."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, processors

from mtp_code.errors import TokenizerError, first_line
from mtp_code.tokenizer.config import FIM_TOKENS

TokenIds = npt.NDArray[np.uint32]

DEFINITION_FILE: Final = "tokenizer.json"
SETTINGS_FILE: Final = "tokenizer_config.json"

# How tokenizers that are not byte-level spell what their vocabulary lacks.
_BYTE_TOKEN: Final = re.compile("<0x[0-9A-F]{2}>")

_KNOWN_FIM_TOKENS: Final = (
    FIM_TOKENS,
    ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),
    ("▁<PRE>", "▁<MID>", "▁<SUF>"),
    ("[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    ("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"),
)
FIM_KEY: Final = "fim_tokens"
BEGIN_KEY: Final = "begin_document"
ENDS_KEY: Final = "answer_ends"

# Tokens before an answer that decide how its first one is decoded: more than a character's bytes.
_ENOUGH_BEFORE: Final = 8


class FimIds(NamedTuple):
    """The ids that mark the parts of a document in fill-in-the-middle."""

    prefix: int
    middle: int
    suffix: int


@dataclass(frozen=True)
class ChatTemplate:
    """How a model is talked to: a Jinja template, and special tokens that it may call by name.

    `special_tokens` are spellings by names such as `bos_token`. `eos_token` is not among them: it
    is the tokenizer's end of text.
    """

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)


class Tokenizer:
    """A Hugging Face tokenizer definition and the token that ends a text.

    Special tokens are never read out of text, chats excepted: `<|endoftext|>` in a source file is
    thirteen ordinary characters. Decoding leaves special tokens out.
    """

    def __init__(
        self,
        definition: str,
        end_of_text: str,
        chat_template: ChatTemplate | None = None,
        fim_tokens: Sequence[str] | None = None,
        begin_document: Sequence[str] | None = None,
        further_ends: Sequence[str] = (),
    ) -> None:
        """
        Args:
            definition: the content of a tokenizer.json.
            end_of_text: as it is spelled in the vocabulary.
            chat_template: None for a model that is not talked to.
            fim_tokens: as they are spelled for prefix, middle and suffix; by default those in
                use, if the vocabulary has them.
            begin_document: tokens, as spelled, that stand before each document where the model
                was trained, none perhaps; by default end of text.
            further_ends: tokens, as spelled, that end an answer as end of text does: of a chat
                model, what ends a turn.

        Raises:
            TokenizerError: not a tokenizer definition, or without those tokens.
        """
        try:
            backend = tokenizers.Tokenizer.from_str(definition)
        except Exception as error:  # the library raises no narrower one
            raise TokenizerError(f"not a tokenizer definition: {first_line(error)}") from error
        backend.encode_special_tokens = True
        backend.no_padding()
        backend.no_truncation()
        end_of_text_id = backend.token_to_id(end_of_text)
        if end_of_text_id is None:
            raise TokenizerError(
                f"the vocabulary has no {end_of_text!r}; name its end-of-text token"
            )
        self._backend = backend
        self._definition = definition
        self._end_of_text_text = end_of_text
        self.chat_template: Final = chat_template
        self.end_of_text: Final[int] = end_of_text_id
        self._begin = begin_document
        self.begin_document: Final = [
            _id_of(backend, token, "to begin documents with")
            for token in ([end_of_text] if begin_document is None else begin_document)
        ]
        """What stands before the text of a document, and so of a prompt."""
        self._further_ends = tuple(further_ends)
        self.answer_ends: Final = (
            end_of_text_id,
            *(_id_of(backend, token, "to end answers with") for token in further_ends),
        )
        """What ends an answer: end of text, and then others."""
        self._fim_tokens = fim_tokens
        self.fim: Final = _fim_ids(backend, fim_tokens)
        # Some vocabularies have gaps, so their size is not their count.
        self.vocab_size: Final[int] = 1 + max(backend.get_vocab().values())

    @property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give every text the same ids."""
        return hashlib.sha256(f"{self._end_of_text_text}\n{self._definition}".encode()).hexdigest()

    @property
    def definition(self) -> str:
        """The content of its tokenizer.json."""
        return self._definition

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without end of text.

        Raises:
            TokenizerError: the text holds a lone surrogate, which is no Unicode character.
        """
        return _ids(self._backend, text)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that begins a document, behind what began those of training."""
        return [*self.begin_document, *self.encode(text)]

    def chat(self, message: str, answer_begins: str) -> str:
        """A user's message and the beginning of the answer to it, as the chat template has them.

        Raises:
            TokenizerError: there is no template, or it does not take such a message.
        """
        return f"{self.conversation([{'role': 'user', 'content': message}])}{answer_begins}"

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages, each a `role` and its `content`, up to where the next answer begins.

        Raises:
            TokenizerError: there is no chat template, or it does not take such messages.
        """
        if self.chat_template is None:
            raise TokenizerError("this tokenizer has no chat template; put the question otherwise")
        try:
            asked: str = self._foreign.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise anything
            raise TokenizerError(f"its chat template fails: {first_line(error)}") from error
        return asked

    def encode_chat(self, text: str) -> list[int]:
        """The ids of what `chat` wrote: special tokens spelled in it are read as such.

        Nothing is put before them, for a template writes whatever a chat begins with.

        Raises:
            TokenizerError: the text holds a lone surrogate, which is no Unicode character.
        """
        return _ids(self._chat_backend, text)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """`encode` for many texts at once, on all cores."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            raise surrogate_error("".join(texts)) from None
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def encode_after(self, text: str) -> list[int]:
        """The ids of a text that goes on where another ended, tokenized apart from that.

        Differs from `encode` for tokenizers that put a space before a text.

        Raises:
            TokenizerError: the text holds a lone surrogate, which is no Unicode character.
        """
        if self._is_byte_level:
            return self.encode(text)
        before, joined = self.encode("\n"), self.encode(f"\n{text}")
        return joined[len(before) :] if joined[: len(before)] == before else self.encode(text)

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text of ids that go on where others ended.

        Differs from `decode` for tokenizers that take a space off the start of a text: without
        what is before it, an answer would lose a space of its indentation.
        """
        if self._is_byte_level:
            return self.decode(ids)
        before = list(before)[-_ENOUGH_BEFORE:]
        known, text = self.decode(before), self.decode([*before, *ids])
        return text.removeprefix(known) if text.startswith(known) else self.decode(ids)

    @property
    def _is_byte_level(self) -> bool:
        return isinstance(self._backend.decoder, decoders.ByteLevel)

    def spelled(self, token_id: int) -> str:
        """An id as the vocabulary has it."""
        spelled = self._backend.id_to_token(token_id)
        assert spelled is not None, f"{token_id} is no token"
        return spelled

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that an id stands for in a text; none for special tokens."""
        spelled = self._backend.id_to_token(token_id)
        added = self._backend.get_added_tokens_decoder().get(token_id)
        if spelled is None or (added is not None and added.special):
            return b""
        if added is None and isinstance(self._backend.decoder, decoders.ByteLevel):
            return bytes(_BYTE_OF_SPELLING[character] for character in spelled)
        if _BYTE_TOKEN.fullmatch(spelled):
            return bytes([int(spelled[3:-1], base=16)])
        return spelled.replace("\u2581", " ").encode()

    def token_num_bytes(self) -> npt.NDArray[np.int64]:
        """How many bytes of UTF-8 each id stands for; none for special tokens.

        Sums to the bytes of the text for byte-level tokenizers, which most are. A tokenizer that
        marks spaces with U+2581 may add one at the start of a text that is not there.
        """
        added = self._backend.get_added_tokens_decoder()
        num_bytes = np.zeros(self.vocab_size, dtype=np.int64)
        for token, token_id in self._backend.get_vocab().items():
            if token_id in added:
                num_bytes[token_id] = 0 if added[token_id].special else len(token.encode())
            elif self._is_byte_level:
                num_bytes[token_id] = len(token)  # spelled with one character for each byte
            elif _BYTE_TOKEN.fullmatch(token):
                num_bytes[token_id] = 1
            else:
                num_bytes[token_id] = len(token.replace("\u2581", " ").encode())
        return num_bytes

    def save(self, folder: Path) -> None:
        """Write the two files from which `load_tokenizer`, or `transformers`, restores it."""
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self._end_of_text_text,
            "clean_up_tokenization_spaces": False,
        }
        if self._fim_tokens is not None:
            settings[FIM_KEY] = list(self._fim_tokens)
        if self._begin is not None:
            settings[BEGIN_KEY] = list(self._begin)
        if self._further_ends:
            settings[ENDS_KEY] = list(self._further_ends)
        if self.chat_template is not None:
            settings |= self.chat_template.special_tokens
            settings["chat_template"] = self.chat_template.source
        (folder / DEFINITION_FILE).write_text(self._definition, encoding="utf-8")
        (folder / SETTINGS_FILE).write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def save_for_others(self, folder: Path, context: int) -> None:
        """Write it so that `transformers` gives a prompt the ids of `encode_prompt`.

        Without a chat template, special tokens spelled in a text stay text there too; with one,
        they are read as such, as templates need it.

        Args:
            context: the model's, in tokens.
        """
        self.save(folder)
        begins = [self.spelled(token) for token in self.begin_document]
        backend = tokenizers.Tokenizer.from_str(self._definition)
        backend.no_padding()
        backend.no_truncation()
        backend.post_processor = processors.TemplateProcessing(
            single=[*begins, "$A"],
            pair=[*begins, "$A", *(f"{token}:1" for token in begins), "$B:1"],
            special_tokens=list(zip(begins, self.begin_document, strict=True)),
        )
        (folder / DEFINITION_FILE).write_text(backend.to_str(), encoding="utf-8")
        settings = json_table(folder / SETTINGS_FILE)
        settings |= {
            "bos_token": begins[0] if begins else None,
            "pad_token": self._end_of_text_text,
            "split_special_tokens": self.chat_template is None,
            "model_max_length": context,
        }
        (folder / SETTINGS_FILE).write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @functools.cached_property
    def _chat_backend(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer.from_str(self._definition)
        backend.encode_special_tokens = False
        backend.no_padding()
        backend.no_truncation()
        return backend

    @functools.cached_property
    def _foreign(self) -> Any:
        """The tokenizer as `transformers` has it, which knows what templates may call."""
        import transformers  # seconds to import, and only chats need it

        assert self.chat_template is not None
        kind: Any = transformers.PreTrainedTokenizerFast
        return kind(
            tokenizer_object=tokenizers.Tokenizer.from_str(self._definition),
            chat_template=self.chat_template.source,
            eos_token=self._end_of_text_text,
            **self.chat_template.special_tokens,
        )


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read: {first_line(error)}") from error


def json_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_text(path))
    except json.JSONDecodeError:
        table = None
    if not isinstance(table, dict):
        raise TokenizerError(f"{path}: not a JSON table; restore it")
    return table


def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        return backend.encode(text, add_special_tokens=False).ids
    except TypeError:
        raise surrogate_error(text) from None


def _id_of(backend: tokenizers.Tokenizer, spelled: str, use: str) -> int:
    token_id = backend.token_to_id(spelled)
    if token_id is None:
        raise TokenizerError(f"the vocabulary has no {spelled!r} {use}")
    return int(token_id)


def _fim_ids(backend: tokenizers.Tokenizer, spelled: Sequence[str] | None) -> FimIds | None:
    for tokens in _KNOWN_FIM_TOKENS if spelled is None else (spelled,):
        found = {token: backend.token_to_id(token) for token in tokens}
        ids = [token_id for token_id in found.values() if token_id is not None]
        if len(ids) == len(FIM_TOKENS):
            return FimIds(*ids)
        if spelled is not None:
            missing = next(token for token, token_id in found.items() if token_id is None)
            raise TokenizerError(f"the vocabulary has no {missing!r}; set tokenizer.fim_tokens")
    return None


def utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise surrogate_error(text) from None


def surrogate_error(text: str) -> TokenizerError:
    position = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    return TokenizerError(
        f"character {position} of the text is the lone surrogate {text[position]!a}, "
        "which is no Unicode character; take it out"
    )


def byte_level_spelling() -> dict[int, str]:
    """The ByteLevel convention: a byte that prints stands for itself, the others for U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {
        byte: chr(0x100 + i) for i, byte in enumerate(others)
    }


_BYTE_OF_SPELLING: Final = {text: byte for byte, text in byte_level_spelling().items()}
