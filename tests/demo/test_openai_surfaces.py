"""/v1: models, completions and embeddings, and all of it with a real model."""

import asyncio
import base64
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import get, logged, post, running, stream
from tests.demo.openai_calls import (
    CHAT,
    COMPLETIONS,
    EMBEDDER,
    EMBEDDINGS,
    LLM,
    LONG,
    VLM,
    WHOLE,
    deltas,
    hi,
    refusal,
    run,
)
from tests.demo.samples import same_form

# GET /v1/models


def test_models_are_listed_as_in_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await get(server, "/v1/models")
        sample = {
            "data": [{"id": "google/gemma-4-e4b", "object": "model", "owned_by": "organization_owner"}],
            "object": "list",
        }
        same_form(sample, got.json)
        assert [row["id"] for row in got.json["data"]] == [LLM, VLM, EMBEDDER]
        assert any("Returning {" in line and EMBEDDER in line for line in logged(server))

    run(test)


def test_second_instance_has_a_number_and_without_jit_only_what_is_loaded_is_listed() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(LLM)
        await server.look.catalog.load(LLM)
        got = await get(server, "/v1/models")
        assert [row["id"] for row in got.json["data"]] == [LLM, f"{LLM}:2"]
        assert (await get(server, f"/v1/models/{LLM}:2")).json["id"] == f"{LLM}:2"
        assert (await post(server, CHAT, hi(model=f"{LLM}:2"))).json["model"] == f"{LLM}:2"

    run(test, jit=False)


def test_one_model_by_its_id() -> None:
    async def known(server: LookalikeServer, engine: ScriptedEngine) -> None:
        got = await get(server, f"/v1/models/{VLM}")
        assert got.json == {"id": VLM, "object": "model", "owned_by": "organization_owner"}
        assert (await get(server, "/v1/models/some/thing%40q4")).status == 404

    async def unknown(server: LookalikeServer, engine: ScriptedEngine) -> None:
        path = f"/v1/models/{VLM}"
        assert (await get(server, path)).json == {"error": f"Unexpected endpoint or method. (GET {path})"}

    run(known)
    run(unknown, v1_models_by_id=False)


# POST /v1/completions

COMPLETION = {
    "id": re.compile("cmpl-[a-z0-9]{20,22}"),
    "object": re.compile("text_completion"),
    "created": 1731990488,
    "model": "granite-3.0-2b-instruct",
    "choices": [{"index": 0, "text": " to find your purpose", "logprobs": None, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
    "stats": {},
}


def test_completion_has_the_form_of_the_documentation_and_no_template() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(" to find <think>your</think> purpose")
        got = await post(server, COMPLETIONS, {"model": LLM, "prompt": "the meaning of life is", "max_tokens": 100})
        same_form(COMPLETION, got.json)
        assert engine.calls[0].prompt == "the meaning of life is"
        assert got.json["choices"][0]["text"] == " to find <think>your</think> purpose"
        assert (await post(server, COMPLETIONS, {"prompt": ["one"]})).status == 200

    run(test)


def test_completion_streams() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        engine.say(" to find")
        body = {"prompt": "life is", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
        events = [data for _, data in await stream(server, COMPLETIONS, body)]
        head = {name: COMPLETION[name] for name in ("id", "object", "created", "model", "choices")}
        *news, last, usage, done = events
        for data in news:
            same_form({**head, "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]}, data)
        assert "".join(data["choices"][0]["text"] for data in news) == " to find"
        same_form(head, last)
        assert last["choices"][0]["finish_reason"] == "length"
        same_form({**head, "choices": [], "usage": COMPLETION["usage"]}, usage)
        assert done == "[DONE]"

    run(test)


def test_prompt_that_is_none() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        assert await refusal(server, COMPLETIONS, {}) == (400, "'prompt' field is required")
        prompts: list[Any] = [1, ["a", "b"], [1, 2], {}, []]
        for prompt in prompts:
            assert await refusal(server, COMPLETIONS, {"prompt": prompt}) == (400, "'prompt' field must be a string")

    run(test)


# POST /v1/embeddings

EMBEDDED = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [-0.016731], "index": 0}],
    "model": re.compile(f"{EMBEDDER}@f16"),
    "usage": {"prompt_tokens": 0, "total_tokens": 0},
}


def test_embeddings_have_the_form_of_the_documentation() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        one = await post(server, EMBEDDINGS, {"model": EMBEDDER, "input": "a text", "encoding_format": "base64"})
        same_form(EMBEDDED, one.json)
        assert one.json["usage"] == EMBEDDED["usage"]
        several = await post(server, EMBEDDINGS, {"model": EMBEDDER, "input": ["another", "a text"]})
        same_form(EMBEDDED, several.json)
        assert [row["index"] for row in several.json["data"]] == [0, 1]
        assert several.json["data"][1]["embedding"] == one.json["data"][0]["embedding"]
        assert (await post(server, EMBEDDINGS, {"input": []})).json["data"] == []
        assert server.look.catalog.instances[0].status == "idle"

    run(test)


def test_embeddings_may_be_base64_and_counted() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        plain = (await post(server, EMBEDDINGS, {"input": "a text"})).json
        assert plain["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
        coded = (await post(server, EMBEDDINGS, {"input": "a text", "encoding_format": "base64"})).json
        raw = base64.b64decode(coded["data"][0]["embedding"])
        numbers = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert numbers == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)

    run(test, embeddings_base64=True, embedding_usage=True)


def test_arrays_of_tokens_are_refused() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        inputs: list[Any] = [[[1, 2]], [1, 2], 3, None, {}, ["a", 1]]
        for tokens in inputs:
            assert await refusal(server, EMBEDDINGS, {"input": tokens}) == (
                400,
                "'input' field must be a string or an array of strings",
            )
        status, message = await refusal(server, EMBEDDINGS, {"input": LONG})
        assert status == 400
        assert "context" in message

    run(test)


# A real model


def test_real_model_answers_with_its_own_text_and_counts(smollm2: Path, tmp_path: Path) -> None:
    """Every number is llama.cpp's; the same seedless request at temperature 0 gives the same text streamed or not."""
    engine = LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path)

    async def main() -> None:
        async with running(engine) as server:
            body = {
                "model": "smollm2-135m-instruct",
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "temperature": 0,
                "max_tokens": 12,
            }
            whole = (await post(server, CHAT, body)).json
            same_form(WHOLE, whole, optional=("reasoning_content", "tool_calls"))
            text = whole["choices"][0]["message"]["content"]
            assert "Paris" in text
            usage = {"stream_options": {"include_usage": True}}
            events = await stream(server, CHAT, {**body, **usage, "stream": True})
            assert "".join(delta.get("content", "") for delta in deltas(events)) == text
            assert events[-2][1]["usage"] == whole["usage"]
            (instance,) = server.look.catalog.instances
            (rendered,) = {*logged(server, "llm.prediction.input")}
            assert whole["usage"]["prompt_tokens"] == len(await instance.loaded.tokenize(rendered))
            completion = (
                await post(server, COMPLETIONS, {"prompt": "One, two, three,", "max_tokens": 4, "temperature": 0})
            ).json
            same_form(COMPLETION, completion)
            assert completion["usage"]["prompt_tokens"] == len(await instance.loaded.tokenize("One, two, three,"))
            near = (await post(server, EMBEDDINGS, {"input": ["a cat", "a kitten", "tax law"]})).json["data"]
            a, b, c = (row["embedding"] for row in near)
            assert math.dist(a, b) < math.dist(a, c)

    asyncio.run(main())


def test_model_that_is_loaded_under_another_name_only_is_still_to_be_named() -> None:
    async def test(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(LLM, identifier="mine")
        for path in ("/v1/models", "/api/v0/models"):
            ids = [row["id"] for row in (await get(server, path)).json["data"]]
            assert ids[:2] == ["mine", LLM]
            assert (await get(server, f"{path}/{LLM}")).json["id"] == LLM
        states = [row["state"] for row in (await get(server, "/api/v0/models")).json["data"]]
        assert states[:2] == ["loaded", "not-loaded"]

    run(test)
    engine = ScriptedEngine()

    async def loaded_only(server: LookalikeServer, engine: ScriptedEngine) -> None:
        await server.look.catalog.load(LLM, identifier="mine")
        assert [row["id"] for row in (await get(server, "/v1/models")).json["data"]] == ["mine"]

    run(loaded_only, engine, jit=False)
