"""What is not HTTP, or could be read in two ways, is refused, and the upstream never sees it.

Sources: RFC 9112, sections 2.2, 3, 5, 6 and 7; every case here has been used for request smuggling somewhere.
"""

import pytest

from tests.conftest import Wire
from tests.raw_client import RawClient
from tests.raw_server import ServerConnection, length_response
from tests.raw_socket import BrokenError, Head

pytestmark = pytest.mark.through_proxy

LINE = b"POST /x HTTP/1.1\r\nHost: h\r\n"
REFUSED = {
    "no version": b"GET /\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: h\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in the target": b"GET /a\x00b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method that is no token": b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n",
    "lower case version": b"GET / http/1.1\r\nHost: h\r\n\r\n",
    "another protocol": b"GET / HTPP/1.1\r\nHost: h\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 100 + b"\r\n\r\n",
    "a line without colon": LINE + b"bad line\r\n\r\n",
    "no name": LINE + b": value\r\n\r\n",
    "a space before the colon": LINE + b"X : 1\r\n\r\n",
    "a space in a name": LINE + b"X Y: 1\r\n\r\n",
    "a space before the first name": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "a folded line": LINE + b"X: a\r\n b\r\n\r\n",
    "NUL in a value": LINE + b"X: a\x00b\r\n\r\n",
    "NUL in a name": LINE + b"X\x00Y: a\r\n\r\n",
    "CR in a value": LINE + b"X: a\rContent-Length: 5\r\n\r\n",
    "LF ends a line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "LF ends all lines": b"GET / HTTP/1.1\nHost: h\n\n",
    "LF ends the head": LINE + b"X: 1\r\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "length and chunks": LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths in one": LINE + b"Content-Length: 5, 6\r\n\r\nhello!",
    "a length with a plus": LINE + b"Content-Length: +5\r\n\r\nhello",
    "a length below nothing": LINE + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": LINE + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with a space": LINE + b"Content-Length: 5 5\r\n\r\nhello",
    "a length with an underscore": LINE + b"Content-Length: 1_0\r\n\r\nhello",
    "a length in other digits": LINE + "Content-Length: \u0665\r\n\r\nhello".encode(),
    "an empty length": LINE + b"Content-Length:\r\n\r\n",
    "a length beyond measure": LINE + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "gzip alone": LINE + b"Transfer-Encoding: gzip\r\n\r\n",
    "chunked is not last": LINE + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": LINE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a quoted coding": LINE + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "an empty coding": LINE + b"Transfer-Encoding:\r\n\r\n",
    "a vertical tab in the coding": LINE + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
}


def _ask_and_end(client: RawClient, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer, after which the proxy must close; the client need not."""
    client.send(request)
    response = client.read_response()
    assert client.wait_for_end() in ("closed", "reset")
    assert response.head.get(b"access-control-allow-origin") == b"*"
    assert b'"error"' in response.body
    return response.status, response.body


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
def test_is_refused_recorded_and_never_seen_by_the_upstream(wire: Wire, request_bytes: bytes) -> None:
    assert wire.proxy
    client = wire.connect()
    status, _ = _ask_and_end(client, request_bytes)
    assert status in (400, 501, 505)
    assert wire.upstream.requests == []
    row = wire.exchange_of(client)
    assert row["status"] == status
    assert row["error"]


def test_what_was_no_request_is_kept_as_it_came(wire: Wire) -> None:
    assert wire.proxy
    client = wire.connect()
    _ask_and_end(client, b"NONSENSE /\r\n\r\n")
    row = wire.exchange_of(client)
    assert row["method"] is None
    assert wire.proxy.body(row["id"], "request") == b"NONSENSE /\r\n\r\n"


@pytest.mark.parametrize("request_bytes", [b"BAD\r\n\r\n", LINE + b"Content-Length: x\r\n\r\n"])
def test_what_follows_it_on_the_connection_is_not_read(wire: Wire, request_bytes: bytes) -> None:
    client = wire.connect()
    status, _ = _ask_and_end(client, request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 400
    assert wire.upstream.requests == []


def test_requests_before_it_on_the_connection_are_answered(wire: Wire) -> None:
    client = wire.connect()
    client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nBAD\r\n\r\n")
    assert client.read_response().body == b"ok"
    assert client.read_response().status == 400
    assert [request.head.target for request in wire.upstream.requests] == [b"/1"]


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-5\r\nhello",
        b"0x5\r\nhello",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\nhello\r\n",
        b"\r\n",
        b"F" * 17 + b"\r\n",
    ],
)
def test_a_broken_chunk_breaks_the_request(wire: Wire, body: bytes) -> None:
    """Its head was on its way already; the upstream must not take the request for whole."""
    ends: list[str] = []

    def script(connection: ServerConnection, _: Head) -> None:
        try:
            connection.read_request_body()
            ends.append("whole")
            connection.send(length_response(b"ok"))
        except (BrokenError, ValueError) as error:
            ends.append(f"broken: {error}")
            connection.wait_for_end()
            ends.append("gone")

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(LINE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + body + b"\r\n0\r\n\r\n")
    client.wait_for_end()
    assert bytes(client.received).startswith(b"HTTP/1.1 400") or not client.received
    assert "whole" not in ends
    row = wire.exchange_of(client)
    assert row["error"]


@pytest.mark.parametrize("extra", [b"", b"\r\n\r\n"])
def test_a_head_over_the_limit_is_refused_with_431(wire: Wire, extra: bytes) -> None:
    client = wire.connect()
    status, _ = _ask_and_end(client, LINE + b"X: " + b"x" * 262_200 + extra)
    assert status == 431
    assert wire.upstream.requests == []


def test_an_endless_line_is_refused(wire: Wire) -> None:
    client = wire.connect()
    status, _ = _ask_and_end(client, b"G" * 263_000)
    assert status in (400, 431)


@pytest.mark.parametrize(
    "target",
    [b"http://example.com/", b"https://example.com/x", b"http://127.0.0.1/", b"ftp://h/", b"HTTP://EXAMPLE.COM"],
)
def test_an_absolute_target_on_another_host_is_refused(wire: Wire, target: bytes) -> None:
    """It is no open proxy."""
    client = wire.connect()
    response = client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert 400 <= response.status < 500
    assert wire.upstream.requests == []
    assert wire.exchange_of(client)["status"] == response.status


def test_an_absolute_target_on_the_proxy_itself_is_served(wire: Wire) -> None:
    """RFC 9112, section 3.2.2: every server must."""
    assert wire.proxy
    authority = wire.proxy.authority.encode()
    assert wire.ask(b"GET http://%s/x?y HTTP/1.1\r\nHost: %s\r\n\r\n" % (authority, authority)).status == 200
    assert wire.upstream.request.head.target == b"/x?y"


@pytest.mark.parametrize("target", [b"example.com:443", b"127.0.0.1:22"])
def test_connect_is_refused(wire: Wire, target: bytes) -> None:
    client = wire.connect()
    client.send(b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n")
    assert 400 <= client.read_response().status < 600
    assert wire.upstream.requests == []


def test_a_preface_of_http2_is_refused(wire: Wire) -> None:
    client = wire.connect()
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    assert client.read_response().status in (400, 505)
    assert wire.upstream.requests == []


def test_a_target_that_is_no_path_is_refused(wire: Wire) -> None:
    for target in (b"x", b"?q", b"h:1"):
        client = wire.connect()
        assert client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").status == 400
    assert wire.upstream.requests == []
