"""A draft model's counters on every surface that tells them; the real engine has none."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.model import SMOLLM2
from proxy.demo.script import Draft, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post, running, stream
from tests.demo.sdk_client import LLM, VLM, ask, connected, load, query, stack, texts

CHAT = {"model": LLM, "messages": [{"role": "user", "content": "hi"}], "draft_model": VLM}
COUNTERS = {
    "draft_model": VLM,
    "total_draft_tokens_count": 7,
    "accepted_draft_tokens_count": 4,
    "rejected_draft_tokens_count": 3,
    "ignored_draft_tokens_count": 0,
}
"""The numbers of the SDK's own test."""


def run(test: Callable[[LookalikeServer], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        for _ in range(2):
            engine.say(Draft(rejected=3), "One ", Text("two three four five", is_drafted=True))
        async with running(engine) as server:
            await test(server)

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v0/chat/completions"])
def test_counters_are_in_the_stats_over_http(path: str) -> None:
    async def test(server: LookalikeServer) -> None:
        stats = (await post(server, path, CHAT)).json["stats"]
        assert {name: stats.get(name) for name in COUNTERS} == COUNTERS
        events = await stream(server, path, {**CHAT, "stream": True})
        told = [data["stats"] for _, data in events if "stats" in data and data != "[DONE]"]
        assert [{name: one[name] for name in COUNTERS} for one in told] == ([COUNTERS] if "v0" in path else [])

    run(test)


def test_counters_and_fragments_of_the_sdk_agree() -> None:
    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        async with connected(server, "llm") as socket:
            config = stack(speculativeDecoding__draftModel=VLM)
            got = await socket.channel("predict", ask(("user", "hi"), config=config))
            stats = got.messages[-1]["stats"]
            assert {name: value for name, value in stats.items() if "raft" in name} == {
                "usedDraftModelKey": VLM,
                "totalDraftTokensCount": 7,
                "acceptedDraftTokensCount": 4,
                "rejectedDraftTokensCount": 3,
                "ignoredDraftTokensCount": 0,
            }
            drafted = [one for one in got.of("fragment") if one["fragment"]["containsDrafted"]]
            assert texts(drafted) == "two three four five"
            assert sum(one["fragment"]["tokensCount"] for one in drafted) == 4

    run(test)


def test_without_a_draft_model_there_are_no_counters() -> None:
    async def main() -> None:
        async with running() as server:
            body = {name: value for name, value in CHAT.items() if name != "draft_model"}
            assert (await post(server, "/v1/chat/completions", body)).json["stats"] == {}
            with_draft = (await post(server, "/v1/chat/completions", CHAT)).json
            assert with_draft["stats"]["accepted_draft_tokens_count"] > 0  # the default script takes it as well

    asyncio.run(main())


def test_real_engine_refuses_a_draft_model_on_every_surface(smollm2: Path, tmp_path: Path) -> None:
    key = SMOLLM2.name

    async def main() -> None:
        engine = LlamaEngine([smollm2], [key], log_folder=tmp_path)
        async with running(engine) as server, connected(server, "llm") as socket:
            for path in ("/v1/chat/completions", "/api/v0/chat/completions"):
                got = await post(server, path, {**CHAT, "model": key, "draft_model": key})
                assert (got.status, "speculative decoding" in got.json["error"]) == (400, True)
            await load(server, key)
            config = stack(speculativeDecoding__draftModel=key)
            predicted = await socket.channel("predict", ask(("user", "hi"), model=key, config=config))
            preloaded = await socket.error("preloadDraftModel", {"specifier": query(key), "draftModelKey": key})
            for error in (predicted.error, preloaded):
                shown: dict[str, Any] = error["displayData"]
                assert shown["code"] == "generic.engineDoesNotSupportFeature"
                assert shown["engineName"] == engine.name

    asyncio.run(main())
