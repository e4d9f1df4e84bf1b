"""The process: where it listens, and how it goes."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from types import FrameType
from typing import Final

import uvicorn

from mtp_code.decoding.engine import Engine
from mtp_code.errors import InputError
from mtp_code.serving.app import Service, create_app
from mtp_code.serving.metrics import Metrics
from mtp_code.serving.worker import Worker

logger = logging.getLogger(__name__)

API_KEY_VARIABLE: Final = "MTP_CODE_API_KEY"
_BACKLOG: Final = 1024
_LAST_WORDS_S: Final = 5
"""For responses that were cut short to reach their clients."""


class ServeError(InputError):
    """A server that must not, or cannot, listen where it was told to."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    """0: any free one."""

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def api_key_for(address: Address) -> str | None:
    """The key from the environment.

    Raises:
        ServeError: there is none, and others than this machine could ask.
    """
    api_key = os.environ.get(API_KEY_VARIABLE) or None
    if api_key is None and not address.is_loopback:
        raise ServeError(
            f"--host {address.host}: others could reach it; set a key in the environment "
            f"variable {API_KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    return api_key


class Server(uvicorn.Server):
    """uvicorn, which first lets live requests finish, and answers new ones that it goes."""

    def __init__(self, service: Service, drain_s: float) -> None:
        config = uvicorn.Config(
            create_app(service),
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=_LAST_WORDS_S,
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self._service, self._drain_s = service, drain_s
        self._give_up_at_s: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; called again, goes at once."""
        if self._service.is_draining:
            self._give_up_at_s = time.monotonic()
            return
        self._service.is_draining = True
        self._give_up_at_s = time.monotonic() + self._drain_s
        # A signal handler of Python's runs between two instructions: no lock may be taken here.
        logger.info("%s: finishing live requests", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        if self._give_up_at_s is not None and (
            self._service.worker.num_unfinished == 0 or time.monotonic() >= self._give_up_at_s
        ):
            self._service.worker.stop()  # what is unfinished fails with a word
            self.should_exit = True
        return await super().on_tick(counter)


def listen(address: Address) -> socket.socket:
    """
    Raises:
        ServeError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port)[0][0]
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServeError(
            f"--host {address.host} --port {address.port}: {error.strerror}; choose another"
        ) from None


def build_service(
    engine: Engine,
    model_name: str,
    max_waiting: int = 256,
    timeout_s: float = 600.0,
    api_key: str | None = None,
) -> Service:
    """An engine and what it takes to answer for it."""
    context = engine.model.config.context
    metrics = Metrics(model_name, context, engine.max_drafts)
    return Service(
        model_name,
        engine.tokenizer,
        context,
        Worker(engine, metrics, max_waiting),
        metrics,
        timeout_s,
        api_key,
    )


def serve(service: Service, listening: socket.socket, drain_s: float) -> None:
    """Serves until SIGTERM or SIGINT, and then at most `drain_s` longer."""
    asyncio.run(Server(service, drain_s).serve([listening]))
