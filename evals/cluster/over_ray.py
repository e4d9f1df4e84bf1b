"""A cluster's nodes by way of Ray, which is imported when they are asked for."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from evals.cluster.driver import PATIENCE_S, Cluster
from evals.cluster.ledger import Node
from evals.cluster.messages import Batch, Introduction, Lost, Reply
from evals.cluster.post import Post
from evals.errors import InputError, MachineError
from evals.work import Examiner, Job
from sandbox import Limits, Tier

_CONNECT_S: Final = 10.0
_REASON_CHARS: Final = 300


class RayNodes:
    """Nodes of a Ray cluster, each with an actor for its post.

    The actors end with this process, however that ends; Ray sees to it.

    Raises:
        InputError: the address is one of Ray Client, whose drivers are elsewhere than they seem.
        MachineError: Ray is not installed, or no cluster of its version answers at the address.
    """

    def __init__(self, address: str) -> None:
        if address.startswith("ray://"):
            raise InputError(
                f"--cluster {address}: Ray Client is not supported; judge on a machine of the "
                "cluster, without an address or with that of the head, as in 10.0.0.1:6379"
            )
        try:
            import ray
            from ray import exceptions
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
        except ModuleNotFoundError:
            raise MachineError(
                "--cluster needs Ray, which is not installed; pip install 'mtp-code[cluster]'"
            ) from None
        self._ray, self._errors, self._on_node = ray, exceptions, NodeAffinitySchedulingStrategy
        self._is_ours = not ray.is_initialized()
        self._posts: dict[str, Any] = {}  # by id of the node
        self._asked: dict[Any, Node] = {}  # by what the reply will be in
        self._introducing: set[str] = set()  # ids of the nodes that were asked for that
        if self._is_ours:
            try:
                _require_somebody_at(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:_REASON_CHARS]
                raise MachineError(
                    f"--cluster {address}: {reason}; start a cluster with ray start --head"
                ) from None

    def alive(self) -> list[Node]:
        return [
            Node(
                row["NodeID"],
                f"{row['NodeManagerHostname']} ({row['NodeManagerAddress']}, {row['NodeID'][:8]})",
                int(row["Resources"]["CPU"]),
            )
            for row in self._ray.nodes()
            # Nodes without CPUs, as many heads are, ask to be left alone.
            if row["Alive"] and row["Resources"].get("CPU", 0) >= 1
        ]

    def begin(self, node: Node, here: Examiner, num_cpus: int, trial: Job) -> None:
        where = self._on_node(node.id, soft=False)
        post = self._ray.remote(Post).options(num_cpus=num_cpus, scheduling_strategy=where)
        self._posts[node.id] = post.remote(here)
        self._introducing.add(node.id)
        self._asked[self._posts[node.id].introduce.remote(trial)] = node

    def send(self, node: Node, batch: Batch) -> None:
        self._asked[self._posts[node.id].exchange.remote(batch)] = node

    def replies(self, timeout_s: float) -> list[tuple[Node, Reply]]:
        if not self._asked:
            time.sleep(timeout_s)
            return []
        self._ray.wait(list(self._asked), num_returns=1, timeout=timeout_s)
        there, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        return [
            (node, self._reply(node, each)) for each in there for node in [self._asked.pop(each)]
        ]

    def _reply(self, node: Node, ref: Any) -> Reply:
        is_introduction = node.id in self._introducing
        self._introducing.discard(node.id)
        try:
            reply: Reply = self._ray.get(ref)
        except self._errors.RayTaskError as error:
            if is_introduction:  # other code than ours stands there
                return Introduction([], _last_line(error))
            raise
        except self._errors.RayError as error:
            return Lost(_last_line(error))
        return reply

    def end(self, node: Node) -> None:
        self._asked = {ref: other for ref, other in self._asked.items() if other.id != node.id}
        if (post := self._posts.pop(node.id, None)) is not None:
            self._ray.kill(post)

    def close(self) -> None:
        self._asked.clear()
        for post in self._posts.values():
            self._ray.kill(post)
        self._posts.clear()
        if self._is_ours:
            self._ray.shutdown()


def _require_somebody_at(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself tries for minutes, and tells of each."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _CONNECT_S).close()


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()


@contextmanager
def on_cluster(
    address: str,
    room: Limits,
    num_workers: int | None = None,
    tier: Tier = Tier.FULL,
    *,
    unsafe_no_sandbox: bool = False,
    patience_s: float = PATIENCE_S,
    on_warning: Callable[[str], None] = lambda line: None,
) -> Iterator[Cluster]:
    """The Ray cluster at an address ("auto": where Ray itself finds one), for as long as needed.

    Raises:
        InputError, MachineError: see `RayNodes`.
    """
    nodes = RayNodes(address)
    try:
        yield Cluster(
            nodes,
            room,
            num_workers,
            tier,
            unsafe_no_sandbox=unsafe_no_sandbox,
            patience_s=patience_s,
            on_warning=on_warning,
        )
    finally:
        nodes.close()
