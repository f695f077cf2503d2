"""A body on its way into the trace: staged while its exchange runs, put together and cut at its end.

A body longer than `LONG_BODY_BYTES` is not held: it is cut into parts as it comes.
"""

import sqlite3
from collections.abc import Iterator, Sequence

from proxy.store.bodies import PART_BYTES, cut, equal_parts, members_of, model_of
from proxy.store.chunk_sides import StreamSide
from proxy.store.chunks import ChunkRuns, Frames, as_stored
from proxy.store.digests import Digester, digest_of
from proxy.store.masked import Read, SecretPaths, Walk, apply
from proxy.store.rows import Rows, Sent, StagedRow, body_key

LONG_BODY_BYTES = 32 << 20
_SHORT_READ_BYTES = 2048
_MIN_STREAM_READS = 4
_STAGED = (
    "SELECT at_us, sealed(data, exchange_id, side, seq, at_us) FROM staged_chunks"
    " WHERE exchange_id = ? AND side = ? ORDER BY seq"
)


class BodySide:
    """A body: its bytes are put together at the end and cut; its chunks only tell sizes and times."""

    __slots__ = (
        "_is_staged",
        "_long",
        "_reads",
        "_runs",
        "_saved_bytes",
        "_saved_chunks",
        "_seam",
        "_secrets",
        "exchange_id",
        "received_bytes",
        "side",
    )

    def __init__(self, exchange_id: int, side: int, secrets: SecretPaths) -> None:
        """Nothing came yet."""
        self.exchange_id = exchange_id
        self.side = side
        self._secrets = secrets
        self._reads: list[tuple[int, bytes]] = []
        self._runs: ChunkRuns | None = None  # made when it is known that there is more than one read
        self._saved_bytes = self._saved_chunks = 0
        self._is_staged = False
        self._seam: bytes | None = b""  # the end of what is staged; None once a secret may follow it
        self._long: LongBody | None = None
        self.received_bytes = 0

    @property
    def is_short(self) -> bool:
        """Whether it can be held."""
        return self.received_bytes <= LONG_BODY_BYTES

    @property
    def held_bytes(self) -> int:
        """What is neither staged nor in its place."""
        return self.received_bytes - self._saved_bytes

    @property
    def masked(self) -> int:
        """0: what is masked is known at the end."""
        return 0

    @property
    def is_text(self) -> None:
        """Not known before the end."""
        return

    @property
    def chunks(self) -> int:
        """How many reads came."""
        return self._saved_chunks + len(self._reads)

    def add(self, reads: Sequence[Read]) -> None:
        """Take some reads."""
        self._reads += reads
        for _, data in reads:
            self.received_bytes += len(data)

    def save(self, rows: Rows) -> None:
        """Stage the reads."""
        if not self._reads:
            return
        first = self._saved_chunks
        self._save_sizes(rows, is_end=False)
        if self.received_bytes > LONG_BODY_BYTES:
            if self._long is None:
                self._long = LongBody(self.exchange_id, self.side, self._secrets)
                self._long.take_staged(rows)
            for _, data in self._reads:
                self._long.add(data)
            self._long.save(rows)
        else:
            is_harmless = self._is_harmless()
            rows.staged += [
                (self.exchange_id, self.side, first + index, at_us, as_stored(data) if is_harmless else data, None)
                for index, (at_us, data) in enumerate(self._reads)
            ]
        self._is_staged = True
        self._saved_bytes = self.received_bytes
        self._reads = []

    def _is_harmless(self) -> bool:
        """Whether nothing in the reads can be a secret: no name that leads to one came before it."""
        if self._seam is None:
            return False
        text = b"".join([self._seam, *[data for _, data in self._reads]])
        # What is not UTF-8 may be read as a name all the same.
        is_harmless = isinstance(as_stored(text), str) and not self._secrets.may_enter(text)
        self._seam = text[-self._secrets.seam_bytes :] if is_harmless else None
        return is_harmless

    def _save_sizes(self, rows: Rows, *, is_end: bool) -> None:
        """The reads' sizes and times as chunks; most bodies are one read."""
        self._saved_chunks += len(self._reads)
        if is_end and self._runs is None and len(self._reads) == 1:
            at_us, data = self._reads[0]
            rows.body_reads.append((self.exchange_id, self.side, 0, at_us, len(data)))
            return
        if self._runs is None:
            self._runs = ChunkRuns(self.exchange_id, self.side)
        for at_us, data in self._reads:
            self._runs.add(rows.chunks, at_us, len(data), None, None)
        self._runs.flush(rows.chunks)

    def close(self, rows: Rows, frames: Frames | None) -> Sent:
        """Cut the body. With `frames` it may turn out to be a stream: many short reads."""
        if self._long is not None:
            self._save_sizes(rows, is_end=True)
            for _, data in self._reads:
                self._long.add(data)
            self._reads = []
            return self._long.close(rows)
        if self._is_staged:
            staged = rows.connection.execute(_STAGED, (self.exchange_id, self.side)).fetchall()
            rows.unstage(self.exchange_id, self.side)
        else:
            staged = []
        count = len(staged) + len(self._reads)
        if (
            frames is not None
            and count >= _MIN_STREAM_READS
            and self.received_bytes < count * _SHORT_READ_BYTES
            and (stream := self._as_stream(rows, staged + self._reads, frames)) is not None
        ):
            return stream
        self._save_sizes(rows, is_end=True)
        if count == 1:
            body = (staged or self._reads)[0][1]
        else:
            body = b"".join([data for _, data in staged] + [data for _, data in self._reads])
        self._reads = []
        key = body_key(body)
        known = rows.known_body(key)
        if known is not None:
            return known
        members, masked = members_of(body), 0
        if members is None or self._secrets.may_lie_below(members):
            body, masked = self._secrets.mask(body)
            if masked:
                members = members_of(body)
        return rows.body(cut(body, members), body, masked, model_of(members), key)

    def peek_model(self, rows: Rows) -> str | None:
        """The model a body names that is all there, though not known to be."""
        if self.received_bytes > PART_BYTES:
            return None
        staged = rows.connection.execute(_STAGED, (self.exchange_id, self.side)).fetchall() if self._is_staged else []
        return model_of(members_of(b"".join([data for _, data in staged + self._reads])))

    def _as_stream(self, rows: Rows, reads: list[tuple[int, bytes]], frames: Frames) -> Sent | None:
        """The reads as a stream's chunks; None if they hold secrets, which may lie across them."""
        if self._secrets.may_hold(b"".join([data for _, data in reads])):
            return None
        if self._is_staged:
            rows.drop_chunks(self.exchange_id, self.side)
        stream = StreamSide(self.exchange_id, self.side, None, frames)
        stream.add(reads)
        return stream.close(rows)

    def resume(self, connection: sqlite3.Connection, next_seq: int) -> None:
        """Go on with what is staged."""
        self._runs = ChunkRuns(self.exchange_id, self.side, next_seq)
        self._saved_chunks = next_seq
        staged, blobs = connection.execute(
            "SELECT coalesce(sum(length(CAST(data AS BLOB))), 0), count(blob_id) FROM staged_chunks"
            " WHERE exchange_id = ? AND side = ?",
            (self.exchange_id, self.side),
        ).fetchone()
        self._is_staged = next_seq > 0
        self._seam = None
        self.received_bytes = staged
        if blobs:
            self._long = LongBody(self.exchange_id, self.side, self._secrets)
            self._long.resume(connection)
            self.received_bytes += self._long.size
        self._saved_bytes = self.received_bytes


class LongBody:
    """A body too long to be held: parts of some 1 MiB become blobs as they come, masked on the way if it is JSON."""

    def __init__(self, exchange_id: int, side: int, secrets: SecretPaths) -> None:
        """Nothing came yet."""
        self._exchange_id = exchange_id
        self._side = side
        self._secrets = secrets
        self._walk: Walk | None = None
        self._tail = bytearray()  # bytes that are in no part yet, staged as they are
        self._staged_tail_bytes = 0
        self._seq = 0
        self._digest = Digester()
        self._blob_ids: list[int] = []
        self._masked = 0
        self._is_text = True
        self.size = 0
        """Bytes in parts."""

    def take_staged(self, rows: Rows) -> None:
        """Take over what was staged read by read."""
        cursor = rows.connection.execute(
            _STAGED,
            (self._exchange_id, self._side),
        )
        staged_rows: list[StagedRow] = []
        for _, data in cursor:
            self.add(data)
            staged_rows += self._cut(rows, is_end=False)
        rows.unstage(self._exchange_id, self._side)
        rows.staged += staged_rows

    def add(self, data: bytes) -> None:
        """Take one read."""
        self._tail += data

    def save(self, rows: Rows) -> None:
        """Make parts of what is long enough, stage the rest."""
        staged_rows = self._cut(rows, is_end=False)
        if staged_rows:
            rows.connection.execute(
                "DELETE FROM staged_chunks WHERE exchange_id = ? AND side = ? AND data IS NOT NULL",
                (self._exchange_id, self._side),
            )
            self._staged_tail_bytes = 0
        rows.staged += staged_rows
        if len(self._tail) > self._staged_tail_bytes:
            rows.staged.append(
                (self._exchange_id, self._side, self._seq, 0, bytes(self._tail[self._staged_tail_bytes :]), None)
            )
            self._staged_tail_bytes = len(self._tail)
            self._seq += 1

    def close(self, rows: Rows) -> Sent:
        """The last part, and the body."""
        self._cut(rows, is_end=True)
        rows.unstage(self._exchange_id, self._side)
        digest = self._digest.digest()
        body_id = rows.body_of_blobs(self._blob_ids, self.size, digest)
        return Sent(bytearray(digest), body_id, int(self._is_text), self._masked)

    def resume(self, connection: sqlite3.Connection) -> None:
        """Go on with the parts and the rest that are staged."""
        carry = b""
        for blob_id, data, is_text, seq in _staged_parts(connection, self._exchange_id, self._side):
            self._seq = seq + 1
            if blob_id is None:
                self._tail += data
                continue
            self._start(data)
            if self._walk is not None:  # where secrets lay, strings lie as well: the walk comes to the same place
                carry += data
                self._masked += len(self._walk.edits(carry, is_end=False))
                carry = carry[self._walk.consumed :]
            self._take_part(blob_id, data, is_text=bool(is_text))
        self._staged_tail_bytes = len(self._tail)

    def _start(self, data: bytes | bytearray) -> None:
        if not self._blob_ids and self._walk is None and bytes(data[:64]).lstrip()[:1] == b"{":
            self._walk = Walk(self._secrets)

    def _take_part(self, blob_id: int, data: bytes | memoryview, *, is_text: bool) -> None:
        self._is_text = self._is_text and is_text
        self._digest.update(data)
        self._blob_ids.append(blob_id)
        self.size += len(data)

    def _cut(self, rows: Rows, *, is_end: bool) -> list[StagedRow]:
        """Make parts; gives the rows that stage them."""
        self._start(self._tail)
        if len(self._tail) < PART_BYTES and not is_end:
            return []
        data = bytes(self._tail)
        if self._walk is not None:
            edits = self._walk.edits(data, is_end=is_end)
            consumed = self._walk.consumed if not is_end else len(data)
            self._masked += len(edits)
            ready, rest = apply(data[:consumed], edits), data[consumed:]
        else:
            ready, rest = data, b""
        staged_rows: list[StagedRow] = []
        parts = list(equal_parts(ready)) if ready else []
        if parts and self._walk is None and not is_end:
            rest = bytes(parts.pop())  # parts of equal length are found again when the same file comes again
        for part in parts:
            stored = as_stored(part)
            blob_id = rows.blob(stored, len(part), digest_of(part))
            self._take_part(blob_id, part, is_text=isinstance(stored, str))
            staged_rows.append((self._exchange_id, self._side, self._seq, 0, None, blob_id))
            self._seq += 1
        self._tail[:] = rest
        return staged_rows


def _staged_parts(
    connection: sqlite3.Connection, exchange_id: int, side: int
) -> Iterator[tuple[int | None, bytes, int, int]]:
    """(blob id, bytes, whether they are text, seq) of what is staged for a long body, in order."""
    return connection.execute(
        "SELECT s.blob_id, CAST(coalesce(sealed(s.data, s.exchange_id, s.side, s.seq, s.at_us), b.data) AS BLOB),"
        " typeof(b.data) = 'text', s.seq FROM staged_chunks s"
        " LEFT JOIN blobs b ON b.id = s.blob_id WHERE s.exchange_id = ? AND s.side = ? ORDER BY s.seq",
        (exchange_id, side),
    )
