"""What is asked of a decoder, how an answer grows, and when it ends."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveInt

from mtp_code.config import Strict
from mtp_code.errors import PromptError
from mtp_code.tokenizer import Tokenizer

MAX_TOP_LOGPROBS: Final = 20
"""As many alternatives as OpenAI's interface hands out at most."""

_ENOUGH_BEFORE: Final = 8
"""Tokens that may change how the next one is written; special ones are among them."""


class SamplingConfig(Strict):
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: PositiveInt | None = None
    """None is the whole vocabulary."""


@dataclass(frozen=True)
class Request:
    """A prompt in tokens, how to continue it, and where its answer ends at the latest."""

    prompt: Sequence[int]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    seed: int = 0
    sampling: SamplingConfig = SamplingConfig()  # noqa: RUF009 - frozen
    num_logprobs: int | None = None
    """Alternatives whose log-probabilities are wanted beside each token's own; None wants none."""

    def __post_init__(self) -> None:
        """
        Raises:
            PromptError: there is nothing to answer, or an answer would end before it begins.
        """
        if self.max_new_tokens < 1:
            raise PromptError(f"max_new_tokens: must be at least 1, got {self.max_new_tokens}")
        if "" in self.stops:
            raise PromptError("stops: an empty string is in every answer; leave it out")
        if not 0 <= (self.num_logprobs or 0) <= MAX_TOP_LOGPROBS:
            raise PromptError(
                f"num_logprobs: must be in 0..{MAX_TOP_LOGPROBS}, got {self.num_logprobs}"
            )


class TokenLogprobs(NamedTuple):
    """Natural logarithms of what the model gives a token and its likeliest alternatives.

    Of the model's own distribution: before temperature, top-k and top-p.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]
    """Tokens with theirs, likeliest first."""


@dataclass
class Completion:
    """The answer to a request, and what it took.

    `tokens` ends before the token of the tokenizer's `answer_ends` that ended it; a stop string is
    still in it, as is what the same token brought along behind it.

    Offsets are counted from 2 (the first drafted): `drafted[i]` and `accepted[i]` belong to
    offset i + 2. Each forward commits the drafts that it accepts and one token more, so that
    `num_committed` is `num_forwards` and all accepted ones. Drafts behind the answer's end count
    as neither, nor does one that stood as its last token: the forward brought that one anyway.
    `rounds_by_accepted[i]` is the number of forwards that accepted i drafts.

    A request that could not be begun is answered by an `error` of one line, and nothing else. One
    that memory did not suffice for keeps the tokens that it had beside its `error`.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    ended_by: Literal["end of text", "stop", "length"] | None = None
    num_forwards: int = 0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    rounds_by_accepted: list[int] = field(default_factory=list)
    error: str | None = None

    @property
    def num_committed(self) -> int:
        """Tokens with the end of text, which took a forward as well."""
        return len(self.tokens) + (self.ended_by == "end of text")


class Answer:
    """A completion in the making: takes tokens one by one until the request is answered."""

    def __init__(
        self, request: Request, tokenizer: Tokenizer, context: int, num_drafts: int
    ) -> None:
        """
        Args:
            num_drafts: the most that a round may have.

        Raises:
            PromptError: the prompt is empty, outside the vocabulary, or as long as the context.
        """
        check_prompt(request.prompt, tokenizer.vocab_size)
        room = context - len(request.prompt)
        if room < 1:
            raise PromptError(
                f"prompt: {len(request.prompt)} tokens leave no room in a context of {context}; "
                "shorten it"
            )
        self.completion = Completion(
            request,
            logprobs=None if request.num_logprobs is None else [],
            drafted=[0] * num_drafts,
            accepted=[0] * num_drafts,
            rounds_by_accepted=[0] * (num_drafts + 1),
        )
        self.max_new_tokens = min(request.max_new_tokens, room)
        self._tokenizer = tokenizer
        # Of the newest tokens that are text. Each is a byte at least, so a stop string that the
        # newest one ends begins in one of these.
        longest = max((len(stop.encode()) for stop in request.stops), default=0)
        self._places: deque[int] = deque(maxlen=longest)

    @property
    def is_done(self) -> bool:
        return self.completion.ended_by is not None

    def commit(
        self,
        tokens: Sequence[int],
        num_drafts: int,
        logprobs: Sequence[TokenLogprobs] | None = None,
    ) -> None:
        """Takes what one forward committed: the drafts that stood and a token of its own.

        Args:
            num_drafts: how many were made for this forward.
            logprobs: of the tokens, where the request wants them.
        """
        completion = self.completion
        num_before, num_tokens = completion.num_committed, len(completion.tokens)
        self._take(tokens)
        num_taken = completion.num_committed - num_before
        if completion.logprobs is not None:
            assert logprobs is not None
            completion.logprobs += logprobs[: len(completion.tokens) - num_tokens]
        completion.num_forwards += 1
        num_accepted = num_taken - 1
        for index in range(self._num_inside(num_drafts, len(tokens), num_taken)):
            completion.drafted[index] += 1
            completion.accepted[index] += index < num_accepted
        completion.rounds_by_accepted[num_accepted] += 1

    def _num_inside(self, num_drafts: int, num_offered: int, num_taken: int) -> int:
        """Drafts of a round that had their place in the answer, and could save a forward."""
        if num_taken < num_offered:
            return num_taken - 1  # it ended with a draft
        return min(num_drafts, num_taken) if self.is_done else num_drafts

    def _take(self, tokens: Sequence[int]) -> None:
        """Appends tokens up to and including the one that ends the answer; drops the rest."""
        completion = self.completion
        for token in tokens:
            if token in self._tokenizer.answer_ends:
                completion.ended_by = "end of text"
                return
            completion.tokens.append(token)
            if self._holds_stop():
                completion.ended_by = "stop"
                return
            if len(completion.tokens) >= self.max_new_tokens:
                completion.ended_by = "length"
                return

    def _holds_stop(self) -> bool:
        request, tokens = self.completion.request, self.completion.tokens
        if not request.stops:
            return False
        if self._tokenizer.decode(tokens[-1:]):  # or a special token, or a space that is taken off
            self._places.append(len(tokens) - 1)
        start = self._places[0] if len(self._places) == self._places.maxlen else 0
        before = tokens[max(0, start - _ENOUGH_BEFORE) : start]
        before = [*request.prompt[-_ENOUGH_BEFORE:], *before][-_ENOUGH_BEFORE:]
        newest = self._tokenizer.decode_after(before, tokens[start:])
        return any(stop in newest for stop in request.stops)


def check_prompt(prompt: Sequence[int], vocab_size: int) -> None:
    """
    Raises:
        PromptError: the prompt is empty or outside the vocabulary.
    """
    if not prompt:
        raise PromptError("prompt: empty; give at least one token (end of text will do)")
    beyond = next((token for token in prompt if not 0 <= token < vocab_size), None)
    if beyond is not None:
        raise PromptError(f"prompt: token {beyond} is outside the vocabulary of {vocab_size}")
