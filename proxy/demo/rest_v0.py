"""LM Studio's REST API v0: OpenAI's answers with statistics, facts about the model and its engine.

Everything: D, endpoints.mdx; the order of a list's members, and what streams have: T.
"""

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from proxy.demo.catalog import Instance
from proxy.demo.engine import Model
from proxy.demo.http import Failure, Request, Route, answer
from proxy.demo.lookalike import Lookalike
from proxy.demo.openai_answer import usage_of
from proxy.demo.openai_chat import chat
from proxy.demo.openai_completions import complete
from proxy.demo.openai_embeddings import embed
from proxy.demo.prediction import Done
from proxy.demo.stats import Stats

_SINCE = "0.3.6"


class _V0Additions:
    """Statistics, model and runtime; a stream has no `runtime`. T."""

    has_fingerprint = False  # D: none in the documentation's sample

    def of(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        return {
            "stats": _stats(done.stats),
            "model_info": _model_info(instance),
            "runtime": {"name": look.engine.name, "version": look.engine.version, "supported_formats": ["gguf"]},
        }

    def of_stream(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        return {
            "usage": usage_of(done, look.behaviour),
            "stats": _stats(done.stats),
            "model_info": _model_info(instance),
        }


def _stats(stats: Stats) -> dict[str, Any]:
    """What is not known, for nothing was generated, is left out."""
    block = {
        "tokens_per_second": stats.tokens_per_second,
        "time_to_first_token": stats.time_to_first_token_s,
        "generation_time": stats.total_s,
        "stop_reason": stats.stop_reason,
        **stats.http_draft(),
    }
    return {name: value for name, value in block.items() if value is not None}


def _model_info(instance: Instance) -> dict[str, Any]:
    model = instance.model
    return {
        "arch": model.architecture,
        "quant": model.quantization,
        "format": "gguf",
        "context_length": instance.loaded.context_length,
    }


async def models(look: Lookalike, request: Request) -> web.StreamResponse:
    """Everything that is downloaded, loaded or not."""
    rows = list(_rows(look))
    look.log.server(f"Returning {len(rows)} models from v0 API")
    return answer({"data": rows, "object": "list"})


async def one_model(look: Lookalike, request: Request) -> web.StreamResponse:
    """One row of it; `key@quant` is the model, too (clients.md: llm-lmstudio asks so)."""
    name = request.parts[0]
    model = look.catalog.model(name)
    row = next((row for row in _rows(look) if row["id"] in (name, model.key if model else name)), None)
    if row is None:
        raise Failure(404, f'Model "{name}" not found')  # U: the words
    return answer(row)


def _rows(look: Lookalike) -> Iterator[dict[str, Any]]:
    for model in look.catalog.models:
        loaded = [one for one in look.catalog.instances if one.model is model]
        for one in loaded:
            yield _row(look, model, one)
        if model.key not in [one.identifier for one in loaded]:  # U: where it is loaded under other names only
            yield _row(look, model, None)


def _row(look: Lookalike, model: Model, instance: Instance | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": instance.identifier if instance else model.key,
        "object": "model",
        "type": "embeddings" if model.type == "embedding" else model.type,
        "publisher": model.publisher,
        "arch": model.architecture,
        "compatibility_type": "gguf",
        "quantization": model.quantization,
        "state": "loaded" if instance else "not-loaded",
        "max_context_length": model.max_context_length,
    }
    if instance:
        row["loaded_context_length"] = instance.loaded.context_length
    if model.trained_for_tool_use and look.behaviour.has("0.3.16"):
        row["capabilities"] = ["tool_use"]
    return row


async def v0_chat(look: Lookalike, request: Request) -> web.StreamResponse:
    """POST /api/v0/chat/completions."""
    return await chat(look, request, _V0Additions())


async def v0_complete(look: Lookalike, request: Request) -> web.StreamResponse:
    """POST /api/v0/completions."""
    return await complete(look, request, _V0Additions())


FAMILY = "REST v0"
ROUTES = (
    Route("GET", "/api/v0/models", models, since=_SINCE),
    Route("GET", "/api/v0/models/(.+)", one_model, since=_SINCE),
    Route("POST", "/api/v0/chat/completions", v0_chat, since=_SINCE),
    Route("POST", "/api/v0/completions", v0_complete, since=_SINCE),
    Route("POST", "/api/v0/embeddings", embed, since=_SINCE),
)
