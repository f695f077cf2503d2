"""Chunks share frames and rows, and come out as they were."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.store.chunks import ChunkRuns, Frames, RunRow, Seams, as_stored, read_chunks
from proxy.store.schema import open_for_writing

WORDS = [
    " the",
    " quick",
    "",
    " brown",
    " fo\\u00fcx",
    ' "',
    "\\\\",
    " ü",
    " over",
    "\\n\\n",
    " lazy",
    " dog",
    ".",
    " the",
]


def openai_event(number: int, word: str) -> bytes:
    """As LM Studio and llama.cpp send them; the second goes on."""
    return (
        f'data: {{"id":"chatcmpl-7f","object":"chat.completion.chunk","created":{1753000000 + number // 5},'
        '"model":"smollm2",'
        f'"choices":[{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":null}}]}}\n\n'
    ).encode()


def responses_event(number: int, word: str) -> bytes:
    """As the Responses API sends them: each has a number."""
    return (
        'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"msg_1",'
        f'"output_index":0,"content_index":0,"delta":"{word}","sequence_number":{number}}}\n\n'
    ).encode()


def as_bytes(stored: str | bytes) -> bytes:
    """What `as_stored` was given."""
    return stored.encode() if isinstance(stored, str) else stored


class Stored(list[tuple[bytes, bytes]]):
    """Frames as they are made."""

    def make(self, head: str | bytes, tail: str | bytes) -> int:
        """The id is the place."""
        self.append((as_bytes(head), as_bytes(tail)))
        return len(self) - 1

    def part(self, events: list[bytes], seams: Seams) -> list[tuple[int | None, bytes]]:
        """Part a stream's events; checks that nothing changes."""
        frames = Frames(self.make, seams)
        found = []
        for event in events:
            frame_id, middle = frames.part(event)
            head, tail = self[frame_id] if frame_id is not None else (b"", b"")
            assert head + middle + tail == event
            found.append((frame_id, middle))
        return found


@given(events=st.lists(st.binary(max_size=200) | st.sampled_from([openai_event(1, "a"), responses_event(2, "b")])))
def test_frame_and_middle_are_the_chunk(events: list[bytes]) -> None:
    seams = Seams()
    for _ in range(2):
        Stored().part(events, seams)


@pytest.mark.parametrize(("event", "most_frames", "most_own"), [(openai_event, 20, 12), (responses_event, 2, 40)])
def test_events_of_a_stream_differ_in_their_middle(event: "type[object]", most_frames: int, most_own: int) -> None:
    stored = Stored()
    events = [event(number, word) for number, word in enumerate(WORDS * 5)]  # type: ignore[call-arg]
    parted = stored.part(events, Seams())  # type: ignore[arg-type]
    assert len(stored) <= most_frames
    framed = [middle for frame_id, middle in parted if frame_id is not None]
    assert len(framed) >= len(events) - 2
    assert sum(map(len, framed)) / len(framed) <= most_own


def test_a_stream_parts_at_its_first_event_where_an_earlier_one_did() -> None:
    stored, seams = Stored(), Seams()
    stored.part([openai_event(0, word) for word in WORDS], seams)
    first = openai_event(900, " hello").replace(b"chatcmpl-7f", b"chatcmpl-8a")
    assert stored.part([first], seams)[0][1] == b" hello"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_for_writing(tmp_path / "t.db")
    yield opened
    opened.close()


chunks = st.tuples(
    st.integers(0, 10**7),
    st.one_of(st.integers(0, 2**40), st.binary(max_size=30), st.text(max_size=60), st.text(min_size=500, max_size=600)),
    st.sampled_from([None, 1, 9]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_chunks=st.lists(chunks, max_size=40), flushes=st.sets(st.integers(0, 40)), after=st.integers(-1, 40))
def test_chunks_are_read_as_they_were_added(
    connection: sqlite3.Connection,
    given_chunks: list[tuple[int, int | bytes | str, int | None]],
    flushes: set[int],
    after: int,
) -> None:
    connection.execute("DELETE FROM recorded_chunks")
    rows: list[RunRow] = []
    runs = ChunkRuns(7, 1)
    expected = []
    for number, (at_us, middle, opcode) in enumerate(given_chunks):
        stored = (
            middle if isinstance(middle, int) else as_stored(middle if isinstance(middle, bytes) else middle.encode())
        )
        runs.add(rows, at_us, stored, opcode, None)
        data = None if isinstance(middle, int) else middle if isinstance(middle, bytes) else middle.encode()
        expected.append((number, at_us, opcode, data, middle if isinstance(middle, int) else len(data or b"")))
        if number in flushes:
            runs.flush(rows)
    runs.flush(rows)
    connection.executemany("INSERT OR REPLACE INTO recorded_chunks VALUES(?, ?, ?, ?, ?, ?, ?, ?)", rows)
    found = [(c.seq, c.at_us, c.opcode, c.data, c.bytes) for c in read_chunks(connection, 7, 1, after)]
    assert found == expected[after + 1 :]
    view = connection.execute("SELECT seq, at_us, CAST(text AS BLOB), bytes FROM chunks ORDER BY seq").fetchall()
    assert view == [(seq, at_us, data, size) for seq, at_us, _, data, size in expected]
