"""An examiner that has the nodes of a cluster do the work."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Final, Protocol

from evals.cluster.ledger import Ledger, Member, Node
from evals.cluster.messages import Batch, Introduction, Item, Lost, Reply, Result
from evals.errors import InputError, MachineError
from evals.oracles.expected import Answered, Reference
from evals.plan import fingerprint
from evals.work import Examiner, Finding, Here, Job
from sandbox import Checks, Limits, Tier

_LOOK_S: Final = 3.0  # between looks for new nodes
PATIENCE_S: Final = 300.0  # without any node; machines that are started on demand take minutes
_MOST_LOSSES: Final = 3  # of posts on one node, before it gets no other

_FINGERPRINTED: Final = ("interpreter", "Python", "processor", "code of sandbox and evals")


class Nodes(Protocol):
    """Messages to nodes and back; each node is asked one thing at a time."""

    def alive(self) -> list[Node]:
        """Nodes that may be given work."""

    def begin(self, node: Node, here: Examiner, num_cpus: int, trial: Job) -> None:
        """Make a post there, and ask it to introduce itself."""

    def send(self, node: Node, batch: Batch) -> None:
        """Ask for an exchange."""

    def replies(self, timeout_s: float) -> list[tuple[Node, Reply]]:
        """Those that are there now; waits for the first."""

    def end(self, node: Node) -> None:
        """End the post there and whatever it runs; no reply of it comes any more."""


class Cluster:
    """Examines on all nodes that can; those that cannot are told of by `on_warning`.

    `room` bounds what any job's programs may use. `num_workers` is for each node. Nodes may come
    and go: what one had when it died goes to the others. Without any node it waits `patience_s`.
    """

    def __init__(
        self,
        nodes: Nodes,
        room: Limits,
        num_workers: int | None = None,
        tier: Tier = Tier.FULL,
        *,
        unsafe_no_sandbox: bool = False,
        patience_s: float = PATIENCE_S,
        on_warning: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._nodes = nodes
        self._room = room
        self._num_workers = num_workers
        self._tier = tier
        self._unsafe_no_sandbox = unsafe_no_sandbox
        self._patience_s = patience_s
        self._warn = on_warning
        self._beginning: dict[str, Node] = {}  # by id, as are all of these
        self._members: dict[str, Member] = {}
        self._refused: dict[str, str] = {}  # name and reason
        self._losses: Counter[str] = Counter()
        self._looked_s = self._without_nodes_s = -math.inf

    def examine(self, jobs: Iterable[Job]) -> Generator[tuple[Job, Finding], None, None]:
        """Each job and its finding, as they come.

        Raises:
            MachineError: no node is there, or none can contain programs as asked.
        """
        with closing(self._find_out(jobs)) as found:
            for _, job, finding in found:
                assert isinstance(job, Job)
                assert isinstance(finding, Finding)
                yield job, finding

    def answers(self, references: Iterable[Reference]) -> Iterator[Answered]:
        """What each reference writes, in their order.

        Raises:
            InputError: a reference fails.
            MachineError: as for `examine`.
        """
        early: dict[int, Answered] = {}
        following = 0
        with closing(self._find_out(references)) as found:
            for number, _, answer in found:
                assert isinstance(answer, Answered)
                early[number] = answer
                while following in early:
                    yield early.pop(following)
                    following += 1

    def _find_out(self, items: Iterable[Item]) -> Generator[tuple[int, Item, Result], None, None]:
        ledger = Ledger(items)
        self._looked_s, self._without_nodes_s = -math.inf, time.monotonic()
        try:
            while not ledger.is_over:
                self._look_for_nodes()
                self._require_a_node()
                for member in self._members.values():
                    self._hand_over(member, ledger)
                for node, reply in self._nodes.replies(_LOOK_S / 2):
                    yield from self._take(node, reply, ledger)
        except BaseException:
            # What is under way there would be mistaken for the next call's.
            for node in [*self._beginning.values(), *(m.node for m in self._members.values())]:
                self._nodes.end(node)
            self._beginning.clear()
            self._members.clear()
            raise

    def _look_for_nodes(self) -> None:
        if self._members and time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        for node in self._nodes.alive():
            if node.id not in {*self._beginning, *self._members, *self._refused}:
                num_workers = self._num_workers_at(node)
                here = Here(
                    self._room, num_workers, self._tier, unsafe_no_sandbox=self._unsafe_no_sandbox
                )
                trial = Job(b"", "", self._room, Checks("pass"))
                self._beginning[node.id] = node
                self._nodes.begin(node, here, min(num_workers, node.num_cpus), trial)

    def _num_workers_at(self, node: Node) -> int:
        return self._num_workers or math.ceil(1.5 * node.num_cpus)

    def _hand_over(self, member: Member, ledger: Ledger) -> None:
        if member.is_asked:
            return
        batch = ledger.batch(member)
        if member.weights:
            member.is_asked = True
            self._nodes.send(member.node, batch)

    def _take(self, node: Node, reply: Reply, ledger: Ledger) -> Iterator[tuple[int, Item, Result]]:
        if isinstance(reply, Lost):
            self._lose(node, reply.reason, ledger)
        elif isinstance(reply, Introduction):
            refusal = reply.refusal or _difference(fingerprint(), reply.fingerprint)
            if refusal:
                self._refuse(node, refusal, ledger)
            else:
                del self._beginning[node.id]
                self._members[node.id] = Member(node, self._num_workers_at(node))
        else:
            member = self._members[node.id]
            member.is_asked = False
            yield from ledger.settle(member, reply)
            if reply.input_error:
                raise InputError(reply.input_error)
            if reply.refusal:
                self._refuse(node, reply.refusal, ledger)

    def _lose(self, node: Node, reason: str, ledger: Ledger) -> None:
        self._losses[node.id] += 1
        if self._losses[node.id] == _MOST_LOSSES:
            self._refuse(node, f"work there was lost {_MOST_LOSSES} times: {reason}", ledger)
            return
        was_at_work = node.id in self._members
        num_returned = self._part_with(node, ledger)
        if was_at_work:  # or else it may be one whose death is not known everywhere yet
            self._warn(f"node {node.name} is lost, {num_returned} programs go to others: {reason}")

    def _refuse(self, node: Node, reason: str, ledger: Ledger) -> None:
        self._part_with(node, ledger)
        self._refused[node.id] = f"{node.name}: {reason}"
        self._warn(f"node {node.name} gets no work: {reason}")

    def _part_with(self, node: Node, ledger: Ledger) -> int:
        self._nodes.end(node)
        self._beginning.pop(node.id, None)
        member = self._members.pop(node.id, None)
        return 0 if member is None else ledger.take_back(member)

    def _require_a_node(self) -> None:
        """
        Raises:
            MachineError: there is none, and none to wait for, or no longer.
        """
        now_s = time.monotonic()
        if self._members:
            self._without_nodes_s = now_s
            return
        refusals = "; ".join(list(self._refused.values())[:3])
        if self._refused and not self._beginning and not self._losses:
            raise MachineError(
                f"--cluster: none of {len(self._refused)} nodes can judge: {refusals}"
            )
        if now_s - self._without_nodes_s > self._patience_s:
            num_begun = len(self._beginning)
            held = f"; {num_begun} begun, whose CPUs may be taken by others" if num_begun else ""
            refused = f"; refused: {refusals}" if refusals else ""
            raise MachineError(
                f"--cluster: no node to judge on for {self._patience_s:g} s{held}{refused}; "
                "what was found is kept: add nodes with CPUs, run the same command again"
            )


def _difference(ours: list[str], theirs: list[str]) -> str:
    """Where the fingerprints differ, in words; empty if they do not."""
    for what, our, their in zip(_FINGERPRINTED, ours, theirs, strict=True):
        if our != their:
            return f"its {what} is {_shown(their)}, not {_shown(our)} as here"
    return ""


def _shown(text: str) -> str:
    is_digest = len(text) == 64 and " " not in text
    return text[:12] if is_digest else " ".join(text.split())
