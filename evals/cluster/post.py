"""A node's end of a cluster."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from evals.cluster.messages import MOST_BYTES, Batch, HeldTo, Introduction, Item, Report, Result
from evals.errors import InputError
from evals.oracles.expected import Answered, Reference
from evals.plan import fingerprint
from evals.work import Examiner, Job
from sandbox import SandboxUnavailable

_DRY_S: Final = 0.5  # that a node waits for more before it ends its pool
_GATHERED_S: Final = 0.05  # that results wait for others, to go with them
_HEARTBEAT_S: Final = 2.0  # after which a node reports though it has no results


class Post:
    """A node's end: finds out what it is handed, on this machine, as long as more comes.

    A thread of its own hands items on to `here` as one stream. When that runs dry it ends, and
    `here` does what it has put off (programs to be tried again, alone); more items begin another.
    """

    def __init__(self, here: Examiner) -> None:
        self._here = here
        self._held_to: dict[int, HeldTo] = {}
        self._waiting: SimpleQueue[tuple[int, Item]] = SimpleQueue()
        self._of_other_kind: list[tuple[int, Item]] = []  # one at most, which ended a stream
        self._results: SimpleQueue[tuple[int, Result] | Exception] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def introduce(self, trial: Job) -> Introduction:
        """Called first. `trial` passes wherever programs can be contained."""
        try:
            ((_, finding),) = self._here.examine([trial])
        except (SandboxUnavailable, OSError) as error:
            return Introduction(fingerprint(), str(error))
        if finding.verdict != "passed":
            said = f"an empty program: {finding.verdict} ({finding.detail or finding.ending})"
            return Introduction(fingerprint(), said)
        return Introduction(fingerprint(), "")

    def exchange(self, batch: Batch) -> Report:
        """Take items; give the results that there are by now, or soon."""
        self._held_to.update(batch.held_to)
        for sent in batch.items:
            item = sent.item
            if isinstance(item, Job):
                assert sent.held_to is not None
                checks, cases = self._held_to[sent.held_to]
                item = item._replace(key=_key(sent.number), checks=checks, cases=cases)
            self._waiting.put((sent.number, item))
        results: list[tuple[int, Result]] = []
        for result in self._gathered():
            if isinstance(result, Exception):
                return self._failed(results, result)
            results.append(result)
        return Report(results, self._waiting.qsize())

    def _gathered(self) -> Iterator[tuple[int, Result] | Exception]:
        num_bytes = 0
        with suppress(Empty):
            yield self._results.get(timeout=_HEARTBEAT_S)
            time.sleep(_GATHERED_S)
            while num_bytes < MOST_BYTES:
                result = self._results.get_nowait()
                if not isinstance(result, Exception) and isinstance(result[1], Answered):
                    num_bytes += len(result[1].written)
                yield result

    def _failed(self, results: list[tuple[int, Result]], error: Exception) -> Report:
        if isinstance(error, SandboxUnavailable | OSError):
            return Report(results, 0, refusal=str(error))
        if isinstance(error, InputError):
            return Report(results, 0, input_error=str(error))
        raise error

    def _work(self) -> None:
        while True:
            first = self._of_other_kind.pop() if self._of_other_kind else self._waiting.get()
            stream = itertools.chain([first], self._following(_kind(first[1])))
            find = self._answers if isinstance(first[1], Reference) else self._findings
            try:
                for result in find(stream):
                    self._results.put(result)
            except Exception as error:  # noqa: BLE001 - the next report tells it
                self._results.put(error)

    def _following(self, kind: str) -> Iterator[tuple[int, Item]]:
        """What comes in time, and is of this kind."""
        with suppress(Empty):
            while True:
                following = self._waiting.get(timeout=_DRY_S)
                if _kind(following[1]) != kind:
                    self._of_other_kind.append(following)
                    return
                yield following

    def _findings(self, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Result]]:
        for job, finding in self._here.examine(job for _, job in items):
            yield int.from_bytes(job.key), finding

    def _answers(self, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Result]]:
        asked: deque[int] = deque()

        def references() -> Iterator[Reference]:
            for number, reference in items:
                asked.append(number)
                yield reference

        for answer in self._here.answers(references()):
            yield asked.popleft(), answer


def _key(number: int) -> bytes:
    return number.to_bytes(8)


def _kind(item: Item) -> str:
    """An examiner is given items of one kind at a time."""
    if isinstance(item, Reference):
        return "references"
    return "cases" if item.checks is None else "checks"
