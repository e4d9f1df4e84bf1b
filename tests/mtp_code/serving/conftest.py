"""A real server on a free loopback port, and the official client."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

pytest.importorskip("openai", reason="needs the extra dev: pip install 'mtp-code[dev]'")
pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'mtp-code[serve]'")

import httpx
import openai

from mtp_code.decoding.engine import Engine
from mtp_code.serving.address import Address, listen
from mtp_code.serving.app import Service
from mtp_code.serving.hosting import in_thread
from mtp_code.serving.server import Server, build_service

MODEL = "small"


@dataclass
class Served:
    """A server in a thread of this process."""

    url: str
    service: Service
    server: Server

    def client(self, **settings: object) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": 60} | settings
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"vllm:{name}{{") and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


@contextmanager
def serving(engine: Engine, **settings: object) -> Iterator[Served]:
    with in_thread(engine) as host, listen(Address("127.0.0.1", 0)) as listening:
        service = build_service(host, MODEL, **settings)
        server = Server(service, drain_s=10)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            until(lambda: server.started)
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", service, server)
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def until(holds: Callable[[], object], timeout_s: float = 20) -> None:
    """Waits for what must come true."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def served(small_model, tokenizer) -> Iterator[Served]:
    with serving(Engine(small_model, tokenizer, num_rows=4, num_drafts=2)) as served:
        yield served


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return served.client()
