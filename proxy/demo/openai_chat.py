"""POST /v1/chat/completions, whole and streamed; /api/v0 adds to it.

Request: D, chat-completions.md and tools.mdx. Answer: D, tools.mdx, with `stats` from captures (R, tracker#601).
Reasoning: D, api-changelog.md 0.3.9 and 0.3.23. Stream: see `openai_answer`; tool calls in it: D, tools.mdx.
"""

from typing import Any

from aiohttp import web

from proxy.demo import output_parser as out
from proxy.demo.catalog import Instance
from proxy.demo.http import Request, Route
from proxy.demo.lookalike import Lookalike
from proxy.demo.openai_answer import Additions, Talk, V1Additions, finish_reason, tool_call_of
from proxy.demo.openai_request import (
    check_images,
    flag,
    includes_usage,
    messages_of,
    request_layer,
    text_field,
    tool_choice_of,
    tools_of,
    ttl_of,
)
from proxy.demo.prediction import Ask, Done, Event


async def chat(look: Lookalike, request: Request, additions: Additions | None = None) -> web.StreamResponse:
    """Answer a chat request; `additions` are another surface's."""
    body = request.json()
    messages = messages_of(body, look.behaviour)
    ask = Ask(
        messages=messages,
        tools=tools_of(body),
        tool_choice=tool_choice_of(body),
        layer=request_layer(body, look),
        preset=text_field(body, "preset"),
        overflow=look.behaviour.overflow,
        is_streamed=flag(body, "stream"),
    )
    usage = includes_usage(body)
    instance, _ = await look.catalog.get(text_field(body, "model"), ttl_s=ttl_of(body))
    check_images(messages, instance)
    return await _Chat(look, instance, additions or V1Additions()).answer(request, ask, includes_usage=usage)


class _Chat(Talk):
    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, look: Lookalike, instance: Instance, additions: Additions) -> None:
        super().__init__(look, instance, additions)
        self._calls = 0
        """Tool calls that the stream has begun."""

    def fingerprint(self) -> dict[str, Any]:
        return {"system_fingerprint": self.instance.identifier}

    def choice(self, done: Done, written: str) -> dict[str, Any]:
        field = self.look.behaviour.reasoning_field
        message: dict[str, Any] = {"role": "assistant", "content": written if field == "content" else done.text}
        if done.reasoning and field != "content":
            message[field] = done.reasoning
        if done.tool_calls:
            message["tool_calls"] = [tool_call_of(call) for call in done.tool_calls]
            if not message["content"]:
                del message["content"]
        return {"index": 0, "logprobs": None, "finish_reason": finish_reason(done), "message": message}

    def news(self, event: Event) -> dict[str, Any] | None:
        delta = self._delta(event)
        return _choice(delta, None) if delta else None

    def _delta(self, event: Event) -> dict[str, Any]:
        field = self.look.behaviour.reasoning_field
        if isinstance(event, out.Text) and event.content:
            if event.reasoning == "none" or field == "content":
                return {"role": "assistant", "content": event.content}
            return {"role": "assistant", field: event.content} if event.reasoning == "reasoning" else {}
        if isinstance(event, out.ToolCallName):
            call = {"index": self._calls, "id": event.id, "type": "function"}
            self._calls += 1
            return {
                "role": "assistant",
                "tool_calls": [call | {"function": {"name": event.name, "arguments": ""}}],
            }
        if isinstance(event, out.ToolCallArguments):
            return {"tool_calls": [{"index": self._calls - 1, "function": {"arguments": event.content}}]}
        if isinstance(event, out.ToolCallFailed):
            return {"role": "assistant", "content": event.raw}
        return {}

    def last(self, finish: str) -> dict[str, Any]:
        return _choice({}, finish)


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


FAMILY = "OpenAI"
ROUTES = (Route("POST", "/v1/chat/completions", chat),)
