"""Whatever is in a journal, ingest goes on: damage becomes gaps, what is whole is kept."""

import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Outcome, Side
from proxy.read.websocket import WebSocketReader
from proxy.record.journal import RECORD_HEADER, SEGMENT_HEADER, Close, Gap, Kind, journal_folder, pack_record
from proxy.store import body_side
from proxy.store.bodies import Members, cut
from proxy.store.chunks import Frames
from proxy.store.ingest import Ingest
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import KEY, Journal
from tests.store.test_ingest import FIELDS, ingest_whole


def busy_journal(trace: Path) -> Journal:
    """Three exchanges of all kinds."""
    journal = Journal(trace)
    journal.exchange_of([b'{"model":"m"}'], [b'{"answer":1}'])
    journal.exchange_of(
        [b'{"model":"m","stream":true}'], [b'data: {"delta":"%d"}\n\n' % n for n in range(6)], b"text/event-stream"
    )
    number = journal.open(is_websocket=True)
    journal.response(number, b"", status=b"101 Switching Protocols")
    journal.data(number, Side.CLIENT, b"\x81\x82\0\0\0\0hi")
    journal.data(number, Side.UPSTREAM, b"\x81\x03")
    journal.add(Kind.CLIENT_TRAILERS, number, b"X-Trailer: a")
    journal.add(Kind.INTERIM, number, b"HTTP/1.1 103 Early Hints\r\nLink: </a>")
    journal.gap(number, Gap(journal.now_ns, 0, 2, 10, 20, reason="the disk was full"))
    return journal


def check(trace: Path) -> None:
    """Take it in to the end; what is in the trace must be sound."""
    ingest_whole(trace)
    report = verify(trace)
    assert report.is_ok, report.problems
    assert not list(journal_folder(trace).glob("*.seg"))


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=6),
    cut=st.integers(0, 5000),
    inserted=st.tuples(st.integers(0, 5000), st.binary(max_size=40)),
    in_block=st.integers(0, 8),
)
def test_damaged_bytes_become_gaps(
    flips: list[tuple[int, int]], cut: int, inserted: tuple[int, bytes], in_block: int
) -> None:
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "t.db"
        journal = busy_journal(trace)
        if in_block:
            journal.join(in_block)
        journal.write()
        data = bytearray(journal.path.read_bytes())
        at, more = inserted
        data[at:at] = more
        for place, difference in flips:
            data[place % len(data)] ^= difference
        journal.path.write_bytes(bytes(data[: max(cut, 1)] if cut < len(data) // 2 else data))
        check(trace)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(
    records=st.lists(
        st.tuples(
            st.integers(0, 12),
            st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1)),
            st.one_of(st.integers(10**9, 10**10), st.integers(-(2**63), 2**63 - 1)),
            st.one_of(
                st.binary(max_size=80),
                st.builds(
                    lambda outcome, *numbers: Close(outcome, "", *numbers).pack(),
                    st.sampled_from(Outcome),
                    *[st.integers(-(2**63), 2**63 - 1)] * 3,
                    *[st.integers(0, 2**64 - 1)] * 2,
                ),
            ),
        ),
        max_size=20,
    ),
    in_block=st.integers(0, 30),
)
def test_records_that_no_writer_makes_do_no_harm(records: list[tuple[int, int, int, bytes]], in_block: int) -> None:
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "t.db"
        journal = busy_journal(trace)
        journal.packed += [b"".join(pack_record(*record)) for record in records]
        if in_block:
            journal.join(in_block)
        journal.exchange = 40
        journal.exchange_of([b'{"model":"after"}'], [b"ok"])
        journal.write()
        ingest_whole(trace)
        with Trace.open(trace) as opened:
            assert [row.model for row in opened.after(0)][:2] == ["m", "m"]
            assert any(row.model == "after" for row in opened.after(0))
        assert not [problem for problem in verify(trace).problems if "front counted" not in problem]


def test_one_damaged_record_costs_only_itself(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.exchange_of([b"request"], [b"one ", b"two ", b"three"])
    journal.packed[4] = journal.packed[4][:-1] + b"?"
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"one three"
        (gap,) = opened.gaps()
        assert gap.exchange_id is None
        assert gap.lost_records == 1
        assert gap.reason == f"{RECORD_HEADER.size + 4} bytes of the journal are damaged"
    assert verify(trace).is_ok
    assert verify(trace).incomplete == 1


def test_a_damaged_block_costs_only_itself(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.exchange_of([b"request"], [b"one ", b"two ", b"three ", b"four ", b"five"])
    journal.join(2)
    damaged = len(journal.packed[2])
    journal.packed[2] = journal.packed[2][:-1] + b"?"
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"one four five"
        (gap,) = opened.gaps()
        assert gap.reason == f"{damaged} bytes of the journal are damaged"
    assert verify(trace).is_ok
    assert verify(trace).incomplete == 1


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 0), (0, 40), (3, 0), (2, 70), (2**32 - 1, 80), (70_000, 21 * 70_000)],
    ids=["none", "none, bytes", "no", "short", "many", "too many"],
)
def test_a_block_that_no_writer_made_is_a_gap(tmp_path: Path, count: int, size: int) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    journal.exchange_of([b"a"], [b"b"])
    journal.add(Kind.BLOCK, 0, count.to_bytes(4, "little") + bytes(size))
    number = journal.exchange_of([b"c"], [b"d"])
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"d"
        (gap,) = opened.gaps()
        assert "malformed in the journal: a block of" in gap.reason


def test_a_journal_of_version_1_is_taken_in(tmp_path: Path) -> None:
    """What an earlier proxy-log left when it was killed: records one by one, no blocks."""
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.exchange_of([b"request"], [b"answer"])
    journal.write()
    data = bytearray(journal.path.read_bytes())
    data[8:10] = (1).to_bytes(2, "little")
    journal.path.write_bytes(data)
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"answer"
        assert not opened.gaps()


def test_an_exchange_without_its_start_is_kept(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.exchange_of([b"request"], [b"response"])
    del journal.packed[0]
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        row = opened.exchange(number)
        assert row is not None
        assert (row.method, row.status, row.outcome, row.gaps) == (None, 200, "completed", 1)
        assert b"".join(opened.body(number, Side.CLIENT)) == b"request"


def test_what_comes_after_an_exchanges_end_is_a_gap(tmp_path: Path) -> None:
    """Also where its row, of an earlier batch, still says that it runs."""
    journal = Journal(tmp_path / "t.db")
    number = journal.open()
    journal.data(number, Side.CLIENT, b"request")
    journal.response(number)
    journal.next_segment()
    journal.data(number, Side.UPSTREAM, b"answer")
    journal.close(number)
    journal.data(number, Side.UPSTREAM, b"late")
    journal.write()
    ingest_whole(journal.trace)
    with Trace.open(journal.trace) as opened:
        assert b"".join(opened.body(number, Side.UPSTREAM)) == b"answer"
        assert [gap.reason for gap in opened.gaps()] == ["the journal goes on after the exchange's end"]
    assert verify(journal.trace).is_ok


def test_a_lost_end_ends_the_exchange(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.open()
    journal.data(number, Side.CLIENT, b"abc")
    journal.gap(number, Gap(journal.now_ns, 0, 3, 5, 0, is_close_lost=True, reason="the disk was full"))
    journal.write()
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    ingest.run_once()
    ingest.close()
    with Trace.open(trace) as opened:
        row = opened.exchange(number)
        assert row is not None
        assert row.outcome == Outcome.INTERRUPTED
        assert row.error == "the end is not recorded: the disk was full"
        assert opened.gaps(number)[0].request_bytes == 5
    assert verify(trace).is_ok


def test_lost_exchanges_are_a_gap_of_their_own(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    journal.gap(0, Gap(journal.now_ns, 12, 60, 1000, 2000, reason="too much at once"))
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        (gap,) = opened.gaps()
        assert (gap.exchange_id, gap.lost_exchanges, gap.reason) == (None, 12, "too much at once")


@pytest.mark.parametrize("start", [b"", b"short", b"something else, longer than a segment's header" * 3])
def test_a_file_that_is_no_segment_is_set_aside(tmp_path: Path, start: bytes) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    journal.write()
    journal.path.write_bytes(start)
    later = Journal(trace, wall_ns=journal.wall_ns + 1, run_id=b"another run 0123")
    later.exchange_of([b"a"], [b"b"])
    later.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert len(opened.latest(5)) == 1
        assert len(opened.gaps()) == 1
    assert [path.name for path in journal_folder(trace).iterdir()] == [journal.path.name + ".unreadable"]


def test_a_long_stretch_of_zeros_is_one_gap(tmp_path: Path) -> None:
    """As a power failure leaves them."""
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    journal.write()
    with journal.path.open("ab") as file:
        file.write(bytes(100_000))
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert 1 <= len(opened.gaps()) <= 2


def test_the_test_journal_is_what_it_seems() -> None:
    with TemporaryDirectory() as folder:
        journal = busy_journal(Path(folder) / "t.db")
        journal.write()
        data = journal.path.read_bytes()
        offset, kinds = SEGMENT_HEADER.size, []
        while offset < len(data):
            length, crc, kind, _, _ = RECORD_HEADER.unpack_from(data, offset)
            assert zlib.crc32(data[offset + 8 : offset + RECORD_HEADER.size + length]) == crc
            kinds.append(kind)
            offset += RECORD_HEADER.size + length
        assert set(Kind) - set(kinds) == {Kind.END, Kind.UPSTREAM_TRAILERS, Kind.BLOCK}


@pytest.mark.parametrize("body", [b'{"model":"m","caf\xe9":1}', b'{"model":"caf\xe9"}'])
@pytest.mark.parametrize("is_closed", [True, False])
def test_json_that_is_not_utf8_is_stored_as_it_is(tmp_path: Path, body: bytes, is_closed: bool) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    number = journal.open()
    journal.data(number, Side.CLIENT, body)
    if is_closed:
        journal.close(number)
    journal.write()
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert not opened.gaps()
        assert b"".join(opened.body(number, Side.CLIENT)) == body


def test_a_bug_that_an_unfinished_exchange_brings_out_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    bad = journal.open()
    journal.data(bad, Side.CLIENT, b'{"model":"bad"}')
    journal.write()
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    while ingest.run_once():
        pass

    def fail(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(body_side, "cut", fail)
    ingest.finish()
    ingest.close()
    with Trace.open(trace) as opened:
        assert [(row.id, row.outcome) for row in opened.latest(9)] == [(bad, Outcome.INTERRUPTED)]
        assert [gap.exchange_id for gap in opened.gaps()] == [bad]
    assert list(journal_folder(trace).iterdir()) == []


def test_a_bug_that_one_exchange_brings_out_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    for body in (b'{"model":"good"}', b'{"model":"bad"}', b'{"model":"good"}'):
        journal.exchange_of([body], [b"ok"])
    journal.write()

    def cut_with_a_bug(body: bytes, members: Members | None) -> list[memoryview]:
        if b"bad" in body:
            raise TypeError("a bug")
        return cut(body, members)

    monkeypatch.setattr(body_side, "cut", cut_with_a_bug)
    ingest_whole(trace)
    with Trace.open(trace) as opened:
        assert [row.model for row in opened.latest(9)] == ["good", "good"]
        assert [gap.exchange_id for gap in opened.gaps()] == [2]
    assert "exchange 2 cannot be taken in whole" in caplog.text


def give_a_bug(monkeypatch: pytest.MonkeyPatch, where: type, method: str, mark: bytes) -> None:
    """Make a method that is given bytes fail where they hold the mark."""
    right = getattr(where, method)

    def wrong(self: object, data: bytes) -> object:
        if mark in data:
            raise TypeError("a bug")
        return right(self, data)

    monkeypatch.setattr(where, method, wrong)


def test_a_bug_that_a_stream_brings_out_is_told_with_all_that_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "t.db")
    numbers = [journal.open(), journal.open()]
    for number in numbers:
        journal.response(number, b"text/event-stream")
    sent = [b'data: {"step":%d}\n\n' % step for step in range(5)]
    for data in sent:
        for number, event in zip(numbers, (data, data.replace(b"step", b"bad")), strict=True):
            journal.data(number, Side.UPSTREAM, event)
    journal.close(numbers[0])
    journal.write()
    give_a_bug(monkeypatch, Frames, "part", b'"bad":3')
    ingest_whole(journal.trace)
    with Trace.open(journal.trace) as opened:
        assert b"".join(opened.body(numbers[0], Side.UPSTREAM)) == b"".join(sent)
        assert [(gap.exchange_id, gap.lost_records) for gap in opened.gaps()] == [(numbers[1], 4)]


def test_a_bug_that_a_tunnel_brings_out_costs_what_both_sides_sent_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "t.db")
    number = journal.open(b"/llm", method=b"GET", is_websocket=True)
    journal.response(number, b"", status=b"101 Switching Protocols")
    for step, word in enumerate((b"one", b"two", b"bad")):
        journal.data(number, Side.CLIENT, b"\x81\x03" + word)
        journal.data(number, Side.UPSTREAM, b"\x81\x05answe" + b"\x81\x01r" * step)
    journal.write()
    give_a_bug(monkeypatch, WebSocketReader, "feed", b"bad")
    ingest_whole(journal.trace)
    with Trace.open(journal.trace) as opened:
        assert [
            (gap.exchange_id, gap.lost_records, gap.request_bytes, gap.response_bytes) for gap in opened.gaps()
        ] == [
            (number, 2, 10, 0),
            (number, 2, 0, 10 + 13),
        ]
