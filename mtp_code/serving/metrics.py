"""Figures of the server under the names that vLLM gives them, so that its dashboards work."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from mtp_code.serving.hosting import Ended
    from mtp_code.serving.worker import Job

_FIRST_TOKEN_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_TOKEN_S: Final = (
    0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_LATENCY_S: Final = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_REMEMBERED: Final = 64
"""Finished answers that the pace is told from."""

FINISH_REASONS: Final = {"end of text": "stop", "stop": "stop", "length": "length"}
"""OpenAI's words for how an answer ended."""


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of its own."""

    def __init__(self, model_name: str, context: int, num_drafts: int) -> None:
        self._registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self._finished_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._running = self._gauge("num_requests_running", "Requests in the engine's rows.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait for a row.")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts answered.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._ended = self._family("request_success", "Requests by how they ended.",
                                   "finished_reason")  # fmt: skip
        self._num_drafts = self._counter("spec_decode_num_drafts", "Rounds that had drafts.")
        self._drafted = self._counter("spec_decode_num_draft_tokens", "Tokens drafted.")
        self._accepted = self._counter("spec_decode_num_accepted_tokens", "Drafts accepted.")
        per_position = self._family("spec_decode_num_accepted_tokens_per_pos",
                                    "Drafts accepted at each place.", "position")  # fmt: skip
        self._accepted_at = [
            per_position.labels(*self._labels, str(place)) for place in range(num_drafts)
        ]
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From admission to the first token.", _FIRST_TOKEN_S
        )
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Time a token behind the first, by request.",
            _TOKEN_S,
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds", "From admission to the last token.", _LATENCY_S
        )
        self._queued = self._histogram(
            "request_queue_time_seconds", "From admission to a row.", _LATENCY_S
        )
        sizes = _sizes_to(context)
        self._prompt_sizes = self._histogram(
            "request_prompt_tokens", "Tokens of a request's prompt.", sizes
        )
        self._answer_sizes = self._histogram(
            "request_generation_tokens", "Tokens of a request's answer.", sizes
        )

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Tells from where the gauges are read."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)

    def completed(self, job: "Job", ended: "Ended") -> None:
        """Counts an answer that was finished."""
        now_s = time.monotonic()
        self._finished_s.append(now_s)
        num_prompt, num_generated = len(job.request.prompt), ended.num_generated
        self._prompt_tokens.inc(num_prompt)
        self._prompt_sizes.observe(num_prompt)
        self._generated.inc(num_generated)
        self._answer_sizes.observe(num_generated)
        self._first_token.observe(ended.first_token_s - job.admitted_s)
        self._queued.observe(ended.started_s - job.admitted_s)
        self._latency.observe(now_s - job.admitted_s)
        if num_generated > 1:
            self._per_token.observe((now_s - ended.first_token_s) / (num_generated - 1))
        if ended.drafted:
            self._num_drafts.inc(ended.drafted[0])
            self._drafted.inc(sum(ended.drafted))
            self._accepted.inc(sum(ended.accepted))
            for counter, count in zip(self._accepted_at, ended.accepted, strict=False):
                counter.inc(count)
        self.finished(job, FINISH_REASONS[ended.by])

    def finished(self, job: "Job", reason: str) -> None:
        """Counts how a request ended, answered or not."""
        self._ended.labels(*self._labels, reason).inc()

    def seconds_until_finished(self, count: int) -> int:
        """How long so many answers take at the latest pace, whole seconds, 1 to 60."""
        if len(self._finished_s) < 2:
            return 1
        pace_s = (time.monotonic() - self._finished_s[0]) / len(self._finished_s)
        return min(60, max(1, math.ceil(pace_s * count)))

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)

    def _family(self, name: str, told: str, label: str) -> Counter:
        return Counter(
            f"vllm:{name}", told, ("model_name", "engine", label), registry=self._registry
        )

    def _counter(self, name: str, told: str) -> Counter:
        names = ("model_name", "engine")
        counter = Counter(f"vllm:{name}", told, names, registry=self._registry)
        return counter.labels(*self._labels)

    def _gauge(self, name: str, told: str) -> Gauge:
        names = ("model_name", "engine")
        return Gauge(f"vllm:{name}", told, names, registry=self._registry).labels(*self._labels)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...]) -> Histogram:
        names = ("model_name", "engine")
        histogram = Histogram(f"vllm:{name}", told, names, buckets=buckets, registry=self._registry)
        return histogram.labels(*self._labels)


def _sizes_to(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, … up to the first that is not below the largest."""
    sizes: list[float] = []
    while not sizes or sizes[-1] < largest:
        power, place = divmod(len(sizes), 3)
        sizes.append((1, 2, 5)[place] * 10**power)
    return tuple(sizes)
