"""What harness, incubators, zygotes and desks say to each other: JSON with named descriptors."""

import json
import os
import socket
from json import encoder
from typing import Any, Final, NamedTuple

_MAX_BYTES: Final = 1 << 16
_MAX_DESCRIPTORS: Final = 8
_DESCRIPTORS_BYTES: Final = socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
# Nothing that is started meanwhile is to have what arrives.
_FLAGS: Final = socket.MSG_CMSG_CLOEXEC

# A room's waiting process handles two messages a sample, and after each fork whatever it touches is
# copied for it, page by page: so without the layers around json's scanner and encoder, nor those
# around recvmsg().
_scan: Final = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_encode: Final = encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


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
        control.send(_dump(content))
        return
    data = _dump({**content, "descriptors": [*descriptors]})
    socket.send_fds(control, [data], [*descriptors.values()])


def _dump(content: dict[str, Any]) -> bytes:
    return "".join(_encode(content, 0)).encode("ascii")


def receive(control: socket.socket) -> Message | None:
    """The next packet; None when the other side is gone."""
    try:
        data, ancillary, _, _ = control.recvmsg(_MAX_BYTES, _DESCRIPTORS_BYTES, _FLAGS)
    except ConnectionResetError:
        return None
    if not data:
        return None
    content, _ = _scan(data.decode("ascii"), 0)
    received = [number for *_, rights in ancillary for number in memoryview(rights).cast("i")]
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
