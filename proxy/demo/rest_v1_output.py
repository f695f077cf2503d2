"""What /api/v1/chat tells of a model's output: the events of its stream, and the items of its answer.

Events: D, streaming-events.md; items: D, chat.md. U: white space alone is no message, and a call of a tool that is not
there has no `tool_call.start`, whose `provider_info` it could not have.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.demo import output_parser as out
from proxy.demo.engine import Progress
from proxy.demo.mcp_tools import BadToolCallError, McpSession
from proxy.demo.prediction import Done, Event, Started

Told = dict[str, Any]
"""An event's data."""


@dataclass(slots=True)
class ToolCall:
    """A call that the model made in this round."""

    id: str
    name: str
    arguments: dict[str, Any]
    item: dict[str, Any] | None
    """Of the answer; gets its `output` when the tool was called. None: it may not be called, see `refusal`."""
    refusal: str = ""


@dataclass(slots=True)
class Round:
    """One prediction's output, as it comes."""

    tools: McpSession
    items: list[dict[str, Any]]
    """Of the whole answer; grows."""
    calls: list[ToolCall] = field(default_factory=list)
    text: str = ""
    """What was said besides calls and reasoning."""
    _open: str = ""
    """`message` or `reasoning`, while one is open."""
    _blank: str = ""
    """White space that may be the start of a message."""
    _is_prompt_processed: bool = False
    _named: out.ToolCallName | None = None
    """The call that is being written, once its name is known."""

    def take(self, event: Event) -> Iterator[Told]:
        """The events that it makes."""
        match event:
            case Started():
                yield {"type": "prompt_processing.start"}
            case Progress():
                yield from self._progress(event)
            case Done():
                yield from self._end_of_prompt()
                yield from self._close()
            case out.Text():
                yield from self._end_of_prompt()
                yield from self._text(event)
            case _:
                yield from self._end_of_prompt()
                yield from self._tool_call(event)

    def _progress(self, event: Progress) -> Iterator[Told]:
        share = event.processed / event.total if event.total else 1.0
        yield {"type": "prompt_processing.progress", "progress": share}
        if event.processed >= event.total:
            yield from self._end_of_prompt()

    def _end_of_prompt(self) -> Iterator[Told]:
        if not self._is_prompt_processed:
            self._is_prompt_processed = True
            yield {"type": "prompt_processing.end"}

    def _text(self, event: out.Text) -> Iterator[Told]:
        if event.reasoning == "none":
            yield from self._message(event.content)
        elif event.reasoning == "reasoningStartTag":
            yield from self._begin("reasoning")
        elif event.reasoning == "reasoningEndTag":
            yield from self._close()
        elif event.content:
            yield from self._begin("reasoning")
            yield from self._delta(event.content)

    def _message(self, text: str) -> Iterator[Told]:
        self.text += text
        if self._open != "message":
            self._blank += text
            if not self._blank.strip():
                return
            text = self._blank
            yield from self._begin("message")
        if text:
            yield from self._delta(text)

    def _begin(self, kind: str) -> Iterator[Told]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            self.items.append({"type": kind, "content": ""})
            yield {"type": f"{kind}.start"}

    def _delta(self, text: str) -> Iterator[Told]:
        self.items[-1]["content"] += text
        yield {"type": f"{self._open}.delta", "content": text}

    def _close(self) -> Iterator[Told]:
        self._blank = ""
        if self._open:
            kind, self._open = self._open, ""
            yield {"type": f"{kind}.end"}

    def _tool_call(self, event: Event) -> Iterator[Told]:
        match event:
            case out.ToolCallStart():
                self._named = None
                yield from self._close()
            case out.ToolCallName(name=name):
                self._named = event
                if name in self.tools.tools:
                    provider = self.tools.tools[name].server.provider_info
                    yield {"type": "tool_call.start", "tool": name, "provider_info": provider}
            case out.ToolCallEnd():
                yield from self._called(event)
            case out.ToolCallFailed():
                if self._named is not None:
                    yield from self._refused(self._named.id, self._named.name, {}, event.error)
                else:
                    yield from self._message(event.raw)
            case _:  # arguments are told when they are complete: R, tracker#1881, silence meanwhile
                pass

    def _called(self, event: out.ToolCallEnd) -> Iterator[Told]:
        try:
            tool = self.tools.check(event.name, event.arguments)
        except BadToolCallError as error:
            yield from self._refused(event.id, event.name, event.arguments, str(error))
            return
        call = {"tool": event.name, "arguments": event.arguments}
        provider = {"provider_info": tool.server.provider_info}
        item = {"type": "tool_call"} | call | {"output": None} | provider
        self.items.append(item)
        self.calls.append(ToolCall(event.id, event.name, event.arguments, item))
        yield {"type": "tool_call.arguments"} | call | provider

    def _refused(self, id_: str, name: str, arguments: dict[str, Any], reason: str) -> Iterator[Told]:
        """A call that cannot be made; the model is told so, too."""
        metadata: dict[str, Any] = {"type": "invalid_name", "tool_name": name}
        if name in self.tools.tools:
            provider = self.tools.tools[name].server.provider_info
            metadata = metadata | {"type": "invalid_arguments", "arguments": arguments, "provider_info": provider}
        else:
            reason = f"Cannot find tool with name {name}."
        self.items.append({"type": "invalid_tool_call", "reason": reason, "metadata": metadata})
        self.calls.append(ToolCall(id_, name, arguments, None, reason))
        yield {"type": "tool_call.failure", "reason": reason, "metadata": metadata}

    def messages(self) -> list[dict[str, Any]]:
        """The round as the chat goes on with it: what was said and called, then each tool's word."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls
        ]
        said: dict[str, Any] = {"role": "assistant", "content": self.text}
        if not calls:
            return [said]
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "name": call.name,
                "content": call.item["output"] if call.item is not None else json.dumps({"error": call.refusal}),
            }
            for call in self.calls
        ]
        return [said | {"tool_calls": calls}, *results]
