"""`proxy-log serve` as a process: how it starts, what it refuses, and how it ends."""

import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartProxy
from tests.proxy_process import REPOSITORY, ProxyProcess, free_port, wait_until
from tests.raw_client import RawClient, read_broken
from tests.raw_server import Departure, RawServer, ServerConnection, chunk, length_response
from tests.raw_socket import WAIT_S, BrokenError, Head

pytestmark = pytest.mark.through_proxy

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_it_prints_where_it_listens_what_is_behind_it_and_where_the_trace_is(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    proxy = start_proxy()
    wait_until(lambda: str(proxy.trace) in proxy.output(), "it tells the trace's path")
    assert proxy.authority in proxy.output()
    assert upstream.authority in proxy.output()


def test_it_starts_without_its_upstream_and_says_so(start_proxy: StartProxy) -> None:
    proxy = start_proxy(upstream_url=f"http://127.0.0.1:{free_port()}")
    wait_until(lambda: "does not answer" in proxy.output(), "it says that the upstream is not there")
    with RawClient(proxy.address) as client:
        assert client.ask(GET).status == 502


def test_a_second_serve_on_the_same_trace_is_refused(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    second = proxy.run("serve", "--listen", f"127.0.0.1:{free_port()}", may_fail=True)
    assert second.returncode == 1
    error = second.stderr.decode()
    assert str(proxy.trace) in error
    assert "Traceback" not in error
    with RawClient(proxy.address) as client:
        assert client.ask(GET).body == b"ok", "the first goes on"
        assert proxy.exchange_of(client.id)["outcome"] == "completed"


def test_a_trace_from_a_newer_version_is_refused_and_left_alone(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    with RawClient(proxy.address) as client:
        client.ask(GET)
        proxy.exchange_of(client.id)
    assert proxy.stop() == 0
    with contextlib.closing(sqlite3.connect(proxy.trace)) as trace:
        trace.execute("PRAGMA user_version = 999999")
    before = proxy.trace.read_bytes()
    refused = proxy.run("serve", may_fail=True)
    assert refused.returncode == 1
    assert b"newer" in refused.stderr
    assert b"Traceback" not in refused.stderr
    assert proxy.trace.read_bytes() == before


def test_a_file_that_is_no_trace_is_refused_and_left_alone(upstream: RawServer, tmp_path: Path) -> None:
    proxy = ProxyProcess(tmp_path, upstream.url)
    proxy.trace.write_text("my diary\n" * 100)
    refused = proxy.run("serve", may_fail=True)
    assert refused.returncode == 1
    assert str(proxy.trace) in refused.stderr.decode()
    assert b"Traceback" not in refused.stderr
    assert proxy.trace.read_text() == "my diary\n" * 100


def test_a_taken_port_is_refused(start_proxy: StartProxy, upstream: RawServer, tmp_path: Path) -> None:
    proxy = start_proxy()
    trace = str(tmp_path / "other.db")
    second = proxy.run("serve", "--listen", proxy.authority, "--trace", trace, may_fail=True)
    assert second.returncode == 1
    assert proxy.authority in second.stderr.decode()
    assert "Traceback" not in second.stderr.decode()


def test_it_may_be_started_again_on_its_trace_and_numbers_go_on(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    for number in (1, 2, 3):
        with RawClient(proxy.address) as client:
            client.ask(GET)
            assert proxy.exchange_of(client.id)["id"] == number
        assert proxy.stop() == 0
        proxy.start()


def test_localhost_is_both_loopback_addresses(upstream: RawServer, tmp_path: Path) -> None:
    proxy = ProxyProcess(tmp_path, upstream.url)
    proxy.listen_at(f"localhost:{proxy.address[1]}")
    proxy.start()
    try:
        for host in ("127.0.0.1", "::1"):
            try:
                client = RawClient((host, proxy.address[1]))
            except OSError:
                if host == "::1" and not _has_ipv6():
                    continue
                raise
            with client:
                assert client.ask(GET).body == b"ok"
                assert proxy.exchange_of(client.id)["client"] == client.id.name
    finally:
        proxy.kill()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals that whoever runs the tests ignores (`nohup`) are not ignored by what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("heard")
def test_a_signal_lets_a_running_stream_end_and_takes_no_new_one(
    start_proxy: StartProxy, upstream: RawServer, number: signal.Signals
) -> None:
    may_end = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(STREAM_HEAD + chunk(b"first"))
        assert may_end.wait(WAIT_S)
        connection.send(chunk(b"last") + chunk(b""))

    proxy = start_proxy()
    upstream.begin(script)
    with RawClient(proxy.address) as idle, RawClient(proxy.address) as client:
        client.send(GET)
        client.wait_for(b"first")
        process = proxy.send_signal(number)
        assert idle.wait_for_end() == "closed", "an idle connection is closed"
        wait_until(lambda: _is_refused(proxy), "it takes no new connection")
        assert process.poll() is None
        may_end.set()
        assert client.read_response().body == b"firstlast"
        assert client.wait_for_end() == "closed"
        assert process.wait(WAIT_S) == 0
        assert proxy.exchange_of(client.id)["outcome"] == "completed"
    proxy.run("verify")


def _is_refused(proxy: ProxyProcess) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(proxy.address) != 0


def test_a_stream_that_outlasts_the_drain_is_broken_and_recorded(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy({"drain_s": 0.2})
    departure = Departure(STREAM_HEAD + chunk(b"first"))
    upstream.begin(departure)
    with RawClient(proxy.address) as client:
        client.send(GET)
        client.wait_for(b"first")
        stopped = time.monotonic()
        process = proxy.send_signal(signal.SIGTERM)
        assert read_broken(client) == b"first"
        assert departure.seconds_after(stopped) < WAIT_S
        assert process.wait(WAIT_S) == 0
        row = proxy.exchange_of(client.id)
    assert row["outcome"] == "proxy_stopped"
    assert row["error"]
    assert proxy.body(row["id"], "response") == b"first"
    proxy.run("verify")


def test_a_second_signal_ends_at_once(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy({"drain_s": 60.0})
    upstream.begin(Departure(STREAM_HEAD + chunk(b"first")))
    with RawClient(proxy.address) as client:
        client.send(GET)
        client.wait_for(b"first")
        process = proxy.send_signal(signal.SIGINT)
        wait_until(lambda: _is_refused(proxy), "it drains")
        proxy.send_signal(signal.SIGINT)
        assert read_broken(client) == b"first"
        assert process.wait(WAIT_S) == 0
        assert proxy.exchange_of(client.id)["outcome"] == "proxy_stopped"


def test_everything_answered_before_the_end_is_stored(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    upstream.begin(lambda connection, _: connection.send(length_response(b"x" * 10_000)))
    with RawClient(proxy.address) as client:
        for _ in range(300):
            client.ask(GET)
        assert proxy.stop() == 0
    assert proxy.query("SELECT count(*) FROM exchanges WHERE outcome = 'completed'")[0][0] == 300
    assert list(proxy.journal.glob("*.seg")) == [], "what was taken in is deleted"


def test_a_websocket_that_runs_when_it_stops_is_broken(start_proxy: StartProxy, upstream: RawServer) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    proxy = start_proxy({"drain_s": 0.1})
    upstream.begin(Departure(switch + b"\x81\x02hi"))
    with RawClient(proxy.address) as client:
        client.send(b"GET /llm HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        client.wait_for(b"\x81\x02hi")
        assert proxy.stop() == 0
        client.wait_for_end()
        row = proxy.exchange_of(client.id)
    assert (row["kind"], row["outcome"]) == ("websocket", "proxy_stopped")


def test_the_front_imports_nothing_that_makes_it_fat() -> None:
    """SQLite, rich and the readers belong to other processes; pydantic is gone once the settings are read."""
    code = "import json, sys; import proxy.service; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=REPOSITORY)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"sqlite3", "_sqlite3", "sqlite_utils", "rich", "aiohttp", "xllamacpp", "openai"}


def test_a_client_that_connects_while_it_stops_is_not_left_hanging(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    """Whatever it gets, it gets it soon: an answer, a reset, or an end."""
    proxy = start_proxy({"drain_s": 0.1})
    clients = [RawClient(proxy.address) for _ in range(5)]
    process = proxy.send_signal(signal.SIGTERM)
    for client in clients:
        with client:
            try:
                client.send(GET)
                client.wait_for_end()
            except (BrokenError, OSError):
                continue
    assert process.wait(WAIT_S) == 0
