"""What all dialects of HTTP have in common: codings undone, JSON and events taken apart, ends judged.

A dialect says what the fields mean: of a request's JSON, of an answer's, and of each event of a stream.

Facts (lmstudio-api.md 3, clients.md 1.3)
-----------------------------------------
* An answer is a stream where its Content-Type says so (events or lines of JSON), whatever was asked.
* LM Studio answers unknown routes by 200 and `{"error": "..."}`: a top-level `error` is an error, whatever the status.
* `error` may be text or an object with `message`, `type`, `code`, `param`; newer versions put a `message` beside it.
  llama.cpp adds `n_prompt_tokens` and `n_ctx` where a prompt is too long.
* A client that leaves once it has the finish reason (AnythingLLM always does) has a complete call.
"""

from collections.abc import Sequence
from typing import Protocol

from proxy.exchange import Side
from proxy.meaning import Json, Operation, Reading
from proxy.read.call import Call
from proxy.read.content_coding import Decoder, Identity, decoder_of
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from proxy.read.sse import Event, EventStream, Lines

MAX_EVENT_PROBLEMS = 20
_STREAM, _LINES = "text/event-stream", ("application/x-ndjson", "application/ndjson", "application/jsonl")
_SHOWN = 120


class Dialect(Protocol):
    """What a dialect of HTTP says its JSON means. Its methods may raise nothing that odd input causes."""

    name: str
    version: int

    def claims(self, head: RequestHead) -> Claim:
        """As a reader's."""
        ...

    def operation(self, head: RequestHead) -> Operation:
        """What such a request asks for."""
        ...

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """The request's JSON; an empty object where it has no body."""
        ...

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """A whole answer's JSON that holds no error."""
        ...

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """One event of a stream: its name ("" where it has none) and its JSON."""
        ...


class OtherAnswers(Protocol):
    """What a dialect has in addition, if not all of its whole answers are JSON objects."""

    def as_object(self, body: bytes, head: RequestHead) -> dict[str, Json] | None:
        """An answer that is none, as the object that `read_answer` gets; None if it is one, or nonsense."""
        ...


class AnswersWithErrors(Protocol):
    """What a dialect has in addition, if a whole answer with an `error` tells more than that."""

    def read_answer_with_error(self, call: Call, body: Fields, head: RequestHead) -> None:
        """The rest of such an answer; its `error` is read, and its status is none of an error."""
        ...


class HttpReader:
    """A reader made of a dialect."""

    def __init__(self, dialect: Dialect) -> None:
        """It reads every HTTP exchange that the dialect claims."""
        self.name = dialect.name
        self.version = dialect.version
        self.dialect = dialect

    def claims(self, head: RequestHead) -> Claim:
        """See `Reader`."""
        return Claim.NO if head.is_websocket else self.dialect.claims(head)

    def open(self, head: RequestHead) -> "HttpSession":
        """See `Reader`."""
        return HttpSession(self.dialect, head)


class HttpSession:
    """The reading of one HTTP exchange, which is one call."""

    def __init__(self, dialect: Dialect, head: RequestHead) -> None:
        """Nothing came yet."""
        self._dialect = dialect
        self._head = head
        self.call = Call(dialect.name, dialect.version, dialect.operation(head))
        self._status: int | None = None
        self._decoder: Decoder = Identity()
        self._events: EventStream | None = None
        self._lines: Lines | None = None
        self._body: list[bytes] = []
        self._last_us = 0
        self._bad_events = 0

    def request(self, body: bytes, complete_us: int | None) -> None:
        """See `Session`."""
        call = self.call
        call.request_complete_us = complete_us
        decoder = decoder_of(self._head.field("content-encoding"))
        body = decoder.feed(body)
        if decoder.problem:
            call.problem("request_undecoded", decoder.problem)
        fields = self._fields(body, "request") if body.strip() else Fields({}, call.notes)
        if fields is not None:
            self._dialect.read_request(call, fields, self._head)
            call.notes.add_unread(fields)

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        """See `Session`."""
        self.call.first_byte_us = at_us
        self._status = head.status
        self._decoder = decoder_of(head.field("content-encoding"))
        kind = head.field("content-type").partition(";")[0].strip().lower()
        if kind == _STREAM:
            self._events = EventStream()
        elif kind in _LINES:
            self._lines = Lines()
        self.call.is_streamed = kind == _STREAM or kind in _LINES

    def data(self, at_us: int, data: bytes) -> None:
        """See `Session`."""
        self._last_us = at_us
        data = self._decoder.feed(data)
        if self._events is not None:
            for event in self._events.feed(data):
                self._event(event, at_us)
        elif self._lines is not None:
            for line in self._lines.feed(data):
                if line.strip():
                    self._event(Event("", line), at_us)
        else:
            self._body.append(data)

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        """See `Session`: there is none in HTTP."""

    def readings(self, end: End | None) -> Sequence[Reading]:
        """See `Session`."""
        if end is not None:
            self._finish(end)
        return (self.call.reading(end),)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _fields(self, data: bytes, which: str) -> Fields | None:
        try:
            value = decode_json(data)
        except NotJsonError as error:
            self.call.problem("not_json", f"{which}: {error}: {_shown(data)}")
            return None
        if isinstance(value, dict):
            return Fields(value, self.call.notes, which)
        self.call.problem("unexpected", f"{which}: an object expected: {_shown(data)}")
        return None

    def _event(self, event: Event, at_us: int) -> None:
        if event.data == b"[DONE]":
            self.call.is_finished = True
            return
        try:
            value = decode_json(event.data)
        except NotJsonError as error:
            value = error
        if not isinstance(value, dict):
            self._bad_events += 1
            if self._bad_events <= MAX_EVENT_PROBLEMS:
                why = f"{value}" if isinstance(value, NotJsonError) else "an object expected"
                self.call.problem("not_json", f"event {event.name!r}: {why}: {_shown(event.data)}")
            return
        fields = Fields(value, self.call.notes, "event")
        if event.name == "error" or value.get("error"):
            read_error(self.call, fields, where="stream")
        self._dialect.read_event(self.call, event.name, fields, at_us)
        self.call.notes.add_unread(fields)

    def _finish(self, end: End) -> None:
        call = self.call
        if self._events is not None or self._lines is not None:
            self._finish_stream()
        elif self._status is not None:
            self._finish_body()
        if self._decoder.problem:
            call.problem("response_undecoded", self._decoder.problem)
        if end.outcome not in ("completed", "client_gone") and not call.is_finished:
            call.error(end.error or end.outcome, kind=end.outcome, where="outcome")
        if not call.is_finished and call.stop_reason_raw is None and not call.has_errors and self._is_cut(end):
            call.problem("truncated", end.error or f"the exchange ended as {end.outcome}")

    def _is_cut(self, end: End) -> bool:
        """Whether something is missing at the end, as far as bytes tell."""
        return end.outcome != "completed" or (self.call.is_streamed and not call_is_plain(self.call.operation))

    def _finish_stream(self) -> None:
        if self._lines is not None:
            last = self._lines.rest()
            if last.strip():
                self._event(Event("", last), self._last_us)
            return
        assert self._events is not None
        rest = self._events.rest()
        if rest is not None:
            try:  # whole JSON at a stream's end that only lacks its empty line is worth reading
                decode_json(rest.data)
            except NotJsonError:
                if rest.data != b"[DONE]":
                    self.call.problem("truncated", f"the stream ends within an event: {_shown(rest.data)}")
                    return
            self._event(rest, self._last_us)

    def _finish_body(self) -> None:
        body = b"".join(self._body)
        self._body = []
        call = self.call
        status = self._status or 0
        if not body.strip():
            if status >= 400:
                call.error(f"status {status} without a body", code=str(status))
            return
        dialect = self._dialect
        as_object = getattr(dialect, "as_object", None)  # `isinstance` of a protocol takes longer than all the rest
        other = as_object(body, self._head) if as_object is not None else None
        fields = self._fields(body, "response") if other is None else Fields(other, call.notes, "response")
        if fields is None:
            if status >= 400:
                call.error(_shown(body), code=str(status))
            return
        if fields.data.get("error") or status >= 400:
            read_error(call, fields, where="body")
            if status < 400:
                call.problem("error_in_200", f"status {status}, and the body holds an error")
                if hasattr(dialect, "read_answer_with_error"):
                    dialect.read_answer_with_error(call, fields, self._head)
        else:
            self._dialect.read_answer(call, fields, self._head)
            call.is_finished = True
        call.notes.add_unread(fields)


def call_is_plain(operation: Operation) -> bool:
    """Whether an operation's stream has no end of its own."""
    return operation not in (Operation.CHAT, Operation.COMPLETION)


def read_error(call: Call, body: Fields, *, where: str) -> None:
    """An error in any of its forms."""
    error = body.data.get("error")
    if isinstance(error, dict):
        fields = body.object("error")
        assert fields is not None
        code = fields.word("code")
        message = fields.word("message")
        kind = fields.word("type")
        fields.known("param", "n_prompt_tokens", "n_ctx")
        call.error(message or "an error without a message", kind=kind, code=code, where=where)
        body.known("message", "type", "request_id")
        return
    message = body.word("error") if error is not None else None
    message = message or body.word("message") or body.word("detail") or "an error without a message"
    code, kind = body.word("code"), body.word("type")
    body.known("error", "message", "detail", "status", "param")
    call.error(message, kind=kind if kind != "error" else None, code=code, where=where)


def _shown(data: bytes) -> str:
    text = data[: _SHOWN * 4].decode("utf-8", "replace")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
