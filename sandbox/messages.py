"""What harness, zygotes and desks say to each other: JSON with named descriptors, in packets."""

import json
import os
import socket
from typing import Any, Final, NamedTuple

_MAX_BYTES: Final = 1 << 16
_MAX_DESCRIPTORS: Final = 8


class Message(NamedTuple):
    """``descriptors`` are the receiver's own, to be closed by it."""

    content: dict[str, Any]
    descriptors: dict[str, int]

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.closerange(descriptor, descriptor + 1)  # no error if it is closed already


def send(
    control: socket.socket, content: dict[str, Any], descriptors: dict[str, int] | None = None
) -> None:
    """Send a packet; small ones only.

    Raises:
        OSError: the other side is gone.
    """
    if not descriptors:
        control.send(json.dumps(content).encode("ascii"))
        return
    content = {**content, "descriptors": [*descriptors]}
    data = json.dumps(content).encode("ascii")
    socket.send_fds(control, [data], [*descriptors.values()])


def receive(control: socket.socket) -> Message | None:
    """The next packet; None when the other side is gone."""
    try:
        data, received, _, _ = socket.recv_fds(control, _MAX_BYTES, _MAX_DESCRIPTORS)
    except ConnectionResetError:
        return None
    if not data:
        return None
    content = json.loads(data)
    return Message(content, dict(zip(content.pop("descriptors", ()), received, strict=True)))


def receive_report(control: socket.socket) -> dict[str, Any] | None:
    """What the other side, which need not be trusted, reports; None when it is gone.

    Descriptors that come along are dropped by the kernel.

    Raises:
        ValueError: it is no message.
        TimeoutError: the socket has a time-out, and it passed.
    """
    try:
        data = control.recv(_MAX_BYTES)
    except (ConnectionResetError, BrokenPipeError):
        return None
    if not data:
        return None
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("no message")
    return content
