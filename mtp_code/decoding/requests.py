"""What is asked of a decoder, how an answer grows, and when it ends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mtp_code.decoding.sampling import uniforms_for
from mtp_code.errors import PromptError
from mtp_code.tokenizer import Tokenizer


@dataclass(frozen=True)
class Request:
    """A prompt in tokens, and where its answer ends at the latest."""

    prompt: Sequence[int]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    seed: int = 0


@dataclass
class Completion:
    """The answer to a request, and what it took.

    `tokens` ends before the end-of-text token; a stop string is still in it, as is what the same
    token brought along behind it.

    Offsets are counted from 2 (the first drafted): `drafted[i]` and `accepted[i]` belong to
    offset i + 2.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    ended_by: Literal["end of text", "stop", "length"] | None = None
    num_forwards: int = 0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def num_committed(self) -> int:
        """Tokens with the end of text, which took a forward as well."""
        return len(self.tokens) + (self.ended_by == "end of text")

    def count_drafts(self, num_drafts: int, num_accepted: int) -> None:
        """Notes one round: which of its drafts, in order of offset, stood."""
        for index in range(num_drafts):
            if index == len(self.drafted):
                self.drafted.append(0)
                self.accepted.append(0)
            self.drafted[index] += 1
            self.accepted[index] += index < num_accepted


class Answer:
    """A completion in the making: takes tokens one by one until the request is answered."""

    def __init__(self, request: Request, tokenizer: Tokenizer, context: int) -> None:
        if not request.prompt:
            raise PromptError("prompt: empty; give at least one token (end of text will do)")
        room = context - len(request.prompt)
        if room < 1:
            raise PromptError(
                f"prompt: {len(request.prompt)} tokens leave no room in a context of {context}; "
                "shorten it"
            )
        beyond = [token for token in request.prompt if not 0 <= token < tokenizer.vocab_size]
        if beyond:
            raise PromptError(
                f"prompt: token {beyond[0]} is outside the vocabulary of {tokenizer.vocab_size}"
            )
        self.completion = Completion(request)
        self._uniforms: list[float] | None = None
        self.max_new_tokens = min(request.max_new_tokens, room)
        self._tokenizer = tokenizer
        # A token is at least a byte, so a stop string that the newest token ends lies in these.
        self._window = max((len(stop.encode()) for stop in request.stops), default=0)

    @property
    def is_done(self) -> bool:
        return self.completion.ended_by is not None

    def next_uniforms(self, count: int) -> list[float]:
        """The draws that decide the next tokens, each a function of the request's seed and place.

        Those of places behind the longest possible answer are 0.
        """
        if self._uniforms is None:
            self._uniforms = uniforms_for(self.completion.request.seed, self.max_new_tokens)
        start = len(self.completion.tokens)
        draws = self._uniforms[start : start + count]
        return draws + [0.0] * (count - len(draws))

    def take(self, tokens: Iterable[int]) -> None:
        """Appends tokens up to and including the one that ends the answer; drops the rest."""
        for token in tokens:
            if self.is_done:
                return
            if token == self._tokenizer.end_of_text:
                self.completion.ended_by = "end of text"
                return
            self.completion.tokens.append(token)
            if self._holds_stop():
                self.completion.ended_by = "stop"
            if not self.is_done and len(self.completion.tokens) >= self.max_new_tokens:
                self.completion.ended_by = "length"

    def _holds_stop(self) -> bool:
        if not self._window:
            return False
        newest = self._tokenizer.decode(self.completion.tokens[-self._window :])
        return any(stop in newest for stop in self.completion.request.stops)
