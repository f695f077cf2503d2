"""The page beside a running proxy: it is there, and it never stands in the way."""

import json
import logging
import socket
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from proxy.config import Address
from proxy.exchange import Side
from proxy.web import app
from proxy.web.app import PageServer, Site
from tests.cli.recording import Recording
from tests.conftest import StartProxy
from tests.proxy_process import free_port, wait_until
from tests.raw_client import RawClient
from tests.web.conftest import Served

REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ask(port: int, target: str) -> bytes:
    """The body of an answer; empty where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", target)
        return connection.getresponse().read()
    except OSError:
        return b""
    finally:
        connection.close()


def test_serve_shows_its_traffic(start_proxy: StartProxy) -> None:
    port = free_port()
    proxy = start_proxy({"web": f"localhost:{port}"})
    with RawClient(proxy.address) as client:
        assert client.ask(REQUEST).status == 200
        proxy.exchange_of(client.id)
    assert b">/v1/models</a>" in ask(port, "/")
    assert json.loads(ask(port, "/health")) == {"trace": str(proxy.trace), "exchanges": 1}
    assert f"live page      http://localhost:{port}\n" in proxy.output()
    assert proxy.stop() == 0
    assert "Traceback" not in proxy.output()


def test_a_taken_port_is_one_warning_and_recording_goes_on(start_proxy: StartProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        proxy = start_proxy({"web": f"127.0.0.1:{port}"})
        with RawClient(proxy.address) as client:
            assert client.ask(REQUEST).status == 200
            assert proxy.exchange_of(client.id)["outcome"] == "completed"
        wait_until(lambda: "no live page" in proxy.output(), "the warning is there")
    assert proxy.stop() == 0
    assert proxy.output().count(f"no live page at 127.0.0.1:{port}: ") == 1
    assert "Traceback" not in proxy.output()


def test_a_port_that_becomes_free_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "RETRY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        server = PageServer(Site(tmp_path / "none.db", address).app, address)
        server.start()
        time.sleep(0.3)
        assert not server.is_listening.is_set()
    assert server.is_listening.wait(20)
    assert b"there is no trace" in ask(server.port, "/")
    server.stop()
    assert ask(server.port, "/") == b""
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_it_ends_while_somebody_does_not_read_a_download(recorded: Recording) -> None:
    exchange = recorded.open(b"POST /upload HTTP/1.1\r\n")
    recorded.data(exchange, Side.CLIENT, *[bytes(1 << 20)] * 24)
    recorded.close(exchange)
    recorded.take_in()
    with Served(recorded.trace) as site, socket.create_connection(("127.0.0.1", site.server.port)) as stalled:
        request = f"GET /exchanges/{exchange}/request HTTP/1.1\r\nHost: localhost:{site.server.port}\r\n\r\n"
        stalled.sendall(request.encode())
        assert stalled.recv(12) == b"HTTP/1.1 200"
        assert site.ask("/").status == 200
        began = time.monotonic()
        site.server.stop()
        assert time.monotonic() - began < 4
