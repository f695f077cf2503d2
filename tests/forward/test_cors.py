"""Browsers get leave from the proxy: preflights are its own, and every response says so exactly once."""

from collections.abc import Iterator

import pytest

from tests.conftest import Wire, running
from tests.proxy_process import ProxyProcess
from tests.raw_client import RawClient
from tests.raw_server import Departure, RawServer, answer, length_response
from tests.raw_socket import Head

pytestmark = pytest.mark.through_proxy

PREFLIGHT = (
    b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: h\r\nOrigin: http://app.example\r\n"
    b"Access-Control-Request-Method: POST\r\n"
    b"Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n"
)
FROM_APP = b"GET /x HTTP/1.1\r\nHost: h\r\nOrigin: http://app.example\r\n\r\n"


def _listed(head: Head, name: bytes) -> set[bytes]:
    return {item.strip().lower() for item in head.get(name).split(b",")}


def _check_each_field_once(head: Head) -> None:
    names = [name.lower() for name, _ in head.fields if name.lower().startswith(b"access-control-")]
    assert len(names) == len(set(names))


def test_a_preflight_is_answered_by_the_proxy(wire: Wire) -> None:
    client = wire.connect()
    response = client.ask(PREFLIGHT + b"\r\n")
    head = response.head
    assert (head.status, response.body) == (204, b"")
    assert head.get(b"access-control-allow-origin") == b"*"
    assert b"post" in _listed(head, b"access-control-allow-methods")
    assert _listed(head, b"access-control-allow-headers") >= {b"authorization", b"content-type", b"x-stainless-os"}
    assert head.get(b"access-control-max-age") == b"86400"
    assert head.all(b"access-control-allow-private-network") == []
    assert head.all(b"access-control-allow-credentials") == []
    _check_each_field_once(head)
    assert wire.upstream.requests == []
    assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200, "the connection is kept"
    assert wire.proxy
    row = wire.proxy.exchanges_of(client.id, 2)[0]
    assert (row["method"], row["status"], row["outcome"]) == ("OPTIONS", 204, "completed")


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"DELETE", b"FOO"])
def test_a_preflight_grants_the_method_it_asks_for(wire: Wire, method: bytes) -> None:
    head = wire.ask(PREFLIGHT.replace(b"POST", method) + b"\r\n").head
    assert method.lower() in _listed(head, b"access-control-allow-methods")


def test_a_preflight_for_a_private_network_is_granted(wire: Wire) -> None:
    head = wire.ask(PREFLIGHT + b"Access-Control-Request-Private-Network: true\r\n\r\n").head
    assert head.get(b"access-control-allow-private-network") == b"true"


def test_a_preflight_that_asks_for_no_headers_is_granted(wire: Wire) -> None:
    request = b"OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: null\r\nAccess-Control-Request-Method: DELETE\r\n\r\n"
    head = wire.ask(request).head
    assert (head.status, head.get(b"access-control-allow-origin")) == (204, b"*")
    _check_each_field_once(head)


@pytest.mark.parametrize("fields", [b"", b"Origin: http://app.example\r\n", b"Access-Control-Request-Method: GET\r\n"])
def test_a_bare_options_is_forwarded(wire: Wire, fields: bytes) -> None:
    script = answer(
        length_response(b"", b"Allow: GET", status=b"204 No Content").replace(b"Content-Length: 0\r\n", b"")
    )
    response = wire.ask(b"OPTIONS /x HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n", script)
    assert response.head.get(b"allow") == b"GET"
    assert wire.upstream.request.head.method == b"OPTIONS"


@pytest.mark.parametrize("request_bytes", [FROM_APP, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"], ids=["browser", "program"])
@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"500 Oops", b"204 No Content"])
def test_every_response_allows_its_origin(wire: Wire, request_bytes: bytes, status: bytes) -> None:
    head = wire.ask(request_bytes, answer(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")).head
    assert head.get(b"access-control-allow-origin") == b"*"
    _check_each_field_once(head)


@pytest.mark.parametrize(
    "own",
    [
        [b"Access-Control-Allow-Origin:"],
        [b"Access-Control-Allow-Origin: http://other.example", b"Access-Control-Allow-Credentials: true"],
        [b"access-control-allow-origin: *", b"ACCESS-CONTROL-ALLOW-ORIGIN: *", b"Access-Control-Expose-Headers: x-a"],
        [b"Access-Control-Allow-Methods: *", b"Access-Control-Allow-Headers: *", b"Access-Control-Max-Age: 5"],
    ],
    ids=["empty", "other", "twice", "all"],
)
def test_the_upstreams_own_cors_fields_are_replaced(wire: Wire, own: list[bytes]) -> None:
    """llama.cpp sends an empty one where there is no Origin, and two values are a refusal to a browser."""
    head = wire.ask(FROM_APP, answer(length_response(b"ok", b"X-A: 1", *own, b"X-B: 2"))).head
    assert head.get(b"access-control-allow-origin") == b"*"
    assert head.all(b"access-control-allow-credentials") == [], "never beside *"
    assert (head.get(b"x-a"), head.get(b"x-b")) == (b"1", b"2")
    _check_each_field_once(head)


def test_vary_of_the_upstream_stays(wire: Wire) -> None:
    head = wire.ask(FROM_APP, answer(length_response(b"", b"Vary: Accept-Encoding"))).head
    assert b"Accept-Encoding" in head.all(b"vary")


def test_a_stream_has_them_before_its_first_byte(wire: Wire) -> None:
    wire.upstream.begin(Departure(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
    client = wire.connect()
    client.send(FROM_APP)
    assert client.read_head().get(b"access-control-allow-origin") == b"*"


# --- switched off -----------------------------------------------------------------------------------------------------


def test_switched_off_nothing_is_touched(plain_wire: Wire) -> None:
    raw = length_response(b"ok", b"Access-Control-Allow-Origin:", b"access-control-allow-origin: x", b"Vary: a")
    plain_wire.upstream.begin(answer(raw))
    client = plain_wire.connect()
    client.ask(FROM_APP)
    assert bytes(client.received) == raw


def test_switched_off_a_preflight_is_forwarded(plain_wire: Wire) -> None:
    assert plain_wire.ask(PREFLIGHT + b"\r\n").body == b"ok"
    assert plain_wire.upstream.request.head.get(b"access-control-request-method") == b"POST"


# --- only some origins ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def choosy(shared_upstream: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy that allows two origins."""
    config = {"cors": {"allow_origins": ["http://app.example", "vscode-webview://abc"], "max_age_s": 7}}
    with running(tmp_path_factory.mktemp("choosy"), shared_upstream.url, config) as proxy:
        yield proxy


def _head(proxy: ProxyProcess, request: bytes) -> Head:
    with RawClient(proxy.address) as client:
        return client.ask(request).head


@pytest.mark.parametrize("origin", [b"http://app.example", b"vscode-webview://abc"])
def test_a_listed_origin_is_echoed(choosy: ProxyProcess, upstream: RawServer, origin: bytes) -> None:
    upstream.begin(answer(length_response(b"", b"Access-Control-Allow-Origin: *", b"Vary: Accept")))
    head = _head(choosy, b"GET / HTTP/1.1\r\nHost: h\r\nOrigin: " + origin + b"\r\n\r\n")
    assert head.get(b"access-control-allow-origin") == origin
    assert {b"Origin", b"Accept"} <= {item.strip() for value in head.all(b"vary") for item in value.split(b",")}
    _check_each_field_once(head)


@pytest.mark.parametrize(
    "origin",
    [b"http://evil.example", b"http://app.example.evil", b"https://app.example", b"http://app.example:81", b"null"],
)
def test_another_origin_gets_no_leave(choosy: ProxyProcess, upstream: RawServer, origin: bytes) -> None:
    upstream.begin(answer(length_response(b"", b"Access-Control-Allow-Origin: *")))
    head = _head(choosy, b"GET / HTTP/1.1\r\nHost: h\r\nOrigin: " + origin + b"\r\n\r\n")
    assert head.all(b"access-control-allow-origin") == [], "the upstream's own would open what is closed here"
    assert b"Origin" in head.all(b"vary"), "or a cache gives this response to the allowed origin"


def test_a_preflight_of_a_listed_origin_is_granted(choosy: ProxyProcess, upstream: RawServer) -> None:
    head = _head(choosy, PREFLIGHT + b"\r\n")
    assert head.status == 204
    assert head.get(b"access-control-allow-origin") == b"http://app.example"
    assert head.get(b"access-control-max-age") == b"7"
    assert b"Origin" in head.all(b"vary")
    assert upstream.requests == []


def test_a_preflight_of_another_origin_is_not(choosy: ProxyProcess, upstream: RawServer) -> None:
    head = _head(choosy, PREFLIGHT.replace(b"http://app.example", b"http://evil.example") + b"\r\n")
    assert head.all(b"access-control-allow-origin") == []
    assert upstream.requests == []


UPGRADE = (
    b"GET /llm HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def test_a_websocket_from_another_origin_is_refused(choosy: ProxyProcess, upstream: RawServer) -> None:
    """Browsers ask no leave for them, so this is the only fence."""
    assert _head(choosy, UPGRADE + b"Origin: http://evil.example\r\n\r\n").status == 403
    assert upstream.requests == []


@pytest.mark.parametrize("origin", [b"Origin: http://app.example\r\n", b""], ids=["listed", "none"])
def test_a_websocket_from_a_listed_origin_or_a_program_is_forwarded(
    choosy: ProxyProcess, upstream: RawServer, origin: bytes
) -> None:
    upstream.begin(answer(length_response(b"", status=b"426 Upgrade Required")))
    assert _head(choosy, UPGRADE + origin + b"\r\n").status == 426
    assert upstream.request.head.get(b"upgrade") == b"websocket"


def test_a_request_from_another_origin_is_answered_but_unreadable_for_it(
    choosy: ProxyProcess, upstream: RawServer
) -> None:
    """CORS tells the browser; it does not stop programs."""
    assert _head(choosy, b"GET / HTTP/1.1\r\nHost: h\r\nOrigin: http://evil.example\r\n\r\n").status == 200
    assert len(upstream.requests) == 1
