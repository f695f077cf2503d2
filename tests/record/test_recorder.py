"""The recorder: everything gets to the journal; what cannot is a gap; the caller never waits and never fails."""

import contextlib
import logging
import os
import resource
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from proxy.exchange import Outcome
from proxy.record.journal import (
    RECORD_HEADER,
    SEGMENT_HEADER,
    Close,
    Damage,
    Gap,
    Kind,
    Open,
    Record,
    Response,
    SegmentHeader,
    scan,
)
from proxy.record.recorder import Recorder

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-secret\r\n"
OPEN = Open(1, "127.0.0.1:5", "lmstudio", "http://localhost:1234", HEAD, HEAD)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    """Makes recorders, and ends them."""
    made: list[Recorder] = []

    def make(*, memory_bytes: int = 1 << 24, segment_bytes: int = 1 << 24, batch_s: float = 0.002) -> Recorder:
        recorder = Recorder(
            tmp_path / "journal",
            memory_bytes=memory_bytes,
            batch_s=batch_s,
            segment_bytes=segment_bytes,
            key=b"k" * 32,
            masked_headers=("authorization",),
            masked_websocket_fields=("clientPasskey",),
        )
        made.append(recorder)
        return recorder

    yield make
    for recorder in made:
        recorder.stop(5)


def records(folder: Path, *, is_ended: bool = True) -> list[Record]:
    """Everything in the journal, in order; before its end, what is whole by now."""
    found = []
    for path in sorted(folder.glob("*.seg")):
        data = path.read_bytes()
        SegmentHeader.unpack(data)
        end = SEGMENT_HEADER.size
        for record, after in scan(data, SEGMENT_HEADER.size):
            assert not isinstance(record, Damage)
            found.append(record)
            end = after
        assert end == len(data) or not is_ended
    return found


def sizes(folder: Path) -> list[int]:
    """How many bytes each record of the journal takes, a block as one."""
    found = []
    for path in sorted(folder.glob("*.seg")):
        data = path.read_bytes()
        at = SEGMENT_HEADER.size
        while at < len(data):
            found.append(RECORD_HEADER.size + RECORD_HEADER.unpack_from(data, at)[0])
            at += found[-1]
    return found


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass"
        time.sleep(0.002)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The disk is full for this process: writing beyond `size` bytes of a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_exchange_is_in_the_journal_in_order_with_its_secrets_masked(
    start: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = start()
    recording = recorder.open(OPEN, 10)
    recording.client_data(11, b"ask")
    recording.request_complete_ns = 11
    recording.lines(Kind.INTERIM, 12, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n")
    recording.response(13, b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: b\r\n")
    recording.upstream_data(14, b"answer")
    recording.lines(Kind.UPSTREAM_TRAILERS, 15, b"Authorization: sk-secret\r\n")
    recording.close(Outcome.COMPLETED, "", 16)
    assert recorder.stop(5)

    found = records(tmp_path / "journal")

    assert [(Kind(record.kind), record.exchange, record.at_ns) for record in found[:-1]] == [
        (Kind.OPEN, 1, 10),
        (Kind.CLIENT_DATA, 1, 11),
        (Kind.INTERIM, 1, 12),
        (Kind.RESPONSE, 1, 13),
        (Kind.UPSTREAM_DATA, 1, 14),
        (Kind.UPSTREAM_TRAILERS, 1, 15),
        (Kind.CLOSE, 1, 16),
    ]
    assert found[-1].kind == Kind.END
    assert Response.unpack(found[3].payload).sent_head == b"HTTP/1.1 200 OK\r\nA: b\r\n"
    assert Close.unpack(found[6].payload) == Close(Outcome.COMPLETED, "", 11, 13, 16, 3, 6)
    assert all(b"sk-secret" not in record.payload for record in found)
    assert Open.unpack(found[0].payload).received_head.startswith(HEAD.removesuffix(b"sk-secret\r\n") + b"[masked:")


def test_a_record_is_on_disk_within_milliseconds_without_a_stop(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start()
    recorder.open(OPEN, 1)
    wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) == 1, "the record")


@pytest.mark.parametrize("memory_bytes", [1 << 24, 1 << 20])
def test_much_is_written_at_once(start: Callable[..., Recorder], tmp_path: Path, memory_bytes: int) -> None:
    recorder = start(batch_s=30, memory_bytes=memory_bytes)
    recording = recorder.open(OPEN, 1)
    for number in range(2):  # the second time, too
        for at_ns in range(4):
            recording.upstream_data(at_ns, bytes(memory_bytes // 5))
        wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) > 4 * number + 1, "the records")  # noqa: B023 - called at once


def test_the_end_does_not_wait_for_a_batch(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start(batch_s=30)
    recorder.open(OPEN, 1)
    time.sleep(0.2)  # by now the thread gathers
    assert recorder.stop(5)
    assert [record.kind for record in records(tmp_path / "journal")] == [Kind.OPEN, Kind.END]


def test_what_is_put_just_before_the_thread_sleeps_is_written(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start()
    look = recorder._has_work
    late = [2, 3]

    def look_and_put() -> bool:
        has_work = look()
        if not has_work and late:  # between its look and its sleep
            recorder.open(OPEN, late.pop())
        return has_work

    with mock.patch.object(recorder, "_has_work", look_and_put):
        recorder.open(OPEN, 1)
        wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) == 3, "the records", 1.5)


def test_what_inflates_is_written_in_pieces(start: Callable[..., Recorder], tmp_path: Path) -> None:
    """A compressed WebSocket is recorded as if it were not, up to a thousand times as long as what was read."""
    recorder = start(batch_s=0.2)
    message = bytes(10_000_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    frame = b"\xc1\xfe" + len(packed).to_bytes(2, "big") + bytes(4) + packed
    head = b"HTTP/1.1 101 S\r\nSec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
    websocket = recorder.open(Open(1, "c", "u", "x", HEAD, HEAD, True), 1)
    websocket.response(2, head, head)
    other = recorder.open(OPEN, 1)
    for number in range(2):
        other.upstream_data(3, b"before %d" % number)
        websocket.client_data(4, frame * 2)
        other.upstream_data(5, b"after %d" % number)
    assert recorder.stop(20)

    found = records(tmp_path / "journal")
    assert [record.payload for record in found if record.kind == Kind.UPSTREAM_DATA] == [
        b"before 0",
        b"after 0",
        b"before 1",
        b"after 1",
    ]
    assert sum(len(record.payload) for record in found if record.kind == Kind.CLIENT_DATA) > 4 * len(message)
    assert max(sizes(tmp_path / "journal")) < 3 << 20


def test_the_rest_of_a_first_message_comes_before_the_end(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start()
    recording = recorder.open(Open(1, "c", "u", "x", HEAD, HEAD, True), 1)
    recording.response(2, b"HTTP/1.1 101 S\r\n", b"HTTP/1.1 101 S\r\n")
    recording.client_data(3, b"\x81\xe4" + bytes(4) + b"cut short")
    recording.close(Outcome.CLIENT_GONE, "", 4)
    assert recorder.stop(5)
    kinds = [record.kind for record in records(tmp_path / "journal")]
    assert kinds == [Kind.OPEN, Kind.RESPONSE, Kind.CLIENT_DATA, Kind.CLOSE, Kind.END]


def test_the_journal_goes_on_in_the_next_segment(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start(segment_bytes=4096)
    recording = recorder.open(OPEN, 1)
    for number in range(20):
        recording.upstream_data(number, bytes(1000))
        expected = number + 2
        wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) == expected, "the record")  # noqa: B023 - called at once
    segments = sorted((tmp_path / "journal").glob("*.seg"))
    assert len(segments) > 4
    assert all(path.stat().st_size <= 5200 for path in segments)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in segments)


def test_a_segment_at_rest_is_ended(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start()
    recorder.open(OPEN, 1)
    wait_for(lambda: len(list((tmp_path / "journal").glob("*.seg"))) == 2, "the next segment")


def test_a_full_disk_costs_a_gap_and_a_warning_and_nothing_else(
    start: Callable[..., Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recorder = start(memory_bytes=50_000)
    recording = recorder.open(OPEN, 1)
    wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) == 1, "the first record")
    with no_file_longer_than(2000):
        for number in range(100):
            recording.upstream_data(2 + number, bytes(2000))  # must return at once, 200 kB into room for 50
        wait_for(lambda: "recording waits" in caplog.text, "the warning")
        recording.close(Outcome.COMPLETED, "", 200)
    assert recorder.stop(5)

    found = records(tmp_path / "journal")
    kept = sum(len(record.payload) for record in found if record.kind == Kind.UPSTREAM_DATA)
    gaps = [Gap.unpack(record.payload) for record in found if record.kind == Kind.GAP]
    closes = [Close.unpack(record.payload) for record in found if record.kind == Kind.CLOSE]
    assert kept + sum(gap.upstream_bytes for gap in gaps) == 200_000 == closes[0].upstream_bytes
    assert 0 < kept < 200_000
    assert "File too large" in gaps[0].reason
    assert caplog.text.count("recording waits") == 1
    assert caplog.text.count("recording goes on") == 1


def test_whole_exchanges_without_room_are_counted(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start(memory_bytes=1000, batch_s=0.2)
    recordings = [recorder.open(OPEN, number) for number in range(10)]
    for recording in recordings:
        recording.upstream_data(20, b"x" * 10)
        recording.close(Outcome.COMPLETED, "", 30)
    assert recorder.stop(5)

    found = records(tmp_path / "journal")
    opened = {record.exchange for record in found if record.kind == Kind.OPEN}
    gap = next(Gap.unpack(record.payload) for record in found if record.kind == Kind.GAP and record.exchange == 0)
    assert 0 < len(opened) < 10
    assert gap.lost_exchanges == 10 - len(opened)
    assert {record.exchange for record in found if record.kind == Kind.CLOSE} == opened


def test_a_deleted_journal_begins_again_and_says_so(
    start: Callable[..., Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = start()
    recorder.open(OPEN, 1)
    wait_for(lambda: len(records(tmp_path / "journal", is_ended=False)) == 1, "the record")
    shutil.rmtree(tmp_path / "journal")
    recorder.open(OPEN, 2)
    recorder.open(OPEN, 3)
    assert recorder.stop(5)
    found = records(tmp_path / "journal")
    assert [record.exchange for record in found if record.kind == Kind.OPEN] == [2, 3]
    assert any(record.kind == Kind.GAP and record.exchange == 0 for record in found)
    assert "deleted" in caplog.text


def test_a_disk_that_stands_still_is_not_waited_for(start: Callable[..., Recorder], tmp_path: Path) -> None:
    recorder = start(memory_bytes=10_000)
    os.mkfifo(tmp_path / "stuck")
    stuck = os.open(tmp_path / "stuck", os.O_RDWR)
    segments = recorder._segments
    segments._file, kept = stuck, segments._file  # a pipe that nobody reads is a disk that hangs
    recording = recorder.open(OPEN, 1)
    try:
        began = time.monotonic()
        for number in range(1000):
            recording.upstream_data(3 + number, bytes(1000))
        assert time.monotonic() - began < 5  # each returned at once, though nothing can be written
        wait_for(lambda: not recorder.is_behind(), "the end of its patience")
    finally:
        reader = os.open(tmp_path / "stuck", os.O_RDONLY | os.O_NONBLOCK)
        stopper = threading.Thread(target=recorder.stop, args=(5,))
        stopper.start()
        while stopper.is_alive():
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 1 << 20)
            time.sleep(0.001)
        os.close(reader)
        os.close(kept)


@pytest.mark.parametrize(
    "status_line", [b"HTTP/1.1 101\r\n", b"HTTP/1.0 101 Yes\r\n", b"HTTP/1.1 101 Switching Protocols\r\n", b""]
)
def test_a_websockets_passkey_is_masked_however_the_upstream_agrees(
    start: Callable[..., Recorder], tmp_path: Path, status_line: bytes
) -> None:
    recorder = start()
    recording = recorder.open(Open(1, "c", "u", "x", HEAD, HEAD, True), 1)
    if status_line:  # without: its record was lost
        recording.response(2, status_line, status_line)
    recording.client_data(3, b"\x81\xa2" + bytes(4) + b'{"clientPasskey":"very-secret-key"}'[:34])
    recording.close(Outcome.CLIENT_GONE, "", 4)
    assert recorder.stop(5)
    assert all(b"very-secret" not in record.payload for record in records(tmp_path / "journal"))
