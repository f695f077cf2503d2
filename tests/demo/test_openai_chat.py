"""POST /v1/chat/completions against the samples of LM Studio's documentation and captures."""

import json
import re
from typing import Any

import pytest

from proxy.demo.script import Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import logged, post, stream
from tests.demo.openai_calls import (
    CALL,
    CALL_ID,
    CHAT,
    LLM,
    PIXEL,
    TOOL_CALL,
    VLM,
    WEATHER,
    WHOLE,
    chunk,
    deltas,
    hi,
    refusal,
    run,
)
from tests.demo.samples import same_form


def test_chat_has_the_form_of_the_documentation_and_the_engines_counts() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello there")
        got = await post(server, CHAT, hi())
        assert got.status == 200
        same_form(WHOLE, got.json, optional=("reasoning_content", "tool_calls"))
        choice = got.json["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": "Hello there"}
        assert choice["finish_reason"] == "stop"
        assert got.json["model"] == got.json["system_fingerprint"] == LLM
        call = engine.calls[0]
        assert got.json["usage"] == {
            "prompt_tokens": len(call.tokens),
            "completion_tokens": len(call.generated) + 1,  # the end token counts
            "total_tokens": len(call.tokens) + len(call.generated) + 1,
        }
        (line,) = [line for line in logged(server) if "Generated prediction: " in line]
        assert json.loads(line.partition("Generated prediction: ")[2]) == got.json

    run(test)


def test_stream_is_that_of_the_capture() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello!")
        events = await stream(server, CHAT, hi(stream=True))
        assert [name for name, _ in events] == [""] * 4
        *news, last, done = [data for _, data in events]
        for data in news:
            same_form(chunk({"role": re.compile("assistant"), "content": "Hello"}, None), data)
        assert [delta["content"] for delta in deltas(events)[:-1]] == ["Hello", "!"]
        same_form(chunk({}, "stop"), last)
        assert last["choices"][0]["delta"] == {}
        assert done == "[DONE]"
        assert len({data["id"] for data in (*news, last)}) == 1
        lines = "\n".join(logged(server))
        for words in ("Streaming response...", "First token generated.", "Finished streaming response"):
            assert words in lines

    run(test)


def test_usage_comes_only_where_it_is_asked_for() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for wanted in (True, False):
            engine.say("one two")
            options = {"stream_options": {"include_usage": wanted}}
            events = await stream(server, CHAT, hi(stream=True, **options))
            told = [data for _, data in events if "usage" in data]
            if not wanted:
                assert told == []
                continue
            assert told == [events[-2][1]]
            sample = chunk({}, None) | {"choices": [], "usage": WHOLE["usage"]}
            same_form(sample, told[0])
            assert told[0]["choices"] == []
            assert told[0]["usage"]["completion_tokens"] == len(engine.calls[-1].generated) + 1

    run(test)


@pytest.mark.parametrize(("max_tokens", "finish", "count"), [(2, "length", 2), (-1, "stop", 5), (None, "stop", 5)])
def test_max_tokens_of_minus_one_is_no_limit(max_tokens: int | None, finish: str, count: int) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for name in ("max_tokens", "max_completion_tokens"):
            engine.say("one two four five")
            got = (await post(server, CHAT, hi(**{name: max_tokens}))).json
            assert got["choices"][0]["finish_reason"] == finish
            assert got["usage"]["completion_tokens"] == count

    run(test)


def test_length_stop_may_be_told_one_less() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("one two four five")
        got = (await post(server, CHAT, hi(max_tokens=3))).json
        assert got["usage"]["completion_tokens"] == 2

    run(test, length_counts_one_less=True)


def test_stop_string_is_taken_out() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for stop in ("END", ["x", "END"]):
            engine.say("one END two")
            got = (await post(server, CHAT, hi(stop=stop))).json
            assert got["choices"][0]["message"]["content"] == "one "
            assert got["choices"][0]["finish_reason"] == "stop"

    run(test)


def test_parameters_of_the_request_reach_the_engine() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        fields = {"temperature": 0.1, "top_p": 0.2, "top_k": 3, "min_p": 0.4, "repeat_penalty": 1.5, "seed": 6}
        await post(server, CHAT, hi(**fields, presence_penalty=0.7, frequency_penalty=0.8, logit_bias={"9": -1}))
        sampling = engine.calls[0].sampling
        assert {name: getattr(sampling, name) for name in fields} == fields
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.7, 0.8)
        assert sampling.logit_bias == ((9, -1.0),)

    run(test)


def test_min_p_and_max_completion_tokens_may_be_unknown() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await post(server, CHAT, hi(min_p=0.4, max_completion_tokens=1))
        assert (engine.calls[0].sampling.min_p, engine.calls[0].sampling.max_tokens) == (0.05, None)

    run(test, min_p=False, max_completion_tokens=False)


REASONED = [Text("<think>Let me see.</think>Done.")]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("reasoning_content", {"role": "assistant", "content": "Done.", "reasoning_content": "Let me see."}),
        ("reasoning", {"role": "assistant", "content": "Done.", "reasoning": "Let me see."}),
        ("content", {"role": "assistant", "content": "<think>Let me see.</think>Done."}),
    ],
)
def test_reasoning_is_in_one_of_three_places(field: str, message: dict[str, str]) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(*REASONED)
        assert (await post(server, CHAT, hi())).json["choices"][0]["message"] == message
        engine.say(*REASONED)
        events = await stream(server, CHAT, hi(stream=True))
        joined: dict[str, str] = {}
        for delta in deltas(events)[:-1]:
            assert list(delta) in (["role", "content"], ["role", field])
            joined["role"] = delta.pop("role")
            for name, text in delta.items():
                joined[name] = joined.get(name, "") + text
        assert joined == message

    run(test, reasoning_field=field)


def test_reasoning_tokens_may_be_counted_apart() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(*REASONED)
        usage = (await post(server, CHAT, hi())).json["usage"]
        same_form({**WHOLE["usage"], "completion_tokens_details": {"reasoning_tokens": 0}}, usage)  # type: ignore[dict-item]
        assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]

    run(test, usage_details=True)


def test_tool_call_has_the_form_of_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(CALL)
        choice = (await post(server, CHAT, hi(tools=[WEATHER]))).json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        same_form({"role": "assistant", "tool_calls": [TOOL_CALL]}, choice["message"])
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"location": "Rome"}

    run(test)


def test_tool_call_streams_as_in_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(CALL + CALL)
        events = await stream(server, CHAT, hi(tools=[WEATHER], stream=True))
        *pieces, end = deltas(events)
        first = {
            "role": "assistant",
            "tool_calls": [
                {
                    "index": 0,
                    "id": CALL_ID,
                    "type": "function",
                    "function": {"name": "get_current_weather", "arguments": ""},
                }
            ],
        }
        later = {"tool_calls": [{"index": 0, "function": {"arguments": '{"location'}}]}
        arguments = {0: "", 1: ""}
        for delta in pieces:
            same_form(first if "role" in delta else later, delta)
            (call,) = delta["tool_calls"]
            if "role" in delta:
                assert call["function"]["arguments"] == ""
            arguments[call["index"]] += call["function"]["arguments"]
        assert [json.loads(text) for text in arguments.values()] == [{"location": "Rome"}] * 2
        assert len(pieces) > 6  # arguments really stream
        assert end == {}
        assert events[-2][1]["choices"][0]["finish_reason"] == "tool_calls"

    run(test)


def test_tool_choice() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        none = (await post(server, CHAT, hi(tools=[WEATHER], tool_choice="none"))).json
        assert "tools" not in engine.calls[0].prompt
        assert none["choices"][0]["finish_reason"] == "stop"
        required = (await post(server, CHAT, hi(tools=[WEATHER], tool_choice="required"))).json
        assert required["choices"][0]["finish_reason"] == "tool_calls"
        for choice, kind in (({"type": "function"}, "object"), (1, "number"), (True, "boolean"), ("any", "any")):
            assert await refusal(server, CHAT, hi(tools=[WEATHER], tool_choice=choice)) == (
                400,
                f"Invalid tool_choice type: '{kind}'. Supported string values: none, auto, required",
            )

    run(test)


def test_earlier_calls_and_their_results_reach_the_model() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for model in (LLM, VLM):  # the first was trained for tools, the other gets the tool prompt
            for arguments in ('{"location": "Rome"}', ""):
                messages = [
                    {"role": "user", "content": "weather?"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "123456789",
                                "type": "function",
                                "function": {"name": "get_current_weather", "arguments": arguments},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "123456789", "content": "sunny"},
                ]
                got = await post(server, CHAT, hi(model=model, messages=messages, tools=[WEATHER]))
                assert got.status == 200
                prompt = engine.calls[-1].prompt
                assert '"name": "get_current_weather", "arguments": {' in prompt
                assert ('{"location": "Rome"}' in prompt) is bool(arguments)
                assert "sunny" in prompt

    run(test)


def test_structured_output() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        schema = {"type": "object", "properties": {"joke": {"type": "string"}}, "required": ["joke"]}
        format_ = {"type": "json_schema", "json_schema": {"name": "joke", "strict": True, "schema": schema}}
        got = (await post(server, CHAT, hi(response_format=format_))).json
        assert list(json.loads(got["choices"][0]["message"]["content"])) == ["joke"]
        assert engine.calls[0].sampling.json_schema == schema
        assert (await post(server, CHAT, hi(response_format={"type": "text"}))).status == 200
        assert await refusal(server, CHAT, hi(response_format={"type": "json_object"})) == (
            400,
            "'response_format.type' must be 'json_schema' or 'text'",
        )

    run(test)


def test_developer_role_is_refused_or_taken_as_system() -> None:
    body = hi(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}])

    async def refused(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert await refusal(server, CHAT, body) == (
            400,
            "'messages' array must only contain objects with a 'role' field that is in [user, assistant, system, tool]."
            " Got 'developer'",
        )

    async def taken(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, CHAT, body)).status == 200
        assert "system\nBe brief." in engine.calls[0].prompt

    run(refused)
    run(taken, developer_role=True)


def test_images_go_to_models_with_eyes_only() -> None:
    def body(url: str, model: str) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": "what is it?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
        ]
        return hi(model=model, messages=[{"role": "user", "content": parts}])

    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, CHAT, body(PIXEL, VLM))).status == 200
        assert "<|image|>" in engine.calls[0].prompt
        assert (await refusal(server, CHAT, body(PIXEL, LLM)))[0] == 400
        for url in ("https://example.org/a.png", PIXEL.replace("png", "webp"), "data:image/png;base64,***", PIXEL[:-3]):
            assert await refusal(server, CHAT, body(url, VLM)) == (400, "'url' field must be a base64 encoded image.")

    async def webp(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, CHAT, body(PIXEL.replace("png", "webp"), VLM))).status == 200

    run(test)
    run(webp, webp_images=True)


def test_draft_model_that_is_not_there_is_refused() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        status, message = await refusal(server, CHAT, hi(draft_model="small"))
        assert status == 400
        assert 'Draft model "small" cannot be used' in message

    run(test)
