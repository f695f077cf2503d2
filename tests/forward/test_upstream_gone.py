"""An upstream that fails: before its head a 502 that names it, after it a response that breaks off as well."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import StartProxy, Wire, running
from tests.proxy_process import ProxyProcess, wait_until
from tests.raw_client import RawClient, read_broken
from tests.raw_server import RawServer, Script, ServerConnection
from tests.raw_socket import WAIT_S, BrokenError, Head, Response

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"


def _check_error(response: Response, status: int, *words: str) -> None:
    """It is shaped as clients of OpenAI's API show it, browsers may read it, and it says what happened."""
    assert response.status == status
    assert response.head.get(b"content-type").startswith(b"application/json")
    assert response.head.get(b"access-control-allow-origin") == b"*"
    error = json.loads(response.body)["error"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    for word in words:
        assert word in error["message"]


def _then(end: str, sent: bytes, has_arrived: threading.Event) -> Script:
    """A script that sends a part of a response and ends the connection once the client has what there is."""

    def script(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        connection.send(sent)
        assert has_arrived.wait(WAIT_S)
        connection.close() if end == "close" else connection.reset()

    return script


CUT_HEADS = {"nothing": b"", "half a status line": b"HTTP/1.1 20", "half a head": b"HTTP/1.1 200 OK\r\nContent-Le"}
CUT_BODIES = {
    "no byte of a length": (b"Content-Length: 10\r\n\r\n", b""),
    "half a length": (b"Content-Length: 10\r\n\r\nhello", b"hello"),
    "no chunk": (b"Transfer-Encoding: chunked\r\n\r\n", b""),
    "half a chunk": (b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello", b"hello"),
    "a chunk without its end": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello", b"hello"),
    "between chunks": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello"),
    "half a last chunk": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"hello"),
    "half the trailers": (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n", b"hello"),
}


@pytest.mark.through_proxy
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("sent", CUT_HEADS.values(), ids=CUT_HEADS)
def test_ends_before_its_head_is_whole(wire: Wire, sent: bytes, end: str) -> None:
    now = threading.Event()
    now.set()
    client = wire.connect()
    wire.upstream.begin(_then(end, sent, now))
    _check_error(client.ask(POST), 502, "lmstudio")
    row = wire.exchange_of(client)
    assert (row["outcome"], row["status"]) == ("upstream_gone", 502)
    assert row["error"]
    assert len(wire.upstream.requests) == 1
    wire.upstream.begin()
    assert wire.connect().ask(GET).status == 200


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(("sent", "body"), CUT_BODIES.values(), ids=CUT_BODIES)
def test_ends_before_its_body_is_whole(wire: Wire, sent: bytes, body: bytes, end: str) -> None:
    has_arrived = threading.Event()
    client = wire.connect()
    wire.upstream.begin(_then(end, b"HTTP/1.1 200 OK\r\n" + sent, has_arrived))
    client.send(POST)
    client.wait_for(body or b"\r\n\r\n")
    has_arrived.set()
    assert read_broken(client) == body
    if wire.proxy:
        row = wire.exchange_of(client)
        assert (row["outcome"], row["status"]) == ("upstream_gone", 200)
        assert row["error"]
        assert wire.proxy.body(row["id"], "response") == body


def test_resets_a_body_that_would_end_with_the_connection(wire: Wire) -> None:
    """A clean end would say that the body is whole."""
    has_arrived = threading.Event()
    client = wire.connect()
    wire.upstream.begin(_then("reset", b"HTTP/1.1 200 OK\r\n\r\nhello", has_arrived))
    client.send(GET)
    head = client.read_head()
    assert client.read_exactly(5) == b"hello"
    has_arrived.set()
    assert client.wait_for_end() == "reset" or head.is_chunked


GARBAGE = {
    "words": b"BANANA BANANA\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x46",
    "a long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "a line without colon": b"HTTP/1.1 200 OK\r\nbad line\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a length below nothing": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "an upgrade nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhi",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
}


@pytest.mark.through_proxy
@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_says_something_else_than_http(wire: Wire, sent: bytes) -> None:
    """It is answered at once, not when the upstream gets round to closing."""

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(sent)
        connection.wait_for_end()

    client = wire.connect()
    wire.upstream.begin(script)
    _check_error(client.ask(GET), 502, "lmstudio")
    row = wire.exchange_of(client)
    assert (row["outcome"], row["status"]) == ("upstream_gone", 502)


@pytest.mark.through_proxy
@pytest.mark.parametrize("sent", [b"zz\r\n", b"5\r\nhelloXX", b"-1\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"5 5\r\n", b"\r\n"])
def test_breaks_the_framing_of_its_body(wire: Wire, sent: bytes) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + sent + b"\r\n0\r\n\r\n")
        connection.wait_for_end()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(GET)
    assert client.read_head().status == 200
    assert client.read_chunk() == b"ok"
    with pytest.raises((BrokenError, ValueError)):  # nobody may take it for whole
        client.read_chunked()
    client.wait_for_end()
    row = wire.exchange_of(client)
    assert row["outcome"] == "upstream_gone"
    assert row["error"]


# --- nobody there -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def refusing_address() -> Iterator[str]:
    """The URL of a port that stays taken, so that nobody else can listen there, and refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(scope="module")
def down(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy whose upstream refuses connections."""
    with refusing_address() as url, running(tmp_path_factory.mktemp("down"), url) as proxy:
        yield proxy


@pytest.mark.through_proxy
@pytest.mark.parametrize("request_bytes", [GET, POST, POST.replace(b"POST", b"FOO")], ids=["GET", "POST", "FOO"])
def test_is_not_there(down: ProxyProcess, request_bytes: bytes) -> None:
    with RawClient(down.address) as client:
        response = client.ask(request_bytes)
        _check_error(response, 502, "lmstudio", "http://127.0.0.1:")
        assert response.head.all(b"retry-after") == []
        row = down.exchange_of(client.id)
    assert (row["outcome"], row["status"], row["upstream"]) == ("upstream_unreachable", 502, "lmstudio")
    assert row["error"]


@pytest.mark.through_proxy
def test_is_not_there_and_only_the_head_was_asked_for(down: ProxyProcess) -> None:
    with RawClient(down.address) as client:
        client.send(GET.replace(b"GET", b"HEAD"))
        head = client.read_head()
        assert (head.status, head.get(b"access-control-allow-origin")) == (502, b"*")
        assert client.is_silent(0.05) or client.read_rest() == b"", "a response to HEAD has no body"


@pytest.mark.through_proxy
@pytest.mark.parametrize("framing", [b"Content-Length: 8000000", b"Transfer-Encoding: chunked"])
def test_is_not_there_while_the_client_uploads(down: ProxyProcess, framing: bytes) -> None:
    """The client that first sends all of its body gets to read the answer, not a reset."""
    body = b"x" * 8_000_000
    data = body if framing.startswith(b"C") else b"7a1200\r\n" + body + b"\r\n0\r\n\r\n"
    with RawClient(down.address) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
        client.send(data)
        _check_error(client.read_response(), 502, "lmstudio")


@pytest.mark.through_proxy
def test_does_not_accept(start_proxy: StartProxy) -> None:
    """Only connecting has a time limit. A full backlog swallows connection attempts without a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        address = full.getsockname()
        for _ in range(2):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}"
        proxy = start_proxy({"forward": {"connect_timeout_s": 0.3}}, upstream_url=url)
        with RawClient(proxy.address) as client:
            started = time.monotonic()
            response = client.ask(GET)
            assert 0.2 < time.monotonic() - started < 3
            _check_error(response, response.status, "lmstudio")
            assert response.status in (502, 504)
            assert proxy.exchange_of(client.id)["outcome"] in ("upstream_unreachable", "upstream_timeout")
        patient = start_proxy({"forward": {"connect_timeout_s": 60.0}}, upstream_url=url, name="patient")
        with RawClient(patient.address) as client:
            client.send(GET)
            wait_until(lambda: patient.exchanges_now(client.id), "it is under way")
            client.close()
            assert patient.exchange_of(client.id)["outcome"] == "client_gone"


@pytest.mark.through_proxy
def test_comes_up_later_and_the_next_request_works(start_proxy: StartProxy, upstream: RawServer) -> None:
    with refusing_address() as url:
        port = int(url.rpartition(":")[2])
        proxy = start_proxy(upstream_url=url)
        with RawClient(proxy.address) as client:
            assert client.ask(GET).status == 502
    server = RawServer(port=port)
    try:
        with RawClient(proxy.address) as client:
            assert client.ask(GET).body == b"ok"
    finally:
        server.close()


@pytest.mark.through_proxy
def test_takes_its_time_before_the_head(start_proxy: StartProxy, upstream: RawServer) -> None:
    """A model may think for minutes: neither the connect limit nor any other ends the wait."""
    proxy = start_proxy({"forward": {"connect_timeout_s": 0.2, "idle_connection_s": 0.2}})

    def script(connection: ServerConnection, _: Head) -> None:
        threading.Event().wait(1)  # longer than every limit that could be mistaken for one on the response
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla")
        threading.Event().wait(1)
        connection.send(b"te")

    upstream.begin(script)
    with RawClient(proxy.address) as client:
        assert client.ask(GET).body == b"late"
