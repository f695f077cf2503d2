"""The indexer survives whatever an exchange does to it, and shows what still runs."""

import contextlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from proxy.exchange import Outcome, Side
from proxy.indexer import Indexer, IndexSettings
from proxy.meaning import Message, Operation, Part, PartKind, Reading, Reported
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from proxy.read.registry import BUILT_IN, Registry
from proxy.store.verify import verify
from tests.proxy_process import wait_until
from tests.store.traffic import (
    JSON_HEAD,
    STREAM_HEAD,
    UNCOUNTED,
    Traffic,
    as_json,
    chat_answer,
    events,
    request_head,
    traffic,
    turns,
)

POISON = "X-Poison: yes"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Traffic]:
    with traffic(tmp_path / "t.db") as opened:
        yield opened


class Poisoned:
    """A plug-in's reader that claims what is marked, and does what it should not."""

    name = "poisoned"
    version = 1

    def __init__(self, how: str) -> None:
        self.how = how
        self.opened = 0

    def claims(self, head: RequestHead) -> Claim:
        if self.how == "claims":
            raise RuntimeError("cannot say")
        return Claim.YES if head.field("x-poison") else Claim.NO

    def open(self, head: RequestHead) -> "PoisonedSession":
        self.opened += 1
        return PoisonedSession(self.how)


class PoisonedSession:
    def __init__(self, how: str) -> None:
        self.how = how

    def request(self, body: bytes, complete_us: int | None) -> None:
        if self.how == "raise":
            raise RuntimeError("a bug")
        if self.how == "recurse":
            self.request(body, complete_us)
        if self.how == "exit":
            os._exit(7)
        if self.how == "hang":
            time.sleep(60)

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        pass

    def data(self, at_us: int, data: bytes) -> None:
        pass

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        pass

    def readings(self, end: End | None) -> Sequence[Reading]:
        text = "\ud800" if self.how == "surrogate" else "said"
        message = Message("user", (Part(PartKind.TEXT, text),))
        tokens = 1 << 70 if self.how == "number" else 1
        reading = Reading(
            reader="poisoned",
            version=1,
            operation=Operation.CHAT,
            messages=(message,),
            reported=Reported(input_tokens=tokens),
            unread=(("a", 1),),
            is_running=end is None,
        )
        return (reading,)


def with_poison(how: str) -> Registry:
    return Registry((Poisoned(how), *BUILT_IN))


def read_state(made: Traffic) -> dict[str, list[object]]:
    return {
        "unread": made.values("SELECT exchange_id FROM unread_exchanges"),
        "attempts": made.values("SELECT exchange_id FROM reading_attempts"),
        "failed": made.values("SELECT exchange_id FROM read_exchanges WHERE failure IS NOT NULL"),
    }


# --- poisoned exchanges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "recurse", "surrogate", "number"])
def test_a_poisoned_exchange_is_noted_and_left_out(made: Traffic, how: str, caplog: pytest.LogCaptureFixture) -> None:
    registry = with_poison(how)
    made.restart(registry=registry)
    before = [made.chat(turns(f"u{number}"), more={"shininess": 1}) for number in range(3)]
    poisoned = made.chat(turns("poison"), "a", POISON)
    after = [made.chat(turns(f"v{number}"), more={"shininess": 1}) for number in range(3)]
    with caplog.at_level(logging.CRITICAL):
        assert made.read() == 7
    assert made.values("SELECT exchange_id FROM calls ORDER BY id") == [*before, *after]
    assert made.problems(poisoned) == ["reader_failed"]
    assert read_state(made) == {"unread": [], "attempts": [], "failed": [poisoned]}
    assert made.values("SELECT count FROM problems WHERE kind = 'unread_field'") == [6]
    assert made.values("SELECT calls FROM models WHERE model = 'm'") == [6]
    poison = registry.readers[0]
    assert isinstance(poison, Poisoned)
    opened = poison.opened
    made.chat(turns("w"))
    made.read()
    assert poison.opened == opened, "it is not tried again"


def test_a_poisoned_exchange_is_read_once_its_reader_is_mended(made: Traffic) -> None:
    made.restart(registry=with_poison("raise"))
    poisoned = made.chat(turns("poison"), "a", POISON)
    logging.disable(logging.CRITICAL)
    made.read()
    logging.disable(logging.NOTSET)
    made.restart(registry=with_poison("nothing"))
    made.indexer.reread()
    assert made.read() == 0, "the same version of a reader is not asked again by itself"
    made.indexer.reread(everything=True)
    assert made.read() == 1
    assert made.problems(poisoned) == []
    assert made.call(poisoned)["dialect"] == "poisoned"


def test_a_reader_that_cannot_say_what_is_its_own_keeps_no_other_from_reading(
    made: Traffic, caplog: pytest.LogCaptureFixture
) -> None:
    made.restart(registry=with_poison("claims"))
    exchange = made.chat(turns("hi"))
    with caplog.at_level(logging.CRITICAL):
        made.read()
    assert made.call(exchange)["dialect"] == "openai_chat"


@pytest.mark.parametrize("how", ["raise", "number"])
def test_a_poisoned_exchange_that_runs_is_tried_once(made: Traffic, how: str, caplog: pytest.LogCaptureFixture) -> None:
    made.restart(registry=with_poison(how))
    exchange = begin_stream(made, POISON)
    with caplog.at_level(logging.CRITICAL, "proxy"):
        for event in events("One", " two"):
            made.recording.data(exchange, Side.UPSTREAM, event)
            look_at_running(made)
    assert made.values("SELECT kind FROM problems WHERE kind <> 'unread_field'") == ["reader_failed"]
    logging.disable(logging.CRITICAL)
    made.recording.close(exchange)
    other = made.chat(turns("hi"))
    made.read()
    logging.disable(logging.NOTSET)
    assert made.problems(exchange) == ["reader_failed"]
    assert made.call(other)["answer"] == "an answer"


# --- a process that dies ----------------------------------------------------------------------------------------------

READ_ALL = """
import sys
from pathlib import Path
from proxy.indexer import Indexer
from tests.store.traffic import UNCOUNTED
from tests.test_indexer import with_poison
indexer = Indexer(Path(sys.argv[1]), UNCOUNTED, registry=with_poison(sys.argv[2]))
print("begins", flush=True)
while indexer.run_once():
    pass
indexer.close()
"""


def start_reading(made: Traffic, how: str) -> subprocess.Popen[bytes]:
    """A process that reads everything with a reader which ends it, or lets it hang."""
    command = [sys.executable, "-c", READ_ALL, str(made.trace), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)


def run_reading(made: Traffic, how: str) -> int:
    with start_reading(made, how) as process:
        process.communicate(timeout=60)
        return process.returncode


def test_who_ends_the_process_is_found_and_left_out(made: Traffic) -> None:
    others = [made.chat(turns(f"u{number}")) for number in range(5)]
    poisoned = made.chat(turns("poison"), "a", POISON)
    others += [made.chat(turns(f"v{number}")) for number in range(5)]
    made.recording.take_in()
    assert run_reading(made, "exit") == 7
    assert verify(made.trace).problems == []
    assert read_state(made)["failed"] == []
    assert run_reading(made, "exit") == 7, "it may have been the machine's fault"
    assert verify(made.trace).problems == []
    assert run_reading(made, "exit") == 0
    assert made.values("SELECT exchange_id FROM calls ORDER BY exchange_id") == others
    assert made.rows("SELECT exchange_id, kind, detail FROM problems") == [
        (poisoned, "reader_failed", "the process ended while this was read")
    ]
    assert read_state(made) == {"unread": [], "attempts": [], "failed": [poisoned]}
    made.restart(registry=with_poison("nothing"))
    made.indexer.reread(everything=True)
    made.read()
    assert made.problems(poisoned) == []


def test_kill_9_while_reading_loses_nothing(made: Traffic) -> None:
    exchanges = [made.chat(turns(f"u{number}")) for number in range(3)]
    exchanges.append(made.chat(turns("poison"), "a", POISON))
    made.recording.take_in()
    with start_reading(made, "hang") as process:
        wait_until(lambda: len(read_state(made)["attempts"]) == 4, "it reads")
        process.send_signal(signal.SIGKILL)
    assert verify(made.trace).problems == []
    made.restart(registry=with_poison("nothing"))
    assert made.read() == 4
    assert made.values("SELECT exchange_id FROM calls ORDER BY exchange_id") == exchanges
    assert read_state(made) == {"unread": [], "attempts": [], "failed": []}


def test_a_program_that_has_a_look_takes_nothing_away(made: Traffic) -> None:
    """SQLite's locks are the process's: closing the file anywhere in it would let others delete the write-ahead log."""
    exchanges = [made.chat(turns("hi"))]
    made.read()
    look = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM calls').fetchall(); c.close()"
    )
    for number in range(3):
        subprocess.run([sys.executable, "-c", look, str(made.trace)], check=True)
        assert made.trace.with_name("t.db-wal").exists()
        exchanges.append(made.chat(turns(f"hi {number}")))
        made.restart()
        made.read()
    assert made.values("SELECT exchange_id FROM calls ORDER BY id") == exchanges
    assert verify(made.trace).problems == []


# --- a busy file ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(trace: Path) -> Iterator[sqlite3.Connection]:
    """Another connection's open transaction."""
    connection = sqlite3.connect(trace, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_a_busy_file_only_delays(made: Traffic) -> None:
    exchanges = [made.chat(turns(f"u{number}")) for number in range(3)]
    made.recording.take_in()
    may_end, holds = threading.Event(), threading.Event()

    def hold() -> None:
        with writing(made.trace):
            holds.set()
            may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(60)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        made.indexer.run_once()
    may_end.set()
    thread.join()
    assert made.read() == 3
    assert made.values("SELECT exchange_id FROM calls ORDER BY id") == exchanges
    assert read_state(made) == {"unread": [], "attempts": [], "failed": []}


class Turn:
    """Lets somebody else write between two turns of the indexer, as often as it is told."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace
        self.count = 0
        self.busy_at: set[int] = set()
        self.other = contextlib.ExitStack()

    def __enter__(self) -> None:
        self.count += 1
        if self.count in self.busy_at:
            self.other.enter_context(writing(self.trace))

    def __exit__(self, *_: object) -> None:
        self.other.close()


def test_a_file_that_is_busy_whenever_readings_are_written_blames_no_exchange(made: Traffic) -> None:
    """What is about to be read is noted before, and this succeeds each time."""
    exchanges = [made.chat(turns(f"u{number}")) for number in range(3)]
    made.recording.take_in()
    turn = Turn(made.trace)
    made.indexer.close()
    made.indexer = Indexer(made.trace, UNCOUNTED, turn=turn)
    turn.busy_at = {2, 4}
    for _ in turn.busy_at:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            made.indexer.run_once()
    assert made.read() == 3
    assert made.values("SELECT exchange_id FROM calls ORDER BY id") == exchanges
    assert read_state(made) == {"unread": [], "attempts": [], "failed": []}


def test_tokens_are_counted_anew_also_if_the_file_was_busy_first(made: Traffic) -> None:
    made.chat(turns("hello world"))
    made.read()
    made.restart(IndexSettings(encoding="cl100k_base"))
    with writing(made.trace), pytest.raises(sqlite3.OperationalError, match="locked"):
        made.indexer.run_once()
    made.read()
    assert made.values("SELECT tiktoken_tokens FROM messages") == [2, 2]


# --- what runs --------------------------------------------------------------------------------------------------------


def begin_stream(made: Traffic, *fields: str, said: str = "hi", **more: object) -> int:
    exchange = made.recording.open(request_head("/v1/chat/completions", *fields))
    body = as_json({"model": "m", "messages": turns(said), "stream": True, **more})
    made.recording.data(exchange, Side.CLIENT, body)
    made.recording.at_ms += 5
    made.recording.respond(exchange, STREAM_HEAD)
    return exchange


def look_at_running(made: Traffic) -> None:
    """As if the time had passed after which it is looked at again."""
    made.indexer._live_at = 0.0
    made.read()


def test_a_running_stream_is_read_as_far_as_it_came(made: Traffic) -> None:
    exchange = begin_stream(made)
    look_at_running(made)
    row = made.call(exchange)
    assert (row["is_running"], row["last_input"], row["answer"], row["label"]) == (1, "hi", None, "new")
    call_id = row["id"]
    said = ""
    for delta in ("One", " two", " three"):
        said += delta
        made.recording.data(exchange, Side.UPSTREAM, *events(delta, reason=None), every_ms=10)
        look_at_running(made)
        row = made.call(exchange)
        assert (row["is_running"], row["answer"], row["stop_reason"]) == (1, said, None)
    assert made.indexer.is_watching
    assert made.values("SELECT count(*) FROM models WHERE calls") == [0]
    made.recording.data(exchange, Side.UPSTREAM, *events("."), every_ms=10)
    made.recording.close(exchange)
    made.read()
    row = made.call(exchange)
    assert (row["id"], row["is_running"], row["answer"], row["stop_reason"]) == (call_id, 0, "One two three.", "stop")
    assert made.values("SELECT text FROM messages ORDER BY id") == ["hi", "One two three."]
    assert made.values("SELECT calls FROM models WHERE model = 'm'") == [1]
    look_at_running(made)
    assert not made.indexer.is_watching


def test_a_running_answer_that_never_ends_is_replaced_by_what_there_was(made: Traffic) -> None:
    """The front dies: the exchange is ended as interrupted."""
    exchange = begin_stream(made)
    made.recording.data(exchange, Side.UPSTREAM, *events("One", reason=None))
    look_at_running(made)
    made.recording._ingest.finish()
    made.restart()
    made.read()
    row = made.call(exchange)
    assert (row["is_running"], row["answer"]) == (0, "One")
    assert row["error"] == "interrupted" or made.problems(exchange) != []
    assert made.values("SELECT text FROM messages ORDER BY id") == ["hi", "One"]


def test_a_new_indexer_reads_on_what_runs(made: Traffic) -> None:
    exchange = begin_stream(made)
    made.recording.data(exchange, Side.UPSTREAM, *events("One", reason=None))
    look_at_running(made)
    made.restart()
    made.recording.data(exchange, Side.UPSTREAM, *events(" two", reason=None))
    look_at_running(made)
    assert made.call(exchange)["answer"] == "One two"


def test_what_could_not_be_stored_of_a_running_stream_is_stored_the_next_time(made: Traffic) -> None:
    exchange = begin_stream(made)
    made.recording.data(exchange, Side.UPSTREAM, *events("One", reason=None))
    made.recording.take_in()
    made.indexer._live_at = 0.0
    with writing(made.trace), pytest.raises(sqlite3.OperationalError, match="locked"):
        made.indexer.run_once()
    look_at_running(made)
    assert made.call(exchange)["answer"] == "One"


@pytest.mark.parametrize("is_secret", [True, False])
def test_secrets_in_a_running_body_are_masked(made: Traffic, is_secret: bool) -> None:
    """It is masked for good when it ends; until then it waits sealed, and readings must not tell it either."""
    if is_secret:
        made.restart(IndexSettings(encoding="off", body_fields=("messages[].content",)))
    begin_stream(made, said="my secret word")
    look_at_running(made)
    assert made.values("SELECT is_running FROM calls") == [1]
    tables = made.values("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'read%'")
    told = "".join(str(made.rows(f"SELECT * FROM {name}")) for name in [*tables, "call_messages"])
    assert ("secret" in told) != is_secret
    assert ("sec" in made.values("SELECT term FROM message_trigrams")) != is_secret


def test_without_the_traces_key_nothing_is_read_of_what_runs(made: Traffic) -> None:
    """Its body waits sealed in the trace; a call without a question would be wrong."""
    begin_stream(made)
    made.recording.take_in()
    made.indexer.close()
    made.indexer = Indexer(made.trace, UNCOUNTED)
    made.read()
    assert made.values("SELECT count(*) FROM readings") == [0]


def test_a_websocket_is_read_when_it_ends(made: Traffic) -> None:
    made.recording.open(request_head("/llm", "Upgrade: websocket", method="GET"), is_websocket=True)
    look_at_running(made)
    assert made.values("SELECT count(*) FROM readings") == [0]
    assert not made.indexer.is_watching


# --- what the proxy answers by itself ---------------------------------------------------------------------------------


def test_what_the_proxy_answers_by_itself_is_no_problem(made: Traffic) -> None:
    preflight = made.exchange("/nowhere", b"", b"", method="OPTIONS", upstream="")
    refused = made.exchange("/nowhere", b"{}", b"no such upstream", upstream="", outcome=Outcome.UPSTREAM_UNREACHABLE)
    running = made.recording.open(request_head("/nowhere"), upstream="")
    made.recording.respond(running, JSON_HEAD)
    look_at_running(made)
    assert made.rows("SELECT * FROM problems") == []
    assert made.rows("SELECT * FROM readings") == []
    assert made.rows("SELECT exchange_id, reader_id FROM read_exchanges") == [(preflight, None), (refused, None)]
    forwarded = made.exchange("/nowhere", b"{}", b"{}")
    made.read()
    assert made.problems(forwarded) == ["unknown_endpoint"]


# --- many -------------------------------------------------------------------------------------------------------------


def test_more_than_one_batch_is_read_in_order(made: Traffic) -> None:
    exchanges = []
    for number in range(600):
        exchanges.append(made.chat(turns(f"question {number}"), f"answer {number}"))
    assert made.read() == 600
    assert made.values("SELECT exchange_id FROM calls ORDER BY id") == exchanges
    assert made.values("SELECT sum(calls) FROM models") == [600]


def test_exchanges_that_are_gone_are_crossed_off(made: Traffic) -> None:
    exchange = made.chat(turns("hi"))
    made.recording.take_in()
    made.change("INSERT INTO unread_exchanges VALUES(1000), (1001)")
    made.change("INSERT INTO reading_attempts VALUES(1001, 2)")
    made.read()
    assert read_state(made) == {"unread": [], "attempts": [], "failed": []}
    assert made.call(exchange)["answer"] == "an answer"


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_another_encoding_counts_all_tokens_anew(made: Traffic) -> None:
    text = "Voilà un été très long, 你好世界 \u00a0 done"
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}}
    made.chat(turns(text), {"role": "assistant", "content": None, "tool_calls": [call]})
    made.read()
    sql = "SELECT tiktoken_tokens FROM messages ORDER BY id"
    assert made.values(sql) == [None, None]
    assert made.rows("SELECT * FROM token_counts") == []
    counted: dict[str, list[int]] = {}
    for encoding in ("cl100k_base", "o200k_base", "cl100k_base"):
        made.restart(IndexSettings(encoding=encoding))
        made.read()
        counts = made.values(sql)
        assert counted.setdefault(encoding, counts) == counts
        assert set(made.values("SELECT counter FROM token_counts")) == {f"tiktoken:{encoding}"}
    assert counted["cl100k_base"] != counted["o200k_base"]
    assert all(isinstance(count, int) and count > 0 for counts in counted.values() for count in counts)
    made.restart(IndexSettings(encoding="off"))
    made.read()
    assert made.values(sql) == [None, None]


def test_unknown_fields_of_an_answer_are_there_as_json_too(made: Traffic) -> None:
    """The whole body stays beside whatever was read of it."""
    answer = chat_answer("hi", novelty={"a": 1})
    exchange = made.exchange("/v1/chat/completions", as_json({"messages": turns("hi")}), as_json(answer))
    made.read()
    (text,) = made.values("SELECT text FROM response_bodies WHERE exchange_id = ?", exchange)
    assert json.loads(text) == answer
