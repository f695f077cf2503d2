"""The back process, as `serve` starts it: on time, through every fault, and gone when it should be."""

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.back import Back, Doorbell
from proxy.exchange import Outcome, Side
from proxy.record.journal import journal_folder
from proxy.store.ingest import Ingest, hold_writer_lock
from proxy.store.log_mover import LogMover
from proxy.store.trace import Trace
from proxy.store.verify import verify
from proxy.worker import Density
from tests.store.journal_builder import KEY, Journal

EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":" %d"}}]}\n\n'


class BackProcess:
    """One back and the pipe to it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        self.log = trace.with_name("back.log")
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start one, as after a crash too: the log goes on."""
        settings = json.dumps({"trace": str(self.trace), "body_fields": ["tools[].authorization"]})
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy.back", settings], stdin=subprocess.PIPE, stderr=log
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ring(self) -> None:
        """There is something new."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\0")
        self._process.stdin.flush()

    def front_ends(self) -> int:
        """Close the pipe; gives the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(timeout=60)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; gives the exit code."""
        code = self._process.wait(timeout=60)
        assert self._process.stdin is not None
        self._process.stdin.close()
        return code

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self.ended()

    def warnings(self) -> list[str]:
        """What it logged."""
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def back(tmp_path: Path) -> Iterator[BackProcess]:
    process = BackProcess(tmp_path / "t.db")
    process.start()
    yield process
    process.kill()


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s
        time.sleep(0.005)
    return time.monotonic() - began


def ended_exchanges(trace: Path) -> int:
    """How many the trace holds."""
    try:
        with Trace.open(trace) as opened:
            return sum(row.outcome is not None for row in opened.latest(1000))
    except Exception as error:  # noqa: BLE001 - the file is being made
        assert "no trace" in str(error) or "empty" in str(error) or "lock" in str(error)  # noqa: PT017
        return 0


def write_exchange(journal: Journal) -> None:
    """One more."""
    journal.exchange_of([b'{"model":"m"}'], [EVENT % n for n in range(5)], b"text/event-stream")
    journal.write()


def test_an_exchange_is_in_the_trace_200_ms_after_it_ended(back: BackProcess) -> None:
    journal = Journal(back.trace)
    write_exchange(journal)
    back.ring()
    wait_for(lambda: ended_exchanges(back.trace) == 1)
    took = []
    for count in range(2, 8):
        time.sleep(0.05)
        write_exchange(journal)
        back.ring()
        took.append(wait_for(lambda count=count: ended_exchanges(back.trace) == count))  # type: ignore[misc]
    assert sorted(took)[len(took) // 2] < 0.2
    assert back.front_ends() == 0


def test_killed_at_any_moment_it_loses_nothing_and_stores_nothing_twice(back: BackProcess) -> None:
    randomness = random.Random(7)
    journal = Journal(back.trace)
    sent: dict[int, bytes] = {}
    streams: list[int] = []
    for step in range(240):
        if step % 6 == 0:
            number = journal.open()
            journal.data(number, Side.CLIENT, b'{"model":"m%d"}' % number)
            journal.response(number, b"text/event-stream")
            streams.append(number)
            sent[number] = b""
        for number in streams:
            event = EVENT % step
            journal.data(number, Side.UPSTREAM, event)
            sent[number] += event
        if len(streams) == 5:
            journal.close(streams.pop(0))
        if step % 40 == 39:
            journal.next_segment()
        journal.write()
        back.ring()
        time.sleep(randomness.uniform(0, 0.02))
        if step % 24 == 23:
            back.kill()
            back.start()
    assert back.front_ends() == 0
    with Trace.open(back.trace) as opened:
        rows = opened.latest(1000)
        assert [row.id for row in rows] == list(sent)
        assert not opened.gaps()
        for row in rows:
            assert b"".join(opened.body(row.id, Side.UPSTREAM)) == sent[row.id]
            assert row.outcome == (Outcome.INTERRUPTED if row.id in streams else Outcome.COMPLETED)
    assert verify(back.trace).is_ok
    assert not list(journal.path.parent.iterdir())


def test_a_locked_trace_is_waited_for_with_one_warning(back: BackProcess) -> None:
    journal = Journal(back.trace)
    write_exchange(journal)
    back.ring()
    wait_for(lambda: ended_exchanges(back.trace) == 1)
    browser = sqlite3.connect(back.trace, isolation_level=None)
    browser.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        write_exchange(journal)
        back.ring()
        time.sleep(1.0)
    assert ended_exchanges(back.trace) == 1
    browser.execute("ROLLBACK")
    browser.close()
    wait_for(lambda: ended_exchanges(back.trace) == 4)
    assert back.front_ends() == 0
    first, last = back.warnings()
    assert "cannot be written: database is locked" in first
    assert "is written again" in last


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no prlimit on this system")
def test_a_full_disk_is_waited_for_with_one_warning(back: BackProcess) -> None:
    journal = Journal(back.trace)
    write_exchange(journal)
    back.ring()
    wait_for(lambda: ended_exchanges(back.trace) == 1)
    # A limit on a file's size is a full disk to whoever writes.
    resource.prlimit(back.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    for _ in range(8):
        journal.exchange_of([os.urandom(300_000)], [b"ok"])
        journal.write()
        back.ring()
        time.sleep(0.2)
    assert ended_exchanges(back.trace) < 9
    resource.prlimit(back.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: ended_exchanges(back.trace) == 9)
    assert back.front_ends() == 0
    assert len(back.warnings()) == 2
    assert verify(back.trace).is_ok


def test_the_fronts_end_ends_it_after_everything_is_stored(back: BackProcess) -> None:
    journal = Journal(back.trace)
    write_exchange(journal)
    number = journal.open()
    journal.write()
    assert back.front_ends() == 0
    with Trace.open(back.trace) as opened:
        assert [(row.id, row.outcome) for row in opened.latest(9)] == [(1, "completed"), (number, "interrupted")]


def test_sigterm_ends_it_and_leaves_the_run_as_it_is(back: BackProcess) -> None:
    journal = Journal(back.trace)
    journal.open()
    journal.write()
    back.ring()
    wait_for(back.trace.exists)
    time.sleep(0.3)
    back.signal(signal.SIGTERM)
    assert back.ended() == 0
    with Trace.open(back.trace) as opened:
        assert [row.outcome for row in opened.latest(9)] == [None]


def test_ctrl_c_is_left_to_the_front(back: BackProcess) -> None:
    journal = Journal(back.trace)
    write_exchange(journal)
    back.ring()
    wait_for(lambda: ended_exchanges(back.trace) == 1)
    back.signal(signal.SIGINT)
    write_exchange(journal)
    back.ring()
    wait_for(lambda: ended_exchanges(back.trace) == 2)
    assert back.front_ends() == 0


def test_it_waits_for_the_back_of_an_earlier_front(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    lock = hold_writer_lock(trace)
    process = BackProcess(trace)
    process.start()
    journal = Journal(trace)
    write_exchange(journal)
    process.ring()
    time.sleep(0.7)
    assert ended_exchanges(trace) == 0
    lock.release()
    wait_for(lambda: ended_exchanges(trace) == 1)
    assert process.front_ends() == 0


def test_the_trace_is_whole_in_its_file_though_a_reader_outlives_the_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trace.db")
    number = journal.open()
    journal.close(number)
    journal.write()
    ingest = Ingest(journal.trace, key=b"k" * 32)
    while ingest.run_once():
        pass
    with Trace.open(journal.trace) as reader:
        assert reader.exchange(number) is not None
        ingest.close()
    copy = tmp_path / "copy.db"
    copy.write_bytes(journal.trace.read_bytes())
    with Trace.open(copy) as copied:
        assert copied.exchange(number) is not None


def back_of(
    ingest: Ingest, doorbell: Doorbell, *, density: Density | None = None, log_mover: LogMover | None = None
) -> Back:
    """The loop, in this process."""
    trace = ingest._trace
    density, log_mover = density or Density(), log_mover or LogMover(ingest)
    return Back(ingest, doorbell, trace, on_taken_in=lambda: None, density=density, log_mover=log_mover)


def test_it_does_not_rest_while_segments_wait(tmp_path: Path) -> None:
    """Not even after a batch that is only the rest of one."""
    journal = Journal(tmp_path / "t.db")
    for _ in range(8):
        journal.exchange_of([b"{}"], [os.urandom(700_000)])
        journal.next_segment()
    journal.write()
    ingest = Ingest(journal.trace, key=KEY)
    waiting: list[int] = []

    class RestingDoorbell(Doorbell):
        def pause(self, seconds: float) -> None:
            waiting.append(ingest.waiting_bytes())
            super().pause(seconds)

        def wait(self, timeout_s: float) -> bool:
            self.stop()
            return super().wait(timeout_s)

    reader, writer = os.pipe()
    assert back_of(ingest, RestingDoorbell(reader, lambda: None)).run()
    ingest.close()
    assert 0 < max(waiting) < 1 << 20
    assert ended_exchanges(journal.trace) == 8
    os.close(reader)
    os.close(writer)


def test_a_long_write_ahead_log_is_moved_in_a_lull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only after a long silence: it would have to be moved in the middle of the traffic."""
    monkeypatch.setattr("proxy.store.log_mover.LULL_S", 60.0)
    journal = Journal(tmp_path / "t.db")
    for _ in range(20):
        journal.exchange_of([b"{}"], [os.urandom(1_000_000)])
    journal.write()
    reader, writer = os.pipe()
    doorbell = Doorbell(reader, lambda: None)

    def run() -> None:
        ingest = Ingest(journal.trace, key=KEY)
        with LogMover(ingest) as log_mover:
            back_of(ingest, doorbell, log_mover=log_mover).run()
        ingest.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: journal.trace.exists() and journal.trace.stat().st_size > 20_000_000)
    finally:
        doorbell.stop()
        thread.join()
    os.close(reader)
    os.close(writer)


def test_a_flood_is_let_pass_and_other_work_rests_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "t.db"
    segment = journal_folder(trace) / f"{1:020d}-{0:08d}.seg"
    segment.parent.mkdir()
    segment.touch()
    density = Density()
    reader, writer = os.pipe()
    back = back_of(Ingest(trace, key=KEY), Doorbell(reader, lambda: None), density=density)
    looks = 0

    def look_later(seconds: float) -> None:
        """The journal grows by 64 MiB until the back looks again, ten times."""
        nonlocal looks
        looks += 1
        if looks <= 10:
            os.truncate(segment, looks << 26)
        threading.Event().wait(seconds)

    monkeypatch.setattr("proxy.back.time.sleep", look_later)
    back._let_flood_pass(1 << 23)
    assert looks == 0, "the first batch is compared with nothing"
    back._let_flood_pass(1 << 23)
    assert looks == 11, "it goes on when the journal grows no more"
    began = time.monotonic()
    density.rest(10.0, threading.Event())
    assert time.monotonic() - began > 0.2, "what came in the flood is what other work makes way for"
    segment.unlink()
    segment.parent.rmdir()
    segment.parent.touch()  # what cannot be listed is no flood, and `run_once` will tell of it
    back._let_flood_pass(1 << 23)
    assert looks == 11
    os.close(reader)
    os.close(writer)
