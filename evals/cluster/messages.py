"""What the driver and a node's post tell each other."""

from __future__ import annotations

from typing import Final, NamedTuple

from evals.oracles.expected import Answered, Reference
from evals.records import StdinCase
from evals.work import Finding, Job
from sandbox import Checks

# That a node has at once, and about what a message may have.
MOST_BYTES: Final = 32 << 20

Item = Job | Reference
Result = Finding | Answered
HeldTo = tuple[Checks | None, tuple[StdinCase, ...]]


class Sent(NamedTuple):
    """An item on its way: a job goes without what it is held to, which has the number `held_to`."""

    number: int
    item: Item
    held_to: int | None = None


class Batch(NamedTuple):
    """Items for a node, and by number what their jobs are held to, where the node lacks it."""

    items: list[Sent]
    held_to: dict[int, HeldTo]


class Introduction(NamedTuple):
    """What a node says before it is given work; `refusal` says why it can do none, or is empty."""

    fingerprint: list[str]
    refusal: str


class Report(NamedTuple):
    """Results by the numbers of their items; `num_waiting` items are not begun yet.

    `refusal` says why the node can do no more, `input_error` what is wrong with the user's input.
    """

    results: list[tuple[int, Result]]
    num_waiting: int
    refusal: str = ""
    input_error: str = ""


class Lost(NamedTuple):
    """Instead of a reply: the node died, or only what worked there for us."""

    reason: str


Reply = Introduction | Report | Lost
