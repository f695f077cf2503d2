"""Secrets reach the upstream, and no disk: neither the trace nor the journal on the way to it."""

import json
import re

import pytest

from tests.conftest import StartProxy, Wire
from tests.proxy_process import ProxyProcess, resume, suspend, wait_until
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, answer, length_response
from tests.raw_socket import Head

pytestmark = pytest.mark.through_proxy

SECRET = b"sk-lm-s3cr3t:q0Wl3k9T1XyZ"
NAMES = [b"Authorization", b"proxy-authorization", b"X-API-Key", b"api-key", b"Cookie"]
UPGRADE = (
    b"GET /llm HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def _masked(data: bytes, key: bytes, offset: int = 0) -> bytes:
    return bytes(byte ^ key[(at + offset) % 4] for at, byte in enumerate(data))


def _frame(payload: bytes, key: bytes, first: int = 0x81) -> bytes:
    """A client's frame; shorter than 64 KiB."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + length + key + _masked(payload, key)


def _assert_nowhere(proxy: ProxyProcess, key: bytes = b"\0\0\0\0") -> None:
    """Neither plainly nor as a WebSocket frame's masking key hides it, at any alignment."""
    for offset in range(4):
        assert proxy.files_with(_masked(SECRET, key, offset)) == []


def test_secrets_in_heads_never_reach_a_disk(start_proxy: StartProxy, upstream: RawServer) -> None:
    proxy = start_proxy()
    back = proxy.wait_for_back()
    suspend(back)  # so that the journal is not taken in and deleted before it was looked at
    try:
        fields = b"".join(name + b": Bearer " + SECRET + b"\r\n" for name in NAMES)
        upstream.begin(answer(length_response(b"ok", b"Set-Cookie: session=" + SECRET + b"; HttpOnly")))
        with RawClient(proxy.address) as client:
            response = client.ask(b"GET /marker-in-head HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
            assert SECRET in response.head.get(b"set-cookie")
            assert [upstream.request.head.get(name) for name in NAMES] == [b"Bearer " + SECRET] * len(NAMES)
            proxy.wait_for_journalled_end()
            assert proxy.files_with(b"marker-in-head")
            _assert_nowhere(proxy)
            resume(back)
            row = proxy.exchange_of(client.id)
    finally:
        resume(back)
    _assert_nowhere(proxy)
    for column in ("request_headers", "forwarded_headers"):
        values = [value for name, value in json.loads(row[column]) if name.encode() in NAMES]
        assert len(values) == len(NAMES)
        assert all("[masked:" in value for value in values)
        assert values[0].startswith("Bearer [masked:"), "the scheme is no secret"
    proxy.run("verify")


def test_a_malformed_request_hides_its_secrets_too(wire: Wire) -> None:
    assert wire.proxy
    client = wire.connect()
    client.ask(b"GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + SECRET + b"\r\nbad line\r\n\r\n")
    wire.exchange_of(client)
    _assert_nowhere(wire.proxy)


def test_two_uses_of_one_key_can_be_told_together_and_apart_from_another(wire: Wire) -> None:
    def masked_authorization(value: bytes) -> str:
        client = wire.connect()
        client.ask(b"GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: " + value + b"\r\n\r\n")
        fields = json.loads(wire.exchange_of(client)["request_headers"])
        (masked,) = [value for name, value in fields if name == "Authorization"]
        return str(masked)

    first, again, other = (masked_authorization(b"Bearer " + key) for key in (SECRET, SECRET, SECRET + b"x"))
    assert first == again != other


KEYS = [b"\0\0\0\0", b"\x37\xfa\x21\x3d"]


@pytest.mark.parametrize("is_split", [False, True])
@pytest.mark.parametrize("key", KEYS, ids=["plain", "masked"])
def test_the_passkey_of_a_websocket_never_reaches_a_disk(
    start_proxy: StartProxy, upstream: RawServer, key: bytes, is_split: bool
) -> None:
    payload = json.dumps({"authVersion": 1, "clientIdentifier": "guest:marker-ws", "clientPasskey": SECRET.decode()})
    hello = _frame(payload.encode(), key)

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        assert connection.read_exactly(len(hello)) == hello
        connection.send(b'\x81\x10{"success":true}')
        connection.wait_for_end()

    proxy = start_proxy()
    back = proxy.wait_for_back()
    suspend(back)
    try:
        upstream.begin(script)
        with RawClient(proxy.address) as client:
            client.send(UPGRADE)
            client.read_head()
            client.send_bytewise(hello) if is_split else client.send(hello)
            assert client.read_exactly(18) == b'\x81\x10{"success":true}'
            upstream.check()
            wait_until(lambda: proxy.files_with(b'{"success":true}'), "the journal holds the answer")
            _assert_nowhere(proxy, key)
            client.close()
            resume(back)
            row = proxy.exchange_of(client.id)
    finally:
        resume(back)
    _assert_nowhere(proxy, key)
    _assert_nowhere(proxy)
    sql = "SELECT text FROM websocket_messages WHERE exchange_id = ? AND side = 'client' AND kind = 'text'"
    (message,) = proxy.query(sql, row["id"])
    seen = json.loads(message["text"])
    assert seen["clientPasskey"].startswith("[masked:")
    assert (seen["authVersion"], seen["clientIdentifier"]) == (1, "guest:marker-ws")
    proxy.run("verify")


def test_later_messages_of_a_websocket_are_left_alone(wire: Wire) -> None:
    """Only the first one says who the client is; a chat about passkeys is a chat."""
    assert wire.proxy
    later = b'{"clientPasskey": "just talk"}'

    def script(connection: ServerConnection, _: Head) -> None:
        connection.send(SWITCH)
        connection.wait_for_end()

    client = wire.connect()
    wire.upstream.begin(script)
    client.send(UPGRADE)
    client.read_head()
    client.send(_frame(b'{"authVersion": 1}', b"abcd") + _frame(later, b"efgh"))
    client.close()
    row = wire.exchange_of(client)
    sql = "SELECT text FROM websocket_messages WHERE exchange_id = ? AND kind = 'text' ORDER BY seq"
    assert [message["text"] for message in wire.proxy.query(sql, row["id"])] == ['{"authVersion": 1}', later.decode()]


def test_secrets_inside_a_body_do_not_reach_the_trace(wire: Wire) -> None:
    proxy = wire.proxy
    assert proxy
    tool = {"type": "mcp", "server_label": "x", "headers": {"X-Key": SECRET.decode()}, "authorization": SECRET.decode()}
    integration = {"type": "ephemeral_mcp", "headers": {"Authorization": "Bearer " + SECRET.decode()}}
    body = json.dumps({"model": "m", "input": "hi", "tools": [tool], "integrations": [integration, "mcp/x"]}).encode()
    client = wire.connect()
    client.ask(b"POST /api/v1/chat HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert wire.upstream.request.body == body
    row = wire.exchange_of(client)
    assert row["masked"] == 3
    stored = json.loads(proxy.body(row["id"], "request"))
    assert stored["tools"][0]["headers"]["X-Key"].startswith("[masked:")
    assert (stored["model"], stored["tools"][0]["server_label"], stored["integrations"][1]) == ("m", "x", "mcp/x")
    in_trace = [name for name in proxy.files_with(SECRET) if not name.endswith(".seg")]
    assert in_trace == []


def test_secrets_in_the_url_of_a_tool_server_do_not_reach_the_trace(wire: Wire) -> None:
    proxy = wire.proxy
    assert proxy
    key = "sk-lm-s3cr3t-q0Wl3k9T1XyZ"
    server = {"type": "ephemeral_mcp", "server_url": f"https://me:{key}@host/mcp?api_key={key}&profile=p"}
    body = json.dumps({"model": "m", "input": "hi", "integrations": [server]}).encode()
    client = wire.connect()
    client.ask(b"POST /api/v1/chat HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert wire.upstream.request.body == body
    row = wire.exchange_of(client)
    assert row["masked"] == 2
    (stored,) = json.loads(proxy.body(row["id"], "request"))["integrations"]
    assert re.fullmatch(r"https://\[masked:\w+\]@host/mcp\?api_key=\[masked:\w+\]&profile=p", stored["server_url"])
    assert [name for name in proxy.files_with(key.encode()) if not name.endswith(".seg")] == []
    proxy.run("verify")
