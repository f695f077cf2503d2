"""Tools of real MCP servers: the client by itself, and the rounds of /api/v1/chat with it."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.behaviour import Behaviour
from proxy.demo.lookalike import Lookalike
from proxy.demo.mcp_tools import BadToolCallError, McpRefusedError, McpServer, McpSession, label_of
from proxy.demo.script import Script
from proxy.demo.script import Text as Says
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post, running, stream
from tests.demo.mcp_server import PROGRAM, mcp_server
from tests.demo.samples import same_form

LLM = "scripted-7b-instruct"
TOKEN = Behaviour().tokens[0]
OPEN: dict[str, Any] = {"mcp_per_request": True, "mcp_local_addresses": True}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mcp_server() as url:
        yield url


@pytest.fixture
def mcp_file(tmp_path: Path, url: str) -> str:
    """An mcp.json with a program, a URL, and two that do not work."""
    file = tmp_path / "mcp.json"
    servers = {
        "My Program": {"command": sys.executable, "args": [str(PROGRAM)], "env": {"SOME": "thing"}},
        "web": {"url": url, "headers": {"X-Secret": "from the file"}},
        "gone": {"command": str(tmp_path / "nothing")},
        "odd": "no object",
    }
    file.write_text(json.dumps({"mcpServers": servers}))
    return str(file)


def call_of(name: str, **arguments: Any) -> str:
    """What a model writes to call a tool."""
    return f"[TOOL_REQUEST]{json.dumps({'name': name, 'arguments': arguments})}[END_TOOL_REQUEST]"


# --- the client by itself ---------------------------------------------------------------------------------------------


def with_session(
    server: McpServer, test: Callable[[McpSession], Awaitable[None]] | None = None, **switches: Any
) -> None:
    """Connect, and run a test."""

    async def main() -> None:
        look = Lookalike(ScriptedEngine(), Behaviour(**{**OPEN, **switches}))
        async with McpSession(look, [server]) as session:
            if test is not None:
                await test(session)

    asyncio.run(main())


def test_tools_are_the_servers(url: str) -> None:
    async def test(session: McpSession) -> None:
        assert list(session.tools) == ["add", "header", "refuse", "die"]
        tool = session.openai_tools()[0]
        assert tool["type"] == "function"
        assert tool["function"]["name"] == "add"
        assert tool["function"]["description"] == "Add two numbers."
        assert list(tool["function"]["parameters"]["properties"]) == ["a", "b"]

    with_session(McpServer("sums", url), test)


def test_call_gives_the_content_as_json(url: str) -> None:
    async def test(session: McpSession) -> None:
        assert await session.call("add", {"a": 2, "b": 3}) == (
            '[{"type":"text","text":"2 + 3 = 5"}]',
            {"type": "ephemeral_mcp", "server_label": "sums"},
        )

    with_session(McpServer("sums", url), test)


def test_only_allowed_tools_are_there(url: str) -> None:
    async def test(session: McpSession) -> None:
        assert list(session.tools) == ["header"]
        with pytest.raises(BadToolCallError) as caught:
            await session.call("add", {"a": 2, "b": 3})
        assert caught.value.kind == "invalid_name"

    with_session(McpServer("sums", url, allowed_tools=("header", "no such tool")), test)


def test_arguments_that_do_not_fit_the_schema_are_not_sent(url: str) -> None:
    async def test(session: McpSession) -> None:
        for arguments in ({"a": 2}, {"a": 2, "b": "three"}):
            with pytest.raises(BadToolCallError) as caught:
                await session.call("add", arguments)
            assert caught.value.kind == "invalid_arguments"

    with_session(McpServer("sums", url), test)


def test_headers_reach_the_server(url: str) -> None:
    async def test(session: McpSession) -> None:
        assert "Bearer xyz" in (await session.call("header", {"name": "authorization"}))[0]

    with_session(McpServer("sums", url, headers={"Authorization": "Bearer xyz"}), test)


def test_tool_that_fails_says_so_in_its_content(url: str) -> None:
    async def test(session: McpSession) -> None:
        content = json.loads((await session.call("refuse", {}))[0])
        assert content[0]["type"] == "text"
        assert "refuse" in content[0]["text"]

    with_session(McpServer("sums", url), test)


def test_program_of_the_mcp_file_is_started(mcp_file: str) -> None:
    async def test(session: McpSession) -> None:
        assert await session.call("add", {"a": 2, "b": 3}) == (
            '[{"type":"text","text":"2 + 3 = 5"}]',
            {"type": "plugin", "plugin_id": "mcp/my-program"},
        )

    with_session(McpServer("my-program"), test, auth=True, mcp_file=mcp_file)


def test_url_of_the_mcp_file_has_its_headers(mcp_file: str) -> None:
    async def test(session: McpSession) -> None:
        assert "from the file" in (await session.call("header", {"name": "x-secret"}))[0]

    # the file's own servers may be local: the operator wrote them there
    with_session(McpServer("web"), test, auth=True, mcp_file=mcp_file, mcp_local_addresses=False)


def test_plugin_ids_are_kebab() -> None:
    assert [label_of(name) for name in ("My Program", "playwright", "a_B.c")] == ["my-program", "playwright", "a-b-c"]


@pytest.mark.parametrize(
    ("server", "switches", "kind"),
    [
        (McpServer("x", "http://127.0.0.1:9/mcp"), {"mcp_per_request": False}, "permission"),
        (McpServer("x"), {"auth": True}, "permission"),
        (McpServer("x", "http://127.0.0.1:9/mcp"), {"mcp_local_addresses": False}, "address"),
        (McpServer("x", "http://192.168.1.1/mcp"), {"mcp_local_addresses": False}, "address"),
        (McpServer("x", "http://[::1]:9/mcp"), {"mcp_local_addresses": False}, "address"),
        (McpServer("x", "http://localhost:9/mcp"), {"mcp_local_addresses": False}, "address"),
        (McpServer("x", "http://[bad"), {"mcp_local_addresses": False}, "connection"),
        (McpServer("x", "http://127.0.0.1:99999/mcp"), {"mcp_local_addresses": False}, "connection"),
        (McpServer("x", "http://127.0.0.1:9/mcp"), {}, "connection"),
        (McpServer("x", "no url"), {}, "connection"),
        (McpServer("x", "http://127.0.0.1:9/mcp", headers={"a": "\u1234"}), {}, "connection"),
    ],
)
def test_refusals_have_their_kinds(server: McpServer, switches: dict[str, Any], kind: str) -> None:
    with pytest.raises(McpRefusedError) as caught:
        with_session(server, **switches)
    assert caught.value.kind == kind
    assert caught.value.server is server


@pytest.mark.parametrize(("label", "kind"), [("gone", "connection"), ("odd", "unknown"), ("no-such", "unknown")])
def test_servers_of_the_mcp_file_that_do_not_work(mcp_file: str, label: str, kind: str) -> None:
    with pytest.raises(McpRefusedError) as caught:
        with_session(McpServer(label), auth=True, mcp_file=mcp_file)
    assert caught.value.kind == kind
    with pytest.raises(McpRefusedError) as caught:
        with_session(McpServer(label), auth=False, mcp_file=mcp_file)
    assert caught.value.kind == "permission"


# --- /api/v1/chat -----------------------------------------------------------------------------------------------------


def ask_of(url: str, **more: Any) -> dict[str, Any]:
    integration = {"type": "ephemeral_mcp", "server_label": "sums", "server_url": url}
    return {"model": LLM, "input": "What is 2 + 3?", "integrations": [integration], **more}


def chat(
    test: Callable[[LookalikeServer, ScriptedEngine], Awaitable[None]], *rounds: Script | str, **switches: Any
) -> None:
    """Run a test against a lookalike whose model says these things, one after the other."""

    async def main() -> None:
        engine = ScriptedEngine()
        for said in rounds:
            engine.say(*([said] if isinstance(said, str) else said))
        async with running(engine, **{**OPEN, **switches}) as server:
            await test(server, engine)

    asyncio.run(main())


def test_server_runs_the_tools_between_rounds(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", ask_of(url))
        assert got.status == 200
        sample = {
            "model_instance_id": "",
            "output": [
                (
                    {"type": "reasoning", "content": ""},
                    {
                        "type": "tool_call",
                        "tool": "",
                        "arguments": {"a": 0, "b": 0},
                        "output": "",
                        "provider_info": {"type": "ephemeral_mcp", "server_label": ""},
                    },
                    {"type": "message", "content": ""},
                )
            ],
            "stats": {
                "input_tokens": 0,
                "total_output_tokens": 0,
                "reasoning_output_tokens": 0,
                "tokens_per_second": 1.5,
                "time_to_first_token_seconds": 1.5,
                "model_load_time_seconds": 1.5,
            },
            "response_id": "",
        }
        same_form(sample, got.json)
        assert [item["type"] for item in got.json["output"]] == ["reasoning", "tool_call", "message"]
        assert got.json["output"][1] == {
            "type": "tool_call",
            "tool": "add",
            "arguments": {"a": 2, "b": 3},
            "output": '[{"type":"text","text":"2 + 3 = 5"}]',
            "provider_info": {"type": "ephemeral_mcp", "server_label": "sums"},
        }
        assert got.json["output"][2]["content"] == "It is 5."
        first, second = engine.calls
        assert '"name": "add"' in first.prompt
        assert "2 + 3 = 5" not in first.prompt
        assert "2 + 3 = 5" in second.prompt
        stats = got.json["stats"]
        assert stats["input_tokens"] == len(second.tokens)
        assert stats["total_output_tokens"] == len(first.generated) + len(second.generated) + 2

    chat(test, f"<think>I add.</think>{call_of('add', a=2, b=3)}", "It is 5.")


def test_stream_tells_each_call(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, "/api/v1/chat", ask_of(url, stream=True))
        assert all(name == data["type"] for name, data in events)
        names = [name for name, _ in events if not name.endswith((".progress", ".delta"))]
        prompt = ["prompt_processing.start", "prompt_processing.end"]
        assert names == [
            "chat.start",
            *("model_load.start", "model_load.end"),
            *prompt,
            *("tool_call.start", "tool_call.arguments", "tool_call.success"),
            *prompt,
            *("message.start", "message.end"),
            "chat.end",
        ]
        provider = {"type": "ephemeral_mcp", "server_label": "sums"}
        told = dict(events)
        assert told["tool_call.start"] == {"type": "tool_call.start", "tool": "add", "provider_info": provider}
        call = {"tool": "add", "arguments": {"a": 2, "b": 3}}
        assert told["tool_call.arguments"] == {"type": "tool_call.arguments", **call, "provider_info": provider}
        output = '[{"type":"text","text":"2 + 3 = 5"}]'
        success = {"type": "tool_call.success", **call, "output": output, "provider_info": provider}
        assert list(told["tool_call.success"].items()) == list(success.items())
        assert told["chat.end"]["result"]["output"][0] == {**success, "type": "tool_call"}

    chat(test, call_of("add", a=2, b=3), "It is 5.")


def test_calls_that_cannot_be_made_are_told_to_the_model(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, "/api/v1/chat", ask_of(url, stream=True))
        failures = [data for name, data in events if name == "tool_call.failure"]
        assert failures[0] == {
            "type": "tool_call.failure",
            "reason": "Cannot find tool with name open_browser.",
            "metadata": {"type": "invalid_name", "tool_name": "open_browser"},
        }
        assert failures[1]["metadata"] == {
            "type": "invalid_arguments",
            "tool_name": "add",
            "arguments": {"a": "two"},
            "provider_info": {"type": "ephemeral_mcp", "server_label": "sums"},
        }
        items = events[-1][1]["result"]["output"]
        assert [list(item) for item in items[:2]] == [["type", "reason", "metadata"]] * 2
        assert [item["type"] for item in items] == ["invalid_tool_call", "invalid_tool_call", "message"]
        assert "Cannot find tool with name open_browser." in engine.calls[1].prompt
        assert [name for name, _ in events].count("tool_call.start") == 1

    chat(test, call_of("open_browser") + call_of("add", a="two"), "I cannot.")


def test_call_that_is_no_json_fails(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", ask_of(url))
        invalid, message = got.json["output"]
        assert invalid["metadata"]["type"] == "invalid_arguments"
        assert invalid["metadata"]["tool_name"] == "add"
        assert message["content"] == "Sorry."

    chat(test, '[TOOL_REQUEST]{"name": "add", "arguments": {"a": 2,,}}[END_TOOL_REQUEST]', "Sorry.")


def test_several_calls_of_one_round_are_made_in_order(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", ask_of(url))
        outputs = [item["output"] for item in got.json["output"] if item["type"] == "tool_call"]
        assert [json.loads(output)[0]["text"] for output in outputs] == ["1 + 2 = 3", "3 + 4 = 7"]
        assert len(engine.calls) == 2

    chat(test, call_of("add", a=1, b=2) + call_of("add", a=3, b=4), "Done.")


def test_rounds_have_an_end(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.rule = lambda call: [Says(call_of("add", a=1, b=1))]
        got = await post(server, "/api/v1/chat", ask_of(url, context_length=30000))
        assert got.status == 200
        assert len(engine.calls) == 20
        assert len(got.json["output"]) == 20

    chat(test)


def test_the_chat_that_is_kept_has_the_calls(url: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        first = await post(server, "/api/v1/chat", ask_of(url))
        again = {"model": LLM, "input": "Sure?", "previous_response_id": first.json["response_id"]}
        assert (await post(server, "/api/v1/chat", again)).status == 200
        assert "2 + 3 = 5" in engine.calls[-1].prompt
        assert '"name": "add"' in engine.calls[-1].prompt  # the call itself

    chat(test, call_of("add", a=2, b=3), "It is 5.", "Yes.")


def test_server_that_dies_in_a_call_is_an_error_event() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        with mcp_server() as dying:
            events = await stream(server, "/api/v1/chat", ask_of(dying, stream=True))
        assert [name for name, _ in events[-3:]] == ["tool_call.arguments", "error", "chat.end"]
        assert list(events[-2][1]) == ["type", "error"]
        assert events[-2][1]["error"]["type"] == "mcp_connection_error"
        result = events[-1][1]["result"]
        assert result["output"] == []
        assert result["stats"]["total_output_tokens"] == len(engine.calls[0].generated) + 1
        assert "response_id" not in result

    chat(test, call_of("die"), "Oh.")


def test_program_that_dies_in_a_call_is_an_error(mcp_file: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        body = {"model": LLM, "input": "Die.", "integrations": ["mcp/my-program"]}
        got = await post(server, "/api/v1/chat", body, headers={"Authorization": f"Bearer {TOKEN}"})
        assert (got.status, got.json["error"]["type"]) == (424, "plugin_connection_error")

    chat(test, call_of("die"), "Oh.", auth=True, mcp_file=mcp_file)


def test_refusals_over_http(url: str, mcp_file: str) -> None:
    async def plugins(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", {"model": LLM, "input": "hi", "integrations": ["mcp/playwright"]})
        assert got.status == 403
        assert got.json == {
            "error": {
                "message": "Permission denied to use plugin 'mcp/playwright'. Ensure that the server configuration "
                "allows plugin usage and, if using an API token, it has the necessary permissions.",
                "type": "invalid_request",
                "param": "integrations",
                "code": None,
            }
        }
        got = await post(server, "/api/v1/chat", ask_of(url))
        assert (got.status, got.json["error"]["param"]) == (403, "integrations")
        assert engine.calls == []

    chat(plugins, mcp_per_request=False)

    async def unreachable(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", ask_of("http://127.0.0.1:9/mcp"))
        assert (got.status, got.json["error"]["type"]) == (424, "mcp_connection_error")

    chat(unreachable)

    async def local(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, "/api/v1/chat", ask_of(url))).status == 403

    chat(local, mcp_local_addresses=False)


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        *("x", "http://", "http:///mcp", "http://127.0.0.1:0/", "http://127.0.0.1:9/a b\n\0", "http://[::1", "//"),
        *("ftp://127.0.0.1/", "http://127.0.0.1:9:9/", "http://127.0.0.1:port/", "http://\u0130.\udfff/", "http://.."),
        *({"": "x"}, {"a\nb": "c"}, {"a": "c\r\nd: e"}, {"Content-Length": "-1"}, {"Host": ""}),
    ],
)
def test_odd_urls_and_headers_are_refused(odd: Any, is_checked: bool) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        body = ask_of(odd if isinstance(odd, str) else "http://127.0.0.1:9/mcp")
        body["integrations"][0]["headers"] = odd if isinstance(odd, dict) else {}
        got = await post(server, "/api/v1/chat", body)
        assert got.status in (403, 424), got
        assert engine.calls == []

    chat(test, mcp_local_addresses=not is_checked)


def test_plugins_by_id_and_as_objects(mcp_file: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        token = {"Authorization": f"Bearer {TOKEN}"}
        for integration in ("mcp/web", {"type": "plugin", "id": "mcp/web", "allowed_tools": ["add"]}):
            body = {"model": LLM, "input": "2 + 3?", "integrations": [integration]}
            got = await post(server, "/api/v1/chat", body, headers=token)
            assert got.json["output"][0]["provider_info"] == {"type": "plugin", "plugin_id": "mcp/web"}
        assert '"name": "header"' in engine.calls[0].prompt
        assert '"name": "header"' not in engine.calls[2].prompt
        for name, kind in (("gone", 424), ("no-such", 404)):
            body = {"model": LLM, "input": "2 + 3?", "integrations": [f"mcp/{name}"]}
            got = await post(server, "/api/v1/chat", body, headers=token)
            assert (got.status, got.json["error"]["type"]) == (kind, "plugin_connection_error")

    add = call_of("add", a=2, b=3)
    chat(test, add, "5", add, "5", auth=True, mcp_file=mcp_file)


def test_without_the_package_the_answer_says_what_to_install(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mcp" else find(name, *more))

    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/chat", ask_of(url))
        assert (got.status, got.json["error"]["type"]) == (501, "not_implemented")
        assert "proxy-log[demo]" in got.json["error"]["message"]

    chat(test)
