"""HTTP as LM Studio's Express server speaks it: heads, pretty JSON, event streams, errors, who is let in.

Sources: R, tracker#618 and goose#11318 (heads, the 200 for unknown routes); T, 2-space JSON without a final newline; D,
authentication.mdx; R, the 401 bodies.
"""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import NotFoundError
from proxy.demo.engine import EngineError
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.parameters import BadParameterError

_TOKEN = re.compile(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}")
_ORDER = (
    "X-Powered-By",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Headers",
    "Content-Type",
    "Cache-Control",
)
_LAST = ("Content-Length", "ETag", "Date", "Connection", "Keep-Alive", "Transfer-Encoding")


class Failure(Exception):
    """A request that is refused, or failed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        """What the answer says; each surface has its own form for it."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.code = code
        self.param = param


ErrorForm = Callable[[Failure], dict[str, Any]]


def plain_form(failure: Failure) -> dict[str, Any]:
    """`{"error": "text"}`: /v1/chat/completions, /v1/completions, /api/v0. R."""
    return {"error": failure.message}


def object_form(failure: Failure) -> dict[str, Any]:
    """`{"error": {...}}`: /v1/responses, /api/v1. R."""
    return {
        "error": {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code},
    }


def anthropic_form(failure: Failure) -> dict[str, Any]:
    """`{"type": "error", ...}`: /v1/messages. U."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    kind = kinds.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


Handler = Callable[[Lookalike, "Request"], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint of a surface."""

    method: str
    path: str
    """A regular expression for the whole path; its groups go to the handler as `request.parts`."""
    handler: Handler
    errors: ErrorForm = plain_form
    since: str = "0.3.0"
    """Older applications answer it as an unknown route."""


@dataclass(slots=True)
class Request:
    """One request, its body read."""

    web: web.Request
    raw: bytes
    parts: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """The body; {} where there is none.

        Raises:
            Failure: it is no JSON object.
        """
        if not self.raw.strip():
            return {}
        try:
            body = json.loads(self.raw)
        except ValueError as error:
            raise Failure(400, f"Invalid JSON: {error}", code="invalid_json") from None
        if not isinstance(body, dict):
            raise Failure(400, "Expected an object", code="invalid_type")
        return body


def answer(data: Any, status: int = 200) -> web.Response:
    """JSON as Express sends it."""
    body = json.dumps(data, indent=2, ensure_ascii=False).encode()
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json; charset=utf-8"})


class EventStream:
    """A stream of server-sent events; its head goes out with the first event, or with `start`."""

    def __init__(self, request: Request) -> None:
        """Nothing is sent yet."""
        self._request = request.web
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        self.is_started = False

    async def start(self) -> None:
        """Send the head."""
        if not self.is_started:
            self.is_started = True
            self._response.enable_chunked_encoding()
            await self._response.prepare(self._request)

    async def send(self, data: Any, event: str | None = None) -> None:
        """Send one event: a name if it has one, and compact JSON (or text)."""
        await self.start()
        text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        name = f"event: {event}\n" if event else ""
        await self._response.write(f"{name}data: {text}\n\n".encode())

    async def end(self) -> web.StreamResponse:
        """The last chunk."""
        await self.start()
        await self._response.write_eof()
        return self._response


def express_head(behaviour: Behaviour) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What goes over a head before it is sent: the fields Express sends, in its order."""

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 101:
            return
        fields: CIMultiDict[str] = CIMultiDict(response.headers)
        fields.pop("Server", None)
        fields["X-Powered-By"] = "Express"
        if behaviour.cors:
            fields["Access-Control-Allow-Origin"] = fields["Access-Control-Allow-Headers"] = "*"
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            fields["ETag"] = etag(response.body)
        fields["Connection"] = "keep-alive" if response.keep_alive is not False and request.keep_alive else "close"
        if "Transfer-Encoding" not in fields and fields["Connection"] == "keep-alive":
            fields["Keep-Alive"] = "timeout=5"
        response.headers.clear()
        rest = [name for name in fields if name.title() not in {one.title() for one in (*_ORDER, *_LAST)}]
        for name in (*_ORDER, *rest, *_LAST):
            for value in fields.popall(name, []):
                response.headers.add(name, value)

    return prepare


def etag(body: bytes) -> str:
    """A weak tag as Express makes it: length and SHA-1."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()[:27]
    return f'W/"{len(body):x}-{digest}"'


def check_token(behaviour: Behaviour, request: web.Request) -> None:
    """Refuse who has no token, where tokens are asked for.

    Raises:
        Failure: 401.
    """
    if not behaviour.auth:
        return
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = request.headers.get("x-api-key", "") if request.path == "/v1/messages" else ""
    if not token:
        raise Failure(
            401,
            "An LM Studio API token is required to make requests to this server, but none was provided using the "
            "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). "
            "Learn more at: https://lmstudio.ai/docs/developer/core/authentication",
            code="invalid_api_key",
        )
    if not _TOKEN.fullmatch(token):
        shown = f"{token[:10]}..." if len(token) > 10 else token
        raise Failure(
            401,
            f"Malformed LM Studio API token provided: {shown} Ensure you are using a valid token.",
            code="invalid_api_key",
        )
    if token not in behaviour.tokens:
        raise Failure(401, "Invalid LM Studio API token provided.", code="invalid_api_key")


def refused_token(failure: Failure) -> dict[str, Any]:
    """The body of a 401. R."""
    return {"error": {"type": "invalid_request", "code": failure.code, "message": failure.message}}


def failure_of(error: Exception, behaviour: Behaviour) -> Failure:
    """What an exception of the core says over HTTP."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, NotFoundError):
        return Failure(404, str(error), type_="model_not_found", code="model_not_found", param="model")
    if isinstance(error, BadParameterError):
        return Failure(400, str(error), code="invalid_type", param=error.name)
    if isinstance(error, ContextOverflowError):
        return Failure(400, overflow_words(error, behaviour), code="context_length_exceeded")
    if isinstance(error, EngineError):
        return _engine_failure(error)
    raise error


def _engine_failure(error: EngineError) -> Failure:
    """R: tracker#2218 (template), #1202 (load), #1620 (crash)."""
    if error.kind == "template":
        words = f"Engine protocol applyPromptTemplate request returned 500: Jinja Exception: {error}"
        return Failure(500, words, type_="internal_error")
    if error.kind == "load":
        return Failure(400, f"Failed to load model. Error: {error}", type_="internal_error")
    if error.kind == "context":
        return Failure(400, str(error) or "Context size has been exceeded", code="context_length_exceeded")
    return Failure(400, str(error), type_="internal_error")


def overflow_words(error: ContextOverflowError, behaviour: Behaviour) -> str:
    """How a prompt that is too long is refused; the wording changed with the versions. R, section 3.3 of the digest."""
    tokens, limit = error.prompt_tokens, error.context_length
    return {
        "input": f"Input does not fit in context length. The input has {tokens} tokens, but the context length only "
        f"supports {limit} tokens.",
        "request": f"request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it",
        "keep": f"Trying to keep the first {tokens} tokens when context the overflows. However, the model is loaded "
        f"with context length of only {limit} tokens, which is not enough. Try to load the model with a larger "
        "context length, or provide a shorter input",
        "n_keep": f"Cannot truncate prompt with n_keep ({tokens}) >= n_ctx ({limit})",
        "prompt": "The number of tokens to keep from the initial prompt is greater than the context length. "
        "Try to load the model with a larger context length, or provide a shorter input",
    }[behaviour.overflow_message]
