"""What was tampered with is found."""

import sqlite3
from pathlib import Path

import pytest

from proxy.exchange import Side
from proxy.store.verify import verify
from tests.store.journal_builder import Journal
from tests.store.test_ingest import ingest_whole


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A body, a stream, a WebSocket and a masked body."""
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    journal.exchange_of([b'{"model":"m"}'], [b'{"answer":1}'])
    journal.exchange_of(
        [b"{}"],
        [b'data: {"some":"thing","delta":"%d","to":"share in a frame"}\n\n' % n for n in range(6)],
        b"text/event-stream",
    )
    number = journal.open(is_websocket=True)
    journal.response(number, b"", status=b"101 Switching Protocols")
    journal.data(number, Side.UPSTREAM, b"\x81\x02hi")
    journal.close(number)
    journal.exchange_of([b'{"tools":[{"authorization":"secret"}]}'], [b"ok"])
    journal.write()
    ingest_whole(trace)
    return trace


def test_a_sound_trace_is_proven(trace: Path) -> None:
    report = verify(trace)
    assert report.is_ok, report.problems
    assert (report.exchanges, report.running, report.masked, report.incomplete) == (4, 0, 1, 0)


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE blobs SET data = replace(data, '1', '2') WHERE data LIKE '%answer%'", "blob 2 is not"),
        ("UPDATE heads SET fields = replace(fields, 'Host', 'Most')", "head 1 is not"),
        ("UPDATE chunk_frames SET tail = tail || ' '", "exchange 2: its response is not what was recorded"),
        ("DELETE FROM recorded_chunks WHERE exchange_id = 3", "exchange 3: its response has 0 chunks instead of 1"),
        ("DELETE FROM blobs WHERE id = 2", "body 2 has 0 of its 1 parts"),
        ("DELETE FROM bodies WHERE id = 1", "rows of recorded_exchanges name bodies that are not there"),
        ("UPDATE recorded_exchanges SET request_bytes = 14 WHERE id = 1", "has 13 bytes, the front counted 14"),
        ("UPDATE recorded_exchanges SET response_head = 99 WHERE id = 1", "name heads that are not there"),
    ],
)
def test_what_was_changed_is_found(trace: Path, sql: str, problem: str) -> None:
    with sqlite3.connect(trace) as connection:
        assert connection.execute(sql).rowcount
    connection.close()
    report = verify(trace)
    assert not report.is_ok
    assert any(problem in found for found in report.problems), report.problems


def test_altered_chunk_sizes_and_part_lists_are_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trace.db")
    number = journal.open()
    journal.data(number, Side.CLIENT, b"ask" * 300)
    journal.response(number)
    journal.data(number, Side.UPSTREAM, b"answer")
    journal.close(number)
    journal.write()
    ingest_whole(journal.trace)
    assert verify(journal.trace).is_ok
    connection = sqlite3.connect(journal.trace)
    connection.execute("UPDATE recorded_chunks SET middle = middle + 1 WHERE side = 0")
    connection.execute("UPDATE bodies SET parts = 'garbage' WHERE id = 2")
    connection.commit()
    connection.close()
    problems = "\n".join(verify(journal.trace).problems)
    assert "exchange 1: its request has chunks of 901 bytes, but a body of 900" in problems
    assert "body 2 has no readable list of parts" in problems
