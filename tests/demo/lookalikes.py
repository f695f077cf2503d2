"""A running lookalike for tests, and the few requests that all of them make.

`running(**switches)` starts one over a scripted engine (or the one that is given) on a free port of this machine.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Engine
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import Layer
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer

_LIMIT_S = 60.0
"""No test waits longer than this for an answer: an answer that never comes is a failure, not a hang."""
_POLL_S = 0.005


@asynccontextmanager
async def running(
    engine: Engine | None = None,
    *,
    model_defaults: Layer | None = None,
    own_defaults: dict[str, Layer] | None = None,
    presets: dict[str, Layer] | None = None,
    keepalive_s: float = 5.0,
    **switches: Any,
) -> AsyncIterator[LookalikeServer]:
    """A lookalike that listens; its core is `server.look`, its address `server.url`.

    Args:
        engine: a `ScriptedEngine` by default.
        model_defaults: see `Lookalike`.
        own_defaults: see `Lookalike`.
        presets: see `Lookalike`.
        keepalive_s: seconds after which an idle connection is closed.
        switches: fields of `Behaviour`.
    """
    layers: dict[str, Any] = {"model_defaults": model_defaults, "own_defaults": own_defaults, "presets": presets}
    look = Lookalike(engine or ScriptedEngine(), Behaviour(**switches), **layers)
    async with LookalikeServer(look, keepalive_s=keepalive_s) as server:
        yield server


def run(test: Callable[[LookalikeServer], Awaitable[None]], engine: Engine | None = None, **options: Any) -> None:
    """Run a test against a lookalike of its own; `options` are those of `running`."""

    async def main() -> None:
        async with running(engine, **options) as server:
            await test(server)

    asyncio.run(main())


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Case does not matter."""
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.raw)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The body as server-sent events: see `read_events`."""
        return read_events(self.raw)


async def call(
    server: LookalikeServer,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own; `body` is bytes as they are, or data to be sent as JSON."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    data = None if raw is None else io.BytesIO(raw)
    fields = {"Content-Type": "application/json"} if data is not None else {}
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, server.url + path, data=data, headers={**fields, **(headers or {})}) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


async def get(server: LookalikeServer, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
    """GET."""
    return await call(server, "GET", path, headers=headers)


async def post(
    server: LookalikeServer, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
) -> Answer:
    """POST."""
    return await call(server, "POST", path, body, headers=headers)


async def stream(
    server: LookalikeServer, path: str, body: Any, *, headers: Mapping[str, str] | None = None
) -> list[tuple[str, Any]]:
    """POST, and the events of the answer, which must be a stream with status 200."""
    got = await post(server, path, body, headers=headers)
    assert got.status == 200, got
    assert got.headers["Content-Type"] == "text/event-stream", got
    return got.events


def read_events(raw: bytes) -> list[tuple[str, Any]]:
    """Server-sent events as (name, data): "" for one without a name; data is parsed where it is JSON (`[DONE]` is not).

    Raises:
        AssertionError: they are not written exactly as LM Studio writes them.
    """
    if not raw:
        return []
    assert raw.endswith(b"\n\n"), raw[-100:]
    return [_read_event(block.decode()) for block in raw[:-2].split(b"\n\n")]


def _read_event(block: str) -> tuple[str, Any]:
    *names, data = block.split("\n")
    assert data.startswith("data: "), block
    assert len(names) <= 1, block
    assert all(name.startswith("event: ") for name in names), block
    text = data.removeprefix("data: ")
    return names[0].removeprefix("event: ") if names else "", text if text == "[DONE]" else json.loads(text)


def raw_request(method: str, path: str, body: Any = None, *fields: str, version: str = "1.1") -> bytes:
    """A request as bytes; `fields` are further lines of its head."""
    data = b"" if body is None else json.dumps(body).encode()
    length = [f"Content-Length: {len(data)}"] if body is not None else []
    head = "\r\n".join((f"{method} {path} HTTP/{version}", "Host: localhost", *length, *fields, "", ""))
    return head.encode() + data


async def raw_head(server: LookalikeServer, request: bytes) -> bytes:
    """Send bytes over a socket, give the head of the answer with its empty last line; then leave."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _LIMIT_S)
    finally:
        writer.close()
        await writer.wait_closed()


async def raw_exchange(server: LookalikeServer, data: bytes) -> bytes:
    """Send bytes over a socket, give what comes until the server closes it: ask with `Connection: close`, or wait."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), _LIMIT_S)
    finally:
        writer.close()
        await writer.wait_closed()


def logged(server: LookalikeServer, kind: str = "server.log") -> list[str]:
    """The lines of the log by now, without their prefix; of another kind of event, their messages."""
    lines = []
    for event in server.look.log.latest:
        data = event["data"]
        if data["type"] == kind:
            lines.append(data.get("content") or data.get("message") or data.get("input") or data.get("output") or "")
    return lines


async def until(condition: Callable[[], object], *, limit_s: float = 10.0) -> None:
    """Wait until `condition()` holds.

    Raises:
        TimeoutError: it never does.
    """
    for _ in range(int(limit_s / _POLL_S)):
        if condition():
            return
        await asyncio.sleep(_POLL_S)
    raise TimeoutError(f"not within {limit_s} s")
