"""The write-ahead log goes into the file beside the storing: when it is worth it, and however much flows."""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.exchange import Side
from proxy.record.journal import journal_folder
from proxy.store import log_mover, schema
from proxy.store.ingest import Ingest
from proxy.store.log_mover import LogMover
from proxy.store.schema import MOST_WAL_PAGES
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import KEY, START_WALL_NS, Journal

MIB = 1 << 20
LONG = 17 * MIB
"""Of journal: what may be moved in a short lull."""


class Storing:
    """A journal that is taken in."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        self.journal = Journal(trace)
        self.turn = threading.Lock()
        self.ingest = Ingest(trace, key=KEY, turn=self.turn)

    def mover(self) -> LogMover:
        """One for it."""
        return LogMover(self.ingest, self.turn)

    def store(self, mib: int) -> None:
        """So much, an exchange each."""
        for _ in range(mib):
            self.journal.exchange_of([b"{}"], [os.urandom(MIB)])
        self.journal.write()
        while self.ingest.run_once():
            pass

    def holds(self, mib: int) -> Callable[[], bool]:
        """Whether the file itself does."""
        return lambda: self.trace.stat().st_size > mib * MIB

    def log_size(self) -> int:
        """Of the write-ahead log."""
        return self.ingest.log_path.stat().st_size


@pytest.fixture
def storing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storing]:
    """With limits that are soon reached."""
    monkeypatch.setattr(log_mover, "_BUSY_BYTES", 2 * MIB)
    monkeypatch.setattr(log_mover, "MOST_BYTES", 8 * MIB)
    monkeypatch.setattr(schema, "_most_wal_pages", 1 << 20)
    storing = Storing(tmp_path / "t.db")
    yield storing
    storing.ingest.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """At most 20 s."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def is_moved_in_a_lull(mover: LogMover, storing: Storing, mib: int) -> Callable[[], bool]:
    """Whether it is, sooner or later."""

    def ask() -> bool:
        mover.lull()
        return storing.holds(mib)()

    return ask


def test_a_lull_moves_it_and_it_begins_anew(storing: Storing) -> None:
    with storing.mover() as mover:
        assert mover.lull_s == log_mover.LULL_S
        storing.store(3)
        mover.taken_in(LONG, can_wait=True)
        assert mover.lull_s < log_mover.LULL_S
        mover.lull()
        wait_for(storing.holds(3))
        wait_for(lambda: mover.lull_s == log_mover.LULL_S)
        size = storing.log_size()
        storing.store(2)
        assert storing.log_size() == size


def test_it_is_found_where_the_trace_is_a_link(tmp_path: Path, storing: Storing) -> None:
    storing.store(1)
    storing.ingest.close()
    (tmp_path / "elsewhere").mkdir()
    storing.trace.rename(tmp_path / "elsewhere" / "real.db")
    storing.trace.symlink_to(tmp_path / "elsewhere" / "real.db")
    storing.store(3)
    with storing.mover() as mover:
        mover.taken_in(LONG, can_wait=False)
        wait_for(storing.holds(4))


def test_its_own_length_counts_not_that_of_the_journal(storing: Storing) -> None:
    """A chunk of 200 bytes that comes alone writes some 8 KiB."""
    number = storing.journal.open()
    storing.journal.response(number, b"text/event-stream")
    with storing.mover() as mover:
        for step in range(3000):
            storing.journal.data(number, Side.UPSTREAM, b'data: {"choices":[{"delta":{"content":" %d"}}]}\n\n' % step)
            storing.journal.write()
            mover.taken_in(storing.ingest.run_once(), can_wait=False)
            if storing.trace.stat().st_size > 64 << 10:
                break
        else:
            pytest.fail("it is not moved")
    assert storing.journal.path.stat().st_size < MIB


@pytest.mark.parametrize(("can_wait", "short", "rest"), [(False, 1, 2), (True, 6, 3)])
def test_it_waits_for_a_lull_while_it_is_short_and_longer_where_it_would_be_in_the_way(
    storing: Storing, can_wait: bool, short: int, rest: int
) -> None:
    with storing.mover() as mover:
        storing.store(short)
        mover.taken_in(LONG, can_wait=can_wait)
        time.sleep(0.1)
        assert not storing.holds(1)()
        storing.store(rest)
        mover.taken_in(1, can_wait=can_wait)
        wait_for(storing.holds(short + rest))


def test_it_does_not_wait_where_the_disk_has_not_the_room(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mover, "_MOST_OF_FREE", shutil.disk_usage(storing.trace.parent).free // (4 * MIB))
    with storing.mover() as mover:
        storing.store(6)
        mover.taken_in(LONG, can_wait=True)
        wait_for(storing.holds(6))


def test_only_the_end_of_it_waits_for_who_writes(storing: Storing) -> None:
    with storing.mover() as mover:
        storing.store(3)
        with storing.turn:
            mover.taken_in(LONG, can_wait=False)
            wait_for(storing.holds(3))
            time.sleep(0.1)
            assert mover.lull_s < log_mover.LULL_S
        wait_for(lambda: mover.lull_s == log_mover.LULL_S)


def test_what_a_reader_held_back_is_moved_when_it_has_gone(storing: Storing) -> None:
    storing.store(1)
    reader = sqlite3.connect(storing.trace, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchone()
    storing.store(3)
    with storing.mover() as mover:
        mover.taken_in(LONG, can_wait=False)
        time.sleep(0.2)
        assert not storing.holds(3)()
        assert mover.lull_s < log_mover.LULL_S
        reader.close()
        wait_for(is_moved_in_a_lull(mover, storing, 4))


def test_a_trace_that_was_taken_away_is_not_made_anew(storing: Storing) -> None:
    storing.store(1)
    with storing.mover() as mover:
        away = storing.trace.rename(storing.trace.with_name("away.db"))
        mover.lull()
        time.sleep(0.1)
        assert not storing.trace.exists()
        away.rename(storing.trace)
        wait_for(is_moved_in_a_lull(mover, storing, 1))


@pytest.mark.parametrize("is_replaced", [True, False])
@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.1, 0.3])
def test_a_trace_that_is_moved_away_takes_its_log_with_it(storing: Storing, is_replaced: bool, delay_s: float) -> None:
    """And a trace that is put in its place keeps what it has."""
    other = Journal(storing.trace.with_name("other.db"), run_id=b"another-run-6789", wall_ns=START_WALL_NS - 10**15)
    for _ in range(20):
        other.exchange_of([b"{}"], [os.urandom(5000)])
    other.write()
    ingest = Ingest(other.trace, key=KEY)
    ingest.finish()
    ingest.close()
    storing.store(40)
    storing.journal.next_segment()
    storing.store(0)
    with storing.mover() as mover:
        mover.lull()
        time.sleep(delay_s)
        away = storing.trace.rename(storing.trace.with_name("away.db"))
        if is_replaced:
            other.trace.rename(storing.trace)
        mover.lull()
        time.sleep(0.05)
        storing.store(3)
        mover.lull()
        time.sleep(0.05)
    storing.ingest.close()
    storing.ingest.finish()
    storing.ingest.close()
    for trace, exchanges in ((away, 40), (storing.trace, 23 if is_replaced else 3)):
        with Trace.open(trace) as opened:
            assert len(opened.latest(100)) == exchanges
        report = verify(trace)
        assert report.is_ok, report.problems


def test_its_end_does_not_wait_for_a_long_log(storing: Storing) -> None:
    storing.store(200)
    with storing.mover() as mover:
        mover.lull()
        wait_for(storing.holds(1))
    assert not mover._thread.is_alive()
    assert not storing.holds(200)()
    storing.ingest.close()
    assert storing.holds(200)()


def test_it_ends_however_little_it_had_to_do(storing: Storing) -> None:
    for _ in range(20):
        with storing.mover() as mover:
            storing.store(1)
            mover.lull()
        assert not mover._thread.is_alive()


def test_who_has_no_mover_keeps_the_log_short(storing: Storing, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does the back when its front has gone: the rest may be more than the disk holds twice."""
    monkeypatch.setattr("proxy.store.ingest.MOST_WAL_PAGES", 1024)
    assert MOST_WAL_PAGES == 32_768
    for _ in range(30):
        storing.journal.exchange_of([b"{}"], [os.urandom(MIB)])
        storing.journal.next_segment()
    lengths = []
    unlink = Path.unlink

    def note(self: Path, missing_ok: bool = False) -> None:
        lengths.append(storing.log_size())
        unlink(self, missing_ok)

    storing.ingest._segments.batch_bytes = MIB
    monkeypatch.setattr(Path, "unlink", note)
    storing.ingest.finish()
    assert 4 * MIB < max(lengths) < 20 * MIB
    assert not list(journal_folder(storing.trace).iterdir())
