"""Settings of reasoning, as each surface calls them, reach the model's template and the model."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post, running
from tests.demo.sdk_client import LLM, ask, connected, history, load, query, stack

HI = [{"role": "user", "content": "hi"}]
CHAT = ("/v1/chat/completions", {"messages": HI})
V1_CHAT = ("/api/v1/chat", {"input": "hi"})
RESPONSES = ("/v1/responses", {"input": "hi"})
MESSAGES = ("/v1/messages", {"messages": HI, "max_tokens": 100})
THOUGHT = "The last message is from the user."


def run(test: Callable[[LookalikeServer, ScriptedEngine], Awaitable[None]]) -> None:
    engine = ScriptedEngine()

    async def main() -> None:
        async with running(engine) as server:
            await test(server, engine)

    asyncio.run(main())


def thought_over_http(call: tuple[str, dict[str, Any]], **fields: Any) -> tuple[str, str]:
    """What the model thought, and the prompt it saw."""
    found = []

    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        path, body = call
        got = await post(server, path, {"model": LLM, **body, **fields})
        assert got.status == 200, got
        found.append((_thought(got.json), engine.calls[0].prompt))

    run(test)
    return found[0]


def _thought(answer: Any) -> str:
    if "choices" in answer:
        return str(answer["choices"][0]["message"].get("reasoning_content", ""))
    for item in answer.get("output", answer.get("content", ())):
        if item["type"] == "thinking":
            return str(item["thinking"])
        if item["type"] == "reasoning":
            return str(item["content"] if isinstance(item["content"], str) else item["content"][0]["text"])
    return ""


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (CHAT, {"reasoning_effort": "none"}),
        (V1_CHAT, {"reasoning": "off"}),
        (RESPONSES, {"reasoning": {"effort": "none"}}),
        (MESSAGES, {"thinking": {"type": "disabled"}}),
    ],
)
def test_reasoning_that_is_off_is_off_on_every_surface(call: tuple[str, Any], fields: Any) -> None:
    assert thought_over_http(call)[0] == THOUGHT
    thought, prompt = thought_over_http(call, **fields)
    assert thought == ""
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("call", "fields"),
    [(CHAT, {"reasoning_effort": "high"}), (RESPONSES, {"reasoning": {"effort": "high"}})],
)
def test_level_of_reasoning_is_told_to_the_model(call: tuple[str, Any], fields: Any) -> None:
    thought, prompt = thought_over_http(call, **fields)
    assert thought == f"{THOUGHT} Effort: high."
    assert prompt.startswith("<|im_start|>system\nReasoning: high\n<|im_end|>\n")


def test_budget_of_messages_limits_the_thought() -> None:
    assert thought_over_http(MESSAGES, thinking={"type": "enabled", "budget_tokens": 3})[0] == "The last messag"


def test_budget_that_is_no_number_is_refused() -> None:
    async def test(server: LookalikeServer, _: ScriptedEngine) -> None:
        path, body = MESSAGES
        got = await post(server, path, body | {"thinking": {"type": "enabled", "budget_tokens": "much"}})
        assert (got.status, got.json["error"]["message"][:22]) == (400, "thinking.budget_tokens")

    run(test)


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({}, THOUGHT),
        ({"reasoning__enableThinking": False}, ""),
        ({"reasoning__budgetTokens": {"checked": True, "value": 3}}, "The last messag"),
        ({"reasoning__budgetTokens": {"checked": False, "value": 3}}, THOUGHT),
    ],
)
def test_the_sdks_settings_have_their_effect_and_are_told(fields: dict[str, Any], thought: str) -> None:
    async def test(server: LookalikeServer, _: ScriptedEngine) -> None:
        await load(server, LLM)
        async with connected(server, "llm") as socket:
            got = await socket.channel("predict", ask(("user", "hi"), config=stack(**fields)))
            fragments = [message["fragment"] for message in got.of("fragment")]
            assert "".join(one["content"] for one in fragments if one["reasoningType"] == "reasoning") == thought
            told = {one["key"]: one["value"] for one in got.messages[-1]["predictionConfig"]["fields"]}
            for name, value in fields.items():
                assert told[f"llm.prediction.{name.replace('__', '.')}"] == value
            parameter = {
                "specifier": query(LLM),
                "history": history(("user", "hi")),
                "predictionConfigStack": stack(**fields),
                "opts": {},
            }
            rendered = await socket.result("applyPromptTemplate", parameter)
            assert rendered["formatted"].endswith("</think>\n\n") == (not thought)

    run(test)


def test_real_engine_tells_templates_both(smollm2: Path, tmp_path: Path) -> None:
    async def main() -> None:
        engine = LlamaEngine([smollm2], log_folder=tmp_path)
        model = await engine.load(engine.models[0], context_length=256, parallel=1, on_progress=lambda _: None)
        try:
            variables = {"enable_thinking": False, "reasoning_effort": "low"}
            own = await model.render(HI)
            assert await model.render(HI, variables=variables) == own  # llama.cpp takes them; this template knows none
            template = "{{ enable_thinking }} {{ reasoning_effort }}"
            assert await model.render(HI, template=template, variables=variables) == "False low"
        finally:
            await model.unload()

    asyncio.run(main())
