"""Who is let in: tokens and CORS."""

import re

import pytest

from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import call, get, run
from tests.demo.samples import same_form

TOKEN = "sk-lm-demo0001:abcdefghij0123456789"
CHAT = "/v1/chat/completions"


def test_without_token_where_one_is_asked_for() -> None:
    sample = {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": re.compile("(?s).*")}}

    async def test(server: LookalikeServer) -> None:
        for path in ("/v1/models", CHAT, "/nope"):
            got = await call(server, "POST" if path == CHAT else "GET", path)
            assert got.status == 401
            same_form(sample, got.json)
            assert got.json["error"]["message"].startswith(
                "An LM Studio API token is required to make requests to this server, but none was provided using the "
                "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN')."
            )

    run(test, auth=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Bearer 22aac52a71bb33", "Malformed LM Studio API token provided: 22aac52a71... Ensure you are using"),
        ("Bearer null", "Malformed LM Studio API token provided: null... Ensure you are using a valid token."),
        ("Bearer " + TOKEN + "x", "Malformed LM Studio API token provided: sk-lm-demo..."),
        ("Basic abc", "An LM Studio API token is required"),
        ("Bearer ", "An LM Studio API token is required"),
        ("Bearer sk-lm-demo0001:abcdefghij0123456780", "Invalid LM Studio API token provided."),
    ],
)
def test_token_that_is_not_let_in(value: str, message: str) -> None:
    async def test(server: LookalikeServer) -> None:
        got = await get(server, "/v1/models", headers={"Authorization": value})
        assert got.status == 401
        assert got.json["error"]["code"] == "invalid_api_key"
        assert got.json["error"]["message"].startswith(message)

    run(test, auth=True)


def test_token_opens_and_discovery_needs_none() -> None:
    async def test(server: LookalikeServer) -> None:
        for scheme in ("Bearer", "bearer"):
            assert (await get(server, "/v1/models", headers={"Authorization": f"{scheme} {TOKEN}"})).status == 200
        assert (await get(server, "/lmstudio-greeting")).raw == b'{"lmstudio":true}'
        assert (await get(server, "/lms-status")).json == {"package": "lmstudio", "version": "0.4.21"}

    run(test, auth=True)


def test_any_token_will_do_where_none_is_asked_for() -> None:
    async def test(server: LookalikeServer) -> None:
        assert (await get(server, "/v1/models", headers={"Authorization": "Bearer null"})).status == 200

    run(test)


def test_cors_is_off_by_default_and_on_every_answer_when_on() -> None:
    async def off(server: LookalikeServer) -> None:
        got = await get(server, "/v1/models", headers={"Origin": "http://page.example"})
        assert not [name for name in got.headers if name.startswith("Access-Control")]

    async def on(server: LookalikeServer) -> None:
        for path in ("/v1/models", "/nope", "/v1/models/nope"):
            got = await get(server, path)
            assert got.headers["Access-Control-Allow-Origin"] == got.headers["Access-Control-Allow-Headers"] == "*"
            assert "Access-Control-Allow-Private-Network" not in got.headers  # tracker#392

    run(off)
    run(on, cors=True)


def test_options_are_an_unknown_method_a_post_without_a_body_or_nothing() -> None:
    async def unknown(server: LookalikeServer) -> None:
        got = await call(server, "OPTIONS", CHAT)
        assert (got.status, got.json) == (200, {"error": f"Unexpected endpoint or method. (OPTIONS {CHAT})"})

    async def as_post(server: LookalikeServer) -> None:
        got = await call(server, "OPTIONS", CHAT)
        assert (got.status, got.json) == (400, {"error": "'messages' field is required"})

    async def empty(server: LookalikeServer) -> None:
        got = await call(server, "OPTIONS", CHAT)
        assert (got.status, got.raw) == (204, b"")
        assert got.headers["Access-Control-Allow-Origin"] == "*"

    run(unknown)
    run(as_post, options="post")
    run(empty, options="empty", cors=True)


def test_preflight_of_a_page_needs_no_token_unless_switched() -> None:
    for needs_token, status in ((False, 200), (True, 401)):

        async def test(server: LookalikeServer, status: int = status) -> None:
            got = await call(server, "OPTIONS", CHAT)
            assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (status, "*")
            assert (await call(server, "POST", CHAT)).status == 401

        run(test, auth=True, cors=True, preflight_needs_token=needs_token)
