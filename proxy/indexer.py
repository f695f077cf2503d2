"""The indexer: recordings become readings, after their bytes are stored, so that it can be done again at any time.

It works through `unread_exchanges`, which ingest fills; what is read and that it was read is committed together. What
is being read is noted before, so that an exchange that kills the process is found and left out afterwards. Exchanges
that still run are read as far as they came, for live views; those without an end in sight (the log of an engine) are
stored piece by piece, and never rewritten.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from proxy.read.reader import Reader
from proxy.read.registry import Registry
from proxy.secret import SECRET_BODY_FIELDS
from proxy.store.courtesy import NOBODY_ELSE, give_way
from proxy.store.endless import Endless, is_endless
from proxy.store.live import Live
from proxy.store.message_rows import recount
from proxy.store.readings import Read, ReadingRows
from proxy.store.recordings import Recording, Recordings
from proxy.store.schema import open_for_writing
from proxy.store.token_counter import TokenCounter
from proxy.store.trace import Trace

log = logging.getLogger(__name__)

BATCH = 256
"""Exchanges for one transaction, at most."""
WRITE_S = 0.02
"""How long one transaction goes on, about: ingest may be waiting for it."""
_AT_ONCE = 32
BATCH_S = 0.1
"""How long reading for one transaction goes on before it is written."""
RUNNING_EVERY_S = 0.25
"""How often what still runs is read."""
MAX_ATTEMPTS = 2
"""An exchange that was being read when the process died is tried so often."""
_NEXT = "SELECT exchange_id FROM unread_exchanges ORDER BY exchange_id LIMIT ?"
_RUNNING = "SELECT id FROM recorded_exchanges WHERE outcome IS NULL ORDER BY id DESC LIMIT 256"
_ATTEMPT = "INSERT INTO reading_attempts VALUES(?, 1) ON CONFLICT(exchange_id) DO UPDATE SET attempts = attempts + 1"
_CROSS_OFF = "DELETE FROM unread_exchanges WHERE exchange_id = ?"
_WAS_READ = "SELECT 1 FROM read_exchanges WHERE exchange_id = ?"
_SURVIVED = "DELETE FROM reading_attempts WHERE exchange_id = ?"
_SUSPECTS = "SELECT exchange_id, attempts FROM reading_attempts"
_OUTDATED = """
INSERT OR IGNORE INTO unread_exchanges
SELECT x.exchange_id FROM read_exchanges x LEFT JOIN readers r ON r.id = x.reader_id
WHERE r.id IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(?) v WHERE v.key = r.name AND v.value = r.version)"""
_FORGET_FIELDS = """
DELETE FROM unread_fields WHERE reader_id NOT IN
(SELECT r.id FROM readers r, json_each(?) v WHERE v.key = r.name AND v.value = r.version)"""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How readings are made."""

    encoding: str = "cl100k_base"
    """tiktoken's, or `off`."""
    prefix_sessions: Mapping[str, str] = field(default_factory=dict)
    """An upstream's name to the session of what comes by its prefix."""
    body_fields: tuple[str, ...] = SECRET_BODY_FIELDS
    """Paths of what is masked in bodies that are still on their way."""


class Indexer:
    """Reads one trace. Its owner must hold the writer lock; its connection is its own."""

    def __init__(
        self,
        trace: Path,
        settings: IndexSettings,
        *,
        key: bytes | None = None,
        registry: Registry | None = None,
        turn: AbstractContextManager[object] = NOBODY_ELSE,
    ) -> None:
        """Nothing is opened yet.

        `key` is the trace's: without it nothing is read of what still runs. `turn` is held while the trace is written,
        never for long.
        """
        self._turn = turn
        self._trace = trace
        self._key = key
        self._settings = settings
        self._registry = registry or Registry()
        self._counter = TokenCounter(settings.encoding) if settings.encoding != "off" else None
        self._connection: sqlite3.Connection | None = None
        self._rows: ReadingRows | None = None
        self._live: dict[int, Live] = {}
        self._live_at = 0.0
        self._endless: dict[int, Endless] = {}
        self._suspects: dict[int, int] = {}
        self._noted: set[int] = set()

    def close(self) -> None:
        """Let go of the trace."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._rows = None

    def run_once(self) -> int:
        """Read one batch of what ended, then what runs; gives how many ended exchanges were read.

        Raises:
            sqlite3.Error, OSError: it could not be written (locked, disk full); nothing is lost, call again later.
        """
        try:
            read = self._read_ended()
            self._read_endless()
            if read < BATCH:
                self._read_running()
            return read
        except BaseException:
            self._forget()
            self._live.clear()  # what was fed may not have been stored
            raise

    def reread(self, *, everything: bool = False) -> int:
        """Mark what other versions of the readers have read (or everything) as unread; gives how many that were.

        Raises:
            sqlite3.Error: as `run_once`.
        """
        connection = self._ready()
        connection.execute("BEGIN IMMEDIATE")
        try:
            if everything:
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO unread_exchanges SELECT id FROM recorded_exchanges WHERE outcome IS NOT NULL"
                )
                connection.execute("DELETE FROM unread_fields")  # they are counted anew
            else:
                versions = json.dumps(self._registry.versions)
                cursor = connection.execute(_OUTDATED, (versions,))
                connection.execute(_FORGET_FIELDS, (versions,))
            connection.execute("DELETE FROM reading_attempts")
            connection.execute("COMMIT")
        except BaseException:
            self._forget()
            raise
        self._suspects = {}
        self._noted.clear()
        return cursor.rowcount

    # --- what ended ---------------------------------------------------------------------------------------------------

    def _read_ended(self) -> int:
        connection = self._ready()
        ids = [row[0] for row in connection.execute(_NEXT, (BATCH,))]
        if not ids:
            return 0
        # What this process has noted itself could not be written (locked, disk full): none of that killed it.
        self._suspects = {one: times for one, times in connection.execute(_SUSPECTS) if one not in self._noted}
        if self._suspects:
            ids = ids[:1] if ids[0] in self._suspects else [one for one in ids if one not in self._suspects]
            if self._suspects.get(ids[0], 0) >= MAX_ATTEMPTS:
                return self._give_up(ids[0])
        self._note(ids)
        began = time.monotonic()
        reads: list[Read] = []
        completed = 0
        recordings = Recordings(connection)
        for start in range(0, len(ids), _AT_ONCE):
            for recording in recordings.get(ids[start : start + _AT_ONCE]):
                if self._complete(connection, recording):
                    completed += 1
                else:
                    reads.append(self._read(recordings, recording))
                give_way()
            if time.monotonic() - began > BATCH_S:
                break
        gone = ids[:_AT_ONCE] if not reads and not completed else ()  # they name nothing any more
        self._write(reads, gone, noted=ids)
        return max(len(reads) + completed, 1)

    def _note(self, ids: Sequence[int]) -> None:
        """Say what is about to be read: who kills the process is among them."""
        connection = self._ready()
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_ATTEMPT, [(one,) for one in ids if one not in self._noted])
            connection.execute("COMMIT")
        self._noted.update(ids)

    def _read(self, recordings: Recordings, recording: Recording) -> Read:
        reader = self._registry.choose(recording.head) if recording.is_forwarded else None
        if reader is None:
            return Read(recording, None)
        who = (reader.name, reader.version)
        try:
            request = recordings.parts(recording.request_body)
            response = recordings.parts(recording.response_body)
            readings = recordings.read(reader, recording, request, response)
        except (sqlite3.Error, OSError):
            raise
        except Exception as error:
            log.exception("exchange %d cannot be read by %s", recording.id, reader.name)
            return Read(recording, who, failure=f"{reader.name} {reader.version}: {error!r}")
        return Read(recording, who, readings, request, response)

    def _give_up(self, exchange_id: int) -> int:
        connection = self._ready()
        log.error("exchange %d ended the process while it was read; it is left out", exchange_id)
        why = "the process ended while this was read"
        reads = [Read(recording, None, failure=why) for recording in Recordings(connection).get([exchange_id])]
        self._write(reads, [exchange_id], noted=[exchange_id])
        return 1

    def _write(self, reads: Sequence[Read], gone: Sequence[int] = (), *, noted: Sequence[int] = ()) -> None:
        """Store readings; a bug of ours that one exchange brings out must not keep all others out."""
        try:
            self._put(reads, gone, noted)
        except sqlite3.OperationalError:
            raise
        except Exception as error:
            self._forget()
            if len(reads) > 1:
                for read in reads:
                    self._write([read])
                self._write((), gone, noted=noted)
                return
            if not reads or reads[0].failure is not None:
                raise
            (failed,) = reads
            log.exception("the readings of exchange %d cannot be stored", failed.recording.id)
            if failed.recording.id in self._live:
                self._live[failed.recording.id].is_broken = True
            self._put([Read(failed.recording, failed.reader, failure=f"cannot be stored: {error!r}")], gone, noted)
        for read in reads:
            if read.recording.end is not None:
                self._live.pop(read.recording.id, None)

    def _put(self, reads: Sequence[Read], gone: Sequence[int], noted: Sequence[int]) -> None:
        connection = self._ready()
        assert self._rows is not None
        waiting = list(reads)[::-1]
        is_done = False
        while not is_done:
            with self._turn:
                began = time.monotonic()
                connection.execute("BEGIN IMMEDIATE")
                while waiting and time.monotonic() - began < WRITE_S:
                    self._rows.put(waiting.pop())
                    give_way()
                self._rows.write()
                is_done = not waiting
                if is_done:
                    connection.executemany(_CROSS_OFF, [(one,) for one in gone])
                    connection.executemany(_SURVIVED, [(one,) for one in noted])
                connection.execute("COMMIT")
            give_way()
        self._noted.difference_update(noted)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def _read_running(self) -> None:
        now = time.monotonic()
        if self._key is None or now - self._live_at < RUNNING_EVERY_S:
            return
        self._live_at = now
        connection = self._ready()
        ids = [row[0] for row in connection.execute(_RUNNING)]
        if not ids:
            self._live.clear()
            return
        reads = []
        trace = Trace(connection, self._key, self._settings.body_fields)
        for recording in Recordings(connection).get(ids):
            read = self._advance(trace, recording)
            if read is not None:
                reads.append(read)
        for gone in self._live.keys() - set(ids):
            del self._live[gone]
        if reads:
            self._write(reads)

    def _advance(self, trace: Trace, recording: Recording) -> Read | None:
        """Feed what came since; None where that changes nothing."""
        live = self._live.get(recording.id)
        if live is None:
            reader = self._registry.choose(recording.head) if recording.is_forwarded else None
            if reader is None or recording.head.is_websocket:
                self._remember_endless(reader, recording)
                return None  # the calls of others are shown when they end
            live = self._live[recording.id] = Live(reader, recording)
        if live.is_broken or recording.end is not None:
            return None
        who = (live.reader.name, live.reader.version)
        try:
            readings = live.feed(trace, recording)
        except (sqlite3.Error, OSError):
            raise
        except Exception as error:
            log.exception("exchange %d cannot be read by %s", recording.id, live.reader.name)
            live.is_broken = True
            return Read(recording, who, failure=repr(error))
        return Read(recording, who, readings) if readings is not None else None

    # --- what has no end in sight -------------------------------------------------------------------------------------

    def _remember_endless(self, reader: Reader | None, recording: Recording) -> None:
        if reader is not None and recording.is_tunnel and is_endless(reader) and recording.id not in self._endless:
            self._endless[recording.id] = Endless(reader, recording)

    def _read_endless(self) -> None:
        """Read on where something came. Looked at whenever something was taken in: there are few of these."""
        connection = self._ready()
        running = [one for one, endless in self._endless.items() if not endless.is_broken]
        for recording in Recordings(connection).get(running) if running else ():
            if recording.end is None:  # else it is among those that ended, perhaps not yet when these were read
                self._go_on(connection, recording, self._endless[recording.id])

    def _complete(self, connection: sqlite3.Connection, recording: Recording) -> bool:
        """Read the rest of such an exchange that has ended; False: it is none, or it has to be read as a whole."""
        endless = self._endless.get(recording.id)
        if endless is None:
            reader = self._registry.choose(recording.head) if recording.is_forwarded and recording.is_tunnel else None
            if reader is None or not is_endless(reader):
                return False
            if connection.execute(_WAS_READ, (recording.id,)).fetchone():
                return False  # it is to be read again, in place of what there is
            endless = self._endless[recording.id] = Endless(reader, recording)
        if not endless.is_broken:
            self._go_on(connection, recording, endless)
        del self._endless[recording.id]
        return not endless.is_broken

    def _go_on(self, connection: sqlite3.Connection, recording: Recording, endless: Endless) -> None:
        """Feed and store what there is."""
        try:
            has_more = True
            while has_more:
                has_more = endless.feed(connection, recording)
                if endless.waiting or endless.is_complete:
                    self._append(connection, recording, endless)
                give_way()
        except (sqlite3.OperationalError, OSError):
            raise
        except Exception:
            self._forget()
            log.exception("exchange %d cannot be read by %s", recording.id, endless.reader.name)
            endless.is_broken = True

    def _append(self, connection: sqlite3.Connection, recording: Recording, endless: Endless) -> None:
        self._ready()
        assert self._rows is not None
        numbers = [number for number, _ in endless.waiting]
        so_far = recording if endless.is_complete else replace(recording, end=None)
        who = (endless.reader.name, endless.reader.version)
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            self._rows.add(Read(so_far, who, [reading for _, reading in endless.waiting]), numbers)
            self._rows.write()
            connection.execute("COMMIT")
        endless.waiting = []

    @property
    def is_watching(self) -> bool:
        """Whether it reads something that still runs."""
        return bool(self._live)

    # --- the connection -----------------------------------------------------------------------------------------------

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = open_for_writing(self._trace)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        if self._rows is None:
            self._rows = ReadingRows(
                self._connection,
                count_tokens=self._counter.count if self._counter is not None else None,
                prefix_sessions=self._settings.prefix_sessions,
            )
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """See to it that all tokens are counted by the same encoding."""
        encoding = self._settings.encoding
        before = connection.execute("SELECT value FROM read_settings WHERE name = 'encoding'").fetchone()
        if before == (encoding,):
            return
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO read_settings VALUES('encoding', ?)", (encoding,))
        recount(connection, self._counter.count if self._counter is not None else None)
        connection.execute("COMMIT")

    def _forget(self) -> None:
        self._rows = None
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()
