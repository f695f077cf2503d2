"""The journal's segments as the store reads them: in order, in bounded batches, each record once.

The position (segment, offset) that `Batch` names is committed together with what was read. A segment is done with when
its end was reached and nothing can follow; only then, and after that commit, it is removed. Who dies before that has
committed the name of the first, too: of the segments in the folder those from it up to the position are read, of the
position's own so much as it says, and all others are unread.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from zlib_ng.zlib_ng import crc32

from proxy.record.journal import MAX_PAYLOAD_BYTES, RECORD_HEADER, SEGMENT_HEADER, Kind, SegmentHeader, unpack_block
from proxy.store.courtesy import STEP, give_way

BATCH_BYTES = 8 << 20
DAMAGE = 0
"""The kind of a record that stands for a damaged stretch; its payload says what is wrong."""
_BLOCK = int(Kind.BLOCK)

Records = list[tuple[int, int, int, bytes]]
"""(kind, exchange, monotonic ns, payload) each."""


@dataclass(slots=True)
class Batch:
    """What one read of the journal gave."""

    segment: str
    offset: int
    """Position after this batch."""
    size: int
    """Bytes of journal in it."""
    header: SegmentHeader | None
    """None: the segment does not tell whose it is."""
    records: Records = field(default_factory=list)
    is_full: bool = False
    """More may lie behind it already."""
    is_segment_done: bool = False
    """Nothing can follow in this segment."""
    is_run_done: bool = False
    """Nor in this run."""


class Segments:
    """The segments of one journal folder, read from a committed position on."""

    def __init__(self, folder: Path, living_run: int | None) -> None:
        """Read `folder`; the run that started at `living_run` (wall ns) may still be written (None: the newest)."""
        self.folder = folder
        self.living_run = living_run
        self._dead_runs: frozenset[int] | None = None
        self.batch_bytes = BATCH_BYTES
        self._name: str | None = None
        self._offset = 0
        self._header: SegmentHeader | None = None
        self._run = -1
        """Of the position: a run is read to its end before another."""
        self._passed: list[str] = []
        """Segments that `read_on` is done with, though that is not committed."""

    def front_is_dead(self) -> None:
        """No run that is there now is written any more; one that begins later has another front and another back."""
        if self._dead_runs is None:
            self._dead_runs = frozenset(_run_of(name) for name in self._names())

    def seek(self, segment: str | None, offset: int, first: str | None = None) -> None:
        """Go to a committed position, and remove what was taken in with it from the segment `first` on."""
        self._name, self._offset, self._header = segment, offset, None
        self._passed = []
        self._run = _run_of(segment or "")
        if segment is None:
            return
        if not (self.folder / segment).exists():
            self._name = None
        if first is not None:
            for name in self._names():
                if first <= name < segment and _run_of(name) == self._run:
                    (self.folder / name).unlink(missing_ok=True)

    def read(self) -> Batch | None:
        """The next batch; None if there is nothing new now. It may hold no records, only say that a segment is done."""
        is_dead = self._dead_runs is not None  # asked first: a segment that is made in between is of a run that lives
        names = self._names()
        if self._name is None:
            if not names:
                return None
            self._name, self._offset, self._header = names[0], 0, None
        name, run = self._name, _run_of(self._name)
        self._run = run
        # Asked before reading: the front opens the next segment only after the last byte of this one.
        is_run_over = is_dead or self._is_run_over(run, names)
        is_over = is_run_over or any(_run_of(other) == run and other > name for other in names)
        is_run_done = is_run_over and not any(_run_of(other) == run and other != name for other in names)
        with (self.folder / name).open("rb") as file:
            if self._header is None:
                start = file.read(SEGMENT_HEADER.size)
                if len(start) < SEGMENT_HEADER.size and not is_over:
                    return None
                try:
                    self._header = SegmentHeader.unpack(start)
                except ValueError as error:
                    return self._set_aside(os.fstat(file.fileno()).st_size, str(error), is_run_done=is_run_done)
            offset = max(self._offset, SEGMENT_HEADER.size)
            data = _read_records(file, offset, self.batch_bytes)
            records, size = parse(data)
            is_end = offset + size == os.fstat(file.fileno()).st_size
        batch = Batch(name, offset + size, size, self._header, records, is_full=len(data) >= self.batch_bytes)
        if is_over and (is_end or not size):
            batch.is_segment_done = True
            batch.is_run_done = is_run_done
            if not is_end:
                torn = f"the segment {name} ends inside a record ({len(data)} bytes)"
                records.append((DAMAGE, 0, 0, torn.encode()))
                batch.offset += len(data)
        elif not records:
            return None
        return batch

    def read_on(self, batch: Batch) -> Batch | None:
        """The batch after one that is not committed yet, of the same run; `seek` goes back."""
        if batch.is_segment_done:
            if batch.is_run_done or batch.header is None:
                return None
            self._passed.append(batch.segment)
            self._name = None
            if [_run_of(name) for name in self._names()[:1]] != [_run_of(batch.segment)]:
                return None
        elif not batch.is_full:
            return None
        self._offset = batch.offset
        return self.read()

    def committed(self, batch: Batch) -> None:
        """The batch is in the trace, with those before it: go on after it, and remove the segments that are done."""
        for name in self._passed:
            (self.folder / name).unlink(missing_ok=True)
        self._passed = []
        self._offset = batch.offset
        if batch.is_segment_done:
            path = self.folder / batch.segment
            if batch.header is None:
                if path.exists():
                    path.replace(path.with_name(path.name + ".unreadable"))
            else:
                path.unlink(missing_ok=True)
            self._name = None

    def waiting_bytes(self) -> int:
        """What is not committed yet of all segments; 0 where that cannot be found out."""
        try:
            sizes = [(self.folder / name).stat().st_size for name in self._names()]
        except OSError:  # `read` will tell
            return 0
        return sum(sizes) - (self._offset if self._name is not None else 0)

    def _names(self) -> list[str]:
        try:
            names = sorted(path.name for path in self.folder.iterdir() if path.suffix == ".seg")
        except FileNotFoundError:
            return []
        if self._passed:
            names = [name for name in names if name not in self._passed]
        if self._dead_runs is not None:
            names = [name for name in names if _run_of(name) in self._dead_runs]
        # The run that may still be written comes last, even if the clock was set back before it started.
        living = self.living_run
        return sorted(names, key=lambda name: (_run_of(name) != self._run, _run_of(name) == living))

    def _is_run_over(self, run: int, names: list[str]) -> bool:
        return run != (self.living_run if self.living_run is not None else max(map(_run_of, names)))

    def _set_aside(self, size: int, reason: str, *, is_run_done: bool) -> Batch:
        """A segment that cannot be read at all: passed over, kept under another name, told as a gap."""
        assert self._name is not None
        batch = Batch(self._name, size, 0, None, is_segment_done=True, is_run_done=is_run_done)
        if self._offset < size or not size:  # not told yet
            batch.records.append((DAMAGE, 0, 0, f"the segment {self._name} is set aside: {reason}".encode()))
        return batch


def _read_records(file: BinaryIO, offset: int, size: int) -> bytes:
    """So many bytes from `offset` on, or as many as the first record there has."""
    file.seek(offset)
    data = file.read(size)
    if len(data) >= RECORD_HEADER.size:
        (length,) = struct.unpack_from("<I", data)
        missing = RECORD_HEADER.size + length - len(data)
        if missing > 0 and length <= MAX_PAYLOAD_BYTES:
            data += file.read(missing)
    return data


def parse(data: bytes) -> tuple[Records, int]:
    """The whole records at the start of `data` and how many bytes they are; neighbouring damage comes as one."""
    records: Records = []
    offset = 0
    while True:
        offset = _parse_good(data, records, offset)
        damaged_from = offset
        while (after := _after_damage(data, offset)) is not None:
            offset = after
        if offset == damaged_from:
            return records, offset
        records.append((DAMAGE, 0, 0, b"%d bytes of the journal are damaged" % (offset - damaged_from)))


def _parse_good(data: bytes, records: Records, offset: int) -> int:
    """Add the records from `offset` on that are whole and good; gives the offset after them."""
    view = memoryview(data)
    unpack, header_size, add = RECORD_HEADER.unpack_from, RECORD_HEADER.size, records.append
    end = len(data)
    while True:
        for _ in range(STEP):
            if offset + header_size > end:
                return offset
            length, crc, kind, exchange, at_ns = unpack(data, offset)
            start = offset + header_size
            after = start + length
            if after > end or crc32(view[offset + 8 : after]) != crc:
                return offset
            if kind == _BLOCK:
                _add_block(data, start, after, records)
                give_way()
            else:
                add((kind, exchange, at_ns, data[start:after]))
            offset = after
        give_way()


def _add_block(data: bytes, start: int, end: int, records: Records) -> None:
    try:
        records += unpack_block(data, start, end)
    except ValueError as error:
        records.append((DAMAGE, 0, 0, f"malformed in the journal: {error}".encode()))


def _after_damage(data: bytes, offset: int) -> int | None:
    """The offset after the damaged record at `offset`; None if it is good or not all there."""
    end = len(data)
    if offset + RECORD_HEADER.size > end:
        return None
    length, crc, *_ = RECORD_HEADER.unpack_from(data, offset)
    if length > MAX_PAYLOAD_BYTES:  # no writer makes this: from here on nothing can be told
        return end
    after: int = offset + RECORD_HEADER.size + length
    return None if after > end or crc32(memoryview(data)[offset + 8 : after]) == crc else after


def _run_of(name: str) -> int:
    run = name.partition("-")[0]
    return int(run) if run.isdecimal() else -1
