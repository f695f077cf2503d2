"""The framing of messages: heads are read strictly, bodies end where they end, and h11 agrees."""

from collections.abc import Callable
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.forward.framing import (
    BodyFraming,
    ChunkedBody,
    FramingError,
    LengthBody,
    RequestHead,
    ResponseHead,
    UntilCloseBody,
    split_head,
)

TOKENS = st.text("abcXYZ019-_.!#$%&'*+^`|~", min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12).map(str.strip)
AWKWARD_PAYLOADS = st.one_of(
    st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"\n\n", b"a"]), st.binary(min_size=1)
)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in pieces, cut at places taken from arbitrary numbers."""
    places = sorted({number % (len(data) + 1) for number in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def read_body(body: BodyFraming, pieces: list[bytes]) -> tuple[bytes, int]:
    """The payload, and how many bytes belonged to the body."""
    payload, taken = b"", 0
    for piece in pieces:
        if body.is_done:
            break
        # Behind other bytes, as the end of a head lies before a body in one read.
        got, end = body.feed(b"#" + piece, 1)
        payload += got
        taken += end - 1
    return payload, taken


@given(
    chunks=st.lists(st.tuples(AWKWARD_PAYLOADS, st.sampled_from([b"", b";a=1", b';b="x;y"'])), max_size=5),
    trailers=st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC: d\r\n"]),
    behind=st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"garbage", b"\r\n"]),
    cuts=st.lists(st.integers(min_value=0), max_size=12),
)
def test_a_chunked_body_reads_the_same_however_it_is_cut(
    chunks: list[tuple[bytes, bytes]], trailers: bytes, behind: bytes, cuts: list[int]
) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    raw += b"0\r\n" + trailers + b"\r\n"
    body = ChunkedBody()

    payload, taken = read_body(body, cut(raw + behind, cuts))

    assert body.is_done
    assert (payload, taken) == (b"".join(data for data, _ in chunks), len(raw))
    assert body.trailers == trailers


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(min_value=0), max_size=6))
def test_whatever_comes_as_a_chunked_body_is_read_or_refused(data: bytes, cuts: list[int]) -> None:
    body = ChunkedBody()
    try:
        payload, taken = read_body(body, cut(data, cuts))
    except FramingError:
        return
    assert len(payload) <= taken <= len(data)


_PIECES = st.one_of(
    st.binary(min_size=1, max_size=20).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data)),
    st.sampled_from([b"\r\n", b"\r", b"\n", b"3", b"3\r\n", b"3\r\n\r\n", b"abc", b"abc\r\n", b"3;e=1\r\nabc\r\n"]),
    st.sampled_from(
        [b"0\r\n", b"0\r\n\r\n", b"A\r\n0123456789\r\n", b"03\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\r\nabcde", b"X: y\r\n"]
    ),
)


def _outcomes(body: ChunkedBody, feed: Callable[[bytes, int], tuple[bytes, int]], reads: list[bytes]) -> list[object]:
    outcomes: list[object] = []
    for read in reads:
        if body.is_done:
            break
        try:
            outcomes.append(feed(b"head" + read, 4))
        except FramingError:
            return [*outcomes, "refused"]
    return [*outcomes, body.is_done, body.trailers]


@given(reads=st.lists(_PIECES, max_size=12))
def test_reads_that_are_whole_chunks_are_read_as_llhttp_reads_them(reads: list[bytes]) -> None:
    quick, thorough = ChunkedBody(), ChunkedBody()

    assert _outcomes(quick, quick.feed, reads) == _outcomes(thorough, thorough._read, reads)


@pytest.mark.parametrize(
    "raw",
    [
        b"5\nhello\r\n",
        b"zz\r\n",
        b"5\r\nhelloX\r\n",
        b"-1\r\n",
        b"F" * 20 + b"\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
    ],
)
def test_a_broken_chunk_is_refused(raw: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkedBody().feed(raw)


@given(length=st.integers(0, 60), data=st.binary(max_size=80), cuts=st.lists(st.integers(min_value=0), max_size=6))
def test_a_body_of_known_length_ends_there(length: int, data: bytes, cuts: list[int]) -> None:
    payload, taken = read_body(LengthBody(length), cut(data, cuts))
    assert (payload, taken) == (data[:length], min(length, len(data)))


@given(
    method=TOKENS,
    target=st.from_regex(r"/[!-~]{0,20}", fullmatch=True),
    fields=st.lists(st.tuples(TOKENS, VALUES), max_size=6),
)
@example(method="POST", target="/", fields=[("Transfer-Encoding", "chunked")])
@example(method="POST", target="/", fields=[("Transfer-Encoding", "gzip")])
@example(method="POST", target="/", fields=[("Content-Length", "5")])
@example(method="POST", target="/", fields=[("Content-Length", "+5")])
def test_what_is_accepted_h11_accepts_too_and_frames_alike(
    method: str, target: str, fields: list[tuple[str, str]]
) -> None:
    raw = f"{method} {target} HTTP/1.1\r\nHost: a\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    try:
        head = RequestHead(raw.encode())
        body = head.body()
    except FramingError:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(raw.encode() + b"\r\n")

    request = theirs.next_event()

    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (head.method, head.target) == (method.encode(), target.encode())
    has_body = not isinstance(theirs.next_event(), h11.EndOfMessage)
    assert has_body == (not body.is_done)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost : a\r\n", "not a header line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n", "not a header line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n", "not a header line"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "exactly one Host"),
        (b"GET / HTTP/1.1\r\nX: 1\r\n", "exactly one Host"),
        (b"GET /\r\n", "first line is none of HTTP"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n", "first line is none of HTTP"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n", "not spoken here"),
    ],
)
def test_a_malformed_head_is_refused_with_its_reason(lines: bytes, complaint: str) -> None:
    with pytest.raises(FramingError, match=complaint):
        RequestHead(lines)


def test_the_reason_names_a_bad_line_without_its_value() -> None:
    with pytest.raises(FramingError) as caught:
        RequestHead(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer secret\r\n")
    assert "Authorization" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "both"),
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", "repeated"),
        (b"Content-Length: 1, 1\r\n", "not a number"),
        (b"Transfer-Encoding: chunked, gzip\r\n", "does not end in chunked"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "does not end in chunked"),
        (b"Transfer-Encoding: \r\n", "does not end in chunked"),
    ],
)
def test_a_request_whose_end_is_ambiguous_is_refused(fields: bytes, complaint: str) -> None:
    with pytest.raises(FramingError, match=complaint):
        RequestHead(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields).body()


@pytest.mark.parametrize(
    ("method", "head", "kind"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", LengthBody),
        (b"GET", b"HTTP/1.1 304 \r\nContent-Length: 5\r\n", LengthBody),
        (b"GET", b"HTTP/1.1 204\r\n", LengthBody),
        (b"GET", b"HTTP/1.1 200 OK\r\n", UntilCloseBody),
        (b"GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n", UntilCloseBody),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", ChunkedBody),
    ],
)
def test_a_response_is_framed_by_its_request_status_and_fields(method: bytes, head: bytes, kind: type) -> None:
    body = ResponseHead(head).body(method)
    assert isinstance(body, kind)
    if method == b"HEAD" or b"304" in head or b"204" in head:
        assert body.is_done


@given(cuts=st.lists(st.integers(min_value=0), max_size=6))
def test_a_head_is_found_however_it_is_cut(cuts: list[int]) -> None:
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody"
    buffer, searched, found = b"", 0, None
    for piece in cut(whole, cuts):
        buffer += piece
        found = split_head(buffer, searched, 1000)
        if found:
            break
        searched = len(buffer)
    assert found == (b"GET / HTTP/1.1\r\nHost: a\r\n", len(whole) - 4)


def test_a_head_that_can_be_none_is_refused_before_its_end() -> None:
    with pytest.raises(FramingError, match="without CR"):
        split_head(b"GET / HTTP/1.1\nHost", 0, 1000)
    with pytest.raises(FramingError, match="does not begin"):
        split_head(b"SSH-2.0", 0, 1000, b"HTTP/1.")
    with pytest.raises(FramingError, match="longer than 10 bytes") as caught:
        split_head(b"GET / HTTP/1.1\r\n", 0, 10)
    assert caught.value.status == 431
