"""Who is let in to POST /v1/messages, what it refuses, and that no body breaks it."""

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st

from proxy.demo.scripted_engine import ScriptedEngine
from tests.demo.anthropic_samples import HI, PATH, TOOL, ask
from tests.demo.lookalikes import Answer, post, running
from tests.demo.odd_bodies import JSON, survives


def test_the_token_comes_in_either_header() -> None:
    async def main() -> None:
        token = "sk-lm-demo0001:abcdefghij0123456789"
        async with running(auth=True) as server:
            for headers in ({"x-api-key": token}, {"Authorization": f"Bearer {token}"}):
                assert (await post(server, f"{PATH}?beta=true", HI, headers=headers)).status == 200
            refused = await post(server, PATH, HI)
            assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_api_key")

    asyncio.run(main())


def test_counting_tokens_is_an_unknown_route() -> None:
    async def main() -> None:
        async with running() as server:
            got = await post(server, f"{PATH}/count_tokens?beta=true", HI)
            assert got.status == 200
            assert got.json["error"].startswith("Unexpected endpoint or method. (POST /v1/messages/count_tokens")
        async with running(version="0.4.0") as server:
            got = await post(server, PATH, HI)
            assert got.json == {"error": "Unexpected endpoint or method. (POST /v1/messages)"}

    asyncio.run(main())


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": None}, "messages: Field required"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages.0.role: Input should be"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.input_schema: Field required"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: there is no such tool"),
        ({"temperature": "hot"}, "'temperature' must be a number"),
    ],
)
def test_refusals(members: dict[str, Any], words: str) -> None:
    async def main() -> None:
        async with running() as server:
            got = await post(server, PATH, HI | members)
            assert got.status == 400
            assert list(got.json) == ["type", "error"]
            assert got.json["error"]["type"] == "invalid_request_error"
            assert got.json["error"]["message"].startswith(words)

    asyncio.run(main())


def test_the_system_role_by_its_switch_and_a_model_that_is_not_there() -> None:
    async def main() -> None:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
        engine = ScriptedEngine()
        async with running(engine, anthropic_system_role=True) as server:
            await ask(server, messages=messages)
            assert "Be brief." in engine.calls[0].prompt
            got = await post(server, PATH, HI | {"model": "none"})
            assert (got.status, got.json["error"]["type"]) == (404, "not_found_error")

    asyncio.run(main())


BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking"]) | JSON},
        optional={
            "text": st.text(max_size=5) | JSON,
            "source": JSON,
            "id": st.just("t") | JSON,
            "tool_use_id": st.just("t") | JSON,
            "name": st.just("get_weather") | JSON,
            "input": st.just({}) | JSON,
            "content": st.text(max_size=5) | JSON,
        },
    ),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]) | JSON, "content": st.text(max_size=5) | BLOCKS | JSON}
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"messages": MESSAGES | JSON, "max_tokens": st.just(3) | JSON},
    optional={
        "model": st.sampled_from(["scripted-7b-instruct", "text-embedding-scripted"]) | JSON,
        "tools": st.lists(st.just(TOOL) | JSON, max_size=2) | JSON,
        "stream": st.just(True) | JSON,
        **dict.fromkeys(
            ["system", "tool_choice", "thinking", "temperature", "top_p", "top_k", "stop_sequences", "metadata"], JSON
        ),
    },
)


def test_no_body_breaks_the_server() -> None:
    def check(body: Any, got: Answer) -> None:
        if got.status != 200:
            assert list(got.json["error"]) == ["type", "message"], (body, got)

    survives(PATH, BODIES, check)
