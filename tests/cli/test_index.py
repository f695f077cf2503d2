"""`proxy-log index` and `reread`, and what `proxy-log serve` reads by itself."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from proxy.exchange import Outcome
from proxy.store.ingest import hold_writer_lock
from tests.cli.conftest import Run
from tests.cli.recording import Recording
from tests.conftest import StartProxy, Wire
from tests.proxy_process import wait_until
from tests.raw_client import RawClient
from tests.raw_server import RawServer, answer, length_response

ANSWER = (
    b'{"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}]}'
)
BODY = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)
ANSWERED = answer(length_response(ANSWER, b"Content-Type: application/json"))


def rows(trace: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{trace}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_index_reads_what_is_not_read_yet(recorded: Recording, run: Run) -> None:
    for _ in range(3):
        recorded.chat()
    recorded.take_in()
    assert rows(recorded.trace, "SELECT * FROM calls") == []
    result = run("index")
    assert (result.exit_code, result.stdout) == (0, "Read 3 exchanges: see the views calls, messages and threads.\n")
    assert rows(recorded.trace, "SELECT exchange_id FROM calls ORDER BY id") == [(1,), (2,), (3,)]
    assert run("index").stdout == "Nothing was left to read.\n"
    recorded.chat()
    recorded.take_in()
    assert run("index").stdout.startswith("Read 1 exchange: ")


def test_the_result_can_be_had_as_json(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    result = run("index", "--json")
    assert json.loads(result.stdout) == {"trace": str(recorded.trace), "exchanges": 1}
    assert json.loads(run("index", "--json").stdout)["exchanges"] == 0


def test_reread_makes_everything_again_if_asked_to(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.stream()
    recorded.take_in()
    run("index")
    before = rows(recorded.trace, "SELECT id, exchange_id, answer FROM calls ORDER BY id")
    assert run("reread").stdout == "Nothing was left to read.\n"
    assert run("reread", "--all").stdout.startswith("Read 2 exchanges: ")
    assert rows(recorded.trace, "SELECT id, exchange_id, answer FROM calls ORDER BY id") == before
    assert json.loads(run("reread", "--all", "--json").stdout)["exchanges"] == 2


def test_index_takes_sessions_and_encoding_from_the_configuration(
    recorded: Recording, run: Run, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[upstreams.lmstudio]\nurl = "http://localhost:1234"\n'
        '[upstreams.course]\nurl = "http://localhost:1234"\nprefix = "/course"\nsession = "the course"\n'
        '[index]\nencoding = "o200k_base"\n',
        encoding="utf-8",
    )
    exchange = recorded.open(upstream="course")
    recorded.respond(exchange)
    recorded.close(exchange)
    recorded.take_in()
    run("index", "--config", str(config))
    assert rows(recorded.trace, "SELECT session FROM calls") == [("the course",)]
    assert rows(recorded.trace, "SELECT value FROM read_settings WHERE name = 'encoding'") == [("o200k_base",)]


def test_a_running_exchange_is_left_to_serve(recorded: Recording, run: Run) -> None:
    recorded.begin_stream()
    recorded.take_in()
    assert run("index").stdout == "Nothing was left to read.\n"
    assert rows(recorded.trace, "SELECT * FROM readings") == []


def test_there_must_be_a_trace(recorded: Recording, run: Run, tmp_path: Path) -> None:
    for command in ("index", "reread"):
        result = run(command, "--trace", str(tmp_path / "none.db"))
        assert result.exit_code == 1
        assert "there is no trace at" in result.stderr
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("command", ["index", "reread"])
def test_only_one_program_writes_the_trace(recorded: Recording, run: Run, command: str) -> None:
    recorded.chat()
    recorded.take_in()
    with hold_writer_lock(recorded.trace):
        result = run(command)
    assert result.exit_code == 1
    assert "writing the trace" in result.stderr
    assert run("index").stdout.startswith("Read 1 exchange: ")


def test_a_failed_exchange_is_read_too(recorded: Recording, run: Run) -> None:
    exchange = recorded.open()
    recorded.close(exchange, Outcome.UPSTREAM_UNREACHABLE, "connection refused")
    recorded.take_in()
    run("index")
    assert rows(recorded.trace, "SELECT kind, detail, place FROM problems") == [
        ("upstream_unreachable", "connection refused", "outcome")
    ]


# --- while proxy-log serve runs ---------------------------------------------------------------------------------------


@pytest.mark.through_proxy
def test_serve_reads_a_call_as_soon_as_it_ended(wire: Wire) -> None:
    proxy = wire.proxy
    assert proxy
    client = wire.connect()
    wire.upstream.begin(ANSWERED)
    client.ask(REQUEST)
    exchange = wire.exchange_of(client)["id"]
    sql = "SELECT last_input, answer, label, model_answered FROM calls WHERE exchange_id = ? AND NOT is_running"
    (row,) = wait_until(lambda: proxy.query(sql, exchange), "the call is read")
    assert tuple(row)[:2] == ("hi", "Hello!")
    assert row["model_answered"] == "tiny"
    result = proxy.run("index", may_fail=True)
    assert result.returncode == 1
    assert re.search(rb"proxy-log serve (records into|runs)|writ", result.stderr)


@pytest.mark.through_proxy
def test_where_reading_is_off_it_waits_for_the_command(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy({"index": {"enabled": False}})
    upstream.begin(ANSWERED)
    with RawClient(proxy.address) as client:
        client.ask(REQUEST)
        exchange = proxy.exchange_of(client.id)["id"]
    assert proxy.stop() == 0, proxy.output()
    assert proxy.query("SELECT * FROM readings") == []
    assert [row["exchange_id"] for row in proxy.query("SELECT * FROM unread_exchanges")] == [exchange]
    assert b"Read 1 exchange" in proxy.run("index").stdout
    assert [row["answer"] for row in proxy.query("SELECT answer FROM calls")] == ["Hello!"]


@pytest.mark.through_proxy
def test_what_is_recorded_last_is_read_before_serve_ends(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    upstream.begin(ANSWERED)
    with RawClient(proxy.address) as client:
        client.ask(REQUEST)
    assert proxy.stop() == 0, proxy.output()
    assert [row["answer"] for row in proxy.query("SELECT answer FROM calls")] == ["Hello!"]
    assert proxy.query("SELECT * FROM unread_exchanges") == []
    assert proxy.query("SELECT * FROM reading_attempts") == []


@pytest.mark.through_proxy
def test_what_was_not_read_before_a_crash_is_read_afterwards(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy({"index": {"enabled": False}})
    upstream.begin(ANSWERED)
    with RawClient(proxy.address) as client:
        client.ask(REQUEST)
        proxy.exchange_of(client.id)
    proxy.kill()
    again = start_proxy()
    found = wait_until(lambda: again.query("SELECT answer FROM calls"), "the call is read")
    assert [row["answer"] for row in found] == ["Hello!"]
