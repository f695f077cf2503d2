"""POST /v1/responses over real sockets: whole answers, input, state, and a real model."""

import asyncio
import json
from pathlib import Path

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.scripted_engine import ScriptedEngine
from tests.demo.lookalikes import post, running, stream
from tests.demo.responses_samples import (
    CALL,
    CALL_ITEM,
    MESSAGE_ITEM,
    PATH,
    REASONING_ITEM,
    TOOL,
    ask,
    sample,
    saying,
    text_of,
)
from tests.demo.samples import same_form


def test_the_documented_function_call_is_reproduced_in_form() -> None:
    async def main() -> None:
        async with running(saying([CALL])) as server:
            got = await ask(server, input="What is 2 + 2?", tools=[TOOL])
            same_form(sample(CALL_ITEM), got)
            (item,) = got["output"]
            assert (item["name"], item["arguments"]) == ("calculate", '{"expression":"2 + 2"}')

    asyncio.run(main())


def test_text_and_reasoning_are_items_of_their_own() -> None:
    async def main() -> None:
        async with running(saying(["<think>Hm.</think>2 + 2 = 4"])) as server:
            got = await ask(server, input="What is 2 + 2?")
            same_form(sample(REASONING_ITEM, MESSAGE_ITEM), got)
            assert [item["type"] for item in got["output"]] == ["reasoning", "message"]
            assert got["output"][0]["content"][0]["text"] == "Hm."
            assert text_of(got) == "2 + 2 = 4"
            assert 0 < got["usage"]["output_tokens_details"]["reasoning_tokens"] < got["usage"]["output_tokens"]

    asyncio.run(main())


def test_usage_is_the_engines_own() -> None:
    async def main() -> None:
        engine = saying(["one two three"])
        async with running(engine) as server:
            usage = (await ask(server, input="Count"))["usage"]
            (call,) = engine.calls
            assert usage["input_tokens"] == len(call.tokens)
            assert usage["output_tokens"] == len(call.generated) + 1  # the end token counts

    asyncio.run(main())


def test_a_length_stop_is_incomplete() -> None:
    async def main() -> None:
        async with running(saying(["one two three four"])) as server:
            got = await ask(server, input="Count", max_output_tokens=2)
            assert got["status"] == "incomplete"
            assert got["incomplete_details"] == {"reason": "max_output_tokens"}
            assert got["output"][-1]["status"] == "incomplete"
            assert got["usage"]["output_tokens"] == 2

    asyncio.run(main())


def test_codex_loads_a_model_with_an_empty_input() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        async with running(engine) as server:
            assert not engine.loaded
            got = await ask(server, model="scripted-7b-instruct", input="", max_output_tokens=1)
            assert got["usage"]["output_tokens"] == 1
            assert [one.model.key for one in engine.loaded] == ["scripted-7b-instruct"]

    asyncio.run(main())


def test_parameters_reach_the_engine() -> None:
    async def main() -> None:
        engine = saying(["yes"])
        async with running(engine) as server:
            await ask(server, input="x", temperature=0.25, top_p=0.5, max_output_tokens=7)
            sampling = engine.calls[0].sampling
            assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.25, 0.5, 7)

    asyncio.run(main())


def test_a_schema_constrains_the_text() -> None:
    async def main() -> None:
        schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
        async with running() as server:
            form = {"type": "json_schema", "name": "answer", "strict": True, "schema": schema}
            got = await ask(server, input="Is it?", text={"format": form})
            assert set(json.loads(text_of(got))) == {"yes"}
        async with running(version="0.3.39") as server:  # R: tracker#1396, it was not heeded then
            assert "You said: Is it?" in text_of(await ask(server, input="Is it?", text={"format": form}))

    asyncio.run(main())


def test_items_become_messages_of_the_prompt() -> None:
    async def main() -> None:
        engine = saying(["fine"])
        items = [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"role": "user", "content": "What is 2 + 2?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": []},
            {"type": "function_call", "call_id": "call_1", "name": "calculate", "arguments": '{"expression": "2+2"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "four"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Four."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Sure"}, {"type": "input_text", "text": "?"}]},
        ]
        async with running(engine) as server:
            await ask(server, instructions="You calculate.", input=items, tools=[TOOL])
        prompt = engine.calls[0].prompt
        wanted = ["You calculate.", "Be brief.", "What is 2 + 2?", "2+2", "four", "Four.", "Sure?"]
        places = [prompt.index(text) for text in wanted]
        assert places == sorted(places)

    asyncio.run(main())


def test_images_go_to_models_that_see_and_to_no_other() -> None:
    async def main() -> None:
        part = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
        items = [{"role": "user", "content": [{"type": "input_text", "text": "What is it?"}, part]}]
        engine = ScriptedEngine()
        async with running(engine) as server:
            await ask(server, model="scripted-vl-2b", input=items)
            assert "<|image|>" in engine.calls[0].prompt
            blind = await post(server, PATH, {"model": "scripted-7b-instruct", "input": items})
            assert (blind.status, blind.json["error"]["param"]) == (400, "input")
            part["image_url"] = "https://example.invalid/a.png"
            far = await post(server, PATH, {"model": "scripted-vl-2b", "input": items})
            assert far.json["error"]["message"] == "'url' field must be a base64 encoded image."

    asyncio.run(main())


def test_an_answer_is_built_on_by_its_id() -> None:
    async def main() -> None:
        engine = saying(["I am Ann."], ["You asked for my name."])
        async with running(engine) as server:
            first = await ask(server, input="Who are you?", instructions="Be Ann.")
            second = await ask(server, input="What did I ask?", previous_response_id=first["id"])
            assert second["previous_response_id"] == first["id"] != second["id"]
        prompt = engine.calls[1].prompt
        assert prompt.index("Who are you?") < prompt.index("I am Ann.") < prompt.index("What did I ask?")
        assert "Be Ann." not in prompt

    asyncio.run(main())


def test_a_streamed_answer_is_built_on_too_and_a_tools_result_finds_its_call() -> None:
    async def main() -> None:
        engine = saying([CALL], ["It is four."])
        async with running(engine) as server:
            events = await stream(server, PATH, {"input": "2 + 2?", "tools": [TOOL], "stream": True})
            response = events[-1][1]["response"]
            output = {"type": "function_call_output", "call_id": response["output"][0]["call_id"], "output": "4!"}
            got = await ask(server, input=[output], previous_response_id=response["id"], tools=[TOOL])
            assert text_of(got) == "It is four."
        prompt = engine.calls[1].prompt
        assert prompt.index("2 + 2?") < prompt.rindex("2 + 2") < prompt.index("4!")

    asyncio.run(main())


def test_what_is_not_stored_cannot_be_built_on() -> None:
    async def main() -> None:
        async with running() as server:
            first = await ask(server, input="hi", store=False)
            got = await post(server, PATH, {"input": "again", "previous_response_id": first["id"]})
            assert got.status == 404
            assert got.json["error"]["code"] == "previous_response_not_found"
            assert got.json["error"]["param"] == "previous_response_id"

    asyncio.run(main())


def test_a_real_models_text_and_counts(smollm2: Path, tmp_path: Path) -> None:
    async def main() -> None:
        engine = LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path)
        async with running(engine) as server:
            body = {"model": "smollm2-135m-instruct", "input": "Say hi", "temperature": 0, "max_output_tokens": 12}
            whole = await ask(server, **body)
            events = await stream(server, PATH, body | {"stream": True})
            streamed = events[-1][1]["response"]
            assert text_of(whole) == text_of(streamed) != ""
            deltas = [data["delta"] for name, data in events if name == "response.output_text.delta"]
            assert "".join(deltas) == text_of(whole)
            (instance,) = server.look.catalog.instances
            prompt = await instance.loaded.render([{"role": "user", "content": "Say hi"}])
            assert whole["usage"]["input_tokens"] == len(await instance.loaded.tokenize(prompt))
            tokens = len(await instance.loaded.tokenize(text_of(whole)))
            assert whole["usage"]["output_tokens"] in (tokens, tokens + 1)  # the end token counts

    asyncio.run(main())
