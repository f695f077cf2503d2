"""The general law: what the upstream and the client see through the proxy is what they see without it.

Each request is played against each response twice, directly and through the proxy, and the two are compared.
"""

import gzip
from dataclasses import dataclass

import pytest

from tests.conftest import Wire
from tests.raw_client import Address, RawClient
from tests.raw_server import ServerConnection, chunk, length_response
from tests.raw_socket import BrokenError, Field, Head, Response

pytestmark = pytest.mark.through_proxy

REQUESTS = {
    "get": b"GET /v1/models?a=%7e HTTP/1.1\r\nHost: h\r\nAccept: */*\r\naccept: x\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    "options": b"OPTIONS /x HTTP/1.1\r\nHost: h\r\nOrigin: null\r\n\r\n",
    "post": b"POST /v1/chat HTTP/1.1\r\nhost: h\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    "empty post": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "chunked put": b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    "odd method": b"PROPFIND //a/../%2F HTTP/1.1\r\nHost: h\r\nX-A:\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    "last": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\nHost: h\r\nUser-Agent: ab\r\n\r\n",
}
RESPONSES = {
    "json": length_response(b'{"a": 1}', b"Content-Type: application/json", b'ETag: W/"x"', b"X-Powered-By: Express"),
    "bare": length_response(b"x"),
    "empty": length_response(b""),
    "gzip": length_response(gzip.compress(b"text", mtime=0), b"Content-Encoding: gzip"),
    "cookies": length_response(b"", b"Set-Cookie: a", b"X: 1", b"set-cookie: b", b"Set-Cookie: c", status=b"401 No"),
    "stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(b"data: 1\n\n")
    + chunk(b"data: [DONE]\n\n")
    + chunk(b""),
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n"
    + chunk(b"x")
    + b"0\r\nT: 1\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n',
    "redirect": length_response(b"", b"Location: http://elsewhere.example/", status=b"307 Temporary Redirect"),
    "odd reason": length_response(b"oops", status=b"520 It's (not) good: \xe9"),
    "no reason": length_response(b"ok", status=b"200 "),
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + length_response(b"late"),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ",
    "cut stream": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"),
    "until close": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end",
}
ENDS_WITH_THE_CONNECTION = {"cut", "cut stream", "until close"}


@dataclass
class Seen:
    """What each end saw of the other, less what belongs to one connection."""

    request: tuple[bytes, bytes, list[Field], bytes, list[Field]]
    response: tuple[bytes, list[Field], bool, bytes, list[Field], list[bytes]] | None
    broken: bytes | None
    """The body's bytes, where the response broke off."""


def _play(wire: Wire, address: Address, request: bytes, response: bytes, ends: bool) -> Seen:
    def script(connection: ServerConnection, head: Head) -> None:
        connection.read_request_body()
        is_bodiless = head.method == b"HEAD"
        connection.send(response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if is_bodiless else response)
        if ends or head.all(b"connection") or b"HTTP/1.0" in head.start:
            connection.close()

    wire.upstream.begin(script)
    answer: Response | None = None
    broken = None
    with RawClient(address) as client:
        try:
            answer = client.ask(request)
        except BrokenError as error:
            broken = error.body
    seen = wire.upstream.request
    fields = [pair for pair in seen.head.end_to_end if pair[0].lower() != b"host"]
    return Seen(
        (seen.head.method, seen.head.target, fields, seen.body, seen.trailers),
        _described(answer) if answer else None,
        broken,
    )


def _described(response: Response) -> tuple[bytes, list[Field], bool, bytes, list[Field], list[bytes]]:
    head, interims = response.head, [interim.raw for interim in response.interims]
    return head.start, head.end_to_end, head.is_chunked, response.body, response.trailers, interims


COMBINATIONS = [
    (request, response)
    for request in REQUESTS
    for response in RESPONSES
    # A client of HTTP/1.0 knows no chunks and no 1xx (test_bodies tells what it gets), and to HEAD the script sends
    # the first head alone.
    if not (request == "old" and response in ("stream", "trailers", "hints", "cut stream"))
    and (request, response) != ("head", "hints")
]


@pytest.mark.parametrize(("request_name", "response"), COMBINATIONS)
def test_both_ends_see_the_same_with_and_without_the_proxy(plain_wire: Wire, request_name: str, response: str) -> None:
    request, sent = REQUESTS[request_name], RESPONSES[response]
    ends = response in ENDS_WITH_THE_CONNECTION
    direct = _play(plain_wire, plain_wire.upstream.address, request, sent, ends)
    proxied = _play(plain_wire, plain_wire.address, request, sent, ends)
    assert proxied == direct
