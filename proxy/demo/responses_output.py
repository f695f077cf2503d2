"""The output of one /v1/responses answer: its items, and the events of a stream that tells how they grow.

Items: T, a live 0.3.29 (message, function_call); R, tracker#1188 (reasoning, 0.3.31); `mcp_list_tools` and `mcp_call`:
U, OpenAI's form. Events: D, responses.md for three of them; T, their fields; all others and the order: U, OpenAI's.
"""

import secrets
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.demo import output_parser as out
from proxy.demo.behaviour import Behaviour
from proxy.demo.mcp_tools import McpTool

_LETTERS = string.ascii_lowercase + string.digits

Frame = dict[str, Any]
"""One event without its `sequence_number`; its name is its `type`."""


def item_id(kind: str) -> str:
    """`msg_` and 21 lower-case letters and digits. T."""
    return f"{kind}_" + "".join(secrets.choice(_LETTERS) for _ in range(21))


def _call_id() -> str:
    """`call_` and 16 digits. T."""
    return "call_" + "".join(secrets.choice(string.digits) for _ in range(16))


@dataclass(slots=True)
class Output:
    """Makes items of a prediction's events; every method gives the frames that this makes."""

    behaviour: Behaviour
    mcp_tools: dict[str, McpTool]
    """What the server calls itself; every other tool is the client's."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """Those begun by now; the last one may be open."""
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Items of the tool calls, by the id that the core gave the call."""
    _is_open: bool = False

    def feed(self, event: Any) -> Iterator[Frame]:
        """Take one event of a prediction."""
        match event:
            case out.Text(content=content, reasoning="none") if content:
                yield from self._text("message", content)
            case out.Text(content=content, reasoning="reasoning") if content:
                yield from self._text("reasoning", content)
            case out.ToolCallName():
                yield from self._begin_call(event)
            case out.ToolCallArguments(content=content):
                yield from self._arguments(content)
            case out.ToolCallEnd():
                yield from self._end_call(event)
            case out.ToolCallFailed(raw=raw):
                yield from self.close("incomplete")
                yield from self._text("message", raw)
            case _:
                pass

    def close(self, status: str = "completed") -> Iterator[Frame]:
        """End the item that is open."""
        if not self._is_open:
            return
        self._is_open = False
        item = self.items[-1]
        if "status" in item:
            item["status"] = status
        if item["type"] in ("message", "reasoning"):
            part = item["content"][0]
            name = "output_text" if item["type"] == "message" else "reasoning_text"
            yield self._frame(f"response.{name}.done", text=part["text"], content_index=0)
            yield self._frame("response.content_part.done", part=dict(part), content_index=0)
        yield self._done_item()

    def tools_of(self, label: str, tools: Sequence[McpTool]) -> Iterator[Frame]:
        """The item that tells the tools of an MCP server."""
        shown = [{"name": one.name, "description": one.description, "input_schema": one.input_schema} for one in tools]
        item: dict[str, Any] = {
            "id": item_id("mcpl"),
            "type": "mcp_list_tools",
            "server_label": label,
            "tools": [],
        }
        yield from self._begin(item)
        yield self._frame("response.mcp_list_tools.in_progress")
        item["tools"] = shown
        yield self._frame("response.mcp_list_tools.completed")
        self._is_open = False
        yield self._done_item()

    def result_of(self, item: dict[str, Any], *, output: str | None, error: str | None) -> Iterator[Frame]:
        """What an MCP tool gave, or why it failed."""
        item.update(output=output, error=error, status="completed" if error is None else "failed")
        yield self._frame("response.mcp_call." + item["status"], item=item)
        yield self._done_item(item)

    # --- text ---

    def _text(self, kind: str, content: str) -> Iterator[Frame]:
        if not self._is_open or self.items[-1]["type"] != kind:
            yield from self.close()
            yield from self._begin_text(kind)
        self.items[-1]["content"][0]["text"] += content
        name = "output_text" if kind == "message" else "reasoning_text"
        yield self._frame(f"response.{name}.delta", content_index=0, delta=content)

    def _begin_text(self, kind: str) -> Iterator[Frame]:
        part = {"type": "output_text" if kind == "message" else "reasoning_text", "text": ""}
        item: dict[str, Any] = {"id": item_id("rs"), "type": "reasoning", "summary": [], "content": []}
        if kind == "message":
            item = {
                "id": item_id("msg"),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        yield from self._begin(item)
        item["content"] = [part]
        yield self._frame("response.content_part.added", part=dict(part), content_index=0)

    # --- tool calls ---

    def _begin_call(self, event: out.ToolCallName) -> Iterator[Frame]:
        yield from self.close()
        tool = self.mcp_tools.get(event.name)
        item: dict[str, Any]
        if tool is not None:
            item = {
                "id": item_id("mcp"),
                "type": "mcp_call",
                "server_label": tool.server.label,
                "name": event.name,
                "arguments": "",
                "output": None,
                "error": None,
                "status": "in_progress",
            }
        else:
            item = {
                "id": item_id("fc"),
                "call_id": _call_id(),
                "type": "function_call",
                "name": event.name,
                "arguments": "",
                "status": "in_progress",
            }
        yield from self._begin(item)
        self.calls[event.id] = item
        if tool is not None:
            yield self._frame("response.mcp_call.in_progress")

    def _arguments(self, content: str) -> Iterator[Frame]:
        self.items[-1]["arguments"] += content
        yield self._frame(f"response.{self.items[-1]['type']}_arguments.delta", delta=content)

    def _end_call(self, event: out.ToolCallEnd) -> Iterator[Frame]:
        item = self.items[-1]
        item["arguments"] = event.arguments_json
        yield self._frame(f"response.{item['type']}_arguments.done", arguments=event.arguments_json)
        if item["type"] == "mcp_call":
            self._is_open = False  # it is done when its server has answered
        else:
            yield from self.close()

    # --- frames ---

    def _begin(self, item: dict[str, Any]) -> Iterator[Frame]:
        self.items.append(item)
        self._is_open = True
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": _copy(item)}

    def _done_item(self, item: dict[str, Any] | None = None) -> Frame:
        item = item or self.items[-1]
        return {"type": "response.output_item.done", "output_index": self.items.index(item), "item": _copy(item)}

    def _frame(self, kind: str, *, item: dict[str, Any] | None = None, **members: Any) -> Frame:
        item = item or self.items[-1]
        frame = {"type": kind, "item_id": item["id"], "output_index": self.items.index(item)}
        if "content_index" in members:
            frame["content_index"] = members.pop("content_index")
        return frame | members


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now; it may grow."""
    return item | {"content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)
