"""Answers of /v1/chat/completions and /v1/completions, whole or streamed, and what /api/v0 puts on top of them.

Stream: R, a real capture of 0.4.21; usage only with `stream_options.include_usage` (R, tracker#547); errors after the
head: R, goose#11318; a crash: R, tracker#1620.
"""

import secrets
import string
import time
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web

from proxy.demo import output_parser as out
from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Instance
from proxy.demo.engine import EngineError
from proxy.demo.http import EventStream, Request, answer, failure_of
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.prediction import Ask, Done, Event, Prediction, Started

_LETTERS = string.ascii_lowercase + string.digits
FINISH_REASONS = {"toolCalls": "tool_calls", "maxPredictedTokensReached": "length", "contextLengthReached": "length"}
"""D and R, section 6.3 of the digest; everything else is `stop`."""


class Additions(Protocol):
    """What a surface puts into the answers."""

    has_fingerprint: bool
    """A whole answer of chat/completions ends with `system_fingerprint`."""

    def of(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Members of the whole answer."""
        ...

    def of_stream(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Members of a stream's last chunk; {}: none."""
        ...


class V1Additions:
    """A `stats` that is empty but for a draft model's counters, and nothing in streams. R: tracker#601, #547; D."""

    has_fingerprint = True

    def of(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Members of the whole answer."""
        return {"stats": done.stats.http_draft()}

    def of_stream(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Nothing."""
        return {}


class Talk(ABC):
    """One answer."""

    id_prefix: str
    object: str
    chunk_object: str

    def __init__(self, look: Lookalike, instance: Instance, additions: Additions) -> None:
        """Its id and time are from now."""
        self.look = look
        self.instance = instance
        self.additions = additions
        self.id = f"{self.id_prefix}-{random_id()}"
        self.created = int(time.time())

    @abstractmethod
    def choice(self, done: Done, written: str) -> dict[str, Any]:
        """The choice of a whole answer; `written` is all text that is no tool call, reasoning with its tags."""

    @abstractmethod
    def news(self, event: Event) -> dict[str, Any] | None:
        """The choice of an event's chunk; None: it has none."""

    @abstractmethod
    def last(self, finish: str) -> dict[str, Any]:
        """The choice of the chunk that tells why it ended."""

    def fingerprint(self) -> dict[str, Any]:
        """`system_fingerprint`, where this kind of answer has it."""
        return {}

    async def answer(self, request: Request, ask: Ask, *, includes_usage: bool) -> web.StreamResponse:
        """Predict, and answer."""
        prediction = self.look.predict(self.instance, ask)
        if ask.is_streamed:
            return await self._streamed(prediction, EventStream(request), includes_usage=includes_usage)
        return await self._whole(prediction)

    async def _whole(self, prediction: Prediction) -> web.Response:
        done, written = await _written(prediction)
        body = {
            **self._head(self.object),
            "choices": [self.choice(done, written)],
            "usage": usage_of(done, self.look.behaviour),
            **self.additions.of(self.look, self.instance, done),
            **(self.fingerprint() if self.additions.has_fingerprint else {}),
        }
        response = answer(body)
        self.look.log.server(f"Generated prediction: {response.text}", model=self.instance.identifier)
        return response

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.instance.identifier}

    def _chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        return {**self._head(self.chunk_object), **self.fingerprint(), "choices": list(choices)}

    async def _streamed(
        self, prediction: Prediction, stream: EventStream, *, includes_usage: bool
    ) -> web.StreamResponse:
        look = self.look
        look.log.server("Streaming response...", model=self.instance.identifier)
        try:
            async with aclosing(prediction.events()) as events:
                async for event in events:
                    if isinstance(event, Started) and not look.behaviour.head_at_first_token:
                        await stream.start()
                    elif isinstance(event, Done):
                        await self._end(stream, event, includes_usage=includes_usage)
                    elif choice := self.news(event):
                        await stream.send(self._chunk(choice))
        except (EngineError, ContextOverflowError) as error:
            return await self._fail(stream, error)
        return await stream.end()

    async def _end(self, stream: EventStream, done: Done, *, includes_usage: bool) -> None:
        look = self.look
        extra = self.additions.of_stream(look, self.instance, done)
        is_apart = look.behaviour.v0_stats == "extra"
        await stream.send(self._chunk(self.last(finish_reason(done))) | (extra if not is_apart else {}))
        if extra and is_apart:
            await stream.send(self._chunk() | extra)
        elif includes_usage:
            await stream.send(self._chunk() | {"usage": usage_of(done, look.behaviour)})
        await stream.send("[DONE]")
        look.log.server("Finished streaming response", model=self.instance.identifier)

    async def _fail(self, stream: EventStream, error: EngineError | ContextOverflowError) -> web.StreamResponse:
        """An error after the head was sent, or before it where the switches say so."""
        behaviour = self.look.behaviour
        failure = failure_of(error, behaviour)
        if not stream.is_started and not _is_told_in_stream(error, behaviour):
            raise error
        self.look.log.server(failure.message, "error", model=self.instance.identifier)
        if isinstance(error, ContextOverflowError) and behaviour.overflow_in_stream == "silent":
            return await stream.end()
        if isinstance(error, EngineError) and error.kind == "crashed" and behaviour.crash_in_stream != "event":
            return stream.cut() if behaviour.crash_in_stream == "cut" else await stream.end()
        await stream.send({"error": {"message": failure.message}, "message": failure.message}, "error")
        if behaviour.done_after_error:
            await stream.send("[DONE]")
        return await stream.end()


def _is_told_in_stream(error: EngineError | ContextOverflowError, behaviour: Behaviour) -> bool:
    """Whether a stream tells it although its head is not sent yet."""
    if isinstance(error, ContextOverflowError):
        return behaviour.overflow_in_stream != "status"
    return error.kind == "template" and behaviour.template_error == "render"


async def _written(prediction: Prediction) -> tuple[Done, str]:
    """The end of a prediction that nobody watches, and its text as the model wrote it, without tool calls."""
    written: list[str] = []
    async with aclosing(prediction.events()) as events:
        async for event in events:
            if isinstance(event, Done):
                return event, "".join(written)
            if isinstance(event, out.Text):
                written.append(event.content)
            elif isinstance(event, out.ToolCallFailed):
                written.append(event.raw)
    raise AssertionError("a prediction ends with Done or raises")


async def done_of(prediction: Prediction) -> Done:
    """The end of a prediction that nobody watches."""
    return (await _written(prediction))[0]


def random_id() -> str:
    """22 lower-case letters and digits. R."""
    return "".join(secrets.choice(_LETTERS) for _ in range(22))


def finish_reason(done: Done) -> str:
    """OpenAI's word for why it ended."""
    return FINISH_REASONS.get(done.stats.stop_reason, "stop")


def usage_of(done: Done, behaviour: Behaviour) -> dict[str, Any]:
    """OpenAI's token counts."""
    stats = done.stats
    usage: dict[str, Any] = {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.predicted_tokens,
        "total_tokens": stats.prompt_tokens + stats.predicted_tokens,
    }
    if behaviour.usage_details:
        usage["completion_tokens_details"] = {"reasoning_tokens": stats.reasoning_tokens}
    return usage


def tool_call_of(call: out.ToolCallEnd) -> dict[str, Any]:
    """A whole tool call in OpenAI's form."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
