"""Which node has which items."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from evals.cluster.messages import MOST_BYTES, Batch, HeldTo, Item, Report, Result, Sent
from evals.oracles.expected import Reference
from evals.work import Job

# Items that a node has at once, for each of its workers.
_LEAST_PER_WORKER: Final = 2
_MOST_PER_WORKER: Final = 64


class Node(NamedTuple):
    """A machine of the cluster; `name` is for people."""

    id: str
    name: str
    num_cpus: int


@dataclass
class Member:
    """A node that works, as the driver sees it.

    `window` is how many items it should have: more when it ran out of them, fewer when most of
    them only waited there. `weights` are the bytes of the items it has, by number.
    """

    node: Node
    num_workers: int
    window: int = field(init=False)
    weights: dict[int, int] = field(default_factory=dict)
    known: dict[HeldTo, int] = field(default_factory=dict)  # sent to it before, with its number
    is_asked: bool = False

    def __post_init__(self) -> None:
        self.window = _LEAST_PER_WORKER * self.num_workers

    def adapt(self, report: Report) -> None:
        if report.num_waiting == 0:
            self.window = min(2 * self.window, _MOST_PER_WORKER * self.num_workers)
        elif len(report.results) < self.window // 4:
            self.window = max(self.window // 2, _LEAST_PER_WORKER * self.num_workers)


class Ledger:
    """Which node has which items: each is handed out until there is a result, which counts once.

    Items are taken when a node is to have them, save the very next.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._coming = enumerate(items)
        self._next = next(self._coming, None)
        self._open: dict[int, Item] = {}  # handed out at least once, without a result
        self._returned: deque[int] = deque()  # those of them that no node has

    @property
    def is_over(self) -> bool:
        return self._next is None and not self._open

    def batch(self, member: Member) -> Batch:
        """What the node should have now, beyond what it has; it counts as handed out."""
        batch = Batch([], {})
        num_bytes = sum(member.weights.values())
        while len(member.weights) < member.window:
            number, item = self._first()
            if item is None:
                break
            held_to = (item.checks, item.cases) if isinstance(item, Job) else None
            is_news = held_to is not None and held_to not in member.known
            weight = _num_bytes(item, with_held_to=is_news)
            if member.weights and num_bytes + weight > MOST_BYTES:
                break
            self._hand_out(number, item)
            member.weights[number] = weight
            num_bytes += weight
            if held_to is None:
                batch.items.append(Sent(number, item))
                continue
            assert isinstance(item, Job)
            if is_news:
                member.known[held_to] = len(member.known)
                batch.held_to[member.known[held_to]] = held_to
            bare = item._replace(key=b"", checks=None, cases=())
            batch.items.append(Sent(number, bare, member.known[held_to]))
        return batch

    def settle(self, member: Member, report: Report) -> Iterator[tuple[int, Item, Result]]:
        """Number, item and result of what the node found out."""
        for number, result in report.results:
            del member.weights[number]
            yield number, self._open.pop(number), result
        member.adapt(report)

    def take_back(self, member: Member) -> int:
        """Others are to have what this node had; returns how many items that is."""
        self._returned.extend(member.weights)
        num_returned = len(member.weights)
        member.weights.clear()
        return num_returned

    def _first(self) -> tuple[int, Item | None]:
        if self._returned:
            return self._returned[0], self._open[self._returned[0]]
        return self._next or (-1, None)

    def _hand_out(self, number: int, item: Item) -> None:
        if self._returned:
            self._returned.popleft()
        else:
            self._next = next(self._coming, None)
        self._open[number] = item


def _num_bytes(item: Item, *, with_held_to: bool) -> int:
    """About: characters, not all of which are one byte."""
    if isinstance(item, Reference):
        return len(item.source) + len(item.stdin)
    if not with_held_to:
        return len(item.program)
    checks = 0 if item.checks is None else len(item.checks.source)
    cases = sum(len(case.stdin) + len(case.stdout) for case in item.cases)
    return len(item.program) + checks + cases
