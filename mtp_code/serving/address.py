"""Where a server listens, and whether it may without a key."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Final

from mtp_code.errors import InputError

API_KEY_VARIABLE: Final = "MTP_CODE_API_KEY"
BACKLOG: Final = 1024


class ServeError(InputError):
    """A server that must not, or cannot, run as it was told to."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    """0: any free one."""

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def api_key_for(address: Address) -> str | None:
    """The key from the environment.

    Raises:
        ServeError: there is none, and others than this machine could ask.
    """
    api_key = os.environ.get(API_KEY_VARIABLE) or None
    if api_key is None and not address.is_loopback:
        raise ServeError(
            f"--host {address.host}: others could reach it; set a key in the environment "
            f"variable {API_KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    return api_key


def listen(address: Address) -> socket.socket:
    """
    Raises:
        ServeError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(address.host, address.port)[0][0]
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServeError(
            f"--host {address.host} --port {address.port}: {error.strerror}; choose another"
        ) from None
