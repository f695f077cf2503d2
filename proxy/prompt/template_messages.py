"""A call's messages in the forms that take them: OpenAI's for templates, LM Studio's history for its SDK."""

import json
from collections.abc import Sequence
from typing import Any

from proxy.meaning import Json, Message, Part, PartKind, Tool

_TEXTS = (PartKind.TEXT, PartKind.REFUSAL, PartKind.TOOL_RESULT)
_FILES = (PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE)


def template_messages(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """Messages as templates take them; arguments of tool calls are objects, where they are JSON."""
    return [one for message in messages for one in _template_message(message)]


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Json]]:
    """Tools as templates take them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({"description": tool.description} if tool.description is not None else {}),
                **({"parameters": _parsed(tool.schema)} if tool.schema is not None else {}),
            },
        }
        for tool in tools
    ]


def sdk_history(messages: Sequence[Message]) -> dict[str, Json]:
    """Messages as LM Studio's SDK sends them; pictures are left out, as they would have to be uploaded."""
    return {"messages": [{"role": _sdk_role(one), "content": list(_sdk_parts(one))} for one in messages]}


def _template_message(message: Message) -> list[dict[str, Json]]:
    results = [part for part in message.parts if part.kind is PartKind.TOOL_RESULT]
    if len(results) > 1 and len(results) == len(message.parts):  # Anthropic sends several in one message
        return [{"role": "tool", "content": part.text, **_ids(part)} for part in results]
    made: dict[str, Json] = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        made["name"] = message.name
    reasoning = "".join(part.text for part in message.parts if part.kind is PartKind.REASONING)
    if reasoning:
        made["reasoning_content"] = reasoning
    calls = [_call(part) for part in message.parts if part.kind is PartKind.TOOL_CALL]
    if calls:
        made["tool_calls"] = calls
    if message.role == "tool" and results:
        made.update(_ids(results[0]))
    return [made]


def _content(message: Message) -> Json:
    if any(part.kind in _FILES for part in message.parts):
        return [
            {"type": part.kind.value} if part.kind in _FILES else {"type": "text", "text": part.text}
            for part in message.parts
            if part.kind in (*_FILES, *_TEXTS)
        ]
    return "\n".join(part.text for part in message.parts if part.kind in _TEXTS)


def _call(part: Part) -> dict[str, Json]:
    called = {"type": "function", "function": {"name": part.name or "", "arguments": _parsed(part.text)}}
    return {"id": part.id, **called} if part.id is not None else called


def _ids(part: Part) -> dict[str, Json]:
    told = {"tool_call_id": part.id, "name": part.name}
    return {name: value for name, value in told.items() if value is not None}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply: a client may send anything
        return text


def _sdk_role(message: Message) -> str:
    if any(part.kind is PartKind.TOOL_RESULT for part in message.parts):
        return "tool"
    return "system" if message.role == "developer" else message.role


def _sdk_parts(message: Message) -> "list[dict[str, Json]]":
    made: list[dict[str, Json]] = []
    for part in message.parts:
        if part.kind is PartKind.TOOL_CALL:
            request = {"type": "function", "name": part.name or "", "arguments": _parsed(part.text)}
            made.append({"type": "toolCallRequest", "toolCallRequest": request | ({"id": part.id} if part.id else {})})
        elif part.kind is PartKind.TOOL_RESULT:
            ids = {"toolCallId": part.id, "name": part.name}
            told = {name: value for name, value in ids.items() if value is not None}
            made.append({"type": "toolCallResult", "content": part.text, **told})
        elif part.kind in (PartKind.TEXT, PartKind.REFUSAL):
            made.append({"type": "text", "text": part.text})
    return made
