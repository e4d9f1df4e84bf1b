"""What the event loop asks of the engine, and is told by it; neither waits for the other."""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtp_code.decoding.requests import Request, TokenLogprobs
from mtp_code.serving.errors import (
    RATE_LIMIT,
    SERVER,
    UNAVAILABLE,
    ApiError,
    bad_request,
    shutting_down,
)
from mtp_code.serving.hosting import Asked, Dropped, Host, Told, send
from mtp_code.serving.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of an answer: tokens, and how it ended or failed if it did."""

    tokens: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    ended_by: str | None = None
    num_generated: int = 0
    """Of the whole answer, with an end of text; told at its end."""
    error: ApiError | None = None

    @property
    def is_last(self) -> bool:
        return self.ended_by is not None or self.error is not None


@dataclass(eq=False)
class Job:
    """One answer that is asked for.

    Args:
        deltas: where it comes; jobs of one request share it.
        wants_deltas: else the whole answer comes as one.
    """

    request: Request
    deltas: "asyncio.Queue[tuple[Job, Delta]]"
    wants_deltas: bool
    admitted_s: float = field(default_factory=time.monotonic)
    number: int = field(default_factory=itertools.count().__next__)


class Worker:
    """Has an engine answer jobs; all of it happens in the event loop.

    Args:
        max_waiting: jobs that may wait, beyond those in the engine's rows.
    """

    def __init__(self, host: Host, metrics: Metrics, max_waiting: int) -> None:
        self._host, self._metrics = host, metrics
        self.capacity = host.num_rows + max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unfinished: dict[int, Job] = {}
        self._refuses_with: ApiError | None = None
        metrics.watch(
            running=lambda: min(self.num_unfinished, host.num_rows),
            waiting=lambda: max(self.num_unfinished - host.num_rows, 0),
        )

    @property
    def is_healthy(self) -> bool:
        return self._refuses_with is None

    @property
    def num_unfinished(self) -> int:
        return len(self._unfinished)

    def start(self) -> None:
        """To be called in the event loop that deltas are to come to."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._host.connection.fileno(), self._listen)

    def stop(self) -> None:
        """Fails what is unfinished and all to come."""
        self._refuse(shutting_down(), shutting_down())

    def check_count(self, num_jobs: int) -> None:
        """
        Raises:
            ApiError: so many at once are never taken.
        """
        if num_jobs > self.capacity:
            raise bad_request(
                f"n: {num_jobs} answers are more than the {self.capacity} that this server takes "
                "at once; ask for fewer",
                "n",
            )

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes all of the jobs or none.

        Raises:
            ApiError: too many wait already, or the engine takes no more.
        """
        if self._refuses_with is not None:
            raise self._refuses_with
        if self.num_unfinished + len(jobs) > self.capacity:
            num_waiting = max(self.num_unfinished - self._host.num_rows, 0)
            raise ApiError(
                429,
                f"{num_waiting} answers are waited for already; try again later",
                RATE_LIMIT,
                code="rate_limit_exceeded",
                retry_after_s=self._metrics.seconds_until_finished(len(jobs)),
            )
        self._unfinished |= {job.number: job for job in jobs}
        self._send([Asked(job.number, job.request, job.wants_deltas) for job in jobs])

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Frees what these hold; those that are finished hold nothing."""
        held = [job for job in jobs if self._unfinished.pop(job.number, None) is not None]
        if held:
            self._send([Dropped(job.number) for job in held])
        for job in held:
            self._metrics.finished(job, "abort")

    def _send(self, messages: Sequence[Asked | Dropped]) -> None:
        try:
            send(self._host.connection, messages)
        except OSError:
            self._fail()

    def _listen(self) -> None:
        try:
            told: list[Told] | None = self._host.connection.recv()
        except (EOFError, OSError):
            told = None
        if told is None:
            self._fail()
            return
        for one in told:
            job = self._unfinished.get(one.number)
            if job is None:
                continue  # given up in the meantime
            if one.refusal is not None:
                delta = Delta(error=bad_request(one.refusal, "prompt"))
                self._metrics.finished(job, "error")
            elif one.failure is not None:
                delta = Delta(error=ApiError(503, one.failure, UNAVAILABLE))
                self._metrics.finished(job, "error")
            elif one.ended is not None:
                delta = Delta(one.tokens, one.logprobs, one.ended.by, one.ended.num_generated)
                self._metrics.completed(job, one.ended)
            else:
                delta = Delta(one.tokens, one.logprobs)
            if delta.is_last:
                del self._unfinished[one.number]
            job.deltas.put_nowait((job, delta))

    def _fail(self) -> None:
        logger.error("the engine has ended; restart the server")
        self._refuse(
            ApiError(500, "the engine has failed", SERVER),
            ApiError(503, "the engine has failed", UNAVAILABLE),
        )

    def _refuse(self, unfinished: ApiError, later: ApiError) -> None:
        """Listens no more: what is unfinished fails, and so does what comes later."""
        if self._refuses_with is not None:
            return
        self._refuses_with = later
        if self._loop is not None:
            self._loop.remove_reader(self._host.connection.fileno())
        for job in self._unfinished.values():
            self._metrics.finished(job, "error")
            job.deltas.put_nowait((job, Delta(error=unfinished)))
        self._unfinished.clear()
