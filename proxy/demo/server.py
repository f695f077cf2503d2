"""The lookalike's server: finds the surface for each request, and answers what no surface knows.

Every surface is one module with its `ROUTES`; the namespaces of the SDK's WebSockets are in `sdk_socket`.
"""

import re

from aiohttp import web

from proxy.demo import openai_chat
from proxy.demo.http import (
    Failure,
    Request,
    Route,
    answer,
    check_token,
    etag,
    express_head,
    failure_of,
    plain_form,
    refused_token,
)
from proxy.demo.lookalike import Lookalike

SURFACES = (openai_chat,)
_SHOWN_BODY = 2000
_KEEPALIVE_S = 5.0
"""R: tracker#618, `Keep-Alive: timeout=5`."""


class LookalikeServer:
    """Listens; a context manager."""

    def __init__(self, look: Lookalike, *, keepalive_s: float = _KEEPALIVE_S) -> None:
        """Nothing listens yet; idle connections are closed after `keepalive_s`."""
        self.look = look
        self._keepalive_s = keepalive_s
        self._routes = [
            (route, re.compile(route.path))
            for surface in SURFACES
            for route in surface.ROUTES
            if look.behaviour.has(route.since)
        ]
        self._runner: web.AppRunner | None = None
        self.url = ""
        """`http://127.0.0.1:PORT`, once it listens."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._serve)
        app.on_response_prepare.append(express_head(self.look.behaviour))
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,  # a client that leaves stops the generation
            keepalive_timeout=self._keepalive_s,
            access_log=None,
            shutdown_timeout=1.0,
            max_field_size=1 << 16,
            max_line_size=1 << 16,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening, and unload everything."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self.look.close()

    async def __aenter__(self) -> "LookalikeServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        look = self.look
        method = "GET" if request.method == "HEAD" else request.method
        try:
            check_token(look.behaviour, request)
        except Failure as failure:
            return answer(refused_token(failure), failure.status)
        for route, pattern in self._routes:
            if route.method == method and (match := pattern.fullmatch(request.path)):
                return await self._answer(route, request, match.groups())
        return self._unknown(request)

    async def _answer(self, route: Route, request: web.Request, parts: tuple[str, ...]) -> web.StreamResponse:
        look = self.look
        raw = await request.read()
        shown = raw[:_SHOWN_BODY].decode(errors="replace") + (
            "... <Truncated in logs> ..." if len(raw) > _SHOWN_BODY else ""
        )
        look.log.server(
            f"Received request: {request.method} to {request.path}" + (f" with body {shown}" if raw else "")
        )
        try:
            response = await route.handler(look, Request(request, raw, parts))
        except Exception as error:  # noqa: BLE001 - `failure_of` raises again what is none of the core's
            failure = failure_of(error, look.behaviour)
            look.log.server(f"[ERROR] {failure.message}", "error")
            response = answer(route.errors(failure), failure.status)
        if request.method == "GET" and isinstance(response, web.Response):
            return _conditional(request, response)
        return response

    def _unknown(self, request: web.Request) -> web.Response:
        """R: tracker#618, #1323, #2085: 200 with an error in the body."""
        words = f"Unexpected endpoint or method. ({request.method} {request.path})"
        if self.look.behaviour.unknown_v1_is_404 and request.path.startswith("/api/v1/"):
            return answer(plain_form(Failure(404, words)), 404)
        self.look.log.server(f"{words}. Returning 200 anyway", "error")
        return answer(plain_form(Failure(200, words)))


def _conditional(request: web.Request, response: web.Response) -> web.Response:
    """304 where the client has it already."""
    if isinstance(response.body, bytes) and request.headers.get("If-None-Match") == etag(response.body):
        return web.Response(status=304, headers={"ETag": etag(response.body)})
    return response
