"""Recording never delays, alters or fails an exchange, whatever happens to the trace and the journal."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartProxy
from tests.proxy_process import ProxyProcess, wait_until
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, length_response
from tests.raw_socket import WAIT_S, Head

pytestmark = pytest.mark.through_proxy


LITTLE_MEMORY = {"record": {"memory_bytes": 200_000}}


def _echo(connection: ServerConnection, _: Head) -> None:
    connection.send(length_response(connection.read_request_body()))


def _ask(client: RawClient, path: str, size: int = 1000) -> None:
    """One exchange, which must go well."""
    body = os.urandom(size)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode()
    assert client.ask(head + body).body == body


def _paths(proxy: ProxyProcess) -> set[str]:
    return {row["path"] for row in proxy.query("SELECT path FROM exchanges WHERE outcome IS NOT NULL")}


def _wait_for_path(proxy: ProxyProcess, path: str) -> None:
    wait_until(lambda: path in _paths(proxy), f"{path} is in the trace; {proxy.output()[-2000:]}", 20)


def test_locked_by_a_database_browser(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_echo)
    proxy = start_proxy()
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        with contextlib.closing(sqlite3.connect(proxy.trace, isolation_level=None)) as browser:
            browser.execute("BEGIN EXCLUSIVE")
            for number in range(50):
                _ask(client, f"/locked/{number}")
            browser.execute("ROLLBACK")
        _wait_for_path(proxy, "/locked/49")
        _ask(client, "/after")
        _wait_for_path(proxy, "/after")
    assert {f"/locked/{number}" for number in range(50)} <= _paths(proxy)
    assert proxy.query("SELECT * FROM gaps") == []
    proxy.run("verify")


def test_an_open_read_transaction_delays_nothing(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_echo)
    proxy = start_proxy()
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        with contextlib.closing(sqlite3.connect(proxy.trace, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)
            _ask(client, "/during")
            _wait_for_path(proxy, "/during")
            assert reader.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; the test is left out where it cannot be mounted (it needs root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, upstream: RawServer) -> None:
    upstream.begin(_echo)
    proxy = ProxyProcess(small_disk, upstream.url, LITTLE_MEMORY).start()
    ballast = small_disk / "ballast"
    try:
        with RawClient(proxy.address) as client:
            _ask(client, "/before")
            _wait_for_path(proxy, "/before")
            _fill(ballast)
            for number in range(100):
                _ask(client, f"/full/{number}", 20_000)
            wait_until(lambda: "WARNING" in proxy.output(), "it warns")
            ballast.unlink()
            _recovers(proxy, client)
    finally:
        proxy.kill()


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def _recovers(proxy: ProxyProcess, client: RawClient) -> None:
    """There is room again: it goes on by itself, and the trace says what is missing."""
    wait_until(lambda: _can_record(proxy, client), "it records again", 20)
    gaps = wait_until(lambda: proxy.query("SELECT * FROM gaps"), "the gap is recorded")
    assert all(gap["lost_exchanges"] > 0 or gap["exchange_id"] for gap in gaps)
    assert all(gap["reason"] for gap in gaps)
    assert proxy.stop(30) == 0
    verified = proxy.run("verify")
    assert b"gap" in verified.stdout.lower()
    assert "Traceback" not in proxy.output()


def _can_record(proxy: ProxyProcess, client: RawClient) -> bool:
    """Whether a new exchange gets into the trace soon."""
    path = f"/after/{os.urandom(4).hex()}"
    _ask(client, path)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: path in _paths(proxy), "it is in the trace", 0.5)
    return path in _paths(proxy)


@pytest.mark.parametrize("room", [0, 1, 30_000])
def test_a_journal_that_cannot_grow(start_proxy: StartProxy, upstream: RawServer, room: int) -> None:
    """As on a full disk, made by the limit on a file's size, which needs no root. The last record that fits is torn."""
    upstream.begin(_echo)
    proxy = start_proxy(LITTLE_MEMORY)
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        sizes = [path.stat().st_size for path in proxy.journal.glob("*.seg")]
        proxy.limit_file_size(max(sizes) + room if room else 0)
        for number in range(100):
            _ask(client, f"/full/{number}", 20_000)
        wait_until(lambda: "WARNING" in proxy.output(), "it warns")
        warnings = [line for line in proxy.output().splitlines() if "WARNING" in line]
        assert len(warnings) == 1, warnings
        proxy.limit_file_size(None)
        _recovers(proxy, client)


def test_a_short_failure_of_the_disk_loses_nothing(start_proxy: StartProxy, upstream: RawServer) -> None:
    """What fits into the memory meant for it waits there."""
    upstream.begin(_echo)
    proxy = start_proxy()
    with RawClient(proxy.address) as client:
        proxy.limit_file_size(0)
        for number in range(100):
            _ask(client, f"/full/{number}", 20_000)
        wait_until(lambda: "WARNING" in proxy.output(), "it warns")
        proxy.limit_file_size(None)
        rows = proxy.exchanges_of(client.id, 100)
    assert {row["outcome"] for row in rows} == {"completed"}
    assert proxy.query("SELECT * FROM gaps") == []
    assert proxy.stop(30) == 0
    proxy.run("verify")


def test_an_exchange_whose_middle_was_lost_says_so(start_proxy: StartProxy, upstream: RawServer) -> None:
    """The bytes reach the upstream all the same; the trace has the rest, and a gap of that exchange."""
    pieces = [b"%d" % number * 100_000 for number in range(8)]
    has_arrived = [threading.Event() for _ in pieces]

    def script(connection: ServerConnection, _: Head) -> None:
        for piece, arrived in zip(pieces, has_arrived, strict=True):
            assert connection.read_exactly(len(piece)) == piece
            arrived.set()
        connection.send(length_response(b"thanks"))

    def send(number: int) -> None:
        client.send(pieces[number])
        assert has_arrived[number].wait(WAIT_S)

    proxy = start_proxy(LITTLE_MEMORY)
    upstream.begin(script)
    total = len(b"".join(pieces))
    with RawClient(proxy.address) as client:
        client.send(b"POST /middle HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
        send(0)
        wait_until(lambda: proxy.query("SELECT 1 FROM chunks"), "the first piece is in the trace")
        proxy.limit_file_size(0)
        for number in range(1, 7):
            send(number)
        proxy.limit_file_size(None)
        wait_until(lambda: proxy.query("SELECT * FROM gaps"), "the gap is recorded")
        send(7)
        assert client.read_response().body == b"thanks"
        row = proxy.exchange_of(client.id)
    gaps = proxy.query("SELECT * FROM gaps WHERE exchange_id = ?", row["id"])
    lost = sum(gap["request_bytes"] for gap in gaps)
    assert row["gaps"] == len(gaps) >= 1
    assert (row["request_bytes"], row["outcome"]) == (total, "completed")
    assert 0 < lost <= 600_000
    (recorded,) = proxy.query("SELECT sum(bytes) FROM chunks WHERE exchange_id = ? AND side = 'client'", row["id"])
    assert recorded[0] == total - lost
    stored = proxy.body(row["id"], "request")
    assert len(stored) == total - lost
    assert stored.startswith(pieces[0])
    assert stored.endswith(pieces[7])
    assert proxy.stop(30) == 0
    proxy.run("verify")


def test_a_journal_folder_that_was_removed(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_echo)
    proxy = start_proxy({"record": {"segment_bytes": 65_536}})
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        shutil.rmtree(proxy.journal)
        for number in range(20):
            _ask(client, f"/removed/{number}", 20_000)
        _ask(client, "/after")
        _wait_for_path(proxy, "/after")
    assert proxy.stop(30) == 0
    proxy.run("verify")


def test_a_journal_folder_that_became_a_file(start_proxy: StartProxy, upstream: RawServer) -> None:
    """Nobody can write there, not even root."""
    upstream.begin(_echo)
    proxy = start_proxy({"record": {"segment_bytes": 65_536}})
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        shutil.rmtree(proxy.journal)
        proxy.journal.write_text("in the way")
        for number in range(20):
            _ask(client, f"/blocked/{number}", 20_000)
        proxy.journal.unlink()
        wait_until(lambda: _can_record(proxy, client), "it recovered", 20)
    assert proxy.stop(30) == 0
    proxy.run("verify")


def test_memory_stays_bounded_while_the_journal_cannot_be_written(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_echo)
    proxy = start_proxy({"record": {"memory_bytes": 1_000_000}})
    with RawClient(proxy.address) as client:
        _ask(client, "/before")
        _wait_for_path(proxy, "/before")
        proxy.limit_file_size(0)
        before = proxy.memory_bytes()
        for _ in range(20):
            _ask(client, "/full", 2_000_000)
        assert proxy.memory_bytes() - before < 30_000_000
        proxy.limit_file_size(None)
        _recovers(proxy, client)
