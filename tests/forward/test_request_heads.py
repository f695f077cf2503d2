"""What of a request's head reaches the upstream: everything, to the byte, but what belongs to one connection."""

import json

import pytest

from tests.conftest import Wire
from tests.proxy_process import wait_until
from tests.raw_server import answer, length_response
from tests.raw_socket import HOP_BY_HOP

TARGETS = [
    b"/",
    b"/v1/models?",
    b"/%7e/%41/%2F/%2f",
    b"//double//slash/",
    b"/a/../b/./c",
    b"/?a=1+2&b=%20&c",
    b"/;x=y;z?q;r",
    b"/%C3%A9%F0%9F%A6%99",
    "/é/日本".encode(),
    b"/api/v0/models/org/name@q4_k_m",
    b"/v1/messages/count_tokens?beta=true",
    b'/|^`{}[]\\"<>',
    b"/what?is=this?and/that",
    b"/metrics",
    b"/long/" + b"x" * 16_384,
]
METHODS = [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"M-SEARCH", b"FOO", b"get"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40].decode())
def test_a_target_arrives_byte_for_byte(wire: Wire, target: bytes) -> None:
    assert wire.ask(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target).status == 200
    assert wire.upstream.request.head.target == target


def test_options_for_the_whole_server_arrives(wire: Wire) -> None:
    assert wire.ask(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    assert wire.upstream.request.head.start == b"OPTIONS * HTTP/1.1"


@pytest.mark.parametrize("method", METHODS, ids=bytes.decode)
def test_any_method_arrives_with_its_body(wire: Wire, method: bytes) -> None:
    response = wire.ask(method + b" /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
    assert response.body == b"ok"
    request = wire.upstream.request
    assert (request.head.method, request.body) == (method, b"hi")


def _expected_host(wire: Wire) -> bytes:
    return wire.upstream.authority.encode() if wire.proxy else b"client.example:99"


def test_fields_arrive_in_order_and_case_with_repeats_and_none_is_added(wire: Wire) -> None:
    lines = [
        b"uSeR-aGeNt: x/1.0 (a; b)",
        b"X-Repeat: 1",
        b"hOST: client.example:99",
        b"Cookie: a=1",
        b"x-repeat: 2, 3",
        b"Accept: */*",
        b"X-Empty:",
        b"Cookie: b=2; c=3",
        b"X-Latin: caf\xe9 \xc3\xa9",
        b"X_Under.score!#$%&'*+^`|~: odd name",
        b'X-Odd: "quoted, ;=:" \\ (comment)',
        b"X-Inner:   two  spaces  ",
        b"X-Repeat: 4",
        b"Authorization: Bearer null",
        b"Referer: http://a/b?c",
        b"DNT: 1",
    ]
    wire.ask(b"POST /x HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\nContent-Length: 0\r\n\r\n")
    sent = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    expected = [(name, _expected_host(wire) if name == b"hOST" else value) for name, value in sent]
    assert wire.upstream.request.head.fields == [*expected, (b"Content-Length", b"0")]


def test_a_get_without_fields_arrives_with_host_alone(wire: Wire) -> None:
    """No Accept, Accept-Encoding, User-Agent, Content-Type, Via, Forwarded or Connection is made up."""
    wire.ask(b"GET /x HTTP/1.1\r\nHost: client.example:99\r\n\r\n")
    assert wire.upstream.request.head.fields == [(b"Host", _expected_host(wire))]


@pytest.mark.through_proxy
def test_hop_by_hop_fields_and_those_connection_names_stay_behind(wire: Wire) -> None:
    wire.ask(
        b"GET /x HTTP/1.1\r\nHost: h\r\nX-Before: 1\r\nConnection: keep-alive, X-Hop ,\tx-other\r\nx-hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate;q=0.5\r\nX-Other: 2\r\n"
        b"connection: x-third\r\nX-Third: 3\r\nX-HOP: 4\r\nX-After: 5\r\n\r\n"
    )
    fields = wire.upstream.request.head.fields
    assert fields[1:] == [(b"X-Before", b"1"), (b"X-After", b"5")]


@pytest.mark.through_proxy
def test_an_offer_of_http2_is_left_out(wire: Wire) -> None:
    response = wire.ask(
        b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
    )
    assert (response.status, response.body) == (200, b"ok")
    assert [name for name, _ in wire.upstream.request.head.fields] == [b"Host"]


@pytest.mark.parametrize("named", [b"content-length", b"transfer-encoding", b"host"])
def test_connection_cannot_name_away_what_frames_the_request(wire: Wire, named: bytes) -> None:
    framing = b"Transfer-Encoding: chunked" if named == b"transfer-encoding" else b"Content-Length: 7"
    body = b"7\r\nGET / H\r\n0\r\n\r\n" if named == b"transfer-encoding" else b"GET / H"
    response = wire.ask(b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: %s\r\n%s\r\n\r\n%s" % (named, framing, body))
    if response.status != 400:  # refusing it is as good
        assert wire.upstream.request.body == b"GET / H"
        assert wire.upstream.request.head.all(b"host")


@pytest.mark.parametrize("size", [8_000, 17_000, 100_000, 200_000])
def test_a_large_head_passes(wire: Wire, size: int) -> None:
    value = b"t" * size
    response = wire.ask(
        b"GET /x HTTP/1.1\r\nHost: h\r\nX-Large: " + value + b"\r\n\r\n",
        answer(length_response(b"ok", b"X-Large: " + value)),
    )
    assert wire.upstream.request.head.get(b"x-large") == value
    assert response.head.get(b"x-large") == value


def test_a_thousand_fields_pass_in_order(wire: Wire) -> None:
    lines = [b"X-%d: %d" % (number % 7, number) for number in range(1000)]
    fields = [(b"X-%d" % (number % 7), b"%d" % number) for number in range(1000)]
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
    response = wire.ask(head, answer(length_response(b"", *lines)))
    assert wire.upstream.request.head.fields[1:] == fields
    assert response.head.fields[:1000] == fields


def test_a_head_that_comes_byte_by_byte_is_one_head(wire: Wire) -> None:
    client = wire.connect()
    client.send_bytewise(b"POST /a?b HTTP/1.1\r\nHost: h\r\nX: 1\r\nContent-Length: 4\r\n\r\nbody")
    assert client.read_response().body == b"ok"
    request = wire.upstream.request
    assert (request.head.target, request.head.get(b"x"), request.body) == (b"/a?b", b"1", b"body")


def test_empty_lines_before_a_request_are_passed_over(wire: Wire) -> None:
    """RFC 9112, section 2.2: old clients send one after a body."""
    client = wire.connect()
    assert client.ask(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").status == 200
    if wire.proxy:  # the scripted server takes everything literally
        client.send(b"\r\n")
    assert client.ask(b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    assert [request.head.target for request in wire.upstream.requests] == [b"/1", b"/2"]


@pytest.mark.through_proxy
def test_host_is_what_the_upstream_expects_whatever_the_client_says(wire: Wire) -> None:
    for host in (b"localhost:8234", b"host.docker.internal:8234", b"", b"[::1]:1"):
        wire.ask(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
        assert wire.upstream.request.head.all(b"host") == [wire.upstream.authority.encode()]


@pytest.mark.through_proxy
def test_no_field_of_one_connection_only_is_ever_sent_to_the_upstream(wire: Wire) -> None:
    for first in (b"Connection: close\r\n", b"Connection: keep-alive\r\n", b""):
        wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\n" + first + b"\r\n")
        assert not {name.lower() for name, _ in wire.upstream.request.head.fields} & HOP_BY_HOP


@pytest.mark.through_proxy
def test_a_clients_word_to_the_proxy_is_recorded_and_does_not_reach_the_upstream(wire: Wire) -> None:
    proxy = wire.proxy
    assert proxy
    client = wire.connect()
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    client.ask(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Proxy-Log-Session: homework\r\nX-Kept: 1\r\n"
        b"x-proxy-log-TAG: first try\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    assert [name for name, _ in wire.upstream.request.head.fields] == [b"Host", b"X-Kept", b"Content-Length"]
    row = wire.exchange_of(client)
    assert ["X-Proxy-Log-Session", "homework"] in json.loads(row["request_headers"])
    assert ["x-proxy-log-TAG", "first try"] in json.loads(row["request_headers"])
    assert "homework" not in row["forwarded_headers"]
    sql = "SELECT session, tag FROM calls WHERE exchange_id = ?"
    (call,) = wait_until(lambda: proxy.query(sql, row["id"]), "the call is read")
    assert tuple(call) == ("homework", "first try")
