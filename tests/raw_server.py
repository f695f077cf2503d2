"""A scripted HTTP server on a real socket, as awkward as a test wants it.

A script is a function `(connection, head)` that is called for each request as soon as its head was read; it reads the
body and answers, with whatever bytes and at whatever pace. While it leaves the connection open, the next request is
read. Everything received is kept. A failed assertion in a script fails the test (`RawServer.check`).
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.raw_client import Address
from tests.raw_socket import WAIT_S, BrokenError, Field, Head, RawSocket


class ServerConnection(RawSocket):
    """One accepted connection, as a script sees it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        super().__init__(sock)
        self.number = number
        """Counts the server's connections from 1."""
        self.request: Request

    def read_request_body(self) -> bytes:
        """The body of the request at hand; kept in its `Request` too."""
        self.request.body, self.request.trailers = self.read_body(self.request.head)
        self.request.is_complete = True
        return self.request.body


@dataclass
class Request:
    """A request as it arrived."""

    connection: ServerConnection
    head: Head
    body: bytes = b""
    """Filled when the script read it."""
    trailers: list[Field] = field(default_factory=list)
    is_complete: bool = False
    """Its body, too, was read to its end."""


Script = Callable[[ServerConnection, Head], None]


def answer(response: bytes) -> Script:
    """A script that reads the whole request and then sends these bytes at once."""

    def send_it(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        connection.send(response)

    return send_it


def length_response(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with Content-Length; `lines` are whole header lines."""
    head = [b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one for no data."""
    return b"%x\r\n%s\r\n" % (len(data), data)


OK = answer(length_response(b"ok"))


class RawServer:
    """The server; it runs from its making until `close`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=512)
        self._tls = tls
        self.address: Address = self._listener.getsockname()[:2]
        self.authority = f"[{host}]:{self.address[1]}" if ":" in host else f"{host}:{self.address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.authority}"
        self.script = OK
        self.requests: list[Request] = []
        self._connections: list[ServerConnection] = []
        self._errors: list[Exception] = []
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept, name="raw server")]
        self._threads[0].start()

    def begin(self, script: Script = OK) -> None:
        """Forget what was; answer with `script` from now on."""
        with self._changed:
            self.requests = []
            self._errors = []
            self.script = script

    def wait_for_requests(self, count: int = 1) -> list[Request]:
        """The requests since `begin`, as soon as the heads of so many were read."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, WAIT_S):
                raise TimeoutError(f"{len(self.requests)} requests came, not {count}")
            return self.requests

    @property
    def request(self) -> Request:
        """The one request since `begin`; fails where there were more or none."""
        (request,) = self.requests
        return request

    def check(self) -> None:
        """Raise what went wrong in a script."""
        errors, self._errors = self._errors, []
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End all: the listener, the connections and their threads."""
        with contextlib.suppress(OSError):  # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            if connection.is_open:
                connection.interrupt()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="raw server connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock.settimeout(WAIT_S)
                sock = self._tls.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        connection = ServerConnection(sock, len(self._connections) + 1)
        self._connections.append(connection)
        with connection:
            sock.settimeout(None)
            while connection.is_open:
                errors = self._errors
                try:
                    head = connection.read_head()
                    sock.settimeout(WAIT_S)
                    connection.request = Request(connection, head)
                    with self._changed:
                        self.requests.append(connection.request)
                        script, errors = self.script, self._errors
                        self._changed.notify_all()
                    script(connection, head)
                    if connection.is_open:
                        sock.settimeout(None)
                except (BrokenError, OSError):  # the peer left, which a script that cares notices by itself
                    return
                except Exception as error:  # noqa: BLE001 - it is raised again in the test's thread
                    errors.append(error)
                    return


@dataclass
class Departure:
    """A script that answers with some bytes and then waits for the peer to go."""

    first: bytes = b""
    """What is sent before the waiting."""
    reads_body: bool = True
    _gone: threading.Event = field(default_factory=threading.Event)
    _gone_at: float = 0.0

    def __call__(self, connection: ServerConnection, _: Head) -> None:
        """Play the script."""
        if self.reads_body:
            connection.read_request_body()
        if self.first:  # sending nothing would wait for room in a full buffer
            connection.send(self.first)
        connection.wait_for_end()
        self._gone_at = time.monotonic()
        self._gone.set()

    def seconds_after(self, moment: float) -> float:
        """How long after `moment` (monotonic s) the peer was gone."""
        assert self._gone.wait(WAIT_S), "the peer did not leave"
        return self._gone_at - moment
