"""The lookalike's HTTP, byte for byte: heads, routes, bodies."""

import gzip
import json
import re
import time
from typing import Any

import pytest
from aiohttp import web

from proxy.demo import server as server_module
from proxy.demo.http import Request, Route, answer
from proxy.demo.lookalike import Lookalike
from proxy.demo.script import Prefill, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import call, get, logged, post, raw_exchange, raw_head, raw_request, run

TOKEN = "sk-lm-demo0001:abcdefghij0123456789"
CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}
_DATE = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")


def lines(*text: str) -> bytes:
    """A head; `DATE` stands for any date."""
    return "\r\n".join((*text, "", "")).encode()


def undated(head: bytes) -> bytes:
    found, count = _DATE.subn(b"DATE", head)
    assert count == 1, head
    return found


def test_unknown_route_is_answered_as_in_the_capture_of_tracker_618() -> None:
    async def test(server: LookalikeServer) -> None:
        got = await raw_exchange(server, raw_request("POST", "/chat/completions", {}))
        head, _, body = got.partition(b"\r\n\r\n")
        assert body == b'{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
        (tag,) = re.findall(rb'ETag: (W/"43-[A-Za-z0-9+/]{27}")', head)
        assert undated(head + b"\r\n\r\n") == lines(
            "HTTP/1.1 200 OK",
            "X-Powered-By: Express",
            "Content-Type: application/json; charset=utf-8",
            "Content-Length: 67",
            f"ETag: {tag.decode()}",
            "DATE",
            "Connection: keep-alive",
            "Keep-Alive: timeout=1",
        )
        assert logged(server)[-1].endswith(
            "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"
        )

    run(test, keepalive_s=1.0)


def test_keep_alive_is_five_seconds() -> None:
    async def test(server: LookalikeServer) -> None:
        assert b"\r\nKeep-Alive: timeout=5\r\n" in await raw_head(server, raw_request("GET", "/v1/models"))

    run(test)


def test_head_of_a_stream_is_that_of_the_capture_in_goose_11318() -> None:
    async def test(server: LookalikeServer) -> None:
        head = await raw_head(server, raw_request("POST", CHAT, HI | {"stream": True}))
        assert undated(head) == lines(
            "HTTP/1.1 200 OK",
            "X-Powered-By: Express",
            "Access-Control-Allow-Origin: *",
            "Access-Control-Allow-Headers: *",
            "Content-Type: text/event-stream",
            "Cache-Control: no-cache",
            "Connection: keep-alive",
            "DATE",
            "Transfer-Encoding: chunked",
        )

    run(test, cors=True)


def test_stream_to_http_1_0_has_no_chunks_and_ends_with_the_connection() -> None:
    async def test(server: LookalikeServer) -> None:
        server.look.engine.say("Hi")  # type: ignore[attr-defined]
        got = await raw_exchange(server, raw_request("POST", CHAT, HI | {"stream": True}, version="1.0"))
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert b"\r\nConnection: close" in head
        assert body.startswith(b'data: {"id":"chatcmpl-')
        assert body.endswith(b"\n\ndata: [DONE]\n\n")

    run(test)


def test_head_has_the_fields_of_get_and_no_body() -> None:
    async def test(server: LookalikeServer) -> None:
        got = await raw_exchange(server, raw_request("GET", "/lmstudio-greeting", None, "Connection: close"))
        head = await raw_exchange(server, raw_request("HEAD", "/lmstudio-greeting", None, "Connection: close"))
        assert got.endswith(b"\r\n\r\n" + b'{"lmstudio":true}')
        assert undated(head) == undated(got.removesuffix(b'{"lmstudio":true}'))
        assert b"\r\nContent-Length: 17\r\n" in head

    run(test)


def test_bodies_are_indented_by_two_without_a_last_newline() -> None:
    async def test(server: LookalikeServer) -> None:
        raw = (await get(server, "/v1/models")).raw
        assert raw == json.dumps(json.loads(raw), indent=2).encode()

    run(test)


def test_body_that_the_client_has_is_not_sent_again() -> None:
    async def test(server: LookalikeServer) -> None:
        tag = (await get(server, "/v1/models")).headers["ETag"]
        for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
            got = await raw_head(server, raw_request("GET", "/v1/models", None, f"If-None-Match: {known}"))
            assert undated(got) == lines(
                "HTTP/1.1 304 Not Modified",
                "X-Powered-By: Express",
                f"ETag: {tag}",
                "DATE",
                "Connection: keep-alive",
                "Keep-Alive: timeout=5",
            )
        assert (await get(server, "/v1/models", headers={"If-None-Match": 'W/"1-x"'})).status == 200
        assert (
            await get(server, "/v1/models", headers={"If-None-Match": tag, "Cache-Control": "no-cache"})
        ).status == 200

    run(test)


def test_idle_connection_is_closed_after_its_time_and_not_before() -> None:
    async def test(server: LookalikeServer) -> None:
        started = time.monotonic()
        got = await raw_exchange(server, raw_request("GET", "/lmstudio-greeting"))
        assert got.endswith(b'{"lmstudio":true}')
        assert 0.3 <= time.monotonic() - started < 5

    run(test, keepalive_s=0.3)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", CHAT),
        ("DELETE", "/v1/models"),
        ("GET", "/v1/models2"),
        ("POST", "/v1/messages/count_tokens"),
        ("PATCH", "/api/v0/models"),
        ("GET", "//v1/models"),
    ],
)
def test_every_other_route_gives_200_with_an_error(method: str, path: str) -> None:
    async def test(server: LookalikeServer) -> None:
        got = await call(server, method, path)
        assert (got.status, got.json) == (200, {"error": f"Unexpected endpoint or method. ({method} {path})"})

    run(test)


def test_routes_are_found_as_express_finds_them() -> None:
    async def test(server: LookalikeServer) -> None:
        plain = (await get(server, "/v1/models")).raw
        for path in ("/v1/models/", "/V1/Models", "/v1/models?x=1", "/v1/%6dodels"):
            assert (await get(server, path)).raw == plain

    run(test)


def test_unknown_routes_below_api_v1_may_be_404() -> None:
    async def test(server: LookalikeServer) -> None:
        words = "Unexpected endpoint or method. (GET /api/v1/events)"
        got = await get(server, "/api/v1/events")
        assert (got.status, got.raw) == (404, json.dumps({"error": words}, indent=2).encode())
        assert (await get(server, "/api/v0/events")).status == 200

    run(test, unknown_v1_is_404=True, catch_all_pretty=True)


def test_surface_that_came_later_is_an_unknown_route() -> None:
    async def test(server: LookalikeServer) -> None:
        for path in ("/api/v0/models", "/api/v1/models"):
            assert (await get(server, path)).json == {"error": f"Unexpected endpoint or method. (GET {path})"}
        assert (await get(server, "/v1/models")).json["object"] == "list"

    run(test, version="0.3.5")


def test_body_of_40_mb_is_read() -> None:
    async def test(server: LookalikeServer) -> None:
        got = await post(server, CHAT, HI | {"metadata": "x" * 40_000_000})
        assert got.status == 200
        (line,) = [line for line in logged(server) if "Received request" in line]
        assert line.endswith("... <Truncated in logs> ...")
        assert len(line) < 3000

    run(test)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "'messages' field is required"),
        (b"{}", "'messages' field is required"),
        (b"[1]", "Expected an object"),
        (b'"text"', "Expected an object"),
        (b"{", "Invalid JSON: "),
        (b'{"a": NaN}', "Invalid JSON: NaN is no JSON"),
        (b'{"a": "\xff"}', "Invalid JSON: "),
        (b"[" * 100_000, "Invalid JSON: "),
        (b'{"seed": ' + b"9" * 5000 + b"}", "Invalid JSON: "),
    ],
)
def test_body_that_is_no_request_is_refused(body: bytes, message: str) -> None:
    async def test(server: LookalikeServer) -> None:
        got = await post(server, CHAT, body)
        assert got.status == 400
        assert list(got.json) == ["error"]
        assert got.json["error"].startswith(message)

    run(test)


def test_body_may_be_compressed_and_is_refused_if_it_cannot_be_read() -> None:
    async def test(server: LookalikeServer) -> None:
        packed = {"Content-Encoding": "gzip"}
        assert (await post(server, CHAT, gzip.compress(json.dumps(HI).encode()), headers=packed)).status == 200
        got = await post(server, CHAT, b"no gzip", headers=packed)
        assert got.status == 400
        assert got.json["error"].startswith("Invalid body: ")

    run(test)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    async def test(server: LookalikeServer) -> None:
        got = await post(server, CHAT, b'{"model": "a\\ud83d", "messages": [{"role": "user", "content": "\\uDE00"}]}')
        assert got.status == 404
        assert '"a\ufffd"' in got.json["error"]

    run(test)


def test_lms_status_may_be_on_other_ports_only() -> None:
    async def test(server: LookalikeServer) -> None:
        assert (await get(server, "/lms-status")).json == {"error": "Unexpected endpoint or method. (GET /lms-status)"}

    run(test, lms_status=False)


def test_socket_route_takes_only_upgrades_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    async def socket(look: Lookalike, request: Request) -> web.StreamResponse:
        return answer({"upgrade": True})

    class Surface:
        ROUTES = (Route("GET", "/(llm2|other)", socket, is_socket=True),)

    monkeypatch.setattr(server_module, "SURFACES", (Surface,))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    token = {"Authorization": f"Bearer {TOKEN}"}

    async def test(server: LookalikeServer) -> None:
        assert (await get(server, "/llm2", headers=upgrade)).json == {"upgrade": True}
        assert (await get(server, "/llm2")).status == 401
        assert "error" in (await get(server, "/llm2", headers=token)).json
        assert (await get(server, "/unknown", headers=upgrade)).status == 401

    run(test, auth=True)


def test_bug_of_a_surface_is_told_to_the_operator_and_not_hidden(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(look: Lookalike, request: Request) -> web.StreamResponse:
        raise LookupError("a bug")

    class Surface:
        ROUTES = (Route("GET", "/broken", broken),)

    monkeypatch.setattr(server_module, "SURFACES", (Surface,))

    async def test(server: LookalikeServer) -> None:
        assert (await get(server, "/broken")).status == 500

    run(test)
    assert "a bug" in caplog.text


def test_address_that_is_taken_is_an_error() -> None:
    async def test(server: LookalikeServer) -> None:
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match="in use"):
            await LookalikeServer(server.look).start(port=port)

    run(test)


@pytest.mark.parametrize(
    "data", [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"]
)
def test_what_is_no_http_gets_nodes_answer(data: bytes) -> None:
    async def test(server: LookalikeServer) -> None:
        assert await raw_exchange(server, data) == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
        assert (await get(server, "/lmstudio-greeting")).status == 200

    run(test)


def test_whole_numbers_have_no_point_as_javascript_writes_them() -> None:
    engine = ScriptedEngine()
    engine.say(Prefill(1.0), Text("one two", delay_s=0.5))
    engine.say(Prefill(1.0), Text("one two", delay_s=0.5))

    async def test(server: LookalikeServer) -> None:
        body: dict[str, Any] = {"model": "scripted-7b-instruct", "messages": [{"role": "user", "content": "hi"}]}
        got = await post(server, "/api/v0/chat/completions", body)
        assert b'"generation_time": 1,\n' in got.raw
        got = await post(server, "/api/v0/chat/completions", body | {"stream": True})
        assert b'"generation_time":1,' in got.raw

    run(test, engine)
