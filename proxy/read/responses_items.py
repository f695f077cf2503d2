"""Items of OpenAI's Responses, in inputs and in outputs: which messages and parts they are.

Facts (lmstudio-api.md 2.7, 8; OpenAI's reference where LM Studio's documentation says nothing)
-----------------------------------------------------------------------------------------------
* An input is a text or items. An item without `type` that has a `role` is a message.
* What one answer was made of comes back as several items: reasoning, text, calls. Items of the assistant that follow
  each other are one message here, as in other dialects, so that an answer that is sent again is the same message.
* A function call has an `id` of its own and a `call_id`, which joins it with its output.
* `mcp_call` holds the call and its result, for the server makes it itself; `mcp_list_tools` is a list of tools that
  were offered, and no part of what was said.
"""

from collections.abc import Callable
from dataclasses import dataclass

from proxy.meaning import Json, Message, Part, PartKind, Tool
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json
from proxy.read.openai_fields import tool_of
from proxy.read.openai_messages import data_part, part_of, parts_of

_MEDIA = (PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE)
_COMMON = ("id", "status", "phase", "caller", "namespace", "created_by")
_KEPT_WHOLE = frozenset(
    (
        *("file_search_call", "web_search_call", "computer_call", "image_generation_call", "code_interpreter_call"),
        *("local_shell_call", "shell_call", "apply_patch_call", "tool_search_call", "mcp_approval_response"),
        *("item_reference", "additional_tools", "compaction", "compaction_trigger", "configuration_update", "program"),
    )
)
"""Items that OpenAI documents, each with fields of its own."""
LIST_TOOLS = "mcp_list_tools"
_MAX_SHOWN = 200


@dataclass(slots=True)
class _Turn:
    """A message on its way."""

    role: str
    parts: list[Part]
    path: str | None = None
    items: int = 1

    def message(self) -> Message:
        is_plain = self.items == len(self.parts) == 1 and self.parts[0].kind is PartKind.TEXT
        return Message(self.role, tuple(self.parts), path=self.path if is_plain else None)


def read_input(call: Call, body: Fields) -> None:
    """`input`."""
    value = body.data.get("input")
    if not isinstance(value, list):
        body.known("input")
        if isinstance(value, str):  # Codex loads a model by an empty one
            call.messages.append(Message("user", tuple(parts_of(value)), path="input" if value else None))
        elif value is not None:
            body.wrong("input", "text or an array")
            call.messages.append(Message("unknown", tuple(parts_of(value))))
        return
    turns: list[_Turn] = []
    for index, item in enumerate(body.elements("input")):
        if not isinstance(item, Fields):
            turns.append(_Turn("unknown", [part_of(item)]))
            continue
        if kind_of(item) == LIST_TOOLS:
            call.tools += tools_of(item)
            continue
        tell_unknown(call, item)
        role, parts = _role_of(item), parts_of_item(item)
        if role == "assistant" and turns and turns[-1].role == role:
            turns[-1].parts += parts
            turns[-1].items += 1
        else:
            turns.append(_Turn(role, list(parts), text_path(item, f"input[{index}]")))
    call.messages += [turn.message() for turn in turns]


def kind_of(item: Fields) -> str:
    """An item's type."""
    item.known("type")
    kind = item.data.get("type")
    return kind if isinstance(kind, str) else "message" if kind is None and "role" in item else "unknown"


def tell_unknown(call: Call, item: Fields) -> None:
    """A problem for an item of a type that is not documented."""
    kind = kind_of(item)
    if kind not in _KINDS and kind not in _KEPT_WHOLE and kind != LIST_TOOLS and not kind.endswith("_output"):
        call.problem("unknown_item", kind[:_MAX_SHOWN])


def parts_of_item(item: Fields) -> tuple[Part, ...]:
    """What an item says; one that is not known is kept as its JSON."""
    kind = kind_of(item)
    make = _KINDS.get(kind)
    if make is None and not kind.endswith("_output"):
        item.known_all()  # it is kept whole
        return (Part(PartKind.OTHER, encode_json(item.data)),)
    item.known(*_COMMON)
    return make(item) if make is not None else _output(item)


def text_path(item: Fields, path: str) -> str | None:
    """Where the text of a message stands that has but one; `path` is the item's."""
    content = item.data.get("content")
    if isinstance(content, str):
        return f"{path}.content"
    is_one = isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict)
    return f"{path}.content[0].text" if is_one else None


def known_list(item: Fields) -> None:
    """An item of the type `LIST_TOOLS` is known."""
    item.known("server_label", "error", "tools", *_COMMON)


def tools_of(item: Fields) -> list[Tool]:
    """The tools that an MCP server has, of an item of that type."""
    known_list(item)
    return [tool_of(tool, "mcp") for tool in item.array("tools") if isinstance(tool, dict)]


def _role_of(item: Fields) -> str:
    kind = kind_of(item)
    if kind == "message":
        return item.text("role") or "unknown"
    if kind.endswith("_output"):
        return "tool"
    return "assistant" if kind in _KINDS or kind.endswith("_call") else "unknown"


# --- kinds of items ---------------------------------------------------------------------------------------------------


def _message(item: Fields) -> tuple[Part, ...]:
    item.known("role")
    return tuple(parts_of(item.raw("content")))


def _reasoning(item: Fields) -> tuple[Part, ...]:
    texts = [*_texts(item.array("content")), *_texts(item.array("summary"))]
    encrypted = item.text("encrypted_content")
    if encrypted and not texts:
        return (data_part(PartKind.REASONING, encrypted, None),)
    return tuple(Part(PartKind.REASONING, text) for text in texts)


def _texts(entries: list[Json]) -> list[str]:
    texts = [entry.get("text") for entry in entries if isinstance(entry, dict)]
    return [text for text in texts if isinstance(text, str) and text]


def _function_call(item: Fields) -> tuple[Part, ...]:
    return (_call_part(item, "arguments", item.text("call_id")),)


def _custom_call(item: Fields) -> tuple[Part, ...]:
    return (_call_part(item, "input", item.text("call_id")),)


def _mcp_call(item: Fields) -> tuple[Part, ...]:
    call = _call_part(item, "arguments", item.text("id"))
    item.known("server_label", "approval_request_id")
    output, error = item.raw("output"), item.raw("error")
    result = output if output is not None else error
    if result is None:
        return (call,)
    return call, Part(PartKind.TOOL_RESULT, text_or_json(result), call.name, call.id)


def _call_part(item: Fields, name: str, call_id: str | None) -> Part:
    return Part(PartKind.TOOL_CALL, text_or_json(item.raw(name)), item.text("name"), call_id or item.text("id"))


def _output(item: Fields) -> tuple[Part, ...]:
    """What a tool gave: a text, or parts, images among them."""
    parts = parts_of(item.raw("output"))
    text = "\n".join(part.text for part in parts if part.kind not in _MEDIA)
    item.known("acknowledged_safety_checks", "max_output_length")
    result = Part(PartKind.TOOL_RESULT, text, item.text("name"), item.text("call_id") or item.text("id"))
    return result, *(part for part in parts if part.kind in _MEDIA)


def text_or_json(value: Json) -> str:
    """Text as it is, anything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else encode_json(value)


_KINDS: dict[str, Callable[[Fields], tuple[Part, ...]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "mcp_call": _mcp_call,
    "mcp_approval_request": _mcp_call,
}
