"""What POST /v1/responses refuses, and that no body breaks it."""

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.demo.lookalikes import Answer, post, running
from tests.demo.odd_bodies import JSON, survives
from tests.demo.responses_samples import (
    PATH,
    TOOL,
)


@pytest.mark.parametrize(
    ("body", "wanted", "version"),
    [
        (
            {"input": "x", "text": {"verbosity": "low"}},
            ("Required", "text.format", "missing_required_parameter"),
            "0.4.21",
        ),
        (
            {"input": "x", "tools": [TOOL, {"type": "web_search"}]},
            ("Invalid discriminator value. Expected 'function' | 'mcp'", "tools.1.type", "invalid_union_discriminator"),
            "0.4.0",
        ),
        ({"input": "x", "tools": [{"type": "namespace"}]}, ("Invalid", "tools.0.type", "invalid_string"), "0.4.11"),
        ({"input": [{"type": "custom_tool_call"}]}, ("Invalid type for 'input'.", "input", "invalid_union"), "0.4.21"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": []}]},
            ("Invalid type for 'input'.", "input", "invalid_union"),
            "0.4.20",
        ),
        ({}, ("Required", "input", "missing_required_parameter"), "0.4.21"),
        ({"input": "x", "model": 1}, ("Expected string, received number", "model", "invalid_type"), "0.4.21"),
    ],
)  # fmt: skip
def test_known_refusals(body: dict[str, Any], wanted: tuple[str, str, str], version: str) -> None:
    async def main() -> None:
        async with running(version=version) as server:
            got = await post(server, PATH, body)
            message, param, code = wanted
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
            assert got.json == {"error": error}
            assert list(got.json["error"]) == list(error)
            assert got.status == 400

    asyncio.run(main())


def test_older_applications_do_not_know_it() -> None:
    async def main() -> None:
        async with running(version="0.3.28") as server:
            got = await post(server, PATH, {"input": "x"})
            assert got.status == 200
            assert got.json == {"error": "Unexpected endpoint or method. (POST /v1/responses)"}

    asyncio.run(main())


ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning"]) | JSON,
            "role": st.sampled_from(["user", "assistant", "developer"]) | JSON,
            "content": st.text(max_size=5) | JSON,
            "call_id": st.just("c") | JSON,
            "name": st.just("calculate") | JSON,
            "arguments": st.just("{}") | JSON,
            "output": st.just("4") | JSON,
        },
    ),
    max_size=3,
)
OBJECTS = st.dictionaries(
    st.sampled_from(["type", "properties", "required", "items", "enum", "anyOf"]), JSON, max_size=3
)
MCP_TOOLS = st.fixed_dictionaries(
    {"type": st.just("mcp"), "server_label": st.just("desk") | JSON},
    optional={"server_url": st.just("http://127.0.0.1:9/") | JSON, "headers": JSON, "allowed_tools": JSON},
)
TOOLS = st.lists(st.builds(lambda one: TOOL | {"parameters": one}, OBJECTS) | MCP_TOOLS | JSON, max_size=2)
FORMATS = st.fixed_dictionaries({"type": st.just("json_schema"), "name": st.just("x"), "schema": OBJECTS})
BODIES = st.fixed_dictionaries(
    {"input": st.just("calculate") | ITEMS | JSON, "max_output_tokens": st.just(3) | JSON},
    optional={
        "model": st.sampled_from(["scripted-7b-instruct", "text-embedding-scripted", "none"]) | JSON,
        "tools": TOOLS | JSON,
        "text": st.fixed_dictionaries({"format": FORMATS | JSON}) | JSON,
        "stream": st.just(True) | JSON,
        **dict.fromkeys(
            ["instructions", "previous_response_id", "tool_choice", "reasoning", "temperature", "top_p", "store",
             "ttl", "preset"],
            JSON,
        ),
    },
)  # fmt: skip


def test_no_body_breaks_the_server() -> None:
    def check(body: Any, got: Answer) -> None:
        if got.status != 200:
            assert list(got.json["error"]) == ["message", "type", "param", "code"], (body, got)

    survives(PATH, BODIES, check)
