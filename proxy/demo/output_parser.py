"""What a model's text means: reasoning between tags, tool calls between markers, and the rest.

Markers: D, tools.mdx: models that were not trained for tools write
`[TOOL_REQUEST]{"name":..,"arguments":..}[END_TOOL_REQUEST]`; `<tool_call>` is what many trained ones write. Reasoning
tags: S, schema default of llm.prediction.reasoning.parsing.
"""

import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

TOOL_MARKERS = (("[TOOL_REQUEST]", "[END_TOOL_REQUEST]"), ("<tool_call>", "</tool_call>"))
_CALL_START = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*')


@dataclass(frozen=True, slots=True)
class Text:
    """Text, as it is generated."""

    content: str
    tokens: int
    """Tokens since the event before."""
    is_drafted: bool = field(default=False, kw_only=True)
    """Some of these tokens are a draft model's."""
    reasoning: str = "none"
    """`none`, `reasoning`, `reasoningStartTag` or `reasoningEndTag`, as in the SDK's fragments."""


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins."""

    id: str
    """Nine digits. D: tools.mdx."""


@dataclass(frozen=True, slots=True)
class ToolCallName:
    """Its name is known."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A piece of its arguments' JSON, as the model wrote it."""

    content: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """It is complete."""

    id: str
    name: str
    arguments: dict[str, Any]
    arguments_json: str
    """As the model wrote them."""
    raw: str


@dataclass(frozen=True, slots=True)
class ToolCallFailed:
    """It is none after all."""

    error: str
    raw: str


Event = Text | ToolCallStart | ToolCallName | ToolCallArguments | ToolCallEnd | ToolCallFailed


class OutputParser:
    """Reads text in any pieces; text that may be the start of a marker is held back."""

    def __init__(self, *, reasoning: tuple[str, str] | None, has_tools: bool, is_inside_call: bool = False) -> None:
        """`is_inside_call`: the prompt ends with a tool call's first marker."""
        self._reasoning = reasoning
        self._markers = TOOL_MARKERS if has_tools else ()
        self._buffer = ""
        self._tokens = 0
        self._is_drafted = False
        self._state = "text"
        self._end = ""
        self._call = _Call()
        self._events: list[Event] = []
        if is_inside_call:
            self._begin_call(TOOL_MARKERS[0][1])

    def feed(self, text: str, tokens: int, *, is_drafted: bool = False) -> list[Event]:
        """The events that this piece makes known."""
        self._buffer += text
        self._tokens += tokens
        self._is_drafted |= is_drafted
        while self._step():
            pass
        return self._taken()

    def end(self) -> list[Event]:
        """The events of what is held back: the text is over."""
        if self._state == "call":
            self._call.raw += self._buffer
            self._buffer = ""
            self._end_call()
        elif self._buffer or self._tokens:
            self._put(self._buffer)
            self._buffer = ""
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _step(self) -> bool:
        """Deal with the buffer up to the next marker; False if nothing more can be told."""
        if self._state == "call":
            return self._step_call()
        markers = self._next_markers()
        found = [(at, marker) for marker in markers if (at := self._buffer.find(marker)) >= 0]
        if not found:
            held = max((_overlap(self._buffer, marker) for marker in markers), default=0)
            ready, self._buffer = self._buffer[: len(self._buffer) - held], self._buffer[len(self._buffer) - held :]
            if ready:
                self._put(ready)
            return False
        at, marker = min(found)
        if at:
            self._put(self._buffer[:at])
        self._buffer = self._buffer[at + len(marker) :]
        if self._reasoning and marker == self._reasoning[0] and self._state == "text":
            self._put(marker, "reasoningStartTag")
            self._state = "reasoning"
        elif self._state == "reasoning":
            self._put(marker, "reasoningEndTag")
            self._state = "text"
        else:
            self._begin_call(dict(self._markers)[marker])
        return True

    def _next_markers(self) -> list[str]:
        if self._state == "reasoning":
            assert self._reasoning
            return [self._reasoning[1]]
        return [start for start, _ in self._markers] + ([self._reasoning[0]] if self._reasoning else [])

    def _put(self, text: str, reasoning: str = "") -> None:
        tokens, self._tokens = self._tokens, 0
        drafted, self._is_drafted = self._is_drafted, False
        kind = reasoning or ("reasoning" if self._state == "reasoning" else "none")
        self._events.append(Text(text, tokens, kind, is_drafted=drafted))

    def _begin_call(self, end: str) -> None:
        self._state, self._end, self._call = "call", end, _Call()
        self._events.append(ToolCallStart(self._call.id))

    def _step_call(self) -> bool:
        at = self._buffer.find(self._end)
        held = 0 if at >= 0 else _overlap(self._buffer, self._end)
        until = at if at >= 0 else len(self._buffer) - held
        self._call.raw += self._buffer[:until]
        self._buffer = self._buffer[until + (len(self._end) if at >= 0 else 0) :]
        self._events += self._call.news()
        if at < 0:
            return False
        self._end_call()
        return True

    def _end_call(self) -> None:
        self._state = "text"
        self._tokens, self._is_drafted = 0, False  # the call's tokens are in no text
        self._events += self._call.end()


class _Call:
    """A tool call on its way."""

    def __init__(self) -> None:
        self.id = str(random.randrange(100_000_000, 1_000_000_000))
        self.raw = ""
        self._told = -1  # offset of the arguments that are told; -1: not even the name

    def news(self) -> list[Event]:
        """What can be told by now; the last brace is the call's own, not the arguments'."""
        events: list[Event] = []
        start = _CALL_START.match(self.raw)
        if start is None:
            return []
        if self._told < 0:
            events.append(ToolCallName(self.id, json.loads(start[1])))
        self._told = max(self._told, start.end())  # white space before the arguments may come after the name was told
        ready = self.raw.rstrip()
        ready = ready[: -1 if ready.endswith("}") else None]
        if len(ready) > self._told:
            events.append(ToolCallArguments(ready[self._told :]))
            self._told = len(ready)
        return events

    def end(self) -> list[Event]:
        """The whole call, or why it is none."""
        events = self.news()
        try:
            call = json.loads(self.raw)
            name = call["name"]
            arguments = call.get("arguments", call.get("parameters", {}))
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise TypeError("name must be a string, arguments an object")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return [*events, ToolCallFailed(f"Failed to parse tool call: {error}", self.raw)]
        start = _CALL_START.match(self.raw)
        written = self.raw.rstrip()[start.end() : -1].strip() if start else json.dumps(arguments)
        if not start:
            events += [ToolCallName(self.id, name), ToolCallArguments(written)]
        return [*events, ToolCallEnd(self.id, name, arguments, written, self.raw)]


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of `text` may begin the marker."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0
