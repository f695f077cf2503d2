"""Proof that what came in is what is stored: everything is hashed again, every body put together again."""

import sqlite3
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from proxy.exchange import Outcome, Side
from proxy.store.bodies import read_body
from proxy.store.chunks import read_chunks
from proxy.store.rows import DIGEST_BYTES, digest_of
from proxy.store.schema import open_for_reading

MAX_TOLD = 100

_REFERENCES = (
    ("recorded_exchanges", "request_head", "heads"),
    ("recorded_exchanges", "forwarded_head", "heads"),
    ("recorded_exchanges", "response_head", "heads"),
    ("recorded_exchanges", "sent_head", "heads"),
    ("recorded_exchanges", "request_body", "bodies"),
    ("recorded_exchanges", "response_body", "bodies"),
    ("recorded_exchanges", "run", "runs"),
    ("recorded_chunks", "frame_id", "chunk_frames"),
    ("recorded_chunks", "exchange_id", "recorded_exchanges"),
    ("staged_chunks", "exchange_id", "recorded_exchanges"),
    ("recorded_gaps", "run", "runs"),
)
_SIDES = {Side.CLIENT: "request", Side.UPSTREAM: "response"}
_GAPS_OF_SIDE = {Side.CLIENT: "request_bytes", Side.UPSTREAM: "response_bytes"}


@dataclass(slots=True)
class Report:
    """What a verification found."""

    exchanges: int = 0
    """Ended exchanges whose two sides were put together again and compared."""
    running: int = 0
    """Exchanges that have not ended; they are not compared."""
    bodies: int = 0
    blobs: int = 0
    heads: int = 0
    bytes: int = 0
    """Bytes of bodies, streams and messages that were hashed."""
    masked: int = 0
    """Sides in which values are masked: what is stored is intact, and by intent not what was sent."""
    gaps: int = 0
    """Recorded gaps."""
    incomplete: int = 0
    """Sides of which bytes are missing, as recorded gaps tell."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, in words; the first hundred."""
    problem_count: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong. Gaps and masked values are not wrong: the trace tells of them."""
        return not self.problem_count

    def problem(self, text: str) -> None:
        """Note what is wrong."""
        self.problem_count += 1
        if len(self.problems) < MAX_TOLD:
            self.problems.append(text)


def verify(path: Path) -> Report:
    """Check a whole trace, as it is at this moment; it may be written to meanwhile.

    Raises:
        TraceError: there is no trace, or it is of another version.
    """
    connection = open_for_reading(path)
    try:
        connection.execute("BEGIN")  # one moment, however long it takes
        report = Report()
        for (problem,) in connection.execute("PRAGMA quick_check"):
            if problem != "ok":
                report.problem(f"SQLite: {problem}")
        _verify_parts(connection, report)
        _verify_bodies(connection, report)
        _verify_references(connection, report)
        _verify_exchanges(connection, report)
        (report.gaps,) = connection.execute("SELECT count(*) FROM recorded_gaps").fetchone()
        return report
    finally:
        connection.close()


def _verify_parts(connection: sqlite3.Connection, report: Report) -> None:
    """Heads and blobs are what their digests say."""
    for head_id, digest, fields in connection.execute("SELECT id, digest, CAST(fields AS BLOB) FROM heads"):
        report.heads += 1
        if digest_of(fields) != digest:
            report.problem(f"head {head_id} is not what its digest says")
    for blob_id, digest, data in connection.execute("SELECT id, digest, CAST(data AS BLOB) FROM blobs"):
        report.blobs += 1
        if digest_of(data) != digest:
            report.problem(f"blob {blob_id} is not what its digest says")


def _verify_bodies(connection: sqlite3.Connection, report: Report) -> None:
    """Bodies, put together from their parts, are what their digests say."""
    for body_id, digest, size, parts in connection.execute(
        "SELECT id, digest, bytes, (SELECT sum(json_extract(value, '$[1]') - json_extract(value, '$[0]') + 1)"
        " FROM json_each(parts)) FROM bodies"
    ):
        report.bodies += 1
        found = blake2b(digest_size=DIGEST_BYTES)
        found_size = found_parts = 0
        for part in read_body(connection, body_id):
            found.update(part)
            found_size += len(part)
            found_parts += 1
        report.bytes += found_size
        if found_parts != parts:
            report.problem(f"body {body_id} has {found_parts} of its {parts} parts")
        elif found.digest() != digest or found_size != size:
            report.problem(f"body {body_id} is not what its digest says")


def _verify_references(connection: sqlite3.Connection, report: Report) -> None:
    for table, column, target in _REFERENCES:
        (count,) = connection.execute(
            f"SELECT count(*) FROM {table} WHERE {column} IS NOT NULL AND {column} NOT IN (SELECT id FROM {target})"
        ).fetchone()
        if count:
            report.problem(f"{count} rows of {table} name {target} that are not there ({column})")


def _verify_exchanges(connection: sqlite3.Connection, report: Report) -> None:
    """Both sides of every ended exchange are what ingest read from the journal, and as long as the front counted."""
    runs_with_holes = {run for (run,) in connection.execute("SELECT run FROM recorded_gaps WHERE exchange_id IS NULL")}
    gaps: dict[tuple[int, Side], int] = {}
    for exchange_id, *lost in connection.execute(
        "SELECT exchange_id, sum(request_bytes), sum(response_bytes) FROM recorded_gaps"
        " WHERE exchange_id IS NOT NULL GROUP BY exchange_id"
    ):
        for side, count in zip(Side, lost, strict=True):
            gaps[exchange_id, side] = count
    for side, name in _SIDES.items():
        rows = connection.execute(
            f"SELECT e.id, e.run, e.kind, e.status, e.outcome, e.{name}_body, e.{name}_digest, e.{name}_masked,"
            f" e.{name}_bytes, e.{name}_chunks, b.digest, b.bytes"
            f" FROM recorded_exchanges e LEFT JOIN bodies b ON b.id = e.{name}_body"
        )
        for exchange_id, run, kind, status, outcome, body, digest, masked, counted, chunks, body_digest, size in rows:
            if outcome is None:
                report.running += side is Side.CLIENT
                continue
            report.exchanges += side is Side.CLIENT
            what = f"exchange {exchange_id}: its {name}"
            if masked:
                report.masked += 1
            found, found_size, found_chunks = _read_side(connection, exchange_id, side)
            if body is not None:
                found, found_size = body_digest, size
            elif found_chunks:
                report.bytes += found_size
            if found != digest and (digest is not None or found_chunks):
                report.problem(f"{what} is not what was recorded")
            if found_chunks != chunks:
                report.problem(f"{what} has {found_chunks} chunks instead of {chunks}")
            if masked or (kind == "websocket" and status == 101):
                continue  # masks are longer or shorter than secrets; the front counts frames, not messages
            lost = gaps.get((exchange_id, side), 0)
            if found_size == counted and (not lost or outcome == Outcome.INTERRUPTED):
                continue
            report.incomplete += 1
            if found_size + lost != counted and run not in runs_with_holes and (exchange_id, side) not in gaps:
                report.problem(f"{what} has {found_size} bytes, the front counted {counted}")


def _read_side(connection: sqlite3.Connection, exchange_id: int, side: Side) -> tuple[bytes | None, int, int]:
    """(digest of the bytes that chunks hold, bytes, chunks)."""
    found = blake2b(digest_size=DIGEST_BYTES)
    size = chunks = 0
    for chunk in read_chunks(connection, exchange_id, side):
        chunks += 1
        if chunk.data is not None:
            found.update(chunk.data)
            size += chunk.bytes
    return (found.digest() if chunks else None), size, chunks
