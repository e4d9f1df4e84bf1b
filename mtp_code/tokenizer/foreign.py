"""Tokenizers from files, the hub, and transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mtp_code.errors import TokenizerError, first_line
from mtp_code.tokenizer.text import (
    BEGIN_KEY,
    DEFINITION_FILE,
    ENDS_KEY,
    FIM_KEY,
    SETTINGS_FILE,
    ChatTemplate,
    Tokenizer,
    json_table,
    read_text,
)

CHAT_TEMPLATE_FILE: Final = "chat_template.jinja"

# What chat templates call by name, but for the end of text.
_CHAT_TOKENS: Final = tuple(f"{name}_token" for name in ("bos", "unk", "sep", "pad", "cls", "mask"))


# Where tokenizers differ: newlines, indentation, digits, contractions, other scripts, white space.
PROBES: Final = (
    "def f(x):\n    return x\n\n\n\tpass  \r\n",
    " it's 12345 + 6.7e-8\n",
    "é 漢字 \U0001f600 \u00a0\u3000",
)


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
        definition = read_text(path)
        settings = _settings_beside(path)
        fim_tokens = fim_tokens or settings.get(FIM_KEY)
    elif path.suffix == ".json" or path.is_absolute() or name.startswith("."):
        raise TokenizerError(f"{path}: no such tokenizer; name a tokenizer.json or its folder")
    else:
        definition, settings = _from_hub(name)
    end_of_text = end_of_text or _spelling(settings.get("eos_token"))
    if end_of_text is None:
        raise TokenizerError(f"{name}: names no end-of-text token; set tokenizer.end_of_text")
    try:
        template, begin = _chat_template(settings), settings.get(BEGIN_KEY)
        ends = settings.get(ENDS_KEY, ())
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
            f"{name}: neither a tokenizer here nor one to be had from the hub: {first_line(error)}"
        ) from error
    if not foreign.is_fast:
        raise TokenizerError(f"{name}: has no tokenizer.json; name a tokenizer that has one")
    settings = {**foreign.special_tokens_map, "chat_template": foreign.chat_template}
    return foreign.backend_tokenizer.to_str(), settings


def _settings_beside(definition_path: Path) -> dict[str, Any]:
    path = definition_path.with_name(SETTINGS_FILE)
    settings = json_table(path) if path.is_file() else {}
    template_path = definition_path.with_name(CHAT_TEMPLATE_FILE)
    if template_path.is_file():
        settings["chat_template"] = read_text(template_path)
    return settings


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
