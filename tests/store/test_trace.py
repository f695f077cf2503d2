"""Reading the trace: what the command line and the pages ask, and the views that users have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.exchange import Outcome, Side
from proxy.record.journal import Gap, Kind
from proxy.store.chunks import MAX_MIDDLE_BYTES
from proxy.store.ingest import Ingest
from proxy.store.trace import Trace
from tests.store.journal_builder import KEY, Journal
from tests.store.test_ingest import FIELDS
from tests.store.test_masked import mask

EVENT = b'data: {"id":"c-1","object":"chunk","choices":[{"delta":{"content":"%d"}}]}\n\n'


class Live:
    """A journal and the ingest behind it."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.ingest = Ingest(path, key=KEY, body_fields=FIELDS)

    def take_in(self) -> None:
        """What was added is in the trace afterwards."""
        self.journal.write()
        while self.ingest.run_once():
            pass


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path / "t.db")
    made.take_in()
    yield made
    made.ingest.close()


@pytest.fixture
def trace(live: Live) -> Iterator[Trace]:
    with Trace.open(live.journal.trace) as opened:
        yield opened


def test_exchanges_come_oldest_first(live: Live, trace: Trace) -> None:
    for _ in range(5):
        live.journal.exchange_of([b"{}"], [b"{}"])
    live.journal.open()
    live.take_in()
    assert [row.id for row in trace.latest(3)] == [4, 5, 6]
    assert [row.id for row in trace.after(2, limit=2)] == [3, 4]
    assert [row.id for row in trace.unfinished()] == [6]
    assert trace.exchange(7) is None


def test_a_row_tells_what_happened(live: Live, trace: Trace) -> None:
    journal = live.journal
    number = journal.open(b"/v1/chat/completions?x=%7e")
    journal.data(number, Side.CLIENT, b'{"model":"m"}')
    journal.add(Kind.INTERIM, number, b"HTTP/1.1 103 Early Hints\r\nLink: </a>")
    journal.response(number, status=b"404 Not Here", fields=b"\r\nSet-Cookie: a\r\nset-cookie:  b ")
    journal.data(number, Side.UPSTREAM, b"no")
    journal.add(Kind.UPSTREAM_TRAILERS, number, b"X-Sum: 1")
    journal.close(number, Outcome.CLIENT_GONE, "the client left")
    live.take_in()
    row = trace.exchange(number)
    assert row is not None
    assert (row.method, row.path, row.http_version) == ("POST", "/v1/chat/completions?x=%7e", "1.1")
    assert (row.status, row.reason, row.model) == (404, "Not Here", "m")
    assert (row.outcome, row.error) == ("client_gone", "the client left")
    assert (row.request_bytes, row.response_bytes, row.request_chunks, row.response_chunks) == (13, 2, 1, 1)
    assert row.started_at == "2025-10-09T08:53:20.000100Z"
    assert row.duration_ms == 0.6
    assert row.interim_heads == '[[103,[["Link","</a>"]]]]'
    assert row.response_trailers == '[["X-Sum","1"]]'
    assert row.response_headers is not None
    assert row.response_headers.endswith('["Set-Cookie","a"],["set-cookie","b"]]')


def test_a_stream_can_be_followed_while_it_runs(live: Live, trace: Trace) -> None:
    journal = live.journal
    number = journal.open()
    journal.data(number, Side.CLIENT, b'{"model":"m","stream":true}')
    journal.response(number, b"text/event-stream")
    seen = -1
    for step in range(7):
        version = trace.data_version()
        journal.data(number, Side.UPSTREAM, EVENT % step)
        live.take_in()
        assert trace.data_version() != version
        (chunk,) = trace.chunks(number, Side.UPSTREAM, seen)
        assert chunk.data == EVENT % step
        seen = chunk.seq
    row = trace.exchange(number)
    assert row is not None
    assert (row.model, row.outcome, row.status) == ("m", None, 200)
    assert b"".join(trace.body(number, Side.CLIENT)) == b'{"model":"m","stream":true}'
    assert len(list(trace.body(number, Side.UPSTREAM))) == 7


def test_chunks_of_both_sides_come_by_time(live: Live, trace: Trace) -> None:
    number = live.journal.exchange_of([b"a", b"b"], [EVENT % 1, EVENT % 2], b"text/event-stream")
    live.take_in()
    chunks = list(trace.chunks(number))
    assert [(chunk.side, chunk.seq, chunk.data) for chunk in chunks] == [
        (Side.CLIENT, 0, None),
        (Side.CLIENT, 1, None),
        (Side.UPSTREAM, 0, EVENT % 1),
        (Side.UPSTREAM, 1, EVENT % 2),
    ]
    assert [chunk.at_us for chunk in chunks] == [100, 200, 30_300, 60_300]


def test_many_short_reads_are_a_stream_whatever_the_head_says(live: Live, trace: Trace) -> None:
    number = live.journal.exchange_of([b"{}"], [b"one", b"two", b"three", b"four"])
    live.take_in()
    assert [chunk.data for chunk in trace.chunks(number, Side.UPSTREAM)] == [b"one", b"two", b"three", b"four"]


@pytest.mark.parametrize("filler", [b"x", "\u00fc".encode(), b"\xff"])
def test_long_reads_of_a_stream_lie_apart_and_come_out_as_they_were(live: Live, trace: Trace, filler: bytes) -> None:
    reads = [EVENT % 1, EVENT % 2, EVENT % 3 + filler * 1000 + b"\n\n", filler * 90_000 + b"\n", EVENT % 4]
    number = live.journal.exchange_of([b"{}"], reads, b"text/event-stream")
    live.take_in()
    assert [chunk.data for chunk in trace.chunks(number, Side.UPSTREAM)] == reads
    shown = trace.connection.execute(
        "SELECT CAST(text AS BLOB), bytes, typeof(text) FROM chunks WHERE exchange_id = ? AND side = 'upstream'"
        " ORDER BY seq",
        (number,),
    ).fetchall()
    kind = "blob" if filler == b"\xff" else "text"
    assert shown == [(read, len(read), kind if filler in read else "text") for read in reads]
    # Above some 1,000 bytes SQLite would read a neighbour's row whole to find the next one's place.
    (longest,) = trace.connection.execute("SELECT max(length(middle)) FROM recorded_chunks").fetchone()
    assert longest <= MAX_MIDDLE_BYTES


def test_secrets_in_bodies_do_not_reach_the_trace(live: Live, trace: Trace) -> None:
    secret = b'{"tools":[{"type":"mcp","headers":{"Authorization":"Bearer very-secret"}}]}'
    number = live.journal.exchange_of(
        [secret[:50], secret[50:]], [b"data: " + secret[:60], secret[60:] + b"\n\n"], b"text/event-stream"
    )
    echo = live.journal.exchange_of([b"{}"], [secret])
    live.take_in()
    expected = secret.replace(b"Bearer very-secret", mask(b"Bearer very-secret"))
    assert b"".join(trace.body(number, Side.CLIENT)) == expected
    assert b"".join(trace.body(number, Side.UPSTREAM)) == b"data: " + expected + b"\n\n"
    assert b"".join(trace.body(echo, Side.UPSTREAM)) == expected
    assert [row.masked for row in trace.latest(2)] == [2, 1]
    live.ingest.close()
    for path in live.journal.trace.parent.glob("t.db*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes()


def test_gaps_are_found_by_exchange_and_by_what_is_new(live: Live, trace: Trace) -> None:
    number = live.journal.open()
    live.journal.gap(number, Gap(live.journal.now_ns, 0, 1, 10, 0, reason="first"))
    live.journal.gap(0, Gap(live.journal.now_ns, 3, 9, 0, 0, reason="second"))
    live.take_in()
    assert [gap.reason for gap in trace.gaps()] == ["first", "second"]
    assert [gap.reason for gap in trace.gaps(number)] == ["first"]
    assert [gap.reason for gap in trace.gaps(after=1)] == ["second"]
    row = trace.exchange(number)
    assert row is not None
    assert row.gaps == 1


def test_websocket_messages_have_a_view(live: Live, trace: Trace) -> None:
    journal = live.journal
    number = journal.open(b"/llm", method=b"GET", is_websocket=True)
    journal.response(number, b"", status=b"101 Switching Protocols")
    journal.data(number, Side.CLIENT, b'\x81\x9d\0\0\0\0{"a":"[masked:0123456')
    journal.data(number, Side.CLIENT, b'789ab]"}')
    journal.data(number, Side.UPSTREAM, b"\x89\x01p\x82\x02\xff\x00\x88\x05\x0f\xa1bye")
    journal.close(number)
    live.take_in()
    rows = trace.connection.execute(
        "SELECT side, seq, kind, text, bytes, close_code, close_reason FROM websocket_messages ORDER BY side, seq"
    ).fetchall()
    assert rows == [
        ("client", 0, "text", '{"a":"[masked:0123456789ab]"}', 29, None, None),
        ("upstream", 0, "ping", "p", 1, None, None),
        ("upstream", 1, "binary", b"\xff\x00", 2, None, None),
        ("upstream", 2, "close", b"\x0f\xa1bye", 5, 4001, "bye"),
    ]
    assert [(row.kind, row.masked) for row in trace.latest(1)] == [("websocket", 1)]


def test_totals_by_model(live: Live, trace: Trace) -> None:
    journal = live.journal
    for model in (b"a", b"b", b"a"):
        journal.exchange_of([b'{"model":"%b"}' % model], [b"{}"])
    number = journal.open()
    journal.close(number, Outcome.UPSTREAM_UNREACHABLE)
    live.take_in()
    found = trace.connection.execute("SELECT model, exchanges, completed, failed FROM models ORDER BY 1").fetchall()
    assert found == [("", 1, 0, 1), ("a", 2, 2, 0), ("b", 1, 1, 0)]


def test_headers_have_a_view(live: Live, trace: Trace) -> None:
    live.journal.exchange_of([b"{}"], [b"{}"])
    live.take_in()
    found = trace.connection.execute(
        "SELECT which, value FROM headers WHERE exchange_id = 1 AND lower(name) = 'content-type'"
    ).fetchall()
    assert found == [
        ("request", "application/json"),
        ("forwarded", "application/json"),
        ("response", "application/json"),
        ("sent", "application/json"),
    ]
