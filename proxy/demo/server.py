"""The lookalike's server: finds the surface for each request, and answers what no surface knows.

Every surface is one module with its `ROUTES`; the namespaces of the SDK's WebSockets are in `sdk_socket`.
"""

import contextlib
import re
from typing import Any

from aiohttp import http_exceptions, web

from proxy.demo import (
    anthropic_messages,
    discovery,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_responses,
    rest_v0,
    rest_v1_chat,
    rest_v1_downloads,
    rest_v1_models,
    sdk_socket,
    window,
)
from proxy.demo.http import (
    Failure,
    Request,
    Route,
    answer,
    check_token,
    etag,
    express_head,
    failure_of,
    is_fresh,
    plain_form,
    refused_token,
)
from proxy.demo.lookalike import Lookalike

SURFACES = (
    anthropic_messages,
    discovery,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    openai_responses,
    rest_v0,
    rest_v1_chat,
    rest_v1_downloads,
    rest_v1_models,
    sdk_socket,
    window,
)
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
            (route, re.compile(route.path, re.IGNORECASE))  # U: as Express does by default
            for surface in SURFACES
            for route in surface.ROUTES
            if look.behaviour.has(route.since) and (not route.switch or getattr(look.behaviour, route.switch))
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
        app.on_response_prepare.append(express_head(self.look.behaviour, self._keepalive_s))
        app.on_shutdown.append(lambda _: sdk_socket.sockets_of(self.look).close())
        self._runner = _Runner(
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
        try:
            return _conditional(request, await self._response(request))
        except ConnectionError:  # the client has gone in the middle of it: there is nobody to answer to
            return web.Response()

    async def _response(self, request: web.Request) -> web.StreamResponse:
        route, parts = self._find(request)
        behaviour = self.look.behaviour
        is_preflight = request.method == "OPTIONS" and behaviour.cors and not behaviour.preflight_needs_token
        if not is_preflight and (route is None or not (route.is_open or route.is_socket)):
            try:
                check_token(behaviour, request)
            except Failure as failure:
                return answer(refused_token(failure), failure.status)
        return await self._unknown(request) if route is None else await self._answer(route, request, parts)

    def _find(self, request: web.Request) -> tuple[Route | None, tuple[str, ...]]:
        """The route of a request, and the parts of its path."""
        methods = {"HEAD": "GET", "OPTIONS": "POST" if self.look.behaviour.options == "post" else "OPTIONS"}
        method = methods.get(request.method, request.method)
        path = request.path.removesuffix("/") or "/"  # U: Express, too
        is_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        for route, pattern in self._routes:
            if route.method == method and route.is_socket <= is_upgrade and (match := pattern.fullmatch(path)):
                return route, match.groups()
        return None, ()

    async def _answer(self, route: Route, request: web.Request, parts: tuple[str, ...]) -> web.StreamResponse:
        look = self.look
        if route.is_socket:
            return await route.handler(look, Request(request, b"", parts))
        try:
            raw = await request.read()
        except (web.RequestPayloadError, http_exceptions.BadHttpMessage) as error:
            return answer(route.errors(Failure(400, f"Invalid body: {error}")), 400)
        shown = raw[:_SHOWN_BODY].decode(errors="replace") + (
            "... <Truncated in logs> ..." if len(raw) > _SHOWN_BODY else ""
        )
        look.log.server(
            f"Received request: {request.method} to {request.path}" + (f" with body {shown}" if raw else "")
        )
        try:
            return await route.handler(look, Request(request, raw, parts))
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - `failure_of` raises again what is none of the core's
            failure = failure_of(error, look.behaviour)
            look.log.server(failure.message, "error")
            return answer(route.errors(failure), failure.status)

    async def _unknown(self, request: web.Request) -> web.Response:
        """R: tracker#618, #1323, #2085: 200 with an error in the body."""
        with contextlib.suppress(web.RequestPayloadError, http_exceptions.BadHttpMessage):
            await request.read()  # U: before the routes, as Express does; a proxy would cut what comes after the answer
        behaviour = self.look.behaviour
        if request.method == "OPTIONS" and behaviour.options == "empty":
            return web.Response(status=204)
        words = f"Unexpected endpoint or method. ({request.method} {request.path})"
        is_compact = not behaviour.catch_all_pretty
        if behaviour.unknown_v1_is_404 and request.path.startswith("/api/v1/"):
            return answer(plain_form(Failure(404, words)), 404, is_compact=is_compact)
        self.look.log.server(f"{words}. Returning 200 anyway", "error")
        return answer(plain_form(Failure(200, words)), is_compact=is_compact)


class _Protocol(web.RequestHandler):
    """A connection on which what is no HTTP gets Node's answer, not aiohttp's page."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Node's `clientError`: a bare 400, then the end. S: Node, http.Server; U: that LM Studio leaves it so."""
        if status != 400 or self.transport is None:
            return super().handle_error(request, status, exc, message)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        self.transport.close()
        raise ConnectionError(message)


class _Runner(web.AppRunner):
    """Makes such connections."""

    @property
    def server(self) -> Any:
        """Called for each connection."""
        server = super().server
        return server and (lambda: _as_ours(server()))


def _as_ours(protocol: Any) -> _Protocol:
    protocol.__class__ = _Protocol  # aiohttp lets nobody choose it
    ours: _Protocol = protocol
    return ours


def _conditional(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The response; 304 where the client has it already."""
    if isinstance(response, web.Response) and isinstance(response.body, bytes) and response.status == 200:
        tag = etag(response.body)
        if is_fresh(request, tag):
            return web.Response(status=304, headers={"ETag": tag})
    return response
