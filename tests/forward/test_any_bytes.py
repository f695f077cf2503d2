"""The law of all laws: bytes out = bytes in, and stored = sent, however they are framed, cut and timed."""

import time
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Wire
from tests.raw_client import RawClient
from tests.raw_server import ServerConnection
from tests.raw_socket import Field, Head, RawSocket

_TOKEN = st.text("abcXYZ-09_!~", min_size=1, max_size=12).map(str.encode)
_VALUE = st.binary(max_size=30).map(
    lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F).strip()
)
_LINES = st.lists(st.tuples(_TOKEN.map(lambda name: b"X-" + name), _VALUE), max_size=5)
_EVENT = st.text(max_size=40).map(lambda text: b"data: " + text.encode() + b"\n\n")
_PIECE = st.one_of(
    st.binary(min_size=1, max_size=200),
    _EVENT,
    st.sampled_from(
        [b"\x00", b"\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "\u00e9\U0001f999".encode()[:3], b'{"model":"m"}']
    ),
    st.builds(lambda byte, size: byte * size, st.binary(min_size=1, max_size=1), st.integers(1, 70_000)),
)


@dataclass(frozen=True)
class Message:
    """One direction: its fields, its body in pieces, how it is framed and how it is cut."""

    lines: list[Field]
    pieces: list[bytes]
    is_chunked: bool
    trailers: list[Field]
    cuts: list[int]
    """Where a new packet begins, modulo the message's length; an even one after a pause of a millisecond."""

    @property
    def body(self) -> bytes:
        """The body's bytes."""
        return b"".join(self.pieces)

    def wire_bytes(self, start: bytes) -> bytes:
        """The whole message."""
        framing = (b"Transfer-Encoding", b"chunked") if self.is_chunked else (b"Content-Length", b"%d" % len(self.body))
        raw = start + b"\r\n" + _as_lines([*self.lines, framing]) + b"\r\n"
        if not self.is_chunked:
            return raw + self.body
        chunks = [b"%X\r\n%s\r\n" % (len(piece), piece) for piece in self.pieces]
        return raw + b"".join(chunks) + b"0\r\n" + _as_lines(self.trailers) + b"\r\n"

    def send(self, sock: RawSocket, start: bytes) -> None:
        """Send it in its packets."""
        raw = self.wire_bytes(start)
        at = 0
        for cut in sorted({cut % len(raw): cut for cut in self.cuts}.items()):
            sock.send(raw[at : cut[0]])
            at = cut[0]
            if cut[1] % 2 == 0:
                time.sleep(0.001)
        sock.send(raw[at:])


def _as_lines(fields: list[Field]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields)


_MESSAGES = st.booleans().flatmap(
    lambda is_chunked: st.builds(
        Message,
        _LINES,
        st.lists(_PIECE, max_size=8),
        st.just(is_chunked),
        _LINES if is_chunked else st.just([]),
        st.lists(st.integers(0, 100_000), max_size=8),
    )
)


@settings(max_examples=35, suppress_health_check=list(HealthCheck))
@given(
    request=_MESSAGES,
    response=_MESSAGES,
    status=st.sampled_from([b"200 OK", b"404 ", b"500 Oh no"]),
    type_=st.sampled_from([b"text/event-stream", b"application/json", b"application/octet-stream"]),
)
def test_bytes_out_are_bytes_in_and_stored_are_sent(
    plain_wire: Wire, request: Message, response: Message, status: bytes, type_: bytes
) -> None:
    response.lines.append((b"Content-Type", type_))

    def script(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        response.send(connection, b"HTTP/1.1 " + status)

    plain_wire.upstream.begin(script)
    with RawClient(plain_wire.address) as client:
        request.send(client, b"POST /any HTTP/1.1\r\nHost: h")
        received = client.read_response()
        client_id = client.id
    plain_wire.upstream.check()

    forwarded = plain_wire.upstream.request
    assert forwarded.body == request.body
    assert forwarded.trailers == request.trailers
    assert forwarded.head.fields[1:-1] == request.lines
    assert received.body == response.body
    assert received.trailers == response.trailers
    assert received.head.start == b"HTTP/1.1 " + status
    assert received.head.fields[:-1] == response.lines

    if plain_wire.proxy:
        row = plain_wire.proxy.exchange_of(client_id)
        assert (row["outcome"], row["gaps"], row["masked"]) == ("completed", 0, 0)
        assert plain_wire.proxy.body(row["id"], "request") == request.body
        assert plain_wire.proxy.body(row["id"], "response") == response.body
        assert (row["request_bytes"], row["response_bytes"]) == (len(request.body), len(response.body))
        sizes = plain_wire.proxy.query(
            "SELECT side, sum(bytes), min(at_us), max(at_us) FROM chunks WHERE exchange_id = ? GROUP BY side", row["id"]
        )
        expected = {"client": len(request.body), "upstream": len(response.body)}
        assert {side: size for side, size, _, _ in sizes} == {side: size for side, size in expected.items() if size}
        assert all(0 <= first <= last <= row["duration_ms"] * 1000 for _, _, first, last in sizes)


@pytest.mark.through_proxy
def test_show_raw_gives_the_bytes_that_were_sent(plain_wire: Wire) -> None:
    assert plain_wire.proxy
    bodies = [
        b"",
        b"\x00\xff" * 70_000,
        b'{"messages": [{"role": "user", "content": "hi"}, {}]}',
        b"data: \xe2\x82\n\n" * 500,
    ]
    for body in bodies:
        message = Message([(b"Content-Type", b"text/event-stream")], [body] if body else [], True, [], [7, 100, 20_000])

        def script(connection: ServerConnection, _: Head, message: Message = message) -> None:
            connection.read_request_body()
            message.send(connection, b"HTTP/1.1 200 OK")

        plain_wire.upstream.begin(script)
        client = plain_wire.connect()
        message.send(client, b"POST / HTTP/1.1\r\nHost: h")
        assert client.read_response().body == body
        row = plain_wire.exchange_of(client)
        for side in ("request", "response"):
            assert plain_wire.proxy.run("show", str(row["id"]), "--raw", side).stdout == body
