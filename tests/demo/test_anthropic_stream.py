"""Streams of POST /v1/messages: events, blocks, switches, failures, and a client that leaves."""

import asyncio

import aiohttp

from proxy.demo.script import Burst, Fail, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.virtual_clock import VirtualClock
from tests.demo.anthropic_samples import CALL, EVENTS, HI, PATH, TOOL, ask, saying
from tests.demo.lookalikes import post, running, stream, until
from tests.demo.samples import same_form


def test_the_documented_events_are_reproduced_in_form() -> None:
    async def main() -> None:
        engine = saying(["Hello to you"])
        async with running(engine) as server:
            events = await stream(server, f"{PATH}?beta=true", HI | {"stream": True})
        assert list(dict.fromkeys(name for name, _ in events)) == list(EVENTS)
        for name, data in events:
            same_form(EVENTS[name], data)
        text = "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta")
        assert text == "Hello to you"
        assert events[0][1]["message"]["usage"] == {"input_tokens": len(engine.calls[0].tokens), "output_tokens": 0}
        assert events[-2][1]["usage"]["output_tokens"] == len(engine.calls[0].generated) + 1

    asyncio.run(main())


def test_blocks_of_every_kind_stream() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm hm.</think>I look.", CALL])) as server:
            events = await stream(server, PATH, HI | {"tools": [TOOL], "stream": True})
        kinds = [data["content_block"]["type"] for name, data in events if name == "content_block_start"]
        assert kinds == ["thinking", "text", "tool_use"]
        deltas = [(data["index"], data["delta"]) for name, data in events if name == "content_block_delta"]
        assert list(dict.fromkeys(delta["type"] for _, delta in deltas)) == [
            "thinking_delta",
            "signature_delta",
            "text_delta",
            "input_json_delta",
        ]
        assert "".join(delta["partial_json"] for at, delta in deltas if at == 2) == '{"city": "Bern"}'
        assert "".join(delta.get("thinking", "") for at, delta in deltas if at == 0) == "Hm hm."
        assert [data["index"] for name, data in events if name == "content_block_stop"] == [0, 1, 2]
        assert events[-2][1]["delta"]["stop_reason"] == "tool_use"

    asyncio.run(main())


def test_what_turns_out_to_be_no_call_is_text() -> None:
    async def main() -> None:
        broken = [Burst('[TOOL_REQUEST]{"name": "get_weather", "arguments": {"city":[END_TOOL_REQUEST]')]
        async with running(saying(broken, broken)) as server:
            whole = await ask(server, tools=[TOOL])
            assert [block["type"] for block in whole["content"]] == ["text"]
            assert whole["stop_reason"] == "end_turn"
            events = await stream(server, PATH, HI | {"tools": [TOOL], "stream": True})
            kinds = [data["content_block"]["type"] for name, data in events if name == "content_block_start"]
            assert kinds == ["tool_use", "text"]

    asyncio.run(main())


def test_switches_of_the_stream() -> None:
    async def main() -> None:
        async with running(anthropic_ping=True, anthropic_input_tokens="delta", head_at_first_token=True) as server:
            events = await stream(server, PATH, HI | {"stream": True})
        names = [name for name, _ in events]
        assert names[:3] == ["message_start", "content_block_start", "ping"]
        assert events[0][1]["message"]["usage"]["input_tokens"] == 0
        assert list(events[-2][1]["usage"]) == ["input_tokens", "output_tokens"]
        assert events[-2][1]["usage"]["input_tokens"] > 0

    asyncio.run(main())


def test_a_failure_in_the_middle_is_an_error_event() -> None:
    async def main() -> None:
        async with running(saying(["one two", Fail("The model has crashed.")])) as server:
            events = await stream(server, PATH, HI | {"stream": True})
        error = {"type": "invalid_request_error", "message": "The model has crashed."}
        assert events[-1] == ("error", {"type": "error", "error": error})
        assert "message_stop" not in [name for name, _ in events]

    asyncio.run(main())


def test_overflow_is_an_event_a_status_or_silence() -> None:
    async def main() -> None:
        body = {"max_tokens": 5, "messages": [{"role": "user", "content": "word " * 200}], "stream": True}
        for switch in ("event", "status", "silent"):
            async with running(context_length=64, overflow_in_stream=switch) as server:
                got = await post(server, PATH, body)
                if switch == "status":
                    assert got.status == 400
                    assert got.json["error"]["message"].startswith("Input does not fit in context length.")
                elif switch == "silent":
                    assert (got.status, got.raw) == (200, b"")
                else:
                    assert [name for name, _ in got.events] == ["error"]

    asyncio.run(main())


def test_a_client_that_leaves_stops_the_model() -> None:
    async def main() -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Text("word " * 500, delay_s=0.02))
        async with running(engine) as server:
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.url + PATH, json=HI | {"stream": True, "max_tokens": 900}) as response,
            ):
                async for line in response.content:
                    if b"text_delta" in line:
                        break
                response.close()
            await until(lambda: engine.calls[0].ended == "closed")
            assert len(engine.calls[0].generated) < 500

    asyncio.run(main())
