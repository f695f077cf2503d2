"""An exchange on its way into the trace: its row's columns and its two sides, made from records or from the trace."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from proxy.exchange import Outcome, Side
from proxy.read.websocket import Deflate, WebSocketReader, agreed_deflate
from proxy.record.journal import Close, Open, Response
from proxy.store.body_side import BodySide
from proxy.store.chunk_sides import StreamSide, TunnelSide
from proxy.store.chunks import Frames, Seams, read_chunks
from proxy.store.heads import field_values, fields_json, lines_of, request_line, split_head, status_line
from proxy.store.masked import Read, SecretPaths
from proxy.store.rows import EXCHANGE_COLUMNS, MAX_INTEGER, RARE_COLUMNS, Rows, Sent

_STREAM_TYPES = (b"text/event-stream", b"application/x-ndjson", b"application/ndjson", b"application/jsonl")
_MAX_CACHED = 4096
_NOTHING = Sent()
_GONE = (Outcome.CLIENT_GONE, Outcome.UPSTREAM_GONE)
_SELECT = f"SELECT {', '.join(EXCHANGE_COLUMNS)} FROM recorded_exchanges WHERE id = ?"
_OWN_COLUMNS = (*EXCHANGE_COLUMNS[: EXCHANGE_COLUMNS.index("model") + 1], *RARE_COLUMNS[:-1])

RequestLine = tuple[str | None, str | None, str | None]
Framing = tuple[bool, Deflate | None]
AnySide = BodySide | StreamSide | TunnelSide


@dataclass(slots=True)
class Shared:
    """What all exchanges of one ingest share."""

    rows: Rows
    secrets: SecretPaths
    seams: Seams = field(default_factory=Seams)
    request_lines: dict[bytes, RequestLine] = field(default_factory=dict)
    framings: dict[bytes, Framing] = field(default_factory=dict)


class _End(NamedTuple):
    """The last columns of a row."""

    request_bytes: int
    response_bytes: int
    request_complete_us: int | None = None
    done_us: int | None = None
    outcome: str | None = None
    error: str | None = None


class Running:
    """One exchange; the attributes with names of columns are its row's."""

    __slots__ = (
        *_OWN_COLUMNS,
        "_framing",
        "_is_peeked",
        "_shared",
        "_sides",
        "first_byte_us",
        "is_changed",
        "is_gathered",
        "last_us",
    )

    def __init__(self, shared: Shared, exchange_id: int, run: int, started_at_us: int) -> None:
        """An exchange of which nothing else is known yet."""
        self._shared = shared
        self.id = exchange_id
        self.run = run
        self.started_at_us = started_at_us
        self.connection = 0
        self.kind = "http"
        self.client = ""
        self.upstream: str | None = None
        self.upstream_url: str | None = None
        self.method: str | None = None
        self.target: str | None = None
        self.http_version: str | None = None
        self.request_head: int | None = None
        self.forwarded_target: str | None = None
        self.forwarded_head: int | None = None
        self.status: int | None = None
        self.reason: str | None = None
        self.response_head: int | None = None
        self.sent_head: int | None = None
        self.interim_heads: str | None = None
        self.request_trailers: str | None = None
        self.response_trailers: str | None = None
        self.model: str | None = None
        self.first_byte_us: int | None = None
        self.last_us = 0
        """When the last thing came that is known of it."""
        self.is_changed = True
        """The row in the trace, if there is one, is older than this."""
        self.is_gathered = [False, False]
        """By side: its bytes are kept as chunks, some came, and more are worth taking in together."""
        self._framing: Framing = (False, None)
        self._is_peeked = False
        self._sides: list[AnySide | None] = [None, None]

    def open(self, record: Open) -> None:
        """The request's head."""
        rows = self._shared.rows
        self.connection = min(record.connection, MAX_INTEGER)
        if record.is_websocket:
            self.kind = "websocket"
        self.client = record.client
        self.upstream = record.upstream or None
        self.upstream_url = record.upstream_url or None
        line, fields = split_head(record.received_head)
        self.method, self.target, self.http_version = self._request_line(line)
        self.request_head = rows.head(fields)
        line, fields = split_head(record.forwarded_head)
        if line:
            self.forwarded_target = self._request_line(line)[1]
            self.forwarded_head = rows.head(fields)

    def _request_line(self, line: bytes) -> RequestLine:
        lines = self._shared.request_lines
        found = lines.get(line)
        if found is None:
            if len(lines) >= _MAX_CACHED:
                lines.clear()
            found = lines[line] = request_line(line)
        return found

    def response(self, record: Response, at_us: int) -> None:
        """The final response's head."""
        received_line, received = split_head(record.received_head)
        sent_line, sent = split_head(record.sent_head)
        self.status, self.reason = status_line(sent_line or received_line)
        self.response_head = self._shared.rows.head(received)
        self.sent_head = self._shared.rows.head(sent)
        self.first_byte_us = self.last_us = at_us
        self.is_changed = True
        self._set_framing(received or sent)

    def _set_framing(self, fields: bytes) -> None:
        """How the bytes after a response's head are to be kept: (is it a stream, how is a WebSocket compressed)."""
        framings = self._shared.framings
        found = framings.get(fields)
        if found is None:
            if len(framings) >= _MAX_CACHED:
                framings.clear()
            is_stream = field_values(fields, b"content-type").startswith(_STREAM_TYPES)
            found = is_stream, agreed_deflate(field_values(fields, b"sec-websocket-extensions"))
            framings[fields] = found
        self._framing = found

    def interim(self, head: bytes) -> None:
        """A 1xx response's head."""
        line, fields = split_head(head)
        one = f"[{status_line(line)[0] or 'null'},{fields_json(fields).decode()}]"
        self.interim_heads = f"[{one}]" if self.interim_heads is None else f"{self.interim_heads[:-1]},{one}]"
        self.is_changed = True

    def trailers(self, side: Side, lines: bytes) -> None:
        """The trailer lines after a chunked body."""
        if side is Side.CLIENT:
            self.request_trailers = fields_json(lines).decode()
        else:
            self.response_trailers = fields_json(lines).decode()
        self.is_changed = True

    def data(self, side: int, reads: Sequence[Read]) -> None:
        """Some reads, at least one."""
        self.last_us = max(self.last_us, reads[-1][0])
        sender = self._sides[side]
        if sender is None:
            sender = self._sides[side] = self._new_side(side)
        sender.add(reads)

    def _new_side(self, side: int, next_seq: int = 0, window: bytes = b"") -> AnySide:
        is_stream, deflate = self._framing
        if self.kind == "websocket" and self.status == 101:
            keeps_context = deflate is None or deflate[side]
            reader = WebSocketReader(is_deflated=deflate is not None, keeps_context=keeps_context, window=window)
            self.is_gathered[side] = True
            return TunnelSide(self.id, side, reader, self._frames(), next_seq)
        if side == Side.UPSTREAM and is_stream:
            self.is_gathered[side] = True
            return StreamSide(self.id, side, self._shared.secrets, self._frames(), next_seq)
        return BodySide(self.id, side, self._shared.secrets)

    def _frames(self) -> Frames:
        return Frames(self._shared.rows.frame, self._shared.seams)

    @property
    def is_holding(self) -> bool:
        """Whether nothing came but short bodies, which would have to be put together again at their end."""
        return all(side is None or (isinstance(side, BodySide) and side.is_short) for side in self._sides)

    @property
    def held_bytes(self) -> int:
        """What there is of bodies, only in memory."""
        return sum([side.held_bytes for side in self._sides if isinstance(side, BodySide)])

    def save(self) -> None:
        """While it runs, at a batch's end or later: what there is by now goes into the rows."""
        rows = self._shared.rows
        client, upstream = self._sides
        if self.status is not None and not self._is_peeked and isinstance(client, BodySide):
            self._is_peeked = True  # by now the request is usually complete, and its model worth showing
            self.model = client.peek_model(rows)
        masked = 0
        for side in (client, upstream):
            if side is not None:
                side.save(rows)
                masked += side.masked
        if self.is_changed or masked:
            self.is_changed = False
            end = _End(
                client.received_bytes if client is not None else 0,
                upstream.received_bytes if upstream is not None else 0,
            )
            self._write_row(_sent_so_far(client), _sent_so_far(upstream), end)

    def close(self, record: Close, offset_ns: int, *, is_counted: bool = True) -> None:
        """The end: bodies are cut, the row is complete. Without `is_counted` the bytes are those that were recorded."""
        rows = self._shared.rows
        client, upstream = self._sides
        sent = received = _NOTHING
        if isinstance(client, BodySide):
            sent = client.close(rows, None)
        elif client is not None:
            sent = client.close(rows)
        if isinstance(upstream, BodySide):
            received = upstream.close(rows, self._frames())
        elif upstream is not None:
            received = upstream.close(rows)
        if sent.model is not None:
            self.model = sent.model
        base = offset_ns - self.started_at_us * 1000
        done_us = (record.done_ns + base) // 1000 if record.done_ns else self.last_us
        if record.first_byte_ns:
            self.first_byte_us = (record.first_byte_ns + base) // 1000
        complete_us = (record.request_complete_ns + base) // 1000 if record.request_complete_ns else None
        if is_counted:
            request_bytes, response_bytes = record.client_bytes, record.upstream_bytes
        else:
            request_bytes = client.received_bytes if client is not None else 0
            response_bytes = upstream.received_bytes if upstream is not None else 0
        request_bytes, response_bytes = min(request_bytes, MAX_INTEGER), min(response_bytes, MAX_INTEGER)
        outcome, error = record.outcome, record.error or None
        if outcome in _GONE and any(isinstance(side, TunnelSide) and side.has_close for side in self._sides):
            # The front sees that a tunnel's connection ended; that this was agreed on stands in the frames.
            outcome, error = Outcome.COMPLETED, None
        end = _End(request_bytes, response_bytes, complete_us, done_us, outcome._value_, error)
        self._write_row(sent, received, end)
        rows.ended.append((self.id,))
        rows.count(self.model or "", outcome._value_, request_bytes, response_bytes, done_us)

    def _write_row(self, sent: Sent, received: Sent, end: "_End") -> None:
        client, upstream = self._sides
        self._shared.rows.exchange(
            (
                self.id,
                self.run,
                self.connection,
                self.kind,
                self.client,
                self.upstream,
                self.upstream_url,
                self.started_at_us,
                self.method,
                self.target,
                self.http_version,
                self.request_head,
                self.forwarded_target,
                self.forwarded_head,
                self.status,
                self.reason,
                self.response_head,
                self.sent_head,
                self.model,
                sent.body,
                received.body,
                sent.digest,
                received.digest,
                sent.is_text,
                received.is_text,
                sent.masked,
                received.masked,
                end.request_bytes,
                end.response_bytes,
                client.chunks if client is not None else 0,
                upstream.chunks if upstream is not None else 0,
                end.request_complete_us,
                self.first_byte_us,
                end.done_us,
                end.outcome,
            ),
            (self.interim_heads, self.request_trailers, self.response_trailers, end.error),
        )


def _sent_so_far(side: AnySide | None) -> Sent:
    if side is None:
        return _NOTHING
    return Sent(is_text=None if side.is_text is None else int(side.is_text), masked=side.masked)


def resume(shared: Shared, exchange_id: int) -> Running | None:
    """An exchange that the trace holds unfinished; None if it has none of that id, or it ended."""
    connection = shared.rows.connection
    row = connection.execute(_SELECT, (exchange_id,)).fetchone()
    if row is None:
        return None
    columns = dict(zip(EXCHANGE_COLUMNS, row, strict=True))
    if columns["outcome"] is not None:
        return None
    running = Running(shared, exchange_id, columns["run"], columns["started_at_us"])
    for name in _OWN_COLUMNS:
        setattr(running, name, columns[name])
    running.first_byte_us = columns["first_byte_us"]
    running.last_us = running.first_byte_us or 0
    running.is_changed = False
    fields = connection.execute(
        "SELECT fields FROM heads WHERE id = ?", (running.response_head or running.sent_head,)
    ).fetchone()
    if fields is not None:
        running._set_framing(lines_of(fields[0]))
    for side, masked in ((Side.CLIENT, columns["request_masked"]), (Side.UPSTREAM, columns["response_masked"])):
        _resume_side(running, connection, int(side), masked)
    return running


def _resume_side(running: Running, connection: sqlite3.Connection, side: int, masked: int) -> None:
    where = (running.id, side)
    last = connection.execute(
        "SELECT seq, at_us, more, typeof(middle) = 'integer' FROM recorded_chunks WHERE exchange_id = ? AND side = ?"
        " ORDER BY seq DESC LIMIT 1",
        where,
    ).fetchone()
    staged_until, staged = connection.execute(
        "SELECT max(at_us), count(*) FROM staged_chunks WHERE exchange_id = ? AND side = ?", where
    ).fetchone()
    if last is None and not staged:
        return
    next_seq, is_body = 0, False
    if last is not None:
        seq, at_us, more, is_body = last
        later = msgspec.json.decode(more) if more else []
        next_seq = seq + 1 + len(later)
        running.last_us = max(running.last_us, at_us + (later[-1][0] if later else 0))
    running.last_us = max(running.last_us, staged_until or 0)
    if is_body:
        body = BodySide(running.id, side, running._shared.secrets)
        body.resume(connection, next_seq)
        running._sides[side] = body
        return
    window = connection.execute(
        "SELECT sealed(data, exchange_id, side, seq, at_us) FROM staged_chunks"
        " WHERE exchange_id = ? AND side = ? AND seq = -1",
        where,
    ).fetchone()
    chunked = running._new_side(side, next_seq, window[0] if window else b"")
    if not isinstance(chunked, BodySide):
        stored: Iterator[bytes] = (chunk.data for chunk in read_chunks(connection, *where) if chunk.data is not None)
        chunked.resume(connection, stored, masked)
    running._sides[side] = chunked
