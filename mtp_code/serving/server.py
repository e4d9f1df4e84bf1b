"""The process: how it runs, and how it goes."""

import logging
import signal
import socket
import time
from types import FrameType
from typing import Final

import uvicorn

from mtp_code.serving.address import BACKLOG
from mtp_code.serving.app import Service, create_app
from mtp_code.serving.hosting import Host
from mtp_code.serving.metrics import Metrics
from mtp_code.serving.worker import Worker

logger = logging.getLogger(__name__)

_LAST_WORDS_S: Final = 5
"""For responses that were cut short to reach their clients."""


class Server(uvicorn.Server):
    """uvicorn, which first lets live requests finish, and answers new ones that it goes."""

    def __init__(self, service: Service, drain_s: float) -> None:
        config = uvicorn.Config(
            create_app(service),
            access_log=False,
            log_level="warning",
            ws="none",
            proxy_headers=False,  # whose address a client has changes nothing here
            timeout_graceful_shutdown=_LAST_WORDS_S,
            backlog=BACKLOG,
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
        logger.info("%s: finishing live requests", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        if self._give_up_at_s is not None and (
            self._service.worker.num_unfinished == 0 or time.monotonic() >= self._give_up_at_s
        ):
            self._service.worker.stop()  # what is unfinished fails with a word
            self.should_exit = True
        return await super().on_tick(counter)


def build_service(
    host: Host,
    model_name: str,
    max_waiting: int = 256,
    timeout_s: float = 600.0,
    api_key: str | None = None,
) -> Service:
    """What it takes to answer for an engine."""
    metrics = Metrics(model_name, host.context, host.max_drafts)
    return Service(
        model_name,
        host.tokenizer,
        host.context,
        Worker(host, metrics, max_waiting),
        metrics,
        timeout_s,
        api_key,
    )


def serve_until_told(service: Service, listening: socket.socket, drain_s: float) -> None:
    """Serves until SIGTERM or SIGINT, and then at most `drain_s` longer."""
    Server(service, drain_s).run([listening])
