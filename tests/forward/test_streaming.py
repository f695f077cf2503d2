"""Bytes leave as they come, both ways, and whoever is slow slows down the other side instead of filling memory."""

import threading
from queue import Queue

import pytest

from tests.conftest import StartProxy, Wire
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, chunk, length_response
from tests.raw_socket import WAIT_S, Head

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: 30", b"Transfer-Encoding: chunked", b"X-Until: close"])
def test_each_piece_of_a_response_arrives_before_the_next_is_sent(wire: Wire, framing: bytes) -> None:
    pieces = [b"data: %d\n\n\n" % number for number in range(3)]
    has_arrived = [threading.Event() for _ in pieces]
    is_chunked = framing.endswith(b"chunked")

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for piece, arrived in zip(pieces, has_arrived, strict=True):
            connection.send(chunk(piece) if is_chunked else piece)
            assert arrived.wait(WAIT_S)
        connection.send(chunk(b"") if is_chunked else b"")
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(GET)
    head = client.read_head()
    for piece, arrived in zip(pieces, has_arrived, strict=True):
        assert (client.read_chunk() if head.is_chunked else client.read_exactly(len(piece))) == piece
        arrived.set()
    wire.upstream.check()


def test_the_head_of_a_response_arrives_before_its_body_is_sent(wire: Wire) -> None:
    has_arrived = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(CHUNKED)
        assert has_arrived.wait(WAIT_S)
        connection.send(chunk(b"x") + chunk(b""))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(GET)
    assert client.read_head().status == 200
    has_arrived.set()
    assert client.read_chunked()[0] == b"x"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_each_piece_of_a_request_arrives_before_the_next_is_sent(wire: Wire, is_chunked: bool) -> None:
    pieces = [b"first", b"other", b"third"]
    arrived: list[threading.Event] = [threading.Event() for _ in pieces]

    def script(connection: ServerConnection, _: Head) -> None:
        for piece, event in zip(pieces, arrived, strict=True):
            assert (connection.read_chunk() if is_chunked else connection.read_exactly(5)) == piece
            event.set()
        if is_chunked:
            connection.read_chunked()
        connection.send(length_response(b"ok"))

    client = wire.connect()
    wire.upstream.begin(script)
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 15"
    client.send(b"POST /x HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
    wire.upstream.wait_for_requests()  # the head arrives before any body
    for piece, event in zip(pieces, arrived, strict=True):
        client.send(chunk(piece) if is_chunked else piece)
        assert event.wait(WAIT_S)
    client.send(chunk(b"") if is_chunked else b"")
    assert client.read_response().body == b"ok"


def test_both_directions_may_stream_at_once(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(CHUNKED)
        while piece := connection.read_chunk():
            connection.send(chunk(piece.upper()))
        connection.read_until(b"\r\n")
        connection.send(chunk(b""))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.read_head().status == 200
    for piece in (b"a", b"bc", b"def"):
        client.send(chunk(piece))
        assert client.read_chunk() == piece.upper()
    client.send(chunk(b""))
    assert client.read_chunked() == (b"", [])


def test_a_response_may_begin_and_end_while_the_request_is_still_coming(wire: Wire) -> None:
    """As a server does that refuses an upload for its size; the client must get to read why."""
    client = wire.connect()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"too large", b"Connection: close", status=b"413 Too Large"))
        connection.wait_for_end()

    wire.upstream.begin(script)
    client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    response = client.read_response()
    assert (response.status, response.body) == (413, b"too large")


@pytest.mark.parametrize("size", [1_500_000])
def test_one_very_long_line_passes(wire: Wire, size: int) -> None:
    line = b"data: " + b"x" * size + b"\n\n"
    response = wire.ask(GET, lambda connection, _: connection.send(CHUNKED + chunk(line) + chunk(b"")))
    assert response.body == line


def test_a_slow_reader_gets_every_byte(wire: Wire) -> None:
    """The upstream sends as fast as it can; the client has a small window and reads in small steps."""
    body = bytes(range(256)) * 16_000

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(lambda connection, _: connection.send(length_response(body)))
    client.send(GET)
    client.read_head()
    received = bytearray()
    while len(received) < len(body):
        received += client.read_exactly(min(10_000, len(body) - len(received)))
    assert received == body


@pytest.mark.parametrize("framing", [b"Content-Length: 4096000", b"Transfer-Encoding: chunked", b"X-Until: close"])
def test_a_slow_reader_gets_every_byte_though_the_upstream_has_gone(wire: Wire, framing: bytes) -> None:
    """What the proxy holds for the client is not dropped with the upstream's connection."""
    body = bytes(range(256)) * 16_000

    def script(connection: ServerConnection, _: Head) -> None:
        sent = chunk(body) + chunk(b"") if framing.endswith(b"chunked") else body
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + framing + b"\r\n\r\n" + sent)
        connection.close()

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(script)
    client.send(GET)
    assert client.read_response().body == body


@pytest.mark.through_proxy
def test_a_stream_to_a_client_of_http_1_0_is_not_held_back(wire: Wire) -> None:
    has_arrived = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(CHUNKED + chunk(b"first"))
        assert has_arrived.wait(WAIT_S)
        connection.send(chunk(b"last") + chunk(b""))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(b"GET /x HTTP/1.0\r\n\r\n")
    client.read_head()
    assert client.read_exactly(5) == b"first"
    has_arrived.set()
    assert client.read_rest() == b"last"


def test_a_client_that_does_not_read_stops_the_upstream(wire: Wire) -> None:
    taken: Queue[int] = Queue()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        taken.put(connection.send_until_blocked(b"x" * 65_536))
        connection.close()

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(script)
    client.send(GET)
    client.read_head()
    assert taken.get(timeout=WAIT_S) < 50_000_000, "nobody may take a gigabyte for a client that does not read"


def test_an_upstream_that_does_not_read_stops_the_client(wire: Wire) -> None:
    is_done = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        assert is_done.wait(WAIT_S)
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
    assert client.send_until_blocked(b"x" * 65_536) < 50_000_000
    is_done.set()


@pytest.mark.through_proxy
@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_that_does_not_read_stops_the_other_though_the_recorder_is_behind_too(
    start_proxy: StartProxy, upstream: RawServer, direction: str
) -> None:
    """Two reasons to hold a sender back: the end of one must not end the other."""
    taken: Queue[int] = Queue()
    is_done = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        if direction == "down":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            taken.put(connection.send_until_blocked(b"x" * 65_536))
        assert is_done.wait(WAIT_S)
        connection.close()

    upstream.begin(script)
    proxy = start_proxy({"record": {"memory_bytes": 300_000}})
    with RawClient(proxy.address, receive_buffer=4096) as client:
        client.send(
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (3 * 10**8 if direction == "up" else 0)
        )
        if direction == "up":
            taken.put(client.send_until_blocked(b"x" * 65_536))
        size = taken.get(timeout=WAIT_S)
        is_done.set()
    assert size < 50_000_000


@pytest.mark.through_proxy
def test_a_flood_both_ways_at_once_arrives_whole(start_proxy: StartProxy, upstream: RawServer) -> None:
    """Every reason to hold a side back comes and goes here, in any order; none may be forgotten."""
    body = bytes(range(256)) * 80_000

    def echo(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        left = len(body)
        while left:
            data = connection.read_some()
            connection.send(data)
            left -= len(data)

    upstream.begin(echo)
    proxy = start_proxy({"record": {"memory_bytes": 300_000}})
    with RawClient(proxy.address, receive_buffer=4096) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
        sender = threading.Thread(target=client.send, args=(body,))
        sender.start()
        client.read_head()
        received = bytearray()
        while len(received) < len(body):
            received += client.read_exactly(min(500_000, len(body) - len(received)))
        sender.join()
    assert received == body


def test_a_slow_writer_is_waited_for(wire: Wire) -> None:
    """There is no limit on the time between bytes; here both sides just dawdle."""
    pause = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        for at in range(4):
            pause.wait(0.05)  # never set: a pause, not a synchronisation
            connection.send(length_response(b"ab")[at * 12 : at * 12 + 12])

    client = wire.connect()
    wire.upstream.begin(script)
    for piece in (b"POST /x HT", b"TP/1.1\r\nHost: h\r\nContent-Le", b"ngth: 4\r\n\r\n", b"ab", b"cd"):
        pause.wait(0.05)
        client.send(piece)
    assert client.read_response().body == b"ab"
    assert wire.upstream.request.body == b"abcd"


def test_many_streams_run_side_by_side(wire: Wire) -> None:
    """None waits for another: all first pieces are there before any second one is sent."""
    count = 50
    all_arrived = threading.Event()

    def script(connection: ServerConnection, head: Head) -> None:
        connection.send(CHUNKED + chunk(head.target))
        assert all_arrived.wait(WAIT_S)
        connection.send(chunk(head.target) + chunk(b""))

    wire.upstream.begin(script)
    clients = [wire.connect() for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    for number, client in enumerate(clients):
        assert client.read_head().status == 200
        assert client.read_chunk() == b"/%d" % number
    all_arrived.set()
    for number, client in enumerate(clients):
        assert client.read_chunked()[0] == b"/%d" % number
