"""`lmstudio` for Python, unmodified: the SDK's WebSockets, one for each namespace."""

import base64
import json
from typing import Any

import lmstudio
import pytest

from tests.demo.clients.stage import Stage
from tests.demo.clients.tap import websocket_messages

pytestmark = pytest.mark.through_proxy

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _sdk(url: str) -> lmstudio.Client:
    return lmstudio.Client(url.removeprefix("http://"))


def _plain(value: Any) -> Any:
    """What the SDK gives, as JSON data."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def _result(result: Any) -> list[Any]:
    return [result.content, *(_plain(part) for part in (result.stats, result.model_info)), result.structured]


def test_lists_models(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            before = [_plain(one.info) for one in sdk.list_downloaded_models()]
            sdk.llm.model(stage.llm)
            loaded = sdk.list_loaded_models()
            return [before, [one.identifier for one in loaded]]

    downloaded, loaded = stage.both_ways(scenario)
    assert {stage.llm, stage.embedder} <= {one["modelKey"] for one in downloaded}
    assert loaded == [stage.llm]


def test_loads_looks_at_and_unloads_a_model(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.llm.load_new_instance(stage.llm, "mine", config={"contextLength": 1024})
            config = _plain(model.get_load_config())
            about = [model.get_context_length(), _plain(model.get_info())]
            model.unload()
            return [about, config, [one.identifier for one in sdk.llm.list_loaded()]]

    (context, info), config, left = stage.both_ways(scenario)
    assert context == info["contextLength"] == config["contextLength"] == 1024
    assert info["identifier"] == "mine"
    assert left == []


def test_responds(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            chat = lmstudio.Chat("Answer briefly.")
            chat.add_user_message("Say hello.")
            return _result(sdk.llm.model(stage.llm).respond(chat, config={"temperature": 0.0, "maxTokens": 24}))

    content, stats, info, _ = stage.both_ways(scenario)
    assert content
    assert stats["stopReason"] in ("eosFound", "maxPredictedTokensReached")
    assert stats["totalTokensCount"] == stats["promptTokensCount"] + stats["predictedTokensCount"]
    assert info["modelKey"] == stage.llm


def test_streams_a_response(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        progress: list[float] = []
        with _sdk(url) as sdk:
            stream = sdk.llm.model(stage.llm).respond_stream(
                "Say hello.",
                config={"temperature": 0.0, "maxTokens": 24},
                on_prompt_processing_progress=progress.append,
            )
            fragments = [_plain(fragment) for fragment in stream]
            return [fragments, _result(stream.result()), progress]

    fragments, (content, stats, *_), progress = stage.both_ways(scenario)
    assert "".join(one["content"] for one in fragments) == content
    assert sum(one["tokensCount"] for one in fragments) <= stats["predictedTokensCount"]
    assert (progress[0], progress[-1]) == (0, 1)


def test_completes_text(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.llm.model(stage.llm)
            return _result(model.complete("One, two, three,", config={"temperature": 0.0, "maxTokens": 8}))

    content, stats, *_ = stage.both_ways(scenario)
    assert content
    assert stats["predictedTokensCount"] <= 8


def test_gets_what_a_schema_asks_for(stage: Stage) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.llm.model(stage.llm)
            result = model.respond("Is water wet?", response_format=schema, config={"temperature": 0.0})
            return [result.parsed, result.structured]

    parsed, structured = stage.both_ways(scenario)
    assert structured is True
    assert isinstance(parsed["yes"], bool)


def test_counts_and_renders(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.llm.model(stage.llm)
            text = "Chaos is a ladder."
            rendered = model.apply_prompt_template(lmstudio.Chat.from_history("User message 1"))
            return [model.tokenize(text), model.count_tokens(text), rendered]

    tokens, count, rendered = stage.both_ways(scenario)
    assert len(tokens) == count > 3
    assert rendered.startswith("<|im_start|>")
    assert "User message 1" in rendered


def test_embeds_texts(stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.embedding.model(stage.embedder)
            return [model.embed("first"), model.embed(["second", "third"]), model.count_tokens("first")]

    one, (two, three), count = stage.both_ways(scenario)
    assert len(one) == len(two) == len(three)
    assert two != three
    assert count >= 1


def test_acts_with_a_tool(scripted_stage: Stage) -> None:
    """Several predictions, with the tool run in the client between them."""
    stage = scripted_stage

    def scenario(url: str) -> Any:
        asked: list[str] = []
        messages: list[Any] = []

        def get_weather(city: str) -> str:
            """Tell the weather at a place."""
            asked.append(city)
            return "It rains."

        with _sdk(url) as sdk:
            result = sdk.llm.model(stage.llm).act(
                "Please get_weather for me.", [get_weather], on_message=lambda one: messages.append(_plain(one))
            )
            return [asked, result.rounds, messages]

    asked, rounds, messages = stage.both_ways(scenario)
    assert (len(asked), rounds) == (1, 2)
    assert "It rains." in json.dumps(messages[-1])


def test_shows_an_image(scripted_stage: Stage) -> None:
    """The file goes over a socket of its own, as base64 in one message."""

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            image = sdk.prepare_image(PNG, name="dot.png")
            chat = lmstudio.Chat()
            chat.add_user_message("What is this?", images=[image])
            return [image.size_bytes, image.file_type, _result(sdk.llm.model("scripted-vl-2b").respond(chat))[0]]

    size, kind, content = scripted_stage.both_ways(scenario)
    assert (size, kind) == (len(PNG), "image")
    assert content


def test_a_cancelled_stream_says_so(llama_stage: Stage) -> None:
    """Only with the real model: what a script says may be over before the cancel arrives."""
    stage = llama_stage

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            model = sdk.llm.model(stage.llm)
            stream = model.respond_stream("Tell a long story.", config={"temperature": 0.0})
            for _ in stream:
                stream.cancel()
            return _plain(stream.result().stats)["stopReason"]

    assert stage.both_ways(scenario) == "userStopped"


def test_hears_of_a_model_that_is_not_there(scripted_stage: Stage) -> None:
    def scenario(url: str) -> Any:
        with _sdk(url) as sdk, pytest.raises(lmstudio.LMStudioServerError) as caught:
            sdk.llm.model("no-such-model")
        return str(caught.value)

    assert "no-such-model" in scripted_stage.both_ways(scenario)


def test_its_passkey_is_not_in_the_trace(scripted_stage: Stage) -> None:
    stage = scripted_stage

    def scenario(url: str) -> Any:
        with _sdk(url) as sdk:
            return [one.identifier for one in sdk.llm.list_loaded()]

    assert stage.both_ways(scenario) == []
    (heard,) = [one for one in stage.heard() if one.status == 101]
    passkey = json.loads(websocket_messages(heard, by_client=True)[0][1])["clientPasskey"]
    assert stage.proxy.files_with(passkey.encode()) == []
