"""1xx responses come from the upstream or not at all."""

import threading

import pytest

from tests.conftest import Wire
from tests.raw_server import ServerConnection, answer, length_response
from tests.raw_socket import WAIT_S, Head

EXPECT = b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def test_100_continue_is_the_upstreams_and_the_body_waits_for_it(wire: Wire) -> None:
    may_go_on = threading.Event()

    def script(connection: ServerConnection, head: Head) -> None:
        assert head.get(b"expect") == b"100-continue"
        assert may_go_on.wait(WAIT_S)
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.read_request_body()
        connection.send(length_response(b"thanks"))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(EXPECT)
    wire.upstream.wait_for_requests()
    assert client.is_silent(0.1), "the proxy must not say 100 by itself"
    may_go_on.set()
    assert client.read_head().start == b"HTTP/1.1 100 Continue"
    client.send(b"hello")
    response = client.read_response()
    assert (response.body, wire.upstream.request.body) == (b"thanks", b"hello")


@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized", b"200 OK"])
def test_a_final_response_may_come_instead_of_100(wire: Wire, status: bytes) -> None:
    client = wire.connect()
    wire.upstream.begin(lambda connection, _: connection.send(length_response(b"no", status=status)))
    client.send(EXPECT)
    response = client.read_response()
    assert response.interims == []
    assert response.head.start == b"HTTP/1.1 " + status
    assert response.body == b"no"


def test_a_client_may_send_its_body_without_waiting_for_100(wire: Wire) -> None:
    def script(connection: ServerConnection, _: Head) -> None:
        connection.read_request_body()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + length_response(b"done"))

    response = wire.ask(EXPECT + b"hello", script)
    assert ([head.status for head in response.interims], response.body) == ([100], b"done")
    assert wire.upstream.request.body == b"hello"


def test_early_hints_and_others_are_relayed_in_order_before_the_response(wire: Wire) -> None:
    interims = (
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </b>\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </c>\r\n\r\n"
    )
    response = wire.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", answer(interims + length_response(b"ok")))
    assert b"".join(head.raw for head in response.interims) == interims
    assert response.body == b"ok"


def test_early_hints_arrive_before_the_response_is_there(wire: Wire) -> None:
    may_go_on = threading.Event()

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert may_go_on.wait(WAIT_S)
        connection.send(length_response(b"ok"))

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.read_head().status == 103
    may_go_on.set()
    assert client.read_response().body == b"ok"


@pytest.mark.through_proxy
def test_a_client_of_http_1_0_gets_no_1xx(wire: Wire) -> None:
    """RFC 9110, section 15.2: it knows none."""
    wire.upstream.begin(answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + length_response(b"ok")))
    client = wire.connect()
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert client.read_head().status == 200


@pytest.mark.through_proxy
def test_interim_heads_are_recorded(wire: Wire) -> None:
    client = wire.connect()
    wire.upstream.begin(answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + length_response(b"ok")))
    client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    row = wire.exchange_of(client)
    assert row["status"] == 200
    assert row["interim_heads"] == '[[103,[["Link","</a>"]]]]'
