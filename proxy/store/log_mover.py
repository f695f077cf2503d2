"""The write-ahead log goes into the trace's file: in a thread, by a connection of its own, so that storing goes on.

It is best done when nothing flows: it syncs files, and where traffic and writer share a processor the kernel lets
nobody else run meanwhile. What is in the log is stored already, for every reader and across crashes.
"""

import contextlib
import logging
import shutil
import sqlite3
import threading
from contextlib import AbstractContextManager

from proxy.store.courtesy import NOBODY_ELSE
from proxy.store.ingest import Ingest

log = logging.getLogger(__name__)

LULL_S = 2.0
"""How long nothing may come until what there is is moved."""
_SHORT_LULL_S = 0.25
_SHORT_LULL_BYTES = 16 << 20
"""Of journal taken in since it was last moved: then so short a lull will do."""
_BUSY_BYTES = 128 << 20
"""Of log: it is moved while traffic flows."""
MOST_BYTES = 1 << 30
"""Of log: it is moved even where it is in the way."""
_MOST_OF_FREE = 4
"""And so is one that has a quarter of the disk's free bytes: moved, it takes as many again."""
_AGAIN_BYTES = 16 << 20
"""By so much it has to grow, if a reader was in the way, until that is tried again while traffic flows."""
_REST_PAGES = 1024
_MOST_PASSES = 3
_STOP_S = 5.0


class LogMover:
    """Moves the log while this is entered. All but the moving is for the thread that takes the journal in."""

    def __init__(self, ingest: Ingest, turn: AbstractContextManager[object] = NOBODY_ELSE) -> None:
        """`turn` is held by who writes the trace: the end of a log that grows meanwhile is moved with it held."""
        self._ingest = ingest
        self._turn = turn
        self._taken_in = 0
        self._moved = 0
        """How much had been taken in when it was last moved, and when it had been written last."""
        self._moved_of_ns = 0
        self._again_at = 0
        self._connection: sqlite3.Connection | None = None
        self._is_wanted = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="moving the log", daemon=True)

    def __enter__(self) -> "LogMover":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is left is moved when the trace is closed."""
        self._is_stopping = True
        self._is_wanted.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed by now
                connection.interrupt()
        self._thread.join(_STOP_S)

    @property
    def lull_s(self) -> float:
        """After how long a silence `lull` is to be called."""
        return _SHORT_LULL_S if self._taken_in - self._moved > _SHORT_LULL_BYTES else LULL_S

    def lull(self) -> None:
        """Nothing came for `lull_s`."""
        if self._written_ns() != self._moved_of_ns:
            self._is_wanted.set()

    def taken_in(self, size: int, *, can_wait: bool) -> None:
        """So many bytes of journal were; `can_wait`: just now it would be in the way."""
        self._taken_in += size
        with contextlib.suppress(OSError):  # there is none, or the disk does not tell
            length = self._ingest.log_path.stat().st_size  # short records write many times their length
            if length <= _BUSY_BYTES:
                self._again_at = 0
            elif length >= self._again_at and (not can_wait or length > self._limit()):
                self._is_wanted.set()

    def _limit(self) -> int:
        return min(MOST_BYTES, shutil.disk_usage(self._ingest.log_path.parent).free // _MOST_OF_FREE)

    def _written_ns(self) -> int:
        try:
            return self._ingest.log_path.stat().st_mtime_ns
        except OSError:  # there is none
            return 0

    def _run(self) -> None:
        while not self._is_stopping:
            self._is_wanted.wait()
            try:
                if not self._is_stopping:
                    self._move()
            except (sqlite3.Error, OSError) as error:  # what is written is safe where it is
                log.debug("the write-ahead log stays as it is: %s", error)
            self._connection = None
            self._is_wanted.clear()  # who wanted it meanwhile will say so again

    def _move(self) -> None:
        taken_in, written_ns = self._taken_in, self._written_ns()
        with self._ingest.beside() as connection:
            if connection is None:
                return
            self._connection = connection
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # SQLite opens the log when it reads
            moved = 0
            for _ in range(_MOST_PASSES):
                before, (_, _, moved) = moved, _checkpoint(connection)
                if moved - before < _REST_PAGES or self._is_stopping:
                    break
            if self._is_stopping:
                return
            with self._turn:  # only a log that is moved whole begins anew
                is_refused, pages, moved = _checkpoint(connection)
        with contextlib.suppress(OSError):
            self._again_at = self._ingest.log_path.stat().st_size + _AGAIN_BYTES
        if not is_refused and moved == pages:
            self._moved, self._moved_of_ns = taken_in, written_ns


def _checkpoint(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Move what no reader is in the way of: (was it refused, pages in the log, how many are moved now)."""
    is_refused, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return is_refused, pages, moved
