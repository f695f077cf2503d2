"""The journal goes into the trace: every record exactly once, whatever happens in between.

A batch, or a few that lie ready, is one transaction, and the position in the journal is committed with it. All that is
needed to go on is in the trace; what is kept in memory is only a copy. After any failure the copy is thrown away and
made again, which is the same as a restart.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from proxy.errors import InUseError
from proxy.record.journal import journal_folder
from proxy.store.courtesy import NOBODY_ELSE
from proxy.store.intake import Intake
from proxy.store.masked import SecretPaths
from proxy.store.schema import MOST_WAL_PAGES, open_for_writing
from proxy.store.sealed import teach
from proxy.store.segments import Batch, Segments

HOLD_BYTES = 32 << 20
"""So much of unfinished bodies is kept in memory, as their ends may lie ready already: to stage them is dear."""
_LEAST_BYTES = 256 << 10
"""What is less is staged: what ended meanwhile should not have to wait for it."""
_MOST_BYTES = 128 << 20
"""Of journal in one transaction for that reason: for so long what ended in it cannot be seen."""
_UNENDED_RUNS = """
SELECT id FROM runs WHERE ended IS NULL UNION SELECT run FROM recorded_exchanges WHERE outcome IS NULL"""


def hold_writer_lock(trace: Path) -> FileLock:
    """The lock that makes its holder the only writer of the trace; release it at the end.

    Raises:
        InUseError: another process holds it.
    """
    lock = FileLock(trace.with_name(trace.name + ".writer.lock"), mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InUseError(f"another proxy-log process is writing the trace {trace}; it takes the journal in") from None
    return lock


class Ingest:
    """Takes the journal of one trace in. Its owner must hold the writer lock."""

    def __init__(
        self,
        trace: Path,
        *,
        key: bytes,
        body_fields: tuple[str, ...] = (),
        living_run: int | None = None,
        turn: AbstractContextManager[object] = NOBODY_ELSE,
    ) -> None:
        """`body_fields`: paths of the secrets inside bodies, `key` that of their digests.

        `living_run` is the start (wall ns) of the run whose front lives and may still write; None: the newest there is.
        `turn` is held while the trace is written, so that other threads of this process do not get in its way.
        """
        self._turn = turn
        self._trace = trace
        self._secrets = SecretPaths(body_fields, key)
        self._key = key
        self._segments = Segments(journal_folder(trace), living_run)
        self.least_bytes, self.hold_bytes = _LEAST_BYTES, HOLD_BYTES
        self._is_log_short = False
        self._files = threading.Lock()
        """Held while the trace's files are opened or closed, and by `beside`."""
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._state: Intake | None = None

    def run_once(self) -> int:
        """Take in one batch, or a few; gives how many bytes of journal it was, 0 if there is nothing new.

        Raises:
            sqlite3.OperationalError, OSError: it could not be written or read (locked, disk full); nothing is lost,
                call again later.
        """
        try:
            return self._take_in()
        except BaseException:
            self._forget()
            raise

    def waiting_bytes(self) -> int:
        """How much journal there is to take in."""
        return self._segments.waiting_bytes()

    def front_is_dead(self) -> None:
        """Nobody writes the journal any more: what is left can be taken in to its very end. From any thread."""
        self._segments.front_is_dead()

    def finish(self) -> None:
        """Take in everything, then end what is unfinished; the front must be dead. May be called again if it raises."""
        self.front_is_dead()
        self._is_log_short = True  # the disk may not hold twice what is left
        if self._connection is not None:
            self._keep_log_short(self._connection)
        while self.run_once():
            pass
        try:
            state = self._ready()
            self._end_runs(state, but=None)
        except BaseException:
            self._forget()
            raise

    @property
    def log_path(self) -> Path:
        """The write-ahead log: SQLite has it beside the file that a link leads to."""
        return Path(f"{os.path.realpath(self._trace)}-wal")

    @contextlib.contextmanager
    def beside(self) -> Iterator[sqlite3.Connection | None]:
        """Another connection to the file that is being written, for another thread; None where there is none.

        Meanwhile nobody goes on to another file: who opened the file that has the name now, beside the log of the one
        that had it before, would put that log into the wrong file.

        Raises:
            sqlite3.OperationalError: as `run_once`.
        """
        with self._files:
            if self._connection is None:
                yield None
                return
            uri = f"{Path(os.path.realpath(self._trace)).as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                yield connection if _identity(self._trace) == self._identity else None

    def close(self) -> None:
        """Let go of the trace."""
        self._forget()
        if self._connection is not None:
            with self._files:
                # SQLite does this with the last connection, but that may be a reader's, which cannot.
                with contextlib.suppress(sqlite3.OperationalError):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.close()
                self._connection = None

    def _keep_log_short(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_WAL_PAGES}")

    def _ready(self) -> Intake:
        if self._connection is not None and _identity(self._trace) != self._identity:
            self.close()  # the file was moved or deleted: what comes now belongs in the one that bears its name
        if self._connection is None:
            with self._files:
                self._connection = open_for_writing(self._trace)
                self._identity = _identity(self._trace)
            if self._is_log_short:
                self._keep_log_short(self._connection)
            teach(self._connection, self._key)
        if self._state is None:
            self._state = Intake(self._connection, self._secrets)
            position = self._connection.execute(
                "SELECT segment, offset, first_segment FROM journal_position"
            ).fetchone()
            self._segments.seek(*(position or (None, 0)))
        return self._state

    def _forget(self) -> None:
        self._state = None
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()

    def _take_in(self) -> int:
        state = self._ready()
        batch = self._segments.read()
        if batch is None:
            return 0
        connection = state.connection
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            first = batch
            batch, size = self._put(state, batch)
            connection.execute(
                "INSERT OR REPLACE INTO journal_position VALUES(1, ?, ?, ?)",
                (batch.segment, batch.offset, first.segment),
            )
            connection.execute("COMMIT")
        if batch.is_run_done or state.has_begun_run:
            state.has_begun_run = False
            is_over = batch.is_run_done and batch.header is not None
            self._end_runs(state, but=None if is_over else state.run)
        self._segments.committed(batch)
        return max(size, 1)

    def _put(self, state: Intake, batch: Batch) -> tuple[Batch, int]:
        """Take in a batch, and those that lie behind it already while bodies may end in them; the last, all sizes."""
        state.take(batch)
        size = batch.size
        while self.least_bytes <= state.held_bytes <= self.hold_bytes and size + batch.size <= _MOST_BYTES:
            following = self._segments.read_on(batch)
            if following is None:
                break
            batch = following
            state.take(batch)
            size += batch.size
        state.save_held()
        return batch, size

    def _end_runs(self, state: Intake, but: int | None) -> None:
        """End what is unfinished of all runs but one: they are taken in one after the other."""
        for (run,) in state.connection.execute(_UNENDED_RUNS).fetchall():
            if run != but:
                self._end_run(state, run)

    def _end_run(self, state: Intake, run: int) -> None:
        """End what is unfinished of a run, in transactions of bounded size."""
        connection = state.connection
        while True:
            connection.execute("BEGIN IMMEDIATE")
            is_rest = state.interrupt_some(run)
            if not is_rest:
                connection.execute("UPDATE runs SET ended = 'interrupted' WHERE id = ? AND ended IS NULL", (run,))
            connection.execute("COMMIT")
            if not is_rest:
                return


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another that later has its name."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
