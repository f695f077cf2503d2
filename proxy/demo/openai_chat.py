"""POST /v1/chat/completions, whole and streamed; /api/v0 adds to it.

Request: D, chat-completions.md and tools.mdx. Answer: D, tools.mdx, with `stats` from captures (R, tracker#601).
Stream: R, a real capture of 0.4.21; usage only with `stream_options.include_usage` (R, tracker#547); errors after the
head: R, goose#11318.
"""

import secrets
import string
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from proxy.demo import output_parser as out
from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Instance
from proxy.demo.engine import EngineError, Message
from proxy.demo.http import EventStream, Failure, Request, Route, answer, failure_of
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.parameters import STRUCTURED, Layer, layer_of
from proxy.demo.prediction import Ask, Done, Prediction, Started

_LETTERS = string.ascii_lowercase + string.digits
FINISH_REASONS = {"toolCalls": "tool_calls", "maxPredictedTokensReached": "length", "contextLengthReached": "length"}
"""D and R, section 6.3 of the digest; everything else is `stop`."""
_ROLES = ("user", "assistant", "system", "tool")
_CHOICES = ("none", "auto", "required")


class Additions(Protocol):
    """What /api/v0 adds to /v1."""

    def of(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Members of the whole answer."""
        ...

    def of_stream(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        """Members of a stream's last chunk; {}: none."""
        ...


class _V1:
    """An empty `stats`, and nothing in streams."""

    def of(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        return {"stats": {}}

    def of_stream(self, look: Lookalike, instance: Instance, done: Done) -> dict[str, Any]:
        return {}


async def chat(look: Lookalike, request: Request, additions: Additions | None = None) -> web.StreamResponse:
    """Answer a chat request; `additions` are what another surface puts on top."""
    body = request.json()
    messages = messages_of(body, look.behaviour)
    ask = Ask(
        messages=messages,
        tools=body.get("tools") or (),
        tool_choice=_tool_choice(body),
        layer=layer_of(body, "openai") | structured_layer(body.get("response_format")),
        preset=body.get("preset"),
        overflow=look.behaviour.overflow,
        is_streamed=bool(body.get("stream")),
    )
    instance, _ = await look.catalog.get(model_name(body), ttl_s=body.get("ttl"))
    check_images(messages, instance)
    prediction = look.predict(instance, ask)
    talk = _Talk(look, instance, additions or _V1(), f"chatcmpl-{random_id()}", int(time.time()))
    if not ask.is_streamed:
        return await talk.whole(prediction)
    includes_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return await talk.streamed(prediction, EventStream(request), includes_usage=includes_usage)


def model_name(body: dict[str, Any]) -> str:
    """The request's `model`; "" where it names none."""
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise Failure(400, "'model' must be a string", code="invalid_type", param="model")
    return name or ""


def messages_of(body: dict[str, Any], behaviour: Behaviour) -> list[Message]:
    """The request's messages as templates take them.

    Raises:
        Failure: they are missing or malformed. R: the words, tracker#443 and #669.
    """
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Failure(400, "'messages' field is required", code="missing_required_parameter", param="messages")
    messages = []
    for one in body["messages"]:
        role = one.get("role") if isinstance(one, dict) else None
        if role == "developer" and behaviour.developer_role:
            role = "system"
        if role not in _ROLES:
            raise Failure(
                400,
                "'messages' array must only contain objects with a 'role' field that is in "
                f"[{', '.join(_ROLES)}]. Got '{role}'",
                param="messages",
            )
        text, images = content_of(one.get("content"))
        message: Message = {"role": role, "content": text}
        if images:
            message["images"] = images
        for name in ("tool_calls", "tool_call_id", "name"):
            if one.get(name) is not None:
                message[name] = one[name]
        messages.append(message)
    return messages


def content_of(content: Any) -> tuple[str, list[str]]:
    """A message's text and its images, from a string or from parts."""
    if content is None or isinstance(content, str):
        return content or "", []
    texts, images = [], []
    for part in content if isinstance(content, list) else ():
        if part.get("type") == "text":
            texts.append(part.get("text", ""))
        elif part.get("type") == "image_url":
            images.append(part["image_url"]["url"])
        else:
            raise Failure(400, f"Invalid content part type: '{part.get('type')}'", param="messages")
    return "".join(texts), images


def check_images(messages: Sequence[Message], instance: Instance) -> None:
    """Refuse images for a model that has no eyes. U: the words."""
    if not instance.model.vision and any(message.get("images") for message in messages):
        raise Failure(400, f"Model {instance.identifier} does not support images. Please use a model that does.")


def _tool_choice(body: dict[str, Any]) -> str:
    choice = body.get("tool_choice") or "auto"
    if not isinstance(choice, str) or choice not in _CHOICES:
        kind = "object" if isinstance(choice, dict) else str(choice)
        raise Failure(400, f"Invalid tool_choice type: '{kind}'. Supported string values: {', '.join(_CHOICES)}")
    return choice


def structured_layer(response_format: Any) -> Layer:
    """`response_format` as a layer; R: the refusal of `json_object`."""
    if response_format is None:
        return {}
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in ("json_schema", "text"):
        raise Failure(400, "'response_format.type' must be 'json_schema' or 'text'", param="response_format")
    if kind == "text":
        return {}
    schema = (response_format.get("json_schema") or {}).get("schema") or {}
    return {STRUCTURED: {"type": "json", "jsonSchema": schema}}


def random_id() -> str:
    """22 lower-case letters and digits. R."""
    return "".join(secrets.choice(_LETTERS) for _ in range(22))


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


@dataclass(slots=True)
class _Talk:
    """One answer."""

    look: Lookalike
    instance: Instance
    additions: Additions
    id: str
    created: int

    async def whole(self, prediction: Prediction) -> web.Response:
        done = await done_of(prediction)
        field = self.look.behaviour.reasoning_field
        message: dict[str, Any] = {"role": "assistant", "content": done.text}
        if done.reasoning and field != "content":
            message[field] = done.reasoning
        elif done.reasoning:
            message["content"] = f"<think>{done.reasoning}</think>{done.text}"
        if done.tool_calls:
            message["tool_calls"] = [tool_call_of(call) for call in done.tool_calls]
            if not done.text:
                del message["content"]
        choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason(done), "message": message}
        self.look.log.server("Generated prediction: " + self.id, model=self.instance.identifier)
        return answer(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.instance.identifier,
                "choices": [choice],
                "usage": usage_of(done, self.look.behaviour),
                **self.additions.of(self.look, self.instance, done),
                "system_fingerprint": self.instance.identifier,
            }
        )

    async def streamed(
        self, prediction: Prediction, stream: EventStream, *, includes_usage: bool
    ) -> web.StreamResponse:
        look = self.look
        look.log.server("Streaming response...", model=self.instance.identifier)
        calls = 0
        try:
            async with aclosing(prediction.events()) as events:
                async for event in events:
                    if isinstance(event, Started) and not look.behaviour.head_at_first_token:
                        await stream.start()
                    elif isinstance(event, Done):
                        await self._end(stream, event, includes_usage=includes_usage)
                    elif delta := self._delta(event, calls):
                        calls += isinstance(event, out.ToolCallName)
                        await stream.send(self._chunk(delta))
        except (EngineError, ContextOverflowError) as error:
            await self._fail(stream, error)
        return await stream.end()

    def _delta(self, event: Any, calls: int) -> dict[str, Any]:
        """The `delta` of an event; {} where it has none. `calls` is how many tool calls were begun."""
        field = self.look.behaviour.reasoning_field
        if isinstance(event, out.Text) and event.content:
            if event.reasoning == "none" or field == "content":
                return {"role": "assistant", "content": event.content}
            return {"role": "assistant", field: event.content} if event.reasoning == "reasoning" else {}
        if isinstance(event, out.ToolCallName):
            call = {"index": calls, "id": event.id, "type": "function"}
            return {
                "role": "assistant",
                "tool_calls": [call | {"function": {"name": event.name, "arguments": ""}}],
            }
        if isinstance(event, out.ToolCallArguments):
            return {"tool_calls": [{"index": calls - 1, "function": {"arguments": event.content}}]}
        if isinstance(event, out.ToolCallFailed):
            return {"role": "assistant", "content": event.raw}
        return {}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._frame([choice])

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.instance.identifier,
            "system_fingerprint": self.instance.identifier,
            "choices": choices,
        }

    async def _end(self, stream: EventStream, done: Done, *, includes_usage: bool) -> None:
        look = self.look
        extra = self.additions.of_stream(look, self.instance, done)
        is_apart = look.behaviour.v0_stats == "extra"
        await stream.send(self._chunk({}, finish_reason(done)) | (extra if not is_apart else {}))
        if extra and is_apart:
            await stream.send(self._frame([]) | extra)
        elif includes_usage:
            await stream.send(self._frame([]) | {"usage": usage_of(done, look.behaviour)})
        await stream.send("[DONE]")
        look.log.server("Finished streaming response", model=self.instance.identifier)

    async def _fail(self, stream: EventStream, error: EngineError | ContextOverflowError) -> None:
        """An error after the head was sent, or before it where the switches say so."""
        behaviour = self.look.behaviour
        if not stream.is_started and (
            not isinstance(error, ContextOverflowError) or behaviour.overflow_in_stream == "status"
        ):
            raise error
        if isinstance(error, ContextOverflowError) and behaviour.overflow_in_stream == "silent":
            return
        message = failure_of(error, behaviour).message
        await stream.send({"error": {"message": message}, "message": message}, "error")
        if behaviour.done_after_error:
            await stream.send("[DONE]")


def finish_reason(done: Done) -> str:
    """OpenAI's word for why it ended."""
    return FINISH_REASONS.get(done.stats.stop_reason, "stop")


async def done_of(prediction: Prediction) -> Done:
    """The end of a prediction that nobody watches."""
    async with aclosing(prediction.events()) as events:
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("a prediction ends with Done or raises")


ROUTES = (Route("POST", "/v1/chat/completions", chat),)
