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

    def __post_init__(self) -> None:
        """
        Raises:
            PromptError: there is nothing to answer, or an answer would end before it begins.
        """
        if self.max_new_tokens < 1:
            raise PromptError(f"max_new_tokens: must be at least 1, got {self.max_new_tokens}")
        if "" in self.stops:
            raise PromptError("stops: an empty string is in every answer; leave it out")


@dataclass
class Completion:
    """The answer to a request, and what it took.

    `tokens` ends before the end-of-text token; a stop string is still in it, as is what the same
    token brought along behind it.

    Offsets are counted from 2 (the first drafted): `drafted[i]` and `accepted[i]` belong to
    offset i + 2. Each forward commits the drafts that it accepts and one token more, so that
    `num_committed` is `num_forwards` and all accepted ones. Drafts behind the answer's end count
    as neither, nor does one that stood as its last token: the forward brought that one anyway.
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

    def count_drafts(self, num_drafted: int, num_accepted: int) -> None:
        """Notes one round: which of its drafts, in order of offset, stood."""
        for index in range(num_drafted):
            self.drafted[index] += 1
            self.accepted[index] += index < num_accepted


class Answer:
    """A completion in the making: takes tokens one by one until the request is answered."""

    def __init__(
        self, request: Request, tokenizer: Tokenizer, context: int, num_drafts: int
    ) -> None:
        check_prompt(request.prompt, tokenizer.vocab_size)
        room = context - len(request.prompt)
        if room < 1:
            raise PromptError(
                f"prompt: {len(request.prompt)} tokens leave no room in a context of {context}; "
                "shorten it"
            )
        self.completion = Completion(request, drafted=[0] * num_drafts, accepted=[0] * num_drafts)
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

    def commit(self, tokens: Sequence[int]) -> None:
        """Takes what one forward committed: the drafts that stood and a token of its own."""
        # A prompt of one token leaves nothing to draft from before the first forward.
        is_drafted = self.completion.num_forwards > 0 or len(self.completion.request.prompt) > 1
        num_before = self.completion.num_committed
        self._take(tokens)
        num_taken = self.completion.num_committed - num_before
        self.completion.num_forwards += 1
        if is_drafted:
            self.completion.count_drafts(self._num_inside(len(tokens), num_taken), num_taken - 1)

    def _num_inside(self, num_offered: int, num_taken: int) -> int:
        """Drafts of a round that had their place in the answer, and could save a forward."""
        if num_taken < num_offered:
            return num_taken - 1  # it ended with a draft
        num_drafts = len(self.completion.drafted)
        return min(num_drafts, num_taken) if self.is_done else num_drafts

    def _take(self, tokens: Iterable[int]) -> None:
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
