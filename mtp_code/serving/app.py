"""The routes: OpenAI's API, health, and figures."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtp_code.errors import TokenizerError
from mtp_code.serving.answering import Answering, prompts_of
from mtp_code.serving.errors import (
    AUTHENTICATION,
    INVALID_REQUEST,
    SERVER,
    UNAVAILABLE,
    ApiError,
    bad_request,
    client_gone,
    shutting_down,
)
from mtp_code.serving.metrics import Metrics
from mtp_code.serving.protocol import ChatRequest, CompletionRequest, Generation
from mtp_code.serving.responses import ChatFormat, CompletionFormat, Format, Spelling
from mtp_code.serving.worker import Worker
from mtp_code.tokenizer import Tokenizer

_MAX_BODY_BYTES: Final = 8 << 20
_SHORT_CHARACTERS: Final = 4000
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

AskedT = TypeVar("AskedT", bound=Generation)


@dataclass
class Service:
    """All that answering takes, and whether new requests are let in."""

    model_name: str
    tokenizer: Tokenizer
    context: int
    worker: Worker
    metrics: Metrics
    timeout_s: float = 600.0
    api_key: str | None = field(default=None, repr=False)
    is_draining: bool = False
    started_at_s: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.spelling = Spelling(self.tokenizer)

    async def answering(self, asked: Generation, form: Format) -> Answering:
        """
        Raises:
            ApiError: it cannot be answered, or not now.
        """
        if self.is_draining:
            raise shutting_down()
        self.check_model(asked.model)
        asked.check()
        self.worker.check_count(asked.num_prompts * asked.num_choices)  # before they take memory
        deadline_s = asyncio.get_running_loop().time() + self.timeout_s
        # A long prompt takes a second, which streams and /health need not wait for; a short one
        # less than a thread.
        if asked.num_characters > _SHORT_CHARACTERS:
            prompts = await asyncio.to_thread(prompts_of, asked, self.tokenizer)
        else:
            prompts = prompts_of(asked, self.tokenizer)
        return Answering(
            self.worker,
            self.tokenizer,
            self.context,
            asked,
            prompts,
            form,
            deadline_s,
            self.timeout_s,
        )

    def warm_up(self) -> None:
        """Loads what chats need, so that the first of them does not wait for it."""
        if self.tokenizer.chat_template is not None:
            with suppress(TokenizerError):  # a template may refuse this chat and take others
                self.tokenizer.encode_chat(self.tokenizer.chat("", ""))

    def check_model(self, name: str) -> None:
        if name != self.model_name:
            raise ApiError(
                404,
                f"model: {name!r} is not served here; {self.model_name!r} is",
                param="model",
                code="model_not_found",
            )

    def check_key(self, authorization: str | None) -> None:
        """
        Raises:
            ApiError: a key is asked for and this is not it.
        """
        if self.api_key is None:
            return
        scheme, _, given = (authorization or "").partition(" ")
        # As bytes, and in constant time: how long it takes tells nothing of the key.
        is_right = hmac.compare_digest(given.encode(), self.api_key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise ApiError(401, "wrong or no API key", AUTHENTICATION, code="invalid_api_key")

    def model_card(self) -> dict[str, Any]:
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.started_at_s,
            "owned_by": "mtp-code",
            "max_model_len": self.context,
        }


def create_app(service: Service) -> FastAPI:
    """The application; from start-up to shutdown it listens to the engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.warm_up)
        service.worker.start()
        yield
        service.worker.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Answers, service=service)
    app.add_middleware(BodyLimit)
    if service.api_key is not None:
        app.add_middleware(KeyGuard, service=service)
    app.add_exception_handler(ApiError, _say)
    app.add_exception_handler(HTTPException, _say_of_http)
    app.add_exception_handler(Exception, _say_of_bug)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.model_card()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.model_card()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=_METRICS_TYPE)

    @app.get("/health")
    async def health() -> Response:
        if service.is_draining:
            raise shutting_down()
        if not service.worker.is_healthy:
            raise ApiError(503, "the engine has failed", UNAVAILABLE)
        return Response()

    return app


async def _asked(request: Request, kind: type[AskedT]) -> AskedT:
    """The body, by pydantic's own reader: FastAPI's way to it costs as much as all else here.

    Raises:
        ApiError: it is none of the kind.
    """
    # What a browser lets any page post to any server without asking it first is no JSON by name.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, f"Content-Type: {media_type or 'none'}; send application/json")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise client_gone() from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0]) from None


def _refusal(first: Mapping[str, Any]) -> ApiError:
    if first["type"] == "json_invalid":
        return bad_request("the body is not JSON")
    place = [str(part) for part in first["loc"]] or ["body"]
    return bad_request(f"{'.'.join(place)}: {first['msg']}", place[0])


class Answers:
    """The paths that answer, ahead of routes, whose ways to a handler take longer than ours."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kinds = _ANSWERED.get(scope["path"]) if scope["type"] == "http" else None
        if kinds is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if request.method != "POST":
                raise HTTPException(405, "POST is what it takes", {"Allow": "POST"})
            response = await self._response(request, *kinds)
        except ApiError as error:
            response = await _say(request, error)
        except HTTPException as error:
            response = await _say_of_http(request, error)
        await response(scope, receive, send)

    async def _response(
        self, request: Request, kind: type[Generation], format_: type[Format]
    ) -> Response:
        """
        Raises:
            ApiError: it cannot be answered, or not now, or the answer failed.
            HTTPException: it is too long.
        """
        asked = await _asked(request, kind)
        form = format_(self._service.model_name, self._service.spelling)
        answering = await self._service.answering(asked, form)
        if asked.stream:
            return EventStream(answering)
        async with _listened_to(answering, request.receive):
            return Response(await answering.whole(), media_type="application/json")


_ANSWERED: Final[Mapping[str, tuple[type[Generation], type[Format]]]] = {
    "/v1/completions": (CompletionRequest, CompletionFormat),
    "/v1/chat/completions": (ChatRequest, ChatFormat),
}


@asynccontextmanager
async def _listened_to(answering: Answering, receive: Receive) -> AsyncIterator[None]:
    """Gives the answer up if its client goes; frees what it holds however it ends."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        answering.give_up()

    leaving = asyncio.ensure_future(until_gone())
    try:
        yield
    finally:
        leaving.cancel()
        answering.cancel()


class EventStream(StreamingResponse):
    """Server-sent events of an answer."""

    def __init__(self, answering: Answering) -> None:
        super().__init__(
            (),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with _listened_to(self._answering, receive):
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            # The end goes with the last events: a message costs as much as all else about it.
            async for events, is_last in self._answering.events():
                await send({"type": "http.response.body", "body": events, "more_body": not is_last})


class KeyGuard:
    """Asks for the key, whatever is wanted but the health.

    Not as a dependency of each route, which FastAPI takes as long to resolve as all of ours.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"] != "/health":
            try:
                self._service.check_key(Headers(scope=scope).get("authorization"))
            except ApiError as error:
                app = JSONResponse(error.body, error.status)
        await app(scope, receive, send)


class BodyLimit:
    """Refuses what is longer than any prompt before it is read into memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > _MAX_BODY_BYTES:
                raise HTTPException(413, f"longer than {_MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


async def _say(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def _say_of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = ApiError(error.status_code, f"{request.url.path}: {error.detail}", INVALID_REQUEST)
    return JSONResponse(said.body, error.status_code, error.headers)


async def _say_of_bug(request: Request, error: Exception) -> Response:
    return await _say(request, ApiError(500, "a bug of the server; see its log", SERVER))
