"""The endpoints of each namespace; every sample of the digest's sections 5.3 to 5.10 is reproduced in form."""

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.engine import Message
from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.model import SMOLLM2
from proxy.demo.parameters import SYSTEM_PROMPT
from proxy.demo.script import Fail, Prefill, Stall, Text
from proxy.demo.scripted_engine import Loading, ScriptedEngine
from proxy.demo.sdk_endpoints import Json
from proxy.demo.sdk_history import History, history_of, messages_of
from proxy.demo.sdk_retrieval import ChunkingMethod, chunks_of
from proxy.demo.server import LookalikeServer
from proxy.demo.virtual_clock import VirtualClock
from proxy.demo.window import type_chat
from tests.demo.lookalikes import get, logged, post, running, until
from tests.demo.samples import same_form
from tests.demo.sdk_client import (
    EMBEDDING,
    LLM,
    VLM,
    Channel,
    Socket,
    ask,
    connected,
    fields_of,
    history,
    layers,
    load,
    query,
    stack,
    texts,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ANYTHING = re.compile(".*", re.DOTALL)
PROGRESS = {
    "type": "promptProcessingProgress",
    "progress": 0,
    "details": {
        "cachedTokenCount": 0,
        "totalPromptTokenCount": 41,
        "processedPromptTokenCount": 0,
        "unprocessedPromptTokenCount": 41,
    },
}
FRAGMENT = {
    "type": "fragment",
    "fragment": {
        "content": "Assistant",
        "tokensCount": 1,
        "containsDrafted": False,
        "reasoningType": "none",
        "isStructural": False,
    },
}
STATS = {
    "stopReason": "eosFound",
    "tokensPerSecond": 92.4,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.031,
    "totalTimeSec": 0.085,
    "promptTokensCount": 41,
    "predictedTokensCount": 5,
    "totalTokensCount": 46,
}
MODEL = {
    "type": "llm",
    "modelKey": "qwen2.5-0.5b-instruct",
    "format": "gguf",
    "displayName": "Qwen2.5 0.5B Instruct",
    "publisher": "lmstudio-community",
    "path": re.compile(r"[^/]+/[^/]+/[^/]+\.gguf"),
    "sizeBytes": 397807936,
    "indexedModelIdentifier": re.compile(r"[^/]+/[^/]+/[^/]+\.gguf"),
    "deviceIdentifier": None,
    "paramsString": "0.5B",
    "architecture": "qwen2",
    "quantization": {"name": "Q4_K_M", "bits": 4},
}
LLM_INFO = {**MODEL, "vision": False, "trainedForToolUse": True, "maxContextLength": 32768}
INSTANCE = {
    **MODEL,
    "identifier": "qwen2.5-0.5b-instruct",
    "instanceReference": re.compile("[A-Za-z0-9]{24}"),
    "ttlMs": (3600000, None),
    "lastUsedTime": 1750000000000,
    "vision": False,
    "trainedForToolUse": True,
    "maxContextLength": 32768,
    "contextLength": 4096,
}
CONFIG = {"fields": [{"key": "llm.load.contextLength", "value": Any}]}
SUCCESS = {
    "type": "success",
    "stats": STATS,
    "modelInfo": INSTANCE,
    "loadModelConfig": CONFIG,
    "predictionConfig": CONFIG,
}
ERROR = {
    "title": "No model found that fits the query",
    "cause": "...",
    "suggestion": "...",
    "displayData": {
        "code": "generic.noModelMatchingQuery",
        "query": {"identifier": "foo"},
        "loadedModelsSample": ["qwen2.5-7b"],
        "totalLoadedModels": 1,
    },
    "stack": "...",
    "rootTitle": "...",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def run(test: Callable[[LookalikeServer], Awaitable[None]], engine: Any = None, **more: Any) -> None:
    async def main() -> None:
        async with running(engine, **more) as server:
            await test(server)

    asyncio.run(main())


def with_llm(
    test: Callable[[LookalikeServer, Socket], Awaitable[None]],
    engine: ScriptedEngine | None = None,
    *,
    models: tuple[str, ...] = (LLM,),
    **more: Any,
) -> None:
    """Run a test with models loaded and a socket of /llm."""

    async def main(server: LookalikeServer) -> None:
        await load(server, *models)
        async with connected(server, "llm") as socket:
            await test(server, socket)

    run(main, engine, **more)


def predicted(
    parameter: Json, engine: ScriptedEngine | None = None, *, endpoint: str = "predict", **more: Any
) -> Channel:
    """Everything that comes on a channel that generates."""
    found: list[Channel] = []

    async def test(server: LookalikeServer, socket: Socket) -> None:
        found.append(await socket.channel(endpoint, parameter))

    with_llm(test, engine, models=(LLM, VLM), **more)
    return found[0]


class TestPredict:
    def test_whole_trace_has_the_samples_form_and_the_engines_numbers(self) -> None:
        engine = ScriptedEngine()
        engine.say("Assistant message")
        got = predicted(ask(("system", "Answer briefly."), ("user", "1+1?")), engine)
        assert got.error is None
        assert got.types == ["promptProcessingProgress", "fragment", "success"]
        start, end = got.of("promptProcessingProgress")
        same_form(PROGRESS, start)
        total = len(engine.calls[0].tokens)
        assert start["progress"] == 0
        assert start["details"]["unprocessedPromptTokenCount"] == total
        assert end["progress"] == 1
        assert end["details"] == {
            "cachedTokenCount": 0,
            "totalPromptTokenCount": total,
            "processedPromptTokenCount": total,
            "unprocessedPromptTokenCount": 0,
        }
        for fragment in got.of("fragment"):
            same_form(FRAGMENT, fragment)
        assert texts(got.messages) == "Assistant message"
        (success,) = got.of("success")
        same_form(SUCCESS, success)
        stats, tokens = success["stats"], len(engine.calls[0].generated)
        assert sum(one["fragment"]["tokensCount"] for one in got.of("fragment")) == tokens
        assert stats["predictedTokensCount"] == tokens + 1  # the end token counts
        assert stats["promptTokensCount"] == total
        assert stats["tokensPerSecond"] == pytest.approx(stats["predictedTokensCount"] / stats["totalTimeSec"])

    def test_progress_tells_the_cache_apart(self) -> None:
        engine = ScriptedEngine()
        engine.say(Prefill(0.1, steps=2, cached=4), "x")
        got = predicted(ask(("user", "one two three four")), engine).of("promptProcessingProgress")
        assert [one["progress"] for one in got][0::2] == [0, 1]
        assert len(got) == 3
        for one in got:
            details = one["details"]
            assert details["cachedTokenCount"] == 4
            parts = ("cachedTokenCount", "processedPromptTokenCount", "unprocessedPromptTokenCount")
            assert sum(details[part] for part in parts) == details["totalPromptTokenCount"]

    def test_reasoning_is_told_by_its_type(self) -> None:
        engine = ScriptedEngine()
        engine.say("<think>hm</think>yes")
        fragments = [one["fragment"] for one in predicted(ask(("user", "x")), engine).of("fragment")]
        assert [(one["content"], one["reasoningType"]) for one in fragments] == [
            ("<think>", "reasoningStartTag"),
            ("hm", "reasoning"),
            ("</think>", "reasoningEndTag"),
            ("yes", "none"),
        ]

    def test_calls_configuration_wins_and_is_told_with_the_template(self) -> None:
        engine = ScriptedEngine()
        config = layers(
            ("apiOverride", {"llm.prediction.temperature": 0.5, "llm.prediction.topKSampling": 7}),
            ("conversationSpecific", {"llm.prediction.temperature": 0}),
            ("apiOverride", {"llm.prediction.maxPredictedTokens": {"checked": True, "value": 3}}),
        )
        got = predicted(
            ask(("user", "x"), config=config), engine, model_defaults={"llm.prediction.topKSampling": 1}
        ).of("success")[0]
        sampling = engine.calls[0].sampling
        assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0, 7, 3)
        told = fields_of(got["predictionConfig"])
        assert told["llm.prediction.temperature"] == 0
        assert told["llm.prediction.maxPredictedTokens"] == {"checked": True, "value": 3}
        assert told["llm.prediction.contextOverflowPolicy"] == "truncateMiddle"
        template = told["llm.prediction.promptTemplate"]
        same_form({"type": "jinja", "jinjaPromptTemplate": {"template": "..."}, "stopStrings": []}, template)
        assert "<|im_start|>" in template["jinjaPromptTemplate"]["template"]
        assert got["stats"]["stopReason"] == "maxPredictedTokensReached"

    def test_preset_is_found_by_a_part_of_its_name_and_lies_below_the_call(self) -> None:
        engine = ScriptedEngine()
        presets = {"My Preset": {"llm.prediction.temperature": 0.3, "llm.prediction.topKSampling": 3}}
        predicted(
            ask(("user", "x"), config=stack(topKSampling=9), fuzzyPresetIdentifier="my preset"),
            engine,
            presets=presets,
        )
        assert (engine.calls[0].sampling.temperature, engine.calls[0].sampling.top_k) == (0.3, 9)

    def test_unknown_preset_is_refused_with_the_ones_there_are(self) -> None:
        got = predicted(ask(("user", "x"), fuzzyPresetIdentifier="nope"), presets={"mine": {}})
        assert got.messages == []
        assert got.error["displayData"] == {
            "code": "generic.presetNotFound",
            "specifiedFuzzyPresetIdentifier": "nope",
            "availablePresetsSample": [{"identifier": "mine", "name": "mine"}],
            "totalAvailablePresets": 1,
        }

    @pytest.mark.parametrize(("ignores", "temperature"), [(False, 0.1), (True, 0.8)])
    def test_servers_tab_counts_unless_the_call_ignores_it(self, ignores: bool, temperature: float) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            server.look.server_session["llm.prediction.temperature"] = 0.1
            base = {"specifier": query(LLM), "ignoreServerSessionConfig": ignores}
            fields = fields_of(await socket.result("getBasePredictionConfig", base))
            assert fields["llm.prediction.temperature"] == temperature
            got = await socket.channel("predict", ask(("user", "x"), ignoreServerSessionConfig=ignores))
            assert fields_of(got.of("success")[0]["predictionConfig"])["llm.prediction.temperature"] == temperature

        with_llm(test)

    def test_system_prompt_of_the_configuration_is_used_where_the_chat_has_none(self) -> None:
        engine = ScriptedEngine()
        predicted(ask(("user", "x")), engine, model_defaults={SYSTEM_PROMPT: "Be kind."})
        assert engine.calls[0].prompt.startswith("<|im_start|>system\nBe kind.<|im_end|>")
        engine = ScriptedEngine()
        predicted(ask(("system", "Be brief."), ("user", "x")), engine, model_defaults={SYSTEM_PROMPT: "Be kind."})
        assert "Be kind." not in engine.calls[0].prompt

    def test_stop_strings_of_call_and_template_end_it(self) -> None:
        engine = ScriptedEngine()
        engine.say("one END two")
        got = predicted(ask(("user", "x"), config=stack(stopStrings=["END"])), engine)
        stats = got.of("success")[0]["stats"]
        assert (stats["stopReason"], stats["stopString"]) == ("stopStringFound", "END")
        engine = ScriptedEngine()
        engine.say("one STOP two")
        template = {"type": "jinja", "jinjaPromptTemplate": {"template": "{{ messages[0].content }}"}}
        got = predicted(ask(("user", "hi"), config=stack(promptTemplate=template | {"stopStrings": ["STOP"]})), engine)
        assert engine.calls[0].prompt == "hi"
        assert texts(got.messages) == "one "

    def test_structured_output_is_asked_of_the_engine(self) -> None:
        engine = ScriptedEngine()
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        got = predicted(ask(("user", "x"), config=stack(structured={"type": "json", "jsonSchema": schema})), engine)
        assert engine.calls[0].sampling.json_schema == schema
        assert texts(got.messages) == '{"a": 0}'
        engine = ScriptedEngine()
        predicted(ask(("user", "x"), config=stack(structured={"type": "gbnf", "gbnfGrammar": 'root ::= "a"'})), engine)
        assert engine.calls[0].sampling.grammar == 'root ::= "a"'

    def test_tool_call_is_told_step_by_step(self) -> None:
        engine = ScriptedEngine()
        engine.say('[TOOL_REQUEST]{"name": "add", "arguments": {"a": 1, "b": 2}}[END_TOOL_REQUEST]')
        got = predicted(ask(("user", "1+2"), config=stack(tools={"type": "toolArray", "tools": [TOOL]})), engine)
        assert got.types == [
            "promptProcessingProgress",
            "toolCallGenerationStart",
            "toolCallGenerationNameReceived",
            "toolCallGenerationArgumentFragmentGenerated",
            "toolCallGenerationEnd",
            "success",
        ]
        (start,), (end,) = got.of("toolCallGenerationStart"), got.of("toolCallGenerationEnd")
        arguments = "".join(one["content"] for one in got.of("toolCallGenerationArgumentFragmentGenerated"))
        assert arguments == '{"a": 1, "b": 2}'
        assert end["toolCallRequest"] == {
            "id": start["toolCallId"],
            "type": "function",
            "name": "add",
            "arguments": {"a": 1, "b": 2},
        }
        assert end["rawContent"] == '{"name": "add", "arguments": {"a": 1, "b": 2}}'
        assert got.of("success")[0]["stats"]["stopReason"] == "toolCalls"
        assert '"Add two numbers"' in engine.calls[0].prompt

    def test_tool_call_that_is_none_fails_by_itself(self) -> None:
        engine = ScriptedEngine()
        engine.say("[TOOL_REQUEST]oops[END_TOOL_REQUEST]")
        got = predicted(ask(("user", "x"), config=stack(tools={"type": "toolArray", "tools": [TOOL]})), engine)
        (failed,) = got.of("toolCallGenerationFailed")
        assert failed["error"]["title"].startswith("Failed to parse tool call")
        assert failed["rawContent"] == "oops"
        assert got.of("success")

    def test_tool_choice_forces_or_forbids_a_call(self) -> None:
        tools = {"type": "toolArray", "tools": [TOOL]}
        required = stack(tools=tools, toolChoice={"type": "generic", "mode": "required"})
        assert predicted(ask(("user", "hi"), config=required)).of("toolCallGenerationEnd")
        none = stack(tools=tools, toolChoice={"type": "generic", "mode": "none"})
        engine = ScriptedEngine()
        predicted(ask(("user", "add"), config=none), engine)
        assert "Add two numbers" not in engine.calls[0].prompt

    def test_rounds_of_tools_are_in_the_prompt(self) -> None:
        call = {"id": "1", "type": "function", "name": "add", "arguments": {"a": 1, "b": 2}}
        engine = ScriptedEngine()
        predicted(
            ask(
                ("user", "1+2"),
                {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": call}]},
                {"role": "tool", "content": [{"type": "toolCallResult", "content": "3", "toolCallId": "1"}]},
                config=stack(tools={"type": "toolArray", "tools": [TOOL]}),
            ),
            engine,
        )
        prompt = engine.calls[0].prompt
        assert '[TOOL_REQUEST]{"name": "add", "arguments": {"a": 1, "b": 2}}[END_TOOL_REQUEST]' in prompt
        assert "<|im_start|>tool\n3<|im_end|>" in prompt

    def test_cancel_ends_with_success(self) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Text("on and on " * 500))

        async def test(server: LookalikeServer, socket: Socket) -> None:
            number = await socket.open("predict", ask(("user", "x")))
            await until(lambda: engine.calls and len(engine.calls[0].generated) > 2)
            await socket.say(number, {"type": "cancel"})
            (got,) = await socket.finish(number)
            assert got.error is None
            stats = got.of("success")[0]["stats"]
            assert stats["stopReason"] == "userStopped"
            assert stats["predictedTokensCount"] == len(engine.calls[0].generated)
            assert engine.calls[0].ended == "closed"
            outputs = [one["data"] for one in server.look.log.latest if one["data"]["type"] == "llm.prediction.output"]
            assert [one["stats"]["stopReason"] for one in outputs] == ["userStopped"]

        with_llm(test, engine, context_length=8192)

    def test_cancel_while_it_waits_for_a_place_ends_with_success(self) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Stall(0.2), "slow")

        async def test(server: LookalikeServer, socket: Socket) -> None:
            first = await socket.open("predict", ask(("user", "x")))
            await until(lambda: engine.calls)
            second = await socket.open("predict", ask(("user", "y")))
            await until(lambda: server.look.catalog.instances[0].in_line == 2)
            await socket.say(second, {"type": "cancel"})
            one, two = await socket.finish(first, second)
            assert one.of("success")[0]["stats"]["stopReason"] == "eosFound"
            assert two.of("success")[0]["stats"]["stopReason"] == "userStopped"
            assert len(engine.calls) == 1

        with_llm(test, engine, parallel=1)

    @pytest.mark.parametrize("way", ["success", "error"])
    def test_model_that_is_unloaded_in_the_middle(self, way: str) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Text("on and on " * 500))

        async def test(server: LookalikeServer, socket: Socket) -> None:
            number = await socket.open("predict", ask(("user", "x")))
            await until(lambda: engine.calls and engine.calls[0].generated)
            await server.look.catalog.unload(LLM)
            (got,) = await socket.finish(number)
            assert (got.error is None) == (way == "success")
            assert [one["stats"]["stopReason"] for one in got.of("success")] == ["modelUnloaded"] * (way == "success")

        with_llm(test, engine, sdk_unloaded=way)

    def test_crash_in_the_middle_is_an_error(self) -> None:
        engine = ScriptedEngine()
        engine.say("half", Fail())
        got = predicted(ask(("user", "x")), engine)
        assert texts(got.messages)
        assert not got.of("success")
        assert got.error["title"] == "The model has crashed without additional information."

    @pytest.mark.parametrize("policy", ["truncateMiddle", "rollingWindow"])
    def test_long_chat_is_cut_by_the_policy(self, policy: str) -> None:
        engine = ScriptedEngine()
        turns = [("user" if at % 2 == 0 else "assistant", f"word {'abc ' * 20}") for at in range(9)]
        got = predicted(
            ask(("system", "Stay."), *turns, ("user", "last"), config=stack(contextOverflowPolicy=policy)),
            engine,
            context_length=128,
        )
        assert got.of("success")
        assert len(engine.calls[0].tokens) < 128
        assert ("Stay." in engine.calls[0].prompt) == (policy == "truncateMiddle")
        assert "last" in engine.calls[0].prompt

    def test_long_chat_is_refused_by_stop_at_limit(self) -> None:
        parameter = ask(("user", "abc " * 500), config=stack(contextOverflowPolicy="stopAtLimit"))
        got = predicted(parameter, context_length=128)
        assert got.error["title"].startswith("Input does not fit in context length.")

    def test_policy_of_the_sdk_is_a_switch_and_told(self) -> None:
        got = predicted(ask(("user", "x")), sdk_overflow="rollingWindow").of("success")[0]
        assert fields_of(got["predictionConfig"])["llm.prediction.contextOverflowPolicy"] == "rollingWindow"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("temperature", "hot"),
            ("maxPredictedTokens", 5),
            ("maxPredictedTokens", {"checked": True, "value": 0}),
            ("stopStrings", "x"),
            ("contextOverflowPolicy", "nope"),
            ("structured", {"type": "json", "jsonSchema": 1}),
            ("tools", {"type": "toolArray", "tools": [{}]}),
        ],
    )
    def test_value_of_the_wrong_form_is_refused_by_name(self, name: str, value: Any) -> None:
        got = predicted(ask(("user", "x"), config=stack(**{name: value})))
        assert got.error["title"] == f'Invalid value for the config field "llm.prediction.{name}"'
        assert got.error["cause"]

    def test_raw_text_gets_no_template(self) -> None:
        engine = ScriptedEngine()
        parameter = {
            "modelSpecifier": query(LLM),
            "rawPrompt": "Once upon a",
            "predictionConfigStack": stack(maxPredictedTokens={"checked": True, "value": 4}),
        }
        got = predicted(parameter, engine, endpoint="completeRawText")
        assert engine.calls[0].prompt == "Once upon a"
        assert got.types == ["promptProcessingProgress", "fragment", "success"]
        same_form(SUCCESS, got.of("success")[0])

    def test_older_clients_complete_raw_text_with_a_template_of_their_own(self) -> None:
        engine = ScriptedEngine()
        template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        jinja = {"bosToken": "", "eosToken": "", "template": template, "inputConfig": {"useTools": False}}
        setting = {"type": "jinja", "jinjaPromptTemplate": jinja, "stopStrings": []}
        config = layers(("apiOverride", {}), ("completeModeFormatting", {"llm.prediction.promptTemplate": setting}))
        predicted(ask(("user", "Once upon a"), config=config), engine, model_defaults={SYSTEM_PROMPT: "Be kind."})
        assert engine.calls[0].prompt == "Once upon a"

    def test_specifier_by_reference_path_and_nothing(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            reference = server.look.catalog.instances[0].reference
            for specifier in (
                {"type": "instanceReference", "instanceReference": reference},
                {"type": "query", "query": {"path": "scripted/scripted-7b-instruct-GGUF"}},
                {"type": "query", "query": {"vision": False, "domain": "llm", "deviceIdentifier": None}},
                {"type": "query", "query": {}},
            ):
                got = await socket.channel("predict", {**ask(("user", "x")), "modelSpecifier": specifier})
                assert got.of("success")[0]["modelInfo"]["identifier"] == LLM
            for specifier in (
                {"type": "query", "query": {"vision": True}},
                {"type": "query", "query": {"deviceIdentifier": "another"}},
                {"type": "query", "query": {"domain": "embedding"}},
            ):
                got = await socket.channel("predict", {**ask(("user", "x")), "modelSpecifier": specifier})
                assert got.error["displayData"]["code"] == "generic.noModelMatchingQuery"
            await server.look.catalog.unload(LLM)
            parameter = {"modelSpecifier": {"type": "instanceReference", "instanceReference": reference}}
            got = await socket.channel("predict", {**ask(("user", "x")), **parameter})
            assert got.error["displayData"] == {"code": "generic.specificModelUnloaded"}

        with_llm(test)


class TestTextOfLlm:
    def test_template_is_applied_as_a_prediction_would(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            parameter = {
                "specifier": query(LLM),
                "history": history(("user", "User message 1")),
                "predictionConfigStack": stack(),
                "opts": {"omitBosToken": False},
            }
            got = await socket.result("applyPromptTemplate", parameter)
            assert got == {"formatted": "<|im_start|>user\nUser message 1<|im_end|>\n<|im_start|>assistant\n"}

        with_llm(test)

    def test_options_add_tools_and_omit_tokens(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            async def formatted(template: str = "", **options: Any) -> str:
                jinja = {"type": "jinja", "jinjaPromptTemplate": {"template": template}, "stopStrings": []}
                parameter = {
                    "specifier": query(LLM),
                    "history": history(("user", "hi")),
                    "predictionConfigStack": stack(promptTemplate=jinja) if template else stack(),
                    "opts": options,
                }
                text = (await socket.result("applyPromptTemplate", parameter))["formatted"]
                assert isinstance(text, str)
                return text

            assert '"Add two numbers"' in await formatted(toolDefinitions=[TOOL])
            with_eos = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
            assert await formatted(with_eos) == "hi<|im_end|>"
            assert await formatted(with_eos, omitEosToken=True, omitBosToken=True) == "hi"

        with_llm(test)

    def test_broken_template_is_an_error(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            jinja = {"type": "jinja", "jinjaPromptTemplate": {"template": "{% if %}"}, "stopStrings": []}
            parameter = {
                "specifier": query(LLM),
                "history": history(("user", "hi")),
                "predictionConfigStack": stack(promptTemplate=jinja),
                "opts": {},
            }
            assert "jinja" in (await socket.error("applyPromptTemplate", parameter))["title"].lower()

        with_llm(test)

    def test_tokens_are_the_models(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            parameter = {"specifier": query(LLM), "inputString": "Chaos is a ladder."}
            tokens = await server.look.catalog.instances[0].loaded.tokenize("Chaos is a ladder.")
            assert await socket.result("tokenize", parameter) == {"tokens": tokens}
            assert await socket.result("countTokens", parameter) == {"tokenCount": len(tokens)}

        with_llm(test)

    def test_draft_model_that_is_not_there_is_refused(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            parameter = {"specifier": query(LLM), "draftModelKey": LLM}
            assert await socket.result("preloadDraftModel", parameter) is None
            got = await socket.error("preloadDraftModel", {**parameter, "draftModelKey": "nope"})
            assert got["displayData"]["code"] == "generic.pathNotFound"

        with_llm(test)


class TestModels:
    def test_load_tells_its_progress_and_honours_its_settings(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                parameter = {
                    "modelKey": LLM,
                    "identifier": "q05",
                    "ttlMs": 3600000,
                    "loadConfigStack": layers(
                        (
                            "apiOverride",
                            {
                                "llm.load.contextLength": 8192,
                                "llm.load.numParallelSessions": 2,
                                "llm.load.llama.acceleration.offloadRatio": "max",
                                "llm.load.seed": {"checked": True, "value": 42},
                            },
                        )
                    ),
                }
                got = await socket.channel("loadModel", parameter)
                assert got.types == ["resolved", "progress", "success"]
                same_form({"type": "resolved", "info": LLM_INFO}, got.messages[0])
                progress = [one["progress"] for one in got.of("progress")]
                assert progress == sorted(set(progress))
                assert progress[0] == 0
                assert progress[-1] == 1
                info = got.of("success")[0]["info"]
                same_form(INSTANCE, info)
                assert (info["identifier"], info["ttlMs"], info["contextLength"]) == ("q05", 3600000, 8192)
                assert server.look.catalog.instances[0].parallel == 2
                config = fields_of(await socket.result("getLoadConfig", {"specifier": query("q05")}))
                assert config["llm.load.contextLength"] == 8192
                assert config["llm.load.llama.acceleration.offloadRatio"] == "max"
                again = await socket.channel("loadModel", {**parameter, "identifier": "another"})
                assert again.of("success")[0]["info"]["identifier"] == "another"
                assert [one["identifier"] for one in await socket.result("listLoaded")] == ["q05", "another"]

        run(test)

    def test_load_by_a_path_that_fits_several_names_them(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                got = await socket.channel("loadModel", {"modelKey": "scripted", "loadConfigStack": layers()})
                assert len(got.of("resolved")[0]["ambiguous"]) == 2

        run(test)

    def test_load_that_is_cancelled_loads_nothing(self) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.loading[LLM] = Loading(seconds=30)

        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                for endpoint, name in (("loadModel", "modelKey"), ("getOrLoad", "identifier")):
                    number = await socket.open(endpoint, {name: LLM, "loadConfigStack": layers()})
                    await socket.receive()
                    await socket.say(number, {"type": "cancel"})
                    got = (await socket.finish(number))[0]
                    assert not {"success", "loadSuccess"} & set(got.types)
                    assert server.look.catalog.instances == []

        run(test, engine)

    def test_load_that_fails_says_why(self) -> None:
        engine = ScriptedEngine()
        engine.loading[LLM] = Loading(fail="no memory left")

        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                got = await socket.channel("loadModel", {"modelKey": LLM, "loadConfigStack": layers()})
                assert "no memory left" in got.error["title"]

        run(test, engine)

    def test_get_or_load_loads_once_and_evicts_the_former_one(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                parameter = {"identifier": LLM, "loadTtlMs": 60000, "loadConfigStack": layers()}
                got = await socket.channel("getOrLoad", parameter)
                assert got.types == ["startLoading", "loadProgress", "loadSuccess"]
                same_form({"type": "startLoading", "identifier": LLM, "info": LLM_INFO}, got.messages[0])
                same_form({"type": "loadSuccess", "info": INSTANCE}, got.messages[-1])
                assert got.messages[-1]["info"]["ttlMs"] == 60000
                got = await socket.channel("getOrLoad", parameter)
                assert got.types == ["alreadyLoaded"]
                same_form({"type": "alreadyLoaded", "info": INSTANCE}, got.messages[0])
                got = await socket.channel("getOrLoad", {"identifier": VLM, "loadConfigStack": layers()})
                assert got.types == ["unloadingOtherJITModel", "startLoading", "loadProgress", "loadSuccess"]
                same_form({"type": "unloadingOtherJITModel", "info": INSTANCE}, got.messages[0])
                assert [one.identifier for one in server.look.catalog.instances] == [VLM]

        run(test, jit=False)  # that setting is for requests over HTTP

    def test_two_at_once_share_one_load(self) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.loading[LLM] = Loading(seconds=0.1)

        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                parameter = {"identifier": LLM, "loadConfigStack": layers()}
                numbers = [await socket.open("getOrLoad", parameter) for _ in range(2)]
                ends = {got.messages[-1]["type"] for got in await socket.finish(*numbers)}
                assert ends == {"loadSuccess", "alreadyLoaded"}
                assert len(server.look.catalog.instances) == 1

        run(test, engine)

    def test_unknown_models_and_those_of_the_other_kind_are_refused(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                for endpoint, name in (("loadModel", "modelKey"), ("getOrLoad", "identifier")):
                    got = await socket.channel(endpoint, {name: "nope", "loadConfigStack": layers()})
                    assert got.error["displayData"]["code"] == "generic.pathNotFound"
                    assert got.error["displayData"]["totalModels"] == 2
                    got = await socket.channel(endpoint, {name: EMBEDDING, "loadConfigStack": layers()})
                    assert got.error["displayData"]["code"] == "generic.domainMismatch"
                    assert got.error["displayData"]["actualDomain"] == "embedding"
                got = await socket.error("unloadModel", {"identifier": "nope"})
                assert got["displayData"] == {
                    "code": "generic.identifierNotFound",
                    "identifier": "nope",
                    "loadedModelsSample": [],
                    "totalLoadedModels": 0,
                }

        run(test)

    def test_what_is_known_of_a_loaded_model(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            loaded = await socket.result("listLoaded")
            same_form([INSTANCE], loaded)
            parameter = {"specifier": query(LLM), "throwIfNotFound": False}
            assert await socket.result("getModelInfo", parameter) == loaded[0]
            same_form(
                {"status": "generating", "queued": 1}, await socket.result("getInstanceProcessingState", parameter)
            )
            base = await socket.result("getBasePredictionConfig", {"specifier": query(LLM)})
            same_form(CONFIG, base)
            assert fields_of(base)["llm.prediction.temperature"] == 0.8

        with_llm(test)

    def test_model_that_is_not_there_is_nothing_or_an_error(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            parameter = {"specifier": query("foo"), "throwIfNotFound": False}
            for endpoint in ("getModelInfo", "getInstanceProcessingState"):
                got = await socket.rpc(endpoint, parameter)
                assert list(got) == ["type", "callId"]
                error = await socket.error(endpoint, {**parameter, "throwIfNotFound": True})
                same_form(ERROR, error)
                assert error["displayData"] == {
                    "code": "generic.noModelMatchingQuery",
                    "query": {"identifier": "foo"},
                    "loadedModelsSample": [LLM],
                    "totalLoadedModels": 1,
                }

        with_llm(test)

    def test_unload_is_void_and_the_model_gone(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            assert list(await socket.rpc("unloadModel", {"identifier": LLM})) == ["type", "callId"]
            assert await socket.result("listLoaded") == []

        with_llm(test)

    def test_state_tells_what_a_model_does_and_how_many_wait(self) -> None:
        engine = ScriptedEngine(time=VirtualClock(real_time=True))
        engine.say(Prefill(0.01), "x", Stall(30))

        async def test(server: LookalikeServer, socket: Socket) -> None:
            parameter = {"specifier": query(LLM), "throwIfNotFound": True}
            assert await socket.result("getInstanceProcessingState", parameter) == {"status": "idle", "queued": 0}
            async with connected(server, "llm") as other:
                for _ in range(2):
                    await other.open("predict", ask(("user", "x")))
                await until(lambda: engine.calls and engine.calls[0].generated)
                got = await socket.result("getInstanceProcessingState", parameter)
                assert got == {"status": "generating", "queued": 2}

        with_llm(test, engine, parallel=1)

    def test_estimate_is_the_files_size(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "llm") as socket:
                got = await socket.result("estimateModelUsage", {"modelKey": LLM, "loadConfigStack": layers()})
                assert got["memory"]["totalBytes"] == 4_368_439_584
                assert got["memory"]["confidence"] == "low"

        run(test)


class TestEmbedding:
    def test_embedding_is_the_engines_and_nothing_more_is_known(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "embedding") as socket:
                parameter = {"identifier": EMBEDDING, "loadConfigStack": layers()}
                info = (await socket.channel("getOrLoad", parameter)).messages[-1]["info"]
                assert info["type"] == "embedding"
                assert "vision" not in info
                assert info["contextLength"] == 2048
                wanted, _ = await server.look.catalog.instances[0].loaded.embed("hi")
                got = await socket.result("embedString", {"modelSpecifier": query(EMBEDDING), "inputString": "hi"})
                assert got == {"embedding": wanted}
                got = await socket.result("countTokens", {"specifier": query(EMBEDDING), "inputString": "hi"})
                assert got == {"tokenCount": 1}
                got = await socket.result("getBasePredictionConfig", {"specifier": query(EMBEDDING)})
                assert got == {"fields": []}
                assert server.look.catalog.instances[0].in_line == 0

        run(test)

    def test_text_that_is_too_long_is_an_error(self) -> None:
        async def test(server: LookalikeServer) -> None:
            await load(server, EMBEDDING)
            async with connected(server, "embedding") as socket:
                parameter = {"modelSpecifier": query(EMBEDDING), "inputString": "abc " * 5000}
                assert "tokens" in (await socket.error("embedString", parameter))["title"]

        run(test)


class TestSystem:
    def test_models_versions_and_flags(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "system") as socket:
                models = await socket.result("listDownloadedModels")
                same_form([LLM_INFO], models[:2])
                assert models[2]["type"] == "embedding"
                assert await socket.result("listDownloadedModelVariants", {"modelKey": LLM}) == models[:1]
                assert await socket.result("version") == {"version": "0.4.21", "build": 2}
                got = await socket.result("info")
                assert got == {"pid": os.getpid(), "isDaemon": False, "version": "0.4.21+2"}
                assert await socket.result("setExperimentFlag", {"code": "x", "value": True}) is None
                async with connected(server, "system", client="guest:other") as other:
                    assert await other.result("getExperimentFlags") == ["x"]
                await socket.result("setExperimentFlag", {"code": "x", "value": False})
                assert await socket.result("getExperimentFlags") == []
                await socket.result("notify", {"title": "Done", "description": "It is done."})
                assert any("Notification: Done: It is done." in line for line in logged(server))

        run(test)

    @pytest.mark.parametrize("endpoint", ["startHttpServer", "stopHttpServer", "requestShutdown"])
    def test_what_would_end_the_server_is_refused(self, endpoint: str) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "system") as socket:
                error = await socket.error(endpoint, {"port": 1234} if endpoint == "startHttpServer" else None)
                assert "imitation of LM Studio" in error["cause"]
                assert (await get(server, "/lmstudio-greeting")).json == {"lmstudio": True}

        run(test)


class TestFiles:
    def test_image_is_kept_for_its_client_and_shown_to_the_model(self) -> None:
        engine = ScriptedEngine()

        async def test(server: LookalikeServer) -> None:
            await load(server, VLM, LLM)
            content = base64.b64encode(PNG).decode()
            async with connected(server, "files") as files, connected(server, "llm") as llm:
                got = await files.result("uploadFileBase64", {"name": "a.png", "contentBase64": content})
                same_form({"identifier": "<opaque string>", "fileType": "image", "sizeBytes": 1234}, got)
                part = {"type": "file", "name": "a.png", **got}
                message = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}
                answer = await llm.channel("predict", ask(message, model=VLM))
                assert answer.of("success")
                assert "<|image|>What is it?" in engine.calls[-1].prompt
                blind = await llm.channel("predict", ask(message, model=LLM))
                assert "does not support images" in blind.error["title"]
                async with connected(server, "llm", client="guest:other") as other:
                    strange = await other.channel("predict", ask(message, model=VLM))
                    assert strange.error["title"] == 'Cannot find the file "a.png"'
            async with connected(server, "llm") as llm:  # its client was away meanwhile
                gone = await llm.channel("predict", ask(message, model=VLM))
                assert gone.error["title"] == 'Cannot find the file "a.png"'

        run(test, engine)

    @pytest.mark.parametrize(
        ("name", "content", "kind"),
        [
            ("a.png", b"x", "image"),
            ("a", PNG, "image"),
            ("a.webp", b"RIFF....WEBP", "image"),
            ("a.txt", b"x", "text/plain"),
            ("a.pdf", b"%PDF", "application/pdf"),
            ("a.DOCX", b"PK", "application/word"),
            ("a.md", "é".encode(), "text/other"),
            ("a.bin", b"\xff\xfe\x00", "unknown"),
        ],
    )
    def test_type_of_a_file(self, name: str, content: bytes, kind: str) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "files") as socket:
                parameter = {"name": name, "contentBase64": base64.b64encode(content).decode()}
                got = await socket.result("uploadFileBase64", parameter)
                assert (got["fileType"], got["sizeBytes"]) == (kind, len(content))

        run(test)

    def test_text_files_are_read_and_others_refused(self) -> None:
        engine = ScriptedEngine()

        async def test(server: LookalikeServer) -> None:
            await load(server, LLM)
            async with connected(server, "files") as files, connected(server, "llm") as llm:

                async def upload(name: str, content: bytes) -> Json:
                    parameter = {"name": name, "contentBase64": base64.b64encode(content).decode()}
                    got = await files.result("uploadFileBase64", parameter)
                    assert isinstance(got, dict)
                    return {"type": "file", "name": name, **got}

                text, pdf = await upload("a.txt", b"The sky is blue."), await upload("a.pdf", b"%PDF-1.7")
                said = {"role": "user", "content": [text, {"type": "text", "text": "Which colour?"}]}
                await llm.channel("predict", ask(said))
                assert "a.txt:\nThe sky is blue.\n\nWhich colour?" in engine.calls[-1].prompt
                refused = await llm.channel("predict", ask({"role": "user", "content": [pdf]}))
                assert refused.error["title"] == 'Cannot read the file "a.pdf"'
                parameter = {"fileIdentifier": text["identifier"], "parseOpts": {}}
                got = await files.channel("parseDocument", parameter)
                assert got.types == ["parserLoaded", "progress", "result"]
                assert got.messages[-1]["content"] == "The sky is blue."
                library = await files.result("getDocumentParsingLibrary", {"fileIdentifier": text["identifier"]})
                assert library == got.messages[-1]["parser"]
                got = await files.channel("parseDocument", {**parameter, "fileIdentifier": pdf["identifier"]})
                assert got.error["title"] == 'Cannot read the file "a.pdf"'
                got = await files.channel("parseDocument", {**parameter, "fileIdentifier": "nope"})
                assert got.error["title"] == 'Cannot find the file "nope"'

        run(test, engine)

    def test_what_is_no_base64_or_no_local_file_is_refused(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "files") as socket:
                error = await socket.error("uploadFileBase64", {"name": "a", "contentBase64": "!"})
                assert error["title"] == 'The content of "a" is not base64'
                error = await socket.error("getLocalFileAbsolutePath", {"fileName": "a"})
                assert "in memory" in error["cause"]

        run(test)

    def test_retrieval_ranks_passages_by_real_embeddings(self) -> None:
        async def test(server: LookalikeServer) -> None:
            await load(server, EMBEDDING)
            async with connected(server, "files") as socket:
                identifiers = []
                for text in ("Grass is green.", "The sky is blue today."):
                    upload = {"name": "a.txt", "contentBase64": base64.b64encode(text.encode()).decode()}
                    identifiers.append((await socket.result("uploadFileBase64", upload))["identifier"])
                config = {"fields": [{"key": "retrieval.limit", "value": 1}]}
                parameter = {"query": "The sky is blue", "fileIdentifiers": identifiers, "config": config}
                got = await socket.channel("retrieve", parameter)
                assert got.types[0] == "onFileProcessList"
                assert got.types[-3:] == ["onSearchingStart", "onSearchingEnd", "result"]
                steps = [one["step"] for one in got.of("onFileProcessingStepEnd")]
                assert steps == ["loading", "chunking", "embedding"] * 2
                (entry,) = got.messages[-1]["result"]["entries"]
                assert entry["content"] == "The sky is blue today."
                assert entry["sourceIndex"] == 1
                assert entry["lineNumber"] == [1, 1]
                loaded = server.look.catalog.instances[0].loaded
                one, other = (await loaded.embed("The sky is blue"))[0], (await loaded.embed(entry["content"]))[0]
                assert entry["score"] == pytest.approx(sum(a * b for a, b in zip(one, other, strict=True)))
                bad = {"fields": [{"key": "retrieval.limit", "value": 0}]}
                got = await socket.channel("retrieve", {**parameter, "config": bad})
                assert got.error["title"] == "Invalid retrieval settings"

        run(test)


def test_chunks_cover_the_text_overlap_and_know_their_lines() -> None:
    text = "".join(f"line {number} of a text\n" for number in range(60))
    chunks = chunks_of(text, 0, ChunkingMethod.model_validate({"chunkSize": 100, "chunkOverlap": 20}))
    at = 0
    for chunk in chunks:
        start = text.index(chunk.content, max(0, at - 20))
        assert start <= at
        assert text.count("\n", 0, start) + 1 == chunk.first_line
        at = start + len(chunk.content)
        assert len(chunk.content) <= 100
    assert at == len(text)


class TestRepository:
    def test_downloaded_models_are_the_catalog(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "repository") as socket:
                got = (await socket.result("searchModels", {"opts": {"searchTerm": "embedding", "limit": 5}}))[
                    "results"
                ]
                assert [one["name"] for one in got] == ["Scripted Embedding"]
                parameter = {"modelSearchResultIdentifier": got[0]["identifier"]}
                (option,) = (await socket.result("getModelDownloadOptions", parameter))["results"]
                assert option["sizeBytes"] == 274_290_560
                download = {"downloadIdentifier": option["downloadIdentifier"]}
                done = await socket.channel("downloadModel", download)
                assert done.messages[-1] == {"type": "success", "defaultIdentifier": EMBEDDING}
                done = await socket.channel("downloadModel", {"downloadIdentifier": "nope"})
                assert done.error["title"] == 'Cannot download "nope"'
                mlx = {"opts": {"compatibilityTypes": ["safetensors"]}}
                assert await socket.result("searchModels", mlx) == {"results": []}

        run(test)

    def test_nobody_is_logged_in(self) -> None:
        async def test(server: LookalikeServer) -> None:
            async with connected(server, "repository") as socket:
                assert await socket.result("isAuthenticated") == {"authenticated": False}
                got = await socket.result("getAuthenticationStatus")
                assert got == {"authenticationStatus": {"type": "none"}}
                assert (await socket.result("lmLinkStatus"))["status"] == "offline"
                assert "account" in (await socket.error("getWritableArtifactOwners"))["cause"]
                keys = {"keyId": "a", "publicKey": "b", "privateKey": "very secret"}
                assert "account" in (await socket.error("loginWithPreAuthenticatedKeys", keys))["cause"]
                assert not any("very secret" in line for line in logged(server))
                got = await socket.channel("ensureAuthenticated")
                assert "account" in got.error["cause"]

        run(test)


class TestDiagnostics:
    def test_log_has_four_kinds_of_events_of_every_surface_until_it_is_stopped(self) -> None:
        async def test(server: LookalikeServer) -> None:
            await load(server, LLM)
            async with connected(server, "diagnostics") as socket, connected(server, "llm") as llm:
                number = await socket.open("streamLogs")
                await socket.send({"type": "keepAlive"})
                assert await socket.receive() == {"type": "keepAliveAck"}
                await post(
                    server, "/v1/chat/completions", {"model": LLM, "messages": [{"role": "user", "content": "by http"}]}
                )
                await llm.channel("predict", ask(("user", "by socket")))
                await type_chat(server.look, "by window")
                await asyncio.sleep(0.05)
                await socket.say(number, {"type": "stop"})
                (got,) = await socket.finish(number)
                assert got.error is None
                events: dict[str, list[Any]] = {}
                for message in got.messages:
                    same_form({"type": "log", "log": {"timestamp": 1750000000123, "data": Any}}, message)
                    data = message["log"]["data"]
                    events.setdefault(data["type"], []).append(data)
                assert set(events) == {"llm.prediction.input", "llm.prediction.output", "server.log", "runtime.log"}
                same_form(
                    {"type": "", "modelIdentifier": "gemma-2-2b-it", "modelPath": "a", "input": "x"},
                    events["llm.prediction.input"][0],
                )
                same_form(
                    {"type": "", "modelIdentifier": "gemma-2-2b-it", "output": "Hello!", "stats": STATS},
                    events["llm.prediction.output"][0],
                )
                same_form({"type": "", "level": "info", "content": "x"}, events["server.log"][0])
                same_form(
                    {
                        "type": "runtime.log",
                        "level": "info",
                        "message": "...",
                        "engineName": "llama.cpp-...",
                        "engineVersion": "2.1.0",
                        "engineType": "llama.cpp",
                        "modelIdentifier": "gemma-2-2b-it",
                        "instanceReference": "...",
                        "pid": 4321,
                    },
                    events["runtime.log"][0],
                )
                inputs = [one["input"] for one in events["llm.prediction.input"]]
                assert len(inputs) == 3
                for said, way in zip(inputs, ("by http", "by socket", "by window"), strict=True):
                    assert way in said

        run(test)

    def test_predictions_stay_out_of_the_log_with_the_switch(self) -> None:
        async def test(server: LookalikeServer, socket: Socket) -> None:
            await socket.channel("predict", ask(("user", "x")))
            kinds = {event["data"]["type"] for event in server.look.log.latest}
            assert kinds == {"server.log", "runtime.log"}

        with_llm(test, prediction_log=False)


class TestWindow:
    def test_window_is_typed_into_from_another_process(self) -> None:
        async def test(server: LookalikeServer) -> None:
            got = await post(server, "/_demo/window", {"text": "hello you"})
            assert got.status == 200
            same_form({"text": "", "reasoning": "", "stats": STATS}, got.json)
            assert "hello you" in got.json["text"]
            assert any("hello you" in line for line in logged(server, "llm.prediction.input"))
            for body in ({}, {"text": 1}, {"text": ""}, b"[]"):
                assert (await post(server, "/_demo/window", body)).status == 400

        run(test, window=True, jit=False)

    def test_window_is_an_unknown_route_unless_it_is_asked_for(self) -> None:
        async def test(server: LookalikeServer) -> None:
            got = await post(server, "/_demo/window", {"text": "hello"})
            assert got.json == {"error": "Unexpected endpoint or method. (POST /_demo/window)"}
            assert not server.look.catalog.instances

        run(test)


def test_history_comes_back_from_messages_as_it_was() -> None:
    call = {"id": "1", "type": "function", "name": "add", "arguments": {"a": 1}}
    data = history(
        ("system", "Be brief."),
        ("user", "1+1?"),
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hm."}, {"type": "toolCallRequest", "toolCallRequest": call}],
        },
        {
            "role": "tool",
            "content": [
                {"type": "toolCallResult", "content": "2", "toolCallId": "1"},
                {"type": "toolCallResult", "content": "3", "toolCallId": "2", "name": "sub"},
            ],
        },
        ("assistant", "2"),
    )
    messages: list[Message] = messages_of(History.model_validate(data), {})
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert history_of(messages) == data


def test_real_model_tells_its_own_text_counts_and_prompt(smollm2: Path, tmp_path: Path) -> None:
    """Greedy, so that two runs are the same; the tokens add up to the model's own count."""

    async def test(server: LookalikeServer) -> None:
        key = SMOLLM2.name
        async with connected(server, "llm") as socket:
            await socket.channel("getOrLoad", {"identifier": key, "loadConfigStack": layers()})
            config = stack(temperature=0, maxPredictedTokens={"checked": True, "value": 12})
            parameter = ask(("user", "What is the capital of France?"), model=key, config=config)
            first, second = await socket.channel("predict", parameter), await socket.channel("predict", parameter)
            text = texts(first.messages)
            assert text == texts(second.messages)
            assert "Paris" in text
            success = first.of("success")[0]
            same_form(SUCCESS, success)
            formatted = (
                await socket.result(
                    "applyPromptTemplate",
                    {
                        "specifier": query(key),
                        "history": parameter["history"],
                        "predictionConfigStack": stack(),
                        "opts": {},
                    },
                )
            )["formatted"]
            assert logged(server, "llm.prediction.input")[0] == formatted
            counted = await socket.result("countTokens", {"specifier": query(key), "inputString": formatted})
            assert success["stats"]["promptTokensCount"] == counted["tokenCount"]
            details = second.of("promptProcessingProgress")[-1]["details"]
            assert details["totalPromptTokenCount"] == counted["tokenCount"]

    async def main() -> None:
        async with running(LlamaEngine([smollm2], [SMOLLM2.name], log_folder=tmp_path)) as server:
            await test(server)

    asyncio.run(main())


def test_runtime_tells_the_engine_and_that_it_is_selected() -> None:
    async def test(server: LookalikeServer) -> None:
        engine = server.look.engine
        async with connected(server, "runtime") as socket:
            (told,) = await socket.result("listEngines")
            assert (told["name"], told["version"], told["engine"]) == (engine.name, engine.version, "llama.cpp")
            assert told["supportedModelFormatNames"] == ["GGUF"]
            selected = await socket.result("getEngineSelections")
            assert selected["meta"] == {"values": ["map"]}
            assert selected["json"] == [["GGUF", {"name": engine.name, "version": engine.version}]]
            await socket.send({"type": "rpcCall", "endpoint": "selectEngine", "callId": 99})
            assert (await socket.receive())["kind"] == "rpcEndpointUnknown"

    run(test)
