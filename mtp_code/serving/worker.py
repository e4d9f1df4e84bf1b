"""The engine in a thread of its own, and what waits for it.

The event loop hands over jobs and is handed deltas; neither ever waits for the other. All that a
step brought goes over in one call, for every call takes the interpreter from the engine.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtp_code.decoding.engine import Engine, Event
from mtp_code.decoding.requests import Completion, Request, TokenLogprobs
from mtp_code.errors import InputError
from mtp_code.serving.errors import (
    RATE_LIMIT,
    SERVER,
    UNAVAILABLE,
    ApiError,
    bad_request,
    shutting_down,
)
from mtp_code.serving.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
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
        wants_deltas: else the whole answer comes as one, which takes less from the engine.
    """

    request: Request
    deltas: "asyncio.Queue[tuple[Job, Delta]]"
    wants_deltas: bool
    admitted_s: float = 0.0
    started_s: float = 0.0
    first_token_s: float | None = None
    id: int | None = None
    """The engine's number for it."""

    def delta(self, event: Event) -> Delta | None:
        """What to tell of an event; None where that waits for the end."""
        done = event.completion
        if done is None:
            is_told = self.wants_deltas and event.tokens
            return Delta(event.tokens, event.logprobs or ()) if is_told else None
        told: Event | Completion = event if self.wants_deltas else done
        return Delta(told.tokens, told.logprobs or (), done.ended_by, done.num_committed)


class Worker:
    """Runs an engine for jobs, first come first served.

    Args:
        max_waiting: jobs that may wait, beyond those in the engine's rows.
    """

    def __init__(self, engine: Engine, metrics: Metrics, max_waiting: int) -> None:
        self._engine, self._metrics = engine, metrics
        self.capacity = engine.num_rows + max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._changed = threading.Condition()  # guards all below
        self._waiting: deque[Job] = deque()
        self._live: dict[int, Job] = {}  # by the engine's number
        self._cancelled: list[Job] = []
        self._refuses_with: ApiError | None = None
        metrics.watch(running=lambda: len(self._live), waiting=lambda: len(self._waiting))

    @property
    def is_healthy(self) -> bool:
        return self._refuses_with is None and self._thread.is_alive()

    @property
    def num_unfinished(self) -> int:
        with self._changed:
            return len(self._live) + len(self._waiting)

    def start(self) -> None:
        """To be called in the event loop that deltas are to come to."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Fails what is unfinished and all to come; the thread ends with the step it is in."""
        with self._changed:
            self._refuses_with = self._refuses_with or shutting_down()
            self._fail_unfinished(shutting_down())
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

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
        with self._changed:
            if self._refuses_with is not None:
                raise self._refuses_with
            if len(self._live) + len(self._waiting) + len(jobs) > self.capacity:
                raise ApiError(
                    429,
                    f"{len(self._waiting)} answers are waited for already; try again later",
                    RATE_LIMIT,
                    code="rate_limit_exceeded",
                    retry_after_s=self._metrics.seconds_until_finished(len(jobs)),
                )
            now_s = time.monotonic()
            for job in jobs:
                job.admitted_s = now_s
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Frees what these hold; those that are finished hold nothing."""
        with self._changed:
            for job in jobs:
                if job.id in self._live:
                    self._cancelled.append(job)
                elif job in self._waiting:
                    self._waiting.remove(job)
                    self._metrics.finished(job, "abort")
            self._changed.notify()

    def _run(self) -> None:
        # What was set for other threads binds ATen here, but not the BLAS below it.
        torch.set_num_threads(torch.get_num_threads())
        try:
            while self._take():
                self._tell(self._engine.step())
        except Exception:  # whatever it is, nobody may be left waiting
            logger.exception("the engine failed; restart the server")
            with self._changed:
                self._refuses_with = ApiError(503, "the engine has failed", UNAVAILABLE)
                self._fail_unfinished(ApiError(500, "the engine has failed", SERVER))

    def _take(self) -> bool:
        """Gives the engine work, for which it waits; False once there will be none."""
        with self._changed:
            while True:
                if self._refuses_with is not None:
                    return False
                self._drop_cancelled()
                while self._waiting and len(self._live) < self._engine.num_rows:
                    self._begin(self._waiting.popleft())
                if self._live:
                    return True
                self._changed.wait()

    def _begin(self, job: Job) -> None:
        try:
            job.id = self._engine.submit(job.request)
        except InputError as error:  # this one's; the others go on
            self._metrics.finished(job, "error")
            self._post([(job, Delta(error=bad_request(str(error), "prompt")))])
            return
        job.started_s = time.monotonic()
        self._live[job.id] = job

    def _drop_cancelled(self) -> None:
        for job in self._cancelled:
            assert job.id is not None
            if self._live.pop(job.id, None) is not None:  # it may have finished since
                self._engine.cancel(job.id)
                self._metrics.finished(job, "abort")
        self._cancelled.clear()

    def _tell(self, events: Sequence[Event]) -> None:
        told = []
        with self._changed:
            for event in events:
                job = self._live.get(event.id)
                if job is None:
                    continue  # failed by `stop` in the meantime
                if event.tokens and job.first_token_s is None:
                    job.first_token_s = time.monotonic()
                if event.completion is not None:
                    del self._live[event.id]
                    self._metrics.completed(job, event.completion)
                delta = job.delta(event)
                if delta is not None:
                    told.append((job, delta))
        if told:
            self._post(told)

    def _fail_unfinished(self, error: ApiError) -> None:
        jobs = [*self._live.values(), *self._waiting]
        self._live.clear()
        self._waiting.clear()
        for job in jobs:
            self._metrics.finished(job, "error")
        self._post([(job, Delta(error=error)) for job in jobs])

    def _post(self, told: Sequence[tuple[Job, Delta]]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put, told)


def _put(told: Sequence[tuple[Job, Delta]]) -> None:
    for job, delta in told:
        job.deltas.put_nowait((job, delta))
