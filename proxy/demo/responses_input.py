"""Requests of POST /v1/responses: items as messages, tools, and the refusals.

Fields: D, responses.md; those that follow OpenAI without being documented: U. Words and codes of refusals: R,
tracker#1576 (`text.format`), #1383 and #1812 (types of tools), #2200 (`input`), #1188 (`previous_response_id`); the
same pattern for other fields: U.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Message
from proxy.demo.http import Failure
from proxy.demo.parameters import STRUCTURED, Layer, effort_layer, layer_of

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""`developer` is Codex's; U that it is taken as `system`."""
_CHOICES = ("none", "auto", "required")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


@dataclass(slots=True)
class ResponsesInput:
    """One request, understood."""

    model: str
    messages: list[Message]
    """Its own, without those of the response before it and without `instructions`."""
    instructions: str
    """Not part of the stored chat: D of OpenAI, U of LM Studio."""
    previous_id: str | None
    tools: list[dict[str, Any]]
    """Functions, in the nested form."""
    mcp: list[dict[str, Any]]
    """Tools of the type `mcp`, as they came."""
    tool_choice: str
    layer: Layer
    preset: str | None
    ttl_s: float | None
    is_streamed: bool
    is_stored: bool


def refusal(message: str, code: str, param: str, status: int = 400) -> Failure:
    """A refusal as this endpoint words it."""
    return Failure(status, message, type_="invalid_request_error", code=code, param=param)


def read_request(body: dict[str, Any], behaviour: Behaviour) -> ResponsesInput:
    """The request of that body.

    Raises:
        Failure: something is missing, of the wrong type, or not offered.
        BadParameterError: a parameter is of the wrong type.
    """
    previous = _optional(body, "previous_response_id", str, "string")
    functions, mcp = _tools(body.get("tools"), behaviour)
    effort = (_optional(body, "reasoning", dict, "object") or {}).get("effort")
    if effort is not None and effort not in _EFFORTS:
        words = f"Invalid value: '{effort}'. Supported values are: {', '.join(_EFFORTS)}"
        raise refusal(words, "invalid_enum_value", "reasoning.effort")
    ttl = _optional(body, "ttl", int | float, "number")
    return ResponsesInput(
        model=_optional(body, "model", str, "string") or "",
        messages=_messages(body.get("input"), behaviour),
        instructions=_optional(body, "instructions", str, "string") or "",
        previous_id=previous,
        tools=functions,
        mcp=mcp,
        tool_choice=_tool_choice(body.get("tool_choice"), functions),
        layer=layer_of(body, "responses") | effort_layer(effort) | _structured(body, behaviour),
        preset=_optional(body, "preset", str, "string"),
        ttl_s=ttl,
        is_streamed=bool(_optional(body, "stream", bool, "boolean")),
        is_stored=_optional(body, "store", bool, "boolean") is not False,
    )


def _optional(body: dict[str, Any], name: str, kind: Any, word: str) -> Any:
    """A member of one type, or None."""
    value = body.get(name)
    if value is not None and (not isinstance(value, kind) or (kind == int | float and isinstance(value, bool))):
        raise refusal(f"Expected {word}, received {_word(value)}", "invalid_type", name)
    return value


def _word(value: Any) -> str:
    words = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
    return words.get(type(value), "null")


# --- input ---


@dataclass(slots=True)
class _Items:
    """Items on their way to messages: an assistant's text and its calls are one message."""

    behaviour: Behaviour
    messages: list[Message] = field(default_factory=list)
    _is_open: bool = False
    """The last message is an assistant's that takes calls."""

    def add(self, item: Any) -> None:
        if not isinstance(item, dict):
            raise _bad_input()
        match item.get("type", "message"):
            case "message":
                self._message(item)
            case "function_call":
                self._call(item)
            case "function_call_output":
                self._output(item)
            case "reasoning":
                pass  # taken, and not shown to the model again: U
            case _:
                raise _bad_input()

    def _message(self, item: dict[str, Any]) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise _bad_input()
        text, images = _content(item.get("content"))
        message: Message = {"role": _ROLES[role], "content": text}
        if images:
            message["images"] = images
        self.messages.append(message)
        self._is_open = role == "assistant"

    def _call(self, item: dict[str, Any]) -> None:
        call_id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments")
        if not isinstance(call_id, str) or not isinstance(name, str) or not isinstance(arguments, str):
            raise _bad_input()
        try:
            is_object = isinstance(json.loads(arguments or "{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise refusal("Invalid 'arguments' of a function call: not a JSON object", "invalid_string", "input")
        if not self._is_open:
            self.messages.append({"role": "assistant", "content": ""})
            self._is_open = True
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def _output(self, item: dict[str, Any]) -> None:
        call_id, output = item.get("call_id"), item.get("output")
        # R, tracker#2200: 0.4.20 refused parts here, as Codex sends them for images; U in which version that ended
        is_taken = isinstance(output, str) or (isinstance(output, list) and self.behaviour.has("0.4.21"))
        if not isinstance(call_id, str) or not is_taken:
            raise _bad_input()
        text, images = _content(output)
        message: Message = {"role": "tool", "tool_call_id": call_id, "content": text}
        if images:
            message["images"] = images
        self.messages.append(message)
        self._is_open = False


def _messages(value: Any, behaviour: Behaviour) -> list[Message]:
    if value is None:
        raise refusal("Required", "missing_required_parameter", "input")
    if isinstance(value, str):  # "" too: Codex loads a model that way
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise _bad_input()
    items = _Items(behaviour)
    for item in value:
        items.add(item)
    return items.messages


def _bad_input() -> Failure:
    return refusal("Invalid type for 'input'.", "invalid_union", "input")


def _content(content: Any) -> tuple[str, list[str]]:
    """Text and images of a message or of a function's output."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise _bad_input()
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif kind == "input_image":
            images.append(_image(part.get("image_url")))
        else:
            raise _bad_input()
    return "".join(texts), images


def _image(url: Any) -> str:
    """R: tracker#1120, addresses are not fetched; the words are those of /v1/chat/completions (R, tracker#1752)."""
    if not isinstance(url, str) or not url.startswith("data:image/") or ";base64," not in url:
        raise refusal("'url' field must be a base64 encoded image.", "invalid_string", "input")
    return url


# --- tools and text.format ---


def _tools(value: Any, behaviour: Behaviour) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Functions in the nested form, and the tools of type `mcp`."""
    if value is not None and not isinstance(value, list):
        raise refusal(f"Expected array, received {_word(value)}", "invalid_type", "tools")
    functions, mcp = [], []
    for at, tool in enumerate(value or ()):
        if not isinstance(tool, dict):
            raise refusal(f"Expected object, received {_word(tool)}", "invalid_type", f"tools.{at}")
        if tool.get("type") == "function":
            functions.append(_function(tool, at))
        elif tool.get("type") == "mcp":
            mcp.append(tool)
        elif behaviour.has("0.4.11") and isinstance(tool.get("type"), str):
            raise refusal("Invalid", "invalid_string", f"tools.{at}.type")  # R: #1810 and #1812, 0.4.11 and 0.4.12
        else:
            raise refusal(
                "Invalid discriminator value. Expected 'function' | 'mcp'",
                "invalid_union_discriminator",
                f"tools.{at}.type",
            )  # R: #1383, 0.3.39 and 0.4.0
    return functions, mcp


def _function(tool: dict[str, Any], at: int) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str):
        raise refusal("Required", "missing_required_parameter", f"tools.{at}.name")
    function = {"name": tool["name"]}
    for name, kind, word in (("description", str, "string"), ("parameters", dict, "object")):
        value = tool.get(name)
        if value is not None and not isinstance(value, kind):
            raise refusal(f"Expected {word}, received {_word(value)}", "invalid_type", f"tools.{at}.{name}")
        if value is not None:
            function[name] = value
    return {"type": "function", "function": function}


def _tool_choice(value: Any, functions: list[dict[str, Any]]) -> str:
    """`none`, `auto`, `required` or the name of a function; the object form: U."""
    if value is None:
        return "auto"
    if isinstance(value, str) and value in _CHOICES:
        return value
    names = [tool["function"]["name"] for tool in functions]
    if isinstance(value, dict) and value.get("type") == "function" and value.get("name") in names:
        return str(value["name"])
    raise refusal("Invalid type for 'tool_choice'.", "invalid_union", "tool_choice")


def _structured(body: dict[str, Any], behaviour: Behaviour) -> Layer:
    """`text.format` as a layer."""
    text = _optional(body, "text", dict, "object")
    if text is None:
        return {}
    form = text.get("format")
    if form is None:
        raise refusal("Required", "missing_required_parameter", "text.format")  # Codex sends `verbosity` alone
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in ("text", "json_schema"):
        raise refusal(
            "Invalid discriminator value. Expected 'text' | 'json_schema'",
            "invalid_union_discriminator",
            "text.format.type",
        )
    schema = form.get("schema")
    if kind == "json_schema" and not isinstance(schema, dict):
        raise refusal("Required", "missing_required_parameter", "text.format.schema")
    if kind == "text" or not behaviour.has("0.4.0"):  # R: tracker#1396, 0.3.39 did not heed it; U since when it does
        return {}
    return {STRUCTURED: {"type": "json", "jsonSchema": schema}}
