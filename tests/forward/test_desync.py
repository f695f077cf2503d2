"""Whatever is sent, the proxy and both ends agree on where messages begin and end: nobody gets another's bytes."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Wire
from tests.raw_client import RawClient
from tests.raw_server import ServerConnection, length_response
from tests.raw_socket import BrokenError, Head

pytestmark = pytest.mark.through_proxy

INSERTED = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b":", b",", b"0", b"\x0b", b"\xa0", b"chunked", b"identity, ",
    b"Content-Length: 0\r\n", b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Transfer-Encoding: x\r\n", b"Transfer-Encoding:\tchunked\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n",
    b"X: y\r\n",
]  # fmt: skip
SMUGGLED = b"GET /inner HTTP/1.1\r\nHost: h\r\n\r\n"
REQUESTS = [
    b"POST /outer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED),
    b"POST /outer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    b"GET /outer HTTP/1.1\r\nHost: h\r\n\r\n" + SMUGGLED,
]  # fmt: skip
FORGED = length_response(b"forged")
RESPONSES = [
    length_response(FORGED),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + length_response(b"late"),
]
FEW = settings(max_examples=100, suppress_health_check=list(HealthCheck))


@st.composite
def _damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    raw = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"", *INSERTED])) + raw[at + draw(st.integers(0, 2)) :]
    return raw


def _statuses(client: RawClient) -> list[int]:
    """Of everything that is answered until the proxy closes or waits for more."""
    statuses = []
    with contextlib.suppress(BrokenError, TimeoutError):
        while not client.is_silent(0.05):
            statuses.append(client.read_response().status)
    return statuses


@FEW
@given(raw=_damaged(REQUESTS))
def test_a_damaged_request_is_one_request_to_both_or_none(wire: Wire, raw: bytes) -> None:
    """Each request that the upstream saw was answered to this client, in order, and there was no other."""

    def script(connection: ServerConnection, head: Head) -> None:
        connection.read_request_body()
        connection.send(length_response(b"", b"X-Target: " + head.target))

    wire.upstream.begin(script)
    with RawClient(wire.address) as client:
        client.send(raw)
        statuses = _statuses(client)
    wire.upstream.check()
    answered = statuses.count(200)
    complete = [request for request in wire.upstream.requests if request.is_complete]
    assert answered == len(complete), (statuses, [request.head.raw for request in wire.upstream.requests])


@FEW
@given(raw=_damaged(RESPONSES))
def test_a_damaged_response_does_not_reach_into_the_next(wire: Wire, raw: bytes) -> None:
    def script(connection: ServerConnection, head: Head) -> None:
        if head.target == b"/damaged":
            connection.send(raw)
        else:
            connection.send(length_response(b"mine " + head.target))

    wire.upstream.begin(script)
    with RawClient(wire.address) as client:
        client.send(b"GET /damaged HTTP/1.1\r\nHost: h\r\n\r\n")
        with contextlib.suppress(BrokenError, ValueError):
            if not client.is_silent(0.05):
                client.read_head()
    for number in range(2):
        with RawClient(wire.address) as client:
            target = b"/clean/%d" % number
            assert client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").body == b"mine " + target
