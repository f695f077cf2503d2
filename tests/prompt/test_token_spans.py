"""Tokens of each stretch of a prompt, as real llama.cpp has them and as the lookalike counts them."""

import asyncio
import json
import urllib.request
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from proxy.demo.chat_template import CHATML, render
from proxy.demo.llama_process import LlamaProcess
from proxy.meaning import SpanKind
from proxy.prompt.alignment import Piece, align
from proxy.prompt.server_tokenizer import NoTokenizerError
from proxy.prompt.token_spans import MAX_ASKED, tokens_of_spans
from tests.demo.lookalikes import post, running

CHATS = (
    [("user", "Say hello in French.")],
    [("system", "Tu es un professeur de français."), ("user", "Écris « éléphant » 🐘 !"), ("assistant", " Voilà. \n")],
    [
        ("user", "ok"),
        ("assistant", "ok"),
        ("user", "Encore : 👩‍👩‍👧 à bientôt, <|im_start|> ?"),
        ("assistant", ""),
        ("user", "yes"),
    ],
)


def _ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def _count(url: str, model: str, prompt: str, borders: Sequence[int]) -> list[int] | None:
    async def main() -> list[int] | None:
        async with aiohttp.ClientSession() as session:
            return await tokens_of_spans(session, url, model, prompt, borders)

    return asyncio.run(main())


@pytest.mark.parametrize("turns", CHATS)
def test_spans_on_llama_cpp_sum_to_the_reported_prompt_tokens(
    llama_server: LlamaProcess, turns: Sequence[tuple[str, str]]
) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    prompt = _ask(f"{llama_server.url}/apply-template", {"messages": messages})["prompt"]
    usage = _ask(f"{llama_server.url}/v1/chat/completions", {"messages": messages, "max_tokens": 1})["usage"]
    pieces = [Piece(SpanKind.MESSAGE, n, role, (text,)) for n, (role, text) in enumerate(turns)]
    spans = align(prompt, pieces).spans
    counts = _count(llama_server.url, llama_server.model, prompt, [span.start for span in spans])
    assert counts is not None
    assert len(counts) == len(spans)
    assert sum(counts) == usage["prompt_tokens"]
    assert all(count > 0 for count in counts)


def test_a_token_across_a_border_belongs_to_where_it_begins(llama_server: LlamaProcess) -> None:
    prompt = "Hello elephant 🐘!"
    whole = _ask(f"{llama_server.url}/tokenize", {"content": prompt})["tokens"]
    first = _ask(f"{llama_server.url}/tokenize", {"content": "Hello"})["tokens"]
    counts = _count(llama_server.url, llama_server.model, prompt, [0, 3, len("Hello"), len(prompt)])
    assert counts == [len(first), 0, len(whole) - len(first), 0]


@pytest.mark.parametrize("turns", [3, MAX_ASKED * 2])
def test_spans_on_lm_studio_sum_to_the_whole_prompt(turns: int) -> None:
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"Message {n}, été."} for n in range(turns)]
    prompt = render(CHATML, messages)
    pieces = [Piece(SpanKind.MESSAGE, n, one["role"], (one["content"],)) for n, one in enumerate(messages)]
    borders = [span.start for span in align(prompt, pieces).spans]

    async def main() -> None:
        async with running() as server:
            await post(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
            model = server.look.catalog.instances[0]
            async with aiohttp.ClientSession() as session:
                counts = await tokens_of_spans(session, server.url, model.identifier, prompt, borders)
                assert counts is not None
                assert len(counts) == len(borders)
                assert sum(counts) == len(await model.loaded.tokenize(prompt))
                assert min(counts) >= 0
                if turns == 3:
                    ends = [*borders[1:], len(prompt)]
                    texts = [prompt[start:end] for start, end in zip(borders, ends, strict=True)]
                    assert counts == [len(await model.loaded.tokenize(text)) for text in texts]
                with pytest.raises(NoTokenizerError):
                    await tokens_of_spans(session, server.url, "nobody", prompt, borders)

    asyncio.run(main())


def test_without_borders_nothing_is_asked() -> None:
    assert _count("http://127.0.0.1:9", "any", "prompt", []) is None
