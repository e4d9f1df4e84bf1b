"""Text to token ids and back: bytes, a byte-level BPE trained here, or any Hugging Face tokenizer.

Token borders: our own tokenizers cut at every newline and never let a token reach across one, so
a prompt and its completion that meet at a newline have the same tokens apart as joined. Training
text and sampling prompts therefore agree. A foreign tokenizer gives no such promise.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import tokenizers
from pydantic import Field, model_validator
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from mtp_code.config import Strict
from mtp_code.errors import TokenizerError

TokenIds = npt.NDArray[np.uint32]

END_OF_TEXT: Final = "<|endoftext|>"
DEFINITION_FILE: Final = "tokenizer.json"
SETTINGS_FILE: Final = "tokenizer_config.json"
CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"

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

# What chat templates call by name, but for the end of text.
_CHAT_TOKENS: Final = tuple(f"{name}_token" for name in ("bos", "unk", "sep", "pad", "cls", "mask"))

# How tokenizers that are not byte-level spell what their vocabulary lacks.
_BYTE_TOKEN: Final = re.compile("<0x[0-9A-F]{2}>")


# What fill-in-the-middle's prefix, middle and suffix are marked with: ours first, which other
# families use too.
FIM_TOKENS: Final = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_KNOWN_FIM_TOKENS: Final = (
    FIM_TOKENS,
    ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),
    ("▁<PRE>", "▁<MID>", "▁<SUF>"),
    ("[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
    ("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"),
)
_FIM_KEY: Final = "fim_tokens"
_BEGIN_KEY: Final = "begin_document"
_ENDS_KEY: Final = "answer_ends"

_NUM_BYTES: Final = 256

# Tokens before an answer that decide how its first one is decoded: more than a character's bytes.
_ENOUGH_BEFORE: Final = 8

# Where tokenizers differ: newlines, indentation, digits, contractions, other scripts, white space.
PROBES: Final = (
    "def f(x):\n    return x\n\n\n\tpass  \r\n",
    " it's 12345 + 6.7e-8\n",
    "é 漢字 \U0001f600 \u00a0\u3000",
)


class BytesConfig(Strict):
    """`fim_tokens` adds three that mark fill-in-the-middle."""

    kind: Literal["bytes"]
    fim_tokens: bool = False

    @property
    def vocab_size(self) -> int:
        return _least_vocab_size(self.fim_tokens)


class BpeConfig(Strict):
    """`fim_tokens` adds three that mark fill-in-the-middle; they count towards `vocab_size`."""

    kind: Literal["bpe"]
    vocab_size: int = Field(default=512, ge=257)
    training_bytes: int = Field(default=8_000_000, gt=0)
    fim_tokens: bool = False

    @model_validator(mode="after")
    def _holds_all_bytes(self) -> Self:
        if self.vocab_size < (least := _least_vocab_size(self.fim_tokens)):
            raise ValueError(f"vocab_size = {self.vocab_size} is less than {least}")
        return self


class HuggingFaceConfig(Strict):
    """
    Attributes:
        name: a tokenizer.json, a folder that holds one, or a name on the hub.
        end_of_text: by default, what the tokenizer's settings call `eos_token`.
        fim_tokens: what marks prefix, middle and suffix of fill-in-the-middle; by default, looked
            for under the names that are in use.
    """

    kind: Literal["hugging-face"]
    name: str
    end_of_text: str | None = None
    fim_tokens: tuple[str, str, str] | None = None


TokenizerConfig = Annotated[
    BytesConfig | BpeConfig | HuggingFaceConfig, Field(discriminator="kind")
]


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
            raise TokenizerError(f"not a tokenizer definition: {_first_line(error)}") from error
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
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise _surrogate_error(text) from None

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
            raise TokenizerError(f"its chat template fails: {_first_line(error)}") from error
        return asked

    def encode_chat(self, text: str) -> list[int]:
        """The ids of what `chat` wrote: special tokens spelled in it are read as such.

        Nothing is put before them, for a template writes whatever a chat begins with.

        Raises:
            TokenizerError: the text holds a lone surrogate, which is no Unicode character.
        """
        try:
            return self._chat_backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise _surrogate_error(text) from None

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """`encode` for many texts at once, on all cores."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            raise _surrogate_error("".join(texts)) from None
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
        assert spelled is not None, token_id
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
            settings[_FIM_KEY] = list(self._fim_tokens)
        if self._begin is not None:
            settings[_BEGIN_KEY] = list(self._begin)
        if self._further_ends:
            settings[_ENDS_KEY] = list(self._further_ends)
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
        settings = _json_table(folder / SETTINGS_FILE)
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


class BytesTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, and end of text.

    It is a byte-level BPE without merges, so others can load its files; here a byte needs no
    search for its id.
    """

    def __init__(self, fim_tokens: bool = False) -> None:
        super().__init__(_BYTES_DEFINITIONS[fim_tokens], END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.frombuffer(_utf8(text), dtype=np.uint8).astype(np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(byte for byte in ids if byte < _NUM_BYTES).decode("utf-8", errors="replace")


def build_tokenizer(config: TokenizerConfig, training_texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that the configuration asks for; only a BPE reads the training texts."""
    match config:
        case BytesConfig():
            return BytesTokenizer(config.fim_tokens)
        case BpeConfig():
            return train_bpe(training_texts, config.vocab_size, config.fim_tokens)
        case HuggingFaceConfig():
            return open_hugging_face(config.name, config.end_of_text, config.fim_tokens)


def train_bpe(texts: Iterable[str], vocab_size: int, fim_tokens: bool = False) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` ids, fewer if the texts run out of pairs.

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    if vocab_size < (least := _least_vocab_size(fim_tokens)):
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


def open_hugging_face(
    name: str, end_of_text: str | None = None, fim_tokens: Sequence[str] | None = None
) -> Tokenizer:
    """Somebody else's tokenizer, from disk if `name` exists there, else from the hub.

    Args:
        end_of_text: by default, what its tokenizer_config.json calls `eos_token`.
        fim_tokens: for prefix, middle and suffix; by default what its tokenizer_config.json calls
            `fim_tokens`, or those in use.

    Raises:
        TokenizerError: it is in neither place, or its end of text is unknown.
    """
    path = Path(name)
    if path.is_dir():
        path /= DEFINITION_FILE
    if path.is_file():
        definition = _read(path)
        settings = _settings_beside(path)
        fim_tokens = fim_tokens or settings.get(_FIM_KEY)
    elif path.suffix == ".json" or path.is_absolute() or name.startswith("."):
        raise TokenizerError(f"{path}: no such tokenizer; name a tokenizer.json or its folder")
    else:
        definition, settings = _from_hub(name)
    end_of_text = end_of_text or _spelling(settings.get("eos_token"))
    if end_of_text is None:
        raise TokenizerError(f"{name}: names no end-of-text token; set tokenizer.end_of_text")
    try:
        template, begin = _chat_template(settings), settings.get(_BEGIN_KEY)
        ends = settings.get(_ENDS_KEY, ())
        return Tokenizer(definition, end_of_text, template, fim_tokens, begin, ends)
    except TokenizerError as error:
        raise TokenizerError(f"{name}: {error}") from None


def wrap_foreign(
    foreign: Any, ends: Sequence[str], where: str, model_ends: Sequence[int] = ()
) -> Tokenizer:
    """A tokenizer that transformers has loaded, with its ids, those before a prompt included.

    Args:
        foreign: a fast `transformers` tokenizer.
        ends: tokens that end an answer, as spelled; the first is the end of text. Where there are
            none, its `eos_token` is that, and `model_ends` end answers too.
        model_ends: ids that the model's makers have answers end at.
        where: opens the message of an error.

    Raises:
        TokenizerError: it is no fast one, its end of text is unknown, or transformers does more
            to a text than what its definition says.
    """
    if not foreign.is_fast:
        raise TokenizerError(f"{where}: its tokenizer has no fast form, which is needed here")
    ends = ends or _ends_of(foreign, model_ends)
    if not ends:
        raise TokenizerError(
            f"{where}: names no end-of-text token; name it: mtp-code import --end-of-text"
        )
    begin = foreign.convert_ids_to_tokens(_ids_before_text(foreign))
    settings = {**foreign.special_tokens_map, "chat_template": foreign.chat_template}
    definition = foreign.backend_tokenizer.to_str()
    try:
        template = _chat_template(settings)
        tokenizer = Tokenizer(definition, ends[0], template, None, begin, ends[1:])
    except TokenizerError as error:
        raise TokenizerError(f"{where}: {error}") from None
    for text in PROBES:
        if foreign(text, add_special_tokens=False).input_ids != tokenizer.encode(text):
            raise TokenizerError(
                f"{where}: transformers tokenizes {text!r} otherwise than tokenizer.json says; "
                "such tokenizers are not supported"
            )
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that was saved into a folder.

    Raises:
        TokenizerError: none was, or its files are damaged.
    """
    path = folder / DEFINITION_FILE
    if path.is_file() and (definition := _read(path)) in _BYTES_DEFINITIONS:
        return BytesTokenizer(fim_tokens=definition == _BYTES_DEFINITIONS[True])
    return open_hugging_face(str(path))


def _ends_of(foreign: Any, model_ends: Sequence[int]) -> list[str]:
    """As spelled, its own first: documents end with that. An id that it lacks ends nothing."""
    named = [_spelling(foreign.special_tokens_map.get("eos_token"))]
    named += foreign.convert_ids_to_tokens(list(model_ends))
    return list(dict.fromkeys(token for token in named if token is not None))


def _ids_before_text(foreign: Any) -> list[int]:
    ids, bare = foreign("a").input_ids, foreign("a", add_special_tokens=False).input_ids
    places = (at for at in range(len(ids)) if ids[at : at + len(bare)] == bare)
    return ids[: next(places, 0)]  # type: ignore[no-any-return]


def _from_hub(name: str) -> tuple[str, dict[str, Any]]:
    """Definition and settings, of which the chat template and the special tokens are read here."""
    from transformers import AutoTokenizer  # seconds to import, and only hub names need it

    try:
        foreign: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise TokenizerError(
            f"{name}: neither a tokenizer here nor one to be had from the hub: {_first_line(error)}"
        ) from error
    if not foreign.is_fast:
        raise TokenizerError(f"{name}: has no tokenizer.json; name a tokenizer that has one")
    settings = {**foreign.special_tokens_map, "chat_template": foreign.chat_template}
    return foreign.backend_tokenizer.to_str(), settings


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read: {_first_line(error)}") from error


def _settings_beside(definition_path: Path) -> dict[str, Any]:
    path = definition_path.with_name(SETTINGS_FILE)
    settings = _json_table(path) if path.is_file() else {}
    template_path = definition_path.with_name(CHAT_TEMPLATE_FILE)
    if template_path.is_file():
        settings["chat_template"] = _read(template_path)
    return settings


def _json_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(_read(path))
    except json.JSONDecodeError:
        table = None
    if not isinstance(table, dict):
        raise TokenizerError(f"{path}: not a JSON table; restore it")
    return table


def _chat_template(settings: Mapping[str, Any]) -> ChatTemplate | None:
    source = settings.get("chat_template")
    if isinstance(source, list):  # several, each with its name
        source = {each.get("name"): each.get("template") for each in source}
    if isinstance(source, dict):
        source = source.get("default")
    if not isinstance(source, str):
        return None
    spellings = {name: _spelling(settings.get(name)) for name in _CHAT_TOKENS}
    return ChatTemplate(source, {name: spelled for name, spelled in spellings.items() if spelled})


def _spelling(token: Any) -> str | None:
    """Of a special token in settings: its spelling, or a table of it and how it is matched."""
    spelled = token.get("content") if isinstance(token, dict) else token
    return spelled if isinstance(spelled, str) else None


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


def _least_vocab_size(fim_tokens: bool) -> int:
    return _NUM_BYTES + 1 + len(FIM_TOKENS) * fim_tokens


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        _utf8(text)
        yield text


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _surrogate_error(text) from None


def _surrogate_error(text: str) -> TokenizerError:
    position = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    return TokenizerError(
        f"character {position} of the text is the lone surrogate {text[position]!a}, "
        "which is no Unicode character; take it out"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _byte_level_spelling() -> dict[int, str]:
    """The ByteLevel convention: a byte that prints stands for itself, the others for U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {
        byte: chr(0x100 + i) for i, byte in enumerate(others)
    }


def _bytes_definition(fim_tokens: bool) -> str:
    """A tokenizer.json for plain bytes, spelled out so that no library version changes it."""
    spelling = _byte_level_spelling()
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
_BYTES_DEFINITIONS: Final = (_bytes_definition(False), _bytes_definition(True))
_BYTE_OF_SPELLING: Final = {text: byte for byte, text in _byte_level_spelling().items()}
