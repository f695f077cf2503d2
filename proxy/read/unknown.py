"""What no other reader knows: it is listed, so that a new endpoint or a wrong address shows itself.

Facts (lmstudio-api.md 3.2, 1.4)
--------------------------------
* LM Studio answers unknown paths and methods by 200 and `{"error":"Unexpected endpoint or method. (POST /x)"}`, some
  builds by 404. So a JSON body with a top-level `error` is an error, whatever the status.
* Static pages, `/favicon.ico` and the like come here, too. They are harmless, yet listed as everything else.
* A WebSocket may be refused by an ordinary answer (401). One that was opened says nothing here: its messages are in
  nobody's dialect.
"""

from collections.abc import Sequence
from contextlib import suppress

from proxy.exchange import Side
from proxy.meaning import Operation, Reading
from proxy.read.call import Call
from proxy.read.content_coding import Decoder, Identity, decoder_of
from proxy.read.http_session import read_error
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.reader import Claim, End, RequestHead, ResponseHead

MAX_BODY_BYTES = 1 << 20
"""A longer body is not looked at: errors are short."""
_SLICE_BYTES = 1 << 14  # so that a body which inflates to far more is noticed early
_SHOWN = 300
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl")


class Unknown:
    """Whatever it is. It has to be the last reader."""

    name = "unknown"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Always; yet whoever else says maybe comes first."""
        return Claim.MAYBE

    def open(self, head: RequestHead) -> "UnknownSession":
        """See `Reader`."""
        return UnknownSession(head)


class UnknownSession:
    """The reading of an exchange that nobody knows: that it was there, and the error it got."""

    def __init__(self, head: RequestHead) -> None:
        """Nothing came yet."""
        self._call = Call(Unknown.name, Unknown.version, Operation.OTHER)
        kind = " (WebSocket)" if head.is_websocket else ""
        self._call.problem("unknown_endpoint", f"{head.method[:_SHOWN]} {head.path[:_SHOWN]}{kind}")
        self._is_websocket = head.is_websocket
        self._status = 0
        self._decoder: Decoder = Identity()
        self._body: list[bytes] | None = []  # None: too long, or a stream
        self._size = 0

    def request(self, body: bytes, complete_us: int | None) -> None:
        """See `Session`; the body is not looked at."""
        self._call.request_complete_us = complete_us

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        """See `Session`."""
        self._call.first_byte_us = at_us
        self._status = head.status
        self._decoder = decoder_of(head.field("content-encoding"))
        if head.field("content-type").partition(";")[0].strip().lower() in _STREAMS:
            self._call.is_streamed = True
            self._body = None

    def data(self, at_us: int, data: bytes) -> None:
        """See `Session`."""
        for start in range(0, len(data), _SLICE_BYTES):
            if self._body is None:
                return
            decoded = self._decoder.feed(data[start : start + _SLICE_BYTES])
            self._body.append(decoded)
            self._size += len(decoded)
            if self._size > MAX_BODY_BYTES:
                self._body = None

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        """See `Session`; nothing is read of it."""

    def readings(self, end: End | None) -> Sequence[Reading]:
        """See `Session`."""
        call = self._call
        if end is not None:
            self._read_body()
            if end.outcome not in ("completed", "client_gone"):
                call.error(end.error or end.outcome, kind=end.outcome, where="outcome")
            elif end.outcome != "completed" and not self._is_websocket and not call.has_errors:
                call.problem("truncated", end.error or f"the exchange ended as {end.outcome}")
        return (call.reading(end),)

    def _read_body(self) -> None:
        """The error in it, if there is one."""
        body = b"".join(self._body or ())
        self._body = None
        call, status = self._call, self._status
        value = None
        if body.lstrip()[:1] == b"{" and not self._decoder.problem:
            with suppress(NotJsonError):  # it was not said to be JSON
                value = decode_json(body)
        if isinstance(value, dict) and (value.get("error") or status >= 400):
            read_error(call, Fields(value, call.notes, "response"), where="body")
            if status < 400:
                call.problem("error_in_200", f"status {status}, and the body holds an error")
        elif status >= 400:
            call.error(f"status {status}", code=str(status))
