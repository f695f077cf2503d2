"""What the table of samples is made of: a sample of LM Studio's documentation, SDKs or of a capture, and how to get it.

Numbers are sections of the digest that the lookalike is built after; a section whose samples nobody provokes fails
`test_samples.py`.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.demo.script import ScriptStep
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import call, read_events
from tests.demo.sdk_client import Socket, connected

LLM, VLM, EMBEDDING = "scripted-7b-instruct", "scripted-vl-2b", "text-embedding-scripted"
Provoke = Callable[[LookalikeServer, ScriptedEngine], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Fact:
    """One sample."""

    section: str
    name: str
    sample: Any
    """As `same_form` takes it."""
    provoke: Provoke
    """Gives what is compared with it."""
    switches: dict[str, Any] = field(default_factory=dict)
    optional: Collection[str] = ()


def answered(
    path: str,
    body: Any = None,
    *,
    says: Sequence[ScriptStep | str] = (),
    status: int = 200,
    headers: dict[str, str] | None = None,
    method: str = "",
    loads: Sequence[str] = (),
) -> Provoke:
    """The body of an answer of that status."""

    async def provoke(server: LookalikeServer, engine: ScriptedEngine) -> Any:
        for model in loads:
            await server.look.catalog.load(model)
        if says:
            engine.say(*says)
        got = await call(server, method or ("GET" if body is None else "POST"), path, body, headers=headers)
        assert got.status == status, got
        return got.json

    return provoke


def streamed(
    path: str, body: dict[str, Any], *wanted: str | int, says: Sequence[ScriptStep | str] = (), loads: str = ""
) -> Provoke:
    """Events of a stream: the first of each name, or those with these numbers; with their names where they have one."""

    async def provoke(server: LookalikeServer, engine: ScriptedEngine) -> Any:
        if loads:
            await server.look.catalog.load(loads)
        if says:
            engine.say(*says)
        got = await call(server, "POST", path, body | {"stream": True})
        assert (got.status, got.headers["Content-Type"]) == (200, "text/event-stream"), got
        events = read_events(got.raw)
        found = [
            events[one] if isinstance(one, int) else next(event for event in events if event[0] == one)
            for one in wanted
        ]
        return [list(event) if event[0] else event[1] for event in found]

    return provoke


def over_sdk(
    namespace: str,
    ask: Callable[[Socket, LookalikeServer], Awaitable[Any]],
    *,
    says: Sequence[ScriptStep | str] = (),
    loads: Sequence[str] = (LLM,),
) -> Provoke:
    """What a call on a WebSocket of the SDK gives."""

    async def provoke(server: LookalikeServer, engine: ScriptedEngine) -> Any:
        for model in loads:
            await server.look.catalog.load(model)
        if says:
            engine.say(*says)
        async with connected(server, namespace) as socket:
            return await ask(socket, server)

    return provoke
