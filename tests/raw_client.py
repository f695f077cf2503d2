"""A client that sends exactly the bytes it is told and reads answers as they come."""

import socket
import time
from dataclasses import dataclass

from tests.raw_socket import BrokenError, Head, RawSocket, Response

Address = tuple[str, int]


@dataclass(frozen=True)
class ClientId:
    """What tells a connection from all others in a trace; ports are used again."""

    name: str
    """`address:port`."""
    since_us: int
    """When it was made: microseconds since 1970, UTC."""

    @classmethod
    def of(cls, sock: socket.socket) -> "ClientId":
        """That of a socket that was just connected."""
        host, port = sock.getsockname()[:2]
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(name, time.time_ns() // 1000 - 5000)  # the proxy derives its time from another clock


class RawClient(RawSocket):
    """One connection to a server or to the proxy."""

    def __init__(self, address: Address, receive_buffer: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:  # must be set before the connection, so that the window is small from the start
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        super().__init__(sock)
        self.id = ClientId.of(sock)
        """Finds its exchanges in a trace."""

    def read_response(self, method: bytes = b"GET") -> Response:
        """The next response, whole, with the 1xx heads before it.

        Raises:
            BrokenError: it was cut; `body` tells how much came.
        """
        interims = []
        while (head := self.read_head()).status < 200 and head.status != 101:
            interims.append(head)
        body, trailers = self._read_body_of(head, method)
        return Response(head, body, trailers, interims)

    def ask(self, request: bytes) -> Response:
        """Send a request and read its answer."""
        self.send(request)
        return self.read_response(request.split(b" ", 1)[0])

    def _read_body_of(self, head: Head, method: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        if method == b"HEAD" or head.status in (101, 204, 304):
            return b"", []
        if head.is_chunked or head.all(b"content-length"):
            return self.read_body(head)
        return self.read_rest(), []


def read_broken(client: RawClient, method: bytes = b"GET") -> bytes:
    """What came of a body that must break off; fails where it ends as if it were whole."""
    try:
        response = client.read_response(method)
    except BrokenError as error:
        return error.body
    raise AssertionError(f"the response ended as if it were whole: {response}")
