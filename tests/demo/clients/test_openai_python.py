"""`openai` for Python, unmodified, against /v1."""

import json
from typing import Any

import openai
import pytest

from tests.demo.clients.conftest import ODD_MODEL
from tests.demo.clients.stage import Stage

pytestmark = pytest.mark.through_proxy

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]},
    },
}


def _sdk(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="lm-studio", max_retries=0)


def _said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_lists_models(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            listed = sdk.models.list()
            return [listed.model_dump(), sdk.models.retrieve(stage.llm).model_dump()]

    listed, one = stage.both_ways(scenario)
    assert {stage.llm, stage.embedder} <= {model["id"] for model in listed["data"]}
    assert one["id"] == stage.llm


def test_completes_a_chat(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            return sdk.chat.completions.create(
                model=stage.llm, messages=_said("Say hello."), temperature=0, max_tokens=24
            ).model_dump()

    answer = stage.both_ways(scenario)
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("asks_for_usage", [True, False])
def test_streams_a_chat(stage: Stage, asks_for_usage: bool) -> None:
    def scenario(url: str) -> Any:
        options: Any = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
        with _sdk(url) as sdk:
            stream = sdk.chat.completions.create(
                model=stage.llm, messages=_said("Say hello."), temperature=0, max_tokens=24, stream=True, **options
            )
            return [chunk.model_dump() for chunk in stream]

    chunks = stage.both_ways(scenario)
    assert "".join(one["delta"]["content"] or "" for chunk in chunks for one in chunk["choices"])
    assert [bool(chunk.get("usage")) for chunk in chunks].count(True) == asks_for_usage


def test_calls_a_tool_and_hears_of_its_result(scripted_stage: Stage) -> None:
    stage = scripted_stage

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            asked = _said("Please get_weather for me.")
            first = sdk.chat.completions.create(model=stage.llm, messages=asked, tools=[WEATHER])
            message = first.choices[0].message
            assert message.tool_calls
            result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains."}
            history: Any = [*asked, message.model_dump(exclude_none=True), result]
            second = sdk.chat.completions.create(model=stage.llm, messages=history, tools=[WEATHER])
            streamed = sdk.chat.completions.create(model=stage.llm, messages=asked, tools=[WEATHER], stream=True)
            return [first.model_dump(), second.model_dump(), [chunk.model_dump() for chunk in streamed]]

    first, second, chunks = stage.both_ways(scenario)
    assert first["choices"][0]["finish_reason"] == "tool_calls"
    assert first["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert "It rains." in second["choices"][0]["message"]["content"]
    pieces = [call for chunk in chunks for one in chunk["choices"] for call in one["delta"]["tool_calls"] or ()]
    assert pieces[0]["function"]["name"] == "get_weather"
    assert "city" in json.loads("".join(piece["function"]["arguments"] or "" for piece in pieces))


def test_gets_what_a_schema_asks_for(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            answer = sdk.chat.completions.create(
                model=stage.llm,
                messages=_said("Is water wet?"),
                response_format=SCHEMA,
                temperature=0,
                max_tokens=64,
            )
            return answer.choices[0].message.content

    assert '"yes"' in stage.both_ways(scenario)


def test_completes_text(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        asked: Any = {"model": stage.llm, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 8}
        with _sdk(url) as sdk:
            whole = sdk.completions.create(**asked)
            return [whole.model_dump(), [chunk.model_dump() for chunk in sdk.completions.create(**asked, stream=True)]]

    whole, chunks = stage.both_ways(scenario)
    assert whole["choices"][0]["text"] == "".join(one["text"] for chunk in chunks for one in chunk["choices"])


def test_embeds_texts(stage: Stage) -> None:
    """The SDK asks for base64 by itself, and takes either."""

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            return sdk.embeddings.create(model=stage.embedder, input=["first", "second"]).model_dump()

    rows = stage.both_ways(scenario)["data"]
    assert [row["index"] for row in rows] == [0, 1]
    assert all(isinstance(number, float) for row in rows for number in row["embedding"])
    assert rows[0]["embedding"] != rows[1]["embedding"]


def test_carries_a_conversation_over_responses(stage: Stage) -> None:
    """The server keeps the chat: the second answer knows of the first."""

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            asked: Any = {"model": stage.llm, "temperature": 0, "max_output_tokens": 16}
            first = sdk.responses.create(input="Say hello.", **asked)
            second = sdk.responses.create(input="And again.", previous_response_id=first.id, stream=True, **asked)
            events = [event.model_dump() for event in second]
            return [first.model_dump(), events]

    first, events = stage.both_ways(scenario)
    assert first["output"]
    assert events[0]["type"] == "response.created"
    ended = events[-1]["response"]
    assert ended["previous_response_id"] == first["id"]
    assert ended["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_a_model_name_with_slash_and_at_is_found(scripted_stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            return sdk.chat.completions.create(model=ODD_MODEL, messages=_said("hi")).model_dump()

    assert scripted_stage.both_ways(scenario)["model"] == ODD_MODEL


@pytest.mark.parametrize(
    "wrong", [{"model": "no-such-model"}, {"response_format": {"type": "json_object"}}, {"messages": []}]
)
def test_hears_the_same_refusal(scripted_stage: Stage, wrong: dict[str, Any]) -> None:
    stage = scripted_stage

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk, pytest.raises(openai.APIStatusError) as caught:
            sdk.chat.completions.create(**{"model": stage.llm, "messages": _said("hi"), **wrong})
        return [type(caught.value).__name__, caught.value.status_code, caught.value.body]

    kind, status, _ = stage.both_ways(scenario)
    assert (kind, status) in (("NotFoundError", 404), ("BadRequestError", 400))


def test_without_v1_in_its_base_url_it_gets_the_odd_200(scripted_stage: Stage) -> None:
    """R: tracker#618: users forget it, and the SDK takes the error for an answer without choices."""

    def scenario(url: str) -> Any:
        with openai.OpenAI(base_url=url, api_key="lm-studio", max_retries=0) as sdk:
            return sdk.chat.completions.create(model="m", messages=_said("hi")).model_dump()

    answer = scripted_stage.both_ways(scenario)
    assert answer["error"] == "Unexpected endpoint or method. (POST /chat/completions)"
