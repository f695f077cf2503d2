"""Anthropic's own Python client, unmodified, against POST /v1/messages."""

import asyncio
from typing import Any

import anthropic
import pytest

from proxy.demo.server import LookalikeServer
from tests.demo.anthropic_samples import CALL, TOOL, saying
from tests.demo.lookalikes import running

MODEL = "scripted-7b-instruct"
SAID: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [TOOL]


def client_of(server: LookalikeServer) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="lm-studio", max_retries=0)


def test_anthropics_client_reads_a_whole_answer() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm.</think>Hello"])) as server, client_of(server) as sdk:
            got = await sdk.messages.create(model=MODEL, max_tokens=50, messages=SAID)
            assert [block.type for block in got.content] == ["thinking", "text"]
            assert (got.content[-1].to_dict()["text"], got.stop_reason) == ("Hello", "end_turn")
            assert got.usage.input_tokens > 0
            with pytest.raises(anthropic.NotFoundError):
                await sdk.messages.create(model="none", max_tokens=50, messages=SAID)

    asyncio.run(main())


def test_anthropics_client_follows_a_stream() -> None:
    async def main() -> None:
        engine = saying(["<think>Hm hm.</think>Hello to you"])
        async with running(engine, anthropic_ping=True) as server, client_of(server) as sdk:
            async with sdk.messages.stream(model=MODEL, max_tokens=50, messages=SAID) as events:
                text = "".join([piece async for piece in events.text_stream])
                final = await events.get_final_message()
            assert text == "Hello to you"
            thinking = final.content[0]
            assert thinking.type == "thinking"
            assert (thinking.thinking, bool(thinking.signature)) == ("Hm hm.", True)
            assert final.usage.output_tokens == len(engine.calls[0].generated) + 1

    asyncio.run(main())


def test_anthropics_client_uses_a_tool_by_its_beta_calls() -> None:
    """As Claude Code does: `?beta=true`, a stream, the tool's result in the next request."""

    async def main() -> None:
        engine = saying([CALL], ["Sunny, then."])
        async with running(engine) as server, client_of(server) as sdk:
            async with sdk.beta.messages.stream(model=MODEL, max_tokens=90, messages=SAID, tools=TOOLS) as events:
                final = await events.get_final_message()
            (use,) = final.content
            assert use.type == "tool_use"
            assert (use.name, use.input, final.stop_reason) == ("get_weather", {"city": "Bern"}, "tool_use")
            result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}
            messages: Any = [
                *SAID,
                {"role": "assistant", "content": final.content},
                {"role": "user", "content": [result]},
            ]
            got = await sdk.messages.create(model=MODEL, max_tokens=50, messages=messages, tools=TOOLS)
            assert got.content[0].to_dict()["text"] == "Sunny, then."
            assert "Sunny" in engine.calls[1].prompt

    asyncio.run(main())
