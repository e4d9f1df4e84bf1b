"""The harness's side of the room where checks run: its desks, and what it knows of the checks."""

import contextlib
import functools
import itertools
import select
import selectors
import signal
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sandbox import messages
from sandbox.desk import ending_signal
from sandbox.examination import Checks, Heard
from sandbox.room import Room, RoomLost
from sandbox.scratch import Scratch, orders

_MAX_ORDERS: Final = 1000  # of a desk
_REPLAYS: Final = ("replay", "in turns", "count")  # what was recorded
_LOOKS: Final = ("look", "record")  # what may be asked first
_MAX_CHECKS_KNOWN: Final = 1024
_MAX_BYTES_KNOWN: Final = 128 << 20
NOTHING_HEARD: Final = Heard(0, "")
_LOOKS_ONE_IN: Final = 16  # since to look takes as long as there are many
_FEW: Final = 3
_END_TIMEOUT_S: Final = 10.0


@dataclass
class KnownChecks:
    """Checks that a desk can be asked to run.

    ``requests`` are the calls that they make, None until recorded, to be sent in ``turns`` (see
    `recording.Recording`); ``are_live`` where these depend on what is answered. ``are_tidy`` says
    whether they leave their desk fit for others, None until a desk has looked.
    """

    number: int
    checks: Checks
    requests: bytes | None = None
    turns: tuple[int, ...] = ()
    are_live: bool = False
    are_tidy: bool | None = None
    num_users: int = 0
    num_replayed: int = 0
    num_diverged: int = 0

    def has_diverged(self) -> None:
        """A recording that is no good for one program in eight is not used any more: another room
        for a second run takes several times what being live from the start does. One program, or a
        few, may diverge on purpose."""
        self.num_diverged += 1
        if self.num_diverged > max(_FEW, self.num_replayed / 8):
            self.are_live = True

    @property
    def size(self) -> int:
        return len(self.checks.source) + len(self.requests or b"")


class DeskLost(Exception):  # noqa: N818 - an event: another desk takes its place
    """The desk's process ended; ``status`` as from os.wait, None where not even that is known.

    ``by_us`` says that it took too long by the wall clock.
    """

    def __init__(self, status: int | None, *, by_us: bool) -> None:
        super().__init__(status)
        self.status = status
        self.by_us = by_us

    @property
    def ran_out_of_time(self) -> bool:
        return self.by_us or self._signal == signal.SIGPROF

    @property
    def was_killed(self) -> bool:
        """By the host, or with its room."""
        return not self.by_us and (self.status is None or self._signal == signal.SIGKILL)

    @property
    def _signal(self) -> int | None:
        return None if self.status is None else ending_signal(self.status)


class ChecksRoom:
    """Opens desks, keeps those that are free, and what was recorded of checks.

    Tidy checks share desks. Before checks are run for the first time, a shared desk looks whether
    they are tidy; others get a desk of their own for each order, and run nowhere else. So what is
    asked of a shared desk is asked of a process that has run tidy checks only.

    The room itself is opened when needed. Desks are registered with a selector, as workers are.
    """

    def __init__(self, new_room: Callable[[], Room], selector: selectors.BaseSelector) -> None:
        self._new_room = new_room
        self._selector = selector
        self._free: list[Desk] = []
        self._room: Room | None = None
        self._numbers = itertools.count()
        self._known: OrderedDict[Checks, KnownChecks] = OrderedDict()
        self._open: set[int] = set()  # numbers of desks whose ends matter
        self._statuses: dict[int, int] = {}

    def take_desk(self, checks: KnownChecks, on_ready: Callable[[], Any]) -> "Desk":
        """A desk for these checks; of those that are shared, one that knows them, if it is free.
        ``on_ready`` is called when it has something to say.

        Raises:
            SandboxUnavailable: containment does not hold.
        """
        if checks.are_tidy is False:
            desk = self._open_desk(is_shared=False)
        elif self._free:
            knowing = (at for at, desk in enumerate(self._free) if desk.knows(checks))
            desk = self._free.pop(next(knowing, -1))
        else:
            desk = self._open_desk(is_shared=True)
        desk.on_ready = on_ready
        return desk

    def give_back(self, desk: "Desk") -> None:
        """A shared desk that is not at work."""
        assert desk.is_shared
        desk.on_ready = functools.partial(self._lose, desk)
        self._free.append(desk)

    def _lose(self, desk: "Desk") -> None:
        """It has ended, since there was nothing to say."""
        self._free.remove(desk)
        desk.close()

    def _open_desk(self, *, is_shared: bool) -> "Desk":
        """Raises:
        SandboxUnavailable: containment does not hold.
        """
        while True:
            room = self._open_room()
            try:
                self._hear_of_ends(0.0)
            except RoomLost:
                self.reset()
                continue
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            number = next(self._numbers)
            with theirs:
                try:
                    room.send({"desk": number}, {"desk": theirs.fileno()})
                except RoomLost:
                    ours.close()
                    self.reset()
                    continue
            self._open.add(number)
            desk = Desk(self, number, ours, is_shared=is_shared)
            self._selector.register(ours, selectors.EVENT_READ, desk.be_heard)
            return desk

    def _open_room(self) -> Room:
        if self._room is None:
            self._room = self._new_room()
            self._room.wait_until_ready()
        return self._room

    def reset(self) -> None:
        """End the room and all desks; the next one to open opens another."""
        while self._free:
            self._free.pop().close()
        if self._room is not None:
            self._room.close()
            self._room = None

    def end_desk(self, number: int) -> None:
        """End a desk, whatever it does."""
        if self._room is not None:
            with contextlib.suppress(RoomLost):
                self._room.send({"end": number})

    def forget_desk(self, number: int, control: socket.socket) -> None:
        """Nobody will ask how it ended."""
        self._selector.unregister(control)
        self._open.discard(number)
        self._statuses.pop(number, None)

    def status_of(self, number: int) -> int | None:
        """How a desk that is gone ended, as from os.wait; None where that cannot be told."""
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while number not in self._statuses:
            try:
                if not self._hear_of_ends(max(0.0, deadline_s - time.monotonic())):
                    return None
            except RoomLost:
                self.reset()
                return None
        return self._statuses[number]

    def _hear_of_ends(self, timeout_s: float) -> bool:
        """Read what the room says of desks that ended, lest it wait for that; whether it did.

        Raises:
            RoomLost: it has ended.
        """
        if self._room is None:
            return False
        has_said = False
        while select.select([self._room.control], [], [], 0.0 if has_said else timeout_s)[0]:
            has_said = True
            match self._room.receive():
                case {"ended": int(number), "status": int(status)} if number in self._open:
                    self._statuses[number] = status
        return has_said

    def know(self, checks: Checks) -> KnownChecks:
        """What is known of these checks; to be let go of by `release`."""
        known = self._known.get(checks)
        if known is None:
            number = next(self._numbers)
            known = self._known[checks] = KnownChecks(
                number,
                checks,
                are_live=checks.are_live or checks.heard is not None,
                are_tidy=checks.are_tidy or None,
            )
            if len(self._known) % _LOOKS_ONE_IN == 0:
                self._forget_some()
        self._known.move_to_end(checks)
        known.num_users += 1
        return known

    def release(self, known: KnownChecks) -> None:
        known.num_users -= 1

    def close(self) -> None:
        self.reset()
        self._known.clear()

    def _forget_some(self) -> None:
        idle = [checks for checks, known in self._known.items() if not known.num_users]
        num_bytes = sum(known.size for known in self._known.values())
        for checks in idle:
            if len(self._known) <= _MAX_CHECKS_KNOWN and num_bytes <= _MAX_BYTES_KNOWN:
                return
            num_bytes -= self._known.pop(checks).size


class Desk:
    """One process that examines programs' answers, one after another if it ``is_shared``."""

    def __init__(
        self, room: ChecksRoom, number: int, control: socket.socket, *, is_shared: bool
    ) -> None:
        self.control = control
        self.is_shared = is_shared
        self.is_at_work = False
        self.on_ready: Callable[[], Any] = lambda: None
        self._room = room
        self._number = number
        self._is_ended = self._is_gone = self._is_spoilt = False
        self._order = 0
        # Numbers of the checks that it has been given, and of those that it knows the requests of.
        self._told: set[int] = set()
        self._told_requests: set[int] = set()

    @property
    def is_spent(self) -> bool:
        """Whether it must not go on to another order. Its own word can only bring that about."""
        return not self.is_shared or self._is_spoilt or self._order >= _MAX_ORDERS

    def serves(self, checks: KnownChecks) -> bool:
        """Whether it may go on with these."""
        return self.is_shared is (checks.are_tidy is not False)

    def knows(self, checks: KnownChecks) -> bool:
        return checks.number in self._told

    def be_heard(self) -> Any:
        """What `on_ready` returns, whose it is now."""
        return self.on_ready()

    def ask(self, what: str, known: KnownChecks, cpu_s: float, descriptors: dict[str, int]) -> None:
        """Have it do that with these checks; see `sandbox.desk`.

        Raises:
            DeskLost: it has ended.
        """
        assert self.serves(known)
        assert known.are_tidy is not None or what in _LOOKS
        self._order += 1
        order = {"do": what, "order": self._order, "checks": known.number, "cpu_s": cpu_s}
        if known.are_tidy is None:
            order["if tidy"] = True
        if what == "in turns":
            order["turns"] = known.turns
        if what == "live" and not known.checks.are_live:
            order["heard"] = known.checks.heard or NOTHING_HEARD
        shared: dict[str, Scratch] = {}
        if known.number not in self._told:
            checks = known.checks
            given = checks.source, checks.names, checks.counts
            shared["source"] = orders(*given)
        if what in _REPLAYS and known.number not in self._told_requests:
            assert known.requests is not None
            shared["recorded"] = Scratch.holding("requests", known.requests)
        descriptors = descriptors | {name: each.descriptor for name, each in shared.items()}
        try:
            messages.send(self.control, order, descriptors)
        except OSError as error:
            raise self._lost() from error
        finally:
            for each in shared.values():
                each.close()
        if "recorded" in shared:
            self._told_requests.add(known.number)
        self._told.add(known.number)
        self.is_at_work = True

    def reply(self) -> dict[str, Any]:
        """The reply that made `control` readable.

        Raises:
            DeskLost: it has ended.
        """
        self.is_at_work = False
        try:
            message = messages.receive_report(self.control)
        except ValueError:
            message = {}
        if message is None:
            raise self._lost()
        if message.get("order") != self._order:  # checks spoke for the desk
            self.end()
            raise self._lost()
        self.is_at_work = message.get("more") is True
        self._is_spoilt |= message.get("spoilt") is True
        if not self.is_shared:
            message.pop("tidy", None)  # not for these checks to say
        return message

    def end(self) -> None:
        """End it, whatever it does; its loss is told where its reply would be."""
        if self._is_ended:  # it was told already, to no effect
            self._room.reset()
        self._is_ended = True
        self._room.end_desk(self._number)

    def close(self) -> None:
        """End it, and ask no more how it did."""
        if not self._is_ended and not self._is_gone:
            self._room.end_desk(self._number)
        self._room.forget_desk(self._number, self.control)
        self.control.close()

    def _lost(self) -> DeskLost:
        self._is_gone = True
        return DeskLost(self._room.status_of(self._number), by_us=self._is_ended)
