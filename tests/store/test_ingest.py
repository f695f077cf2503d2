"""What was sent is what is stored, exactly once, however the journal is cut and wherever the back is killed."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Outcome, Side
from proxy.indexer import Indexer, IndexSettings
from proxy.store.digests import digest_of
from proxy.store.ingest import Ingest
from proxy.store.segments import Batch
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import KEY, Journal
from tests.store.websocket_frames import Sent as SentFrame
from tests.store.websocket_frames import frames, messages_of

FIELDS = ("integrations[].headers.*", "tools[].headers.*", "tools[].authorization")

bytes_of_any_kind = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(str.encode),
    st.sampled_from(
        [
            b'{"model":"m","messages":[{"role":"user","content":"hi"}]}',
            b'data: {"id":"c","choices":[{"delta":{"content":" one"}}]}\n\n',
            b'data: {"id":"c","choices":[{"delta":{"content":" other"}}]}\n\n',
            b'data: {"id":"c","choices":[{"delta":{"content":"',
            b'"}}]}\n\n',
            b"data: [DONE]\n\n",
            b'data: {"tools":[{"headers"',
            b"\0",
            b"\xc3",
            b"\xbc" * 3,
        ]
    ),
).filter(bool)


@dataclass
class Plan:
    """One exchange of a made-up run."""

    content_type: bytes
    reads: list[tuple[Side, bytes]]
    is_closed: bool
    is_websocket: bool = False
    number: int = 0
    expected: dict[Side, bytes] = field(default_factory=dict)


@st.composite
def http_plans(draw: st.DrawFn) -> Plan:
    """Requests and their answers, plain or streamed."""
    request = draw(st.lists(bytes_of_any_kind, max_size=4))
    response = draw(st.lists(bytes_of_any_kind, max_size=12))
    content_type = draw(st.sampled_from([b"application/json", b"text/event-stream; charset=utf-8", b"image/png"]))
    reads = [(Side.CLIENT, data) for data in request] + [(Side.UPSTREAM, data) for data in response]
    plan = Plan(content_type, reads, draw(st.booleans()))
    plan.expected = {Side.CLIENT: b"".join(request), Side.UPSTREAM: b"".join(response)}
    return plan


@st.composite
def websocket_plans(draw: st.DrawFn) -> Plan:
    """Messages both ways, in frames, in reads that know nothing of frames."""
    reads: list[tuple[Side, bytes]] = []
    expected = {}
    for side in Side:
        sent: list[SentFrame] = draw(frames(is_client=side is Side.CLIENT))
        wire = b"".join(frame.wire for frame in sent)
        cuts = sorted(draw(st.sets(st.integers(1, max(len(wire) - 1, 1)), max_size=8)))
        pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
        reads += [(side, piece) for piece in pieces if piece]
        expected[side] = b"".join(message.payload for message in messages_of(sent))
    plan = Plan(b"", reads, draw(st.booleans()), is_websocket=True)
    plan.expected = expected
    return plan


@st.composite
def runs(draw: st.DrawFn) -> list[Plan]:
    """Some exchanges at once."""
    return draw(st.lists(st.one_of(http_plans(), websocket_plans()), min_size=1, max_size=5))


def write(journal: Journal, plans: list[Plan], order: list[int]) -> None:
    """Write the plans, interleaved as `order` says, some segments long."""
    steps = [_steps(journal, plan) for plan in plans]
    for choice in order:
        live = [step for step in steps if step is not None]
        if live and next(live[choice % len(live)], None) is None:
            steps.remove(live[choice % len(live)])
        if choice % 11 == 0:
            journal.next_segment()
    for step in steps:
        for _ in step:
            pass
    journal.write()


def _steps(journal: Journal, plan: Plan) -> Iterator[bool]:
    plan.number = journal.open(is_websocket=plan.is_websocket)
    yield True
    is_answered = False
    for side, data in plan.reads:
        if (side is Side.UPSTREAM or plan.is_websocket) and not is_answered:
            is_answered = True
            _respond(journal, plan)
            yield True
        journal.data(plan.number, side, data, after_us=700)
        yield True
    if plan.is_closed:
        if not is_answered:
            _respond(journal, plan)
        journal.close(plan.number)
    yield True


def _respond(journal: Journal, plan: Plan) -> None:
    if plan.is_websocket:
        journal.response(plan.number, b"", status=b"101 Switching Protocols")
    else:
        journal.response(plan.number, plan.content_type)


def everything(trace: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that users see, but for what depends on where batches ended."""
    with Trace.open(trace) as opened:
        found = {}
        for view in ("exchanges", "request_bodies", "response_bodies", "chunks", "gaps", "models"):
            rows = opened.connection.execute(f"SELECT * FROM {view}").fetchall()
            found[view] = sorted(rows, key=repr)
        return found


def test_streams_that_run_side_by_side_are_told_apart_in_one_batch(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t.db")
    sent: dict[int, list[bytes]] = {journal.open(): [] for _ in range(3)}
    for number in sent:
        journal.response(number, b"text/event-stream")
    for step in range(100):
        for number in list(sent)[: 3 if step < 50 else 2]:
            sent[number].append(b'data: {"n":%d,"step":%d}\n\n' % (number, step))
            journal.data(number, Side.UPSTREAM, sent[number][-1])
        if step == 49:
            journal.close(3)
    for number in (1, 2):
        journal.close(number)
    journal.write()
    ingest_whole(journal.trace)
    with Trace.open(journal.trace) as opened:
        for number, reads in sent.items():
            chunks = opened.connection.execute(
                "SELECT text, at_us FROM chunks WHERE exchange_id = ? ORDER BY seq", (number,)
            ).fetchall()
            assert [text.encode() for text, _ in chunks] == reads
            assert len({at_us for _, at_us in chunks}) == len(reads)
    assert verify(journal.trace).is_ok


def test_a_body_that_comes_again_is_known_again_and_no_other_taken_for_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t.db")
    long = json.dumps({"model": "m", "image": "x" * 100_000}).encode()
    bodies = [long, long, long + b" ", digest_of(long), b"short", b"short", b'{"model":"m"}', b'{"model":"m"}']
    sent = {journal.exchange_of([body], [b"ok"]): body for body in bodies}
    journal.write()
    ingest_whole(journal.trace)
    with Trace.open(journal.trace) as opened:
        for number, body in sent.items():
            assert b"".join(opened.body(number, Side.CLIENT)) == body
        stored = opened.connection.execute("SELECT request_body, model FROM recorded_exchanges ORDER BY id").fetchall()
    places = [place for place, _ in stored]
    assert [places.index(place) for place in places] == [0, 0, 2, 3, 4, 4, 6, 6]
    assert [model for _, model in stored] == ["m", "m", "m", None, None, None, "m", "m"]
    assert verify(journal.trace).is_ok


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    plans=runs(),
    order=st.lists(st.integers(0, 100), max_size=60),
    batch_bytes=st.integers(32, 2000),
    hold_bytes=st.integers(0, 6000),
    restarts=st.sets(st.integers(0, 80)),
)
def test_stored_is_sent_however_the_journal_is_cut_and_the_back_restarted(
    plans: list[Plan], order: list[int], batch_bytes: int, hold_bytes: int, restarts: set[int]
) -> None:
    with TemporaryDirectory() as folder:
        trace, plain = Path(folder) / "t.db", Path(folder) / "plain.db"
        for path in (trace, plain):
            write(Journal(path), plans, order)
        ingest_whole(plain)
        ingest_in_steps(trace, batch_bytes, restarts, hold_bytes)
        with Trace.open(trace) as opened:
            assert len(opened.latest(100)) == len(plans)
            assert not opened.gaps()
            for plan in plans:
                row = opened.exchange(plan.number)
                assert row is not None
                assert row.outcome == (Outcome.COMPLETED if plan.is_closed else Outcome.INTERRUPTED)
                for side in Side:
                    assert b"".join(opened.body(plan.number, side)) == plan.expected[side]
                if not plan.is_websocket:
                    chunks = list(opened.chunks(plan.number))
                    assert [(chunk.side, chunk.bytes) for chunk in chunks] == [
                        (side, len(data)) for side, data in plan.reads
                    ]
            assert verify(trace).is_ok, verify(trace)
            (staged,) = opened.connection.execute("SELECT count(*) FROM staged_chunks").fetchone()
            assert staged == 0
        in_steps, at_once = everything(trace), everything(plain)
        if any(plan.is_websocket and not plan.is_closed for plan in plans):
            # what the tunnel carried is then counted from its messages
            for view in ("exchanges", "models"):
                del in_steps[view], at_once[view]
        assert in_steps == at_once


def ingest_whole(trace: Path) -> None:
    """Take everything in, and end the run."""
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    try:
        while ingest.run_once():
            pass
        ingest.finish()
    finally:
        ingest.close()


def read_whole(trace: Path) -> None:
    """Make readings of everything."""
    indexer = Indexer(trace, IndexSettings())
    try:
        while indexer.run_once():
            pass
    finally:
        indexer.close()


def ingest_in_steps(trace: Path, batch_bytes: int, restarts: set[int], hold_bytes: int = 0) -> None:
    """Take it in in small batches; at some of them the process dies before or after its commit, and starts again."""

    def start() -> Ingest:
        ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
        ingest._segments.batch_bytes = batch_bytes
        ingest.least_bytes, ingest.hold_bytes = 1, hold_bytes
        return ingest

    ingest = start()
    step = 0
    while True:
        if step in restarts:
            (die_after_commit if step % 2 else die_before_commit)(ingest)
            ingest.close()
            ingest = start()
        step += 1
        if not ingest.run_once():
            break
    ingest.finish()
    ingest.close()


def die_after_commit(ingest: Ingest) -> None:
    """Commit a batch, and remove nothing of what it took in."""

    def killed(batch: Batch) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest._segments, "committed", killed)
        with contextlib.suppress(KeyboardInterrupt):
            ingest.run_once()


def die_before_commit(ingest: Ingest) -> None:
    """Do a batch's work, and lose it."""
    state = ingest._ready()
    batch = ingest._segments.read()
    if batch is not None:
        state.connection.execute("BEGIN IMMEDIATE")
        ingest._put(state, batch)
        state.connection.rollback()
