"""POST /v1/messages over real sockets: whole answers, what the model is told, and a real model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.script import End
from proxy.demo.scripted_engine import ScriptedEngine
from tests.demo.anthropic_samples import CALL, HI, PATH, TOOL, WHOLE, ask, saying
from tests.demo.lookalikes import post, running, stream
from tests.demo.samples import same_form


def test_the_documented_answer_is_reproduced_in_form() -> None:
    async def main() -> None:
        engine = saying(["Hello from the script."])
        async with running(engine) as server:
            got = await ask(server)
            same_form(WHOLE, got)
            assert got["content"][0]["text"] == "Hello from the script."
            assert got["stop_reason"] == "end_turn"
            (call,) = engine.calls
            assert got["usage"] == {"input_tokens": len(call.tokens), "output_tokens": len(call.generated) + 1}

    asyncio.run(main())


def test_stop_reasons() -> None:
    async def main() -> None:
        engine = saying(["one two three"], ["one two STOP three"], [CALL], ["one", End("context")])
        async with running(engine) as server:
            cut = await ask(server, max_tokens=2)
            assert (cut["stop_reason"], cut["stop_sequence"]) == ("max_tokens", None)
            stopped = await ask(server, stop_sequences=["STOP", "END"])
            assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "STOP")
            assert stopped["content"][0]["text"] == "one two "
            assert (await ask(server, tools=[TOOL]))["stop_reason"] == "tool_use"
            assert (await ask(server))["stop_reason"] == "max_tokens"

    asyncio.run(main())


def test_reasoning_is_a_thinking_block_with_a_signature() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm.</think>Hi"])) as server:
            thinking, text = (await ask(server))["content"]
            assert list(thinking) == ["type", "thinking", "signature"]
            assert (thinking["thinking"], text) == ("Hm.", {"type": "text", "text": "Hi"})
            assert thinking["signature"]

    asyncio.run(main())


def test_reasoning_may_be_left_out_unless_it_is_asked_for() -> None:
    async def main() -> None:
        engine = saying(["<think>Hm.</think>Hi"], ["<think>Hm.</think>Hi"])
        async with running(engine, anthropic_thinking="asked") as server:
            assert [block["type"] for block in (await ask(server))["content"]] == ["text"]
            asked = await ask(server, thinking={"type": "enabled", "budget_tokens": 1024})
            assert [block["type"] for block in asked["content"]] == ["thinking", "text"]

    asyncio.run(main())


def test_parameters_reach_the_engine() -> None:
    async def main() -> None:
        engine = saying(["yes"])
        async with running(engine) as server:
            await ask(server, temperature=0.25, top_p=0.5, top_k=7, max_tokens=9, stop_sequences=["X"])
        sampling = engine.calls[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
        assert (sampling.max_tokens, sampling.stop) == (9, ("X",))

    asyncio.run(main())


async def prompt_of(**members: Any) -> str:
    """What the model is told for such a request."""
    engine = saying(["fine"])
    async with running(engine) as server:
        await ask(server, **members)
    return engine.calls[0].prompt


def test_system_is_a_string_or_blocks() -> None:
    assert "Be brief." in asyncio.run(prompt_of(system="Be brief."))
    blocks = [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Now."},
    ]
    assert "Be brief.\n\nNow." in asyncio.run(prompt_of(system=blocks))


def test_tool_use_and_its_result_come_in_order() -> None:
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "secret thought", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny"}]},
                {"type": "text", "text": "And tomorrow?"},
            ],
        },
    ]
    prompt = asyncio.run(prompt_of(messages=messages, tools=[TOOL]))
    places = [prompt.index(text) for text in ("Weather?", "I look.", "Bern", "Sunny", "And tomorrow?")]
    assert places == sorted(places)
    assert "secret thought" not in prompt


def test_images_go_to_models_that_see_and_to_no_other() -> None:
    async def main() -> None:
        source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        body = HI | {"messages": [{"role": "user", "content": content}]}
        engine = ScriptedEngine()
        async with running(engine) as server:
            assert (await post(server, PATH, body | {"model": "scripted-vl-2b"})).status == 200
            assert "<|image|>" in engine.calls[0].prompt
            assert (await post(server, PATH, body | {"model": "scripted-7b-instruct"})).status == 400

    asyncio.run(main())


@pytest.mark.parametrize(
    ("choice", "calls"),
    [({"type": "any"}, True), ({"type": "tool", "name": "get_weather"}, True), ({"type": "none"}, False)],
)
def test_tool_choice(choice: Any, calls: bool) -> None:
    async def main() -> None:
        async with running() as server:
            got = await ask(server, tools=[TOOL], tool_choice=choice)
            assert (got["stop_reason"] == "tool_use") == calls
            if calls:
                block = got["content"][-1]
                assert list(block) == ["type", "id", "name", "input"]
                assert (block["name"], list(block["input"])) == ("get_weather", ["city"])

    asyncio.run(main())


def test_a_real_models_text_and_counts(smollm2: Path, tmp_path: Path) -> None:
    async def main() -> None:
        engine = LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path)
        async with running(engine) as server:
            body = {"messages": [{"role": "user", "content": "Say hi"}], "temperature": 0, "max_tokens": 12}
            whole = await ask(server, **body)
            events = await stream(server, PATH, body | {"stream": True})
            deltas = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
            assert "".join(deltas) == whole["content"][0]["text"] != ""
            (instance,) = server.look.catalog.instances
            prompt = await instance.loaded.render([{"role": "user", "content": "Say hi"}])
            assert whole["usage"]["input_tokens"] == len(await instance.loaded.tokenize(prompt))
            tokens = len(await instance.loaded.tokenize(whole["content"][0]["text"]))
            assert whole["usage"]["output_tokens"] in (tokens, tokens + 1)  # the end token counts

    asyncio.run(main())
