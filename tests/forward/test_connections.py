"""Connections outlive requests on both sides, independently, and no request is ever sent twice."""

import threading
import time

import pytest

from proxy.config import Config
from tests.conftest import StartProxy, Wire
from tests.raw_client import RawClient
from tests.raw_server import OK, RawServer, ServerConnection, answer, length_response
from tests.raw_socket import WAIT_S, Head

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.through_proxy
def test_a_clients_connection_is_kept_though_the_upstream_closes_its_own(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"ok", b"Connection: close"))
        connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    for _ in range(3):
        response = client.ask(GET)
        assert response.body == b"ok"
        assert response.head.all(b"connection") == []


@pytest.mark.through_proxy
def test_an_upstream_connection_is_used_again(wire: Wire) -> None:
    clients = [wire.connect(), wire.connect()]
    for client in clients:
        client.ask(GET)
        client.ask(GET)
    assert len({request.connection.number for request in wire.upstream.requests}) == 1


@pytest.mark.through_proxy
def test_a_connection_whose_response_was_cut_short_by_the_client_is_not_used_again(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
        connection.wait_for_end()

    wire.upstream.begin(script)
    client = wire.connect()
    client.send(GET)
    client.read_head()
    client.reset()
    wire.upstream.script = OK
    assert wire.connect().ask(GET).body == b"ok"
    first, second = wire.upstream.requests
    assert first.connection.number != second.connection.number


def test_a_client_that_says_close_is_closed_after_its_answer(wire: Wire) -> None:
    def script(connection: ServerConnection, head: Head) -> None:
        connection.send(length_response(b"ok"))
        if head.all(b"connection"):  # it arrives only with --direct
            connection.close()

    client = wire.connect()
    wire.upstream.begin(script)
    assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").body == b"ok"
    assert client.wait_for_end() == "closed"


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    def script(connection: ServerConnection, head: Head) -> None:
        body = connection.read_request_body()
        connection.send(length_response(head.target + body))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
        b"HEAD /4 HTTP/1.1\r\nHost: h\r\n\r\nGET /5 HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert [client.read_response().body for _ in range(3)] == [b"/1", b"/2abc", b"/3de"]
    assert client.read_response(b"HEAD").head.get(b"content-length") == b"2"
    if not wire.proxy:  # the scripted server answers HEAD with a body, which the proxy must not pass on
        client.read_exactly(2)
    assert client.read_response().body == b"/5"


def test_a_pipelined_request_waits_until_the_stream_before_it_ends(wire: Wire) -> None:
    may_end = threading.Event()

    def script(connection: ServerConnection, head: Head) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        if head.target == b"/1":
            assert may_end.wait(WAIT_S)
        connection.send(head.target + head.target)

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTT")
    client.read_head()
    may_end.set()
    assert client.read_exactly(4) == b"/1/1"
    assert client.read_response().body == b"/2/2"
    client.send(b"P/1.1\r\nHost: h\r\n\r\n")
    assert client.read_response().body == b"/3/3"


def test_many_pipelined_requests_are_all_answered(wire: Wire) -> None:
    client = wire.connect()
    wire.upstream.begin(lambda connection, head: connection.send(length_response(head.target)))
    sender = threading.Thread(
        target=lambda: client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(1000)))
    )
    sender.start()
    assert [client.read_response().body for _ in range(1000)] == [b"/%d" % number for number in range(1000)]
    sender.join()


@pytest.mark.through_proxy
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("is_reused", [False, True])
def test_a_post_is_never_sent_twice(wire: Wire, ending: str, is_reused: bool) -> None:
    """The upstream ends the connection when the POST arrives: it may have begun to work on it."""

    def script(connection: ServerConnection, head: Head) -> None:
        if head.method == b"GET":
            connection.send(length_response(b"ok"))
        else:
            connection.read_request_body()
            connection.close() if ending == "close" else connection.reset()

    client = wire.connect()
    wire.upstream.begin(script)
    if is_reused:
        client.ask(GET)
    assert client.ask(POST).status == 502
    posts = [request for request in wire.upstream.requests if request.head.method == b"POST"]
    assert len(posts) == 1
    if is_reused:
        assert posts[0].connection is wire.upstream.requests[0].connection


@pytest.mark.through_proxy
def test_an_idle_connection_that_the_upstream_closed_is_not_used_again(wire: Wire) -> None:
    is_dropped = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"ok"))
        connection.half_close()
        connection.wait_for_end()
        is_dropped.set()

    client = wire.connect()
    wire.upstream.begin(script)
    assert client.ask(GET).body == b"ok"
    assert is_dropped.wait(WAIT_S)
    wire.upstream.script = OK
    assert client.ask(POST).body == b"ok"
    assert len(wire.upstream.requests) == 2


@pytest.mark.through_proxy
def test_an_idle_connection_that_says_something_is_not_used_again(wire: Wire) -> None:
    """As servers do that announce their time-out with a 408 before they close."""
    is_dropped = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"ok"))
        wire.upstream.script = OK
        connection.send(length_response(b"late", status=b"408 Request Timeout"))
        connection.wait_for_end()
        is_dropped.set()

    client = wire.connect()
    wire.upstream.begin(script)
    assert client.ask(GET).body == b"ok"
    assert is_dropped.wait(WAIT_S)
    assert client.ask(POST).body == b"ok"


@pytest.mark.through_proxy
def test_an_idle_upstream_connection_is_dropped_after_its_time(start_proxy: StartProxy, upstream: RawServer) -> None:
    """Before LM Studio does it, whose side closes after 5 s."""
    is_dropped = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(length_response(b"ok"))
        assert connection.wait_for_end() == "closed"
        is_dropped.set()

    proxy = start_proxy({"forward": {"idle_connection_s": 0.2}})
    upstream.begin(script)
    with RawClient(proxy.address) as client:
        assert client.ask(GET).body == b"ok"
        answered = time.monotonic()
        assert is_dropped.wait(WAIT_S)
        assert 0.1 < time.monotonic() - answered < 1.5
        upstream.begin()
        assert client.ask(GET).body == b"ok", "the client's own connection stays"
    assert Config().forward.idle_connection_s < 5


@pytest.mark.through_proxy
def test_a_connection_without_a_request_is_no_exchange(wire: Wire) -> None:
    assert wire.proxy
    silent = wire.connect()
    silent.close()
    client = wire.connect()
    client.ask(GET)
    wire.exchange_of(client)
    assert wire.proxy.exchanges_now(silent.id) == []


@pytest.mark.through_proxy
def test_requests_of_one_connection_share_its_number_in_the_trace(wire: Wire) -> None:
    assert wire.proxy
    client = wire.connect()
    wire.upstream.begin(answer(length_response(b"ok")))
    client.ask(GET)
    client.ask(POST)
    first, second = wire.proxy.exchanges_of(client.id, 2)
    assert first["connection"] == second["connection"]
    assert (first["method"], second["method"]) == ("GET", "POST")
