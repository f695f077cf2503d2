"""WebSockets on any path: a real client and a real server, and between them nothing that either could notice."""

import contextlib
import socket
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.conftest import running
from tests.proxy_process import ProxyProcess
from tests.raw_client import Address, ClientId
from tests.raw_socket import WAIT_S

MANY = 500
LARGE = "0123456789abcdef" * 393_216  # 6 MB


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


class WebSocketServer:
    """A server whose behaviour each test sets."""

    def __init__(self) -> None:
        self.play: Callable[[ServerConnection], None] = _echo
        self.refusal: Response | None = None
        self._server = serve(
            self._serve,
            "127.0.0.1",
            0,
            max_size=None,
            ping_interval=None,
            select_subprotocol=lambda _connection, offered: offered[-1] if offered else None,
            process_request=lambda _connection, _request: self.refusal,
        )
        self.address: Address = self._server.socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _serve(self, connection: ServerConnection) -> None:
        self.play(connection)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join(WAIT_S)


class WebSocketWire:
    """The way from clients to the server."""

    def __init__(self, server: WebSocketServer, proxy: ProxyProcess | None) -> None:
        self.server = server
        self.proxy = proxy
        self._client: ClientId

    def connect(self, path: str = "/llm", **options: Any) -> ClientConnection:
        """A client that takes messages of any size and pings nobody by itself."""
        sock = socket.create_connection(self.proxy.address if self.proxy else self.server.address, WAIT_S)
        sock.settimeout(None)
        self._client = ClientId.of(sock)
        options = {"max_size": None, "ping_interval": None} | options
        client: ClientConnection = connect(f"ws://client.example{path}", sock=sock, **options)
        return client

    def exchange(self) -> sqlite3.Row:
        """The last client's exchange, once it ended; the rest of the test is skipped where there is no proxy."""
        if not self.proxy:
            pytest.skip("the rest needs the proxy")
        return self.proxy.exchange_of(self._client)

    def messages(self, columns: str = "side, kind, text") -> list[tuple[object, ...]]:
        """What is recorded of the last client's WebSocket."""
        row = self.exchange()
        assert self.proxy
        sql = f"SELECT {columns} FROM websocket_messages WHERE exchange_id = ? ORDER BY at_us, seq, side"
        return [tuple(message) for message in self.proxy.query(sql, row["id"])]


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


@pytest.fixture
def websocket(request: pytest.FixtureRequest, shared_server: WebSocketServer) -> WebSocketWire:
    """The way to a server that echoes."""
    shared_server.play = _echo
    shared_server.refusal = None
    is_direct = request.config.getoption("--direct")
    return WebSocketWire(shared_server, None if is_direct else request.getfixturevalue("shared_websocket_proxy"))


MESSAGES: list[str | bytes] = [
    "hi",
    b"\x00\xff\x80",
    "",
    b"",
    "\u00e9\u65e5\u672c\U0001f999",
    "a" * 125,
    b"b" * 126,
    "c" * 65_536,
]


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_pass_both_ways_and_are_recorded(websocket: WebSocketWire, compression: str | None) -> None:
    with websocket.connect(compression=compression) as client:
        for message in MESSAGES:
            client.send(message)
            assert client.recv(WAIT_S) == message
    kinds = {str: "text", bytes: "binary"}
    recorded = [message for message in websocket.messages() if message[1] != "close"]
    expected = [(side, kinds[type(each)], _stored(each)) for each in MESSAGES for side in ("client", "upstream")]
    assert recorded == expected
    row = websocket.exchange()
    assert (row["kind"], row["status"], row["outcome"], row["path"]) == ("websocket", 101, "completed", "/llm")


def _stored(message: str | bytes) -> str | bytes:
    """Bytes that are UTF-8 without NUL are text in the trace."""
    if isinstance(message, str):
        return message
    try:
        return message.decode() if b"\x00" not in message else message
    except UnicodeDecodeError:
        return message


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_message_of_6_mb_passes_both_ways(websocket: WebSocketWire, compression: str | None) -> None:
    with websocket.connect(compression=compression) as client:
        client.send(LARGE)
        assert client.recv(WAIT_S) == LARGE
    assert websocket.messages("side, bytes")[:2] == [("client", len(LARGE)), ("upstream", len(LARGE))]


def test_a_message_in_fragments_is_one_message(websocket: WebSocketWire) -> None:
    with websocket.connect(compression=None) as client:
        client.send(["one ", "two ", "three"])
        assert client.recv(WAIT_S) == "one two three"
    assert websocket.messages()[0] == ("client", "text", "one two three")


def test_compression_is_negotiated_end_to_end(websocket: WebSocketWire) -> None:
    with websocket.connect() as client:
        assert client.response
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
    with websocket.connect(compression=None) as client:
        assert client.response
        assert "Sec-WebSocket-Extensions" not in client.response.headers


@pytest.mark.parametrize(("asked", "chosen"), [(["chat"], "chat"), (["other", "lms.v1"], "lms.v1")])
def test_a_subprotocol_is_negotiated_end_to_end(websocket: WebSocketWire, asked: list[str], chosen: str) -> None:
    with websocket.connect(subprotocols=[Subprotocol(name) for name in asked]) as client:
        assert client.subprotocol == chosen


def test_any_path_and_query_arrive_byte_for_byte(websocket: WebSocketWire) -> None:
    seen: Queue[str] = Queue()
    websocket.server.play = lambda connection: seen.put(connection.request.path if connection.request else "")
    with websocket.connect("/a/%7e//b?x=1+2"):
        assert seen.get(timeout=WAIT_S) == "/a/%7e//b?x=1+2"


def test_a_clients_ping_is_answered_by_the_server(websocket: WebSocketWire) -> None:
    with websocket.connect() as client:
        assert client.ping(b"from client").wait(WAIT_S)
    assert websocket.messages()[:2] == [("client", "ping", "from client"), ("upstream", "pong", "from client")]


def test_a_servers_ping_is_answered_by_the_client(websocket: WebSocketWire) -> None:
    is_answered = threading.Event()

    def play(connection: ServerConnection) -> None:
        assert connection.ping(b"from server").wait(WAIT_S)
        is_answered.set()

    websocket.server.play = play
    with websocket.connect() as client:
        assert is_answered.wait(WAIT_S)
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
    assert websocket.messages()[:2] == [("upstream", "ping", "from server"), ("client", "pong", "from server")]


CLOSE_CODES = [(1000, ""), (1001, "going away"), (1011, "broken"), (3000, ""), (4001, "bye \u00e9"), (4999, "x" * 123)]


@pytest.mark.parametrize(("code", "reason"), CLOSE_CODES)
def test_a_clients_close_code_and_reason_reach_the_server(websocket: WebSocketWire, code: int, reason: str) -> None:
    seen: Queue[tuple[int | None, str | None]] = Queue()

    def play(connection: ServerConnection) -> None:
        with pytest.raises(ConnectionClosed):
            connection.recv(WAIT_S)
        seen.put((connection.close_code, connection.close_reason))

    websocket.server.play = play
    with websocket.connect() as client:
        client.close(code, reason)
        assert (client.close_code, client.close_reason) == (code, reason)
    assert seen.get(timeout=WAIT_S) == (code, reason)
    both = [message for message in websocket.messages("side, close_code, close_reason") if message[1]]
    assert both == [("client", code, reason), ("upstream", code, reason)]
    assert websocket.exchange()["outcome"] == "completed"


@pytest.mark.parametrize(("code", "reason"), CLOSE_CODES)
def test_a_servers_close_code_and_reason_reach_the_client(websocket: WebSocketWire, code: int, reason: str) -> None:
    websocket.server.play = lambda connection: connection.close(code, reason)
    with websocket.connect() as client:
        with pytest.raises(ConnectionClosed):
            client.recv(WAIT_S)
        assert (client.close_code, client.close_reason) == (code, reason)
    both = [message for message in websocket.messages("side, close_code, close_reason") if message[1]]
    assert both == [("upstream", code, reason), ("client", code, reason)]
    assert websocket.exchange()["outcome"] == "completed"


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.shutdown(socket.SHUT_RD)  # wakes the library's thread, which then closes the socket: a reset
    sock.close()


def test_a_client_that_vanishes_vanishes_for_the_server(websocket: WebSocketWire) -> None:
    """No close frame is made up."""
    seen: Queue[ConnectionClosedError] = Queue()

    def play(connection: ServerConnection) -> None:
        connection.recv(WAIT_S)
        with pytest.raises(ConnectionClosedError) as caught:
            connection.recv(WAIT_S)
        seen.put(caught.value)

    websocket.server.play = play
    with websocket.connect() as client:
        client.send("hi")
        _reset(client.socket)
    assert seen.get(timeout=WAIT_S).rcvd is None
    assert websocket.exchange()["outcome"] == "client_gone"


def test_a_server_that_vanishes_vanishes_for_the_client(websocket: WebSocketWire) -> None:
    def play(connection: ServerConnection) -> None:
        connection.recv(WAIT_S)
        _reset(connection.socket)

    websocket.server.play = play
    with websocket.connect() as client:
        client.send("hi")
        with pytest.raises(ConnectionClosedError) as caught:
            client.recv(WAIT_S)
    assert caught.value.rcvd is None
    row = websocket.exchange()
    assert row["outcome"] == "upstream_gone"
    assert row["error"]


def test_an_upgrade_the_server_refuses_is_refused_to_the_client(websocket: WebSocketWire) -> None:
    headers = Headers({"X-Why": "no token", "Content-Length": "8"})
    websocket.server.refusal = Response(401, "Unauthorized", headers, b"no entry")
    with pytest.raises(InvalidStatus) as caught, websocket.connect():
        pass
    response = caught.value.response
    assert (response.status_code, response.headers["X-Why"], response.body) == (401, "no token", b"no entry")
    row = websocket.exchange()
    assert (row["status"], row["outcome"]) == (401, "completed")


def _send_many(connection: ClientConnection | ServerConnection, word: str) -> None:
    for number in range(MANY):
        connection.send(f"{word} {number}")


def test_traffic_runs_both_ways_at_once(websocket: WebSocketWire) -> None:
    def play(connection: ServerConnection) -> None:
        sender = threading.Thread(target=_send_many, args=(connection, "down"))
        sender.start()
        received = [connection.recv(WAIT_S) for _ in range(MANY)]
        sender.join()
        connection.send("all" if received == [f"up {number}" for number in range(MANY)] else "not all")

    websocket.server.play = play
    with websocket.connect() as client:
        sender = threading.Thread(target=_send_many, args=(client, "up"))
        sender.start()
        assert [client.recv(WAIT_S) for _ in range(MANY)] == [f"down {number}" for number in range(MANY)]
        sender.join()
        assert client.recv(WAIT_S) == "all"
    messages = websocket.messages("side, text")
    for side, word in (("client", "up"), ("upstream", "down")):
        texts = [text for each, text in messages if each == side]
        assert texts[:MANY] == [f"{word} {number}" for number in range(MANY)]


def test_many_run_side_by_side(websocket: WebSocketWire) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(websocket.connect()) for _ in range(30)]
        for number, client in enumerate(clients):
            client.send(str(number))
        assert [client.recv(WAIT_S) for client in clients] == [str(number) for number in range(30)]
