"""The rows of one transaction, collected and written with `executemany`; heads, blobs and bodies found by content."""

import sqlite3
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proxy.store.chunks import RunRow, as_stored
from proxy.store.courtesy import in_steps
from proxy.store.digests import RECORDED_BYTES, digest_of
from proxy.store.heads import fields_json

MAX_INTEGER = (1 << 63) - 1
"""SQLite's."""
MAX_PENDING_BYTES = 8 << 20
MAX_CACHED = 8192
MAX_CACHED_BODY_BYTES = 4096

_Row = TypeVar("_Row", bound=tuple[object, ...])

StagedRow = tuple[int, int, int, int, str | bytes | None, int | None]
"""exchange_id, side, seq, at_us, data, blob_id."""


@dataclass(slots=True)
class Sent:
    """What one side sent, when it is in its place."""

    digest: bytearray | None = None
    """No bytes: see `RARE_COLUMNS`."""
    body: int | None = None
    """None where chunks hold the bytes."""
    is_text: int | None = None
    """0 or 1."""
    masked: int = 0
    model: str | None = None


RARE_COLUMNS = ("interim_heads", "request_trailers", "response_trailers", "error")
"""Columns of an exchange that are seldom anything but NULL; for each value that is bound and is no plain number, str or
bytearray (so for None, bytes, a bool, an enum), sqlite3 looks for an adapter: as long as to bind ten numbers."""
_USUAL_COLUMNS = (
    *("id", "run", "connection", "kind", "client", "upstream", "upstream_url", "started_at_us"),
    *("method", "target", "http_version", "request_head", "forwarded_target", "forwarded_head"),
    *("status", "reason", "response_head", "sent_head"),
    *("model", "request_body", "response_body", "request_digest", "response_digest"),
    *("request_is_text", "response_is_text", "request_masked", "response_masked", "request_bytes", "response_bytes"),
    *("request_chunks", "response_chunks", "request_complete_us", "first_byte_us", "done_us", "outcome"),
)
EXCHANGE_COLUMNS = _USUAL_COLUMNS + RARE_COLUMNS
_NOTHING_RARE = (None,) * len(RARE_COLUMNS)


def _insertion(table: str, columns: Sequence[str]) -> str:
    return f"INSERT OR REPLACE INTO {table}({', '.join(columns)}) VALUES({', '.join('?' * len(columns))})"


_INSERT_USUAL_EXCHANGE = _insertion("recorded_exchanges", _USUAL_COLUMNS)
_INSERT_EXCHANGE = _insertion("recorded_exchanges", EXCHANGE_COLUMNS)
_INSERT_CHUNK = _insertion(
    "recorded_chunks", ("exchange_id", "side", "seq", "at_us", "opcode", "frame_id", "middle", "more")
)
_INSERT_BODY_READ = _insertion("recorded_chunks", ("exchange_id", "side", "seq", "at_us", "middle"))
_STAGE = """
INSERT OR REPLACE INTO staged_chunks
VALUES(?1, ?2, ?3, ?4, CASE typeof(?5) WHEN 'text' THEN ?5 ELSE sealed(?5, ?1, ?2, ?3, ?4) END, ?6)"""
_ADD_TOTAL = """
INSERT INTO model_totals VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(model, outcome) DO UPDATE SET
exchanges = exchanges + excluded.exchanges, request_bytes = request_bytes + excluded.request_bytes,
response_bytes = response_bytes + excluded.response_bytes, duration_us = duration_us + excluded.duration_us"""


def body_key(body: bytes) -> bytes:
    """What a body is known again by: its digest, or a short one itself, which is never as short as a digest."""
    return body if RECORDED_BYTES < len(body) <= MAX_CACHED_BODY_BYTES else digest_of(body)


class Rows:
    """What waits to be written in the open transaction. After a rollback it must be thrown away: its ids are void."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Ids go on from what the trace holds; nobody else may write to it meanwhile."""
        self.connection = connection
        self._look_up = connection.cursor().execute
        self._next_head = self._next_id("heads")
        self._next_blob = self._next_id("blobs")
        self._next_body = self._next_id("bodies")
        self._next_frame = self._next_id("chunk_frames")
        self._head_ids: dict[bytes, int] = {}
        self._blob_ids: dict[bytes, int] = {}
        self._bodies: dict[bytes, Sent] = {}
        self._heads: list[tuple[int, bytes, str]] = []
        self._blobs: list[tuple[int, bytes, str | bytes]] = []
        self._blob_bytes = 0
        self._new_bodies: list[tuple[int, bytes, int, str]] = []
        self._frames: list[tuple[int, str | bytes, str | bytes]] = []
        self._totals: dict[tuple[str, str], list[int]] = {}
        self._usual_exchanges: list[tuple[object, ...]] = []
        self._exchanges: list[tuple[object, ...]] = []
        self.chunks: list[RunRow] = []
        self.body_reads: list[tuple[int, int, int, int, int]] = []
        """The chunks of bodies that were one read: exchange_id, side, seq, at_us, middle."""
        self.staged: list[StagedRow] = []
        self.gaps: list[tuple[object, ...]] = []
        self.ended: list[tuple[int]] = []

    def _next_id(self, table: str) -> int:
        (last,) = self.connection.execute(f"SELECT max(id) FROM {table}").fetchone()
        return (last or 0) + 1

    def head(self, lines: bytes) -> int | None:
        """The id of these header lines; None where there are none."""
        found = self._head_ids.get(lines)
        if found is not None:
            return found
        if not lines:
            return None
        fields = fields_json(lines)
        digest = digest_of(fields)
        # Other lines may have come to the same fields, in this transaction too.
        head_id = self._head_ids.get(digest) or self._stored_id("heads", digest)
        if head_id is None:
            head_id = self._next_head
            self._next_head += 1
            self._heads.append((head_id, digest, fields.decode()))
        if len(self._head_ids) > MAX_CACHED and not self._heads:
            self._head_ids.clear()
        self._head_ids[lines] = self._head_ids[digest] = head_id
        return head_id

    def blob(self, stored: str | bytes, size: int, digest: bytes) -> int:
        """The id of this part of a body."""
        blob_id = self._blob_ids.get(digest) or self._stored_id("blobs", digest)
        if blob_id is None:
            blob_id = self._next_blob
            self._next_blob += 1
            self._blobs.append((blob_id, digest, stored))
            self._blob_bytes += size
        if len(self._blob_ids) >= MAX_CACHED and not self._blobs:
            self._blob_ids.clear()
        self._blob_ids[digest] = blob_id
        if self._blob_bytes > MAX_PENDING_BYTES:
            self._write_blobs()
        return blob_id

    def known_body(self, key: bytes) -> Sent | None:
        """A body of this `body_key` that came lately, with nothing in it masked."""
        return self._bodies.get(key)

    def body(
        self, parts: Sequence[bytes | memoryview], whole: bytes, masked: int, model: str | None, key: bytes
    ) -> Sent:
        """A new body that is these parts; `key`: its `body_key`, before anything was masked."""
        digest = key if not masked and len(key) == RECORDED_BYTES else digest_of(whole)
        if len(parts) == 1:
            stored = as_stored(whole)
            is_text = isinstance(stored, str)
            blob_ids = [self.blob(stored, len(whole), digest)]
        else:
            is_text = True
            blob_ids = []
            for part in parts:
                stored = as_stored(part)
                is_text = is_text and isinstance(stored, str)
                blob_ids.append(self.blob(stored, len(part), digest_of(part)))
        sent = Sent(bytearray(digest), self.body_of_blobs(blob_ids, len(whole), digest), int(is_text), masked, model)
        if not masked:
            if len(self._bodies) >= MAX_CACHED // 4:
                self._bodies.clear()
            self._bodies[key] = sent
        return sent

    def body_of_blobs(self, blob_ids: Iterable[int], size: int, digest: bytes) -> int:
        """The id of a new body whose parts are stored already.

        Bodies are not looked up by their digest: their parts are, and a row costs less than an index.
        """
        body_id = self._next_body
        self._next_body += 1
        self._new_bodies.append((body_id, digest, size, _ranges(blob_ids)))
        return body_id

    def frame(self, head: str | bytes, tail: str | bytes) -> int:
        """The id of a new frame; both as they are to be stored."""
        frame_id = self._next_frame
        self._next_frame += 1
        self._frames.append((frame_id, head, tail))
        return frame_id

    def exchange(self, row: tuple[object, ...], rare: tuple[str | None, ...]) -> None:
        """An exchange's row, without and with its `RARE_COLUMNS`; until they are written, one exchange has one row."""
        if rare == _NOTHING_RARE:
            self._usual_exchanges.append(row)
        else:
            self._exchanges.append(row + rare)

    def count(self, model: str, outcome: str, request_bytes: int, response_bytes: int, duration_us: int) -> None:
        """Count an ended exchange in its model's totals."""
        total = self._totals.get((model, outcome))
        if total is None:
            total = self._totals[model, outcome] = [0, 0, 0, 0]
        total[0] += 1
        total[1] += request_bytes
        total[2] += response_bytes
        total[3] += duration_us

    def unstage(self, exchange_id: int, side: int) -> None:
        """Drop what is staged for one side, as it has its place now."""
        self.connection.execute("DELETE FROM staged_chunks WHERE exchange_id = ? AND side = ?", (exchange_id, side))

    def drop_chunks(self, exchange_id: int, side: int) -> None:
        """Drop the chunks of one side, to write them anew."""
        self.connection.execute("DELETE FROM recorded_chunks WHERE exchange_id = ? AND side = ?", (exchange_id, side))

    def write(self) -> None:
        """Write everything into the open transaction."""
        self._insert("INSERT INTO heads VALUES(?, ?, ?)", self._heads)
        self._write_blobs()
        self._insert("INSERT INTO bodies VALUES(?, ?, ?, ?)", self._new_bodies)
        self._insert(_INSERT_USUAL_EXCHANGE, self._usual_exchanges)
        self._insert(_INSERT_EXCHANGE, self._exchanges)
        self.write_chunks()
        self._insert("INSERT OR IGNORE INTO unread_exchanges VALUES(?)", self.ended)
        self._insert(_STAGE, self.staged)
        self._insert("INSERT INTO recorded_gaps VALUES(NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self.gaps)
        self._insert(_ADD_TOTAL, [(*key, *total) for key, total in self._totals.items()])
        self._totals.clear()

    def write_chunks(self) -> None:
        """Write the chunks already."""
        self._insert("INSERT INTO chunk_frames VALUES(?, ?, ?)", self._frames)
        self._insert(_INSERT_CHUNK, self.chunks)
        self._insert(_INSERT_BODY_READ, self.body_reads)

    def _write_blobs(self) -> None:
        self._insert("INSERT INTO blobs VALUES(?, ?, ?)", self._blobs)
        self._blob_bytes = 0

    def _insert(self, statement: str, rows: MutableSequence[_Row]) -> None:
        """Write these rows, so that they wait no more."""
        if rows:
            self.connection.executemany(statement, in_steps(rows))
            rows.clear()

    def _stored_id(self, table: str, digest: bytes) -> int | None:
        row = self._look_up(f"SELECT id FROM {table} WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else int(row[0])


def _ranges(ids: Iterable[int]) -> str:
    """Ids as JSON, neighbours as one range: `[[1,1],[5,9]]`."""
    ranges: list[list[int]] = []
    for blob_id in ids:
        if ranges and blob_id == ranges[-1][1] + 1:
            ranges[-1][1] = blob_id
        else:
            ranges.append([blob_id, blob_id])
    return "[" + ",".join([f"[{first},{last}]" for first, last in ranges]) + "]"
