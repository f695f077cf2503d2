"""The log of an engine is read while it runs: once, in order, at a cost that does not grow with its length."""

import json
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Outcome, Side
from proxy.store import endless
from tests.store.traffic import UNCOUNTED, Traffic, request_head, traffic

HEAD = request_head(
    *("/diagnostics", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "X-Proxy-Log-Tag: engine-log", "X-Proxy-Log-Session: engine log"),
    method="GET",
)
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ROWS = (
    "SELECT c.id, c.seq, c.reader_id, c.operation, c.is_running, c.started_at_us, c.response_id, v.data"
    " FROM read_calls c JOIN read_values v ON v.id = c.details_id ORDER BY c.exchange_id, c.seq"
)
TEXTS = "SELECT text FROM engine_events WHERE event = 'input' ORDER BY id"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Traffic]:
    with traffic(tmp_path / "t.db", UNCOUNTED) as opened:
        yield opened


class Log:
    """A subscription that runs."""

    def __init__(self, made: Traffic) -> None:
        self.made = made
        self.id = made.recording.open(HEAD, is_websocket=True)
        made.recording.respond(self.id, UPGRADED)
        self._protocols = {side: FrameProtocol(client=side is Side.CLIENT, extensions=[]) for side in Side}
        self._say(Side.CLIENT, {"authVersion": 1, "clientIdentifier": "guest:1", "clientPasskey": "x"})
        self._say(Side.UPSTREAM, {"success": True})
        self._say(Side.CLIENT, {"type": "channelCreate", "endpoint": "streamLogs", "channelId": 0})

    def _say(self, side: Side, frame: Any) -> None:
        wire = self._protocols[side].send_data(json.dumps(frame), fin=True)
        self.made.recording.data(self.id, side, bytes(wire), every_ms=1)

    def event(self, **data: Any) -> None:
        message = {"type": "log", "log": {"timestamp": 1, "data": data}}
        self._say(Side.UPSTREAM, {"type": "channelSend", "channelId": 0, "message": message})

    def prompt(self, text: str) -> None:
        self.event(type="llm.prediction.input", modelIdentifier="m", modelPath="p", input=text)

    def line(self, content: str) -> None:
        self.event(type="server.log", level="info", content=content)

    def odd(self) -> None:
        self.event(type="strange")

    def end(self) -> None:
        self.made.recording.close(self.id, Outcome.CLIENT_GONE)


def look(made: Traffic) -> None:
    """As if the time had passed after which what runs is looked at again."""
    made.indexer._live_at = 0.0
    made.read()
    made.read()


def rows(made: Traffic, sql: str = ROWS) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in made.connection.execute(sql)]


def texts(made: Traffic) -> list[str]:
    return [text for (text,) in rows(made, TEXTS)]


def test_events_are_rows_while_the_log_runs_and_the_rows_before_stay(made: Traffic) -> None:
    log = Log(made)
    log.prompt("one")
    look(made)
    assert texts(made) == ["one"]
    first = rows(made)
    log.line("a line")
    log.prompt("two")
    made.read()
    assert texts(made) == ["one", "two"]
    assert rows(made)[1] == first[1]
    assert not made.indexer.is_watching, "it is read when something comes, not again and again"


def test_end_of_the_log_changes_no_row_but_its_own(made: Traffic) -> None:
    log = Log(made)
    for text in ("one", "two"):
        log.prompt(text)
        look(made)
    before = rows(made)
    log.odd()
    log.prompt("three")
    log.end()
    made.read()
    after = rows(made)
    assert after[1:3] == before[1:3]
    assert [row[4] for row in after] == [0, 0, 0, 0]
    assert texts(made) == ["one", "two", "three"]
    problems = "SELECT call_id, kind, detail FROM read_problems ORDER BY seq"
    assert rows(made, problems) == [(after[0][0], "unknown_event", "strange")]
    assert rows(made, "SELECT * FROM unread_exchanges") == []
    made.indexer.reread(everything=True)
    made.read()
    assert rows(made) == after
    assert rows(made, problems) == [(after[0][0], "unknown_event", "strange")]


@pytest.mark.parametrize("is_over", [False, True])
def test_new_indexer_reads_on_and_doubles_nothing(made: Traffic, is_over: bool) -> None:
    log = Log(made)
    log.prompt("one")
    log.line('Generated prediction: {"id": "chatcmpl-1", "choices": []}')
    look(made)
    before = rows(made)
    made.restart()
    log.prompt("two")
    if is_over:
        log.end()
    look(made)
    assert rows(made)[1:3] == before[1:3]
    assert texts(made) == ["one", "two"]
    assert [row[1] for row in rows(made)] == [0, 1, 2, 3]


def test_what_could_not_be_stored_is_stored_the_next_time(made: Traffic) -> None:
    log = Log(made)
    log.prompt("one")
    look(made)
    log.prompt("two")
    made.recording.take_in()
    other = sqlite3.connect(made.trace, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        made.indexer.run_once()
    other.execute("ROLLBACK")
    other.close()
    log.prompt("three")
    made.read()
    assert texts(made) == ["one", "two", "three"]


def test_log_that_nobody_read_while_it_ran_is_read_when_it_has_ended(made: Traffic) -> None:
    log = Log(made)
    asked = [f"prompt {number}" for number in range(endless.PIECE + 3)]
    for text in asked:
        log.prompt(text)
    log.end()
    made.read()
    assert texts(made) == asked


def test_memory_and_statements_do_not_grow_with_the_log(made: Traffic) -> None:
    """Each event costs as many statements as those before it, and nothing of it is kept."""
    log = Log(made)

    def costs() -> tuple[int, int]:
        """Statements and bytes that stay, of some events."""
        statements: list[str] = []
        made.indexer._ready().set_trace_callback(statements.append)
        tracemalloc.start()
        for number in range(20):
            log.prompt(f"{number} " + "x" * 20_000)
            made.read()
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        made.indexer._ready().set_trace_callback(None)
        return len(statements), kept

    look(made)
    costs()
    first = costs()
    for _ in range(5):
        costs()
    last = costs()
    assert last[0] <= first[0] + 5
    assert last[1] < 20 * 20_000, "what was read is let go of"


def test_calls_of_the_log_are_in_no_conversation(made: Traffic) -> None:
    log = Log(made)
    log.prompt("one")
    look(made)
    assert rows(made, "SELECT count(*) FROM read_calls WHERE thread_id IS NOT NULL") == [(0,)]
    assert rows(made, "SELECT DISTINCT tag FROM read_calls") == [("engine-log",)]
