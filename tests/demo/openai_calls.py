"""Requests to /v1 that several tests make, and the samples that answers are compared with."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.scripted_models import SCRIPTED_MODELS
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post, running
from tests.demo.samples import same_form

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LLM, VLM, EMBEDDER = (model.key for model in SCRIPTED_MODELS)
LONG = "word " * 3000
"""More than the context takes."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="
CHAT_ID = re.compile("chatcmpl-[a-z0-9]{20,22}")
CALL_ID = re.compile("[0-9]{9}")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    },
}
CALL = '[TOOL_REQUEST]{"name": "get_current_weather", "arguments": {"location": "Rome"}}[END_TOOL_REQUEST]'

WHOLE = {
    "id": CHAT_ID,
    "object": "chat.completion",
    "created": 1730913210,
    "model": "lmstudio-community/qwen2.5-7b-instruct",
    "choices": [
        {
            "index": 0,
            "logprobs": None,
            "finish_reason": re.compile("stop|length|tool_calls"),
            "message": {"role": "assistant", "content": "text", "reasoning_content": "text", "tool_calls": [Any]},
        }
    ],
    "usage": {"prompt_tokens": 263, "completion_tokens": 34, "total_tokens": 297},
    "stats": {},
    "system_fingerprint": "lmstudio-community/qwen2.5-7b-instruct",
}
TOOL_CALL = {
    "id": CALL_ID,
    "type": "function",
    "function": {"name": "search_products", "arguments": '{"query":"dell","category":"electronics","max_price":50}'},
}


def chunk(delta: Any, finish: str | None) -> dict[str, Any]:
    """A chunk of the real capture."""
    return {
        "id": CHAT_ID,
        "object": re.compile(r"chat\.completion\.chunk"),
        "created": 1747835957,
        "model": "gemma-2-2b-it",
        "system_fingerprint": "gemma-2-2b-it",
        "choices": [
            {
                "index": 0,
                "delta": delta,
                "logprobs": None,
                "finish_reason": re.compile(finish) if finish else None,
            }
        ],
    }


def run(
    test: Callable[[LookalikeServer, ScriptedEngine], Awaitable[None]],
    engine: ScriptedEngine | None = None,
    **options: Any,
) -> None:
    engine = engine or ScriptedEngine()

    async def main() -> None:
        async with running(engine, **options) as server:
            await test(server, engine)

    asyncio.run(main())


def hi(**fields: Any) -> dict[str, Any]:
    return {"model": LLM, "messages": [{"role": "user", "content": "hi"}], **fields}


def deltas(events: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for _, data in events if data != "[DONE]" for choice in data.get("choices", ())]


async def refusal(server: LookalikeServer, path: str, body: Any) -> tuple[int, str]:
    """Status and message of an answer in the plain error form."""
    got = await post(server, path, body)
    same_form({"error": "text"}, got.json)
    return got.status, got.json["error"]
