"""POST /api/v1/chat, whole and streamed: chats that the server keeps, with tools of MCP servers that it calls itself.

Request, answer, events: D, chat.md and streaming-events.md. A stream has no `[DONE]`; some stay open (T). `stats` are
the counts of all rounds together, but for `input_tokens`: the last round's, whose prompt has the others in it (U).
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Instance, NotFoundError
from proxy.demo.engine import EngineError, Message
from proxy.demo.http import EventStream, Failure, Request, Route, answer, failure_of, object_form
from proxy.demo.lookalike import Lookalike
from proxy.demo.mcp_tools import McpRefusedError, McpSession
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.prediction import Ask, Done
from proxy.demo.rest_v1_output import Round, Told
from proxy.demo.rest_v1_request import ChatRequest, read_chat
from proxy.demo.stats import Stats

_MOST_ROUNDS = 20
"""Predictions within one request. U."""


async def chat(look: Lookalike, request: Request) -> web.StreamResponse:
    """Answer a chat request."""
    asked = read_chat(request.json())
    messages = asked.messages(look)
    found = look.catalog.instance(asked.model, "llm")
    if (model := found.model if found is not None else look.catalog.model(asked.model)) is not None:
        asked.check(model)
    try:
        async with McpSession(look, asked.servers) as tools:
            talk = _Talk(look, asked, messages, tools)
            if asked.is_streamed:
                return await _streamed(talk, EventStream(request))
            async with aclosing(talk.events()) as events:
                async for _ in events:
                    pass  # only the result counts
            return answer(talk.result())
    except McpRefusedError as error:
        raise _failure(error, look.behaviour) from error


async def _streamed(talk: "_Talk", stream: EventStream) -> web.StreamResponse:
    behaviour = talk.look.behaviour
    try:
        async with aclosing(talk.events()) as events:
            async for event in events:
                await stream.send(event, event["type"])
    except (Failure, EngineError, NotFoundError, ContextOverflowError, McpRefusedError) as error:
        if not stream.is_started:
            raise
        failure = _failure(error, behaviour)
        talk.look.log.server(f"[ERROR] {failure.message}", "error")
        if not (isinstance(error, ContextOverflowError) and behaviour.overflow_in_stream == "silent"):
            details = {"type": failure.type, "message": failure.message, "code": failure.code, "param": failure.param}
            told = {name: value for name, value in details.items() if value is not None}
            await stream.send({"type": "error", "error": told}, "error")
    await stream.send({"type": "chat.end", "result": talk.result()}, "chat.end")
    if not behaviour.closes_after_chat_end:
        await asyncio.Event().wait()  # until the client leaves
    return await stream.end()


def _failure(error: Exception, behaviour: Behaviour) -> Failure:
    """An error as this surface tells it. R: 403, section 8 of the digest; D: the types; U: the other statuses."""
    if not isinstance(error, McpRefusedError):
        return failure_of(error, behaviour)
    server = error.server
    if error.kind == "permission":
        name = f"plugin 'mcp/{server.label}'" if not server.url else f"ephemeral MCP server '{server.label}'"
        usage = "plugin usage" if not server.url else "per-request MCP servers"
        words = (
            f"Permission denied to use {name}. Ensure that the server configuration allows {usage} and, if using an "
            "API token, it has the necessary permissions."
        )
        return Failure(403, words, param="integrations")
    if error.kind == "address":
        return Failure(403, str(error), param="integrations")
    kind = "mcp_connection_error" if server.url else "plugin_connection_error"
    return Failure(404 if error.kind == "unknown" else 424, str(error), type_=kind, param="integrations")


@dataclass(slots=True)
class _Talk:
    """One answer."""

    look: Lookalike
    asked: ChatRequest
    messages: list[Message]
    """The chat; grows with each round."""
    tools: McpSession
    identifier: str = ""
    """Of the instance, as soon as it is known."""
    load_time_s: float | None = None
    items: list[dict[str, Any]] = field(default_factory=list)
    stats: list[Stats] = field(default_factory=list)
    """Of each round."""
    response_id: str | None = None

    async def events(self) -> AsyncGenerator[Told, None]:
        """Everything from `chat.start` to the last round; then the chat is stored.

        Raises:
            NotFoundError: there is no such model.
            EngineError: loading or generating failed.
            ContextOverflowError: the prompt is too long.
            McpRefusedError: a server went away.
        """
        instance = None
        async with aclosing(self._load()) as loading:
            async for one in loading:
                if isinstance(one, Instance):
                    instance = one
                else:
                    yield one
        assert instance is not None
        self.asked.check(instance.model)
        async with aclosing(self._rounds(instance)) as events:
            async for event in events:
                yield event
        if self.asked.store:
            self.response_id = self.look.remember(self.messages)

    async def _load(self) -> AsyncGenerator[Told | Instance, None]:
        """The events of a load if there is one; then the instance."""
        catalog, asked = self.look.catalog, self.asked
        former = catalog.instance(asked.model, "llm")
        if (
            self.look.behaviour.context_length_reloads
            and former is not None
            and not former.in_line
            and asked.context_length not in (None, former.loaded.context_length)
        ):
            await catalog.unload(former.identifier)
        told: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()
        getting = asyncio.create_task(
            catalog.get(
                asked.model,
                context_length=asked.context_length,
                on_load=lambda identifier, progress: told.put_nowait((identifier, progress)),
            )
        )
        getting.add_done_callback(lambda _: told.put_nowait(None))
        try:
            last = -1.0
            while (news := await told.get()) is not None:
                self.identifier, progress = news
                about = {"model_instance_id": self.identifier}
                if last < 0:
                    yield {"type": "chat.start"} | about
                    yield {"type": "model_load.start"} | about
                if progress > last:  # the start may be told twice
                    yield {"type": "model_load.progress"} | about | {"progress": progress}
                last = max(last, progress)
            instance, self.load_time_s = await getting
        finally:
            if not getting.done():  # the client has gone
                getting.cancel()
                await asyncio.wait({getting})
        self.identifier = instance.identifier
        about = {"model_instance_id": self.identifier}
        if self.load_time_s is not None:
            yield {"type": "model_load.end"} | about | {"load_time_seconds": self.load_time_s}
        elif self.look.behaviour.overflow_in_stream != "status":
            yield {"type": "chat.start"} | about
        yield instance

    async def _rounds(self, instance: Instance) -> AsyncGenerator[Told, None]:
        """Predict, call the tools that were asked for, and predict again."""
        is_begun = self.load_time_s is not None or self.look.behaviour.overflow_in_stream != "status"
        for _ in range(_MOST_ROUNDS):
            ask = Ask(
                messages=tuple(self.messages),
                tools=self.tools.openai_tools(),
                layer=self.asked.layer,
                overflow=self.look.behaviour.overflow,
                is_streamed=self.asked.is_streamed,
            )
            part = Round(self.tools, self.items)
            async with aclosing(self.look.predict(instance, ask).events()) as events:
                async for event in events:
                    if not is_begun:
                        is_begun = True
                        yield {"type": "chat.start", "model_instance_id": self.identifier}
                    for told in part.take(event):
                        yield told
                    if isinstance(event, Done):
                        self.stats.append(event.stats)
            for call in part.calls:
                if call.item is not None:
                    call.item["output"], _ = await self.tools.call(call.name, call.arguments)
                    yield call.item | {"type": "tool_call.success"}
            self.messages += part.messages()
            if not part.calls or self.stats[-1].stop_reason not in ("toolCalls", "eosFound"):
                return
        self.look.log.server(f"Stopped after {_MOST_ROUNDS} rounds of tool calls", "warn", model=self.identifier)

    def result(self) -> dict[str, Any]:
        """The whole answer, or what there is of it."""
        result: dict[str, Any] = {
            "model_instance_id": self.identifier,
            "output": [item for item in self.items if item.get("output", "") is not None],
            "stats": self._stats(),
        }
        return result if self.response_id is None else result | {"response_id": self.response_id}

    def _stats(self) -> dict[str, Any]:
        """Where nothing was generated, zeros. U."""
        rounds = self.stats
        predicted, seconds = sum(one.predicted_tokens for one in rounds), sum(one.total_s for one in rounds)
        stats: dict[str, Any] = {
            "input_tokens": rounds[-1].prompt_tokens if rounds else 0,
            "total_output_tokens": predicted,
            "reasoning_output_tokens": sum(one.reasoning_tokens for one in rounds),
            "tokens_per_second": predicted / seconds if seconds else 0,
            "time_to_first_token_seconds": (rounds[0].time_to_first_token_s or 0) if rounds else 0,
        }
        return stats if self.load_time_s is None else stats | {"model_load_time_seconds": self.load_time_s}


FAMILY = "REST v1"
ROUTES = (Route("POST", "/api/v1/chat", chat, object_form, since="0.4.0"),)
