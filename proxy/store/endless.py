"""Exchanges without an end in sight, such as the log of an engine: read and stored piece by piece as they go on.

What was read is let go of, so that neither memory nor the cost of one more event grows with the stream. After a crash
it is fed from its start again; what is stored already stays (see `ReadingRows.add`).
"""

import heapq
import sqlite3
from typing import cast

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import EndlessSession, Reader, ResponseHead
from proxy.store.chunks import ChunkRow, read_chunks
from proxy.store.recordings import Recording

PIECE = 256
"""Messages in a piece, at most."""
PIECE_BYTES = 1 << 18
"""A piece that has so many bytes is complete."""


def is_endless(reader: Reader) -> bool:
    """Whether a reader's sessions are `EndlessSession`s, by its own word; readers need not say anything."""
    return getattr(reader, "is_endless", False)


class Endless:
    """One exchange's reading as it goes on."""

    def __init__(self, reader: Reader, recording: Recording) -> None:
        """Nothing was fed yet; `reader` is one of which `is_endless` holds, `recording` is a WebSocket's."""
        self.reader = reader
        self.is_broken = False
        """It could not be read or stored, for a bug of ours."""
        self.waiting: list[tuple[int, Reading]] = []
        """What was read and is not known to be stored, with the readings' numbers."""
        self.is_complete = False
        """The exchange has ended, and all of it was fed."""
        self._session = cast(EndlessSession, reader.open(recording.head))
        if recording.status is not None:
            self._session.response(ResponseHead(recording.status, recording.response_fields), recording.first_byte_us)
        self._after = dict.fromkeys(Side, -1)

    def feed(self, connection: sqlite3.Connection, recording: Recording) -> bool:
        """Feed the next piece, which adds to `waiting`; False if there is none, and of an ended exchange never will be.

        Raises:
            sqlite3.Error: the trace cannot be read.
        """
        piece = self._next(connection, recording.id)
        for chunk in piece:
            self._after[chunk.side] = chunk.seq
            self._session.message(chunk.side, chunk.at_us, chunk.opcode, chunk.data or b"")
        if piece:
            self.waiting += self._session.take(None)
        elif recording.end is not None and not self.is_complete:
            self.is_complete = True
            self.waiting += self._session.take(recording.end)
        return bool(piece)

    def _next(self, connection: sqlite3.Connection, exchange_id: int) -> list[ChunkRow]:
        """Messages by time; at the same moment the client's come first."""
        piece: list[ChunkRow] = []
        size = 0
        connection.execute("BEGIN")  # both sides as of the same moment: no answer before its question
        try:
            sides = [read_chunks(connection, exchange_id, side, self._after[side]) for side in Side]
            for chunk in heapq.merge(*sides, key=lambda chunk: (chunk.at_us, chunk.side)):
                piece.append(chunk)
                size += chunk.bytes
                if len(piece) >= PIECE or size >= PIECE_BYTES:
                    break
        finally:
            connection.execute("COMMIT")
        return piece
