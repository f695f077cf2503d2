"""`proxy-log tail` lists exchanges, and follows them from another process."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.line import Layout
from proxy.exchange import Outcome, Side
from proxy.record.journal import Gap
from proxy.store.engine_log import EngineLogStatus, put_status
from proxy.store.trace import ExchangeRow
from tests.cli.conftest import Run
from tests.cli.recording import EVENTS, Recording
from tests.proxy_process import wait_until


def test_line_tells_everything(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    (line,) = run("tail").stdout.splitlines()
    date_and_time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf" +1 {date_and_time} 127.0.0.1:50123 +POST +/v1/chat/completions +200 smollm2-135m-instruct"
        r" +96 +96 +83ms +85ms completed",
        line,
    )


def test_newest_stand_at_the_end_and_n_limits(recorded: Recording, run: Run) -> None:
    for _ in range(25):
        recorded.chat()
    recorded.take_in()

    def ids(*arguments: str) -> list[int]:
        return [int(line.split()[0]) for line in run("tail", *arguments).stdout.splitlines()]

    assert ids() == list(range(6, 26))
    assert ids("-n", "2") == [24, 25]
    assert ids("-n", "0") == []
    assert ids("-n", "100") == list(range(1, 26))


def test_failures_gaps_and_running_exchanges_are_marked(recorded: Recording, run: Run) -> None:
    failed = recorded.open()
    recorded.close(failed, Outcome.UPSTREAM_UNREACHABLE, "connection\nrefused")
    holed = recorded.chat()
    recorded.gap(holed, Gap(0, 0, 1, 0, 5, reason="the disk was full"))
    recorded.at_ms += 1
    recorded.gap(0, Gap(recorded.now_ns, 12, 40, 0, 0, reason="the disk was full"))
    recorded.at_ms += 1
    recorded.begin_stream()
    recorded.take_in()
    lines = run("tail").stdout.splitlines()
    assert lines[0].endswith(" upstream_unreachable: connection\u23cerefused")
    assert lines[1].endswith("completed: gap")
    assert lines[2].endswith(": 12 exchanges could not be recorded: the disk was full")
    assert lines[3].endswith("- running")


def test_foreign_text_cannot_steer_the_terminal(recorded: Recording, run: Run) -> None:
    recorded.close(recorded.open(b"GET /\x1b[2J\xc2\x9b HTTP/1.1\r\nHost: a\r\n"))
    recorded.take_in()
    assert "\x1b" not in run("tail").stdout


def test_json_gives_one_object_a_line(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.begin_stream()
    recorded.take_in()
    first, second = (json.loads(line) for line in run("tail", "--json").stdout.splitlines())
    assert (first["id"], first["outcome"], first["model"]) == (1, "completed", "smollm2-135m-instruct")
    assert ["Host", "localhost:8234"] in first["request_headers"]
    assert (second["id"], second["outcome"]) == (2, None)


def test_nothing_is_coloured_in_a_pipe(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    assert "\x1b" not in run("tail").stdout + run("show", "1").stdout


def test_output_into_a_closed_pipe_is_quiet(recorded: Recording) -> None:
    for _ in range(50):
        recorded.chat()
    recorded.take_in()
    ran = subprocess.run(
        f"{sys.executable} -m proxy tail -n 1000 | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert (ran.stdout.count("\n"), ran.stderr) == (1, "")


_text = st.text() | st.none()


@given(
    st.integers(80, 300),
    st.builds(
        ExchangeRow,
        **{
            "id": st.integers(1, 10**7),
            "started_at": st.just("2026-01-02T03:04:05.678901Z"),
            "client": st.just("[2001:db8:1234:5678:9abc:def0:1234:5678]:65535") | st.just("127.0.0.1:1"),
            "path": _text,
            "model": _text,
            "method": _text,
            "status": st.none() | st.integers(100, 999),
            "request_bytes": st.integers(0, 10**11),
            "response_bytes": st.integers(0, 10**12),
            "first_byte_ms": st.none() | st.floats(0, 3e8),
            "duration_ms": st.none() | st.floats(0, 3e8),
            "outcome": st.none() | st.sampled_from(list(Outcome)).map(str),
            "gaps": st.integers(0, 2),
        },
    ),
)
def test_line_fits_the_terminal(width: int, row: ExchangeRow) -> None:
    line = Layout.fitting(width, len(str(row.id))).line(row)
    assert "\n" not in line.plain
    assert line.cell_len < width


# --- following --------------------------------------------------------------------------------------------------------


class Following:
    """`proxy-log tail -f` in a process of its own, its output growing line by line."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "tail", "-f", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environment,
        )
        self._out = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        while part := os.read(self.process.stdout.fileno(), 65536):
            self._out += part

    @property
    def out(self) -> str:
        return self._out.decode()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.out, f"{text!r} in {self.out!r}")

    def interrupt(self) -> int:
        """Ctrl-C; gives the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(10)
        self._thread.join()
        assert self.process.stderr
        self.errors = self.process.stderr.read().decode()
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@pytest.fixture
def following(recorded: Recording) -> Iterator[list[Following]]:
    started: list[Following] = []
    yield started
    for each in started:
        each.close()


def _follow(following: list[Following], *arguments: str) -> Following:
    following.append(Following(*arguments))
    return following[-1]


def test_text_of_a_stream_is_shown_while_it_grows(recorded: Recording, following: list[Following]) -> None:
    recorded.chat()
    recorded.take_in()
    follow = _follow(following)
    follow.wait_for("     1 ")
    exchange = recorded.begin_stream()
    recorded.take_in()
    follow.wait_for("running\n")
    recorded.data(exchange, Side.UPSTREAM, *EVENTS[:3])
    recorded.take_in()
    follow.wait_for("\n     2 \u2502 Once upon a")
    recorded.data(exchange, Side.UPSTREAM, *EVENTS[3:])
    recorded.close(exchange)
    recorded.take_in()
    follow.wait_for("completed\n     2 ")
    follow.wait_for("\n     2 \u2502 Once upon a time there was a mouse.\n     2 2")
    assert (follow.interrupt(), follow.errors.strip()) == (0, "")


def test_it_says_whether_the_engines_log_is_listened_to(recorded: Recording, following: list[Following]) -> None:
    recorded.chat()
    recorded.take_in()
    with contextlib.closing(sqlite3.connect(recorded.trace, isolation_level=None)) as connection:
        put_status(connection, EngineLogStatus("lmstudio", "listening", "", 1_750_000_000_000_000))
        put_status(connection, EngineLogStatus("second", "refused", "status 401", 1_750_000_000_000_000))
        put_status(connection, EngineLogStatus("ollama", "not_lmstudio", "", 1_750_000_000_000_000))
    follow = _follow(following)
    follow.wait_for("engine's log of second: not listening: refused: status 401\n")
    assert follow.out.splitlines()[1] == "engine's log of lmstudio: listening"
    assert "ollama" not in follow.out, "what has no such log needs no line"


def test_streams_side_by_side_are_not_mixed(recorded: Recording, following: list[Following]) -> None:
    recorded.take_in()
    follow = _follow(following)
    first, second = recorded.begin_stream(), recorded.begin_stream()
    recorded.take_in()
    for event in EVENTS[:4]:
        for exchange in (first, second):
            recorded.data(exchange, Side.UPSTREAM, event)
            recorded.take_in()
    follow.wait_for("     1 \u2502 Once upon a time")
    recorded.close(second)
    recorded.take_in()
    follow.wait_for("\n     2 \u2502 Once upon a time\n     2 2")
    recorded.data(first, Side.UPSTREAM, *EVENTS[4:])
    recorded.close(first)
    recorded.take_in()
    follow.wait_for("\n     1 \u2502  there was a mouse.\n     1 2")


def test_json_gives_each_exchange_once_when_it_ended(recorded: Recording, following: list[Following]) -> None:
    recorded.take_in()
    follow = _follow(following, "--json")
    running = recorded.begin_stream()
    recorded.chat()
    recorded.take_in()
    follow.wait_for("\n")
    recorded.close(running)
    recorded.take_in()
    wait_until(lambda: follow.out.count("\n") == 2, "two lines")
    assert [json.loads(line)["id"] for line in follow.out.splitlines()] == [2, 1]


def test_follow_waits_for_a_trace_that_is_not_there_yet(recorded: Recording, following: list[Following]) -> None:
    follow = _follow(following)
    assert follow.process.stderr
    assert b"waiting for proxy-log serve" in follow.process.stderr.readline()
    recorded.chat()
    recorded.take_in()
    follow.wait_for("completed\n")
    assert follow.interrupt() == 0


def test_gap_is_shown_when_it_is_known(recorded: Recording, following: list[Following]) -> None:
    recorded.chat()
    recorded.take_in()
    follow = _follow(following)
    follow.wait_for("completed\n")
    recorded.gap(0, Gap(recorded.now_ns, 3, 9, 0, 0, reason="the disk was full"))
    recorded.take_in()
    follow.wait_for("3 exchanges could not be recorded: the disk was full\n")


def test_exchange_is_shown_soon_after_it_was_stored(recorded: Recording, following: list[Following]) -> None:
    recorded.chat()
    recorded.take_in()
    follow = _follow(following)
    follow.wait_for("completed\n")
    delays = []
    for number in range(2, 7):
        recorded.chat()
        recorded.take_in()
        stored_at = time.monotonic()
        follow.wait_for(f"\n     {number} ")
        delays.append(time.monotonic() - stored_at)
    assert min(delays) < 0.1


def test_missing_trace_without_follow_is_an_error(run: Run, tmp_path: Path) -> None:
    result = run("tail", "--trace", str(tmp_path / "none.db"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: there is no trace at {tmp_path / 'none.db'}")
