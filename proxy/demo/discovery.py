"""How SDKs find LM Studio: S, lmstudio-js LMStudioClient.ts (greeting) and findOrStartLlmster.ts (status).

Both ask without a token, so none is asked for (U).
"""

from aiohttp import web

from proxy.demo.http import Request, Route, answer
from proxy.demo.lookalike import Lookalike


async def greet(look: Lookalike, request: Request) -> web.StreamResponse:
    """17 bytes. T."""
    return answer({"lmstudio": True}, is_compact=True)


async def status(look: Lookalike, request: Request) -> web.StreamResponse:
    """Which program this is, and its version."""
    return answer({"package": "lmstudio", "version": look.behaviour.version}, is_compact=True)


FAMILY = "discovery"
ROUTES = (
    Route("GET", "/lmstudio-greeting", greet, is_open=True),
    Route("GET", "/lms-status", status, is_open=True, switch="lms_status"),
)
