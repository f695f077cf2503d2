"""What of a response's head reaches the client: everything, to the byte, but what belongs to one connection."""

import pytest

from tests.conftest import Wire
from tests.raw_server import ServerConnection, answer, length_response
from tests.raw_socket import Head

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def test_fields_arrive_in_order_and_case_with_repeats_and_none_is_added(plain_wire: Wire) -> None:
    """No Date, Server or Content-Type is made up, and the head is the same to the byte."""
    response = length_response(
        b"{}",
        b"X-Powered-By: Express",
        b"Set-Cookie: a=1; Path=/",
        b'eTaG: W/"2-x"',
        b"SET-cookie: b=2",
        b"X-Empty:",
        b"Set-Cookie: c=3; Expires=Wed, 09 Jun 2027 10:18:14 GMT",
        b"X-Latin: caf\xe9",
        b"Vary:  Accept-Encoding ",
    )
    client = plain_wire.connect()
    plain_wire.upstream.begin(answer(response))
    client.ask(GET)
    assert bytes(client.received) == response


def test_date_server_and_content_type_arrive_once_as_the_upstream_set_them(wire: Wire) -> None:
    lines = [b"Date: Tue, 15 Nov 1994 08:12:31 GMT", b"Server: nobody/0", b"Content-Type: odd/thing; a=b"]
    head = wire.ask(GET, answer(length_response(b"", *lines))).head
    assert [b": ".join(pair) for pair in head.fields if pair[0] in (b"Date", b"Server", b"Content-Type")] == lines


@pytest.mark.parametrize(
    "status", [b"200 OK", b"200 ", b"200", b"200 Very (odd) reason: ok", b"404 N\xf6", b"599 a\tb"]
)
def test_the_status_line_keeps_its_reason(wire: Wire, status: bytes) -> None:
    head = wire.ask(GET, answer(length_response(b"", status=status))).head
    assert head.start.rstrip(b" ") == b"HTTP/1.1 " + status.rstrip(b" ")


@pytest.mark.parametrize(
    "status", [200, 201, 202, 203, 206, 299, 300, 301, 302, 307, 308, 400, 401, 404, 418, 429, 503]
)
def test_any_status_arrives_with_its_body(wire: Wire, status: int) -> None:
    response = wire.ask(GET, answer(length_response(b"body", b"Location: /y", status=b"%d X" % status)))
    assert (response.status, response.body, response.head.get(b"location")) == (status, b"body", b"/y")
    assert len(wire.upstream.requests) == 1, "a redirect is the client's to follow"


@pytest.mark.through_proxy
def test_hop_by_hop_fields_and_those_connection_names_stay_behind(plain_wire: Wire) -> None:
    head = plain_wire.ask(
        GET,
        answer(
            b"HTTP/1.1 200 OK\r\nX-Before: 1\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\n"
            b"X-Hop: 1\r\nProxy-Connection: keep-alive\r\nX-After: 2\r\nContent-Length: 0\r\n\r\n"
        ),
    ).head
    assert head.fields == [(b"X-Before", b"1"), (b"X-After", b"2"), (b"Content-Length", b"0")]


def test_a_response_of_http_1_0_arrives_whole(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")
        connection.close()

    response = wire.ask(GET, script)
    assert (response.status, response.body) == (200, b"until the end")


def test_a_head_that_comes_byte_by_byte_is_one_head(wire: Wire) -> None:
    raw = length_response(b"body", b"X-One: 1", b"X-Two: 2")
    response = wire.ask(GET, lambda connection, _: connection.send_bytewise(raw))
    assert (response.body, response.head.get(b"x-one"), response.head.get(b"x-two")) == (b"body", b"1", b"2")


def test_set_cookie_is_never_sent_back(wire: Wire) -> None:
    """The proxy keeps no cookies: what the client did not send does not reach the upstream."""
    script = answer(length_response(b"", b"Set-Cookie: a=1; Path=/"))
    wire.ask(GET, script)
    wire.ask(GET, script)
    assert wire.upstream.request.head.all(b"cookie") == []
