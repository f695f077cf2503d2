"""Segments are read to their end, once, and removed only when nothing can follow."""

import os
from pathlib import Path

import pytest

from proxy.errors import InUseError
from proxy.exchange import Outcome, Side
from proxy.record.journal import journal_folder
from proxy.store.ingest import Ingest, hold_writer_lock
from proxy.store.trace import Trace
from tests.store.journal_builder import KEY, Journal
from tests.store.test_ingest import FIELDS


def taking(trace: Path, living_run: int | None = None) -> Ingest:
    """A fresh ingest, as after a start of the back."""
    return Ingest(trace, key=KEY, body_fields=FIELDS, living_run=living_run)


def take_all(ingest: Ingest) -> None:
    """What there is now."""
    while ingest.run_once():
        pass


def segments(trace: Path) -> list[str]:
    """The segments that are still there."""
    return sorted(path.name for path in journal_folder(trace).iterdir())


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def test_the_segment_of_a_living_front_stays(trace: Path) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.write()
    ingest = taking(trace)
    take_all(ingest)
    assert segments(trace) == [journal.path.name]
    journal.exchange_of([b"c"], [b"d"])
    journal.write()
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        assert [row.id for row in opened.latest(9)] == [1, 2]


def test_a_finished_segment_goes_after_its_commit(trace: Path) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.next_segment()
    journal.write()
    ingest = taking(trace)
    take_all(ingest)
    ingest.close()
    assert segments(trace) == [journal.path.name]


def test_a_half_written_record_is_waited_for_while_the_front_lives(trace: Path) -> None:
    journal = Journal(trace)
    number = journal.exchange_of([b"a"], [b"b"])
    whole = journal.header() + b"".join(journal.packed)
    journal.packed = []
    journal.write()
    ingest = taking(trace)
    for end in range(0, len(whole), 7):
        journal.path.write_bytes(whole[:end])
        take_all(ingest)
    journal.path.write_bytes(whole)
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        assert not opened.gaps()
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"b"


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_half_written_record_is_a_gap_when_nothing_can_follow(trace: Path, is_followed: bool) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.write()
    with journal.path.open("r+b") as file:
        file.truncate(journal.path.stat().st_size - 3)
    if is_followed:
        journal.next_segment()
        journal.write()
    ingest = taking(trace)
    take_all(ingest)
    if not is_followed:
        ingest.finish()
    ingest.close()
    with Trace.open(trace) as opened:
        assert len(opened.gaps()) == 1
        assert "ends inside a record" in opened.gaps()[0].reason


def test_a_crash_between_commit_and_removal_changes_nothing(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.write()
    with journal.path.open("ab") as file:
        file.write(b"torn")
    journal.next_segment()
    journal.exchange_of([b"c"], [b"d"])
    journal.write()

    def killed(self: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        ingest = taking(trace)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                take_all(ingest)
        ingest.close()
    ingest = taking(trace)
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        assert len(opened.gaps()) == 1
        assert [row.id for row in opened.latest(9)] == [1, 2]


def body_across_segments(trace: Path) -> int:
    """A long body, in three segments; the number of its exchange."""
    journal = Journal(trace)
    number = journal.open()
    for letter in (b"x", b"y", b"z"):
        journal.data(number, Side.CLIENT, letter * 300_000)
        journal.next_segment()
    journal.response(number)
    journal.close(number)
    journal.write()
    return number


def test_a_body_across_segments_is_taken_in_at_once(trace: Path) -> None:
    """To stage it and to read it again would take three times as long."""
    number = body_across_segments(trace)
    ingest = taking(trace)
    assert ingest.run_once() > 900_000
    assert len(segments(trace)) == 1
    assert ingest.run_once() == 0
    ingest.close()
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.CLIENT)) == b"x" * 300_000 + b"y" * 300_000 + b"z" * 300_000
        assert not opened.gaps()


@pytest.mark.parametrize("removed", [0, 1, 2, 3])
def test_a_crash_before_all_of_several_segments_are_removed_changes_nothing(
    trace: Path, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = body_across_segments(trace)
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if len(segments(trace)) == 4 - removed:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    ingest = taking(trace)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        if removed < 3:
            with pytest.raises(KeyboardInterrupt):
                take_all(ingest)
        else:
            take_all(ingest)
    assert len(segments(trace)) == 4 - removed
    ingest.close()
    ingest = taking(trace)
    take_all(ingest)
    ingest.finish()
    ingest.close()
    assert segments(trace) == []
    with Trace.open(trace) as opened:
        assert len(b"".join(opened.body(number, Side.CLIENT))) == 900_000
        assert not opened.gaps()
        assert [row.id for row in opened.latest(9)] == [number]


def test_a_segment_that_somebody_puts_back_is_not_taken_for_one_that_a_crash_left(trace: Path) -> None:
    journal = Journal(trace)
    ingest = taking(trace)
    first = journal.path
    for _ in range(3):
        journal.exchange_of([b"a"], [b"b"])
        journal.next_segment()
        journal.exchange_of([b"c"], [b"d"])
        journal.write()
        take_all(ingest)
    ingest.close()
    first.write_bytes(b"PXYLOG")
    taking(trace)._ready()
    assert segments(trace) == [first.name, journal.path.name]


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_run_is_taken_in_to_its_end_before_another_though_the_clock_was_set_back(
    trace: Path, is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Journal(trace)
    first.exchange_of([b"{}"], [b"first"])
    first.write()
    ingest = taking(trace, living_run=first.wall_ns)
    take_all(ingest)
    ingest.close()
    number = first.open()
    first.data(number, Side.CLIENT, b"x" * 300_000)
    first.next_segment()
    first.data(number, Side.CLIENT, b"y" * 300_000)
    first.response(number)
    first.close(number)
    first.write()
    earlier = Journal(trace, wall_ns=first.wall_ns - 10**15, run_id=b"another run 0123")
    other = earlier.open()
    earlier.data(other, Side.CLIENT, b"z" * 400_000)
    earlier.next_segment()
    earlier.response(other)
    earlier.close(other)
    earlier.write()
    living = Journal(trace, wall_ns=first.wall_ns + 10**15, run_id=b"the third run 01")
    living.exchange_of([b"{}"], [b"last"])
    living.write()
    ingest = taking(trace, living_run=living.wall_ns)
    if is_killed:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", None)
            with pytest.raises(TypeError):
                ingest.run_once()
        ingest.close()
        ingest = taking(trace, living_run=living.wall_ns)
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        rows = opened.latest(9)
        assert [(row.id, row.run, row.request_bytes, row.outcome) for row in rows] == [
            (1, 1, 2, Outcome.COMPLETED),
            (2, 1, 600_000, Outcome.COMPLETED),
            (3, 2, 400_000, Outcome.COMPLETED),
            (4, 3, 2, Outcome.COMPLETED),
        ]
        assert not opened.gaps()


def test_runs_are_taken_in_one_after_the_other_and_their_ids_go_on(trace: Path) -> None:
    first = Journal(trace)
    first.exchange_of([b"a"], [b"b"])
    unfinished = first.open()
    first.write()
    second = Journal(trace, wall_ns=first.wall_ns + 10, run_id=b"another run 0123")
    second.exchange_of([b"c"], [b"d"])
    second.write()
    ingest = taking(trace)
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        rows = opened.latest(9)
        assert [(row.id, row.run) for row in rows] == [(1, 1), (unfinished, 1), (3, 2)]
        assert rows[1].outcome == Outcome.INTERRUPTED
        runs = opened.connection.execute("SELECT ended FROM runs").fetchall()
        assert runs == [("interrupted",), (None,)]
    assert segments(trace) == [second.path.name]


def test_the_living_run_is_known_by_its_start_even_if_the_clock_was_set_back(trace: Path) -> None:
    left_over = Journal(trace, wall_ns=2_000_000_000_000_000_000)
    left_over.open()
    left_over.write()
    living = Journal(trace, wall_ns=1_000_000_000_000_000_000, run_id=b"another run 0123")
    living.open()
    living.write()
    ingest = taking(trace, living_run=living.wall_ns)
    take_all(ingest)
    ingest.close()
    assert segments(trace) == [living.path.name]
    with Trace.open(trace) as opened:
        assert [row.outcome for row in opened.latest(9)] == [Outcome.INTERRUPTED, None]


def test_a_run_that_ended_in_order_is_told_so(trace: Path) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.open()
    journal.end()
    journal.write()
    ingest = taking(trace)
    take_all(ingest)
    ingest.finish()
    ingest.close()
    assert segments(trace) == []
    with Trace.open(trace) as opened:
        assert opened.connection.execute("SELECT ended FROM runs").fetchall() == [("in order",)]
        assert [row.outcome for row in opened.latest(9)] == [Outcome.COMPLETED, Outcome.INTERRUPTED]


def test_a_dead_fronts_back_leaves_the_next_fronts_run_alone(trace: Path) -> None:
    old = Journal(trace)
    old.exchange_of([b"a"], [b"b"])
    old.write()
    ingest = taking(trace)
    take_all(ingest)
    ingest.front_is_dead()
    new = Journal(trace, wall_ns=old.wall_ns + 10, run_id=b"another run 0123")
    new.exchange_of([b"c"], [b"d"])
    new.write()
    ingest.finish()
    ingest.close()
    assert segments(trace) == [new.path.name]
    with Trace.open(trace) as opened:
        assert len(opened.latest(9)) == 1


def test_a_record_longer_than_a_batch_is_read(trace: Path) -> None:
    journal = Journal(trace)
    body = os.urandom(9_000_000)
    number = journal.exchange_of([body], [b"ok"])
    journal.write()
    ingest = taking(trace)
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.CLIENT)) == body


def test_a_trace_that_is_deleted_meanwhile_is_made_anew(trace: Path) -> None:
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.write()
    ingest = taking(trace)
    take_all(ingest)
    for path in trace.parent.glob("t.db*"):
        if path.is_file():
            path.unlink()
    take_all(ingest)
    ingest.close()
    with Trace.open(trace) as opened:
        assert [row.outcome for row in opened.latest(9)] == [Outcome.COMPLETED]


def test_there_is_one_writer(trace: Path) -> None:
    lock = hold_writer_lock(trace)
    with pytest.raises(InUseError, match="another proxy-log process"):
        hold_writer_lock(trace)
    lock.release()
    hold_writer_lock(trace).release()
