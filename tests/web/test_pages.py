"""What the pages tell of the traffic."""

import contextlib
import gzip
import json
import os
import re
import sqlite3

import pytest

from proxy.exchange import Outcome, Side
from proxy.record.journal import Gap, Kind
from proxy.store.engine_log import EngineLogStatus, put_status
from proxy.store.trace import Trace
from proxy.web import pages
from tests.cli.recording import ANSWER, CHAT, CHAT_HEAD, EVENTS, Recording
from tests.web.conftest import Served


def ids(text: str) -> list[int]:
    """The exchanges that a page lists."""
    return [int(number) for number in re.findall(r'<tr data-id="(\d+)"', text)]


def cells(text: str, number: int) -> dict[str, str]:
    """The texts of an exchange's row by column."""
    (row,) = re.findall(rf'<tr data-id="{number}">.*?</tr>', text, re.DOTALL)
    found = re.findall(r'<td class="([^" ]+)[^>]*>(.*?)</td>', row, re.DOTALL)
    return {name: re.sub("<[^>]+>", "", cell).strip() for name, cell in found}


def test_list_has_the_columns_of_tail_newest_first(recorded: Recording, site: Served) -> None:
    recorded.chat()
    recorded.begin_stream()
    recorded.take_in()
    page = site.ask("/").text
    assert ids(page) == [2, 1]
    row = cells(page, 1)
    assert re.fullmatch(r"\d\d-\d\d \d\d:\d\d:\d\d", row.pop("time"))
    assert row == {
        **{"id": "1", "client": "127.0.0.1:50123", "method": "POST", "path": "/v1/chat/completions", "status": "200"},
        **{"model": "smollm2-135m-instruct", "in": str(len(CHAT)), "out": str(len(ANSWER))},
        **{"first": "83ms", "total": "85ms", "outcome": "completed"},
    }
    assert (cells(page, 2)["total"], cells(page, 2)["outcome"]) == ("-", "running")


def test_list_says_whether_the_engines_log_is_listened_to(recorded: Recording, site: Served) -> None:
    recorded.take_in()
    assert "engine's log" not in site.ask("/").text
    with contextlib.closing(sqlite3.connect(recorded.trace, isolation_level=None)) as connection:
        put_status(connection, EngineLogStatus("lmstudio", "refused", "<b>no</b>", 1_750_000_000_000_000))
    page = site.ask("/").text
    assert "engine's log of lmstudio: not listening: refused: &lt;b&gt;no&lt;/b&gt;" in page
    assert '<time datetime="2025-06-15T15:06:40.000000Z">' in page


def test_list_is_filtered_by_model_outcome_and_path(recorded: Recording, site: Served) -> None:
    recorded.chat()
    recorded.chat(CHAT.replace(b"smollm2", b"qwen3"))
    left = recorded.open(b"GET /v1/Models HTTP/1.1\r\n")
    recorded.close(left, Outcome.CLIENT_GONE)
    recorded.begin_stream()
    recorded.take_in()
    assert ids(site.ask("/?model=qwen3-135m-instruct").text) == [2]
    assert ids(site.ask("/?outcome=client_gone").text) == [3]
    assert ids(site.ask("/?outcome=running").text) == [4]
    assert ids(site.ask("/?path=models").text) == [3]
    assert ids(site.ask("/?path=100%25").text) == []
    assert ids(site.ask("/?path=chat&model=smollm2-135m-instruct&outcome=completed").text) == [1]
    assert ids(site.ask("/?before=3").text) == [2, 1]
    assert ids(site.ask("/?before=nonsense&model=&outcome=").text) == [4, 3, 2, 1]


def test_list_leads_to_older_exchanges(recorded: Recording, site: Served) -> None:
    for _ in range(pages.LISTED + 20):
        recorded.chat()
    recorded.take_in()
    page = site.ask("/?path=chat").text
    assert ids(page) == list(range(120, 20, -1))
    (older,) = re.findall(r'<a href="(\?[^"]+)">Older', page)
    last = site.ask("/" + older.replace("&amp;", "&")).text
    assert ids(last) == list(range(20, 0, -1))
    assert "Older" not in last
    assert "live.js" not in last


def test_rows_come_again_only_when_the_trace_changed(recorded: Recording, site: Served) -> None:
    exchange = recorded.begin_stream()
    recorded.take_in()
    first = site.ask("/rows")
    assert first.headers["etag"].strip('"') in site.ask("/").text
    assert site.ask("/rows", If_None_Match=first.headers["etag"]).status == 304
    recorded.data(exchange, Side.UPSTREAM, *EVENTS)
    recorded.close(exchange)
    recorded.chat()
    recorded.take_in()
    second = site.ask("/rows", If_None_Match=first.headers["etag"])
    assert (second.status, ids(second.text)) == (200, [2, 1])
    assert cells(second.text, 1)["outcome"] == "completed"


def test_page_waits_for_a_trace_that_is_not_there_yet(recorded: Recording, site: Served) -> None:
    early = site.ask("/")
    assert early.status == 503
    assert "there is no trace at" in early.text
    assert 'http-equiv="refresh"' in early.text
    recorded.take_in()
    assert "Nothing here yet" in site.ask("/").text


def test_exchange_tells_heads_bodies_times_and_chunks(recorded: Recording, site: Served) -> None:
    recorded.chat()
    recorded.stream()
    recorded.take_in()
    page = site.ask("/exchanges/1").text
    assert re.search(r"<td>-</td>\s+<th>Host</th><td>localhost:8234</td>", page)
    assert re.search(r"<td>\+</td>\s+<th>Host</th><td>localhost:1234</td>", page)
    assert re.search(r"<td>\+</td>\s+<th>Access-Control-Allow-Origin</th><td>\*</td>", page)
    assert "&#34;temperature&#34;: 1.50\n" in page
    assert "Hello! \u00fc" in page
    assert "<dt>first byte</dt><dd>83ms</dd>" in page
    assert '<a href="/exchanges/2">2 \u2192</a>' in page
    stream = site.ask("/exchanges/2").text
    assert "Once upon a time there was a mouse.</pre>" in stream
    assert "<b> upon</b>" in stream
    assert stream.count('<rect class="upstream"') == len(EVENTS)


def test_running_exchange_comes_again_by_itself(recorded: Recording, site: Served) -> None:
    exchange = recorded.begin_stream()
    recorded.data(exchange, Side.UPSTREAM, EVENTS[0], EVENTS[1])
    recorded.take_in()
    assert 'http-equiv="refresh"' in site.ask("/exchanges/1").text
    recorded.close(exchange)
    recorded.take_in()
    assert 'http-equiv="refresh"' not in site.ask("/exchanges/1").text


def test_failures_gaps_and_masks_are_told(recorded: Recording, site: Served) -> None:
    head = CHAT_HEAD + b"Content-Length: 9\r\n"
    failed = recorded.open(head, upstream="")
    recorded.data(failed, Side.CLIENT, b'{"tools":[{"authorization":"Bearer sk-123"}]}')
    recorded.gap(failed, Gap(recorded.now_ns, 0, 2, 0, 77, reason="the disk was full"))
    recorded.respond(failed, b"HTTP/1.1 502 Bad Gateway\r\n")
    recorded.close(failed, Outcome.UPSTREAM_UNREACHABLE, "connection refused")
    recorded.gap(0, Gap(recorded.now_ns, 12, 40, 0, 0, reason="too much at once"))
    recorded.take_in()
    listed = site.ask("/").text
    assert re.search(r"12 exchanges could not be recorded: too much at once", listed)
    assert cells(listed, failed)["outcome"] == "upstream_unreachable gap"
    page = site.ask(f"/exchanges/{failed}").text
    assert '<p class="bad">connection refused</p>' in page
    assert "none: the proxy answered" in page
    assert "1 value is masked in its bodies" in page
    assert "sk-123" not in page
    assert re.search(r"2 records,\s+0 \+ 77 body bytes: the disk was full", page)


def test_early_hints_and_trailers_are_shown(recorded: Recording, site: Served) -> None:
    exchange = recorded.begin_stream()
    recorded.write(Kind.INTERIM, exchange, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
    recorded.write(Kind.UPSTREAM_TRAILERS, exchange, b"X-Sum: 7\r\n")
    recorded.close(exchange)
    recorded.take_in()
    page = site.ask(f"/exchanges/{exchange}").text
    assert re.search(r"<strong>103</strong>.*<th>Link</th><td>&lt;/a&gt;</td>", page, re.DOTALL)
    assert re.search(r"<strong>after the body:</strong>.*<th>X-Sum</th><td>7</td>", page, re.DOTALL)


def test_websocket_is_shown_message_by_message(recorded: Recording, site: Served) -> None:
    exchange = recorded.open(b"GET /llm HTTP/1.1\r\nUpgrade: websocket\r\n", is_websocket=True)
    recorded.respond(exchange, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    recorded.data(exchange, Side.UPSTREAM, b"\x81\x04ping", b"\x88\x05\x03\xe8bye", every_ms=1500)
    recorded.close(exchange)
    recorded.take_in()
    assert cells(site.ask("/").text, exchange)["method"] == "WS"
    page = site.ask(f"/exchanges/{exchange}").text
    assert "<h2>Messages" in page
    assert "<span>ping</span>" in page
    assert "<i>close</i> <span>1000 bye</span>" in page
    assert '<td class="warn">1.50s</td>' in page


@pytest.mark.parametrize("side", ["request", "response"])
def test_download_gives_the_very_bytes(recorded: Recording, site: Served, side: str) -> None:
    body = os.urandom(3_000_000)
    exchange = recorded.open(b"POST /upload HTTP/1.1\r\nContent-Type: text/html\r\n")
    recorded.data(exchange, Side.CLIENT, body[:1_000_000], body[1_000_000:])
    recorded.respond(exchange, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
    recorded.data(exchange, Side.UPSTREAM, body)
    recorded.close(exchange)
    recorded.take_in()
    answer = site.ask(f"/exchanges/{exchange}/{side}")
    assert answer.body == body
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == f'attachment; filename="exchange-1-{side}.bin"'
    assert site.ask(f"/exchanges/{exchange}/{side}", "HEAD").body == b""
    assert "not text: its first bytes" in site.ask(f"/exchanges/{exchange}").text


def test_download_of_a_stream_gives_the_very_bytes(recorded: Recording, site: Served) -> None:
    recorded.stream()
    recorded.take_in()
    assert site.ask("/exchanges/1/response").body == b"".join(EVENTS)


@pytest.mark.parametrize(
    "target", ["/exchanges/7", "/exchanges/7/request", "/exchanges/x", "/docs/nope", "/static/../app.py"]
)
def test_what_is_not_there_is_404(recorded: Recording, site: Served, target: str) -> None:
    recorded.take_in()
    assert site.ask(target).status == 404


def test_documents_are_listed_shown_and_linked(site: Served) -> None:
    assert re.findall(r'<a href="(/docs/[^"]+)"', site.ask("/docs").text) == ["/docs/tutorial", "/docs/how-to/curl"]
    page = site.ask("/docs/tutorial").text
    assert "<h1>First steps</h1>" in page
    assert '<a href="how-to/curl.md">' in page
    assert "<script>no()" not in page
    assert "<td>2</td>" in site.ask("/docs/how-to/curl.md").text


def test_health_counts_ended_and_running_exchanges(recorded: Recording, site: Served) -> None:
    recorded.chat()
    recorded.begin_stream()
    recorded.take_in()
    assert json.loads(site.ask("/health").body) == {"trace": str(recorded.trace), "exchanges": 2}


def test_bodies_are_laid_out_for_reading() -> None:
    assert pages.read_body([b'{"a":', b"1}"]) == ('{\n  "a": 1\n}', [])
    assert pages.read_body([b'{"a":']) == ('{"a":', [])
    assert pages.read_body([gzip.compress(b"hello")], "", "gzip") == ("hello", ["decompressed from gzip"])
    assert pages.read_body([b"hello"], "", "br") == ("", ["compressed with br, which is not shown here"])
    long = pages.read_body([b"x" * (1 << 20)] * 9)
    assert long.text == "x" * pages.MAX_BODY_CHARS
    assert long.notes == ["only its first 4.2M bytes are shown", "3,794,304 characters more"]


def test_no_query_of_the_pages_scans_the_exchanges(recorded: Recording) -> None:
    """So that a trace of a million exchanges is as quick as a small one."""
    recorded.chat()
    recorded.take_in()
    asked: list[str] = []
    with Trace.open(recorded.trace) as trace:
        trace.connection.set_trace_callback(asked.append)
        for outcome in ("", "running", "completed"):
            for model in ("", "smollm2-135m-instruct"):
                pages.newest(trace, pages.Wanted(model, outcome, "chat"))
        pages.count(trace)
        pages.models(trace)
        pages.last_gap(trace)
        trace.connection.set_trace_callback(None)
        for sql in asked:
            plan = [row[3] for row in trace.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
            walks = [step for step in plan if step.startswith("SCAN e") and "recorded_exchanges_running" not in step]
            assert not walks or sql.endswith("ORDER BY id DESC LIMIT 1"), sql
            assert "USE TEMP B-TREE FOR ORDER BY" not in plan or "FROM models" in sql, sql
    assert len(asked) > 10
