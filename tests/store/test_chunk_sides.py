"""Reads taken in together are stored as if they were taken in one by one."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Side
from proxy.read.websocket import WebSocketReader
from proxy.store.chunk_sides import StreamSide, TunnelSide
from proxy.store.chunks import ChunkRuns, Frames, RunRow, Seams
from proxy.store.masked import Read, SecretPaths
from proxy.store.rows import Rows, Sent
from proxy.store.schema import open_for_writing
from tests.store.test_chunks import WORDS, as_bytes, openai_event, responses_event
from tests.store.websocket_frames import frames

SECRETS = SecretPaths(("tools[].headers.*",), b"k" * 32)
OWN = st.sampled_from(WORDS) | st.text(max_size=30) | st.just("long" * 120)
SECRET = b'data: {"tools":[{"headers":{"a":"secret"}}]}\n\n'
PLAIN = OWN.map(lambda word: openai_event(1, word))
EVENT = st.one_of(
    PLAIN,
    OWN.map(lambda word: responses_event(7, word)),
    st.sampled_from([b"\xc3", b"\xa9", b"\0", b"\n"]).map(
        lambda odd: openai_event(1, "x").replace(b'"x"', b'"%b"' % odd)
    ),
    st.just(SECRET),
    st.binary(max_size=40),
)
EVENTS = st.lists(st.lists(PLAIN, max_size=12) | st.lists(EVENT, max_size=2), max_size=8).map(
    lambda parts: [event for part in parts for event in part]
)
GROUPS = st.sets(st.integers(1, 60))
AnySide = StreamSide | TunnelSide


class Stored(NamedTuple):
    """What becomes of a side's reads."""

    sent: Sent
    masked: int
    is_text: bool
    rows: list[RunRow]
    frames: list[tuple[bytes, bytes]]
    received_bytes: int


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    opened = open_for_writing(tmp_path_factory.mktemp("sides") / "t.db")
    yield opened
    opened.close()


def stored(
    connection: sqlite3.Connection, make: Callable[[Frames], AnySide], reads: list[Read], groups: set[int]
) -> Stored:
    """Take the reads in, in groups that end at these numbers."""
    made: list[tuple[bytes, bytes]] = []

    def frame(head: str | bytes, tail: str | bytes) -> int:
        made.append((as_bytes(head), as_bytes(tail)))
        return len(made)

    side = make(Frames(frame, Seams()))
    for start, end in pairwise(sorted({0, len(reads), *(at for at in groups if at < len(reads))})):
        side.add(reads[start:end])
    connection.execute("BEGIN")
    try:
        rows = Rows(connection)
        written = rows.chunks
        sent = side.close(rows)
        rows.write()
        found = connection.execute("SELECT * FROM recorded_chunks ORDER BY side, seq").fetchall()
        assert not written
    finally:
        connection.rollback()
    return Stored(sent, side.masked, side.is_text, found, made, side.received_bytes)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, groups=GROUPS)
@example(events=[b'"', SECRET], groups=set())
def test_a_streams_reads_are_stored_the_same_taken_together_or_one_by_one(
    connection: sqlite3.Connection, events: list[bytes], groups: set[int]
) -> None:
    def make(some: Frames) -> StreamSide:
        return StreamSide(1, Side.UPSTREAM, SECRETS, some)

    reads = [(number * 1700, event) for number, event in enumerate(events)]
    one_by_one = stored(connection, make, reads, set(range(len(reads))))
    assert stored(connection, make, reads, groups) == one_by_one
    sent = b"".join(events)
    assert one_by_one.received_bytes == len(sent)
    # Behind what is no JSON, on the same line, a name may look like a value.
    assert ("secret" not in str(one_by_one)) or sent.count(SECRET) != (b"\n" + sent).count(b"\n" + SECRET)


@given(
    middles=st.lists(st.text("aü\n", max_size=9), min_size=100, max_size=150),
    groups=st.sets(st.integers(1, 150)),
    step_us=st.integers(0, 10**6),
    opcode=st.sampled_from([None, 1]),
)
def test_rows_are_filled_the_same_by_some_chunks_or_one_by_one(
    middles: list[str], groups: set[int], step_us: int, opcode: int | None
) -> None:
    one_by_one: list[RunRow] = []
    together: list[RunRow] = []
    runs, others = ChunkRuns(1, 1), ChunkRuns(1, 1)
    for number, middle in enumerate(middles):
        runs.add(one_by_one, number * step_us, middle, opcode, 5)
    for start, end in pairwise(sorted({0, len(middles), *(at for at in groups if at < len(middles))})):
        times = [number * step_us for number in range(start, end)]
        others.add_some(together, times, middles[start:end], opcode, 5)
    runs.flush(one_by_one)
    others.flush(together)
    assert together == one_by_one
    assert others.seq == len(middles)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), cuts=st.none() | st.sets(st.integers(1, 3000)), groups=GROUPS)
def test_a_sockets_reads_are_stored_the_same_taken_together_or_one_by_one(
    connection: sqlite3.Connection,
    data: st.DataObject,
    cuts: set[int] | None,
    groups: set[int],
) -> None:
    side = data.draw(st.sampled_from(Side))

    def make(some: Frames) -> TunnelSide:
        return TunnelSide(1, side, WebSocketReader(), some)

    wires = [frame.wire for _ in range(3) for frame in data.draw(frames(is_client=side is Side.CLIENT))]
    wire = b"".join(wires)
    edges = sorted({0, len(wire), *(at for at in cuts or () if at < len(wire))})
    pieces = wires if cuts is None else [wire[start:end] for start, end in pairwise(edges)]
    reads = [(number * 1700, piece) for number, piece in enumerate(pieces)]
    assert stored(connection, make, reads, groups) == stored(connection, make, reads, set(range(len(reads))))


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("groups", [set(range(99)), {1, 33, 65}, set()])
def test_messages_that_share_a_frame_keep_opcode_text_and_time(
    connection: sqlite3.Connection, side: Side, groups: set[int]
) -> None:
    masked = b'{"passkey":"[masked:0123456789ab]"}'
    payloads = [masked, *(openai_event(1, word) for word in WORDS * 5), masked * 2, b"{}"]
    protocol = FrameProtocol(client=side is Side.CLIENT, extensions=[])
    reads = [(number * 900, bytes(protocol.send_data(payload.decode()))) for number, payload in enumerate(payloads)]

    def make(some: Frames) -> TunnelSide:
        return TunnelSide(1, side, WebSocketReader(), some)

    found = stored(connection, make, reads, groups)
    assert found.masked == (1 if side is Side.CLIENT else 0)  # what comes later is not the client's greeting
    assert {opcode for _, _, _, _, opcode, _, _, _ in found.rows} == {1}
    assert len(found.rows) < len(reads) / 3
    chunks: list[tuple[int, bytes]] = []
    for _, _, seq, at_us, _, frame_id, middle, more in found.rows:
        head, tail = found.frames[frame_id - 1] if frame_id is not None else (b"", b"")
        assert seq == len(chunks)
        for after, own in [[0, middle], *json.loads(more or "[]")]:
            chunks.append((at_us + after, head + own.encode() + tail))
    assert chunks == [(at_us, payload) for (at_us, _), payload in zip(reads, payloads, strict=True)]


def test_the_events_of_a_stream_go_into_few_rows_at_once(connection: sqlite3.Connection) -> None:
    reads = [(number * 5000, openai_event(1, word)) for number, word in enumerate(WORDS * 20)]
    found = stored(connection, lambda some: StreamSide(1, Side.UPSTREAM, SECRETS, some), reads, {2, 34, 66})
    assert len(found.frames) <= 3
    assert len(found.rows) < len(reads) / 15
