"""Chunks share their frame and their row: streamed events differ in a few characters only.

Two consecutive events show what they have in common; that becomes a frame (head, tail), and a chunk is what stands
between. Chunks of one frame that follow each other share a row of up to `RUN_BYTES`: what is above 1,002 bytes in a row
of a table without rowid takes a page of its own (https://www.sqlite.org/fileformat.html, section 1.6).
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from proxy.exchange import Side

RUN_BYTES = 950
MAX_IN_RUN_CHARACTERS = 400
"""A longer middle begins a row."""
MAX_MIDDLE_BYTES = 1000
"""A longer one is a frame of its own: to find a row among such rows, SQLite reads them whole."""
MIN_SHARED_BYTES = 48
"""A frame has to save so many bytes in each chunk."""
MAX_COMPARED_BYTES = 16384
_RECENT_FRAMES = 6
_HEAD_ANCHOR_BYTES, _TAIL_ANCHOR_BYTES = 12, 10

RunRow = tuple[int, int, int, int, int | None, int | None, str | bytes | int, str | None]
"""exchange_id, side, seq, at_us, opcode, frame_id, middle, more."""

_encode = msgspec.json.Encoder().encode


def as_stored(data: bytes | memoryview) -> str | bytes:
    """Bytes as SQLite gets them: TEXT where they are UTF-8 without NUL (tools stop reading there), BLOB otherwise."""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        return bytes(data)
    return text if "\0" not in text else bytes(data)


class ChunkRuns:
    """The chunks of one side of one exchange, as rows. The last row may still grow: it is then written again."""

    __slots__ = (
        "_at_us",
        "_chunk_bytes",
        "_exchange_id",
        "_frame_id",
        "_middle",
        "_more",
        "_opcode",
        "_seq",
        "_side",
        "_size",
        "seq",
    )

    def __init__(self, exchange_id: int, side: int, seq: int = 0) -> None:
        """`seq` is the next chunk's number."""
        self._exchange_id = exchange_id
        self._side = side
        self.seq = seq
        self._seq = -1  # of the first chunk of the open row; -1: no row is open
        self._at_us = 0
        self._opcode: int | None = None
        self._frame_id: int | None = None
        self._middle: str | bytes | int = 0
        self._more: list[bytes] = []  # the later chunks as JSON
        self._size = 0
        self._chunk_bytes = 32  # a guess at what one more takes

    def add(
        self, rows: list[RunRow], at_us: int, middle: str | bytes | int, opcode: int | None, frame_id: int | None
    ) -> None:
        """Take one chunk; a row that can grow no more goes to `rows`."""
        if (
            self._seq >= 0
            and self._frame_id == frame_id
            and self._opcode == opcode
            and (isinstance(middle, int) or (isinstance(middle, str) and len(middle) <= MAX_IN_RUN_CHARACTERS))
        ):
            later = _encode((at_us - self._at_us, middle))
            size = self._size + len(later) + 1
            if size <= RUN_BYTES:
                self._more.append(later)
                self._size = size
                self.seq += 1
                return
        self.flush(rows)
        self._seq = self.seq
        self._at_us, self._middle, self._opcode, self._frame_id = at_us, middle, opcode, frame_id
        self._more = []
        self._size = 0 if isinstance(middle, int) else len(middle)
        self.seq += 1

    def add_some(
        self, rows: list[RunRow], times_us: Sequence[int], middles: Sequence[str], opcode: int | None, frame_id: int
    ) -> None:
        """The same as `add` for each, but as many at once as probably fit the row. No middle is too long for a row."""
        start, end = 0, len(middles)
        while start < end:
            fitting = 0
            if self._seq >= 0 and self._frame_id == frame_id and self._opcode == opcode:
                fitting = (RUN_BYTES - self._size) // self._chunk_bytes
            if fitting > 1:
                stop = min(end, start + fitting)
                some = zip(times_us[start:stop], middles[start:stop], strict=True)
                later = _encode([(at_us - self._at_us, middle) for at_us, middle in some])
                self._chunk_bytes = len(later) // (stop - start) + 1
                size = self._size + len(later) - 1
                if size <= RUN_BYTES:
                    self._more.append(later[1:-1])
                    self._size = size
                    self.seq += stop - start
                    start = stop
                    continue
            self.add(rows, times_us[start], middles[start], opcode, frame_id)
            start += 1

    def flush(self, rows: list[RunRow]) -> None:
        """Put the open row as it is now into `rows`."""
        if self._seq >= 0:
            more = (b"[%b]" % b",".join(self._more)).decode() if self._more else None
            key = self._exchange_id, self._side, self._seq
            rows.append((*key, self._at_us, self._opcode, self._frame_id, self._middle, more))


class Seams:
    """Where frames of earlier streams were parted: lets the first event of the next one show its frame at once."""

    def __init__(self) -> None:
        self._seams: list[tuple[bytes, bytes]] = []

    def remember(self, head: bytes, tail: bytes) -> None:
        """A frame proved useful."""
        seam = (head[-_HEAD_ANCHOR_BYTES:], tail[:_TAIL_ANCHOR_BYTES])
        if seam not in self._seams:
            self._seams = [seam, *self._seams[: _RECENT_FRAMES - 1]]

    def part(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Head and tail of an event, if it parts as an earlier one did."""
        for head_anchor, tail_anchor in self._seams:
            start = data.find(head_anchor) + len(head_anchor)
            end = data.rfind(tail_anchor)
            if len(head_anchor) <= start <= end and start + len(data) - end >= max(MIN_SHARED_BYTES, len(data) // 2):
                return data[:start], data[end:]
        return None


class Frames:
    """The frames of one stream: `part` gives (frame id, middle)."""

    __slots__ = ("_frames", "_guess", "_make", "_may_guess", "_previous", "_seams")

    def __init__(self, make: Callable[[str | bytes, str | bytes], int], seams: Seams) -> None:
        """`make` stores a frame, as `as_stored` gives it, and gives its id."""
        self._make = make
        self._seams = seams
        self._frames: list[tuple[bytes, bytes, int]] = []
        self._previous = b""
        self._guess = -1  # a frame made from a seam alone, not yet met again
        self._may_guess = True

    def part(self, data: bytes) -> tuple[int | None, bytes]:
        """The chunk's frame, if it has one, and what is its own."""
        if len(data) > MAX_COMPARED_BYTES:
            return None, data
        for index, (head, tail, frame_id) in enumerate(self._frames):
            if data.startswith(head) and data.endswith(tail) and len(data) >= len(head) + len(tail):
                if index:
                    self._frames.insert(0, self._frames.pop(index))
                if frame_id == self._guess:
                    self._guess = -1
                self._previous = data
                return frame_id, data[len(head) : len(data) - len(tail)]
        return self._part_anew(data)

    def part_some(self, reads: Sequence[bytes], together: bytes) -> tuple[int, list[str]] | None:
        """The frame that all have in common, and what is each one's own; None where that takes one look at each."""
        if not self._frames:
            return None
        head, tail, frame_id = self._frames[0]
        start, end = len(head), len(tail)
        middles = [data[start : len(data) - end] for data in reads]
        if b"".join((head, (tail + head).join(middles), tail)) != together:
            return None
        longest = max([len(middle) for middle in middles])
        if longest > MAX_IN_RUN_CHARACTERS or start + longest + end > MAX_COMPARED_BYTES:
            return None
        stored = as_stored(b"\n".join(middles))
        texts = stored.split("\n") if isinstance(stored, str) else []
        if len(texts) != len(middles):
            return None
        if frame_id == self._guess:
            self._guess = -1
        self._previous = reads[-1]
        return frame_id, texts

    def whole(self, data: bytes) -> tuple[int, str | bytes]:
        """A frame that is this chunk, and the middle without bytes that goes with it."""
        stored = as_stored(data)
        return self._make(stored, ""), "" if isinstance(stored, str) else b""

    def _part_anew(self, data: bytes) -> tuple[int | None, bytes]:
        previous, self._previous = self._previous, data
        if self._guess >= 0:  # the seam misled: what lies beside the middle changes with each event
            self._guess, self._may_guess = -1, False
        frame = self._seams.part(data) if self._may_guess else None
        is_guess = frame is not None
        if frame is None:
            frame = _shared(previous, data)
        if frame is None:
            return None, data
        head, tail = frame
        stored_head, stored_tail = as_stored(head), as_stored(tail)
        if not isinstance(stored_head, str) or not isinstance(stored_tail, str):
            return None, data  # a frame is text, so that a chunk is text where its middle is
        frame_id = self._make(stored_head, stored_tail)
        if is_guess:
            self._guess = frame_id
        else:
            self._seams.remember(head, tail)
        self._frames = [(head, tail, frame_id), *self._frames[: _RECENT_FRAMES - 1]]
        return frame_id, data[len(head) : len(data) - len(tail)]


def _shared(one: bytes, other: bytes) -> tuple[bytes, bytes] | None:
    """What two events have in common at both ends, trimmed to quotes so that no text's letters get into it."""
    if len(one) > MAX_COMPARED_BYTES or len(other) > MAX_COMPARED_BYTES:
        return None
    if b'"' not in other and b"}" not in other:  # then both ends would be trimmed to nothing
        return None
    head = other[: _shared_length(one, other)]
    head = head[: head.rfind(b'"') + 1]
    one, other = one[len(head) :], other[len(head) :]
    tail = other[len(other) - _shared_length(one[::-1], other[::-1]) :]
    start = tail.find(b'"')
    if start < 0:
        start = tail.find(b"}")
    tail = tail[start:] if start >= 0 else b""
    return (head, tail) if len(head) + len(tail) >= MIN_SHARED_BYTES else None


def _shared_length(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their start."""
    size = min(len(one), len(other))
    # The highest bit in which they differ, big end first, lies in the first byte that differs.
    differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return size - (differing.bit_length() + 7) // 8


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One socket read, or one WebSocket message or control frame."""

    side: Side
    seq: int
    """From 0, within the exchange and side."""
    at_us: int
    """Microseconds since the request's first byte."""
    opcode: int | None
    """WebSocket: 1 text, 2 binary, 8 close, 9 ping, 10 pong."""
    data: bytes | None
    """None where the body holds the bytes."""
    bytes: int


_SELECT_RUNS = """
SELECT c.seq, c.at_us, c.opcode, CAST(f.head AS BLOB), CAST(f.tail AS BLOB),
    CASE typeof(c.middle) WHEN 'integer' THEN c.middle ELSE CAST(c.middle AS BLOB) END, c.more
FROM recorded_chunks c LEFT JOIN chunk_frames f ON f.id = c.frame_id
WHERE c.exchange_id = :exchange AND c.side = :side AND c.seq >= coalesce((
    SELECT max(seq) FROM recorded_chunks WHERE exchange_id = :exchange AND side = :side AND seq <= :after + 1), 0)
ORDER BY c.seq"""


def read_chunks(connection: sqlite3.Connection, exchange_id: int, side: int, after_seq: int = -1) -> Iterator[ChunkRow]:
    """The chunks of one side, those after number `after_seq`."""
    runs = connection.execute(_SELECT_RUNS, {"exchange": exchange_id, "side": side, "after": after_seq})
    for seq, at_us, opcode, head, tail, first, more in runs:
        later = [(at_us, first)]
        if more:
            later += [(at_us + after, middle) for after, middle in msgspec.json.decode(more)]
        for number, (chunk_at_us, middle) in enumerate(later, seq):
            if number <= after_seq:
                continue
            if isinstance(middle, int):
                yield ChunkRow(Side(side), number, chunk_at_us, opcode, None, middle)
                continue
            own = middle.encode() if isinstance(middle, str) else middle
            data = own if head is None else head + own + tail
            yield ChunkRow(Side(side), number, chunk_at_us, opcode, data, len(data))
