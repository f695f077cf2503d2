"""WebSockets on any path: a real client and a real server, and between them nothing that either could notice."""

import contextlib
import os
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.conftest import Wire, running
from tests.proxy_process import ProxyProcess
from tests.raw_client import Address
from tests.raw_server import RawServer
from tests.raw_server import ServerConnection as RawServerConnection
from tests.raw_socket import WAIT_S, Head

Play = Callable[[ServerConnection], None]


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


class WebSocketServer:
    """A server whose behaviour each test sets."""

    def __init__(self) -> None:
        self.play: Play = _echo
        self.refusal: Response | None = None
        self._server = serve(
            lambda connection: self.play(connection),
            "127.0.0.1",
            0,
            max_size=None,
            ping_interval=None,
            subprotocols=[Subprotocol("lms.v1"), Subprotocol("chat")],
            process_request=lambda _connection, _request: self.refusal,
        )
        self.address: Address = self._server.socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join(WAIT_S)


@dataclass
class WebSocketWire:
    """The way to the server."""

    server: WebSocketServer
    address: Address
    proxy: ProxyProcess | None

    def connect(self, path: str = "/llm", **options: object) -> ClientConnection:
        """A client that gives its pings and limits to nobody."""
        url = f"ws://{self.address[0]}:{self.address[1]}{path}"
        defaults: dict[str, object] = {"max_size": None, "ping_interval": None, "proxy": None, "close_timeout": WAIT_S}
        return connect(url, **(defaults | options))  # type: ignore[arg-type]

    def exchange_of(self, client: ClientConnection) -> sqlite3.Row:
        """The client's exchange, once it ended; skips the rest of the test where there is no proxy."""
        if not self.proxy:
            pytest.skip("the rest needs the proxy")
        host, port = _name_of[client]
        return self.proxy.exchange_of(f"{host}:{port}")

    def messages(self, client: ClientConnection) -> list[tuple[str, str, object]]:
        """Side, kind and text of everything that is recorded of the client's WebSocket."""
        row = self.exchange_of(client)
        assert self.proxy
        sql = "SELECT side, kind, text FROM websocket_messages WHERE exchange_id = ? ORDER BY at_us, side, seq"
        return [tuple(message) for message in self.proxy.query(sql, row["id"])]


_name_of: dict[ClientConnection, tuple[str, int]] = {}


@pytest.fixture(scope="module")
def shared_server() -> Iterator[WebSocketServer]:
    """One server for all tests of this module."""
    with contextlib.closing(WebSocketServer()) as server:
        yield server


@pytest.fixture(scope="module")
def shared_websocket_proxy(
    shared_server: WebSocketServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """The proxy before it."""
    host, port = shared_server.address
    with running(tmp_path_factory.mktemp("websocket"), f"http://{host}:{port}") as proxy:
        yield proxy
