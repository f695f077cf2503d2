"""Tokens counted by the model's own tokenizer: of real llama.cpp, of the lookalike, of servers that do not count."""

import asyncio
import json
import urllib.request

import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.prompt.server_tokenizer import NoTokenizerError, count_tokens
from tests.demo.lookalikes import post, running

TEXTS = ("Say hello in French.", "", "Un éléphant, deux éléphants.", "<|im_start|>")


def test_llama_cpp_counts_as_its_own_tokenizer_does(llama_server: LlamaProcess) -> None:
    counts = asyncio.run(count_tokens(llama_server.url, llama_server.model, TEXTS))
    expected = []
    for text in TEXTS:
        body = json.dumps({"content": text}).encode()
        request = urllib.request.Request(f"{llama_server.url}/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            expected.append(len(json.load(answer)["tokens"]))
    assert counts == expected
    assert counts[1] == 0 < counts[0]


def test_lm_studio_counts_over_its_websocket() -> None:
    async def main() -> None:
        async with running() as server:
            await post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
            model = server.look.catalog.instances[0]
            counts = await count_tokens(server.url, model.identifier, TEXTS)
            assert counts == [len(await model.loaded.tokenize(text)) for text in TEXTS]

    asyncio.run(main())


def test_a_model_that_is_not_there_is_told() -> None:
    async def main() -> None:
        async with running() as server:
            with pytest.raises(NoTokenizerError):
                await count_tokens(server.url, "nobody", TEXTS)

    asyncio.run(main())


def test_a_server_that_wants_a_token_is_told() -> None:
    async def main() -> None:
        async with running(auth=True) as server:
            with pytest.raises(NoTokenizerError):
                await count_tokens(server.url, "scripted-7b-instruct", TEXTS)

    asyncio.run(main())
