"""The journal's format: append-only segments of checksummed records, written by the front, taken in by the back.

Facts
-----
* A trace `T` has its segments in the folder `T.journal`, named `<run>-<segment>.seg`, so that sorting the names
  gives the order of writing: `run` is the wall time in ns at which the front started, 20 digits; `segment` counts
  from 0, 8 digits.
* A segment starts with a header (`SEGMENT_HEADER`), then records follow without padding. All numbers are little-endian.
* A record is `RECORD_HEADER` (payload length, CRC-32, kind, exchange, monotonic ns) and its payload. The CRC-32 covers
  the header after the CRC field and the payload.
* What was gathered between two writes is one record, a `BLOCK` (since version 2): its payload is how many records it
  holds, their kinds, payload lengths, exchanges and times, each as one column, then their payloads. `scan` gives them.
* `exchange` counts from 1 within the run; 0 means the run itself.
* A torn tail (a killed process, a full disk) ends a segment: `scan` stops before it and says so. A record whose
  checksum fails is skipped and reported, since its length still leads to the next one.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from pathlib import Path

from zlib_ng.zlib_ng import crc32

from proxy.clock import ClockReading
from proxy.exchange import Outcome

MAGIC = b"PXYLOG\r\n"
VERSION = 2
_READABLE_VERSIONS = (1, 2)
SEGMENT_HEADER = struct.Struct("<8sHxx16sIqq")
"""magic, version, run id (16 random bytes), segment number, wall ns and monotonic ns at the run's start."""
RECORD_HEADER = struct.Struct("<IIBQq")
"""payload length, CRC-32, kind, exchange, monotonic ns."""
_UNCHECKED_HEADER = struct.Struct("<II")
_CHECKED_HEADER = struct.Struct("<BQq")
_COUNT = struct.Struct("<I")
MAX_BLOCK_RECORDS = 1 << 16
"""No writer puts more into one."""
_COLUMNS_BYTES = 21
"""What one record takes in a block beside its payload."""
_JOINED_BYTES = 16 * 1024
"""Copying less costs less than a second call for the checksum."""
MAX_PAYLOAD_BYTES = 1 << 28
"""No writer makes a longer record; a longer length is a damaged header."""


class Kind(IntEnum):
    """What a record tells. The numbers are the journal's format."""

    OPEN = 1
    """A request's head was read: `Open`. Its time is that of the request's first byte."""
    CLIENT_DATA = 2
    """Body bytes of one read from the client (transfer framing removed); after an upgrade, the tunnel's bytes."""
    UPSTREAM_DATA = 3
    """The same from the upstream."""
    RESPONSE = 4
    """The final response's head: `Response`."""
    INTERIM = 5
    """A 1xx response's head, as received."""
    CLIENT_TRAILERS = 6
    """Trailer lines after a chunked request body, as received."""
    UPSTREAM_TRAILERS = 7
    CLOSE = 8
    """The exchange ended: `Close`. Nothing of this exchange follows, a `GAP` excepted."""
    GAP = 9
    """Something could not be recorded: `Gap`."""
    END = 10
    """The run ended in order; no payload."""
    BLOCK = 11
    """Records that were written together; its exchange is 0, its time that of the last of them."""


def journal_folder(trace: Path) -> Path:
    """Where the segments of a trace lie: beside it."""
    return trace.with_name(trace.name + ".journal")


def segment_name(run_wall_ns: int, segment: int) -> str:
    """The file name of a segment; names sort in the order of writing."""
    return f"{run_wall_ns:020d}-{segment:08d}.seg"


def pack_record(kind: int, exchange: int, at_ns: int, payload: bytes) -> tuple[bytes, bytes]:
    """A record in two parts, to be written one after the other."""
    checked = _CHECKED_HEADER.pack(kind, exchange, at_ns)
    if len(payload) < _JOINED_BYTES:
        checked += payload
        return _UNCHECKED_HEADER.pack(len(payload), crc32(checked)), checked
    crc = crc32(payload, crc32(checked))
    return _UNCHECKED_HEADER.pack(len(payload), crc) + checked, payload


def pack_block(
    kinds: Sequence[int], exchanges: Sequence[int], times_ns: Sequence[int], payloads: Sequence[bytes]
) -> list[bytes]:
    """A `BLOCK` of at least one record, given as columns, in parts to be written one after the other."""
    count = len(payloads)
    lengths = [len(payload) for payload in payloads]
    size = sum(lengths)
    columns = struct.pack(_columns(count), count, *kinds, *lengths, *exchanges, *times_ns)
    head = _CHECKED_HEADER.pack(Kind.BLOCK, 0, times_ns[-1]) + columns
    if size < count * _JOINED_BYTES:
        checked = b"".join((head, *payloads))
        return [_UNCHECKED_HEADER.pack(len(columns) + size, crc32(checked)), checked]
    crc = crc32(head)
    for payload in payloads:
        crc = crc32(payload, crc)
    return [_UNCHECKED_HEADER.pack(len(columns) + size, crc) + head, *payloads]


def unpack_block(data: bytes, start: int, end: int) -> Iterable[tuple[int, int, int, bytes]]:
    """The records of the `BLOCK` whose payload is `data[start:end]`: kind, exchange, time, payload of each.

    Raises:
        ValueError: no writer made it.
    """
    (count,) = _COUNT.unpack_from(data, start) if end - start >= _COUNT.size else (0,)
    first = start + _COUNT.size + count * _COLUMNS_BYTES
    if not 0 < count <= MAX_BLOCK_RECORDS or first > end:
        raise ValueError(f"a block of {count} records in {end - start} bytes")
    numbers = struct.unpack_from(_columns(count), data, start)
    kinds, lengths = numbers[1 : count + 1], numbers[count + 1 : 2 * count + 1]
    bounds = list(accumulate(lengths, initial=first))
    if bounds[-1] != end:
        raise ValueError(f"a block of {end - start} bytes, whose records are {bounds[-1] - start}")
    payloads = [data[after:before] for after, before in pairwise(bounds)]
    return zip(kinds, numbers[2 * count + 1 : 3 * count + 1], numbers[3 * count + 1 :], payloads, strict=True)


def _columns(count: int) -> str:
    return f"<I{count}B{count}I{count}Q{count}q"


# --- payloads ---------------------------------------------------------------------------------------------------------

_OPEN = struct.Struct("<QB5I")
_RESPONSE = struct.Struct("<2I")
_CLOSE = struct.Struct("<BqqqQQ")
_GAP = struct.Struct("<qQQQQBB")
_OUTCOMES = tuple(Outcome)


def _masked_heads(mask: Callable[[bytes], bytes], received: bytes, passed_on: bytes) -> tuple[bytes, bytes]:
    """Both masked; what is passed on holds no secret that was not received, so it is seldom looked through."""
    masked = mask(received)
    return masked, passed_on if masked is received else mask(passed_on)


@dataclass(slots=True)
class Open:
    """A request's head. Heads are whole lines with CRLF, the empty last line left out; secrets are masked."""

    connection: int
    """Counts the run's client connections from 1; requests of one kept-alive connection share it."""
    client: str
    """`address:port` of the client."""
    upstream: str
    """The configured upstream's name; empty where none was chosen (the proxy answered by itself)."""
    upstream_url: str
    received_head: bytes
    """As the client sent it; for a malformed request, empty: its bytes follow as `CLIENT_DATA`."""
    forwarded_head: bytes
    """As it went to the upstream; empty where nothing was forwarded."""
    is_websocket: bool = False
    """The client asked for an upgrade to a WebSocket."""

    def pack(self, mask: Callable[[bytes], bytes] = bytes) -> bytes:
        """The payload of an `OPEN` record; `mask` is applied to the heads."""
        client, upstream, url = self.client.encode(), self.upstream.encode(), self.upstream_url.encode()
        received, forwarded = _masked_heads(mask, self.received_head, self.forwarded_head)
        sizes = len(client), len(upstream), len(url), len(received), len(forwarded)
        start = _OPEN.pack(self.connection, self.is_websocket, *sizes)
        return b"".join((start, client, upstream, url, received, forwarded))

    @classmethod
    def unpack(cls, payload: bytes) -> "Open":
        """Read the payload of an `OPEN` record."""
        connection, is_websocket, client, upstream, url, received, _ = _OPEN.unpack_from(payload)
        upstream_at = _OPEN.size + client
        url_at = upstream_at + upstream
        received_at = url_at + url
        forwarded_at = received_at + received
        return cls(
            connection,
            payload[_OPEN.size : upstream_at].decode(),
            payload[upstream_at:url_at].decode(),
            payload[url_at:received_at].decode(),
            payload[received_at:forwarded_at],
            payload[forwarded_at:],
            bool(is_websocket),
        )


@dataclass(slots=True)
class Response:
    """A final response's head, twice; same form as in `Open`."""

    received_head: bytes
    """As the upstream sent it; empty where the proxy answered by itself."""
    sent_head: bytes
    """As it went to the client."""

    def pack(self, mask: Callable[[bytes], bytes] = bytes) -> bytes:
        """The payload of a `RESPONSE` record; `mask` is applied to the heads."""
        received, sent = _masked_heads(mask, self.received_head, self.sent_head)
        return _RESPONSE.pack(len(received), len(sent)) + received + sent

    @classmethod
    def unpack(cls, payload: bytes) -> "Response":
        """Read the payload of a `RESPONSE` record."""
        received, _ = _RESPONSE.unpack_from(payload)
        return cls(payload[8 : 8 + received], payload[8 + received :])


@dataclass(slots=True)
class Close:
    """How an exchange ended. Times are monotonic ns; 0 where the moment never came."""

    outcome: Outcome
    error: str
    """What went wrong, in words for a person; empty where nothing did."""
    request_complete_ns: int
    """The request's last byte was read."""
    first_byte_ns: int
    """The first byte of the final response's head was read (or made, where the proxy answered)."""
    done_ns: int
    client_bytes: int
    """Body bytes (or tunnel bytes) read from the client, recorded or not."""
    upstream_bytes: int

    def pack(self) -> bytes:
        """The payload of a `CLOSE` record."""
        return (
            _CLOSE.pack(
                _OUTCOMES.index(self.outcome),
                self.request_complete_ns,
                self.first_byte_ns,
                self.done_ns,
                self.client_bytes,
                self.upstream_bytes,
            )
            + self.error.encode()
        )

    @classmethod
    def unpack(cls, payload: bytes) -> "Close":
        """Read the payload of a `CLOSE` record."""
        outcome, complete, first, done, client, upstream = _CLOSE.unpack_from(payload)
        return cls(_OUTCOMES[outcome], payload[_CLOSE.size :].decode(), complete, first, done, client, upstream)


@dataclass(frozen=True, slots=True)
class Gap:
    """What could not be recorded, of one exchange or (record's exchange 0) of whole exchanges."""

    since_ns: int
    """Monotonic ns of the first thing lost; the record's own time is that of the last."""
    lost_exchanges: int
    """Exchanges of which nothing at all is recorded (0 where the record names its exchange)."""
    lost_records: int
    client_bytes: int
    """Body bytes lost, by side."""
    upstream_bytes: int
    is_head_lost: bool = False
    """A head (1xx or final) or trailers of this exchange are among the lost."""
    is_close_lost: bool = False
    """The end of this exchange is among the lost: nothing more of it will come."""
    reason: str = ""

    def pack(self) -> bytes:
        """The payload of a `GAP` record."""
        return (
            _GAP.pack(
                self.since_ns,
                self.lost_exchanges,
                self.lost_records,
                self.client_bytes,
                self.upstream_bytes,
                self.is_head_lost,
                self.is_close_lost,
            )
            + self.reason.encode()
        )

    @classmethod
    def unpack(cls, payload: bytes) -> "Gap":
        """Read the payload of a `GAP` record."""
        since, exchanges, records, client, upstream, head, close = _GAP.unpack_from(payload)
        return cls(since, exchanges, records, client, upstream, bool(head), bool(close), payload[_GAP.size :].decode())


# --- segments ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of its run."""

    run_id: bytes
    """16 random bytes, the same in every segment of a run."""
    segment: int
    started: ClockReading

    def pack(self) -> bytes:
        """The first bytes of a segment."""
        return SEGMENT_HEADER.pack(
            MAGIC, VERSION, self.run_id, self.segment, self.started.wall_ns, self.started.monotonic_ns
        )

    @classmethod
    def unpack(cls, data: bytes) -> "SegmentHeader":
        """Read a segment's first bytes.

        Raises:
            ValueError: they are too few, or not those of a segment that this version can read.
        """
        if len(data) < SEGMENT_HEADER.size:
            raise ValueError("a segment's header is cut short")
        magic, version, run_id, segment, wall_ns, monotonic_ns = SEGMENT_HEADER.unpack_from(data)
        if magic != MAGIC or version not in _READABLE_VERSIONS:
            raise ValueError(f"not a segment of journal version {VERSION} or before: {magic!r}, version {version}")
        return cls(run_id, segment, ClockReading(wall_ns, monotonic_ns))


@dataclass(frozen=True, slots=True)
class Record:
    """One record read back."""

    kind: int
    exchange: int
    at_ns: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment that is not as it was written."""

    offset: int
    size: int


def scan(data: bytes, offset: int = 0) -> Iterator[tuple[Record | Damage, int]]:
    """The whole records in `data` from `offset` on, each with the offset after it.

    Stops before a record that is cut short (it may still be on its way). A record with a wrong checksum comes as
    `Damage`, so does a block that no writer made. A length no writer makes is damage up to the end of `data`. The
    records of a block come one by one, each with the offset after the block.
    """
    end = len(data)
    header_size = RECORD_HEADER.size
    while offset + header_size <= end:
        length, crc, kind, exchange, at_ns = RECORD_HEADER.unpack_from(data, offset)
        if length > MAX_PAYLOAD_BYTES:
            yield Damage(offset, end - offset), end
            return
        after = offset + header_size + length
        if after > end:
            return
        start = offset + header_size
        if crc32(data[offset + 8 : after]) != crc:
            yield Damage(offset, after - offset), after
        elif kind != Kind.BLOCK:
            yield Record(kind, exchange, at_ns, data[start:after]), after
        else:
            try:
                records = unpack_block(data, start, after)
            except ValueError:
                yield Damage(offset, after - offset), after
            else:
                yield from ((Record(*record), after) for record in records)
        offset = after
