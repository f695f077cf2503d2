"""Bodies of any size pass through a front that does not grow."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import StartProxy
from tests.proxy_process import ProxyProcess
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, length_response
from tests.raw_socket import Head

pytestmark = pytest.mark.through_proxy

PIECE = bytes(range(256)) * 4096  # 1 MB
PIECES = 200
GROWTH_BYTES = 20_000_000


@contextlib.contextmanager
def _bounded(proxy: ProxyProcess) -> Iterator[None]:
    """The front's highest memory in the block is hardly above what it was before."""
    with RawClient(proxy.address) as client:  # everything is loaded and warm
        assert client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").status == 200
    before = proxy.memory_bytes()
    yield
    assert proxy.memory_bytes("VmHWM") - before < GROWTH_BYTES


def _upload(connection: ServerConnection, head: Head) -> None:
    left = int(head.get(b"content-length"))
    while left:
        left -= len(connection.read_some())
        connection.received.clear()
    connection.send(length_response(b"ok"))


def _download(connection: ServerConnection, head: Head) -> None:
    connection.read_request_body()
    pieces = PIECES if head.method == b"GET" else 0
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (pieces * len(PIECE)))
    for _ in range(pieces):
        connection.send(PIECE)


def test_an_upload_of_200_mb(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_upload)
    proxy = start_proxy()
    with _bounded(proxy), RawClient(proxy.address) as client:
        client.send(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
        for _ in range(PIECES):
            client.send(PIECE)
        assert client.read_response().body == b"ok"
    row = proxy.exchange_of(client.id, 60)
    assert (row["request_bytes"], row["gaps"]) == (PIECES * len(PIECE), 0)


def test_a_download_of_200_mb(start_proxy: StartProxy, upstream: RawServer) -> None:
    upstream.begin(_download)
    proxy = start_proxy()
    with _bounded(proxy), RawClient(proxy.address) as client:
        client.send(b"GET /down HTTP/1.1\r\nHost: h\r\n\r\n")
        client.read_head()
        left = PIECES * len(PIECE)
        while left:
            left -= len(client.read_some())
            client.received.clear()
    row = proxy.exchange_of(client.id, 60)
    assert (row["response_bytes"], row["gaps"]) == (PIECES * len(PIECE), 0)


def test_500_slow_streams(start_proxy: StartProxy, upstream: RawServer) -> None:
    """The must of the project's targets: 70 MB for the whole front."""
    may_end = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        may_end.wait(60)
        connection.send(b"0\r\n\r\n")

    upstream.begin(script)
    proxy = start_proxy()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.address)) for _ in range(500)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        for client in clients:
            client.wait_for(b"hello")
        assert proxy.memory_bytes() < 70_000_000
        may_end.set()
        for client in clients:
            assert client.read_response().body == b"hello"
