"""REST v1: chats with their events and state, the list of models, loading, unloading, downloads."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.engine import Model
from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.script import End, Fail, Prefill, Stall
from proxy.demo.script import Text as Says
from proxy.demo.scripted_engine import Loading, ScriptedEngine
from proxy.demo.scripted_models import SCRIPTED_MODELS
from proxy.demo.server import LookalikeServer
from proxy.demo.virtual_clock import VirtualClock
from tests.demo.lookalikes import call, get, post, running, stream, until
from tests.demo.samples import same_form
from tests.demo.sdk_client import connected, fields_of, query

LLM, VLM, EMBEDDING = "scripted-7b-instruct", "scripted-vl-2b", "text-embedding-scripted"
CHAT = "/api/v1/chat"
RESPONSE_ID = re.compile(r"resp_[0-9a-f]{48}")
STATS = {
    "input_tokens": 646,
    "total_output_tokens": 586,
    "reasoning_output_tokens": 0,
    "tokens_per_second": 29.753900615398926,
    "time_to_first_token_seconds": 1.088,
    "model_load_time_seconds": 2.656,
}
BODY = {
    "model_instance_id": "ibm/granite-4-micro",
    "output": [({"type": "reasoning", "content": ""}, {"type": "message", "content": ""})],
    "stats": STATS,
    "response_id": RESPONSE_ID,
}
PNG = "data:image/png;base64,iVBORw0KGgo="


def look_at(
    test: Callable[[LookalikeServer, ScriptedEngine], Awaitable[None]],
    *scripts: Any,
    engine: ScriptedEngine | None = None,
    **switches: Any,
) -> None:
    """Run a test against a lookalike; `scripts` are what its model says, one call after the other."""

    async def main() -> None:
        scripted = engine or ScriptedEngine()
        for script in scripts:
            scripted.say(*([script] if isinstance(script, str) else script))
        async with running(scripted, **switches) as server:
            await test(server, scripted)

    asyncio.run(main())


def ask(text: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": LLM, "input": text, **more}


# --- the whole answer -------------------------------------------------------------------------------------------------


def test_answer_has_the_form_of_the_sample() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, ask())
        assert got.status == 200
        same_form(BODY, got.json)
        again = await post(server, CHAT, ask())
        same_form(BODY, again.json, optional=["model_load_time_seconds"])
        assert "model_load_time_seconds" not in again.json["stats"]  # only of the call that loaded it

    look_at(test, "<think>Hm.</think>Hello.", "<think>Hm.</think>Hello.")


def test_counts_and_times_are_the_engines() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, ask())
        (made,) = engine.calls
        assert got.json["output"] == [
            {"type": "reasoning", "content": "Hm so."},
            {"type": "message", "content": "Hello you."},
        ]
        stats = got.json["stats"]
        assert stats["input_tokens"] == len(made.tokens)
        assert stats["total_output_tokens"] == len(made.generated) + 1
        assert 0 < stats["reasoning_output_tokens"] < len(made.generated)
        assert stats["time_to_first_token_seconds"] == pytest.approx(2.5)
        assert stats["tokens_per_second"] == pytest.approx((len(made.generated) + 1) / (0.5 * len(made.generated)))
        assert stats["model_load_time_seconds"] == pytest.approx(0.5)

    look_at(test, [Prefill(2.0), Says("<think>Hm so.</think>Hello you.", delay_s=0.5)])


def test_parameters_reach_the_engine() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        fields = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "repeat_penalty": 1.5}
        got = await post(server, CHAT, ask(**fields, max_output_tokens=3))
        assert got.json["stats"]["total_output_tokens"] == 3
        sampling = engine.calls[0].sampling
        assert {name: getattr(sampling, name) for name in fields} == fields
        assert sampling.max_tokens == 3

    look_at(test, "one two three four five six")


def test_model_without_words_gives_no_message() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for _ in range(2):
            got = await post(server, CHAT, ask())
            assert got.json["output"] == []

    look_at(test, [End()], " \n ")


def test_context_length_counts_where_the_request_loads_the_model() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await post(server, CHAT, ask(context_length=999))
        await post(server, CHAT, ask(context_length=1234))
        (instance,) = server.look.catalog.instances
        assert instance.loaded.context_length == (1234 if server.look.behaviour.context_length_reloads else 999)

    look_at(test)
    look_at(test, context_length_reloads=True)


def test_system_prompt_and_text_items_are_in_the_prompt() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        items = [{"type": "text", "content": "one "}, {"type": "text", "content": "two"}]
        await post(server, CHAT, ask(items, system_prompt="Be brief."))
        prompt = engine.calls[0].prompt
        assert "system\nBe brief." in prompt
        assert "user\none two" in prompt

    look_at(test)


def test_images_are_for_models_that_see() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        items = [{"type": "image", "data_url": PNG}, {"type": "text", "content": "What is it?"}]
        got = await post(server, CHAT, {"model": VLM, "input": items})
        assert got.status == 200
        assert "<|image|>What is it?" in engine.calls[0].prompt
        got = await post(server, CHAT, ask(items))
        assert (got.status, got.json["error"]["param"]) == (400, "input")

    look_at(test)


def test_reasoning_reaches_templates_that_know_it() -> None:
    template = "{{ 'think' if enable_thinking is not defined or enable_thinking else 'do not think' }}"
    model = Model(**{name: getattr(SCRIPTED_MODELS[0], name) for name in Model.__slots__} | {"template": template})

    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for reasoning, prompt in (("off", "do not think"), ("on", "think"), (None, "think")):
            assert (await post(server, CHAT, ask(reasoning=reasoning))).status == 200
            assert engine.calls[-1].prompt == prompt

    look_at(test, engine=ScriptedEngine([model]))


def test_reasoning_that_the_model_does_not_have_is_refused() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for model, reasoning in ((LLM, "high"), (VLM, "on"), (VLM, "off"), (LLM, "much")):
            got = await post(server, CHAT, ask(model=model, reasoning=reasoning))
            assert (got.status, got.json["error"]["param"]) == (400, "reasoning")
        assert server.look.catalog.instances == []  # nothing is loaded for that

    look_at(test)


# --- state ------------------------------------------------------------------------------------------------------------


def test_chat_goes_on_from_a_response_id() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        first = await post(server, CHAT, ask("My name is Ada.", system_prompt="Be kind."))
        second = await post(server, CHAT, ask("Who am I?", previous_response_id=first.json["response_id"]))
        for text in ("Be kind.", "My name is Ada.", "Hello Ada.", "Who am I?"):
            assert text in engine.calls[1].prompt
        assert second.json["response_id"] != first.json["response_id"]
        await post(server, CHAT, ask("And again?", previous_response_id=first.json["response_id"]))
        assert "Who am I?" not in engine.calls[2].prompt  # the first answer's chat is as it was

    look_at(test, "<think>A name.</think>Hello Ada.", "You are Ada.", "Ada.")


def test_new_system_prompt_replaces_the_former_one() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        first = await post(server, CHAT, ask(system_prompt="Be kind."))
        body = ask(system_prompt="Be brief.", previous_response_id=first.json["response_id"])
        got = await post(server, CHAT, body)
        if server.look.behaviour.system_prompt_fails_with_previous:
            assert (got.status, got.json["error"]["type"]) == (500, "internal_error")
            return
        assert "Be brief." in engine.calls[1].prompt
        assert "Be kind." not in engine.calls[1].prompt

    look_at(test)
    look_at(test, system_prompt_fails_with_previous=True)


def test_chats_that_are_not_stored_have_no_id() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, ask(store=False))
        assert "response_id" not in got.json
        assert server.look.chats == {}

    look_at(test)


def test_unknown_response_id_is_404() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, ask(previous_response_id="resp_" + 48 * "0"))
        assert got.status == 404
        assert got.json["error"]["code"] == "previous_response_not_found"

    look_at(test)


# --- the stream -------------------------------------------------------------------------------------------------------


def test_stream_has_every_event_in_order() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, CHAT, ask(stream=True))
        assert all(name == data["type"] for name, data in events)
        order = [name for at, (name, _) in enumerate(events) if at == 0 or events[at - 1][0] != name]
        assert order == [
            "chat.start",
            *("model_load.start", "model_load.progress", "model_load.end"),
            *("prompt_processing.start", "prompt_processing.progress", "prompt_processing.end"),
            *("reasoning.start", "reasoning.delta", "reasoning.end"),
            *("message.start", "message.delta", "message.end"),
            "chat.end",
        ]
        samples: dict[str, dict[str, Any]] = {
            "chat.start": {"model_instance_id": ""},
            "model_load.start": {"model_instance_id": ""},
            "model_load.progress": {"model_instance_id": "", "progress": 0.65},
            "model_load.end": {"model_instance_id": "", "load_time_seconds": 12.34},
            "prompt_processing.progress": {"progress": 0.5},
            "reasoning.delta": {"content": ""},
            "message.delta": {"content": ""},
            "chat.end": {"result": BODY},
        }
        for name, data in events:
            same_form({"type": "", **samples.get(name, {})}, data)
        for kind in ("model_load", "prompt_processing"):
            progress = [data["progress"] for name, data in events if name == f"{kind}.progress"]
            assert progress == sorted(set(progress))
            assert (progress[0], progress[-1]) == (0, 1)
        for item in events[-1][1]["result"]["output"]:
            deltas = [data["content"] for name, data in events if name == f"{item['type']}.delta"]
            assert "".join(deltas) == item["content"]

    look_at(test, [Prefill(2.0, steps=4), Says("<think>Hm hm.</think>Hello you.")])


def test_stream_of_a_loaded_model_has_no_load_events() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(LLM)
        events = await stream(server, CHAT, ask(stream=True))
        assert [name for name, _ in events][:2] == ["chat.start", "prompt_processing.start"]
        assert "model_load_time_seconds" not in events[-1][1]["result"]["stats"]

    look_at(test)


def test_reasoning_without_an_end_is_ended() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, CHAT, ask(stream=True, max_output_tokens=4))
        assert [name for name, _ in events][-2:] == ["reasoning.end", "chat.end"]
        assert [item["type"] for item in events[-1][1]["result"]["output"]] == ["reasoning"]

    look_at(test, "<think>and so on and so on")


def test_whole_and_streamed_answers_are_the_same() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        whole = (await post(server, CHAT, ask())).json
        streamed = (await stream(server, CHAT, ask(stream=True)))[-1][1]["result"]
        assert streamed["output"] == whole["output"]
        counts = ("input_tokens", "total_output_tokens", "reasoning_output_tokens")
        assert [streamed["stats"][name] for name in counts] == [whole["stats"][name] for name in counts]

    look_at(test)


def test_failure_in_the_middle_is_an_error_event_before_the_end() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        events = await stream(server, CHAT, ask(stream=True))
        assert [name for name, _ in events[-2:]] == ["error", "chat.end"]
        same_form({"type": "error", "error": {"type": "", "message": ""}}, events[-2][1])
        assert events[-2][1]["error"]["message"] == "The model has crashed without additional information."
        result = events[-1][1]["result"]
        assert result["output"] == [{"type": "message", "content": "one two"}]
        assert "response_id" not in result
        got = await post(server, CHAT, ask())
        assert got.status >= 400
        same_form({"error": {"message": "", "type": "", "param": None, "code": None}}, got.json)

    look_at(test, [Says("one two"), Fail()], [Says("one two"), Fail()])


@pytest.mark.parametrize("how", ["event", "status", "silent"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_prompt_that_is_too_long(how: str, is_loaded: bool) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        if is_loaded:
            await server.look.catalog.load(LLM)
        got = await post(server, CHAT, ask("word " * 300, stream=True))
        if how == "status" and is_loaded:
            assert got.status == 400
            assert "does not fit in context length" in got.json["error"]["message"]
            return
        names = [name for name, _ in got.events]
        assert (names[0], names[-1]) == ("chat.start", "chat.end")
        assert ("error" in names) == (how != "silent")
        assert got.events[-1][1]["result"]["output"] == []
        assert got.events[-1][1]["result"]["stats"]["total_output_tokens"] == 0

    look_at(test, overflow_in_stream=how, context_length=100)


def test_load_that_fails() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.loading[LLM] = Loading(fail="insufficient system resources")
        got = await post(server, CHAT, ask())
        assert got.status == 400
        assert "insufficient system resources" in got.json["error"]["message"]
        events = await stream(server, CHAT, ask(stream=True))
        assert [name for name, _ in events if name != "model_load.progress"] == [
            *("chat.start", "model_load.start"),
            *("error", "chat.end"),
        ]
        assert events[-1][1]["result"]["model_instance_id"] == LLM

    look_at(test)


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("before", ["load", "generation"])
def test_client_that_leaves_stops_the_model(is_streamed: bool, before: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        async with aiohttp.ClientSession() as session:
            asking = asyncio.create_task(session.post(server.url + CHAT, json=ask(stream=is_streamed)))
            await until(lambda: engine.calls if before == "generation" else server.look.catalog._lock.locked())
            if is_streamed:
                (await asking).close()
            asking.cancel()
        if before == "generation":
            await until(lambda: engine.calls[0].ended)
            assert engine.calls[0].ended == "closed"
        await until(lambda: not server.look.catalog._lock.locked())
        assert len(server.look.catalog.instances) == (before == "generation")

    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    engine.loading[LLM] = Loading(seconds=0.0 if before == "generation" else 1000.0)
    look_at(test, [Stall(1000.0)], engine=engine)


def test_stream_may_stay_open_after_its_end() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        async with aiohttp.ClientSession() as session:
            response = await session.post(server.url + CHAT, json=ask(stream=True))
            body = b""
            while b"event: chat.end" not in body or not body.endswith(b"\n\n"):
                body += await response.content.readany()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.content.readany(), 0.2)
            response.close()

    look_at(test, closes_after_chat_end=False)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "model"),
        ({"model": LLM}, "missing_required_parameter", "input"),
        ({"model": 7, "input": "hi"}, "invalid_type", "model"),
        (ask([{"type": "message", "content": "hi"}]), "invalid_union", "input"),
        (ask([]), "invalid_union", "input"),
        (ask([{"type": "image", "data_url": "http://127.0.0.1/a.png"}]), "invalid_union", "input"),
        (ask(temperature=1.5), "too_big", "temperature"),
        (ask(top_p=-1), "too_small", "top_p"),
        (ask(top_k=1.5), "invalid_type", "top_k"),
        (ask(stream="yes"), "invalid_type", "stream"),
        (ask(context_length=0), "too_small", "context_length"),
        (ask(max_output_tokens=10**400), "too_big", "max_output_tokens"),
        (ask(integrations="mcp/x"), "invalid_type", "integrations"),
        (ask(integrations=[{"type": "ephemeral_mcp", "server_label": "x"}]), "invalid_union", "integrations"),
        (ask(reasoning="much"), "invalid_enum_value", "reasoning"),
        (ask(model="nothing"), "model_not_found", "model"),
        (ask(model=EMBEDDING), "model_not_found", "model"),
    ],
)
def test_requests_that_are_refused(body: Any, code: str, param: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, CHAT, body)
        assert got.status == (404 if code == "model_not_found" else 400)
        assert (got.json["error"]["code"], got.json["error"]["param"]) == (code, param)
        assert list(got.json["error"]) == ["message", "type", "param", "code"]
        if code == "missing_required_parameter":
            assert got.json["error"]["message"] == f'"{param}" is required'

    look_at(test)


def test_older_applications_do_not_know_these_routes() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for method, path in (("POST", CHAT), ("GET", "/api/v1/models"), ("POST", "/api/v1/models/load")):
            got = await call(server, method, path, ask() if method == "POST" else None)
            assert (got.status, list(got.json)) == (200, ["error"])

    look_at(test, version="0.3.39")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ITEM = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "image"]) | ANY, "content": ANY, "data_url": ANY}
)
INTEGRATION = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["plugin", "ephemeral_mcp"]) | ANY,
        **{name: ANY for name in ("id", "server_label", "server_url", "allowed_tools", "headers")},
    },
)
CHAT_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_output_tokens", "context_length"),
    *("system_prompt", "stream", "store", "reasoning", "previous_response_id", "unknown"),
)
CHAT_BODIES = st.fixed_dictionaries(
    {"model": st.just(LLM) | ANY, "input": st.text(max_size=5) | st.lists(ITEM | ANY, max_size=3) | ANY},
    optional={
        **{name: ANY for name in CHAT_FIELDS},
        "integrations": st.lists(INTEGRATION | ANY, max_size=2) | ANY,
    },
)
LOAD_FIELDS = ("context_length", "eval_batch_size", "flash_attention", "num_experts", "offload_kv_cache_to_gpu")
MODEL_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from([LLM, "ibm/granite-4-micro", "https://host/ibm/granite-4-micro", "http://["]) | ANY,
        **{name: ANY for name in (*LOAD_FIELDS, "echo_load_config", "instance_id", "quantization")},
    },
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(
        st.tuples(st.just(CHAT), CHAT_BODIES | ANY)
        | st.tuples(
            st.sampled_from([f"/api/v1/models/{what}" for what in ("load", "unload", "download")]), MODEL_BODIES
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_body_breaks_the_server(requests: list[tuple[str, Any]]) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for path, body in requests:
            got = await post(server, path, body)
            assert got.status < 500, (path, body, got)
        assert (await post(server, CHAT, ask())).status == 200

    look_at(test)


# --- models -----------------------------------------------------------------------------------------------------------

SAMPLE_ROW = {
    "type": "llm",
    "publisher": "google",
    "key": "google/gemma-4-26b-a4b",
    "display_name": "Gemma 4 26B A4B",
    "architecture": "gemma4",
    "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
    "size_bytes": 17990911801,
    "params_string": "26B-A4B",
    "loaded_instances": [
        {
            "id": "google/gemma-4-26b-a4b",
            "config": {
                "context_length": 4096,
                "eval_batch_size": 512,
                "parallel": 4,
                "flash_attention": True,
                "num_experts": 8,
                "offload_kv_cache_to_gpu": True,
            },
        }
    ],
    "max_context_length": 262144,
    "format": "gguf",
    "capabilities": {
        "vision": True,
        "trained_for_tool_use": True,
        "reasoning": {"allowed_options": ["off", "on"], "default": "on"},
    },
    "description": None,
    "variants": ["google/gemma-4-26b-a4b@q4_k_m"],
    "selected_variant": "google/gemma-4-26b-a4b@q4_k_m",
}


def of_experts() -> ScriptedEngine:
    return ScriptedEngine([replace(SCRIPTED_MODELS[0], experts=8), *SCRIPTED_MODELS[1:]])


def test_list_has_the_form_of_the_sample() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await post(server, "/api/v1/models/load", {"model": LLM, "context_length": 3000})
        got = await get(server, "/api/v1/models")
        assert list(got.json) == ["models"]
        llm, vlm, embedding = got.json["models"]
        same_form(SAMPLE_ROW, llm)
        assert llm["loaded_instances"][0]["config"]["context_length"] == 3000
        assert (vlm["type"], vlm["loaded_instances"], vlm["capabilities"]["vision"]) == ("llm", [], True)
        absent = ("architecture", "capabilities", "description", "variants", "selected_variant")
        same_form(
            {name: value for name, value in (SAMPLE_ROW | {"loaded_instances": []}).items() if name not in absent},
            embedding,
        )
        assert embedding["type"] == "embedding"

    look_at(test, engine=of_experts())


def test_load_echoes_its_configuration() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        config = {
            "context_length": 16384,
            "eval_batch_size": 256,
            "flash_attention": False,
            "offload_kv_cache_to_gpu": False,
            "num_experts": 4,
        }
        got = await post(server, "/api/v1/models/load", {"model": LLM, "echo_load_config": True, **config})
        assert got.status == 200
        sample = {"type": "llm", "instance_id": "", "load_time_seconds": 9.099, "status": "loaded"}
        same_form({**sample, "load_config": config}, got.json)
        assert got.json["load_config"] == config
        async with connected(server, "llm") as socket:
            told = fields_of(await socket.result("getLoadConfig", {"specifier": query(LLM)}))
        assert told == {
            "llm.load.contextLength": 16384,
            "llm.load.llama.evalBatchSize": 256,
            "llm.load.numParallelSessions": 4,
            "llm.load.llama.flashAttention": False,
            "llm.load.numExperts": 4,
            "llm.load.offloadKVCacheToGpu": False,
            "llm.load.llama.acceleration.offloadRatio": "max",
        }
        second = await post(server, "/api/v1/models/load", {"model": LLM})
        same_form(sample, second.json)
        assert second.json["instance_id"] == f"{LLM}:2"
        embedding = await post(server, "/api/v1/models/load", {"model": EMBEDDING, "echo_load_config": True})
        assert (embedding.json["type"], list(embedding.json["load_config"])) == ("embedding", ["context_length"])

    look_at(test, engine=of_experts())


def test_dense_model_claims_no_experts() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        body = {"model": LLM, "echo_load_config": True, "num_experts": 4}
        assert "num_experts" not in (await post(server, "/api/v1/models/load", body)).json["load_config"]

    look_at(test)


def test_unload_tells_what_was_unloaded() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await post(server, "/api/v1/models/load", {"model": LLM})
        got = await post(server, "/api/v1/models/unload", {"instance_id": LLM})
        assert got.json == {"instance_id": LLM}
        assert server.look.catalog.instances == []
        got = await post(server, "/api/v1/models/unload", {"instance_id": LLM})
        assert (got.status, got.json["error"]["type"]) == (404, "model_not_found")
        assert got.json["error"]["param"] == "instance_id"

    look_at(test)


def test_unknown_models_are_not_loaded() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await post(server, "/api/v1/models/load", {"model": "nothing"})
        assert (got.status, got.json["error"]["type"]) == (404, "model_not_found")
        got = await post(server, "/api/v1/models/load", {})
        assert (got.status, got.json["error"]["message"]) == (400, '"model" is required')

    look_at(test)


# --- downloads --------------------------------------------------------------------------------------------------------

DOWNLOAD = "/api/v1/models/download"
MODEL = {"model": "ibm/granite-4-micro"}
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
JOB = {
    "job_id": re.compile(r"job_[0-9a-f]{10}"),
    "status": "downloading",
    "total_size_bytes": 2279145003,
    "downloaded_bytes": 0,
    "started_at": STAMP,
}


def test_download_gets_on_with_time_and_ends() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        begun = (await post(server, DOWNLOAD, MODEL)).json
        same_form({name: value for name, value in JOB.items() if name != "downloaded_bytes"}, begun)
        path = f"{DOWNLOAD}/status/{begun['job_id']}"
        engine.time.advance(10.0)
        status = (await get(server, path)).json
        same_form(JOB | {"bytes_per_second": 1e8, "estimated_completion": STAMP}, status)
        assert status["downloaded_bytes"] == 1_000_000_000
        assert (await post(server, DOWNLOAD, MODEL)).json["job_id"] == begun["job_id"]
        engine.time.advance(20.0)
        status = (await get(server, path)).json
        same_form(JOB | {"completed_at": STAMP}, status)
        assert status["status"] == "completed"
        assert status["downloaded_bytes"] == status["total_size_bytes"] == begun["total_size_bytes"]
        assert (await post(server, DOWNLOAD, MODEL)).json == {"status": "already_downloaded"}

    look_at(test, download_bytes_per_second=1e8)


@pytest.mark.parametrize("ends", ["failed", "paused"])
def test_download_may_stop_half_way(ends: str) -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        begun = (await post(server, DOWNLOAD, MODEL)).json
        engine.time.advance(10_000.0)
        status = (await get(server, f"{DOWNLOAD}/status/{begun['job_id']}")).json
        same_form(JOB, status)
        assert status["status"] == ends
        assert 0 < status["downloaded_bytes"] < status["total_size_bytes"]
        again = (await post(server, DOWNLOAD, MODEL)).json
        assert (again["job_id"] == begun["job_id"]) == (ends == "paused")

    look_at(test, download_ends=ends)


def test_downloads_that_are_none() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert (await post(server, DOWNLOAD, {"model": LLM})).json == {"status": "already_downloaded"}
        got = await post(server, DOWNLOAD, {"model": "no/such"})
        assert (got.status, got.json["error"]["type"]) == (404, "model_not_found")
        got = await get(server, f"{DOWNLOAD}/status/job_0000000000")
        assert (got.status, got.json["error"]["type"]) == (404, "job_not_found")
        got = await post(server, DOWNLOAD, MODEL | {"quantization": "Q4_K_M"})
        assert (got.status, got.json["error"]["param"]) == (400, "quantization")
        url = {"model": "https://host/ibm/granite-4-micro", "quantization": "Q4_K_M"}
        assert (await post(server, DOWNLOAD, url)).json["status"] == "downloading"

    look_at(test)


# --- a real model -----------------------------------------------------------------------------------------------------


def test_text_and_counts_are_the_real_models(smollm2: Path, tmp_path: Path) -> None:
    async def main() -> None:
        engine = LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path)
        async with running(engine, context_length=512) as server:
            body = {"model": "smollm2-135m-instruct", "input": "Count to five.", "temperature": 0}
            whole = (await post(server, CHAT, body | {"max_output_tokens": 12})).json
            same_form(BODY, whole)
            (instance,) = server.look.catalog.instances
            messages = [{"role": "user", "content": "Count to five."}]
            prompt = await instance.loaded.tokenize(await instance.loaded.render(messages))
            assert whole["stats"]["input_tokens"] == len(prompt)
            assert whole["stats"]["total_output_tokens"] == 12
            assert whole["stats"]["time_to_first_token_seconds"] > 0
            assert whole["stats"]["tokens_per_second"] > 0
            text = whole["output"][0]["content"]
            assert len(await instance.loaded.tokenize(text)) in range(11, 14)
            events = await stream(server, CHAT, body | {"max_output_tokens": 12, "stream": True})
            result = events[-1][1]["result"]
            assert result["output"] == whole["output"]
            assert "model_load_time_seconds" not in result["stats"]
            more = body | {"previous_response_id": whole["response_id"], "input": "Go on.", "max_output_tokens": 4}
            assert (await post(server, CHAT, more)).json["stats"]["input_tokens"] > len(prompt) + 12

    asyncio.run(main())
