"""Damaged messages against a second opinion: they are refused, or read as h11 reads them."""

import h11
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.forward.framing import ChunkedBody, FramingError, Head, LengthBody, RequestHead, ResponseHead, split_head

AWKWARD = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"0\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"5\r\nhello",
    b";",
    b"\x00",
    b" ",
    b"\t",
]
INSERTED = st.sampled_from([b"", *AWKWARD, b"A", b"-", b"+", b"0x", b",", b":", b"Content-Length: 3\r\n"])
CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\n00a;x\r\n0123456789\r\n0\r\nX: 1\r\ny-z:\r\n\r\n",
    b"4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n000\r\n\r\n",
]
REQUESTS = [
    b"GET /a?b HTTP/1.1\r\nHost: h\r\nX: 1\r\nx:  2 \r\nEmpty:\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: h\r\nContent-Length: 5\r\nConnection: close, x\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a b\r\n\r\n",
    b"HTTP/1.1 404 \r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@st.composite
def _damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    raw = draw(st.sampled_from(messages))
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(INSERTED) + raw[at + draw(st.integers(0, 3)) :]


@given(_damaged(CHUNKED), st.lists(st.integers(0, 100), max_size=4))
def test_a_damaged_chunked_body_is_refused_or_read_as_h11_reads_it(raw: bytes, cuts: list[int]) -> None:
    """The payload, and the byte where the body ends."""
    body = ChunkedBody()
    payload, at = b"", 0
    try:
        for end in sorted({*(cut % (len(raw) + 1) for cut in cuts), len(raw)} - {0}):
            more, taken = body.feed(raw[at:end])
            payload += more
            at += taken
            if body.is_done:
                break
    except FramingError:
        return
    assert (payload, at, body.is_done) == _chunked_with_h11(raw)


def _chunked_with_h11(raw: bytes) -> tuple[bytes, int, bool]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(CHUNKED_HEAD + raw)
    payload = b""
    while (event := connection.next_event()) is not h11.NEED_DATA:
        if isinstance(event, h11.Data):
            payload += event.data
        elif isinstance(event, h11.EndOfMessage):
            return payload, len(raw) - len(connection.trailing_data[0]), True
    return payload, len(raw), False


@given(_damaged(REQUESTS))
def test_a_damaged_request_head_is_refused_or_read_as_h11_reads_it(raw: bytes) -> None:
    try:
        found = split_head(raw, 0, 100_000)
        assume(found)
        assert found
        head = RequestHead(found[0])
        body = head.body()
    except FramingError:
        return
    assume(_knows(head))
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target, event.http_version) == (head.method, head.target, head.version)
    assert _raw_items(event) == _fields(head)
    fields = dict(event.headers)
    assert isinstance(body, ChunkedBody if b"transfer-encoding" in fields else LengthBody)
    assert body.is_done == (b"transfer-encoding" not in fields and int(fields.get(b"content-length", b"0")) == 0)


@given(_damaged(RESPONSES))
def test_a_damaged_response_head_is_refused_or_read_as_h11_reads_it(raw: bytes) -> None:
    try:
        found = split_head(raw, 0, 100_000)
        assume(found)
        assert found
        head = ResponseHead(found[0])
        head.body(b"GET")
    except FramingError:
        return
    assume(_knows(head))
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert (event.status_code, event.http_version) == (head.status, head.version)
    assert _raw_items(event) == _fields(head)


def _knows(head: Head) -> bool:
    """Whether h11 takes the transfer encoding; it knows but one."""
    return [value.lower() for value in head.values.get(b"transfer-encoding", [b"chunked"])] == [b"chunked"]


def _raw_items(event: h11.Request | h11.Response | h11.InformationalResponse) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in event.headers.raw_items()]


def _fields(head: Head) -> list[tuple[bytes, bytes]]:
    pairs = [line.partition(b":") for line in head.raw.split(b"\r\n")[1:-1]]
    return [(name, value.strip(b" \t")) for name, _, value in pairs]
