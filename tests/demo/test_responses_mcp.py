"""Tools of MCP servers in POST /v1/responses: a real server, over its standard streams and over HTTP."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from proxy.demo.script import Burst
from tests.demo.lookalikes import post, running, stream
from tests.demo.mcp_server import PROGRAM, mcp_server
from tests.demo.responses_samples import CALL, PATH, TOOL, ask, saying

TOKEN = "sk-lm-demo0001:abcdefghij0123456789"
MCP_CALL = Burst('[TOOL_REQUEST]{"name": "add", "arguments": {"a": 2, "b": 3}}[END_TOOL_REQUEST]')


@pytest.fixture
def mcp_file(tmp_path: Path) -> str:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"Desk": {"command": sys.executable, "args": [str(PROGRAM)]}}}))
    return str(file)


def test_mcp_tools_are_called_between_the_rounds(mcp_file: str) -> None:
    async def main() -> None:
        engine = saying([MCP_CALL], ["It is five."])
        tool = {"type": "mcp", "server_label": "desk", "allowed_tools": ["add"]}
        body = {"input": "2 + 3?", "tools": [tool], "stream": True}
        async with running(engine, auth=True, mcp_file=mcp_file) as server:
            events = await stream(server, PATH, body, headers={"Authorization": f"Bearer {TOKEN}"})
        response = events[-1][1]["response"]
        listed, called, said = response["output"]
        assert (listed["type"], listed["server_label"]) == ("mcp_list_tools", "desk")
        assert [tool["name"] for tool in listed["tools"]] == ["add"]
        assert (called["type"], called["name"], called["status"]) == ("mcp_call", "add", "completed")
        assert json.loads(called["arguments"]) == {"a": 2, "b": 3}
        assert json.loads(called["output"]) == [{"type": "text", "text": "2 + 3 = 5"}]
        assert said["content"][0]["text"] == "It is five."
        names = list(dict.fromkeys(name for name, _ in events if "mcp" in name))
        assert names == [
            "response.mcp_list_tools.in_progress",
            "response.mcp_list_tools.completed",
            "response.mcp_call.in_progress",
            "response.mcp_call_arguments.delta",
            "response.mcp_call_arguments.done",
            "response.mcp_call.completed",
        ]
        assert "2 + 3 = 5" in engine.calls[1].prompt
        assert response["usage"]["input_tokens"] == sum(len(call.tokens) for call in engine.calls)
        assert [data["output_index"] for name, data in events if name == "response.output_item.done"] == [0, 1, 2]

    asyncio.run(main())


def test_an_mcp_call_that_fails_is_told_to_the_model(mcp_file: str) -> None:
    async def main() -> None:
        wrong = Burst('[TOOL_REQUEST]{"name": "add", "arguments": {"a": 2}}[END_TOOL_REQUEST]')
        engine = saying([wrong], ["Sorry."])
        body = {"input": "2 + 3?", "tools": [{"type": "mcp", "server_label": "desk"}]}
        async with running(engine, auth=True, mcp_file=mcp_file) as server:
            got = await post(server, PATH, body, headers={"Authorization": f"Bearer {TOKEN}"})
        called = got.json["output"][1]
        assert (called["status"], called["output"]) == ("failed", None)
        assert called["error"] in engine.calls[1].prompt

    asyncio.run(main())


def test_a_server_of_the_request_is_called_with_its_headers() -> None:
    async def main(url: str) -> None:
        called = Burst('[TOOL_REQUEST]{"name": "header", "arguments": {"name": "x-key"}}[END_TOOL_REQUEST]')
        dies = Burst('[TOOL_REQUEST]{"name": "die", "arguments": {}}[END_TOOL_REQUEST]')
        engine = saying([called], [dies], ["Gone."])
        tool = {"type": "mcp", "server_label": "near", "server_url": url, "headers": {"X-Key": "opensesame"}}
        async with running(engine, mcp_per_request=True, mcp_local_addresses=True) as server:
            listed, first, second, said = (await ask(server, input="Go", tools=[tool]))["output"]
        assert {one["name"] for one in listed["tools"]} >= {"add", "header", "die"}
        assert "opensesame" in first["output"]
        assert (second["status"], second["output"]) == ("failed", None)
        assert said["content"][0]["text"] == "Gone."

    with mcp_server() as url:
        asyncio.run(main(url))


def test_a_call_of_the_clients_own_tool_ends_the_rounds(mcp_file: str) -> None:
    async def main() -> None:
        engine = saying([MCP_CALL, CALL])
        body = {"input": "Both", "tools": [TOOL, {"type": "mcp", "server_label": "Desk"}]}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with running(engine, auth=True, mcp_file=mcp_file) as server:
            got = (await post(server, PATH, body, headers=headers)).json
            listed, mine, yours = got["output"]
            assert (listed["type"], mine["type"], mine["status"]) == ("mcp_list_tools", "mcp_call", "completed")
            engine.say("Done.")
            output = {"type": "function_call_output", "call_id": yours["call_id"], "output": "four"}
            again = {"input": [output], "previous_response_id": got["id"]}
            assert (await post(server, PATH, again, headers=headers)).status == 200
        prompt = engine.calls[1].prompt
        assert prompt.index("2 + 3 = 5") < prompt.index("four")

    asyncio.run(main())


def test_mcp_refusals() -> None:
    async def main() -> None:
        local = {"type": "mcp", "server_label": "wazuh"}
        remote = {"type": "mcp", "server_label": "near", "server_url": "http://127.0.0.1:9/mcp"}
        async with running() as server:
            got = await post(server, PATH, {"input": "x", "tools": [local]})
            assert got.status == 403
            error = got.json["error"]
            assert error["message"].startswith("Permission denied to use local MCP server 'wazuh'.")
            assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "tools", None)
            assert (await post(server, PATH, {"input": "x", "tools": [remote]})).status == 403
        async with running(version="0.3.29") as server:
            error = (await post(server, PATH, {"input": "x", "tools": [local]})).json["error"]
            assert error["message"].startswith("Tool for MCP server 'wazuh' requires a non-empty 'server_url'")
            assert (error["type"], error["code"]) == ("external_connector_error", "http_error")
        async with running(mcp_per_request=True) as server:
            error = (await post(server, PATH, {"input": "x", "tools": [remote]})).json["error"]
            assert "non-public address" in error["message"]
        async with running(mcp_per_request=True, mcp_local_addresses=True) as server:
            got = await post(server, PATH, {"input": "x", "tools": [remote]})
            assert got.status == 424
            assert got.json["error"]["code"] == "http_error"

    asyncio.run(main())
