"""Bodies pass as they are, however they are framed, and a message ends where its sender says."""

import gzip

import pytest

from tests.conftest import Wire
from tests.raw_client import RawClient
from tests.raw_server import ServerConnection, answer, chunk, length_response
from tests.raw_socket import Head

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST_CHUNKED = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _ask_again(client: RawClient) -> None:
    """The connection is in order: the next response is the next one's and nothing else."""
    assert client.ask(b"GET /again HTTP/1.1\r\nHost: h\r\n\r\n").status == 200


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"x-odd"])
def test_a_compressed_body_passes_as_it_is_both_ways(plain_wire: Wire, coding: bytes) -> None:
    body = gzip.compress(b"text " * 1000)
    response = length_response(body, b"Content-Encoding: " + coding, b"Content-Type: text/plain")
    client = plain_wire.connect()
    plain_wire.upstream.begin(answer(response))
    client.ask(
        b"POST /x HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip, br;q=0.5\r\nContent-Encoding: %s\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (coding, len(body), body)
    )
    request = plain_wire.upstream.request
    assert request.body == body
    assert request.head.get(b"content-encoding") == coding
    assert request.head.get(b"accept-encoding") == b"gzip, br;q=0.5"
    assert bytes(client.received) == response


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
def test_a_body_with_a_length_passes_both_ways(wire: Wire, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"\x00" * (size % 256)
    response = wire.ask(
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (size, body), answer(length_response(body))
    )
    assert wire.upstream.request.head.get(b"content-length") == b"%d" % size
    assert response.head.get(b"content-length") == b"%d" % size
    assert wire.upstream.request.body == body
    assert response.body == body


@pytest.mark.parametrize(
    "pieces", [[], [b"x"], [b"hello ", b"", b"world\r\n0\r\n\r\n"], [b"a" * 100_000, b"b" * 300_000]]
)
def test_a_chunked_body_stays_chunked_both_ways(wire: Wire, pieces: list[bytes]) -> None:
    raw = b"".join(chunk(piece) for piece in pieces if piece) + chunk(b"")
    client = wire.connect()
    wire.upstream.begin(answer(CHUNKED_HEAD + raw))
    response = client.ask(POST_CHUNKED + raw)
    assert wire.upstream.request.head.is_chunked
    assert wire.upstream.request.head.all(b"content-length") == []
    assert response.head.is_chunked
    assert response.head.all(b"content-length") == []
    assert wire.upstream.request.body == b"".join(pieces)
    assert response.body == b"".join(pieces)
    _ask_again(client)


def test_chunk_extensions_do_not_get_into_the_body(wire: Wire) -> None:
    raw = b'5;name=value\r\nhello\r\n006;q="a;b"\r\n world\r\nA\r\n0123456789\r\n000;last\r\n\r\n'
    response = wire.ask(POST_CHUNKED + raw, answer(CHUNKED_HEAD + raw))
    assert (response.status, wire.upstream.request.body) == (200, b"hello world0123456789")
    assert response.body == b"hello world0123456789"


def test_trailers_pass_both_ways(wire: Wire) -> None:
    raw = b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\nx-second: d e\r\n\r\n"
    client = wire.connect()
    wire.upstream.begin(answer(CHUNKED_HEAD.replace(b"\r\n\r\n", b"\r\nTrailer: X-Checksum\r\n\r\n") + raw))
    response = client.ask(POST_CHUNKED + raw)
    assert wire.upstream.request.trailers == [(b"X-Checksum", b"abc"), (b"x-second", b"d e")]
    assert response.trailers == [(b"X-Checksum", b"abc"), (b"x-second", b"d e")]
    assert response.head.get(b"trailer") == b"X-Checksum"
    _ask_again(client)


def test_a_chunked_body_may_be_cut_anywhere(wire: Wire) -> None:
    raw = b"5;e=1\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nX-T: 1\r\n\r\n"

    def script(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        connection.send_bytewise(CHUNKED_HEAD + raw)

    client = wire.connect()
    wire.upstream.begin(script)
    client.send_bytewise(POST_CHUNKED + raw)
    response = client.read_response()
    assert response.body == wire.upstream.request.body == b"hello0123456789abcdef"
    assert response.trailers == wire.upstream.request.trailers == [(b"X-T", b"1")]


def test_a_get_may_have_a_body(wire: Wire) -> None:
    wire.ask(b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    assert wire.upstream.request.body == b"abc"


def test_a_post_without_framing_has_no_body(wire: Wire) -> None:
    client = wire.connect()
    assert client.ask(b"POST /x HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    assert wire.upstream.request.head.all(b"content-length") == []
    assert wire.upstream.request.head.all(b"transfer-encoding") == []
    _ask_again(client)


@pytest.mark.parametrize("framing", [b"Content-Length: 1234", b"Transfer-Encoding: chunked", b"X-Nothing: 1"])
def test_head_keeps_its_framing_fields_and_has_no_body(wire: Wire, framing: bytes) -> None:
    client = wire.connect()
    wire.upstream.begin(answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"))
    head = client.ask(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n").head
    name, _, value = framing.partition(b": ")
    assert head.get(name) == value
    wire.upstream.begin()
    _ask_again(client)


@pytest.mark.parametrize(
    ("status", "framing"),
    [
        (b"204 No Content", b""),
        (b"304 Not Modified", b""),
        (b"304 Not Modified", b"Content-Length: 77\r\n"),
        (b"304 Not Modified", b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_a_status_without_body_has_none_and_its_fields_stay(wire: Wire, status: bytes, framing: bytes) -> None:
    client = wire.connect()
    wire.upstream.begin(answer(b'HTTP/1.1 %s\r\nETag: "x"\r\n%s\r\n' % (status, framing)))
    response = client.ask(GET)
    assert response.head.get(b"etag") == b'"x"'
    kept = [name + b": " + value + b"\r\n" for name, value in response.head.fields if name.lower().endswith(b"ding")]
    kept += [name + b": " + value + b"\r\n" for name, value in response.head.fields if name == b"Content-Length"]
    assert b"".join(kept) == framing
    wire.upstream.begin()
    _ask_again(client)


def test_a_body_that_ends_with_the_connection_arrives_whole(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall ")
        connection.send(b"there is")
        connection.close()

    assert wire.ask(GET, script).body == b"all there is"


def test_head_and_body_may_come_in_one_packet(wire: Wire) -> None:
    raw = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    assert wire.ask(raw, answer(length_response(b"world"))).body == b"world"
    assert wire.upstream.request.body == b"hello"


@pytest.mark.through_proxy
def test_a_length_beside_chunks_is_not_passed_on(wire: Wire) -> None:
    """RFC 9112, section 6.3: the chunks count, and whoever reads on must not be misled by the length."""
    client = wire.connect()
    wire.upstream.begin(
        answer(CHUNKED_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + chunk(b"hello") + chunk(b""))
    )
    response = client.ask(GET)
    assert (response.body, response.head.all(b"content-length")) == (b"hello", [])
    wire.upstream.begin()
    _ask_again(client)


@pytest.mark.through_proxy
@pytest.mark.parametrize("extra", [b"EXTRA", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"])
def test_bytes_after_the_end_of_a_response_do_not_get_into_the_next(wire: Wire, extra: bytes) -> None:
    wire.upstream.begin(answer(length_response(b"first") + extra))
    client = wire.connect()
    assert client.ask(GET).body == b"first"
    wire.upstream.begin(answer(length_response(b"second")))
    assert client.ask(GET).body == b"second"
    assert wire.connect().ask(GET).body == b"second"


@pytest.mark.through_proxy
def test_a_body_on_a_status_that_has_none_does_not_get_into_the_next_response(wire: Wire) -> None:
    wire.upstream.begin(answer(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nextra"))
    client = wire.connect()
    assert client.ask(GET).status == 204
    wire.upstream.begin(answer(length_response(b"second")))
    assert client.ask(GET).body == b"second"


# --- HTTP/1.0 clients -------------------------------------------------------------------------------------------------


@pytest.mark.through_proxy
def test_a_client_of_http_1_0_gets_a_chunked_response_unchunked_and_closed(wire: Wire) -> None:
    client = wire.connect()
    wire.upstream.begin(answer(CHUNKED_HEAD + chunk(b"hello ") + chunk(b"world") + b"0\r\nX-Trailer: 1\r\n\r\n"))
    client.send(b"GET /x HTTP/1.0\r\n\r\n")
    head = client.read_head()
    assert head.status == 200
    assert head.all(b"transfer-encoding") == []
    assert client.read_rest() == b"hello world"


def test_a_client_of_http_1_0_gets_the_length_and_the_end(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"hello", b"Connection: close"))
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    response = client.ask(b"GET /x HTTP/1.0\r\nHost: h\r\n\r\n")
    assert (response.head.get(b"content-length"), response.body) == (b"5", b"hello")
    assert client.wait_for_end() == "closed"


@pytest.mark.through_proxy
def test_a_client_of_http_1_0_may_send_a_body(wire: Wire) -> None:
    assert wire.ask(b"POST /x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc").body == b"ok"
    assert wire.upstream.request.body == b"abc"
    assert wire.upstream.request.head.all(b"host") == [wire.upstream.authority.encode()]
