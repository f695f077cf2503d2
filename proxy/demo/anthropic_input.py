"""Requests of POST /v1/messages: content blocks as messages, tools, and the refusals.

Fields: D, messages.md (model, max_tokens, messages, system, tools, tool_choice, stream); the others, and all words of
refusals: U, Anthropic's.
"""

import json
from dataclasses import dataclass
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Message
from proxy.demo.http import Failure
from proxy.demo.parameters import ENABLE_THINKING, REASONING_BUDGET, Layer, layer_of

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(slots=True)
class AnthropicInput:
    """One request, understood."""

    model: str
    messages: list[Message]
    """The system prompt first."""
    tools: list[dict[str, Any]]
    """In OpenAI's nested form, as templates take them."""
    tool_choice: str
    layer: Layer
    is_streamed: bool
    wants_thinking: bool
    """The request asks for it."""


def read_request(body: dict[str, Any], behaviour: Behaviour) -> AnthropicInput:
    """The request of that body.

    Raises:
        Failure: something is missing, of the wrong type, or not offered.
        BadParameterError: a parameter is of the wrong type.
    """
    for name, kind, word in (("model", str, "string"), ("stream", bool, "boolean"), ("thinking", dict, "dictionary")):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise _refusal(f"{name}: Input should be a valid {word}")
    if body.get("max_tokens") is None:
        raise _refusal("max_tokens: Field required")
    if not isinstance(body.get("messages"), list):
        raise _refusal("messages: Field required" if body.get("messages") is None else "messages: not a list")
    system = _system(body.get("system"))
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for at, one in enumerate(body["messages"]):
        messages += _message(one, f"messages.{at}", behaviour)
    if not body["messages"]:
        raise _refusal("messages: at least one message is required")
    tools = _tools(body.get("tools"))
    return AnthropicInput(
        model=body.get("model") or "",
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice"), tools),
        layer=layer_of(body, "anthropic") | _thinking(body.get("thinking")),
        is_streamed=bool(body.get("stream")),
        wants_thinking=(body.get("thinking") or {}).get("type") in ("enabled", "adaptive"),
    )


def _refusal(message: str) -> Failure:
    return Failure(400, message)


def _thinking(value: dict[str, Any] | None) -> Layer:
    """`{"type": "enabled", "budget_tokens"}`, `adaptive` or `disabled`, as a layer. U: that it reaches the model."""
    if value is None:
        return {}
    layer: Layer = {ENABLE_THINKING: value.get("type") != "disabled"}
    budget = value.get("budget_tokens")
    if budget is None:
        return layer
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise _refusal("thinking.budget_tokens: Input should be a valid integer")
    return layer | {REASONING_BUDGET: {"checked": True, "value": budget}}


def _system(value: Any) -> str:
    """A string, or text blocks."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise _refusal("system: Input should be a valid string or a list of text blocks")
    return "\n\n".join(_text_of(block, f"system.{at}") for at, block in enumerate(value))


def _text_of(block: Any, where: str) -> str:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        raise _refusal(f"{where}: Input should be a valid text block")
    return str(block["text"])


def _message(one: Any, where: str, behaviour: Behaviour) -> list[Message]:
    """A message of the request as those of a template: results of tools are messages of their own."""
    role = one.get("role") if isinstance(one, dict) else None
    roles = ("user", "assistant", "system") if behaviour.anthropic_system_role else ("user", "assistant")
    if not isinstance(role, str) or role not in roles:
        raise _refusal(f"{where}.role: Input should be {' or '.join(repr(name) for name in roles)}. Got {role!r}")
    content = one.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise _refusal(f"{where}.content: Input should be a valid string or a list of content blocks")
    blocks = _Blocks(role)
    for at, block in enumerate(content):
        blocks.add(block, f"{where}.content.{at}")
    return blocks.messages()


class _Blocks:
    """The blocks of one message."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._texts: list[str] = []
        self._images: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._results: list[Message] = []

    def add(self, block: Any, where: str) -> None:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            self._texts.append(_text_of(block, where))
        elif kind == "image" and self._role == "user":
            self._images.append(_image(block.get("source"), where))
        elif kind == "tool_use" and self._role == "assistant":
            self._calls.append(_call(block, where))
        elif kind == "tool_result" and self._role == "user":
            self._results.append(_result(block, where))
        elif kind not in ("thinking", "redacted_thinking"):  # those are taken, and not shown to the model again: U
            raise _refusal(f"{where}: Input tag {kind!r} is not expected in a message of the role {self._role!r}")

    def messages(self) -> list[Message]:
        """Results first, for they answer the message before."""
        message: Message = {"role": self._role, "content": "\n".join(self._texts)}
        if self._images:
            message["images"] = self._images
        if self._calls:
            message["tool_calls"] = self._calls
        return self._results + ([message] if self._texts or len(message) > 2 or not self._results else [])


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    call_id, name, arguments = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(call_id, str) or not isinstance(name, str) or not isinstance(arguments, dict):
        raise _refusal(f"{where}: a tool_use block has a string 'id', a string 'name' and an object 'input'")
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


def _result(block: dict[str, Any], where: str) -> Message:
    call_id, content = block.get("tool_use_id"), block.get("content", "")
    if not isinstance(call_id, str):
        raise _refusal(f"{where}.tool_use_id: Field required")
    message: Message = {"role": "tool", "tool_call_id": call_id}
    if isinstance(content, str):
        return message | {"content": content}
    if not isinstance(content, list):
        raise _refusal(f"{where}.content: Input should be a valid string or a list of content blocks")
    texts, images = [], []
    for at, part in enumerate(content):
        if isinstance(part, dict) and part.get("type") == "image":
            images.append(_image(part.get("source"), f"{where}.content.{at}"))
        else:
            texts.append(_text_of(part, f"{where}.content.{at}"))
    return message | {"content": "\n".join(texts)} | ({"images": images} if images else {})


def _image(source: Any, where: str) -> str:
    """As a data URL; addresses are not fetched. U: on the other surfaces R, tracker#1120."""
    kind, data = (source.get("media_type"), source.get("data")) if isinstance(source, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(data, str) or source.get("type") != "base64":
        raise _refusal(f"{where}.source: Input should be base64 data with its media_type")
    return f"data:{kind};base64,{data}"


def _tools(value: Any) -> list[dict[str, Any]]:
    if value is not None and not isinstance(value, list):
        raise _refusal("tools: Input should be a valid list")
    tools = []
    for at, tool in enumerate(value or ()):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise _refusal(f"tools.{at}.name: Field required")
        if not isinstance(tool.get("input_schema"), dict):
            raise _refusal(f"tools.{at}.input_schema: Field required")  # Anthropic's own server tools have none
        function = {"name": tool["name"], "parameters": tool["input_schema"]}
        if isinstance(tool.get("description"), str):
            function = {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]}
        tools.append({"type": "function", "function": function})
    return tools


def _tool_choice(value: Any, tools: list[dict[str, Any]]) -> str:
    """`{"type": "auto" | "any" | "none"}`, or `{"type": "tool", "name"}`."""
    if value is None:
        return "auto"
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in _CHOICES:
        return _CHOICES[kind]
    names = [tool["function"]["name"] for tool in tools]
    if kind == "tool" and value.get("name") in names:
        return str(value["name"])
    if kind == "tool":
        raise _refusal("tool_choice.name: there is no such tool in 'tools'")
    raise _refusal("tool_choice: Input tag should be one of 'auto', 'any', 'tool', 'none'")
