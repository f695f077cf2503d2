"""HTTP/1 framing, sans-io: where a head ends, how long a body is. Strict, and it keeps the bytes as they are.

Facts
-----
* A reverse proxy must agree with its upstream on where each message ends, so everything ambiguous is refused:
  bare LF, folded lines, white space before a colon, Content-Length beside Transfer-Encoding, repeated
  Content-Length (RFC 9112, sections 2.2, 5 and 6).
* Bodies are not rewritten: each framing says which bytes of a read belong to the body (they are passed on raw, chunk
  sizes, extensions and trailers included) and which of them are payload (they are recorded).

Libraries that parse HTTP give neither a head's raw lines nor the offset of a body's end, so heads are read here, and
llhttp (by httptools) reads chunks. `tests/forward/test_framing.py` holds it all against h11 as a second opinion.
"""

import re
from functools import lru_cache
from typing import Protocol

from httptools import HttpParserError, HttpRequestParser

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD_LINES = rb"(?:" + _TOKEN + rb"+:[\t\x20-\x7e\x80-\xff]*+\r\n)*+"
_REQUEST_LINE = rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/(\d\.\d)\r\n"
_STATUS_LINE = rb"HTTP/(1\.[01]) (\d{3})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n"
_REQUEST_HEAD = re.compile(_REQUEST_LINE + _FIELD_LINES)
_RESPONSE_HEAD = re.compile(_STATUS_LINE + _FIELD_LINES)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_ACTED_ON = re.compile(
    rb"(?i)\r\n(connection|keep-alive|proxy-connection|te|upgrade|http2-settings|transfer-encoding|content-length"
    rb"|host|origin|access-control-[a-z-]+|x-proxy-log-(?:session|tag))(:[ \t]*)([^\r]*)"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_EMPTY_LINE = b"\r\n\r\n"
_MAX_TRAILERS = 256
_NONE: list[bytes] = []


class FramingError(ValueError):
    """The bytes are not HTTP/1 as it must be; the message says what is wrong.

    `status` is what to answer a client with.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A message's head: its raw lines, and the few fields a proxy acts on."""

    __slots__ = ("connection", "parts", "raw", "values")

    def __init__(self, raw: bytes) -> None:
        """`raw` was found to be well-formed."""
        self.raw = raw
        """Start line and field lines, each with CRLF; the empty line is left out."""
        self.parts = _ACTED_ON.split(raw)
        """The head cut around the fields acted on: other lines, then name, colon, value, other lines, and so on."""
        self.values: dict[bytes, list[bytes]] = {}
        """Of the fields acted on: name in lower case to the value of each line, in order."""
        for index in range(1, len(self.parts), 4):
            value = self.parts[index + 2].rstrip(b" \t")
            self.values.setdefault(self.parts[index].lower(), []).append(value)
        self.connection = self.tokens(b"connection") if b"connection" in self.values else _NONE
        """The members of `Connection`, in lower case."""

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated members of a list field, in lower case."""
        return [
            token.strip().lower()
            for value in self.values.get(name, _NONE)
            for token in value.split(b",")
            if token.strip()
        ]

    def content_length(self) -> int | None:
        """What Content-Length says; None without one.

        Raises:
            FramingError: it is repeated or not a number.
        """
        values = self.values.get(b"content-length")
        if values is None:
            return None
        if len(values) > 1:
            raise FramingError("Content-Length is repeated")
        if not _DIGITS.fullmatch(values[0]):
            raise FramingError(f"Content-Length is not a number: {values[0][:40]!r}")
        return int(values[0])


class RequestHead(Head):
    """A request's head."""

    __slots__ = ("method", "target", "version")

    def __init__(self, raw: bytes) -> None:
        """Raises `FramingError` where `raw` is not as it must be."""
        match = _REQUEST_HEAD.fullmatch(raw)
        if not match:
            raise FramingError(_what_is_wrong(raw, _REQUEST_LINE))
        super().__init__(raw)
        self.method, self.target, self.version = match.groups()
        if self.version not in (b"1.1", b"1.0"):
            raise FramingError(f"HTTP version {self.version.decode()} is not spoken here", 505)
        if len(self.values.get(b"host", ())) != 1 and (self.version == b"1.1" or b"host" in self.values):
            raise FramingError("a request of HTTP/1.1 has exactly one Host")

    def body(self) -> "BodyFraming":
        """How the request's body is framed (RFC 9112, section 6.3).

        Raises:
            FramingError: the fields contradict each other.
        """
        length = self.content_length()
        if b"transfer-encoding" in self.values:
            # Empty members are allowed, but who knows how the upstream reads them: they are none of the known codings.
            codings = b",".join(self.values[b"transfer-encoding"]).lower().replace(b" ", b"").split(b",")
            if length is not None:
                raise FramingError("both Transfer-Encoding and Content-Length")
            if self.version == b"1.0":
                raise FramingError("Transfer-Encoding in HTTP/1.0")
            if codings[-1] != b"chunked" or codings.count(b"chunked") > 1 or b"" in codings:
                raise FramingError("Transfer-Encoding does not end in chunked")
            return ChunkedBody()
        return LengthBody(length or 0)


class ResponseHead(Head):
    """A response's head."""

    __slots__ = ("status", "version")

    def __init__(self, raw: bytes) -> None:
        """Raises `FramingError` where `raw` is not as it must be."""
        match = _RESPONSE_HEAD.fullmatch(raw)
        if not match:
            raise FramingError(_what_is_wrong(raw, _STATUS_LINE))
        super().__init__(raw)
        self.version = match[1]
        self.status = int(match[2])

    def body(self, request_method: bytes) -> "BodyFraming":
        """How the response's body is framed (RFC 9112, section 6.3)."""
        if request_method == b"HEAD" or self.status in (204, 304) or self.status < 200:
            return LengthBody(0)
        if b"transfer-encoding" in self.values:
            return ChunkedBody() if self.tokens(b"transfer-encoding")[-1:] == [b"chunked"] else UntilCloseBody()
        length = self.content_length()
        return UntilCloseBody() if length is None else LengthBody(length)


# Clients and servers repeat themselves: what was read from the same bytes a moment ago is not read again.
_REMEMBERED_HEADS = 256


@lru_cache(maxsize=_REMEMBERED_HEADS)
def read_request_head(raw: bytes) -> RequestHead:
    """The same as `RequestHead(raw)`, remembered."""
    return RequestHead(raw)


@lru_cache(maxsize=_REMEMBERED_HEADS)
def read_response_head(raw: bytes) -> ResponseHead:
    """The same as `ResponseHead(raw)`, remembered."""
    return ResponseHead(raw)


def split_head(buffer: bytes, searched: int, limit: int, start: bytes = b"") -> tuple[bytes, int] | None:
    """The raw head at the front of `buffer` and the offset after its empty line; None while it is incomplete.

    `searched` bytes were searched before, without success; `start` is how every head begins. Raises `FramingError` as
    soon as it can be no head.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if end >= 0 and end <= limit:
        return buffer[: end + 2], end + 4
    if len(buffer) > limit:
        raise FramingError(f"the head is longer than {limit} bytes", 431)
    if _BARE_LF.search(buffer, max(0, searched - 1)):
        raise FramingError("a line ends in LF without CR")
    if not buffer.startswith(start[: len(buffer)]):
        raise FramingError(f"it does not begin with {start.decode()}")
    return None


def _what_is_wrong(raw: bytes, start_line: bytes) -> str:
    """In words that quote no value: it may be a secret, and errors are recorded and logged."""
    start = re.match(start_line, raw)
    if not start:
        return "its first line is none of HTTP"
    good = re.compile(_FIELD_LINES).match(raw, start.end())
    name, colon, _ = raw[good.end() if good else start.end() :].split(b"\r\n", 1)[0].partition(b":")
    if colon and re.fullmatch(_TOKEN + rb"[ \t]*", name):
        return f"not a header line of HTTP: {name.decode()!r}"
    return "a line that is not a header line of HTTP"


class BodyFraming(Protocol):
    """Says which bytes belong to a body. `feed` takes each read once, in order."""

    is_done: bool

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """The payload in `data` from `start`, and the offset after the body's last byte in `data`.

        Raises:
            FramingError: the bytes break the framing.
        """
        ...


class LengthBody:
    """A body of a known number of bytes (0 too)."""

    __slots__ = ("_left", "is_done")

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_done = length == 0

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """See `BodyFraming`."""
        end = min(len(data), start + self._left)
        self._left -= end - start
        self.is_done = self._left == 0
        return data[start:end], end


class UntilCloseBody:
    """A response body that ends when the upstream closes the connection."""

    __slots__ = ("is_done",)

    def __init__(self) -> None:
        self.is_done = False

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """See `BodyFraming`."""
        return data[start:], len(data)


_END_OF_LINE = b"\r\n"
_CHUNK_SIZES = {b"%x" % size: size for size in range(1, 4096)}
"""The size lines of short chunks, as nearly everybody writes them."""
_SIZE_LINE_BYTES = 5


class ChunkedBody:
    """A chunked body (RFC 9112, section 7.1), trailers included; llhttp reads it.

    llhttp does not say where in a read the body ended. It can only end in an empty line, so each read is given to it
    in pieces that end in one. A read that is one whole chunk, as most of a streamed answer are, is not given to it: it
    would be where it was.
    """

    __slots__ = (
        "_is_between",
        "_may_be_whole",
        "_parser",
        "_payload",
        "_tail",
        "_trailers",
        "is_done",
        "on_body",
        "on_chunk_complete",
        "on_chunk_header",
        "on_header",
        "on_message_complete",
    )

    _HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self.is_done = False
        self._payload: list[bytes] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._tail = _END_OF_LINE  # of the head
        self._is_between = [True, False]  # the first says whether all chunks that began have ended
        self._may_be_whole = True  # the next read may begin a chunk
        # llhttp's callbacks: bound methods of lists, so that a chunk costs no Python frame.
        self.on_body = self._payload.append
        self.on_chunk_header = self.on_chunk_complete = self._is_between.reverse
        self.on_header = self._add_trailer
        self.on_message_complete = self._complete
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(self._HEAD)
        self._trailers.clear()

    @property
    def trailers(self) -> bytes:
        """Trailer lines with CRLF."""
        return b"".join([b"%b: %b\r\n" % trailer for trailer in self._trailers])

    def feed(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """See `BodyFraming`."""
        if self._may_be_whole:
            line_end = data.find(_END_OF_LINE, start, start + _SIZE_LINE_BYTES)
            if line_end > start and (size := _CHUNK_SIZES.get(data[start:line_end])):
                after = line_end + 2 + size
                if len(data) == after + 2 and data.endswith(_END_OF_LINE):
                    return data[line_end + 2 : after], len(data)
        return self._read(data, start)

    def _read(self, data: bytes, start: int) -> tuple[bytes, int]:
        straddling = (self._tail + data[start : start + 3]).find(_EMPTY_LINE)
        stop = start + straddling + 4 - len(self._tail) if straddling >= 0 else _end_of_line(data, start)
        self._tail = data[-3:] if len(data) - start >= 3 else (self._tail + data[start:])[-3:]
        position = start
        try:
            while position < len(data):
                self._parser.feed_data(data[position:stop])
                if self.is_done or stop == len(data):
                    break
                position = stop
                stop = _end_of_line(data, max(start, position - 3))
        except HttpParserError as error:
            raise FramingError(f"not chunked as it must be: {error}") from None
        self._may_be_whole = self._is_between[0] and self._tail.endswith(_END_OF_LINE)
        payload = b"".join(self._payload)
        self._payload.clear()
        return payload, stop if self.is_done else len(data)

    def _add_trailer(self, name: bytes, value: bytes) -> None:
        self._trailers.append((name, value))
        if len(self._trailers) > _MAX_TRAILERS:
            raise FramingError("too many trailers")

    def _complete(self) -> None:
        self.is_done = True


def _end_of_line(data: bytes, start: int) -> int:
    """The offset behind the next empty line; the end of the data if there is none."""
    found = data.find(_EMPTY_LINE, start)
    return found + 4 if found >= 0 else len(data)
