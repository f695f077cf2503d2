"""The trace, read-only: what the command line, the pages and the exports ask."""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

from proxy.exchange import Side
from proxy.secret import SECRET_BODY_FIELDS, load_key
from proxy.store.bodies import read_body
from proxy.store.chunks import ChunkRow, read_chunks
from proxy.store.masked import SecretPaths
from proxy.store.schema import open_for_reading
from proxy.store.sealed import teach

__all__ = ["ChunkRow", "ExchangeRow", "GapRow", "Trace"]


@dataclass(frozen=True, slots=True)
class ExchangeRow:
    """A row of the view `exchanges`; the view tells what each column means."""

    id: int
    started_at: str
    client: str
    kind: str
    upstream: str | None
    method: str | None
    path: str | None
    status: int | None
    reason: str | None
    model: str | None
    request_bytes: int
    response_bytes: int
    request_chunks: int
    response_chunks: int
    request_complete_ms: float | None
    first_byte_ms: float | None
    duration_ms: float | None
    outcome: str | None
    error: str | None
    masked: int
    gaps: int
    request_headers: str | None
    forwarded_headers: str | None
    response_headers: str | None
    sent_headers: str | None
    http_version: str | None
    forwarded_path: str | None
    interim_heads: str | None
    request_trailers: str | None
    response_trailers: str | None
    connection: int
    run: int
    started_at_us: int
    upstream_url: str | None


@dataclass(frozen=True, slots=True)
class GapRow:
    """A row of the view `gaps`."""

    id: int
    exchange_id: int | None
    since: str
    until: str
    lost_exchanges: int
    lost_records: int
    request_bytes: int
    response_bytes: int
    reason: str
    run: int | None


_EXCHANGES = f"SELECT {', '.join(field.name for field in fields(ExchangeRow))} FROM exchanges"
_GAPS = f"SELECT {', '.join(field.name for field in fields(GapRow))} FROM gaps"
_BODY_COLUMNS = {Side.CLIENT: "request_body", Side.UPSTREAM: "response_body"}


class Trace:
    """One trace file. Every call sees what is committed by then; close it, or use it as a context manager."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        key: bytes | None = None,
        body_fields: tuple[str, ...] = SECRET_BODY_FIELDS,
    ) -> None:
        """`connection` as `open_for_reading` gives it, `key` that of the trace: it unseals the bodies of what runs.

        `body_fields`: paths of what is masked in these; in what has ended it is masked already.
        """
        self.connection = connection
        """For SQL of one's own."""
        self._secrets = SecretPaths(body_fields, key or b"")
        teach(connection, key)

    @classmethod
    def open(cls, path: Path) -> "Trace":
        """The trace at `path`.

        Raises:
            TraceError: there is none, or it is of another version.
        """
        connection = open_for_reading(path)
        key = path.with_name(f"{path.name}.key")
        return cls(connection, load_key(key) if os.access(key, os.R_OK) else None)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def exchange(self, exchange_id: int) -> ExchangeRow | None:
        """One exchange; None if there is none of that id."""
        rows = self._exchanges("WHERE id = ?", exchange_id)
        return rows[0] if rows else None

    def latest(self, count: int) -> list[ExchangeRow]:
        """The last `count` exchanges, oldest first."""
        return self._exchanges("ORDER BY id DESC LIMIT ?", count)[::-1]

    def after(self, exchange_id: int, limit: int = 1000) -> list[ExchangeRow]:
        """Exchanges with a greater id, oldest first."""
        return self._exchanges("WHERE id > ? ORDER BY id LIMIT ?", exchange_id, limit)

    def unfinished(self) -> list[ExchangeRow]:
        """Exchanges that still run, oldest first."""
        return self._exchanges("WHERE outcome IS NULL ORDER BY id")

    def _exchanges(self, rest: str, *values: int) -> list[ExchangeRow]:
        return [ExchangeRow(*row) for row in self.connection.execute(f"{_EXCHANGES} {rest}", values)]

    def body(self, exchange_id: int, side: Side) -> Iterator[bytes]:
        """All bytes of one side, in pieces of a few MiB at most: a body, a stream, or a WebSocket's messages.

        Of an exchange that still runs: what is in its place by now.
        """
        row = self.connection.execute(
            f"SELECT {_BODY_COLUMNS[side]}, outcome FROM recorded_exchanges WHERE id = ?", (exchange_id,)
        ).fetchone()
        if row is None:
            return
        body_id, outcome = row
        if body_id is not None:
            yield from read_body(self.connection, body_id)
            return
        for chunk in read_chunks(self.connection, exchange_id, side):
            if chunk.data is not None:
                yield chunk.data
        if outcome is None:
            yield from self._staged(exchange_id, side)

    def _staged(self, exchange_id: int, side: Side) -> Iterator[bytes]:
        """A running body's parts and reads, masked."""
        staged = self.connection.execute(
            "SELECT CAST(coalesce(b.data, sealed(s.data, s.exchange_id, s.side, s.seq, s.at_us)) AS BLOB), b.id IS NULL"
            " FROM staged_chunks s LEFT JOIN blobs b ON b.id = s.blob_id"
            " WHERE s.exchange_id = ? AND s.side = ? AND EXISTS (SELECT 1 FROM recorded_chunks c WHERE"
            " c.exchange_id = s.exchange_id AND c.side = s.side AND typeof(c.middle) = 'integer') ORDER BY s.seq",
            (exchange_id, side),
        )
        waiting = []
        for data, is_sealed in staged:
            if is_sealed and data is None:  # there is no key, so what follows is not known
                break
            if is_sealed:
                waiting.append(data)
            else:
                yield data
        if waiting:
            yield self._secrets.mask(b"".join(waiting))[0]

    def masked(self, exchange_id: int, side: Side) -> int:
        """How many values are masked in the bytes of one side."""
        column = "request_masked" if side is Side.CLIENT else "response_masked"
        row = self.connection.execute(
            f"SELECT {column} FROM recorded_exchanges WHERE id = ?", (exchange_id,)
        ).fetchone()
        return int(row[0]) if row else 0

    def chunks(self, exchange_id: int, side: Side | None = None, after_seq: int = -1) -> Iterator[ChunkRow]:
        """The chunks of one side after number `after_seq`; without `side`, of both, by time."""
        if side is not None:
            yield from read_chunks(self.connection, exchange_id, side, after_seq)
            return
        both = [chunk for one in Side for chunk in read_chunks(self.connection, exchange_id, one, after_seq)]
        yield from sorted(both, key=lambda chunk: (chunk.at_us, chunk.side, chunk.seq))

    def gaps(self, exchange_id: int | None = None, *, after: int = 0) -> list[GapRow]:
        """What could not be recorded, of one exchange or (None) at all; those with a greater id than `after`."""
        where, values = ("", [after]) if exchange_id is None else (" AND exchange_id = ?", [after, exchange_id])
        rows = self.connection.execute(f"{_GAPS} WHERE id > ?{where} ORDER BY id", values)
        return [GapRow(*row) for row in rows]

    def data_version(self) -> int:
        """A number that changes when somebody else has written to the trace."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)
