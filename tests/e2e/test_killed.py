"""`kill -9` of either process at any moment: a sound trace, nothing twice, and every exchange has its end."""

import os
import signal
import threading
import time

import pytest

from tests.conftest import StartProxy
from tests.proxy_process import ProxyProcess, resume, suspend, wait_until
from tests.raw_client import RawClient
from tests.raw_server import Departure, RawServer, ServerConnection, chunk, length_response
from tests.raw_socket import WAIT_S, BrokenError, Head

pytestmark = pytest.mark.through_proxy

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /killed HTTP/1.1\r\nHost: h\r\n\r\n"


def _echo(connection: ServerConnection, _: Head) -> None:
    connection.send(length_response(connection.read_request_body()))


def _outcomes(proxy: ProxyProcess) -> dict[str, int]:
    return {row[0]: row[1] for row in proxy.query("SELECT outcome, count(*) FROM exchanges GROUP BY outcome")}


def test_a_front_killed_in_the_middle_of_a_stream_leaves_it_interrupted(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    proxy = start_proxy()
    departure = Departure(STREAM_HEAD + chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n"))
    upstream.begin(departure)
    with RawClient(proxy.address) as client:
        client.send(GET)
        client.read_head()
        client.wait_for(b"data: 2\n\n")
        time.sleep(0.05)  # beyond the 10 ms that a killed front may lose
        killed = time.monotonic()
        proxy.kill()
        assert departure.seconds_after(killed) < 1, "the kernel closes what the front held"
        assert client.wait_for_end() in ("closed", "reset")
    rows = proxy.query("SELECT * FROM exchanges")
    assert [(row["outcome"], row["status"], row["path"]) for row in rows] == [("interrupted", 200, "/killed")]
    assert proxy.body(rows[0]["id"], "response") == b"data: 1\n\ndata: 2\n\n"
    proxy.run("verify")
    proxy.start()
    assert _outcomes(proxy) == {"interrupted": 1}
    upstream.begin()
    with RawClient(proxy.address) as client:
        assert client.ask(GET).body == b"ok"
        assert proxy.exchange_of(client.id)["id"] == rows[0]["id"] + 1
    assert proxy.stop() == 0
    proxy.run("verify")


def test_both_killed_at_once_leave_a_journal_that_ingest_takes_in(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    back = proxy.wait_for_back()
    suspend(back)
    upstream.begin(_echo)
    with RawClient(proxy.address) as client:
        for number in range(20):
            client.ask(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" % number)
        upstream.begin(Departure(STREAM_HEAD + chunk(b"data: 1\n\n")))
        client.send(GET)
        client.wait_for(b"data: 1\n\n")
        wait_until(lambda: proxy.files_with(b"data: 1\n\n"), "it is in the journal")
        os.kill(back, signal.SIGKILL)
        proxy.kill()
    assert list(proxy.journal.glob("*.seg"))
    proxy.run("ingest")
    assert _outcomes(proxy) == {"completed": 20, "interrupted": 1}
    paths = [row["path"] for row in proxy.query("SELECT path FROM exchanges ORDER BY id")]
    assert paths == [f"/{number}" for number in range(20)] + ["/killed"]
    proxy.run("ingest")
    assert _outcomes(proxy) == {"completed": 20, "interrupted": 1}
    proxy.run("verify")


def test_what_a_dead_front_left_is_taken_in_by_the_next(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    back = proxy.wait_for_back()
    suspend(back)
    upstream.begin(_echo)
    with RawClient(proxy.address) as client:
        client.ask(GET)
        proxy.wait_for_journalled_end()
    os.kill(back, signal.SIGKILL)
    proxy.kill()
    proxy.start()
    wait_until(lambda: _outcomes(proxy) == {"completed": 1}, "the next serve took it in")
    assert proxy.stop() == 0
    proxy.run("verify")


def test_a_back_killed_again_and_again_under_load_loses_nothing_and_stores_nothing_twice(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    proxy = start_proxy()
    upstream.begin(_echo)
    is_done = threading.Event()
    sent: list[list[bytes]] = [[], []]

    def load(number: int) -> None:
        with RawClient(proxy.address) as client:
            while not is_done.is_set():
                body = b"%d/%d" % (number, len(sent[number]))
                request = b"POST /load HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                assert client.ask(request).body == body
                sent[number].append(body)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    back = 0
    try:
        for _ in range(2):
            back = proxy.wait_for_back(other_than=back)
            wait_until(lambda: proxy.query("SELECT 1 FROM exchanges LIMIT 1"), "the back writes")
            os.kill(back, signal.SIGKILL)
        proxy.wait_for_back(other_than=back)
    finally:
        is_done.set()
        for thread in threads:
            thread.join(WAIT_S)
    total = sorted(sent[0] + sent[1])
    assert proxy.stop(30) == 0
    rows = proxy.query(
        "SELECT id, outcome, CAST(text AS BLOB) AS text"
        " FROM exchanges JOIN request_bodies ON exchange_id = id ORDER BY id"
    )
    assert sorted(row["text"] for row in rows) == total
    assert [row["id"] for row in rows] == list(range(1, len(total) + 1))
    assert {row["outcome"] for row in rows} == {"completed"}
    proxy.run("verify")


def test_a_stop_while_the_back_is_dead_stores_everything_all_the_same(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    proxy = start_proxy()
    back = 0
    with RawClient(proxy.address) as client:
        for number in (1, 2):  # the restart after the second death is a while off
            back = proxy.wait_for_back(other_than=back)
            client.ask(GET)
            proxy.exchanges_of(client.id, number)
            os.kill(back, signal.SIGKILL)
        client.ask(GET)
    assert proxy.stop() == 0
    assert _outcomes(proxy) == {"completed": 3}
    assert list(proxy.journal.glob("*.seg")) == []


def test_a_front_killed_at_any_moment_leaves_a_sound_trace(start_proxy: StartProxy, upstream: RawServer) -> None:
    """What was answered well before is there (10 ms is the promise); the rest is there or not, but never half."""
    upstream.begin(_echo)
    proxy = start_proxy()
    answered: list[tuple[float, bytes]] = []

    def load() -> None:
        body = b"x" * 3000
        try:
            with RawClient(proxy.address) as client:
                while True:
                    path = b"/%d" % len(answered)
                    client.ask(b"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n%s" % (path, body))
                    answered.append((time.monotonic(), path))
        except (BrokenError, OSError):
            return

    expected: set[str] = set()
    for _ in range(3):
        first = len(answered)
        thread = threading.Thread(target=load)
        thread.start()
        wait_until(lambda first=first: len(answered) > first + 50, "there is load")  # type: ignore[misc]
        killed = time.monotonic()
        proxy.kill()
        thread.join(WAIT_S)
        expected |= {path.decode() for moment, path in answered[first:] if moment < killed - 0.05}
        proxy.start()
    assert proxy.stop() == 0
    rows = proxy.query("SELECT id, path, outcome FROM exchanges ORDER BY id")
    completed = [row["path"] for row in rows if row["outcome"] == "completed"]
    assert expected <= set(completed)
    assert len(completed) == len(set(completed))
    assert {row["outcome"] for row in rows} <= {"completed", "interrupted"}
    ids = [row["id"] for row in rows]
    assert ids == list(range(1, len(ids) + 1))
    proxy.run("verify")


def test_a_back_that_stands_still_does_not_stop_the_traffic(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    upstream.begin(_echo)
    back = proxy.wait_for_back()
    suspend(back)
    try:
        with RawClient(proxy.address) as client:
            for number in range(200):
                body = b"%d" % number * 1000
                request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                assert client.ask(request).body == body
            resume(back)
            rows = proxy.exchanges_of(client.id, 200)
    finally:
        resume(back)
    assert len(rows) == 200
    assert proxy.query("SELECT * FROM gaps") == []
    proxy.run("verify")
