"""The journal goes into the trace: every record exactly once, whatever happens in between.

A batch is one transaction, and the position in the journal is committed with it. All that is needed to go on is in
the trace; what is kept in memory is only a copy. After any failure the copy is thrown away and made again, which is the
same as a restart.
"""

import logging
import sqlite3
import struct
from pathlib import Path

from filelock import FileLock, Timeout

from proxy.clock import ClockReading
from proxy.errors import InUseError
from proxy.exchange import Outcome, Side
from proxy.record.journal import Close, Gap, Kind, Open, Response, SegmentHeader, journal_folder
from proxy.store.masked import SecretPaths
from proxy.store.rows import MAX_INTEGER, Rows
from proxy.store.running import Running, Shared, resume
from proxy.store.schema import open_for_writing
from proxy.store.segments import DAMAGE, Batch, Segments

log = logging.getLogger(__name__)

_OPEN, _CLIENT_DATA, _UPSTREAM_DATA = int(Kind.OPEN), int(Kind.CLIENT_DATA), int(Kind.UPSTREAM_DATA)
_MALFORMED = (struct.error, ValueError, LookupError, OverflowError)
"""What unpacking a record raises that no writer made."""
_BEYOND_US = (sqlite3.Error, OSError, MemoryError)
"""What has its cause outside: the batch is to be tried again."""
_MAX_LEAP = 1 << 20
"""A record whose exchange is so far beyond the last one is damaged."""
_INTERRUPTED_AT_ONCE = 64
_INTERRUPTED = Close(Outcome.INTERRUPTED, "the proxy ended before the exchange did", 0, 0, 0, 0, 0)
_UNENDED_RUNS = """
SELECT id FROM runs WHERE ended IS NULL UNION SELECT run FROM recorded_exchanges WHERE outcome IS NULL"""
_RUN = "SELECT id, started_at_us, started_monotonic_ns, first_exchange_id FROM runs WHERE run_id = ?"


def hold_writer_lock(trace: Path) -> FileLock:
    """The lock that makes its holder the only writer of the trace; release it at the end.

    Raises:
        InUseError: another process holds it.
    """
    lock = FileLock(trace.with_name(trace.name + ".writer.lock"), mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InUseError(f"another proxy-log process is writing the trace {trace}; it takes the journal in") from None
    return lock


class Ingest:
    """Takes the journal of one trace in. Its owner must hold the writer lock."""

    def __init__(
        self, trace: Path, *, key: bytes, body_fields: tuple[str, ...] = (), living_run: int | None = None
    ) -> None:
        """`body_fields`: paths of the secrets inside bodies, `key` that of their digests.

        `living_run` is the start (wall ns) of the run whose front lives and may still write; None: the newest there is.
        """
        self._trace = trace
        self._secrets = SecretPaths(body_fields, key)
        self._segments = Segments(journal_folder(trace), living_run)
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._state: _State | None = None

    def run_once(self) -> int:
        """Take in one batch; gives how many bytes of journal it was, 0 if there is nothing new.

        Raises:
            sqlite3.OperationalError, OSError: it could not be written or read (locked, disk full); nothing is lost,
                call again later.
        """
        try:
            return self._take_in()
        except BaseException:
            self._forget()
            raise

    def front_is_dead(self) -> None:
        """Nobody writes the journal any more: what is left can be taken in to its very end. From any thread."""
        self._segments.front_is_dead()

    def finish(self) -> None:
        """Take in everything, then end what is unfinished; the front must be dead. May be called again if it raises."""
        self.front_is_dead()
        while self.run_once():
            pass
        try:
            state = self._ready()
            self._end_runs(state, but=None)
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        """Let go of the trace."""
        self._forget()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ready(self) -> "_State":
        if self._connection is not None and _identity(self._trace) != self._identity:
            self.close()  # the file was moved or deleted: what comes now belongs in the one that bears its name
        if self._connection is None:
            self._connection = open_for_writing(self._trace)
            self._identity = _identity(self._trace)
        if self._state is None:
            self._state = _State(self._connection, self._secrets)
            position = self._connection.execute("SELECT segment, offset FROM journal_position").fetchone()
            self._segments.seek(*(position or (None, 0)))
        return self._state

    def _forget(self) -> None:
        self._state = None
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    def _take_in(self) -> int:
        state = self._ready()
        batch = self._segments.read()
        if batch is None:
            return 0
        connection = state.connection
        connection.execute("BEGIN IMMEDIATE")
        state.take(batch)
        connection.execute("INSERT OR REPLACE INTO journal_position VALUES(1, ?, ?)", (batch.segment, batch.offset))
        connection.execute("COMMIT")
        if batch.is_run_done or state.has_begun_run:
            state.has_begun_run = False
            is_over = batch.is_run_done and batch.header is not None
            self._end_runs(state, but=None if is_over else state.run)
        self._segments.committed(batch)
        return max(batch.size, 1)

    def _end_runs(self, state: "_State", but: int | None) -> None:
        """End what is unfinished of all runs but one: they are taken in one after the other."""
        for (run,) in state.connection.execute(_UNENDED_RUNS).fetchall():
            if run != but:
                self._end_run(state, run)

    def _end_run(self, state: "_State", run: int) -> None:
        """End what is unfinished of a run, in transactions of bounded size."""
        connection = state.connection
        while True:
            connection.execute("BEGIN IMMEDIATE")
            is_rest = state.interrupt_some(run)
            if not is_rest:
                connection.execute("UPDATE runs SET ended = 'interrupted' WHERE id = ? AND ended IS NULL", (run,))
            connection.execute("COMMIT")
            if not is_rest:
                return


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that later has its name."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class _State:
    """What is known in memory of the trace's end: the current run and what is unfinished of it."""

    def __init__(self, connection: sqlite3.Connection, secrets: SecretPaths) -> None:
        self.connection = connection
        self.run: int | None = None
        self.has_begun_run = False
        """A run was met for the first time; those before it are over."""
        self._run_id = b""
        self._rows = Rows(connection)
        self._shared = Shared(self._rows, secrets)
        self._running: dict[int, Running] = {}
        self._touched: dict[int, Running] = {}  # in this batch, as are:
        self._closed: set[int] = set()
        self._offset_ns = 0  # wall time less monotonic time
        self._first_id = 1
        (last_id,) = connection.execute("SELECT max(id) FROM recorded_exchanges").fetchone()
        self._last_id = last_id or 0

    def take(self, batch: Batch) -> None:
        """Put a batch's records into the open transaction."""
        if batch.header is not None and batch.header.run_id != self._run_id:
            self._begin_run(batch.header)
        running, first_id, offset_ns, touched = self._running, self._first_id, self._offset_ns, self._touched
        last_ns = None
        for kind, number, at_ns, payload in batch.records:
            try:
                if kind in (_CLIENT_DATA, _UPSTREAM_DATA):
                    exchange_id = first_id + number - 1
                    exchange = running.get(exchange_id) or self._recall(number, at_ns)
                    if exchange is not None:
                        touched[exchange_id] = exchange
                        at_us = (at_ns + offset_ns) // 1000 - exchange.started_at_us
                        exchange.data(kind - _CLIENT_DATA, at_us, payload)
                elif kind == _OPEN:
                    self._open(number, at_ns, Open.unpack(payload))
                elif kind == DAMAGE:
                    self._gap(None, last_ns, last_ns, payload.decode())
                    continue
                else:
                    self._take_other(kind, number, at_ns, payload)
            except _MALFORMED as error:
                self._gap(None, at_ns, at_ns, f"a record of the journal is malformed: {error}")
            except _BEYOND_US:
                raise
            except Exception as error:
                self._survive(first_id + number - 1, at_ns, error)
            last_ns = at_ns
        for exchange in list(touched.values()):
            try:
                exchange.save()
            except _BEYOND_US:
                raise
            except Exception as error:
                self._survive(exchange.id, last_ns, error)
        touched.clear()
        self._closed.clear()
        self._rows.write()

    def _survive(self, exchange_id: int, at_ns: int | None, error: Exception) -> None:
        """A bug of ours that one exchange brings out must not keep all others out of the trace."""
        log.error("exchange %d cannot be taken in whole", exchange_id, exc_info=error)
        self._end(exchange_id)
        self._gap(exchange_id, at_ns, at_ns, f"it could not be taken in: {error!r}")

    def interrupt_some(self, run: int) -> bool:
        """End some of a run's unfinished exchanges; False if there were none."""
        ids = self.connection.execute(
            "SELECT id FROM recorded_exchanges WHERE outcome IS NULL AND run = ? LIMIT ?", (run, _INTERRUPTED_AT_ONCE)
        ).fetchall()
        for (exchange_id,) in ids:
            exchange = self._running.pop(exchange_id, None) or resume(self._shared, exchange_id)
            if exchange is not None:
                exchange.close(_INTERRUPTED, 0, is_counted=False)
        self._rows.write()
        return bool(ids)

    def _begin_run(self, header: SegmentHeader) -> None:
        started = header.started
        run = self.connection.execute(_RUN, (header.run_id,)).fetchone()
        if run is None:
            run = (None, started.wall_ns // 1000, started.monotonic_ns, self._last_id + 1)
            cursor = self.connection.execute(
                "INSERT INTO runs(run_id, started_at_us, started_monotonic_ns, first_exchange_id) VALUES(?, ?, ?, ?)",
                (header.run_id, *run[1:]),
            )
            run = (cursor.lastrowid, *run[1:])
            self.has_begun_run = True
        self.run, _, _, self._first_id = run
        self._run_id = header.run_id
        self._offset_ns = started.wall_ns - started.monotonic_ns
        self._running.clear()

    def _open(self, number: int, at_ns: int, record: Open) -> None:
        exchange_id = self._id_of(number)
        if exchange_id <= self._last_id and self._is_known(exchange_id):
            self._gap(exchange_id, at_ns, at_ns, "the journal opens the exchange twice")
            return
        self._new(exchange_id, at_ns).open(record)

    def _take_other(self, kind: int, number: int, at_ns: int, payload: bytes) -> None:
        if kind == Kind.END:
            self.connection.execute("UPDATE runs SET ended = 'in order' WHERE id = ?", (self.run,))
            return
        if kind == Kind.GAP:
            self._take_gap(number, at_ns, Gap.unpack(payload))
            return
        close = Close.unpack(payload) if kind == Kind.CLOSE else None
        response = Response.unpack(payload) if kind == Kind.RESPONSE else None
        exchange_id = self._id_of(number)
        exchange = self._running.get(exchange_id) or self._recall(number, at_ns)
        if exchange is None:
            return
        if close is not None:
            self._end(exchange_id)
            exchange.close(close, self._offset_ns)
            return
        self._touched[exchange_id] = exchange
        if response is not None:
            exchange.response(response, (at_ns + self._offset_ns) // 1000 - exchange.started_at_us)
        elif kind == Kind.INTERIM:
            exchange.interim(payload)
        elif kind == Kind.CLIENT_TRAILERS:
            exchange.trailers(Side.CLIENT, payload)
        elif kind == Kind.UPSTREAM_TRAILERS:
            exchange.trailers(Side.UPSTREAM, payload)
        else:
            raise ValueError(f"kind {kind} is unknown")

    def _take_gap(self, number: int, at_ns: int, gap: Gap) -> None:
        exchange_id = self._id_of(number) if number else None
        exchange = None
        if exchange_id is not None:
            exchange = self._running.get(exchange_id) or self._recall(number, at_ns, is_told=True)
        self._gap(exchange_id, gap.since_ns, at_ns, gap.reason, gap)
        if gap.is_close_lost and exchange is not None and exchange_id is not None:
            self._end(exchange_id)
            lost = Close(Outcome.INTERRUPTED, f"the end is not recorded: {gap.reason}", 0, 0, at_ns, 0, 0)
            exchange.close(lost, self._offset_ns, is_counted=False)

    def _id_of(self, number: int) -> int:
        exchange_id = self._first_id + number - 1
        if not number or exchange_id > self._last_id + _MAX_LEAP:
            raise ValueError(f"exchange {number} cannot be")
        return exchange_id

    def _new(self, exchange_id: int, at_ns: int) -> Running:
        assert self.run is not None  # a segment's header comes before its records
        exchange = Running(self._shared, exchange_id, self.run, (at_ns + self._offset_ns) // 1000)
        self._running[exchange_id] = self._touched[exchange_id] = exchange
        self._last_id = max(self._last_id, exchange_id)
        return exchange

    def _end(self, exchange_id: int) -> None:
        self._running.pop(exchange_id, None)
        self._touched.pop(exchange_id, None)
        self._closed.add(exchange_id)

    def _is_known(self, exchange_id: int) -> bool:
        known = self.connection.execute("SELECT 1 FROM recorded_exchanges WHERE id = ?", (exchange_id,)).fetchone()
        return known is not None or exchange_id in self._running or exchange_id in self._closed

    def _recall(self, number: int, at_ns: int, *, is_told: bool = False) -> Running | None:
        """An exchange that is not in memory: from the trace; None if it ended; a bare one if its start is missing."""
        exchange_id = self._id_of(number)
        exchange = resume(self._shared, exchange_id)
        if exchange is not None:
            self._running[exchange_id] = exchange
            return exchange
        if self._is_known(exchange_id):
            if not is_told:
                self._gap(exchange_id, at_ns, at_ns, "the journal goes on after the exchange's end")
            return None
        if not is_told:
            self._gap(exchange_id, at_ns, at_ns, "the exchange's start is not recorded")
        return self._new(exchange_id, at_ns)

    def _gap(
        self, exchange_id: int | None, since_ns: int | None, until_ns: int | None, reason: str, gap: Gap | None = None
    ) -> None:
        now = ClockReading.now()
        since_us, until_us = (
            (at_ns + self._offset_ns) // 1000 if at_ns is not None else now.wall_ns // 1000
            for at_ns in (since_ns, until_ns)
        )
        lost = (gap.lost_exchanges, gap.lost_records, gap.client_bytes, gap.upstream_bytes) if gap else (0, 1, 0, 0)
        numbers = [min(number, MAX_INTEGER) for number in lost]
        self._rows.gaps.append((self.run, exchange_id, since_us, until_us, *numbers, reason))
