"""POST /v1/messages, whole and streamed.

Request: anthropic_input. Names of the stream's events: D, messages.md; the form of everything else: U, Anthropic's, for
no capture of LM Studio's is known. Stop reasons: U, section 6.3 of the digest. Routes know no query, so `?beta=true`
is the same; /v1/messages/count_tokens is not there and gets the answer of unknown routes (R, tracker#2055).
"""

import base64
import hashlib
import secrets
import string
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.demo import output_parser as out
from proxy.demo.anthropic_input import AnthropicInput, read_request
from proxy.demo.catalog import Instance
from proxy.demo.engine import EngineError, Progress
from proxy.demo.http import EventStream, Failure, Request, Route, answer, anthropic_form, failure_of
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.prediction import Ask, Done, Started
from proxy.demo.stats import Stats

_LETTERS = string.ascii_lowercase + string.digits
_STOP_REASONS = {
    "eosFound": "end_turn",
    "stopStringFound": "stop_sequence",
    "toolCalls": "tool_use",
    "maxPredictedTokensReached": "max_tokens",
    "contextLengthReached": "max_tokens",
}

Frame = dict[str, Any]
"""One event; its name is its `type`."""


async def message(look: Lookalike, request: Request) -> web.StreamResponse:
    """Answer a request."""
    wanted = read_request(request.json(), look.behaviour)
    instance, _ = await look.catalog.get(wanted.model)
    if not instance.model.vision and any(one.get("images") for one in wanted.messages):
        words = f"Model {instance.identifier} does not support images. Please use a model that does."  # U: the words
        raise Failure(400, words)
    run = _Run(look, instance, wanted)
    if wanted.is_streamed:
        return await _streamed(run, EventStream(request))
    async with aclosing(run.frames()) as frames:
        async for _ in frames:
            pass
    look.log.server("Generated prediction: " + run.id, model=instance.identifier)
    return answer(run.message(run.stats))


async def _streamed(run: "_Run", stream: EventStream) -> web.StreamResponse:
    look = run.look
    look.log.server("Streaming response...", model=run.instance.identifier)
    try:
        async with aclosing(run.frames()) as frames:
            async for frame in frames:
                await stream.send(frame, frame["type"])
    except (EngineError, ContextOverflowError) as error:
        is_overflow = isinstance(error, ContextOverflowError)
        if not stream.is_started and (not is_overflow or look.behaviour.overflow_in_stream == "status"):
            raise
        if is_overflow and look.behaviour.overflow_in_stream == "silent":
            return await stream.end()
        await stream.send(anthropic_form(failure_of(error, look.behaviour)), "error")
    look.log.server("Finished streaming response", model=run.instance.identifier)
    return await stream.end()


@dataclass(slots=True)
class _Run:
    """One answer."""

    look: Lookalike
    instance: Instance
    wanted: AnthropicInput
    id: str = field(default_factory=lambda: "msg_" + "".join(secrets.choice(_LETTERS) for _ in range(22)))
    stats: Stats | None = None
    blocks: "_Blocks" = field(init=False)

    def __post_init__(self) -> None:
        has_thinking = self.wanted.wants_thinking or self.look.behaviour.anthropic_thinking == "always"
        self.blocks = _Blocks(has_thinking=has_thinking)

    def message(self, stats: Stats | None, *, prompt_tokens: int = 0) -> dict[str, Any]:
        """The whole message; without statistics, the empty one that a stream starts with."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.instance.identifier,
            "content": self.blocks.content if stats else [],
            **_stop(stats),
            "usage": {
                "input_tokens": stats.prompt_tokens if stats else prompt_tokens,
                "output_tokens": stats.predicted_tokens if stats else 0,
            },
        }

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Everything in order."""
        behaviour, wanted = self.look.behaviour, self.wanted
        ask = Ask(
            messages=wanted.messages,
            tools=wanted.tools,
            tool_choice=wanted.tool_choice,
            layer=wanted.layer,
            overflow=behaviour.overflow,
            is_streamed=wanted.is_streamed,
        )
        prompt_tokens, is_told = 0, False
        async with aclosing(self.look.predict(self.instance, ask).events()) as events:
            async for event in events:
                if isinstance(event, Started) and behaviour.anthropic_input_tokens == "start":
                    prompt_tokens = event.prompt_tokens
                waits = Started | Progress if behaviour.head_at_first_token else Progress
                if not is_told and not isinstance(event, waits):
                    is_told = True
                    yield {"type": "message_start", "message": self.message(None, prompt_tokens=prompt_tokens)}
                if isinstance(event, Done):
                    self.stats = event.stats
                for frame in self.blocks.feed(event):
                    yield frame
                    if frame["type"] == "content_block_start" and not frame["index"] and behaviour.anthropic_ping:
                        yield {"type": "ping"}  # where Anthropic sends the first one
        for frame in self._end():
            yield frame

    def _end(self) -> Iterator[Frame]:
        assert self.stats is not None  # a prediction ends with Done or raises
        yield from self.blocks.close()
        usage = {"output_tokens": self.stats.predicted_tokens}
        if self.look.behaviour.anthropic_input_tokens == "delta":
            usage = {"input_tokens": self.stats.prompt_tokens} | usage
        yield {"type": "message_delta", "delta": _stop(self.stats), "usage": usage}
        yield {"type": "message_stop"}


def _stop(stats: Stats | None) -> dict[str, Any]:
    if stats is None:
        return {"stop_reason": None, "stop_sequence": None}
    return {"stop_reason": _STOP_REASONS.get(stats.stop_reason, "end_turn"), "stop_sequence": stats.stop_string}


class _Blocks:
    """Makes content blocks of a prediction's events; every method gives the frames that this makes."""

    def __init__(self, *, has_thinking: bool) -> None:
        self.content: list[dict[str, Any]] = []
        """Blocks of the whole message."""
        self._has_thinking = has_thinking
        self._next = 0
        self._is_open = False

    def feed(self, event: Any) -> Iterator[Frame]:
        match event:
            case out.Text(content=text, reasoning="none") if text:
                yield from self._text({"type": "text", "text": ""}, text)
            case out.Text(content=text, reasoning="reasoning") if text and self._has_thinking:
                yield from self._text({"type": "thinking", "thinking": "", "signature": ""}, text)
            case out.ToolCallName(id=call_id, name=name):
                yield from self._begin({"type": "tool_use", "id": f"toolu_{call_id}", "name": name, "input": {}})
            case out.ToolCallArguments(content=text):
                yield self._delta("input_json_delta", "partial_json", text)
            case out.ToolCallEnd(arguments=arguments):
                self.content[-1]["input"] = arguments
                yield from self.close()
            case out.ToolCallFailed(raw=raw):
                failed = self._is_open and self.content[-1]["type"] == "tool_use"
                yield from self.close()
                if failed:
                    self.content.pop()  # it was no call after all; a stream has told of it by now
                yield from self._text({"type": "text", "text": ""}, raw)
            case _:
                pass

    def close(self) -> Iterator[Frame]:
        """End the block that is open."""
        if not self._is_open:
            return
        block = self.content[-1]
        if block["type"] == "thinking":
            block["signature"] = _signature(block["thinking"])
            yield self._delta("signature_delta", "signature", block["signature"])
        self._is_open = False
        yield {"type": "content_block_stop", "index": self._next - 1}

    def _text(self, empty: dict[str, Any], text: str) -> Iterator[Frame]:
        kind = empty["type"]
        if not self._is_open or self.content[-1]["type"] != kind:
            yield from self._begin(empty)
        self.content[-1][kind] += text
        yield self._delta(f"{kind}_delta", kind, text)

    def _begin(self, block: dict[str, Any]) -> Iterator[Frame]:
        yield from self.close()
        self.content.append(block)
        self._is_open = True
        self._next += 1
        yield {"type": "content_block_start", "index": self._next - 1, "content_block": dict(block)}

    def _delta(self, kind: str, member: str, text: str) -> Frame:
        return {"type": "content_block_delta", "index": self._next - 1, "delta": {"type": kind, member: text}}


def _signature(thinking: str) -> str:
    """Opaque to clients, who send it back with the block; here a digest. U."""
    return base64.b64encode(hashlib.sha256(thinking.encode(errors="replace")).digest()).decode()


FAMILY = "Anthropic"
ROUTES = (Route("POST", "/v1/messages", message, anthropic_form, since="0.4.1"),)
