"""Recordings as readers take them: an exchange's parts from the trace, fed to a session in order."""

import heapq
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import End, Reader, RequestHead, ResponseHead
from proxy.store.chunks import ChunkRow, read_chunks
from proxy.store.courtesy import STEP, give_way

_COLUMNS = (
    "e.id, e.kind, e.client, e.upstream, e.started_at_us, e.method, e.forwarded_target, e.target, e.status,"
    " e.request_body, e.response_body, e.response_bytes, e.request_complete_us, e.first_byte_us, e.done_us,"
    " e.outcome, e.error, e.request_head, coalesce(e.response_head, e.sent_head)"
)
_SELECT = f"SELECT {_COLUMNS} FROM recorded_exchanges e WHERE e.id IN (SELECT value FROM json_each(?)) ORDER BY e.id"
_GAPS = "SELECT DISTINCT exchange_id FROM recorded_gaps WHERE exchange_id IN (SELECT value FROM json_each(?))"
_FIELDS = "SELECT fields FROM heads WHERE id = ?"
_BLOBS = "SELECT id, CAST(data AS BLOB) FROM blobs WHERE id BETWEEN ? AND ? ORDER BY id"

Field = tuple[str, str]
Part = tuple[int, bytes]
"""Blob id, bytes."""
Readings = Sequence[Reading]
_ranges = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode
_fields_of = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One exchange as it is recorded. Its bytes are read from the trace when they are asked for."""

    id: int
    client: str
    """Its address, without the port."""
    upstream: str | None
    """Its configured name."""
    started_at_us: int
    head: RequestHead
    """With the path that was forwarded, and the fields as received."""
    status: int | None
    response_fields: tuple[Field, ...]
    request_body: int | None
    response_body: int | None
    response_bytes: int
    request_complete_us: int | None
    first_byte_us: int | None
    end: End | None
    """None while it goes on."""
    is_forwarded: bool
    """Else the proxy answered by itself: a preflight, a refusal."""
    has_gap: bool
    """Bytes of it could not be recorded."""

    @property
    def is_tunnel(self) -> bool:
        """Whether it became a WebSocket."""
        return self.head.is_websocket and self.status == 101


class Recordings:
    """The exchanges of a trace, through one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` may be read-only."""
        self._connection = connection
        self._fields = lru_cache(maxsize=2048)(self._load_fields)

    def get(self, exchange_ids: Sequence[int]) -> list[Recording]:
        """Those exchanges, by id; what is not there is left out."""
        listed = msgspec.json.encode(list(exchange_ids)).decode()
        with_gap = {exchange_id for (exchange_id,) in self._connection.execute(_GAPS, (listed,))}
        rows = self._connection.execute(_SELECT, (listed,)).fetchall()
        return [self._recording(row, row[0] in with_gap) for row in rows]

    def _recording(self, row: tuple[Any, ...], has_gap: bool) -> Recording:
        exchange_id, kind, client, upstream, started_at_us, method, forwarded, target, status, *rest = row
        request_body, response_body, response_bytes, complete_us, first_byte_us, done_us, *rest = rest
        outcome, error, request_head, response_head = rest
        path, _, query = (forwarded or target or "").partition("?")
        fields = self._fields(request_head)
        return Recording(
            id=exchange_id,
            client=client.rpartition(":")[0],
            upstream=upstream,
            started_at_us=started_at_us,
            head=RequestHead(method or "", path, query, fields, kind == "websocket"),
            status=status,
            response_fields=self._fields(response_head),
            request_body=request_body,
            response_body=response_body,
            response_bytes=response_bytes,
            request_complete_us=complete_us,
            first_byte_us=first_byte_us,
            end=End(outcome, error or "", done_us) if outcome is not None else None,
            is_forwarded=forwarded is not None,
            has_gap=has_gap,
        )

    def _load_fields(self, head_id: object) -> tuple[Field, ...]:
        row = self._connection.execute(_FIELDS, (head_id,)).fetchone() if head_id is not None else None
        return _fields_of(row[0]) if row else ()

    def parts(self, body_id: int | None) -> list[Part]:
        """The parts of a stored body: (blob id, bytes)."""
        if body_id is None:
            return []
        execute = self._connection.execute
        (ranges,) = execute("SELECT parts FROM bodies WHERE id = ?", (body_id,)).fetchone()
        return [part for one in _ranges(ranges) for part in execute(_BLOBS, one)]

    def read(self, reader: Reader, recording: Recording, request: Sequence[Part], response: Sequence[Part]) -> Readings:
        """What a reader says of a whole exchange; `request` and `response` are the parts of its stored bodies."""
        session = reader.open(recording.head)
        if not recording.head.is_websocket:
            session.request(b"".join([data for _, data in request]), recording.request_complete_us)
        if recording.status is not None:
            session.response(ResponseHead(recording.status, recording.response_fields), recording.first_byte_us)
        if recording.is_tunnel:
            for chunk in self._by_time(recording.id):
                session.message(chunk.side, chunk.at_us, chunk.opcode, chunk.data or b"")
        elif response:
            at_us = recording.first_byte_us or 0  # the times of a plain body's reads say nothing about its content
            for _, data in response:
                session.data(at_us, data)
        elif recording.response_bytes:
            for number, chunk in enumerate(read_chunks(self._connection, recording.id, Side.UPSTREAM)):
                session.data(chunk.at_us, chunk.data or b"")
                if not number % STEP:
                    give_way()
        return session.readings(recording.end)

    def _by_time(self, exchange_id: int) -> Iterator[ChunkRow]:
        """A WebSocket's messages; at the same moment the client's come first."""
        sides = [read_chunks(self._connection, exchange_id, side) for side in Side]
        return heapq.merge(*sides, key=lambda chunk: (chunk.at_us, chunk.side))
