"""Streams of POST /v1/responses: order, numbers, failures, and a client that leaves."""

import asyncio

import aiohttp
import pytest

from proxy.demo.script import Burst, End, Fail, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.virtual_clock import VirtualClock
from tests.demo.lookalikes import post, running, stream, until
from tests.demo.responses_samples import (
    CALL,
    CALL_ITEM,
    DELTA,
    MESSAGE_ITEM,
    PATH,
    TOOL,
    sample,
    saying,
    text_of,
)
from tests.demo.samples import same_form


def test_the_documented_delta_is_reproduced_in_form() -> None:
    async def main() -> None:
        async with running(saying(["Hi there"])) as server:
            events = await stream(server, PATH, {"input": "hi", "stream": True})
            deltas = [data for name, data in events if name == "response.output_text.delta"]
            for delta in deltas:
                same_form(DELTA, delta)
            assert "".join(delta["delta"] for delta in deltas) == "Hi there"
            same_form(sample(MESSAGE_ITEM), events[-1][1]["response"])

    asyncio.run(main())


def test_events_come_in_openais_order_and_are_numbered() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm.</think>Hi"])) as server:
            events = await stream(server, PATH, {"input": "hi", "stream": True})
        names = [name for name, _ in events]
        assert list(dict.fromkeys(names)) == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_text.delta",
            "response.output_text.done",
            "response.completed",
        ]
        assert names[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        assert all(data["type"] == name for name, data in events)
        assert {data["output_index"] for name, data in events if name == "response.output_text.delta"} == {1}

    asyncio.run(main())


def test_a_function_call_streams_its_arguments() -> None:
    async def main() -> None:
        async with running(saying([Text(CALL.text)])) as server:
            events = await stream(server, PATH, {"input": "2 + 2?", "tools": [TOOL], "stream": True})
        pieces = [data["delta"] for name, data in events if name == "response.function_call_arguments.delta"]
        assert len(pieces) > 1
        (done,) = [data for name, data in events if name == "response.function_call_arguments.done"]
        assert "".join(pieces) == done["arguments"] == '{"expression":"2 + 2"}'
        (added,) = [data["item"] for name, data in events if name == "response.output_item.added"]
        assert (added["arguments"], added["status"]) == ("", "in_progress")
        same_form(CALL_ITEM, events[-1][1]["response"]["output"][0])

    asyncio.run(main())


def test_what_turns_out_to_be_no_call_is_text() -> None:
    async def main() -> None:
        broken = Burst('[TOOL_REQUEST]{"name": "calculate", "arguments": {"expression":[END_TOOL_REQUEST]')
        async with running(saying([broken])) as server:
            events = await stream(server, PATH, {"input": "2 + 2?", "tools": [TOOL], "stream": True})
        response = events[-1][1]["response"]
        assert [(item["type"], item["status"]) for item in response["output"]] == [
            ("function_call", "incomplete"),
            ("message", "completed"),
        ]
        assert '{"expression":' in text_of(response)

    asyncio.run(main())


@pytest.mark.parametrize("switch", ["failed", "error"])
def test_a_failure_in_the_middle_ends_the_stream(switch: str) -> None:
    async def main() -> None:
        async with running(saying(["one two", Fail("The model has crashed.")]), responses_failure=switch) as server:
            events = await stream(server, PATH, {"input": "Count", "stream": True})
            name, last = events[-1]
            if switch == "error":
                assert (name, last["message"]) == ("error", "The model has crashed.")
            else:
                assert (name, last["response"]["status"]) == ("response.failed", "failed")
                assert last["response"]["error"]["message"] == "The model has crashed."
            assert last["sequence_number"] == len(events) - 1
            assert not server.look.chats

    asyncio.run(main())


def test_a_failure_of_a_whole_answer_is_an_error() -> None:
    async def main() -> None:
        async with running(saying(["one", Fail("The model has crashed.")])) as server:
            got = await post(server, PATH, {"input": "Count"})
            assert got.status == 400
            assert got.json["error"]["message"] == "The model has crashed."

    asyncio.run(main())


def test_overflow_is_an_event_a_status_or_silence() -> None:
    async def main() -> None:
        body = {"input": "word " * 200, "stream": True}
        for switch in ("event", "status", "silent"):
            async with running(context_length=64, overflow_in_stream=switch) as server:
                got = await post(server, PATH, body)
                if switch == "status":
                    assert got.status == 400
                    assert got.json["error"]["message"].startswith("Input does not fit in context length.")
                elif switch == "silent":
                    assert (got.status, got.raw) == (200, b"")
                else:
                    assert [name for name, _ in got.events] == ["response.created", "response.failed"]
                    assert got.events[-1][1]["response"]["error"]["code"] == "context_length_exceeded"
                assert (await post(server, PATH, {"input": "word " * 200})).status == 400

    asyncio.run(main())


def test_done_after_responses_and_reasoning_only_at_its_end() -> None:
    async def main() -> None:
        engine = saying(["<think>Hm hm.</think>Hi"])
        async with running(engine, done_after_responses=True, responses_reasoning="done") as server:
            events = await stream(server, PATH, {"input": "hi", "stream": True})
        assert events[-1] == ("", "[DONE]")
        about = [
            data for name, data in events if "reasoning" in name or (data != "[DONE]" and data.get("output_index") == 0)
        ]
        assert [(one["type"], one["text"]) for one in about] == [("response.reasoning_text.done", "Hm hm.")]
        assert [data["sequence_number"] for _, data in events[:-1]] == list(range(len(events) - 1))

    asyncio.run(main())


def test_the_head_may_wait_for_the_first_token_and_an_empty_answer_ends() -> None:
    async def main() -> None:
        for switch in (False, True):
            async with running(saying([End()]), head_at_first_token=switch) as server:
                events = await stream(server, PATH, {"input": "hi", "stream": True})
                names = [name for name, _ in events]
                assert names == ["response.created", "response.in_progress", "response.completed"]
                assert events[-1][1]["response"]["output"] == []

    asyncio.run(main())


def test_a_client_that_leaves_stops_the_model() -> None:
    async def main() -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Text("word " * 500, delay_s=0.02))
        async with running(engine) as server:
            async with (
                aiohttp.ClientSession() as session,
                session.post(server.url + PATH, json={"input": "go on", "stream": True}) as response,
            ):
                async for line in response.content:
                    if b"output_text.delta" in line:
                        break
                response.close()
            await until(lambda: engine.calls[0].ended == "closed")
            assert len(engine.calls[0].generated) < 500
            assert not server.look.chats

    asyncio.run(main())
