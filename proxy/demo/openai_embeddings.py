"""POST /v1/embeddings; /api/v0 has the same.

Request and answer: D, endpoints.mdx. Arrays of tokens are refused: R, tracker#692. Zeros as `usage`: R, tracker#1546.
"""

import base64
import struct
from typing import Any

from aiohttp import web

from proxy.demo.catalog import Instance
from proxy.demo.http import Failure, Request, Route, answer
from proxy.demo.lookalike import Lookalike
from proxy.demo.openai_request import text_field, ttl_of


async def embed(look: Lookalike, request: Request) -> web.StreamResponse:
    """The embeddings of one text or of several, one after another."""
    body = request.json()
    texts = _texts(body)
    is_base64 = text_field(body, "encoding_format") == "base64" and look.behaviour.embeddings_base64
    instance, _ = await look.catalog.get(text_field(body, "model"), "embedding", ttl_s=ttl_of(body))
    vectors, tokens = await _embedded(look, instance, texts)
    rows = [
        {"object": "embedding", "embedding": _base64(vector) if is_base64 else vector, "index": at}
        for at, vector in enumerate(vectors)
    ]
    told = tokens if look.behaviour.embedding_usage else 0
    return answer(
        {
            "object": "list",
            "data": rows,
            "model": instance.model.variant,
            "usage": {"prompt_tokens": told, "total_tokens": told},
        }
    )


def _texts(body: dict[str, Any]) -> list[str]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Failure(400, "'input' field must be a string or an array of strings", code="invalid_type", param="input")
    return texts


async def _embedded(look: Lookalike, instance: Instance, texts: list[str]) -> tuple[list[list[float]], int]:
    """The embeddings, and how many tokens they have together."""
    vectors, tokens = [], 0
    with instance.in_use(look.engine.clock.now) as place:
        async with place:
            instance.status = "computingEmbedding"
            for text in texts:
                vector, count = await instance.loaded.embed(text)
                vectors.append(vector)
                tokens += count
    return vectors, tokens


def _base64(vector: list[float]) -> str:
    """32-bit numbers, little end first. As OpenAI has it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


FAMILY = "OpenAI"
ROUTES = (Route("POST", "/v1/embeddings", embed),)
