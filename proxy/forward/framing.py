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
from typing import Protocol

from httptools import HttpParserError, HttpRequestParser

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/(\d\.\d)\r\n")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) (\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_FIELD_LINES = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CONNECTION_FIELDS = re.compile(
    rb"(?i)\r\n(connection|keep-alive|proxy-connection|te|upgrade|http2-settings|transfer-encoding|content-length"
    rb"|host|origin|access-control-[a-z-]+):[ \t]*([^\r]*?)[ \t]*(?=\r\n)"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_EMPTY_LINE = b"\r\n\r\n"
_MAX_TRAILERS = 256

Field = tuple[bytes, bytes, int, int]
"""A field the proxy acts on: (name in lower case, value, start of its line in the raw head, end of its line)."""


class FramingError(ValueError):
    """The bytes are not HTTP/1 as it must be; the message says what is wrong.

    `status` is what to answer a client with.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A message's head: its raw lines, and the few fields a proxy must act on."""

    __slots__ = ("_values", "fields", "raw")

    def __init__(self, raw: bytes, start_line_end: int) -> None:
        self.raw = raw
        """Start line and field lines, each with CRLF; the empty line is left out."""
        if not _FIELD_LINES.fullmatch(raw, start_line_end):
            raise FramingError(_bad_line(raw, start_line_end))
        self.fields: list[Field] = [
            (match[1].lower(), match[2], match.start() + 2, match.end() + 2)
            for match in _CONNECTION_FIELDS.finditer(raw)
        ]
        self._values: dict[bytes, list[bytes]] = {}
        for name, value, _, _ in self.fields:
            self._values.setdefault(name, []).append(value)

    def values(self, name: bytes) -> list[bytes]:
        """The values of each line of a field, in order; only of fields a proxy acts on."""
        return self._values.get(name, [])

    def tokens(self, name: bytes) -> list[bytes]:
        """The comma-separated members of a list field, in lower case."""
        if name not in self._values:
            return []
        return [token.strip().lower() for value in self._values[name] for token in value.split(b",") if token.strip()]

    def content_length(self) -> int | None:
        """What Content-Length says; None without one.

        Raises:
            FramingError: it is repeated or not a number.
        """
        values = self.values(b"content-length")
        if not values:
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
        match = _REQUEST_LINE.match(raw)
        if not match:
            raise FramingError(f"not a request line of HTTP: {raw[:80].splitlines()[0] if raw else raw!r}")
        super().__init__(raw, match.end())
        self.method, self.target, self.version = match.groups()
        if self.version not in (b"1.1", b"1.0"):
            raise FramingError(f"HTTP version {self.version.decode()} is not spoken here", 505)
        if self.version == b"1.1" and len(self.values(b"host")) != 1:
            raise FramingError("a request of HTTP/1.1 has exactly one Host")

    def body(self) -> "BodyFraming":
        """How the request's body is framed (RFC 9112, section 6.3).

        Raises:
            FramingError: the fields contradict each other.
        """
        codings = self.tokens(b"transfer-encoding")
        length = self.content_length()
        if codings:
            if length is not None:
                raise FramingError("both Transfer-Encoding and Content-Length")
            if self.version == b"1.0":
                raise FramingError("Transfer-Encoding in HTTP/1.0")
            if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
                raise FramingError("Transfer-Encoding does not end in chunked")
            return ChunkedBody()
        if self.values(b"transfer-encoding"):
            raise FramingError("Transfer-Encoding is empty")
        return LengthBody(length or 0)


class ResponseHead(Head):
    """A response's head."""

    __slots__ = ("reason", "status", "version")

    def __init__(self, raw: bytes) -> None:
        match = _STATUS_LINE.match(raw)
        if not match:
            raise FramingError(f"not a status line of HTTP: {raw[:80].splitlines()[0] if raw else raw!r}")
        super().__init__(raw, match.end())
        self.version = match[1]
        self.status = int(match[2])
        self.reason = match[3]

    def body(self, request_method: bytes) -> "BodyFraming":
        """How the response's body is framed (RFC 9112, section 6.3)."""
        if request_method == b"HEAD" or self.status in (204, 304) or self.status < 200:
            return LengthBody(0)
        codings = self.tokens(b"transfer-encoding")
        if codings:
            return ChunkedBody() if codings[-1] == b"chunked" else UntilCloseBody()
        length = self.content_length()
        return UntilCloseBody() if length is None else LengthBody(length)


def split_head(buffer: bytes, searched: int, limit: int) -> tuple[bytes, int] | None:
    """The raw head at the front of `buffer` and the offset after its empty line; None while it is incomplete.

    `searched` bytes were searched before, without success. Raises `FramingError` as soon as it can be no head.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if end >= 0 and end <= limit:
        return buffer[: end + 2], end + 4
    if len(buffer) > limit:
        raise FramingError(f"the head is longer than {limit} bytes", 431)
    if _BARE_LF.search(buffer, max(0, searched - 1)):
        raise FramingError("a line ends in LF without CR")
    return None


def _bad_line(raw: bytes, start: int) -> str:
    good = _FIELD_LINES.match(raw, start)
    line = raw[good.end() if good else start :].split(b"\r\n", 1)[0]
    # The name alone: what follows may be a secret, and errors are logged.
    return f"not a header line of HTTP: {line.split(b':', 1)[0][:40]!r}"


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


class ChunkedBody:
    """A chunked body (RFC 9112, section 7.1), trailers included; llhttp reads it.

    llhttp does not say where in a read the body ended. It can only end in an empty line, so each read is given to it
    in pieces that end in one.
    """

    __slots__ = ("_parser", "_payload", "_tail", "_trailers", "is_done", "on_body", "on_header", "on_message_complete")

    _HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self.is_done = False
        self._payload: list[bytes] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._tail = b""
        # llhttp's callbacks: bound methods of lists, so that a chunk costs no Python frame.
        self.on_body = self._payload.append
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
        straddling = (self._tail + data[start : start + 3]).find(_EMPTY_LINE)
        stop = start + straddling + 4 - len(self._tail) if straddling >= 0 else _end_of_line(data, start)
        self._tail = data[-3:] if len(data) - start >= 3 else (self._tail + data[start:])[-3:]
        position = start
        try:
            while position < len(data):
                self._parser.feed_data(data[position:stop])
                if self.is_done:
                    break
                position = stop
                stop = _end_of_line(data, max(start, position - 3))
        except HttpParserError as error:
            raise FramingError(f"not chunked as it must be: {error}") from None
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
