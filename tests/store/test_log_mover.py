"""The write-ahead log goes into the file beside the storing: when it is worth it, and however much flows."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.store import log_mover
from proxy.store.log_mover import LogMover
from proxy.store.schema import open_for_writing

MIB = 1 << 20
LONG = 17 * MIB
"""Of journal: what may be moved in a short lull."""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


@pytest.fixture
def writer(trace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """With limits that are soon reached."""
    monkeypatch.setattr(log_mover, "_BUSY_BYTES", 2 * MIB)
    monkeypatch.setattr(log_mover, "MOST_BYTES", 8 * MIB)
    connection = open_for_writing(trace)
    connection.execute("CREATE TABLE t(x)")
    yield connection
    connection.close()


def write(writer: sqlite3.Connection, mib: int) -> None:
    """So much, a transaction each."""
    for _ in range(mib):
        writer.execute("INSERT INTO t VALUES(?)", (os.urandom(MIB),))


def log_size(trace: Path) -> int:
    """Of the write-ahead log."""
    return trace.with_name("t.db-wal").stat().st_size


def holds(trace: Path, mib: int) -> Callable[[], bool]:
    """Whether the file itself does."""
    return lambda: trace.stat().st_size > mib * MIB


def wait_for(condition: Callable[[], bool]) -> None:
    """At most 20 s."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_lull_moves_it_and_it_begins_anew(trace: Path, writer: sqlite3.Connection) -> None:
    with LogMover(trace) as mover:
        assert mover.lull_s == log_mover.LULL_S
        write(writer, 3)
        mover.taken_in(LONG, is_behind=False)
        assert mover.lull_s < log_mover.LULL_S
        mover.lull()
        wait_for(holds(trace, 3))
        wait_for(lambda: mover.lull_s == log_mover.LULL_S)
        size = log_size(trace)
        write(writer, 2)
        assert log_size(trace) == size


def test_it_is_found_where_the_trace_is_a_link(trace: Path, writer: sqlite3.Connection) -> None:
    link = trace.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(trace)
    write(writer, 3)
    with LogMover(link) as mover:
        mover.taken_in(LONG, is_behind=False)
        wait_for(holds(trace, 3))


def test_it_waits_for_a_lull_while_it_is_short(trace: Path, writer: sqlite3.Connection) -> None:
    with LogMover(trace) as mover:
        write(writer, 1)
        mover.taken_in(LONG, is_behind=False)
        time.sleep(0.1)
        assert not holds(trace, 1)()
        write(writer, 2)
        mover.taken_in(1, is_behind=False)
        wait_for(holds(trace, 3))


def test_it_waits_longer_while_much_is_to_be_taken_in(trace: Path, writer: sqlite3.Connection) -> None:
    with LogMover(trace) as mover:
        write(writer, 6)
        mover.taken_in(LONG, is_behind=True)
        time.sleep(0.1)
        assert not holds(trace, 1)()
        write(writer, 3)
        mover.taken_in(1, is_behind=True)
        wait_for(holds(trace, 9))


def test_it_does_not_wait_where_the_disk_has_not_the_room(
    trace: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = os.statvfs(trace.parent).f_bavail * os.statvfs(trace.parent).f_frsize
    monkeypatch.setattr(log_mover, "_MOST_OF_FREE", free // (4 * MIB))
    with LogMover(trace) as mover:
        write(writer, 6)
        mover.taken_in(LONG, is_behind=True)
        wait_for(holds(trace, 6))


def test_only_the_end_of_it_waits_for_who_writes(trace: Path, writer: sqlite3.Connection) -> None:
    turn = threading.Lock()
    with LogMover(trace, turn) as mover:
        with turn:
            write(writer, 3)
            mover.taken_in(LONG, is_behind=False)
            wait_for(holds(trace, 3))
            assert mover.lull_s < log_mover.LULL_S
            write(writer, 2)
        wait_for(holds(trace, 5))
        wait_for(lambda: mover.lull_s == log_mover.LULL_S)


def test_a_trace_that_was_taken_away_is_not_made_anew(trace: Path, writer: sqlite3.Connection) -> None:
    write(writer, 1)
    with LogMover(trace) as mover:
        away = trace.rename(trace.with_name("away.db"))
        mover.lull()
        time.sleep(0.1)
        assert not trace.exists()
        away.rename(trace)

        def is_moved_in_the_next_lull() -> bool:
            mover.lull()
            return holds(trace, 1)()

        wait_for(is_moved_in_the_next_lull)


def test_it_ends_at_once(trace: Path, writer: sqlite3.Connection) -> None:
    for _ in range(50):
        with LogMover(trace) as mover:
            write(writer, 1)
            mover.lull()
        assert not mover._thread.is_alive()
