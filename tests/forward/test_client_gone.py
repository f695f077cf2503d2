"""A client that leaves takes the upstream's request with it, at once: the model must stop generating."""

import threading
import time

import pytest

from tests.conftest import Wire
from tests.raw_client import RawClient
from tests.raw_server import Departure, ServerConnection
from tests.raw_socket import WAIT_S, Head

AT_ONCE_S = 1.0
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


def _leave(client: RawClient, how: str) -> float:
    moment = time.monotonic()
    client.close() if how == "close" else client.reset()
    return moment


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("request_bytes", [GET, POST], ids=["GET", "POST"])
def test_before_the_response_came(wire: Wire, request_bytes: bytes, how: str) -> None:
    departure = Departure()
    wire.upstream.begin(departure)
    client = wire.connect()
    client.send(request_bytes)
    wire.upstream.wait_for_requests()
    assert departure.seconds_after(_leave(client, how)) < AT_ONCE_S
    if wire.proxy:
        row = wire.exchange_of(client)
        assert (row["outcome"], row["status"]) == ("client_gone", None)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_in_the_middle_of_a_stream(wire: Wire, how: str) -> None:
    departure = Departure(STREAM)
    wire.upstream.begin(departure)
    client = wire.connect()
    client.send(POST)
    client.read_head()
    assert client.read_chunk() == b"hello"
    assert departure.seconds_after(_leave(client, how)) < AT_ONCE_S
    if wire.proxy:
        row = wire.exchange_of(client)
        assert (row["outcome"], row["status"]) == ("client_gone", 200)
        assert wire.proxy.body(row["id"], "response") == b"hello"
        assert wire.proxy.body(row["id"], "request") == b"body"


def test_before_the_upgrade_that_it_asked_for(wire: Wire) -> None:
    """What the upstream sends until it learns of it is recorded, though nobody gets it."""

    def upgrade_too_late(connection: ServerConnection, _: Head) -> None:
        connection.wait_for_end()
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi"
        )
        connection.close()

    wire.upstream.begin(upgrade_too_late)
    client = wire.connect()
    client.send(
        b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    wire.upstream.wait_for_requests()
    client.close()
    if wire.proxy:
        row = wire.exchange_of(client)
        assert (row["outcome"], row["status"]) == ("client_gone", 101)
        (message,) = wire.proxy.query("SELECT side, text FROM websocket_messages WHERE exchange_id = ?", row["id"])
        assert (message["side"], message["text"]) == ("upstream", "hi")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_in_the_middle_of_an_upload(wire: Wire, framing: bytes, how: str) -> None:
    departure = Departure(reads_body=False)
    wire.upstream.begin(departure)
    client = wire.connect()
    client.send(b"POST /x HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
    wire.upstream.wait_for_requests()
    assert departure.seconds_after(_leave(client, how)) < AT_ONCE_S
    assert not bytes(wire.upstream.request.connection.received).endswith(b"0\r\n\r\n"), "no clean end is made up"
    if wire.proxy:
        row = wire.exchange_of(client)
        assert row["outcome"] == "client_gone"
        assert wire.proxy.body(row["id"], "request") in (b"hello", b"5\r\nhello\r\n")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_while_the_upstream_floods_and_the_client_does_not_read(wire: Wire, how: str) -> None:
    """The proxy has then stopped reading from the upstream, and must notice all the same."""

    class Flood(Departure):
        def __call__(self, connection: ServerConnection, head: Head) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            connection.send_until_blocked(b"x" * 65_536)
            is_blocked.set()
            super().__call__(connection, head)

    is_blocked = threading.Event()
    flood = Flood()
    wire.upstream.begin(flood)
    client = wire.connect(receive_buffer=4096)
    client.send(GET)
    client.read_head()
    assert is_blocked.wait(WAIT_S)
    assert flood.seconds_after(_leave(client, how)) < AT_ONCE_S


def test_one_that_leaves_does_not_disturb_another(wire: Wire) -> None:
    departure = Departure(STREAM)
    wire.upstream.begin(departure)
    leaving, staying = wire.connect(), wire.connect()
    for client in (leaving, staying):
        client.send(GET)
        client.read_head()
        assert client.read_chunk() == b"hello"
    assert departure.seconds_after(_leave(leaving, "reset")) < AT_ONCE_S
    assert staying.is_silent(0.1)


@pytest.mark.through_proxy
def test_with_a_second_request_waiting_in_the_pipeline(wire: Wire) -> None:
    departure = Departure(STREAM)
    wire.upstream.begin(departure)
    client = wire.connect()
    client.send(GET + GET)
    client.read_head()
    assert client.read_chunk() == b"hello"
    assert departure.seconds_after(_leave(client, "reset")) < AT_ONCE_S
    assert len(wire.upstream.requests) == 1
