"""The recorder: takes what happens from the loop, never waits, never raises; a thread writes it to the journal.

One append to memory per event. What waits for the disk is bounded in bytes: beyond that it is lost, and that it was
lost is recorded as a gap as soon as there is room. Masking, packing and checksums are done in the thread.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.clock import ClockReading, monotonic_ns
from proxy.exchange import Outcome
from proxy.record.journal import Close, Gap, Kind, Open, Response, pack_block, pack_record
from proxy.record.record_mask import Payload, RecordMask
from proxy.record.segments import SegmentWriter

_log = logging.getLogger(__name__)

_RECORD_OVERHEAD_BYTES = 120
"""What a record costs in memory beside its payload (tuple, numbers, bytes object), about."""
_WRITE_BYTES = 1 << 20
"""About so much (and what `_TAKEN_AT_ONCE` reads hold) is written at once: more would only cost memory."""
_TAKEN_AT_ONCE = 16
"""So many records are taken from the queue in one go, without a look at how long they are."""
_HASTE_BYTES = 2 << 20
"""So much is written at once, while it and the memory it lies in are still in the processor's caches."""
_RETRY_S = 0.25
_PACE_BYTES = 12 << 20
"""When so much waits for the disk, a flood is slowed down: the rest of the memory is for a disk that stands still."""
_PATIENCE_NS = 1_000_000_000
"""A disk that has taken nothing for so long is not waited for."""
_IDLE_ROTATION_S = 2.0
"""A segment that has rested so long is ended, so that the back can delete it."""

# Looking a member up in an enum costs more than a name, and these are needed for every read.
_OPEN, _CLIENT_DATA, _UPSTREAM_DATA = Kind.OPEN, Kind.CLIENT_DATA, Kind.UPSTREAM_DATA
_RESPONSE, _CLOSE = Kind.RESPONSE, Kind.CLOSE

_Waiting = tuple[Kind, int, int, Payload, int]
"""kind, exchange, monotonic ns, payload, what it counts for in memory."""


@dataclass(slots=True)
class _Loss:
    """What could not be recorded since the last gap record, of one exchange (or of the run: exchange 0)."""

    since_ns: int
    last_ns: int = 0
    exchanges: int = 0
    records: int = 0
    client_bytes: int = 0
    upstream_bytes: int = 0
    is_head_lost: bool = False


class Recording:
    """The recording of one exchange. Every method appends to memory and returns."""

    __slots__ = (
        "_recorder",
        "client_bytes",
        "exchange",
        "first_byte_ns",
        "is_closed",
        "request_complete_ns",
        "upstream_bytes",
    )

    def __init__(self, recorder: "Recorder", exchange: int) -> None:
        self._recorder = recorder
        self.exchange = exchange
        """Its number within the run, from 1; 0 where its beginning was lost, and so all of it is."""
        self.client_bytes = 0
        """Body bytes read so far, recorded or not."""
        self.upstream_bytes = 0
        self.request_complete_ns = 0
        """When the request's last byte was read; 0 as long as it was not."""
        self.first_byte_ns = 0
        """When the final response's first byte was read; 0 as long as it was not."""
        self.is_closed = False

    def client_data(self, at_ns: int, data: bytes) -> bool:
        """Body bytes of one read from the client; gives whether the recorder is behind."""
        size = len(data)
        self.client_bytes += size
        recorder = self._recorder
        waiting = recorder.put(_CLIENT_DATA, self.exchange, at_ns, data, size)
        return not 0 <= waiting <= recorder.pace_bytes and recorder.is_behind()

    def upstream_data(self, at_ns: int, data: bytes) -> bool:
        """The same of one read from the upstream (or what the proxy answers)."""
        size = len(data)
        self.upstream_bytes += size
        recorder = self._recorder
        waiting = recorder.put(_UPSTREAM_DATA, self.exchange, at_ns, data, size)
        return not 0 <= waiting <= recorder.pace_bytes and recorder.is_behind()

    def response(self, at_ns: int, received_head: bytes, sent_head: bytes) -> None:
        """The final response's head, as received (b"": the proxy answers) and as sent; `at_ns` is its first byte's."""
        self.first_byte_ns = at_ns
        size = len(received_head) + len(sent_head)
        self._recorder.put(_RESPONSE, self.exchange, at_ns, Response(received_head, sent_head), size)

    def lines(self, kind: Kind, at_ns: int, lines: bytes) -> None:
        """An `INTERIM` head or trailers."""
        self._recorder.put(kind, self.exchange, at_ns, lines, len(lines))

    def close(self, outcome: Outcome, error: str, done_ns: int) -> None:
        """The end. It is taken in beyond the limit too: there is one for each open exchange, no more."""
        self.is_closed = True
        if self.exchange:
            close = Close(
                outcome,
                error,
                self.request_complete_ns,
                self.first_byte_ns,
                done_ns,
                self.client_bytes,
                self.upstream_bytes,
            )
            self._recorder.put(_CLOSE, self.exchange, done_ns, close, 0)


class Recorder:
    """Writes the journal of one run of the front.

    Raises `OSError` only from its constructor, when the journal cannot be begun at all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        memory_bytes: int,
        batch_s: float,
        segment_bytes: int,
        key: bytes,
        masked_headers: tuple[str, ...],
        masked_websocket_fields: tuple[str, ...],
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin the journal.

        Args:
            folder: where the segments go.
            memory_bytes: how much may wait for the disk.
            batch_s: how long records are gathered before they are written.
            segment_bytes: size at which the next segment begins.
            key: of the digests that stand in a secret's place.
            masked_headers: names of the header fields whose values are secret.
            masked_websocket_fields: names of the JSON fields that are secret in a WebSocket's first message.
            on_written: called from the writing thread after each batch.
        """
        self.started = ClockReading.now()
        self._limit = memory_bytes
        self.pace_bytes = min(memory_bytes // 2, _PACE_BYTES)
        """Where no more than this waits for the disk, the recorder is not behind."""
        self._haste_bytes = min(self.pace_bytes // 2, _HASTE_BYTES)
        self._batch_s = batch_s
        self._segments = SegmentWriter(folder, self.started, segment_bytes)
        self._mask = RecordMask(masked_headers, masked_websocket_fields, key)
        self._reason = ""
        self._is_losing = False
        self._on_written = on_written
        self._queue: deque[_Waiting] = deque()
        self._add = self._queue.append
        self._put_bytes = 0  # written by the loop alone
        self._written_bytes = 0  # written by the thread alone
        self._patient_until_ns = monotonic_ns() + _PATIENCE_NS
        self._exchanges = 0
        self._losses: dict[int, _Loss] = {}
        self._losses_lock = threading.Lock()
        self._is_awake = False
        self._wake = threading.Event()
        self._is_stopping = False
        self._is_hurried = False
        self._haste = threading.Lock()  # the thread waits for it; let go of when there is haste
        self._haste.acquire()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def open(self, head: Open, at_ns: int) -> Recording:
        """Begin the recording of an exchange; `at_ns` is the time of the request's first byte."""
        self._exchanges += 1
        size = len(head.received_head) + len(head.forwarded_head)
        is_recorded = self.put(_OPEN, self._exchanges, at_ns, head, size) >= 0
        return Recording(self, self._exchanges if is_recorded else 0)

    def mask_malformed(self, head: bytes) -> bytes:
        """What should have been a head, with its secrets masked."""
        return self._mask.malformed(head)

    def put(self, kind: Kind, exchange: int, at_ns: int, payload: Payload, size: int) -> int:
        """Take one record; gives how many bytes wait for the disk, -1 if it was counted as lost for want of room."""
        size += _RECORD_OVERHEAD_BYTES
        put_bytes = self._put_bytes + size
        waiting = put_bytes - self._written_bytes
        if (waiting > self._limit and kind is not _CLOSE) or not exchange:
            self.lose(0 if kind is _OPEN else exchange, kind, at_ns, size - _RECORD_OVERHEAD_BYTES)
            return -1
        self._put_bytes = put_bytes
        self._add((kind, exchange, at_ns, payload, size))
        if not self._is_awake:
            self._wake_up()
        elif waiting > self._haste_bytes and not self._is_hurried:
            self._hurry()
        return waiting

    def _wake_up(self) -> None:
        self._is_awake = True
        self._wake.set()

    def _hurry(self) -> None:
        """Have written at once what is gathered."""
        self._is_hurried = True
        with contextlib.suppress(RuntimeError):  # it was let go of already
            self._haste.release()

    def is_behind(self) -> bool:
        """Whether so much waits for the disk that a flood should slow down; never because the disk stands still."""
        return self._put_bytes - self._written_bytes > self.pace_bytes and monotonic_ns() < self._patient_until_ns

    def lose(self, exchange: int, kind: Kind, at_ns: int, size: int) -> None:
        """Count what cannot be recorded; `exchange` 0 stands for exchanges of which nothing is recorded."""
        with self._losses_lock:
            loss = self._losses.get(exchange)
            if loss is None:
                loss = self._losses[exchange] = _Loss(at_ns)
            loss.last_ns = at_ns
            loss.records += 1
            match kind:
                case Kind.OPEN:
                    loss.exchanges += 1
                case Kind.CLIENT_DATA:
                    loss.client_bytes += size
                case Kind.UPSTREAM_DATA:
                    loss.upstream_bytes += size
                case _:
                    loss.is_head_lost = True
        if not self._is_awake:
            self._wake_up()

    def stop(self, timeout_s: float) -> bool:
        """End the run in order: write what waits, then the last record. False if that took too long."""
        self._put_bytes += _RECORD_OVERHEAD_BYTES
        self._queue.append((Kind.END, 0, monotonic_ns(), b"", _RECORD_OVERHEAD_BYTES))
        self._is_stopping = True
        self._wake.set()
        self._hurry()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            if not self._has_work():
                self._is_awake = False
                # What was put just before that did not wake this thread: look again.
                if not self._has_work() and not self._wake.wait(
                    _IDLE_ROTATION_S if self._segments.has_records else None
                ):
                    self._segments.rotate_quietly()
                    self._on_written()
                    continue
                self._is_awake = True
                self._wake.clear()
            if not self._is_stopping:
                self._haste.acquire(timeout=self._batch_s)
            self._is_hurried = False
            self._write_queue()
            self._write_gaps()
            self._on_written()
            if self._is_stopping and not self._queue:
                self._segments.close()
                return

    def _has_work(self) -> bool:
        return bool(self._queue or self._losses or self._is_stopping)

    def _write_queue(self) -> None:
        queue = self._queue
        waiting = len(queue)  # what comes meanwhile is for the next batch
        while waiting:
            records: list[_Waiting] = []
            taken = 0
            while waiting and taken < _WRITE_BYTES:
                some = [queue.popleft() for _ in range(min(waiting, _TAKEN_AT_ONCE))]
                waiting -= len(some)
                taken += sum([record[4] for record in some])
                records += some
            self._write_records(records)
            self._written_bytes += taken
            self._patient_until_ns = monotonic_ns() + _PATIENCE_NS

    def _write_records(self, records: list[_Waiting]) -> None:
        """Secrets masked, as one block, or more where what was compressed is recorded as it was before that."""
        masked: list[_Waiting] = []
        size = start = 0
        for place in [place for place, record in enumerate(records) if record[0] is not _UPSTREAM_DATA]:
            masked += records[start:place]
            start = place + 1
            kind, exchange, at_ns, payload, _ = records[place]
            try:
                ready = self._mask.ready(kind, exchange, at_ns, payload)
            except Exception:  # noqa: BLE001 - one exchange's oddity must not end the recording of all others
                _log.exception("exchange %d of this run: a record cannot be packed", exchange)
                self.lose(exchange, kind, at_ns, len(payload) if isinstance(payload, bytes) else 0)
                continue
            for record in ready:
                size += len(record[3])
                if size > _WRITE_BYTES:
                    self._write_block(masked)
                    masked, size = [], len(record[3])
                masked.append(record)
        self._write_block(masked + records[start:])

    def _write_block(self, records: list[_Waiting]) -> None:
        if records:
            kinds, exchanges, times_ns, payloads, _ = zip(*records, strict=True)
            self._write(pack_block(kinds, exchanges, times_ns, payloads))

    def _write(self, parts: list[bytes]) -> None:
        """Write, for as long as it takes; meanwhile the queue fills up to its limit and no further."""
        is_waiting = False
        while True:
            try:
                if not self._segments.append(parts):
                    _log.warning("a journal segment was deleted before it was taken in; what it held is lost")
                    self._reason = "a journal segment was deleted"
                    self.lose(0, Kind.GAP, monotonic_ns(), 0)
                break
            except OSError as error:
                if not is_waiting:
                    is_waiting = True
                    self._reason = f"the journal could not be written: {error.strerror or error}"
                    _log.warning("recording waits: %s; forwarding goes on", self._reason)
                time.sleep(_RETRY_S)
        if is_waiting:
            _log.info("recording goes on")

    def _write_gaps(self) -> None:
        with self._losses_lock:
            losses, self._losses = self._losses, {}
        if not losses:
            if self._is_losing:
                _log.info("everything is recorded again")
            self._is_losing = False
            self._reason = ""
            return
        reason = self._reason or "more than record.memory_bytes waited for the disk"
        parts: list[bytes] = []
        for exchange, loss in losses.items():
            gap = Gap(
                loss.since_ns,
                loss.exchanges,
                loss.records,
                loss.client_bytes,
                loss.upstream_bytes,
                loss.is_head_lost,
                reason=reason,
            )
            parts += pack_record(Kind.GAP, exchange, loss.last_ns, gap.pack())
        if not self._is_losing:
            self._is_losing = True
            _log.warning("not everything can be recorded: %s; the gaps are", reason)
        self._write(parts)
