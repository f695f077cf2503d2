"""What the records of the journal mean: exchanges begin, go on and end; what makes no sense becomes a gap."""

import logging
import sqlite3
import struct

from proxy.clock import ClockReading
from proxy.exchange import Outcome, Side
from proxy.record.journal import Close, Gap, Kind, Open, Response, SegmentHeader
from proxy.store.courtesy import STEP, in_steps, politely
from proxy.store.masked import SecretPaths
from proxy.store.rows import MAX_INTEGER, Rows
from proxy.store.running import Running, Shared, resume
from proxy.store.segments import DAMAGE, Batch, Records

log = logging.getLogger(__name__)

_Gathered = dict[int, list[tuple[int, bytes]]]
"""The reads of one side, with their times in ns, by exchange."""

_OPEN, _CLIENT_DATA, _UPSTREAM_DATA = int(Kind.OPEN), int(Kind.CLIENT_DATA), int(Kind.UPSTREAM_DATA)
_RESPONSE, _CLOSE = int(Kind.RESPONSE), int(Kind.CLOSE)
_DATA = (_CLIENT_DATA, _UPSTREAM_DATA)
_MALFORMED = (struct.error, ValueError, LookupError, OverflowError)
"""What unpacking a record raises that no writer made."""
_BEYOND_US = (sqlite3.Error, OSError, MemoryError)
"""What has its cause outside: the batch is to be tried again."""
_MAX_LEAP = 1 << 20
"""A record whose exchange is so far beyond the last one is damaged."""
_INTERRUPTED_AT_ONCE = 64
_INTERRUPTED = Close(Outcome.INTERRUPTED, "the proxy ended before the exchange did", 0, 0, 0, 0, 0)
_RUN = "SELECT id, started_at_us, started_monotonic_ns, first_exchange_id FROM runs WHERE run_id = ?"


class Intake:
    """The current run and what is unfinished of it. After a rollback it must be thrown away."""

    def __init__(self, connection: sqlite3.Connection, secrets: SecretPaths) -> None:
        """Go on where the trace ends."""
        self.connection = connection
        self.run: int | None = None
        """The id of the current run."""
        self.has_begun_run = False
        """A run was met for the first time; those before it are over."""
        self._run_id = b""
        self._rows = Rows(connection)
        self._shared = Shared(self._rows, secrets)
        self._running: dict[int, Running] = {}
        self._touched: dict[int, Running] = {}  # since it was saved, and in this batch:
        self._closed: set[int] = set()
        # The reads of a stream or tunnel are taken together: one by one, half of the work would be to find their place.
        self._gathered: tuple[_Gathered, _Gathered] = ({}, {})
        self._last_ns: int | None = None
        self._offset_ns = 0  # wall time less monotonic time
        self._first_id = 1
        (last_id,) = connection.execute("SELECT max(id) FROM recorded_exchanges").fetchone()
        self._last_id = last_id or 0

    @property
    def held_bytes(self) -> int:
        """What there is of bodies that wait for `save_held`, or for their end in a batch that follows at once."""
        return sum([exchange.held_bytes for exchange in self._touched.values()])

    def take(self, batch: Batch) -> None:
        """Put a batch's records into the open transaction, except bodies that may end soon."""
        if batch.header is not None and batch.header.run_id != self._run_id:
            self._begin_run(batch.header)
        self._last_ns = None
        self._take_records(batch.records)
        for side, gathered in enumerate(self._gathered):
            for exchange_id in politely(list(gathered)):
                self._take_gathered(exchange_id, side)
        self._save([exchange for exchange in self._touched.values() if not exchange.is_holding])

    def _take_records(self, records: Records) -> None:
        before = self._first_id - 1
        gathered = dict(zip(_DATA, self._gathered, strict=True))
        of_client, of_upstream = self._gathered
        for kind, number, at_ns, payload in in_steps(records):
            exchange_id = before + number
            try:
                if kind in gathered:
                    reads = gathered[kind].get(exchange_id)
                    if reads is not None:
                        self._last_ns = at_ns
                        reads.append((at_ns, payload))
                        if len(reads) == STEP:
                            self._take_gathered(exchange_id, kind - _CLIENT_DATA)
                        continue
                elif exchange_id in of_upstream or exchange_id in of_client:
                    self._take_both_sides(exchange_id)
                if kind == DAMAGE:
                    self._gap(None, self._last_ns, payload.decode())
                else:
                    self._last_ns = at_ns
                    self._take_record(kind, number, at_ns, payload)
            except _MALFORMED as error:
                self._gap(None, at_ns, f"a record of the journal is malformed: {error}")
            except _BEYOND_US:
                raise
            except Exception as error:  # noqa: BLE001 - see there
                self._survive(exchange_id, at_ns, error)

    def save_held(self) -> None:
        """Before the transaction's end: stage what `take` held."""
        if self._touched:
            self._save(list(self._touched.values()))

    def _save(self, unfinished: list[Running]) -> None:
        for exchange in unfinished:
            try:
                exchange.save()
            except _BEYOND_US:
                raise
            except Exception as error:  # noqa: BLE001 - see there
                self._survive(exchange.id, self._last_ns, error)
            self._touched.pop(exchange.id, None)
        self._closed.clear()
        self._rows.write()

    def _take_both_sides(self, exchange_id: int) -> None:
        for side, gathered in enumerate(self._gathered):
            if exchange_id in gathered:
                self._take_gathered(exchange_id, side)

    def _take_gathered(self, exchange_id: int, side: int) -> None:
        reads = self._gathered[side].pop(exchange_id)
        size = sum([len(data) for _, data in reads])
        of_client = size if side == Side.CLIENT else 0
        lost = Gap(reads[0][0], 0, len(reads), of_client, size - of_client)
        exchange = self._running.get(exchange_id)
        if exchange is None:  # the other side's reads brought out a bug: see `_survive`
            self._gap(exchange_id, reads[-1][0], "the exchange was given up before", lost)
            return
        self._touched[exchange_id] = exchange
        since_ns = exchange.started_at_us * 1000 - self._offset_ns
        try:
            exchange.data(side, [((at_ns - since_ns) // 1000, data) for at_ns, data in reads])
        except _BEYOND_US:
            raise
        except Exception as error:  # noqa: BLE001 - see there
            self._survive(exchange_id, reads[-1][0], error, lost)

    def _take_record(self, kind: int, number: int, at_ns: int, payload: bytes) -> None:
        if kind in _DATA:
            exchange_id = self._first_id + number - 1
            exchange = self._running.get(exchange_id) or self._recall(number, at_ns)
            side = kind - _CLIENT_DATA
            if exchange is not None and exchange.is_gathered[side]:
                self._gathered[side][exchange_id] = [(at_ns, payload)]
            elif exchange is not None:
                self._touched[exchange_id] = exchange
                at_us = (at_ns + self._offset_ns) // 1000 - exchange.started_at_us
                exchange.data(side, ((at_us, payload),))
        elif kind == _OPEN:
            self._open(number, at_ns, Open.unpack(payload))
        elif kind in (_RESPONSE, _CLOSE):
            record = Response.unpack(payload) if kind == _RESPONSE else Close.unpack(payload)
            exchange_id = self._id_of(number)
            exchange = self._running.get(exchange_id) or self._recall(number, at_ns)
            if exchange is None:
                return
            if isinstance(record, Close):
                self._end(exchange_id)
                exchange.close(record, self._offset_ns)
            else:
                self._touched[exchange_id] = exchange
                exchange.response(record, (at_ns + self._offset_ns) // 1000 - exchange.started_at_us)
        else:
            self._take_other(kind, number, at_ns, payload)

    def _survive(self, exchange_id: int, at_ns: int | None, error: Exception, lost: Gap | None = None) -> None:
        """A bug of ours that one exchange brings out must not keep all others out of the trace."""
        log.error("exchange %d cannot be taken in whole", exchange_id, exc_info=error)
        self._end(exchange_id)
        self._gap(exchange_id, at_ns, f"it could not be taken in: {error!r}", lost)

    def interrupt_some(self, run: int) -> bool:
        """End some of a run's unfinished exchanges; False if there were none."""
        ids = self.connection.execute(
            "SELECT id FROM recorded_exchanges WHERE outcome IS NULL AND run = ? LIMIT ?", (run, _INTERRUPTED_AT_ONCE)
        ).fetchall()
        for (exchange_id,) in ids:
            try:
                exchange = self._running.pop(exchange_id, None) or resume(self._shared, exchange_id)
                if exchange is not None:
                    exchange.close(_INTERRUPTED, 0, is_counted=False)
            except _BEYOND_US:
                raise
            except Exception as error:  # noqa: BLE001 - see there
                self._survive(exchange_id, None, error)
                self.connection.execute(
                    "UPDATE recorded_exchanges SET outcome = ? WHERE id = ?", (Outcome.INTERRUPTED.value, exchange_id)
                )
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
            self._gap(exchange_id, at_ns, "the journal opens the exchange twice")
            return
        self._new(exchange_id, at_ns).open(record)

    def _take_other(self, kind: int, number: int, at_ns: int, payload: bytes) -> None:
        if kind == Kind.END:
            self.connection.execute("UPDATE runs SET ended = 'in order' WHERE id = ?", (self.run,))
            return
        if kind == Kind.GAP:
            self._take_gap(number, at_ns, Gap.unpack(payload))
            return
        exchange_id = self._id_of(number)
        exchange = self._running.get(exchange_id) or self._recall(number, at_ns)
        if exchange is None:
            return
        self._touched[exchange_id] = exchange
        if kind == Kind.INTERIM:
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
        self._gap(exchange_id, at_ns, gap.reason, gap)
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
        # The rows of what ended in this batch still say that it runs.
        exchange = None if exchange_id in self._closed else resume(self._shared, exchange_id)
        if exchange is not None:
            self._running[exchange_id] = exchange
            return exchange
        if self._is_known(exchange_id):
            if not is_told:
                self._gap(exchange_id, at_ns, "the journal goes on after the exchange's end")
            return None
        if not is_told:
            self._gap(exchange_id, at_ns, "the exchange's start is not recorded")
        return self._new(exchange_id, at_ns)

    def _gap(self, exchange_id: int | None, at_ns: int | None, reason: str, gap: Gap | None = None) -> None:
        if at_ns is None:
            since_us = until_us = ClockReading.now().wall_ns // 1000
        else:
            until_us = (at_ns + self._offset_ns) // 1000
            since_us = (gap.since_ns + self._offset_ns) // 1000 if gap else until_us
        lost = (gap.lost_exchanges, gap.lost_records, gap.client_bytes, gap.upstream_bytes) if gap else (0, 1, 0, 0)
        numbers = [min(number, MAX_INTEGER) for number in lost]
        self._rows.gaps.append((self.run, exchange_id, since_us, until_us, *numbers, reason))
