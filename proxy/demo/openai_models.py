"""GET /v1/models: D, models.md (what is listed), R, js#180 (names of further instances); T, one of them by its id."""

import json
from typing import Any

from aiohttp import web

from proxy.demo.http import Failure, Request, Route, answer
from proxy.demo.lookalike import Lookalike


async def models(look: Lookalike, request: Request) -> web.StreamResponse:
    """What a request may name: all that is downloaded, or only what is loaded if nothing is loaded just in time."""
    listed = {"data": [_row(name) for name in _names(look)], "object": "list"}
    look.log.server(f"Returning {json.dumps(listed, indent=2)}")
    return answer(listed)


async def one_model(look: Lookalike, request: Request) -> web.StreamResponse:
    """One row of it."""
    name = request.parts[0]
    if name not in _names(look):
        raise Failure(404, f'Model "{name}" not found')  # U: the words
    return answer(_row(name))


def _names(look: Lookalike) -> list[str]:
    """Identifiers of what is loaded, and all keys where naming one is enough. D: models.md."""
    names: list[str] = []
    for model in look.catalog.models:
        loaded = [one.identifier for one in look.catalog.instances if one.model is model]
        names += loaded + ([model.key] if look.behaviour.jit and model.key not in loaded else [])
    return names


def _row(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "owned_by": "organization_owner"}


FAMILY = "OpenAI"
ROUTES = (
    Route("GET", "/v1/models", models),
    Route("GET", "/v1/models/(.+)", one_model, switch="v1_models_by_id"),
)
