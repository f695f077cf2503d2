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
from pathlib import Path

from proxy.store.courtesy import NOBODY_ELSE

log = logging.getLogger(__name__)

LULL_S = 2.0
"""How long nothing may come until what there is is moved."""
_SHORT_LULL_S = 0.25
_SHORT_LULL_BYTES = 16 << 20
"""Of journal taken in since it was last moved: then so short a lull will do."""
_BUSY_BYTES = 128 << 20
"""Of log: it is moved while traffic flows."""
MOST_BYTES = 1 << 30
"""Of log: it is moved even while the journal grows faster than it is taken in."""
_MOST_OF_FREE = 4
"""And so is one that has a quarter of the disk's free bytes: moved, it takes as many again."""
_REST_PAGES = 1024
_MOST_PASSES = 3
_STOP_S = 5.0


class LogMover:
    """Moves the log while this is entered. All but the moving is for the thread that takes the journal in."""

    def __init__(self, trace: Path, turn: AbstractContextManager[object] = NOBODY_ELSE) -> None:
        """`turn` is held by who writes the trace: the end of a log that grows meanwhile is moved with it held."""
        self._trace = trace
        self._turn = turn
        self._taken_in = 0
        self._moved = 0
        """How much had been taken in when it was last moved, and when it had been written last."""
        self._moved_of_ns = 0
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
        self._thread.join(_STOP_S)

    @property
    def lull_s(self) -> float:
        """After how long a silence `lull` is to be called."""
        return _SHORT_LULL_S if self._taken_in - self._moved > _SHORT_LULL_BYTES else LULL_S

    def lull(self) -> None:
        """Nothing came for `lull_s`."""
        if self._written_ns() != self._moved_of_ns:
            self._is_wanted.set()

    def taken_in(self, size: int, *, is_behind: bool) -> None:
        """So many bytes of journal were; `is_behind`: there is much more already."""
        self._taken_in += size
        if self._taken_in - self._moved > _SHORT_LULL_BYTES:
            with contextlib.suppress(OSError):  # there is none, or the disk does not tell
                length = self._log().stat().st_size
                if length > _BUSY_BYTES and (not is_behind or length > self._limit()):
                    self._is_wanted.set()

    def _log(self) -> Path:
        trace = self._trace.resolve()  # SQLite has its files beside the file that a link leads to
        return trace.with_name(f"{trace.name}-wal")

    def _limit(self) -> int:
        return min(MOST_BYTES, shutil.disk_usage(self._trace.parent).free // _MOST_OF_FREE)

    def _written_ns(self) -> int:
        try:
            return self._log().stat().st_mtime_ns
        except OSError:  # there is none
            return 0

    def _run(self) -> None:
        while not self._is_stopping:
            self._is_wanted.wait()
            try:
                if not self._is_stopping:
                    self._move()
            except (sqlite3.Error, OSError) as error:  # what is written is safe where it is
                log.debug("%s: its write-ahead log stays as it is: %s", self._trace, error)
            self._is_wanted.clear()  # who wanted it meanwhile will say so again

    def _move(self) -> None:
        taken_in, written_ns = self._taken_in, self._written_ns()
        uri = f"{self._trace.resolve().as_uri()}?mode=rw"  # a trace that was taken away is not made anew
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # SQLite opens the log when it reads
            moved = 0
            for _ in range(_MOST_PASSES):
                pages, before = _checkpoint(connection), moved
                moved = pages
                if pages - before < _REST_PAGES:
                    break
            with self._turn:  # only a log that is moved whole begins anew
                _checkpoint(connection)
        self._moved, self._moved_of_ns = taken_in, written_ns


def _checkpoint(connection: sqlite3.Connection) -> int:
    """Move what no reader is in the way of; gives how many pages of the log are moved now."""
    _, _, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(moved)
