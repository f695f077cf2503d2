"""/api/v0 against the samples of LM Studio's documentation; the statistics are what the engine really did."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.script import Prefill, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import get, post, running, stream
from tests.demo.openai_calls import CHAT_ID, EMBEDDER, LLM, VLM, chunk, hi, refusal, run
from tests.demo.samples import same_form

CHAT, COMPLETIONS = "/api/v0/chat/completions", "/api/v0/completions"
ROW = {
    "id": "meta-llama-3.1-8b-instruct",
    "object": "model",
    "type": re.compile("llm|vlm|embeddings"),
    "publisher": "lmstudio-community",
    "arch": "llama",
    "compatibility_type": re.compile("gguf|mlx"),
    "quantization": "Q4_K_M",
    "state": re.compile("loaded|not-loaded"),
    "max_context_length": 131072,
    "loaded_context_length": 8192,
    "capabilities": [re.compile("tool_use")],
}
NOT_ALWAYS = ("loaded_context_length", "capabilities")
STATS = {
    "tokens_per_second": 51.43709529007664,
    "time_to_first_token": 0.111,
    "generation_time": 0.954,
    "stop_reason": re.compile("eosFound|maxPredictedTokensReached|stopStringFound|toolCalls"),
}
ADDED = {
    "usage": {"prompt_tokens": 24, "completion_tokens": 53, "total_tokens": 77},
    "stats": STATS,
    "model_info": {"arch": "granite", "quant": "Q4_K_M", "format": re.compile("gguf"), "context_length": 4096},
}
WHOLE = {
    "id": CHAT_ID,
    "object": re.compile(r"chat\.completion"),
    "created": 1731990317,
    "model": "granite-3.0-2b-instruct",
    "choices": [
        {
            "index": 0,
            "logprobs": None,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Greetings, I'm a helpful AI ..."},
        }
    ],
    **ADDED,
    "runtime": {"name": "llama.cpp-mac-arm64-apple-metal-advsimd", "version": "1.3.0", "supported_formats": ["gguf"]},
}
COMPLETION = {
    **WHOLE,
    "id": re.compile("cmpl-[a-z0-9]{20,22}"),
    "object": re.compile("text_completion"),
    "choices": [{"index": 0, "text": " to find your purpose", "logprobs": None, "finish_reason": "length"}],
}


def test_models_are_listed_as_in_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(VLM, context_length=1234)
        got = (await get(server, "/api/v0/models")).json
        same_form({"data": [ROW], "object": "list"}, got, optional=NOT_ALWAYS)
        rows = {row["id"]: row for row in got["data"]}
        assert [rows[key]["type"] for key in (LLM, VLM, EMBEDDER)] == ["llm", "vlm", "embeddings"]
        assert [rows[key]["state"] for key in (LLM, VLM, EMBEDDER)] == ["not-loaded", "loaded", "not-loaded"]
        assert rows[VLM]["loaded_context_length"] == 1234
        assert "loaded_context_length" not in rows[LLM]
        assert [key for key in rows if "capabilities" in rows[key]] == [LLM]

    run(test)


def test_models_without_jit_are_all_listed_and_instances_one_by_one() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(LLM)
        await server.look.catalog.load(LLM)
        rows = (await get(server, "/api/v0/models")).json["data"]
        assert [row["id"] for row in rows] == [LLM, f"{LLM}:2", VLM, EMBEDDER]

    run(test, jit=False)


def test_old_version_tells_no_capabilities() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert all("capabilities" not in row for row in (await get(server, "/api/v0/models")).json["data"])

    run(test, version="0.3.15")


def test_one_model_by_id_and_by_variant() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for name in (LLM, f"{LLM}@q4_k_m", f"{LLM}%40q4_k_m"):
            got = await get(server, f"/api/v0/models/{name}")
            same_form(ROW, got.json, optional=NOT_ALWAYS)
            assert got.json["id"] == LLM
        got = await get(server, "/api/v0/models/org/name@q4")
        assert got.status == 404
        same_form({"error": "text"}, got.json)

    run(test)


def test_chat_has_the_form_of_the_documentation_and_the_engines_numbers() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(Prefill(2.0), Text("one two four five", delay_s=0.25))
        got = (await post(server, CHAT, hi())).json
        same_form(WHOLE, got)
        call = engine.calls[0]
        assert got["usage"]["prompt_tokens"] == len(call.tokens)
        assert got["usage"]["completion_tokens"] == 5
        assert got["stats"] == {
            "tokens_per_second": pytest.approx(5 / 1.0),
            "time_to_first_token": pytest.approx(2.25),
            "generation_time": pytest.approx(1.0),
            "stop_reason": "eosFound",
        }
        assert got["model_info"] == {
            "arch": "scripted",
            "quant": "Q4_K_M",
            "format": "gguf",
            "context_length": server.look.catalog.instances[0].loaded.context_length,
        }
        assert got["runtime"] == {"name": engine.name, "version": engine.version, "supported_formats": ["gguf"]}

    run(test, context_length=4000)


def test_statistics_of_nothing_are_left_out() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say()
        stats = (await post(server, CHAT, hi())).json["stats"]
        assert "time_to_first_token" not in stats
        assert stats["stop_reason"] == "eosFound"

    run(test)


def test_stop_reason_is_in_the_sdks_words() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        for fields, finish, reason in (
            ({"max_tokens": 2}, "length", "maxPredictedTokensReached"),
            ({"stop": "two"}, "stop", "stopStringFound"),
        ):
            engine.say("one two four five")
            got = (await post(server, CHAT, hi(**fields))).json
            assert (got["choices"][0]["finish_reason"], got["stats"]["stop_reason"]) == (finish, reason)

    run(test)


@pytest.mark.parametrize("includes_usage", [True, False])
def test_statistics_of_a_stream_are_on_the_last_chunk(includes_usage: bool) -> None:
    body = hi(stream=True, stream_options={"include_usage": includes_usage})
    bare = {name: value for name, value in chunk({}, "stop").items() if name != "choices"}

    async def on_finish(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("one two")
        events = [data for _, data in await stream(server, CHAT, body)]
        assert events[-1] == "[DONE]"
        (last,) = [data for data in events[:-1] if "stats" in data]
        same_form({**chunk({}, "stop"), **ADDED}, last)
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["usage"]["completion_tokens"] == 3

    async def extra(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say("one two")
        events = [data for _, data in await stream(server, CHAT, body)]
        *_, finish, last, done = events
        same_form(chunk({}, "stop"), finish)
        same_form({**bare, "choices": [], **ADDED}, last)
        assert last["choices"] == []
        assert done == "[DONE]"

    run(on_finish)
    run(extra, v0_stats="extra")


def test_completion_has_the_form_of_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(" to find your purpose and more of it, and then some more of it")
        got = (await post(server, COMPLETIONS, {"prompt": "the meaning of life is", "max_tokens": 10})).json
        same_form(COMPLETION, got)
        assert got["choices"][0]["finish_reason"] == "length"
        assert got["stats"]["stop_reason"] == "maxPredictedTokensReached"
        assert got["usage"]["completion_tokens"] == 9  # as in the sample, by the switch
        events = [data for _, data in await stream(server, COMPLETIONS, {"prompt": "life is", "stream": True})]
        head = {name: COMPLETION[name] for name in ("id", "object", "created", "model", "choices")}
        same_form({**head, **ADDED}, events[-2])

    run(test, length_counts_one_less=True)


def test_embeddings_are_those_of_v1() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        body = {"model": EMBEDDER, "input": ["a", "b"]}
        assert (await post(server, "/api/v0/embeddings", body)).json == (
            await post(server, "/v1/embeddings", body)
        ).json
        assert (await refusal(server, "/api/v0/embeddings", {"input": 1}))[0] == 400

    run(test)


def test_statistics_of_a_real_model_agree_with_its_log(smollm2: Path, tmp_path: Path) -> None:
    """Times and counts are those that llama.cpp logs itself."""
    engine = LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path)

    async def main() -> None:
        async with running(engine) as server:
            body: dict[str, Any] = {**hi(model="smollm2-135m-instruct"), "max_tokens": 16, "temperature": 0}
            got = (await post(server, CHAT, body)).json
            same_form(WHOLE, got)
            told = [
                event["data"]["message"] for event in server.look.log.latest if event["data"]["type"] == "runtime.log"
            ]
            ((eval_ms, tokens),) = re.findall(r"\neval time = ([\d.]+) ms / (\d+) tokens", "\n".join(told))
            assert got["usage"]["completion_tokens"] == int(tokens)
            assert got["stats"]["generation_time"] == pytest.approx(float(eval_ms) / 1000, abs=1e-5)
            assert got["stats"]["tokens_per_second"] == pytest.approx(int(tokens) / float(eval_ms) * 1000, rel=1e-3)
            assert got["model_info"]["arch"] == "llama"
            assert got["runtime"]["name"].startswith("llama.cpp-")

    asyncio.run(main())
