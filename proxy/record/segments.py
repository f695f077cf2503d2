"""The journal's files: append, begin the next one, and come back after a failure without leaving half a record."""

import contextlib
import os
from pathlib import Path

from proxy.clock import ClockReading
from proxy.record.journal import SegmentHeader, segment_name

_JOINED_BYTES = 256 * 1024
"""Less is joined and written at once; more is handed over in its parts, as copying it costs more than the call."""
_MOST_PARTS = 1024
"""What Linux takes in one `writev`."""


class SegmentWriter:
    """Appends to the current segment of one run. Files are created 0600, the folder 0700."""

    def __init__(self, folder: Path, started: ClockReading, segment_bytes: int) -> None:
        """Begin the first segment; raises `OSError` if that cannot be done."""
        self._folder = folder
        self._started = started
        self._run_id = os.urandom(16)
        self._limit = segment_bytes
        self._number = -1
        self._file = -1
        self._size = 0
        self.has_records = False
        """The current segment holds more than its header."""
        self._begin_next()

    def append(self, parts: list[bytes]) -> bool:
        """Write whole records. False if the segment written before was deleted by somebody else, with what it held.

        Raises:
            OSError: nothing of `parts` is in the journal; the same may be tried again.
        """
        size = sum(map(len, parts))
        is_intact = self._file < 0 or os.fstat(self._file).st_nlink > 0
        if self._file < 0 or not is_intact or (self.has_records and self._size + size > self._limit):
            self._begin_next()
        try:
            if size < _JOINED_BYTES or not hasattr(os, "writev"):
                self._write(b"".join(parts))
            else:
                for start in range(0, len(parts), _MOST_PARTS):
                    some = parts[start : start + _MOST_PARTS]
                    written = os.writev(self._file, some)
                    if written < sum(map(len, some)):
                        self._write(b"".join(some)[written:])
        except OSError:
            self._take_back()
            raise
        self._size += size
        self.has_records = True
        return is_intact

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def rotate_quietly(self) -> None:
        """Begin the next segment if that is possible now; if not, the current one stays."""
        with contextlib.suppress(OSError):
            self._begin_next()

    def close(self) -> None:
        """Close the current segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin_next(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        header = SegmentHeader(self._run_id, self._number + 1, self._started).pack()
        path = self._folder / segment_name(self._started.wall_ns, self._number + 1)
        # Under another name until its header is whole: the back must never see a segment without one.
        unfinished = path.with_suffix(".new")
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        try:
            if os.write(file, header) != len(header):
                raise OSError(f"cannot write the header of {path}")
            unfinished.rename(path)
        except OSError:
            os.close(file)
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        self.close()
        self._file, self._size, self.has_records = file, len(header), False
        self._number += 1

    def _take_back(self) -> None:
        """Cut off a half-written record, or give the segment up: a torn tail ends it."""
        try:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
        except OSError:
            self.close()
