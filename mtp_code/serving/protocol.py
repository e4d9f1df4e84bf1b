"""What may be asked: OpenAI's parameters, as far as the engine honours them.

A parameter that would change the answer and is not honoured is refused by name. One that changes
nothing, as it is given, is let pass.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mtp_code.decoding.requests import MAX_TOP_LOGPROBS
from mtp_code.serving.errors import bad_request

MAX_CHOICES: Final = 128
_MAX_STOPS: Final = 32  # each token of an answer is searched for all of them
_MAX_STOP_CHARACTERS: Final = 1000
_DEFAULT_MAX_TOKENS: Final = 16  # of /v1/completions, as OpenAI has it

# Bookkeeping of OpenAI's: no answer depends on it.
_WITHOUT_EFFECT: Final = {
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "parallel_tool_calls",
}
# Others of OpenAI's and vLLM's, with what they are when they change nothing.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Asked):
    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against eavesdroppers who measure; there is none here."""


class Generation(BaseModel):
    """What both APIs take."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Not OpenAI's but vLLM's; 0 and −1 are all tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def num_prompts(self) -> int:
        return 1

    @property
    def num_characters(self) -> int:
        """Of what there is to tokenize."""
        raise NotImplementedError

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def num_top_logprobs(self) -> int | None:
        """Alternatives beside each token's log-probability; None: no log-probabilities."""
        raise NotImplementedError

    @property
    def max_new_tokens(self) -> int | None:
        """None: as many as the context has room for."""
        raise NotImplementedError

    @property
    def names_max_tokens(self) -> bool:
        """Whether that is the client's wish rather than the API's default."""
        raise NotImplementedError

    def check(self) -> None:
        """
        Raises:
            ApiError: a parameter is not supported, or does not go with another.
        """
        for name, value in (self.model_extra or {}).items():
            is_neutral = value is None or value in _NEUTRAL.get(name, ())
            if not is_neutral and name not in _WITHOUT_EFFECT:
                raise bad_request(
                    f"{name}: not supported by this server; leave it out",
                    name,
                    "unsupported_parameter",
                )
        if "" in self.stops:
            raise bad_request("stop: an empty string is in every answer; leave it out", "stop")
        if len(self.stops) > _MAX_STOPS:
            raise bad_request(f"stop: {len(self.stops)} strings; give {_MAX_STOPS} at most", "stop")
        longest = max(map(len, self.stops), default=0)
        if longest > _MAX_STOP_CHARACTERS:
            raise bad_request(
                f"stop: a string of {longest} characters; give {_MAX_STOP_CHARACTERS} at most",
                "stop",
            )
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options: only with stream = true", "stream_options")


class CompletionRequest(Generation):
    """Of `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, in text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]

    @property
    def num_prompts(self) -> int:
        return len(self.prompts)

    @property
    def num_characters(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def num_top_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens or _DEFAULT_MAX_TOKENS

    @property
    def names_max_tokens(self) -> bool:
        return self.max_tokens is not None

    def check(self) -> None:
        super().check()
        if not self.prompt:
            if self.prompt == "":
                return
            raise bad_request("prompt: an empty list; give at least one prompt", "prompt")
        if self.best_of not in (None, self.num_choices):
            raise bad_request(
                "best_of: not supported by this server; leave it out, or make it n",
                "best_of",
                "unsupported_parameter",
            )
        if self.echo and self.logprobs is not None:
            raise bad_request(
                "echo: not supported together with logprobs; leave one out",
                "echo",
                "unsupported_parameter",
            )


class TextPart(_Asked):
    type: Literal["text"]
    text: str


class Message(_Asked):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(Generation):
    """Of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def num_top_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def max_new_tokens(self) -> int | None:
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def names_max_tokens(self) -> bool:
        return self.max_new_tokens is not None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs: only with logprobs = true", "top_logprobs")

    @property
    def num_characters(self) -> int:
        return sum(len(message.text) for message in self.messages)

    def turns(self) -> Iterator[dict[str, str]]:
        """The messages as chat templates take them."""
        for message in self.messages:
            yield {"role": message.role, "content": message.text}
