"""Sides whose chunks hold the bytes: streams, chunk by chunk as they were read, and the messages of WebSockets.

Chunks are written as they come. What has no place yet (a read held back to mask a line, the start of a message) is
staged, so that a killed process loses nothing.
"""

import re
import sqlite3
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence

from proxy.exchange import Side
from proxy.read.websocket import CLOSE, TEXT, WebSocketReader
from proxy.store.chunks import MAX_MIDDLE_BYTES, ChunkRuns, Frames, RunRow, as_stored, read_chunks
from proxy.store.digests import Digester
from proxy.store.masked import MaskedLines, Read, SecretPaths, joined
from proxy.store.rows import Rows, Sent

_MASK_IN_JSON = re.compile(rb"\[masked:[0-9a-f]{12}\]")
_STAGED = (
    "SELECT seq, at_us, sealed(data, exchange_id, side, seq, at_us) FROM staged_chunks"
    " WHERE exchange_id = ? AND side = ? ORDER BY seq"
)

_HAS_CLOSE = "SELECT 1 FROM recorded_chunks WHERE exchange_id = ? AND side = ? AND opcode = ?"


class _ChunkedSide:
    """What both have in common: numbered chunks that share frames, and a digest over their bytes."""

    def __init__(self, exchange_id: int, side: int, frames: Frames, next_seq: int) -> None:
        self.exchange_id = exchange_id
        self.side = side
        self.received_bytes = 0
        self.masked = 0
        """How many values are masked."""
        self.is_text = True
        """Whether each chunk by itself is text."""
        self._frames = frames
        self._runs = ChunkRuns(exchange_id, side, next_seq)
        self._rows: list[RunRow] = []
        self._digest = Digester()

    @property
    def chunks(self) -> int:
        """How many chunks are in their place."""
        return self._runs.seq

    def _put(self, reads: Sequence[Read], together: bytes | None, opcode: int | None = None) -> None:
        """Put some reads in their place; `together`: their bytes, if they were joined."""
        frames, add, rows = self._frames, self._runs.add, self._rows
        may_share = opcode in (None, TEXT)
        if together is None:
            for _, data in reads:
                self._digest.update(data)
        else:
            self._digest.update(together)
            if may_share and len(reads) > 1:
                shared = frames.part_some([data for _, data in reads], together)
                if shared is not None:
                    common_id, middles = shared
                    self._runs.add_some(rows, [at_us for at_us, _ in reads], middles, opcode, common_id)
                    return
        for at_us, data in reads:
            frame_id, middle = frames.part(data) if may_share else (None, data)
            if len(middle) > MAX_MIDDLE_BYTES:
                frame_id, stored = frames.whole(data)
            else:
                stored = as_stored(middle)
            if isinstance(stored, bytes):
                self.is_text = False
            add(rows, at_us, stored, opcode, frame_id)

    def _save_chunks(self, rows: Rows) -> None:
        self._runs.flush(self._rows)
        rows.chunks += self._rows
        self._rows = []


class StreamSide(_ChunkedSide):
    """A stream of events or lines; secrets in it are masked line by line."""

    def __init__(
        self, exchange_id: int, side: int, secrets: SecretPaths | None, frames: Frames, next_seq: int = 0
    ) -> None:
        """Without `secrets` nothing is looked for."""
        super().__init__(exchange_id, side, frames, next_seq)
        self._lines = MaskedLines(secrets) if secrets is not None else None
        self._staged: list[tuple[int, bytes]] = []

    def add(self, reads: Sequence[Read]) -> None:
        """Take some reads."""
        together = joined(reads)
        self.received_bytes += sum([len(data) for _, data in reads]) if together is None else len(together)
        lines = self._lines
        if lines is not None and (together is None or not lines.may_pass(together)):
            reads = [ready for read in reads for ready in lines.add(*read)]
            self.masked = lines.masked
            together = joined(reads)
        self._put(reads, together)

    def save(self, rows: Rows) -> None:
        """Write the chunks, stage the reads that are held back."""
        self._save_chunks(rows)
        held = self._lines.held if self._lines is not None else []
        if held != self._staged:
            if self._staged:
                rows.unstage(self.exchange_id, self.side)
            rows.staged += [
                (self.exchange_id, self.side, self._runs.seq + index, at_us, data, None)
                for index, (at_us, data) in enumerate(held)
            ]
            self._staged = list(held)

    def close(self, rows: Rows) -> Sent:
        """Write the last chunks."""
        if self._lines is not None:
            rest = self._lines.end()
            self._put(rest, joined(rest))
            self.masked = self._lines.masked
        self.save(rows)
        is_text = self.is_text or self._is_text_as_a_whole(rows)
        return Sent(bytearray(self._digest.digest()), None, int(is_text), self.masked)

    def _is_text_as_a_whole(self, rows: Rows) -> bool:
        """Whether chunks that are not text make a text together: a character may lie across two reads."""
        rows.write_chunks()
        decoder = getincrementaldecoder("utf-8")()
        try:
            for chunk in read_chunks(rows.connection, self.exchange_id, self.side):
                if chunk.data is not None and "\0" in decoder.decode(chunk.data):
                    return False
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True

    def resume(self, connection: sqlite3.Connection, stored: Iterable[bytes], masked: int) -> None:
        """Go on after the stored chunks, with what is held back."""
        self.masked = masked
        for data in stored:
            self.is_text = self.is_text and isinstance(as_stored(data), str)
            self.received_bytes += len(data)
            self._digest.update(data)
            if self._lines is not None:
                self._lines.passed(data)
        if self._lines is not None:
            self._lines.masked = masked
            for _, at_us, data in connection.execute(_STAGED, (self.exchange_id, self.side)):
                self.received_bytes += len(data)
                self._lines.resume(at_us, data)
            self._staged = list(self._lines.held)


class TunnelSide(_ChunkedSide):
    """One side of a WebSocket: a chunk is a message or a control frame, timed by the read that completed it."""

    def __init__(self, exchange_id: int, side: int, reader: WebSocketReader, frames: Frames, next_seq: int = 0) -> None:
        """`reader` reads this side's frames."""
        super().__init__(exchange_id, side, frames, next_seq)
        self.has_close = False
        """A close frame came."""
        self._reader = reader
        self._last_us = 0
        self._unstaged: list[tuple[int, bytes]] = []  # reads of the incomplete message, from its first byte on
        self._next_staged = 0
        self._is_staged = False
        self._is_stale = False
        self._staged_window = reader.window

    def add(self, reads: Sequence[Read]) -> None:
        """Take some reads."""
        messages: list[Read] = []
        opcode: int | None = None
        for at_us, data in reads:
            self.received_bytes += len(data)
            completed, start = self._reader.feed(data)
            if start >= 0:
                self._unstaged = []
                self._next_staged = 0
                self._is_stale = self._is_staged
            if start < len(data):
                self._unstaged.append((at_us, data[max(start, 0) :]))
            for message_opcode, payload in completed:
                if message_opcode != opcode:
                    self._put_messages(messages, opcode)
                    messages, opcode = [], message_opcode
                messages.append((at_us, payload))
        self._last_us = reads[-1][0]
        self._put_messages(messages, opcode)

    def _put_messages(self, messages: Sequence[Read], opcode: int | None) -> None:
        """Put some of one opcode in their place."""
        if not messages:
            return
        self.has_close = self.has_close or opcode == CLOSE
        if self._runs.seq == 0 and self.side == Side.CLIENT:
            # The SDK's first message is masked before it reaches the journal; here that is only counted.
            self.masked = len(_MASK_IN_JSON.findall(messages[0][1][:65536]))
        self._put(messages, joined(messages), opcode)

    def save(self, rows: Rows) -> None:
        """Write the messages, stage the start of the one that is incomplete."""
        self._save_chunks(rows)
        window = self._reader.window
        if self._is_stale:
            rows.unstage(self.exchange_id, self.side)
            self._is_stale = self._is_staged = False
            self._staged_window = b""
        if window is not self._staged_window:
            rows.staged.append((self.exchange_id, self.side, -1, 0, window, None))
            self._staged_window = window
            self._is_staged = True
        for at_us, data in self._unstaged:
            rows.staged.append((self.exchange_id, self.side, self._next_staged, at_us, data, None))
            self._next_staged += 1
            self._is_staged = True
        self._unstaged = []

    def close(self, rows: Rows) -> Sent:
        """Write the last messages; one that was cut short is kept as far as it came."""
        for opcode, payload in self._reader.rest():
            self._put_messages([(self._last_us, payload)], opcode)
        self._save_chunks(rows)
        if self._is_staged:
            rows.unstage(self.exchange_id, self.side)
        return Sent(bytearray(self._digest.digest()), None, int(self.is_text), self.masked)

    def resume(self, connection: sqlite3.Connection, stored: Iterable[bytes], masked: int) -> None:
        """Go on after the stored messages: read again what is staged, and leave out what is stored already."""
        self.masked = masked
        self.has_close = connection.execute(_HAS_CLOSE, (self.exchange_id, self.side, CLOSE)).fetchone() is not None
        for data in stored:
            self.is_text = self.is_text and isinstance(as_stored(data), str)
            self._digest.update(data)
        for seq, at_us, data in connection.execute(_STAGED, (self.exchange_id, self.side)):
            if seq >= 0:
                # The messages these bytes complete (control frames within the message) are stored, so are left out.
                self._reader.feed(data)
                self._last_us = at_us
                self._next_staged = seq + 1
            self._is_staged = True
