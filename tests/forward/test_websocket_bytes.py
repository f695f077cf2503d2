"""An upgraded connection is a tunnel: every byte passes, wherever reads are cut and whatever the bytes are."""

from queue import Queue

from tests.conftest import Wire
from tests.raw_server import Departure, ServerConnection
from tests.raw_socket import WAIT_S, Head

UPGRADE = (
    b"GET /llm?a=%7e HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nX-Odd: 1\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
HELLO = b"\x81\x05Hello"
MASKED_HELLO = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"  # RFC 6455, section 5.7


def test_a_frame_in_one_packet_with_the_upgrade_response_arrives(wire: Wire) -> None:
    wire.upstream.begin(Departure(SWITCH + HELLO))
    client = wire.connect()
    client.send(UPGRADE)
    assert client.read_head().start == b"HTTP/1.1 101 Switching Protocols"
    assert client.read_exactly(7) == HELLO


def test_a_frame_in_one_packet_with_the_upgrade_request_arrives(wire: Wire) -> None:
    """A client must wait for the response, but what it sends early is not lost."""

    def script(connection: ServerConnection, _: Head) -> None:
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

    def script(connection: ServerConnection, _: Head) -> None:
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
    def script(connection: ServerConnection, _: Head) -> None:
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
        assert messages == [("client", "text", "Hello"), ("upstream", "text", "Hello")]


def test_bytes_that_are_no_frames_pass_all_the_same(wire: Wire) -> None:
    """A tunnel knows no frames; what it cannot read it must still carry and record."""
    nonsense = bytes(range(255, -1, -1)) * 4

    def script(connection: ServerConnection, _: Head) -> None:
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

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        taken.put(connection.send_until_blocked(b"\x82\x7e\x10\x00" + b"x" * 4096))
        connection.close()

    client = wire.connect(receive_buffer=4096)
    wire.upstream.begin(script)
    client.send(UPGRADE)
    client.read_head()
    assert taken.get(timeout=WAIT_S) < 50_000_000
