"""`anthropic` for Python, unmodified, against /v1/messages."""

from typing import Any

import anthropic
import pytest

from tests.demo.clients.stage import Stage

pytestmark = pytest.mark.through_proxy

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather at a place",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def _sdk(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, auth_token="lmstudio", max_retries=0)


def _said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_gets_a_message(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            return sdk.messages.create(
                model=stage.llm,
                max_tokens=24,
                system="Answer briefly.",
                messages=_said("Say hello."),
                extra_body={"temperature": 0},
            ).model_dump()

    message = stage.both_ways(scenario)
    assert any(block["type"] == "text" and block["text"] for block in message["content"])
    assert message["stop_reason"] in ("end_turn", "max_tokens")
    assert message["usage"]["output_tokens"] > 0


def test_streams_a_message(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with (
            _sdk(url) as sdk,
            sdk.messages.stream(
                model=stage.llm,
                max_tokens=24,
                messages=_said("Say hello."),
                extra_body={"temperature": 0},
            ) as stream,
        ):
            return [[event.model_dump() for event in stream], stream.get_final_message().model_dump()]

    events, message = stage.both_ways(scenario)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    text = "".join(event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta")
    assert text == "".join(block["text"] for block in message["content"] if block["type"] == "text")
    assert message["usage"]["input_tokens"] > 0


def test_calls_a_tool_and_hears_of_its_result(scripted_stage: Stage) -> None:
    stage = scripted_stage

    def scenario(url: str) -> Any:
        asked = _said("Please get_weather for me.")
        options: Any = {"model": stage.llm, "max_tokens": 512, "tools": [WEATHER]}
        with _sdk(url) as sdk:
            first = sdk.messages.create(messages=asked, **options)
            (call,) = [block for block in first.content if block.type == "tool_use"]
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
            history: Any = [
                *asked,
                {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
                {"role": "user", "content": [result]},
            ]
            second = sdk.messages.create(messages=history, **options)
            with sdk.messages.stream(messages=asked, **options) as stream:
                streamed = stream.get_final_message()
            return [first.model_dump(), second.model_dump(), streamed.model_dump()]

    first, second, streamed = stage.both_ways(scenario)
    assert first["stop_reason"] == streamed["stop_reason"] == "tool_use"
    inputs = [block["input"] for one in (first, streamed) for block in one["content"] if block["type"] == "tool_use"]
    assert inputs[0] == inputs[1]
    assert "city" in inputs[0]
    assert any("It rains." in block.get("text", "") for block in second["content"])


def test_beta_calls_and_counting_get_what_lm_studio_says(scripted_stage: Stage) -> None:
    """R: tracker#2055: counting tokens is an unknown endpoint, answered with 200."""
    stage = scripted_stage

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            message = sdk.beta.messages.create(
                model=stage.llm, max_tokens=64, messages=_said("Say hello."), betas=["claude-code-20250219"]
            )
            count = sdk.beta.messages.count_tokens(model=stage.llm, messages=_said("Say hello."))
            return [message.model_dump(), count.model_dump()]

    message, count = stage.both_ways(scenario)
    assert message["stop_reason"] == "end_turn"
    assert count["error"] == "Unexpected endpoint or method. (POST /v1/messages/count_tokens)"
    assert [heard.status for heard in stage.heard()] == [200, 200]


def test_hears_the_same_refusal(scripted_stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk, pytest.raises(anthropic.NotFoundError) as caught:
            sdk.messages.create(model="no-such-model", max_tokens=8, messages=_said("hi"))
        return [caught.value.status_code, caught.value.body]

    _, body = scripted_stage.both_ways(scenario)
    assert body["error"]["type"] == "not_found_error"
