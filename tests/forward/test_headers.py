"""Which lines of a head are dropped or replaced, and that all others pass as they came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.framing import RequestHead, ResponseHead
from proxy.forward.headers import forwarded_request, is_websocket_upgrade, sent_response

KEPT_NAMES = st.text("abcXYZ019-_.", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("te", "host") and not name.lower().startswith("access-control-")
)
KEPT_LINES = st.lists(
    st.tuples(KEPT_NAMES, st.sampled_from([":", ": ", ":\t ", ":  "]), st.text("abc;=/ ,", max_size=8)), max_size=8
).map(lambda fields: [f"{name}{colon}{value}".encode() for name, colon, value in fields])


def request(*lines: bytes, version: bytes = b"1.1") -> RequestHead:
    return RequestHead(b"\r\n".join([b"POST /a HTTP/" + version, *lines, b""]))


@given(before=KEPT_LINES, after=KEPT_LINES)
def test_all_lines_but_host_pass_byte_for_byte_in_order(before: list[bytes], after: list[bytes]) -> None:
    head = request(*before, b"hOsT:here:1", *after)
    forwarded = forwarded_request(head, head.target, b"there:2", is_upgrade=False)
    assert forwarded.split(b"\r\n") == [b"POST /a HTTP/1.1", *before, b"hOsT: there:2", *after, b"", b""]


@pytest.mark.parametrize(
    ("line", "others"),
    [
        (b"Connection: keep-alive", []),
        (b"Keep-Alive: timeout=5", []),
        (b"Proxy-Connection: close", []),
        (b"TE: trailers", []),
        (b"Upgrade: h2c", []),
        (b"HTTP2-Settings: AAMAAABkAAQAAP__", []),
        (b"Connection: close, X-Gone", [b"X-Gone: 1", b"x-gone: 2"]),
    ],
)
def test_a_hop_by_hop_line_is_dropped_and_what_connection_names(line: bytes, others: list[bytes]) -> None:
    head = request(b"Host: a", line, b"X-Kept: 1", *others)
    forwarded = forwarded_request(head, head.target, b"b", is_upgrade=False)
    assert forwarded == b"POST /a HTTP/1.1\r\nHost: b\r\nX-Kept: 1\r\n\r\n"


def test_connection_cannot_have_the_framing_dropped() -> None:
    head = request(b"Host: a", b"Connection: Content-Length, Transfer-Encoding, Host", b"Content-Length: 3")
    forwarded = forwarded_request(head, head.target, b"b", is_upgrade=False)
    assert forwarded == b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\n"


def test_an_upgrade_keeps_what_makes_it_one() -> None:
    lines = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"]
    head = request(b"Host: a", *lines)
    assert is_websocket_upgrade(head)
    forwarded = forwarded_request(head, head.target, b"b", is_upgrade=True)
    assert forwarded.split(b"\r\n")[1:-2] == [b"Host: b", *lines]


def test_an_old_request_without_host_gets_one() -> None:
    head = request(b"X: 1", version=b"1.0")
    assert (
        forwarded_request(head, head.target, b"b", is_upgrade=False) == b"POST /a HTTP/1.0\r\nX: 1\r\nHost: b\r\n\r\n"
    )


@given(lines=KEPT_LINES)
def test_a_response_passes_byte_for_byte_where_cors_is_off(lines: list[bytes]) -> None:
    lines = [*lines, b"Access-Control-Allow-Origin:", b"Content-Length: 3"]
    head = ResponseHead(b"\r\n".join([b"HTTP/1.1 299 Odd  reason", *lines, b""]))
    sent = sent_response(head, cors=None, is_unchunked=False, is_closing=False)
    assert sent == head.raw + b"\r\n"


def test_the_upstreams_cors_lines_give_way_to_the_proxys() -> None:
    head = ResponseHead(
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin:\r\naccess-control-allow-headers: *\r\nA: b\r\n"
    )
    sent = sent_response(head, cors=b"Access-Control-Allow-Origin: *\r\n", is_unchunked=False, is_closing=False)
    assert sent == b"HTTP/1.1 200 OK\r\nA: b\r\nAccess-Control-Allow-Origin: *\r\n\r\n"


def test_a_length_beside_chunks_is_dropped_and_chunks_for_old_clients() -> None:
    head = ResponseHead(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n")
    assert sent_response(head, cors=None, is_unchunked=False, is_closing=False) == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert sent_response(head, cors=None, is_unchunked=True, is_closing=True) == (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    )
