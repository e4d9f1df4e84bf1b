import socket
import threading
from contextlib import closing

import pytest


class Server:
    """Counts who connects to it."""

    def __init__(self, listener):
        self.listener = listener
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.num_connections += 1
            connection.close()


def listeners(tmp_path):
    loopback = socket.create_server(("127.0.0.1", 0))
    yield "AF_INET", loopback.getsockname(), loopback
    for address in (f"\0sandbox-test-{tmp_path}", str(tmp_path / "socket")):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        yield "AF_UNIX", address, listener


@pytest.mark.parametrize("which", [0, 1, 2], ids=["loopback", "abstract", "path"])
def test_no_server_of_the_host_can_be_reached(which, tmp_path, inside, outside):
    tmp_path.chmod(0o777)
    family, address, listener = list(listeners(tmp_path))[which]
    with closing(listener):
        server = Server(listener)
        program = f"import socket; socket.socket(socket.{family}).connect({address!r})"
        control = outside(program)
        assert control.returncode == 0, control.stderr
        assert inside(program).exit_code != 0
        # The control's connection may still be waiting to be counted, but there is no second one.
        assert server.num_connections <= 1


@pytest.mark.parametrize(
    "kind",
    ["AF_INET, socket.SOCK_DGRAM", "AF_UNIX, socket.SOCK_STREAM", "AF_NETLINK, socket.SOCK_RAW"],
)
def test_no_socket_can_be_made(kind, inside, outside):
    program = f"import socket; socket.socket(socket.{kind})"
    assert outside(program).returncode == 0
    assert inside(program).exit_code != 0


def test_no_datagram_pair_can_be_made(inside, outside):
    # Its ends could send to any unix socket by address.
    program = "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"
    assert outside(program).returncode == 0
    assert inside(program).exit_code != 0
    assert inside("import socket; socket.socketpair()").exit_code == 0
