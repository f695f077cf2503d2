"""POST /v1/responses, whole and streamed, with state and MCP tools.

Request and refusals: responses_input. Answer: T, a live 0.3.29. Stream: responses_output. State: D, responses.md (an
answer can be built on by its id); R, tracker#1188 (404 for an id that is not known). `incomplete` and failures: U.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.demo.catalog import Instance
from proxy.demo.engine import EngineError, Message, Progress
from proxy.demo.http import EventStream, Failure, Request, Route, answer, failure_of
from proxy.demo.lookalike import Lookalike, new_response_id
from proxy.demo.mcp_tools import BadToolCallError, McpRefusedError, McpServer, McpSession
from proxy.demo.output_parser import ToolCallEnd
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.prediction import Ask, Done, Started
from proxy.demo.responses_input import ResponsesInput, read_request, refusal
from proxy.demo.responses_mcp import refused, server_of
from proxy.demo.responses_output import Frame, Output

_INCOMPLETE = ("maxPredictedTokensReached", "contextLengthReached")
_MOST_ROUNDS = 20
"""Calls of the model for one answer that uses MCP tools: without a limit a model could go on for ever. U."""


def responses_form(failure: Failure) -> dict[str, Any]:
    """`{"error": {...}}` with OpenAI's types. R: tracker#1383, #1576, #1812."""
    kind = "invalid_request_error" if failure.type in ("invalid_request", "model_not_found") else failure.type
    error = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return {"error": error}


async def respond(look: Lookalike, request: Request) -> web.StreamResponse:
    """Answer a request."""
    wanted = read_request(request.json(), look.behaviour)
    history = _history(look, wanted.previous_id)
    servers = [server_of(tool, at) for at, tool in enumerate(wanted.mcp)]
    try:
        async with McpSession(look, servers) as session:
            instance, _ = await look.catalog.get(wanted.model, ttl_s=wanted.ttl_s)
            _check_images(history + wanted.messages, instance)
            run = _Run(look, instance, wanted, history, servers, session)
            if wanted.is_streamed:
                return await _streamed(run, EventStream(request))
            return await _whole(run)
    except McpRefusedError as error:
        raise refused(error, look.behaviour) from error


async def _whole(run: "_Run") -> web.Response:
    async with aclosing(run.frames()) as frames:
        async for _ in frames:
            pass
    run.look.log.server("Generated prediction: " + run.id, model=run.instance.identifier)
    return answer(run.response())


async def _streamed(run: "_Run", stream: EventStream) -> web.StreamResponse:
    look, number = run.look, 0
    look.log.server("Streaming response...", model=run.instance.identifier)
    try:
        async with aclosing(run.frames()) as frames:
            async for frame in frames:
                if not run.is_hidden(frame):
                    await stream.send(frame | {"sequence_number": number}, frame["type"])
                    number += 1
    except (EngineError, ContextOverflowError) as error:
        if not stream.is_started and (
            not isinstance(error, ContextOverflowError) or look.behaviour.overflow_in_stream == "status"
        ):
            raise
        if isinstance(error, ContextOverflowError) and look.behaviour.overflow_in_stream == "silent":
            return await stream.end()
        for frame in run.failed(failure_of(error, look.behaviour), is_begun=stream.is_started):
            await stream.send(frame | {"sequence_number": number}, frame["type"])
            number += 1
    if look.behaviour.done_after_responses:
        await stream.send("[DONE]")
    look.log.server("Finished streaming response", model=run.instance.identifier)
    return await stream.end()


@dataclass(slots=True)
class _Run:
    """One answer: the model's rounds, with calls of MCP tools between them."""

    look: Lookalike
    instance: Instance
    wanted: ResponsesInput
    history: list[Message]
    servers: list[McpServer]
    session: McpSession
    id: str = field(default_factory=new_response_id)
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    error: dict[str, Any] | None = None
    stats: list[Any] = field(default_factory=list)
    output: Output = field(init=False)

    def __post_init__(self) -> None:
        self.output = Output(self.look.behaviour, self.session.tools)

    def response(self) -> dict[str, Any]:
        """As it is by now."""
        found: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": self.status,
            "model": self.instance.identifier,
            "output": self.output.items if self.status != "in_progress" else [],
            "usage": self._usage() if self.stats else None,
            "previous_response_id": self.wanted.previous_id,
        }
        if self.status == "incomplete":
            found["incomplete_details"] = {"reason": "max_output_tokens"}
        if self.error is not None:
            found["error"] = self.error
        return found

    def _usage(self) -> dict[str, Any]:
        """Of all rounds together."""
        prompt = sum(one.prompt_tokens for one in self.stats)
        predicted = sum(one.predicted_tokens for one in self.stats)
        return {
            "input_tokens": prompt,
            "output_tokens": predicted,
            "total_tokens": prompt + predicted,
            "output_tokens_details": {"reasoning_tokens": sum(one.reasoning_tokens for one in self.stats)},
        }

    def is_hidden(self, frame: Frame) -> bool:
        """Whether a frame tells of reasoning that, by the switch, only its end tells of."""
        if self.look.behaviour.responses_reasoning == "deltas" or "output_index" not in frame:
            return False
        item = self.output.items[frame["output_index"]]
        return bool(item["type"] == "reasoning" and frame["type"] != "response.reasoning_text.done")

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Everything in order; the last one has the whole response."""
        chat = [*self.history, *self.wanted.messages]
        is_cut = False
        for number in range(_MOST_ROUNDS):
            done: Done | None = None
            async with aclosing(self._round(chat, is_first=not number)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        done = event
                    else:
                        yield event
            if done is None:
                raise EngineError("The model has crashed without additional information.", kind="crashed")
            self.stats.append(done.stats)
            is_cut = done.stats.stop_reason in _INCOMPLETE
            for frame in self.output.close("incomplete" if is_cut else "completed"):
                yield frame
            chat.append(self._said(done))
            mine = [call for call in done.tool_calls if self.output.calls[call.id]["type"] == "mcp_call"]
            for call in mine:
                async with aclosing(self._call(call, chat)) as frames:
                    async for frame in frames:
                        yield frame
            if is_cut or not mine or len(mine) < len(done.tool_calls):
                break
        self.status = "incomplete" if is_cut else "completed"
        if self.wanted.is_stored:
            self.look.remember(chat, self.id)
        yield {"type": f"response.{self.status}", "response": self.response()}

    async def _round(self, chat: list[Message], *, is_first: bool) -> AsyncGenerator[Frame | Done, None]:
        """One call of the model."""
        wanted = self.wanted
        system: list[Message] = [{"role": "system", "content": wanted.instructions}] if wanted.instructions else []
        ask = Ask(
            messages=[*system, *chat],
            tools=[*wanted.tools, *self.session.openai_tools()],
            tool_choice=wanted.tool_choice if is_first else "auto",
            layer=wanted.layer,
            preset=wanted.preset,
            overflow=self.look.behaviour.overflow,
            is_streamed=wanted.is_streamed,
        )
        is_told = not is_first
        async with aclosing(self.look.predict(self.instance, ask).events()) as events:
            async for event in events:
                waits = Started | Progress if self.look.behaviour.head_at_first_token else Progress
                if not is_told and not isinstance(event, waits):
                    is_told = True
                    for frame in self._begin():
                        yield frame
                if isinstance(event, Done):
                    yield event
                for frame in self.output.feed(event):
                    yield frame

    def _begin(self) -> list[Frame]:
        """What comes before the model's own output."""
        opened = [{"type": kind, "response": self.response()} for kind in ("response.created", "response.in_progress")]
        listed = [
            frame
            for server in self.servers
            for frame in self.output.tools_of(server.label, self.session.tools_of(server))
        ]
        return opened + listed

    def _said(self, done: Done) -> Message:
        """A round of the model, as a message of the chat."""
        message: Message = {"role": "assistant", "content": done.text}
        calls = []
        for call in done.tool_calls:
            item = self.output.calls[call.id]
            function = {"name": call.name, "arguments": call.arguments_json}
            calls.append({"id": item.get("call_id", item["id"]), "type": "function", "function": function})
        if calls:
            message["tool_calls"] = calls
        return message

    async def _call(self, call: ToolCallEnd, chat: list[Message]) -> AsyncGenerator[Frame, None]:
        """Call an MCP tool; the model is told of errors too."""
        item = self.output.calls[call.id]
        output: str | None = None
        error: str | None = None
        try:
            output, _ = await self.session.call(call.name, call.arguments)
        except (BadToolCallError, McpRefusedError) as failure:
            error = str(failure)
        chat.append({"role": "tool", "tool_call_id": item["id"], "content": output if output is not None else error})
        for frame in self.output.result_of(item, output=output, error=error):
            yield frame

    def failed(self, failure: Failure, *, is_begun: bool) -> list[Frame]:
        """The end of a stream in which something failed: `response.failed`, or an `error` event. Both U."""
        if self.look.behaviour.responses_failure == "error":
            return [{"type": "error", "code": failure.code, "message": failure.message, "param": failure.param}]
        opened = [] if is_begun else [{"type": "response.created", "response": self.response()}]
        ended = list(self.output.close("incomplete"))
        self.status = "failed"
        self.error = {"code": failure.code or "server_error", "message": failure.message}
        return [*opened, *ended, {"type": "response.failed", "response": self.response()}]


def _history(look: Lookalike, previous_id: str | None) -> list[Message]:
    """The stored chat that a request goes on with."""
    if previous_id is None:
        return []
    if previous_id not in look.chats:
        words = f"Previous response with id '{previous_id}' not found."  # U: the words
        raise refusal(words, "previous_response_not_found", "previous_response_id", 404)
    return list(look.chats[previous_id])


def _check_images(messages: list[Message], instance: Instance) -> None:
    if not instance.model.vision and any(message.get("images") for message in messages):
        words = f"Model {instance.identifier} does not support images. Please use a model that does."  # U: the words
        raise refusal(words, "invalid_value", "input")


FAMILY = "OpenAI"
ROUTES = (Route("POST", "/v1/responses", respond, responses_form, since="0.3.29"),)
