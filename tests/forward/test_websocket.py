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

from tests.conftest import Wire, running
from tests.proxy_process import ProxyProcess
from tests.raw_client import Address, ClientId
from tests.raw_server import Departure
from tests.raw_server import ServerConnection as RawServerConnection
from tests.raw_socket import WAIT_S, Head

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


# --- byte by byte -----------------------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /llm?a=%7e HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nX-Odd: 1\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HELLO = b"\x81\x05hello"
MASKED_HELLO = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"  # RFC 6455, section 5.7


def test_a_frame_in_one_packet_with_the_upgrade_response_arrives(wire: Wire) -> None:
    wire.upstream.begin(Departure(SWITCH + HELLO))
    client = wire.connect()
    client.send(UPGRADE)
    assert client.read_head().start == b"HTTP/1.1 101 Switching Protocols"
    assert client.read_exactly(7) == HELLO


def test_a_frame_in_one_packet_with_the_upgrade_request_arrives(wire: Wire) -> None:
    """A client must wait for the response, but what it sends early is not lost."""

    def script(connection: RawServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        assert connection.read_exactly(11) == MASKED_HELLO
        connection.send(HELLO)
        connection.wait_for_end()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(UPGRADE + MASKED_HELLO)
    client.read_head()
    assert client.read_exactly(7) == HELLO
    client.close()
    if wire.proxy:
        assert wire.exchange_of(client)["request_bytes"] == len(MASKED_HELLO)


def test_a_slow_client_gets_every_frame_though_the_server_has_gone(wire: Wire) -> None:
    frames = b"".join(b"\x82\x7e\x10\x00" + bytes([number]) * 4096 for number in range(250)) * 4

    def script(connection: RawServerConnection, _: Head) -> None:
        connection.send(SWITCH + frames)
        connection.close()

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(script)
    client.send(UPGRADE)
    client.read_head()
    assert client.read_rest() == frames


def test_the_upgrades_fields_pass_both_ways(wire: Wire) -> None:
    wire.upstream.begin(Departure(SWITCH))
    client = wire.connect()
    client.send(UPGRADE)
    assert client.read_head().raw.replace(b"Access-Control-Allow-Origin: *\r\n", b"").startswith(SWITCH[:-2])
    sent = Head.parse(UPGRADE)
    request = wire.upstream.request.head
    assert request.target == b"/llm?a=%7e"
    assert [pair for pair in request.fields if pair[0] != b"Host"] == [
        pair for pair in sent.fields if pair[0] != b"Host"
    ]


def test_frames_may_be_cut_anywhere(wire: Wire) -> None:
    def script(connection: RawServerConnection, _: Head) -> None:
        connection.send_bytewise(SWITCH)
        assert connection.read_exactly(11) == MASKED_HELLO
        connection.send_bytewise(HELLO)
        assert connection.read_exactly(8) == b"\x88\x82\x00\x00\x00\x00\x03\xe8"
        connection.send(b"\x88\x02\x03\xe8")
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send_bytewise(UPGRADE)
    client.read_head()
    client.send_bytewise(MASKED_HELLO)
    assert client.read_exactly(7) == HELLO
    client.send_bytewise(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
    assert client.read_rest() == b"\x88\x02\x03\xe8"
    if wire.proxy:
        row = wire.exchange_of(client)
        assert row["outcome"] == "completed"
        sql = "SELECT side, kind, text FROM websocket_messages WHERE exchange_id = ? AND kind = 'text' ORDER BY side"
        messages = [tuple(message) for message in wire.proxy.query(sql, row["id"])]
        assert messages == [("client", "text", "hello"), ("upstream", "text", "hello")]


def test_bytes_that_are_no_frames_pass_all_the_same(wire: Wire) -> None:
    """A tunnel knows no frames; what it cannot read it must still carry and record."""
    nonsense = bytes(range(255, -1, -1)) * 4

    def script(connection: RawServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        assert connection.read_exactly(len(nonsense)) == nonsense
        connection.send(nonsense)
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(UPGRADE)
    client.read_head()
    client.send(nonsense)
    assert client.read_exactly(len(nonsense)) == nonsense
    client.wait_for_end()
    if wire.proxy:
        row = wire.exchange_of(client)
        assert (row["request_bytes"], row["response_bytes"]) == (len(nonsense), len(nonsense))


def test_a_client_that_does_not_read_stops_the_server(wire: Wire) -> None:
    taken: Queue[int] = Queue()

    def script(connection: RawServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        taken.put(connection.send_until_blocked(b"\x82\x7e\x10\x00" + b"x" * 4096))
        connection.close()

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(script)
    client.send(UPGRADE)
    client.read_head()
    assert taken.get(timeout=WAIT_S) < 50_000_000
