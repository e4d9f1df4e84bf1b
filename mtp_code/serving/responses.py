"""How answers look in OpenAI's two APIs, whole and in chunks."""

import random
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from mtp_code.decoding.requests import TokenLogprobs
from mtp_code.tokenizer import Tokenizer

CHANCE: Final = random.Random()
"""Seeded by the operating system once: each time asked, it would let go of the interpreter, and get
it back from the engine a good while later."""


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int

    def as_json(self) -> dict[str, int]:
        return {**self._asdict(), "total_tokens": sum(self)}


class Spelling:
    """Tokens as the APIs spell them: text and bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token)

    def text_of(self, token: int) -> str:
        """The token's text; `bytes:` and its bytes, as OpenAI has it, for a part of a character."""
        spelled = self.bytes_of(token)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


class Format:
    """One of the two APIs: how a response and its parts are written."""

    prefix: str
    whole: str
    part: str

    def __init__(self, model_name: str, spelling: Spelling) -> None:
        self._model_name, self._spelling = model_name, spelling
        self._id = f"{self.prefix}-{CHANCE.getrandbits(128):032x}"
        self._created = int(time.time())

    def response(self, choices: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {**self._frame(self.whole), "choices": list(choices), "usage": usage.as_json()}

    def chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._frame(self.part), "choices": list(choices), **more}

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of a chunk that comes before any text, where the API has one."""
        raise NotImplementedError

    def choice(
        self, index: int, text: str, logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def choice_part(
        self, index: int, text: str, logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def logprobs(
        self, tokens: Sequence[int], found: Sequence[TokenLogprobs], starts: Sequence[int]
    ) -> dict[str, Any]:
        """
        Args:
            starts: characters of the answer before each token.
        """
        raise NotImplementedError

    def _frame(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model_name,
        }


class CompletionFormat(Format):
    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def opening(self, index: int) -> None:
        return None

    def choice(
        self, index: int, text: str, logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    choice_part = choice

    def logprobs(
        self, tokens: Sequence[int], found: Sequence[TokenLogprobs], starts: Sequence[int]
    ) -> dict[str, Any]:
        text_of = self._spelling.text_of
        return {
            "tokens": [text_of(token) for token in tokens],
            "token_logprobs": [each.logprob for each in found],
            "top_logprobs": [
                # As OpenAI has it, the token itself is among them even where it is not likely.
                {text_of(one): logprob for one, logprob in each.top}
                | {text_of(token): each.logprob}
                for token, each in zip(tokens, found, strict=True)
            ],
            "text_offset": list(starts),
        }


class ChatFormat(Format):
    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        return self._choice(index, "delta", {"role": "assistant", "content": ""}, None, None)

    def choice(
        self, index: int, text: str, logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return self._choice(index, "message", message, logprobs, finish_reason)

    def choice_part(
        self, index: int, text: str, logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return self._choice(index, "delta", delta, logprobs, finish_reason)

    def logprobs(
        self, tokens: Sequence[int], found: Sequence[TokenLogprobs], starts: Sequence[int]
    ) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._spelled(token, each.logprob),
                    "top_logprobs": [self._spelled(*pair) for pair in each.top],
                }
                for token, each in zip(tokens, found, strict=True)
            ],
            "refusal": None,
        }

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._spelling.text_of(token),
            "logprob": logprob,
            "bytes": list(self._spelling.bytes_of(token)),
        }

    @staticmethod
    def _choice(
        index: int, key: str, said: dict[str, Any], logprobs: Any, finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": index, key: said, "logprobs": logprobs, "finish_reason": finish_reason}
