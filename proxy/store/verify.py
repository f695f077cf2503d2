"""Proof that what came in is what is stored: everything is hashed again, every body put together again."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from proxy.exchange import Side
from proxy.store.bodies import read_body
from proxy.store.chunks import read_chunks
from proxy.store.digests import Digester, is_digest_of
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
        if not is_digest_of(fields, digest):
            report.problem(f"head {head_id} is not what its digest says")
    for blob_id, digest, data in connection.execute("SELECT id, digest, CAST(data AS BLOB) FROM blobs"):
        report.blobs += 1
        if not is_digest_of(data, digest):
            report.problem(f"blob {blob_id} is not what its digest says")


def _verify_bodies(connection: sqlite3.Connection, report: Report) -> None:
    """Bodies, put together from their parts, are what their digests say."""
    for body_id, digest, size, parts in connection.execute(
        "SELECT id, digest, bytes, CASE WHEN json_valid(parts) THEN"
        " (SELECT sum(json_extract(value, '$[1]') - json_extract(value, '$[0]') + 1) FROM json_each(parts)) END"
        " FROM bodies"
    ):
        report.bodies += 1
        if parts is None:
            report.problem(f"body {body_id} has no readable list of parts")
            continue
        found = Digester(like=digest)
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
    (report.running,) = connection.execute("SELECT count(*) FROM recorded_exchanges WHERE outcome IS NULL").fetchone()
    (report.exchanges,) = connection.execute(
        "SELECT count(*) FROM recorded_exchanges WHERE outcome IS NOT NULL"
    ).fetchone()
    for side, name in _SIDES.items():
        for row in connection.execute(_SELECT_SIDE.format(name=name)):
            _verify_side(connection, report, side, _SideRow(*row))


class _SideRow(NamedTuple):
    """What the trace tells of one side of an exchange."""

    exchange_id: int
    is_tunnel: bool
    digest: bytes | None
    masked: int
    counted_bytes: int
    """By the front."""
    chunks: int
    body_digest: bytes | None
    body_bytes: int | None
    lost_bytes: int | None
    """By gaps of this exchange; None: there is no such gap."""
    run_has_holes: bool
    """Damage of which it is not known to which exchange it was done."""


_SELECT_SIDE = """
SELECT e.id, e.kind = 'websocket' AND e.status IS 101, e.{name}_digest, e.{name}_masked,
    e.{name}_bytes, e.{name}_chunks, b.digest, b.bytes,
    (SELECT sum(g.{name}_bytes) FROM recorded_gaps g WHERE g.exchange_id = e.id),
    EXISTS (SELECT 1 FROM recorded_gaps g WHERE g.exchange_id IS NULL AND g.run IS e.run)
FROM recorded_exchanges e LEFT JOIN bodies b ON b.id = e.{name}_body WHERE e.outcome IS NOT NULL"""


def _verify_side(connection: sqlite3.Connection, report: Report, side: Side, row: _SideRow) -> None:
    what = f"exchange {row.exchange_id}: its {_SIDES[side]}"
    found, size, chunks, sizes = _read_side(connection, row.exchange_id, side, row.digest)
    if row.body_bytes is not None:
        if not row.masked and sizes != row.body_bytes:
            report.problem(f"{what} has chunks of {sizes} bytes, but a body of {row.body_bytes}")
        found, size = row.body_digest, row.body_bytes
    else:
        report.bytes += size
    if found != row.digest:
        report.problem(f"{what} is not what was recorded")
    if chunks != row.chunks:
        report.problem(f"{what} has {chunks} chunks instead of {row.chunks}")
    if row.masked:
        report.masked += 1
    elif not row.is_tunnel and size != row.counted_bytes:  # of a tunnel the front counts frames, not messages
        if row.lost_bytes is not None or row.run_has_holes:
            report.incomplete += 1
        else:
            report.problem(f"{what} has {size} bytes, the front counted {row.counted_bytes}")


def _read_side(
    connection: sqlite3.Connection, exchange_id: int, side: Side, like: bytes | None
) -> tuple[bytes | None, int, int, int]:
    """(digest of the bytes that chunks hold, how many, chunks, bytes of chunks that a body holds)."""
    found = Digester(like)
    size = chunks = sizes = 0
    for chunk in read_chunks(connection, exchange_id, side):
        chunks += 1
        if chunk.data is not None:
            found.update(chunk.data)
            size += chunk.bytes
        else:
            sizes += chunk.bytes
    return (found.digest() if chunks else None), size, chunks, sizes
