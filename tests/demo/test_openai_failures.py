"""How /v1 fails: models that do not load, prompts that are too long, engines that break off."""

import asyncio
from typing import Any

import aiohttp
import pytest

from proxy.demo.script import Burst, End, Fail, Prefill, Stall
from proxy.demo.scripted_engine import Loading, ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import logged, post, stream
from tests.demo.openai_calls import (
    CHAT,
    COMPLETIONS,
    EMBEDDER,
    EMBEDDINGS,
    LLM,
    LONG,
    VLM,
    deltas,
    hi,
    refusal,
    run,
)
from tests.demo.samples import same_form


def test_model_is_loaded_just_in_time_with_its_time_to_live() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.loading[LLM] = Loading(seconds=20)
        await post(server, CHAT, hi(ttl=30))
        (instance,) = server.look.catalog.instances
        assert (instance.identifier, instance.ttl_s, instance.load_time_s) == (LLM, 30.0, 20.0)
        assert (await post(server, CHAT, hi(model=f"{LLM}@q4_k_m"))).json["model"] == LLM
        assert server.look.catalog.instances == [instance]

    run(test)


def test_model_that_is_not_there() -> None:
    async def unknown(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for path, body in ((CHAT, hi()), (COMPLETIONS, {"prompt": "a"}), (EMBEDDINGS, {"input": "a"})):
            status, message = await refusal(server, path, body | {"model": "nope"})
            assert status == 404
            assert '"nope"' in message
        assert (await refusal(server, CHAT, hi(model=EMBEDDER)))[0] == 404
        assert (await refusal(server, EMBEDDINGS, {"model": LLM, "input": "a"}))[0] == 404

    async def nothing_loaded(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for body in (hi(), {"messages": hi()["messages"]}):
            assert await refusal(server, CHAT, body) == (
                404,
                "No models loaded. Please load a model in the developer page or use the `lms load` command.",
            )

    run(unknown)
    run(nothing_loaded, jit=False)


def test_model_that_is_not_there_may_be_answered_by_another() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, CHAT, hi(model=VLM))).json["model"] == VLM
        assert (await post(server, CHAT, hi(model="nope"))).json["model"] == VLM

    run(test, unknown_model="loaded")


def test_request_without_a_model_is_answered_by_one_instance_or_refused() -> None:
    body = {"messages": hi()["messages"]}

    async def answered(server: LookalikeServer, engine: ScriptedEngine) -> None:
        several = await asyncio.gather(*(post(server, CHAT, body) for _ in range(3)))
        assert {got.json["model"] for got in several} == {LLM}
        assert len(server.look.catalog.instances) == 1

    async def refused(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await refusal(server, CHAT, body))[0] == 404

    run(answered)
    run(refused, load_without_model=False)


def test_load_that_fails() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        words = "Model loading was stopped due to insufficient system resources."
        engine.loading[LLM] = Loading(fail=words)
        for is_streamed in (True, False):
            assert await refusal(server, CHAT, hi(stream=is_streamed)) == (
                400,
                f'Failed to load model "{LLM}". Error: {words}',
            )
        engine.loading.clear()
        assert (await post(server, CHAT, hi())).status == 200

    run(test)


@pytest.mark.parametrize(
    ("switch", "start"),
    [
        ("input", "Input does not fit in context length. The input has "),
        ("request", "request ("),
        ("keep", "Trying to keep the first "),
        ("n_keep", "Cannot truncate prompt with n_keep ("),
        ("prompt", "The number of tokens to keep from the initial prompt is greater than the context length."),
    ],
)
def test_prompt_that_is_too_long_is_refused(switch: str, start: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        status, message = await refusal(server, CHAT, hi(messages=[{"role": "user", "content": LONG}]))
        assert status == 400
        assert message.startswith(start)
        assert (await refusal(server, COMPLETIONS, {"prompt": LONG}))[0] == 400
        assert engine.calls == []

    run(test, overflow_message=switch)


ERROR = {"error": {"message": "Input does not fit in context length. ..."}, "message": "Input does not fit ..."}


def test_error_event_after_the_head() -> None:
    async def event(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, CHAT, hi(messages=[{"role": "user", "content": LONG}], stream=True))
        ((name, data),) = events
        assert name == "error"
        same_form(ERROR, data)
        assert data["error"]["message"] == data["message"]

    async def with_done(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, CHAT, hi(messages=[{"role": "user", "content": LONG}], stream=True))
        assert [name or data for name, data in events] == ["error", "[DONE]"]

    async def silent(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert await stream(server, CHAT, hi(messages=[{"role": "user", "content": LONG}], stream=True)) == []

    async def status(server: LookalikeServer, engine: ScriptedEngine) -> None:
        body = hi(messages=[{"role": "user", "content": LONG}], stream=True)
        assert (await refusal(server, CHAT, body))[0] == 400

    run(event)
    run(with_done, done_after_error=True)
    run(silent, overflow_in_stream="silent")
    run(status, overflow_in_stream="status")


def test_prompt_that_is_too_long_may_be_cut() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, hi(messages=[{"role": "user", "content": LONG}]))
        assert got.status == 200
        assert got.json["usage"]["prompt_tokens"] == len(engine.calls[0].tokens) < 2048

    run(test, overflow="truncateMiddle")


def test_model_that_crashes_ends_the_stream_without_done() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello", Fail())
        events = await stream(server, CHAT, hi(stream=True))
        assert [delta["content"] for delta in deltas(events)] == ["Hello"]
        assert "[DONE]" not in [data for _, data in events]
        assert server.look.catalog.instances == []
        assert any("[ERROR]" in line and "The model has crashed" in line for line in logged(server))
        engine.say("Hello", Fail())
        assert await refusal(server, CHAT, hi()) == (400, "The model has crashed without additional information.")
        assert (await post(server, CHAT, hi())).status == 200  # loaded again

    async def event(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello", Fail())
        events = await stream(server, CHAT, hi(stream=True))
        assert [name for name, _ in events] == ["", "error"]

    async def cut(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello", Fail())
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + CHAT, json=hi(stream=True)) as response,
        ):
            assert b"Hello" in await response.content.readany()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    run(test)
    run(event, crash_in_stream="event")
    run(cut, crash_in_stream="cut")


def test_engine_that_fails_in_the_middle_sends_an_error_event() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("Hello", Fail("Context size has been exceeded", "context"))
        events = await stream(server, CHAT, hi(stream=True))
        assert events[-1] == (
            "error",
            {"error": {"message": "Context size has been exceeded"}, "message": "Context size has been exceeded"},
        )

    run(test)


def test_template_that_fails() -> None:
    broken = {
        "llm.prediction.promptTemplate": {
            "type": "jinja",
            "jinjaPromptTemplate": {"template": "{{ raise_exception('No user query found') }}"},
            "stopStrings": [],
        }
    }

    async def engine_words(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for is_streamed in (True, False):
            status, message = await refusal(server, CHAT, hi(stream=is_streamed))
            assert status == 500
            assert message.startswith("Engine protocol applyPromptTemplate request returned 500: Jinja Exception: ")
            assert "No user query found" in message

    async def old_words(server: LookalikeServer, engine: ScriptedEngine) -> None:
        status, message = await refusal(server, CHAT, hi())
        assert (status, message.partition(': "')[0]) == (400, "Error rendering prompt with jinja template")
        ((name, data),) = await stream(server, CHAT, hi(stream=True))
        assert (name, data["message"]) == ("error", message)

    run(engine_words, model_defaults=broken)
    run(old_words, model_defaults=broken, template_error="render")


def test_head_comes_before_the_prompt_is_processed_or_with_the_first_token() -> None:
    async def body_of(server: LookalikeServer, engine: ScriptedEngine) -> list[tuple[str, Any]]:
        engine.say(Prefill(80.0, steps=4), "Hi", Stall(5.0), Burst(" there"), End())
        return await stream(server, CHAT, hi(stream=True))

    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await body_of(server, engine)
        assert "".join(delta.get("content", "") for delta in deltas(events)) == "Hi there"
        assert engine.clock.now() >= 85

    async def empty(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say()
        events = await stream(server, CHAT, hi(stream=True))
        assert deltas(events) == [{}]

    run(test)
    run(test, head_at_first_token=True)
    run(empty)
