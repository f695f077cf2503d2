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

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import NotFoundError
from proxy.demo.engine import EngineError
from proxy.demo.javascript_json import with_whole_numbers
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.parameters import BadParameterError
from proxy.errors import MissingExtraError

_TOKEN = re.compile(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}")
_FIRST = (
    "X-Powered-By",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Headers",
    "Content-Type",
    "Cache-Control",
)
_LAST = ("Content-Length", "ETag", "Date", "Connection", "Keep-Alive")
_LAST_OF_STREAM = ("Connection", "Date", "Transfer-Encoding")
"""R: goose#11318: the server sets `Connection` itself here, so that Node adds no `Keep-Alive`."""


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
        error: dict[str, Any] | None = None,
    ) -> None:
        """What the answer says; each surface has its own form for it, but for an `error` that comes as it is."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.code = code
        self.param = param
        self.error = error


ErrorForm = Callable[[Failure], dict[str, Any]]


def plain_form(failure: Failure) -> dict[str, Any]:
    """`{"error": "text"}`: /v1/chat/completions, /v1/completions, /api/v0. R."""
    return {"error": failure.error or failure.message}


def object_form(failure: Failure) -> dict[str, Any]:
    """`{"error": {...}}`: /v1/responses, /api/v1. R."""
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return {"error": failure.error or error}


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
    switch: str = ""
    """A field of `Behaviour` without which it is an unknown route, too."""
    is_open: bool = False
    """It asks for no token."""
    is_socket: bool = False
    """It answers upgrades to a WebSocket, nothing else; the token comes in the first frame, the body stays unread."""


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
            body = json.loads(self.raw, parse_constant=_refuse_constant)
            if b"\\ud" in self.raw or b"\\uD" in self.raw:
                body = _well_formed(body)
        except (ValueError, RecursionError) as error:
            raise Failure(400, f"Invalid JSON: {error}", code="invalid_json") from None
        if not isinstance(body, dict):
            raise Failure(400, "Expected an object", code="invalid_type")
        return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _well_formed(value: Any) -> Any:
    """The same without halves of surrogate pairs, which no UTF-8 can carry: each becomes a replacement character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_well_formed(one) for one in value]
    if isinstance(value, dict):
        return {_well_formed(name): _well_formed(one) for name, one in value.items()}
    return value


def answer(data: Any, status: int = 200, *, is_compact: bool = False) -> web.Response:
    """JSON as Express sends it: indented, but for a few short bodies."""
    separators = (",", ":") if is_compact else None
    data = with_whole_numbers(data)
    body = json.dumps(data, indent=None if is_compact else 2, separators=separators, ensure_ascii=False).encode()
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
            if self._request.version >= HttpVersion11:
                self._response.enable_chunked_encoding()
            else:  # HTTP/1.0 knows no chunks: the end of the connection is the end of the stream
                self._response.force_close()
            await self._response.prepare(self._request)

    async def send(self, data: Any, event: str | None = None) -> None:
        """Send one event: a name if it has one, and compact JSON (or text)."""
        await self.start()
        if not isinstance(data, str):
            data = json.dumps(with_whole_numbers(data), separators=(",", ":"), ensure_ascii=False)
        name = f"event: {event}\n" if event else ""
        await self._response.write(f"{name}data: {data}\n\n".encode())

    def cut(self) -> web.StreamResponse:
        """Close the connection where it is: no last chunk."""
        if self._request.transport is not None:
            self._request.transport.close()
        return self._response

    async def end(self) -> web.StreamResponse:
        """The last chunk."""
        await self.start()
        await self._response.write_eof()
        return self._response


def express_head(
    behaviour: Behaviour, keepalive_s: float = 5.0
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What goes over a head before it is sent: the fields Express sends, in its order.

    R: tracker#618 (JSON), goose#11318 (streams); `Date` is Node's own.
    """

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 101:
            for name in ("Server", "Date", "Content-Type"):  # S: ws, the library of the server's WebSockets, sends none
                response.headers.pop(name, None)
            return
        fields: CIMultiDict[str] = CIMultiDict(response.headers)
        fields.pop("Server", None)
        fields["X-Powered-By"] = "Express"
        if behaviour.cors:
            fields["Access-Control-Allow-Origin"] = fields["Access-Control-Allow-Headers"] = "*"
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            fields["ETag"] = etag(response.body)
        stays = response.keep_alive is not False and request.keep_alive
        fields["Connection"] = "keep-alive" if stays else "close"
        is_stream = not isinstance(response, web.Response)
        if stays and not is_stream:
            fields["Keep-Alive"] = f"timeout={int(keepalive_s)}"
        response.headers.clear()
        last = _LAST_OF_STREAM if is_stream else _LAST
        known = {name.lower() for name in (*_FIRST, *last)}
        for name in (*_FIRST, *(name for name in fields if name.lower() not in known), *last):
            for value in fields.popall(name, []):
                response.headers.add(name, value)

    return prepare


def etag(body: bytes) -> str:
    """A weak tag as Express makes it: length and SHA-1."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()[:27]
    return f'W/"{len(body):x}-{digest}"'


def is_fresh(request: web.Request, tag: str) -> bool:
    """Whether the client has it already, as Express finds out: weakly, and unless it asks for a new one."""
    if request.method not in ("GET", "HEAD") or "no-cache" in request.headers.get("Cache-Control", ""):
        return False
    known = [one.strip() for one in request.headers.get("If-None-Match", "").split(",")]
    return "*" in known or tag.removeprefix("W/") in [one.removeprefix("W/") for one in known]


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
    if refusal := token_refusal(behaviour, token):
        raise Failure(401, refusal, code="invalid_api_key")


def token_refusal(behaviour: Behaviour, token: str) -> str:
    """Why a token is not good enough, "" if it is; HTTP and WebSockets say the same. R."""
    if not token:
        return (
            "An LM Studio API token is required to make requests to this server, but none was provided using the "
            "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). "
            "Learn more at: https://lmstudio.ai/docs/developer/core/authentication"
        )
    if not _TOKEN.fullmatch(token):
        return f"Malformed LM Studio API token provided: {token[:10]}... Ensure you are using a valid token."
    return "" if token in behaviour.tokens else "Invalid LM Studio API token provided."


def refused_token(failure: Failure) -> dict[str, Any]:
    """The body of a 401. R."""
    return {"error": {"type": "invalid_request", "code": failure.code, "message": failure.message}}


def failure_of(error: Exception, behaviour: Behaviour) -> Failure:
    """What an exception of the core says over HTTP."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, NotFoundError):
        failure = Failure(404, str(error), type_="model_not_found", code="model_not_found", param="model")
        if error.is_nothing_loaded and behaviour.nothing_loaded == "object":
            failure.error = object_form(failure)["error"]
        return failure
    if isinstance(error, BadParameterError):
        return Failure(400, str(error), code="invalid_type", param=error.name)
    if isinstance(error, ContextOverflowError):
        return _overflow_failure(error, behaviour)
    if isinstance(error, EngineError):
        return _engine_failure(error, behaviour)
    if isinstance(error, RecursionError | MissingExtraError):
        is_missing = isinstance(error, MissingExtraError)
        deep = Failure(400, "The request is nested too deeply")
        return Failure(501, str(error), type_="not_implemented") if is_missing else deep
    raise error


def _engine_failure(error: EngineError, behaviour: Behaviour) -> Failure:
    """R: tracker#2218 and #842 (template), #1202 (load), #1620 (crash); the status of the last two is a switch."""
    if error.kind == "template" and behaviour.template_error == "render":
        return Failure(400, f'Error rendering prompt with jinja template: "{error}".')
    if error.kind == "template":
        words = f"Engine protocol applyPromptTemplate request returned 500: Jinja Exception: {error}"
        return Failure(500, words, type_="internal_error")
    if error.kind == "load":
        words = f'Failed to load model "{error.model}". Error: {error}'
        return Failure(int(behaviour.load_failure_status), words, type_="internal_error")
    if error.kind == "context":
        words = str(error) or "Context size has been exceeded"
        return Failure(int(behaviour.context_full_status), words, code="context_length_exceeded")
    status = int(behaviour.crash_status) if error.kind == "crashed" else 400
    return Failure(status, str(error), type_="internal_error")


def _overflow_failure(error: ContextOverflowError, behaviour: Behaviour) -> Failure:
    failure = Failure(400, overflow_words(error, behaviour), code="context_length_exceeded")
    if behaviour.overflow_message == "engine":
        counts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.context_length}
        failure.error = {"code": 400, "message": failure.message, "type": "exceed_context_size_error", **counts}
    return failure


def overflow_words(error: ContextOverflowError, behaviour: Behaviour) -> str:
    """How a prompt that is too long is refused; the wording changed with the versions. R, section 3.3 of the digest."""
    tokens, limit = error.prompt_tokens, error.context_length
    request = f"request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it"
    return {
        "input": f"Input does not fit in context length. The input has {tokens} tokens, but the context length only "
        f"supports {limit} tokens.",
        "request": request,
        "engine": request,
        "keep": f"Trying to keep the first {tokens} tokens when context the overflows. However, the model is loaded "
        f"with context length of only {limit} tokens, which is not enough. Try to load the model with a larger "
        "context length, or provide a shorter input",
        "n_keep": f"Cannot truncate prompt with n_keep ({tokens}) >= n_ctx ({limit})",
        "prompt": "The number of tokens to keep from the initial prompt is greater than the context length. "
        "Try to load the model with a larger context length, or provide a shorter input",
    }[behaviour.overflow_message]
