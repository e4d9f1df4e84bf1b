"""Any model behind an endpoint that speaks OpenAI's protocol: completions and chats."""

import asyncio
import email.utils
import itertools
import logging
import os
import random
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mtp_code.errors import InputError, MachineError
from mtp_code.machine import describe_versions
from mtp_code.samplers.base import Asked, Chat, Drawing, Question, cut_at_stops

OPENAI = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
FEW_STOPS = 4
"""Stop strings that every endpoint takes; OpenAI's takes no more."""
LONGEST_SAID = 300
"""Characters of what an endpoint says that are shown."""
LONGEST_BACK_OFF_S = 60.0
LONGEST_RETRY_AFTER_S = 3600.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How hard an endpoint is asked.

    Attributes:
        concurrent: requests under way at once.
        requests_per_minute: begun in a minute, retries included; None is no limit.
        timeout_s: for one request.
        retries: of one request, before the command gives up; what was answered is kept.
    """

    concurrent: int = 8
    requests_per_minute: float | None = None
    timeout_s: float = 600.0
    retries: int = 8


class EndpointSampler:
    """Asks by the official client, which is given the key and nothing else that is secret.

    The key comes from an environment variable and stays in this process's memory: it is in no
    description, and struck out of whatever the endpoint says before that is shown.

    Args:
        model: its name there.
        endpoint: base URL, such as http://localhost:8000/v1.
        key_variable: the environment variable that holds the key; it may be unset for an endpoint
            that wants none.
        limits: how hard it is asked.

    Raises:
        InputError: the URL is none, or holds what should be secret; the key is none.
        MachineError: the client is not installed.
    """

    name = "openai"
    begins_answers = False

    def __init__(
        self,
        model: str,
        endpoint: str = OPENAI,
        key_variable: str = KEY_VARIABLE,
        limits: Limits = Limits(),
    ) -> None:
        try:
            import openai
        except ImportError:
            raise MachineError("the client is not installed; pip install 'mtp-code[api]'") from None
        _check_url(endpoint)
        self._openai: Any = openai
        self._endpoint, self._limits, self._key_variable = endpoint, limits, key_variable
        self._key = _key_in(key_variable)
        self._pace = _Pace(limits.requests_per_minute)
        self._num_stops: int | None = None
        self._is_told = False  # that it is tried again, since something was last answered
        self.chat: Chat | None = lambda message, answer_begins: message
        self.model: dict[str, Any] = {"model": model, "endpoint": endpoint.rstrip("/")}
        versions = describe_versions()
        self.versions: dict[str, str] = {
            name: versions[name] for name in ("python", "mtp-code") if name in versions
        }
        self.versions["openai"] = openai.__version__

    def draw(self, asked: Iterable[Asked], drawing: Drawing) -> Iterator[tuple[Asked, str]]:
        """Each question with its answer, as they come in.

        Raises:
            InputError: the endpoint refuses, or fails more often than it may.
        """
        # Retries are ours: the client's do not wait longer than a minute, nor one for all.
        client = self._openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._endpoint,
            timeout=self._limits.timeout_s,
            max_retries=0,
        )
        waiting = iter(asked)
        under_way: dict[asyncio.Task[str], Asked] = {}
        # Its loop runs only while an answer is waited for. Tasks, for they end at once when they
        # are of no use any more, whatever they wait for; a thread that reads would not.
        with asyncio.Runner() as runner:
            self._pace.open()
            try:
                while True:
                    for question in itertools.islice(
                        waiting, self._limits.concurrent - len(under_way)
                    ):
                        answer = self._answer(client, question, drawing)
                        under_way[runner.get_loop().create_task(answer)] = question
                    if not under_way:
                        return
                    done = runner.run(_some_of(under_way))
                    # What was answered is kept, whatever fails beside it.
                    for task in sorted(done, key=lambda task: task.exception() is not None):
                        yield under_way.pop(task), task.result()
            finally:
                runner.run(_cut_off(under_way, client))

    async def _answer(self, client: Any, question: Question, drawing: Drawing) -> str:
        num_refusals = 0
        while True:
            await self._pace.wait()
            num_stops = self._num_stops
            try:
                text = _text_of(await self._ask(client, question, drawing, num_stops))
            except self._openai.BadRequestError as error:
                if num_stops is None and len(question.stops) > FEW_STOPS and _blames_stops(error):
                    self._num_stops = FEW_STOPS  # the others are cut at here
                    continue
                raise self._refused(question, error) from None
            except (
                self._openai.APIStatusError,
                self._openai.APIConnectionError,
                _BrokenAnswer,
                ValueError,  # what came with status 200 is no JSON
            ) as error:
                refusal = self._refused(question, error)
                if not _passes(error):
                    raise refusal from None
                if num_refusals == self._limits.retries:
                    raise InputError(
                        f"{refusal}; gave up after {num_refusals} retries; what was answered is "
                        "kept: run the same command again to go on"
                    ) from None
                if not self._is_told:
                    log.warning("%s; trying again", refusal)
                    self._is_told = True
                failure: Any = error
                if _is_busy(failure):
                    self._pace.pause(_seconds_to_wait(failure.response.headers, num_refusals))
                else:
                    await asyncio.sleep(_back_off_s(num_refusals))
                num_refusals += 1
            else:
                if self._key and self._key in text:
                    raise InputError(
                        f"{self._endpoint}: its answer to {question.task_id} spells out the API "
                        "key, so nothing of it is kept; do not trust this endpoint"
                    )
                self._is_told = False
                return cut_at_stops(text, question.stops)

    async def _ask(
        self, client: Any, question: Question, drawing: Drawing, num_stops: int | None
    ) -> Any:
        settings: dict[str, Any] = {
            "model": self.model["model"],
            "temperature": drawing.temperature,
            "top_p": drawing.top_p,
            "seed": question.seed,
        }
        if stops := list(question.stops[:num_stops]):
            settings["stop"] = stops
        if not question.is_chat:
            settings["max_tokens"] = drawing.max_new_tokens
            return await client.completions.create(prompt=question.prompt, **settings)
        settings["max_completion_tokens"] = drawing.max_new_tokens
        messages = [{"role": "user", "content": question.prompt}]
        return await client.chat.completions.create(messages=messages, **settings)

    def _refused(self, question: Question, error: Exception) -> InputError:
        """One line: who refused what, and what would help."""
        status = getattr(error, "status_code", None)
        said = _cut(self._struck_out(_message_of(error)))
        model = self.model["model"]
        match status:
            case 401 | 403:
                what = (
                    f"refuses the key in {self._key_variable}"
                    if self._key
                    else f"wants a key; set {self._key_variable}"
                )
                return InputError(f"{self._endpoint}: {what} ({said})")
            case 404:
                path = "/chat/completions" if question.is_chat else "/completions"
                other = "a plain one" if question.is_chat else "chat-reply"
                return InputError(
                    f"{self._endpoint}: has no {path} for model {model} ({said}); check the URL "
                    f"and the name, or try another --prompt-format ({other})"
                )
            case 400 if "context" in said or "too long" in said or "max_tokens" in said:
                return InputError(
                    f"{self._endpoint}: {question.task_id} does not fit {model}'s context "
                    f"({said}); lower --max-new-tokens"
                )
            case None:
                return InputError(f"{self._endpoint}: {said}")
            case _:
                return InputError(f"{self._endpoint}: {question.task_id}: status {status}: {said}")

    def _struck_out(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _BrokenAnswer(Exception):  # noqa: N818 - states what is so
    """An answer with status 200 that holds no text."""


class _Pace:
    """When requests may begin: so many a minute, and none while the endpoint wants a pause."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = 0.0
        self._turn = asyncio.Lock()

    def open(self) -> None:
        """For the event loop of those who will wait; a lock belongs to one."""
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Returns when one more request may begin."""
        async with self._turn:
            # Again after each sleep: a pause may have begun meanwhile.
            while (left_s := self._next_s - time.monotonic()) > 0:
                await asyncio.sleep(left_s)
            self._next_s = time.monotonic() + self._interval_s

    def pause(self, seconds: float) -> None:
        """No request begins for so long, whoever's."""
        self._next_s = max(self._next_s, time.monotonic() + seconds)


async def _some_of(under_way: Collection[asyncio.Task[str]]) -> set[asyncio.Task[str]]:
    """Those done, once there are any."""
    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    return done


async def _cut_off(under_way: Collection[asyncio.Task[str]], client: Any) -> None:
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    await client.close()


def _key_in(variable: str) -> str:
    """The key, empty where there is none.

    Raises:
        InputError: no header can carry it. What then fails would print it, in other spellings.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"{variable}: holds no key: there are spaces, line breaks or characters beyond ASCII "
            "in it; set it to the key alone"
        )
    return key


def _check_url(endpoint: str) -> None:
    """
    Raises:
        InputError: no URL of a web server, or one with a secret in it.
    """
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if parts is not None and (parts.username or parts.password or parts.query or parts.fragment):
        raise InputError(
            f"--endpoint {parts.scheme}://{host}…: holds more than a place, and it is written down "
            "with the samples; leave out user, password and query, and put the key into the "
            "environment"
        )
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise InputError(
            f"--endpoint {endpoint}: no URL of a server, such as http://localhost:8000/v1"
        )


def _text_of(answer: Any) -> str:
    """What the model wrote.

    Raises:
        _BrokenAnswer: there is nothing of the kind.
    """
    try:
        choice = answer.choices[0]
        message = getattr(choice, "message", None)
        if message is not None:
            return message.content or ""
        text = choice.text
    except (AttributeError, IndexError, TypeError):
        raise _BrokenAnswer("an answer without a completion") from None
    if not isinstance(text, str):
        raise _BrokenAnswer("an answer without a completion")
    return text


def _passes(error: Exception) -> bool:
    """Whether the same request might be answered another time."""
    if getattr(error, "code", None) == "insufficient_quota":
        return False
    status = getattr(error, "status_code", None)
    return status in (None, 408, 409) or _is_busy(error)


def _is_busy(error: Exception) -> bool:
    """Whether the endpoint has too much to do, or fails: others need not ask it now either."""
    status = getattr(error, "status_code", 0)
    return bool(status == 429 or status >= 500)


def _blames_stops(error: Any) -> bool:
    return getattr(error, "param", None) == "stop" or "stop" in _message_of(error)


def _message_of(error: Exception) -> str:
    """The endpoint's own words where it has some, in one line, however long."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error")
    text = body if isinstance(body, str) else str(error)
    cause = error.__cause__
    if cause is not None and str(cause):
        text = f"{text} ({cause})"
    return " ".join(text.split()) or type(error).__name__


def _cut(text: str) -> str:
    """What is shown; cut once the key is struck out, or its beginning would stay."""
    return text[:LONGEST_SAID]


def _seconds_to_wait(headers: Mapping[str, str], attempt: int) -> float:
    """What the endpoint asks for in Retry-After (RFC 9110, section 10.2.3), else a back-off."""
    asked = headers.get("retry-after")
    if asked is None:
        return _back_off_s(attempt)
    try:
        seconds = float(asked)
    except ValueError:
        try:
            at = email.utils.parsedate_to_datetime(asked)
            seconds = at.timestamp() - time.time()
        except ValueError:
            return _back_off_s(attempt)
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def _back_off_s(attempt: int) -> float:
    """Doubles from half a second on, less up to half by chance: not all shall come back at once."""
    return min(LONGEST_BACK_OFF_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)
