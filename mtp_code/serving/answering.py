"""From a request to its response: prompts to jobs, deltas to text, text to JSON."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

from mtp_code.decoding.requests import Request, SamplingConfig, TokenLogprobs, check_prompt
from mtp_code.errors import PromptError, TokenizerError
from mtp_code.serving.errors import TIMEOUT, ApiError, bad_request, client_gone
from mtp_code.serving.metrics import FINISH_REASONS
from mtp_code.serving.protocol import ChatRequest, CompletionRequest, Generation
from mtp_code.serving.responses import CHANCE, Format, Usage
from mtp_code.serving.text import AnswerText
from mtp_code.serving.worker import Delta, Job, Worker
from mtp_code.tokenizer import Tokenizer

_END_OF_STREAM: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and what of it the answer begins with."""

    tokens: Sequence[int]
    echoed: str = ""


def prompts_of(asked: Generation, tokenizer: Tokenizer) -> list[Prompt]:
    """
    Raises:
        ApiError: a prompt is no text or not in the vocabulary, or the model cannot be talked to.
    """
    try:
        if isinstance(asked, ChatRequest):
            return [Prompt(tokenizer.encode_chat(tokenizer.conversation(list(asked.turns()))))]
        assert isinstance(asked, CompletionRequest)
        prompts = []
        for prompt in asked.prompts:
            if isinstance(prompt, str):
                tokens, echoed = tokenizer.encode_prompt(prompt), prompt if asked.echo else ""
            else:
                check_prompt(prompt, tokenizer.vocab_size)
                tokens, echoed = prompt, tokenizer.decode(prompt) if asked.echo else ""
            prompts.append(Prompt(tokens, echoed))
        return prompts
    except PromptError as error:
        raise bad_request(str(error), "prompt") from None
    except TokenizerError as error:
        param = "messages" if isinstance(asked, ChatRequest) else "prompt"
        raise bad_request(f"{param}: {error}", param) from None


def seed_of(seed: int, index: int) -> int:
    """What choice `index` of a request with this seed is drawn with, 0 … 2⁶³ − 1.

    A function of these two alone, so that a choice is the same alone as among others.
    """
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def requests_of(asked: Generation, prompts: Sequence[Prompt], context: int) -> Iterator[Request]:
    """One for each choice: all of the first prompt, then all of the second, …

    Raises:
        ApiError: a prompt and what may follow it are longer than the context.
    """
    sampling = SamplingConfig(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k if asked.top_k and asked.top_k > 0 else None,
    )
    for prompt in prompts:
        seed = CHANCE.getrandbits(63) if asked.seed is None else asked.seed
        max_new_tokens = _max_new_tokens(asked, len(prompt.tokens), context)
        for index in range(asked.num_choices):
            yield Request(
                prompt.tokens,
                max_new_tokens,
                asked.stops,
                seed_of(seed, index),
                sampling,
                asked.num_top_logprobs,
            )


def _max_new_tokens(asked: Generation, num_prompt: int, context: int) -> int:
    room, wanted = context - num_prompt, asked.max_new_tokens
    param = "messages" if isinstance(asked, ChatRequest) else "prompt"
    if num_prompt == 0:
        raise bad_request(f"{param}: empty; give at least one token", param)
    if room < 1:
        raise bad_request(
            f"{param}: {num_prompt} tokens leave no room in a context of {context}; shorten it",
            param,
            "context_length_exceeded",
        )
    if not asked.names_max_tokens:
        return room if wanted is None else min(wanted, room)
    assert wanted is not None
    if wanted > room:
        raise bad_request(
            f"{param}: {num_prompt} tokens and max_tokens = {wanted} are more than a context of "
            f"{context}; shorten it, or ask for at most {room}",
            param,
            "context_length_exceeded",
        )
    return wanted


@dataclass(frozen=True)
class _Piece:
    """New text of one choice."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class _Choice:
    """One answer in the making."""

    def __init__(self, index: int, job: Job, text: AnswerText, echoed: str) -> None:
        self._index, self._job, self._text = index, job, text
        self._untold = echoed
        self._tokens: list[int] = []  # kept for their log-probabilities, if they are wanted
        self._logprobs: list[TokenLogprobs] = []
        self._num_told = 0  # of them
        self.num_generated = 0

    def take(self, delta: Delta, form: Format) -> _Piece:
        """
        Raises:
            ApiError: the answer failed.
        """
        if delta.error is not None:
            raise delta.error
        text = self._untold + self._text.push(delta.tokens, delta.is_last)
        self._untold = ""
        self.num_generated = delta.num_generated
        reason = None if delta.ended_by is None else FINISH_REASONS[delta.ended_by]
        logprobs = None
        if self._job.request.num_logprobs is not None:
            logprobs = self._newly_told(delta, form)
        return _Piece(self._index, text, logprobs, reason)

    def _newly_told(self, delta: Delta, form: Format) -> dict[str, Any] | None:
        """Log-probabilities of the tokens of which some text was told by now."""
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        starts, first = self._text.starts, self._num_told
        is_all_told = delta.is_last and not self._text.is_stopped
        while self._num_told < len(starts) and (
            is_all_told or starts[self._num_told] < self._text.num_released
        ):
            self._num_told += 1
        told = slice(first, self._num_told)
        if first == self._num_told and not delta.is_last:
            return None
        return form.logprobs(self._tokens[told], self._logprobs[told], starts[told])


class Answering:
    """Answers one request of either API.

    Args:
        prompts: what `prompts_of` made of it.
        deadline_s: when all of it must be answered, by the event loop's clock.
        timeout_s: how long that was from when it came.
    """

    def __init__(
        self,
        worker: Worker,
        tokenizer: Tokenizer,
        context: int,
        asked: Generation,
        prompts: Sequence[Prompt],
        form: Format,
        deadline_s: float,
        timeout_s: float,
    ) -> None:
        """
        Raises:
            ApiError: it cannot be answered, or not now.
        """
        self._worker, self._asked, self._form = worker, asked, form
        self._prompts, self._deadline_s, self._timeout_s = prompts, deadline_s, timeout_s
        self._deltas: asyncio.Queue[tuple[Job, Delta]] = asyncio.Queue()
        self._choices: dict[Job, _Choice] = {}
        for index, request in enumerate(requests_of(asked, self._prompts, context)):
            job = Job(request, self._deltas, wants_deltas=bool(asked.stream))
            wants_starts = asked.num_top_logprobs is not None
            text = AnswerText(tokenizer, request.prompt, asked.stops, wants_starts)
            echoed = self._prompts[index // asked.num_choices].echoed
            self._choices[job] = _Choice(index, job, text, echoed)
        self._num_unfinished = len(self._choices)
        worker.submit(list(self._choices))

    def cancel(self) -> None:
        """Frees what is still held: nobody listens any more."""
        self._worker.cancel(list(self._choices))

    def give_up(self) -> None:
        """Ends the answer with an error: nobody listens any more."""
        self._deltas.put_nowait((next(iter(self._choices)), Delta(error=client_gone())))

    async def whole(self) -> bytes:
        """The response.

        Raises:
            ApiError: an answer failed, or took too long.
        """
        pieces = [piece async for piece in self._pieces()]
        choices = [
            self._form.choice(piece.index, piece.text, piece.logprobs, piece.finish_reason)
            for piece in sorted(pieces, key=lambda piece: piece.index)
        ]
        return to_json(self._form.response(choices, self._usage()))

    async def events(self) -> AsyncIterator[tuple[bytes, bool]]:
        """The response in server-sent events, and whether they are the last.

        What went wrong is the last of them.
        """
        more = {"usage": None} if self._asked.includes_usage else {}
        openings = [self._form.opening(index) for index in range(len(self._choices))]
        events = b"".join(_event(self._form.chunk([one], **more)) for one in openings if one)
        try:
            if events:
                yield events, False
            async for piece in self._pieces():
                events = b""
                if piece.text or piece.logprobs or piece.finish_reason:
                    part = self._form.choice_part(
                        piece.index, piece.text, piece.logprobs, piece.finish_reason
                    )
                    events = _event(self._form.chunk([part], **more))
                if events and self._num_unfinished:
                    yield events, False
        except ApiError as error:
            yield _event(error.body), True
            return
        if self._asked.includes_usage:
            events += _event(self._form.chunk([], usage=self._usage().as_json()))
        yield events + _END_OF_STREAM, True

    async def _pieces(self) -> AsyncIterator[_Piece]:
        """Of all choices, as they come.

        Raises:
            ApiError: an answer failed, or took too long.
        """
        any_job = next(iter(self._choices))
        # One timer for all: a timeout around each wait costs more than the rest of it.
        timer = asyncio.get_running_loop().call_at(
            self._deadline_s, self._deltas.put_nowait, (any_job, Delta(error=self._too_late()))
        )
        try:
            while self._num_unfinished:
                job, delta = await self._deltas.get()
                self._num_unfinished -= delta.is_last
                yield self._choices[job].take(delta, self._form)
        finally:
            timer.cancel()

    def _too_late(self) -> ApiError:
        said = f"not answered in {self._timeout_s:g} s; ask for fewer tokens"
        return ApiError(504, said, TIMEOUT, code="timeout")

    def _usage(self) -> Usage:
        return Usage(
            sum(len(prompt.tokens) for prompt in self._prompts),
            sum(choice.num_generated for choice in self._choices.values()),
        )


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"
