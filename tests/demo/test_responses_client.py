"""OpenAI's own Python client, unmodified, against POST /v1/responses."""

import asyncio
import json
from typing import Any

import openai
import pytest

from proxy.demo.script import Text
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import running
from tests.demo.responses_samples import (
    CALL,
    TOOL,
    saying,
)


def client_of(server: LookalikeServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="lm-studio", max_retries=0)


def test_openais_client_reads_a_whole_answer_and_goes_on() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm.</think>I am Ann."], ["Ann!"])) as server, client_of(server) as sdk:
            first = await sdk.responses.create(model="scripted-7b-instruct", input="Who are you?")
            assert first.output_text == "I am Ann."
            assert first.usage
            assert first.usage.output_tokens_details.reasoning_tokens > 0
            second = await sdk.responses.create(
                model="scripted-7b-instruct", input="Who?", previous_response_id=first.id
            )
            assert second.output_text == "Ann!"
            with pytest.raises(openai.NotFoundError) as caught:
                await sdk.responses.create(model="scripted-7b-instruct", input="?", previous_response_id="resp_0")
            assert caught.value.code == "previous_response_not_found"

    asyncio.run(main())


def test_openais_client_follows_a_stream() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm hm.</think>Hello to you"])) as server, client_of(server) as sdk:
            async with sdk.responses.stream(model="scripted-7b-instruct", input="hi") as events:
                text = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
                final = await events.get_final_response()
            assert text == final.output_text == "Hello to you"
            assert [item.type for item in final.output] == ["reasoning", "message"]

    asyncio.run(main())


def test_openais_client_calls_a_function() -> None:
    async def main() -> None:
        async with running(saying([Text(CALL.text)], ["Four."])) as server, client_of(server) as sdk:
            tools: Any = [TOOL]
            async with sdk.responses.stream(model="scripted-7b-instruct", input="2 + 2?", tools=tools) as events:
                async for _ in events:
                    pass
                final = await events.get_final_response()
            call = final.output[0]
            assert call.type == "function_call"
            assert json.loads(call.arguments) == {"expression": "2 + 2"}
            result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
            answer = await sdk.responses.create(
                model="scripted-7b-instruct", input=[result], previous_response_id=final.id, tools=tools
            )
            assert answer.output_text == "Four."

    asyncio.run(main())
